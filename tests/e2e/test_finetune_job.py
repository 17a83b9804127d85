"""An update of a model in a registry, as a newcomer runs it, and interrupted."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from eco_ray import training
from eco_ray.core.standing import Spent, Standing
from eco_ray.core.units import Nature
from eco_ray.models.cnn import SmallCNN
from eco_ray.models.datasets import load_images
from eco_ray.models.registry import About
from eco_ray.models.weights import load_model, save_model
from eco_ray.train import session
from eco_ray.train.standing import write_standing

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.fixture
def job(monkeypatch, tmp_path):
    """The script, and a registry with a version of an untrained model."""
    for name in [n for n in os.environ if n.startswith("ECO_RAY_") or n == "RAY_JOB_CONFIG_JSON_ENV_VAR"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ECO_RAY_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.syspath_prepend(JOBS)
    import torch

    torch.manual_seed(0)
    save_model(SmallCNN(), tmp_path / "first.safetensors", {})
    registry = training.open_registry()
    registry.push(tmp_path / "first.safetensors", "mnist", About(metrics={"accuracy": 0.1}))
    registry.promote("mnist:1", "prod")
    data = load_images("mnist")  # a part of it, for haste
    few = {"train_images": data.train_pixels[:1280], "train_labels": data.train_labels[:1280]}
    test = {"test_images": data.test_pixels[::10], "test_labels": data.test_labels[::10]}
    save_file(
        {name: (one[:, 0] if one.ndim == 4 else one).contiguous() for name, one in {**few, **test}.items()},
        tmp_path / "few.safetensors",
    )
    monkeypatch.chdir(tmp_path)
    return importlib.import_module("finetune_mnist")


def run(job, monkeypatch, *arguments):
    monkeypatch.setattr(
        sys, "argv", ["finetune_mnist.py", "mnist@prod", "--data", "few.safetensors", "--epochs", "1", *arguments]
    )
    job.main()


def as_attempt(monkeypatch, tmp_path, number):
    run_dir = tmp_path / f"run-{number}"
    run_dir.mkdir(exist_ok=True)
    places = {"ECO_RAY_JOB_ID": "j", "ECO_RAY_CHECKPOINT_DIR": tmp_path / "ckpt", "ECO_RAY_RUN_DIR": run_dir}
    for name, value in {**places, "ECO_RAY_ATTEMPT": number}.items():
        monkeypatch.setenv(name, str(value))
    return run_dir


def test_an_update_is_pushed_with_its_joules_and_lineage(job, monkeypatch, tmp_path, capsys):
    run(job, monkeypatch, "--learning-rate", "2e-3")
    made = training.open_registry().manifest("mnist:2")
    assert made.lineage == {"parent": "mnist:1", "update": "fine-tune"}
    assert made.metrics["accuracy"] > made.metrics["accuracy_before"] + 0.1
    assert made.training is not None
    assert made.training.energy_j > 0
    assert "its share by CPU time" in made.training.source
    assert made.training.operational_g is None  # nobody told an intensity
    assert made.signature is not None
    training.open_registry().pull("mnist:2", tmp_path / "second.safetensors")
    assert load_model(tmp_path / "second.safetensors")[1]["parent"] == "mnist:1"
    # a short update from there is a difference
    training.open_registry().promote("mnist:2", "prod")
    run(job, monkeypatch, "--learning-rate", "1e-6")
    third = training.open_registry().manifest("mnist:3")
    assert third.lineage["parent"] == "mnist:2"
    assert third.blob.base is not None
    assert third.blob.size < 0.9 * made.blob.size
    assert "mnist:3 is kept as a delta" in capsys.readouterr().out


def test_an_interrupted_update_goes_on_with_its_version_and_is_pushed_once(job, monkeypatch, tmp_path):
    monkeypatch.setattr("eco_ray.train.pausing.PAUSE_CHECK_S", 0)
    (as_attempt(monkeypatch, tmp_path, 1) / "pause").touch()
    with pytest.raises(session.Paused):
        run(job, monkeypatch)
    registry = training.open_registry()
    # meanwhile the alias means another version
    save_model(SmallCNN(), tmp_path / "other.safetensors", {})
    registry.push(tmp_path / "other.safetensors", "mnist")
    registry.promote("mnist:2", "prod")
    write_standing(as_attempt(monkeypatch, tmp_path, 2), Standing(0, 1, Spent(9.0, 0.4, Nature.MODELLED, "ledger, t")))
    run(job, monkeypatch)
    made = registry.manifest("mnist:3")
    assert made.lineage == {"parent": "mnist:1", "update": "fine-tune", "job": "j"}
    assert (made.training.energy_j, made.training.operational_g) == (9.0, 0.4)
    as_attempt(monkeypatch, tmp_path, 3)  # killed after the push, before it had ended
    run(job, monkeypatch)
    assert registry.versions("mnist") == [1, 2, 3]


def test_it_ends_when_a_point_costs_too_much(job, monkeypatch, tmp_path, capsys):
    run_dir = as_attempt(monkeypatch, tmp_path, 1)
    emitted = iter([0.0, 100.0, 200.0, 300.0])

    def told():
        spent = Spent(1.0, next(emitted), Nature.MODELLED, "ledger, test")
        return Standing(0.0, 1.0, spent)

    monkeypatch.setattr(job, "emitted_g", lambda: told().spent.operational_g)
    monkeypatch.setattr(job, "BATCH", 320)
    write_standing(run_dir, Standing(0, 1))
    run(job, monkeypatch, "--epochs", "9", "--grams-per-point", "0.1", "--learning-rate", "1e-9")
    out = capsys.readouterr().out
    assert "ends after 16 of 36 steps: the last 3 evaluations gained nothing of accuracy for 300 g" in out
    assert training.open_registry().manifest("mnist:2").metrics["steps"] == 16
