"""The example jobs, as a newcomer runs them: plain Python, no cluster, from anywhere."""

import dataclasses
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from eco_ray.job_file import load_job_file
from eco_ray.models.weights import load_model
from eco_ray.train import session

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    for name in [n for n in os.environ if n.startswith("ECO_RAY_") or n == "RAY_JOB_CONFIG_JSON_ENV_VAR"]:
        monkeypatch.delenv(name)


def run(cwd, script, *arguments):
    done = subprocess.run(
        [sys.executable, JOBS / script, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def imported(monkeypatch, name):
    monkeypatch.syspath_prepend(JOBS)
    return importlib.import_module(name)


def test_mnist_is_split_by_digit_and_always_the_same_way(monkeypatch):
    mnist_data = imported(monkeypatch, "mnist_data")
    data, again = mnist_data.load(), mnist_data.load()
    assert np.array_equal(data.held_out_images, again.held_out_images)
    assert np.bincount(data.train_labels).tolist() == [400] * 10
    assert np.bincount(data.held_out_labels).tolist() == [100] * 10
    assert (data.train_images.min(), data.train_images.max(), data.train_images.dtype) == (0, 1, np.float32)
    held_out = {image.tobytes() for image in data.held_out_images}
    assert not any(image.tobytes() in held_out for image in data.train_images)


def test_train_mnist_paused_and_resumed_makes_the_very_same_model(tmp_path, monkeypatch):
    out = run(tmp_path, "train_mnist.py", "--epochs", "1")
    accuracy = float(re.search(r"held-out accuracy ([\d.]+) \(1000 images\)", out)[1])
    assert accuracy > 0.7
    model, metadata = load_model(tmp_path / "mnist_cnn.safetensors")
    assert metadata["accuracy"] == accuracy

    train_mnist = imported(monkeypatch, "train_mnist")
    monkeypatch.setattr(sys, "argv", ["train_mnist.py", "--epochs", "1"])
    checkpoints = tmp_path / "checkpoints"
    places = {"ECO_RAY_JOB_ID": "j", "ECO_RAY_CHECKPOINT_DIR": str(checkpoints)}
    for attempt in (1, 2):
        run_dir = tmp_path / str(attempt)
        run_dir.mkdir()
        for name, value in {**places, "ECO_RAY_RUN_DIR": str(run_dir), "ECO_RAY_ATTEMPT": str(attempt)}.items():
            monkeypatch.setenv(name, value)
        if attempt == 1:
            (run_dir / "pause").touch()
            with pytest.raises(session.Paused):
                train_mnist.main()
        else:
            train_mnist.main()
    resumed, _ = load_model(checkpoints / "model.safetensors")
    for (name, a), b in zip(model.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_train_seconds_ends_after_one_epoch_on_a_slow_machine(tmp_path, monkeypatch):
    train_mnist = imported(monkeypatch, "train_mnist")
    out = tmp_path / "m.safetensors"
    monkeypatch.setattr(sys, "argv", ["train_mnist.py", "--train-seconds", "0.01", "--out", str(out)])
    train_mnist.main()
    assert load_model(out)[1]["epochs"] == 1


def test_linear_regression_meets_the_closed_form(tmp_path):
    out = run(tmp_path, "linear_regression.py", "--steps", "500", "--repeats", "1")
    assert "2859.696" in out  # the least-squares MSE of these data
    assert abs(float(re.search(r"relative gap (\S+)", out)[1])) < 1e-4


def test_linear_regression_uses_the_gradient_of_the_error(monkeypatch):
    module = imported(monkeypatch, "linear_regression")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 3)), rng.normal(size=30)
    w = module.gradient_descent(x, y, step_size=1.0, steps=3000)
    assert np.allclose(w, np.linalg.lstsq(x, y)[0], atol=1e-9)


def test_softmax_regression(tmp_path):
    out = run(tmp_path, "softmax_regression.py", "--epochs", "3")
    assert float(re.search(r"held-out accuracy ([\d.]+) \(1000 images\)", out)[1]) > 0.8


def test_train_sgd_meets_the_closed_form_by_batch_and_stochastic_steps(tmp_path):
    stochastic = ["--batch", "1", "--epochs", "40", "--learning-rate", "0.01"]
    for options, within in ((["--batch", "0", "--epochs", "20000"], 1e-5), (stochastic, 1e-3)):
        out = run(tmp_path, "train_sgd.py", "--model", "linear", *options)
        assert "closed_form_mse 2859.7" in out
        assert abs(float(re.search(r"relative_gap (\S+)", out)[1])) < within


@pytest.mark.parametrize("model", ["linear", "mlp", "cnn"])
def test_train_sgd_has_the_gradient_of_its_loss(monkeypatch, model):
    tasks = imported(monkeypatch, "sgd_tasks")
    task = tasks.MODELS[model][0](16, 0)
    parameters = {name: values.astype(np.float64) for name, values in task.start().items()}
    if model == "cnn":  # in float64, or the differences are roundings
        task.model.double()
        task.data = dataclasses.replace(task.data, train_images=task.data.train_images.astype(np.float64))
    _, gradient = task.gradient(parameters, 3)
    for name, values in gradient.items():
        place = np.unravel_index(np.abs(values).argmax(), values.shape)
        losses = []
        for small in (1e-6, -1e-6):
            moved = {n: v.copy() for n, v in parameters.items()}
            moved[name][place] += small
            losses.append(task.gradient(moved, 3)[0])
        assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(values[place], rel=1e-3), name


def test_train_sgd_learns_digits(tmp_path):
    out = run(tmp_path, "train_sgd.py", "--model", "mlp", "--epochs", "5")
    assert float(re.search(r"accuracy ([\d.]+)", out)[1]) > 0.88


SCRIPTS = ["train_mnist", "linear_regression", "softmax_regression", "train_sgd", "finetune_mnist"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_has_its_yaml_and_says_how_to_submit_it(script):
    load_job_file(JOBS / f"{script}.yaml")  # raises if a key or value is wrong
    job = yaml.safe_load((JOBS / f"{script}.yaml").read_text())
    assert job["name"] == script.replace("_", "-")
    assert job["run"].split()[:2] == ["python", f"jobs/{script}.py"]
    docstring = (JOBS / f"{script}.py").read_text().split('"""')[1]
    assert f"eco-ray job submit jobs/{script}.yaml" in docstring
    assert "ray job submit --working-dir . -- eco-ray run" in docstring
    deadline = re.search(r"--deadline (\S+)", docstring)[1]
    assert deadline == job["carbon"]["max_delay"]
