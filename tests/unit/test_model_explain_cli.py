"""`eco-ray model explain`: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from eco_ray.cli.model import model
from eco_ray.errors import NotFoundError, UsageError
from eco_ray.models.cnn import SmallCNN
from eco_ray.models.export import export_model
from eco_ray.models.registry import About, Registry
from eco_ray.models.signature import parse_signature
from eco_ray.models.weights import save_model

torch.set_num_threads(1)


@pytest.fixture
def where(tmp_path):
    torch.manual_seed(1)
    made = SmallCNN()
    save_model(made, tmp_path / "m.safetensors", {})
    registry = Registry(str(tmp_path / "registry"))
    registry.push(tmp_path / "m.safetensors", "digits")
    registry.promote("digits:1", "prod")
    return registry


@pytest.fixture
def explain(where, tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((28, 28), dtype=np.float32)[None])

    def call(*args, raises=None):
        told = ["explain", *map(str, args), "--registry", where.url]
        done = CliRunner().invoke(model, told)
        if raises is not None:
            assert isinstance(done.exception, raises), done.output
            return str(done.exception)
        assert done.exception is None, done.exception
        return done

    return call


def test_the_document(explain, tmp_path):
    done = explain("digits@prod", "--input", tmp_path / "x.npy", "--target", "7", "--steps", "30", "-o", "json")
    told = json.loads(done.stdout)
    assert (told["model"], told["input"], told["method"]) == (
        "digits:1",
        str(tmp_path / "x.npy"),
        "integrated-gradients",
    )
    assert told["target"]["class"] == 7
    assert told["target"]["label"] == "7"
    assert told["predicted"]["label"] == str(told["predicted"]["class"])
    assert told["baseline"]["name"] == "zeros"
    assert (told["steps"], told["nature"], told["complete"], told["written"]) == (30, "modelled", True, None)
    attributions = np.array(told["attributions"])
    assert attributions.shape == (1, 28, 28)
    change = told["target"]["score"] - told["baseline"]["score"]
    assert attributions.sum() == pytest.approx(change + told["convergence_delta"], abs=1e-5)
    assert told["energy"]["energy_j"] > 0
    assert told["energy"]["nature"] in ("measured", "modelled", "assumed")


def test_people_see_a_row_and_no_numbers_of_pixels(explain, tmp_path):
    done = explain("digits:1", "--input", tmp_path / "x.npy")
    assert len(done.stdout.splitlines()) == 2
    assert "predicted" in done.stdout


def test_it_writes_a_picture_or_a_document(explain, tmp_path):
    explain("digits:1", "--input", "mnist:5", "--out", tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    done = explain("digits:1", "--input", "mnist:5", "--out", tmp_path / "p.json", "-o", "json")
    assert json.loads((tmp_path / "p.json").read_text()) == json.loads(done.stdout)
    assert json.loads(done.stdout)["written"] == str(tmp_path / "p.json")


def test_a_pt2_is_explained_as_its_weights_are(explain, where, tmp_path):
    torch.manual_seed(1)
    export_model(SmallCNN(), torch.rand(2, 1, 28, 28), tmp_path / "m.pt2")
    where.push(tmp_path / "m.pt2", "digits")
    ours, exported = (
        json.loads(explain(f"digits:{version}", "--input", tmp_path / "x.npy", "-o", "json").stdout)
        for version in (1, 2)
    )
    assert exported["predicted"]["class"] == ours["predicted"]["class"]
    np.testing.assert_allclose(exported["attributions"], ours["attributions"], atol=1e-5)


def test_too_few_steps_are_told(explain, where, tmp_path):
    class Steep(torch.nn.Module):
        def forward(self, x):
            return torch.sigmoid(50 * (x - 0.5))

    export_model(Steep(), torch.rand(2, 3), tmp_path / "m.pt2")
    where.push(tmp_path / "m.pt2", "steep")
    np.save(tmp_path / "x.npy", np.ones(3, np.float32))
    done = explain("steep:1", "--input", tmp_path / "x.npy", "--steps", "1")
    assert "raise --steps" in done.stderr
    assert "no picture" in explain(
        "steep:1", "--input", tmp_path / "x.npy", "--out", tmp_path / "p.png", raises=UsageError
    )


def test_what_is_refused(explain, where, tmp_path):
    x = tmp_path / "x.npy"
    assert "no version digits:9" in explain("digits:9", "--input", x, raises=NotFoundError)
    assert "no input file" in explain("digits:1", "--input", tmp_path / "none.npy", raises=NotFoundError)
    assert "0 to 9" in explain("digits:1", "--input", x, "--target", "10", raises=UsageError)
    assert ".png or .json" in explain("digits:1", "--input", x, "--out", tmp_path / "x.csv", raises=UsageError)
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08\x3a\0")
    ends = [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    about = About(signature=parse_signature({"inputs": ends, "outputs": ends}, "s"))
    where.push(tmp_path / "m.onnx", "other", about)
    assert "push the .pt2" in explain("other:1", "--input", x, raises=UsageError)
    where.push(tmp_path / "m.safetensors", "digits")
    where.delete("digits:2")
    assert "was deleted" in explain("digits:2", "--input", x, raises=NotFoundError)
