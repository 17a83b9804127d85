"""`eco-ray model compress`: what it prints, writes, registers and refuses before it begins."""

from __future__ import annotations

import json
import re

import pytest
import torch
from click.testing import CliRunner
from compress_cases import make_images, train
from safetensors.torch import load_file

from eco_ray.cli.model_compress import compress as command
from eco_ray.cli.model_compress import find_model, find_version
from eco_ray.cli.model_registry import show
from eco_ray.config import load_settings
from eco_ray.errors import EcoRayError, NotFoundError, UsageError
from eco_ray.models.datasets import load_images
from eco_ray.models.recipe import Recipe, load_recipe
from eco_ray.models.registry import About, Registry
from eco_ray.models.signature import parse_signature
from eco_ray.models.weights import load_model, save_model


@pytest.fixture(scope="module")
def data_file(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(data_file):
    return train(load_images(str(data_file)))


def run(*args):
    return CliRunner().invoke(command, [str(arg) for arg in args], standalone_mode=False)


def test_the_command_compresses_writes_and_says_what_it_did(model, data_file, tmp_path):
    path, out, exported = tmp_path / "m.safetensors", tmp_path / "s.safetensors", tmp_path / "s.pt2"
    save_model(model, path, {})
    result = run(
        path, "--recipe", "prune80-int8", "--data", data_file, "--out", out, "--export", exported, "-o", "json"
    )
    assert result.exception is None
    told = json.loads(result.stdout)
    assert told["accepted"] is True
    assert told["test_images"] == 100
    assert told["written"] == [str(out), str(exported)]
    assert [each["variant"] for each in told["variants"]] == ["fp32", "pruned", "int8-weight-only"]
    for each in told["variants"]:
        assert each["energy_j"] > 0
        assert each["nature"] in ("measured", "modelled")
        assert each["accepted"] is True
    assert told["variants"][2]["size_bytes"] == pytest.approx(out.stat().st_size, abs=300)  # other metadata
    small, metadata = load_model(out)
    assert metadata["recipe"] == "prune80-int8"
    pixels = torch.rand(3, 1, 28, 28)
    assert torch.allclose(torch.export.load(exported).module()(pixels), small(pixels))
    assert load_file(out)["classifier.1.weight"].dtype == torch.int8


def test_a_result_that_loses_too_much_is_refused_and_not_written(model, data_file, tmp_path):
    path, out, worse = tmp_path / "m.safetensors", tmp_path / "s.safetensors", tmp_path / "worse.yaml"
    save_model(model, path, {})
    worse.write_text("prune: {sparsity: 0.9999}\n")
    result = run(path, "--recipe", worse, "--data", data_file, "--out", out, "-o", "json")
    assert isinstance(result.exception, EcoRayError)
    assert result.exception.exit_code == 1
    assert "refused: pruned loses" in str(result.exception)
    told = json.loads(result.stdout)
    assert (told["accepted"], told["written"]) == (False, [])
    assert [each["accepted"] for each in told["variants"]] == [True, False]
    assert not out.exists()
    assert run(path, "--recipe", worse, "--data", data_file, "--max-accuracy-drop", 100).exception is None


def test_people_see_the_variants_side_by_side_within_80_columns(model, data_file, tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(model, path, {})
    result = run(path, "--recipe", "prune80-int8", "--data", data_file)
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["fp32", "pruned", "int8-weight-only"]
    told = {line[:14].strip(): line[14:].split("  ") for line in lines[1:]}
    for name, unit in (("accuracy", "%"), ("zeros", "%"), ("latency", "ms"), ("CPU time", "ms"), ("energy", "mJ")):
        assert all(unit in cell for cell in told[name] if cell), name
    assert {*told} >= {"accuracy drop", "bytes", "packed", "nature", "accepted"}
    assert float(told["of fp32's"][-1]) < 0.12
    assert "100 test images of images.safetensors; latency, CPU time and energy are of one image" in result.stderr
    assert "+-" in result.stderr


def test_the_seed_is_of_the_fine_tuning(model, tmp_path, monkeypatch):
    path, seen = tmp_path / "m.safetensors", []
    save_model(model, path, {})
    monkeypatch.setattr("eco_ray.models.compress.variants", lambda *args: seen.append(args[3]) or [])
    run(path, "--recipe", "prune80", "--seed", 7)
    assert seen == [7]


def test_one_test_image_is_enough_for_an_export(model, tmp_path):
    path, out = tmp_path / "m.safetensors", tmp_path / "m.pt2"
    save_model(model, path, {})
    done = run(path, "--recipe", "int8", "--data", make_images(tmp_path, test=1), "--export", out)
    assert done.exception is None
    assert torch.export.load(out).module()(torch.zeros(5, 1, 28, 28)).shape == (5, 10)


def test_what_a_model_may_be_named_by(tmp_path):
    path = tmp_path / "m:3"
    path.write_text("")
    assert find_model(str(path)) == path
    with pytest.raises(NotFoundError, match="no model file"):
        find_model("missing.safetensors")


def test_a_version_of_the_registry_becomes_the_parent_of_the_next(model, data_file, tmp_path):
    path, where = tmp_path / "m.safetensors", str(tmp_path / "registry")
    save_model(model, path, {})
    registry = Registry(where)
    spec = {"name": "image", "datatype": "FP32", "shape": [-1, 1, 28, 28]}
    mine = parse_signature({"inputs": [spec], "outputs": [{**spec, "shape": [-1, 10]}], "kind": "classifier"}, "s")
    registry.push(path, "digits", About(framework="torch", signature=mine))
    done = run("digits:1", "--recipe", "bf16", "--registry", where, "--data", data_file, "-o", "json")
    told = json.loads(done.stdout)
    assert (told["model"], told["registered"], told["accepted"]) == ("digits:1", "digits:2", True)
    made = registry.manifest("digits:2")
    assert made.lineage["parent"] == "digits:1"
    assert (made.lineage["recipe"], made.framework, made.signature) == ("bf16", "torch", mine)
    assert made.metrics["packed_bytes"] < made.metrics["packed_bytes_before"]
    assert made.metrics["energy_nature"] in ("measured", "modelled", "assumed")
    registry.pull("digits:2", tmp_path / "back.safetensors")
    load_model(tmp_path / "back.safetensors")
    with pytest.raises(NotFoundError, match="no version digits:9"):
        find_version("digits:9", load_settings({}), where)


def test_the_manifest_has_the_whole_recipe_when_its_file_is_gone(model, data_file, tmp_path):
    path, where = tmp_path / "m.safetensors", str(tmp_path / "registry")
    save_model(model, path, {})
    Registry(where).push(path, "digits")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "description: |\n  of two\n  lines\nshrink: {lambda: 0.001}\nquantize: {scheme: int8-weight-only}"
    )
    asked = Recipe.model_validate(load_recipe(str(recipe)).steps())
    run("digits:1", "--recipe", recipe, "--seed", 3, "--registry", where, "--data", data_file, "-o", "json")
    recipe.unlink()
    shown = CliRunner().invoke(show, ["digits:2", "--registry", where, "-o", "json"])
    lineage = json.loads(shown.stdout)["lineage"]
    assert (lineage["recipe"], lineage["seed"], lineage["variant"]) == (str(recipe), 3, "int8-weight-only")
    assert lineage["steps"] == {
        "shrink": {"lambda": 0.001, "operator": "soft", "when": "after"},
        "quantize": {"scheme": "int8-weight-only", "per_channel": True},
    }
    assert Recipe.model_validate(lineage["steps"]) == asked


def test_a_variant_that_is_refused_is_not_registered(model, data_file, tmp_path):
    path, where = tmp_path / "m.safetensors", str(tmp_path / "registry")
    save_model(model, path, {})
    Registry(where).push(path, "digits")
    recipe = tmp_path / "r.yaml"
    recipe.write_text("prune: {method: magnitude, sparsity: 0.99, scope: global}")
    done = run("digits:1", "--recipe", recipe, "--max-accuracy-drop", 0, "--registry", where, "--data", data_file)
    assert "refused" in str(done.exception)
    assert Registry(where).versions("digits") == [1]


@pytest.mark.parametrize(
    ("suffix", "cure"), [(".ecoz", "eco-ray model unpack .*m.ecoz -o .*m.safetensors"), (".pt2", "made from")]
)
def test_a_model_in_another_form_says_what_to_give_instead(tmp_path, suffix, cure):
    path = tmp_path / f"m{suffix}"
    path.write_text("")
    with pytest.raises(UsageError, match=cure):
        find_model(str(path))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--recipe", "int8", "--export", "x.pkl"), r"--export x.pkl: give a path that ends in \.pt2"),
        (("--recipe", "int8", "--out", "x.onnx"), r"--out x.onnx: int8-weight-only is written as \.safetensors"),
        (("--recipe", "prune80", "--out", "x"), r"--out x: the result is written as \.safetensors"),
        (("--recipe", "int8-onnxruntime", "--out", "x.safetensors"), r"onnxruntime-int8 is written as \.onnx"),
        (("--recipe", "int8-onnxruntime", "--export", "x.pt2"), "--export takes torch models"),
        (("--recipe", "bf16", "--export", "x.onnx"), "do not run bf16 models"),
        (("--recipe", "int4", "--export", "x.onnx"), "do not run int4-weight-only models"),
        (("--recipe", "int8-dynamic", "--export", "x.onnx"), "do not run int8-dynamic models"),
        (("--recipe", "int8", "--max-accuracy-drop", "nan"), "nan is no number of points; give 0 to 100"),
        (("--recipe", "int8", "--cpu", "z80"), "unknown CPU family 'z80'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_done(args, message, model, tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    save_model(model, path, {})
    monkeypatch.setattr("eco_ray.models.compress.variants", lambda *_: pytest.fail("work was done"))
    result = run(path, *args)
    assert isinstance(result.exception, UsageError), result.exception
    assert re.search(message, str(result.exception))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("n" * 300 + ".safetensors", "File name too long"),
        ("none/" + "n" * 300 + "/x.safetensors", "File name too long"),
        ("m.safetensors/x.safetensors", "Not a directory"),
        ("folder.safetensors", "Is a directory"),
        ("/proc/x.safetensors", "No such file"),
    ],
)
@pytest.mark.parametrize("option", ["--out", "--export"])
def test_a_place_that_cannot_be_written_is_found_before_anything_is_done(option, place, message, model, tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(model, path, {})
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "folder.pt2").mkdir()
    if option == "--export":
        place = place.removesuffix(".safetensors") + ".pt2"
    before = sorted(tmp_path.iterdir())
    result = run(path, "--recipe", "int8", "--data", "none", option, tmp_path / place)
    assert isinstance(result.exception, EcoRayError)
    assert re.search(rf"{option} .*{message}.*; give another path", str(result.exception))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("option", ["--data", "--recipe", "model"])
def test_a_name_that_is_too_long_is_told(option, model, tmp_path):
    path, long = tmp_path / "m.safetensors", "n" * 300 + ".yaml"
    save_model(model, path, {})
    args = {"--data": "none", "--recipe": "int8", option: long}
    result = run(args.pop("model", path), *(part for pair in args.items() for part in pair))
    assert isinstance(result.exception, EcoRayError), result.exception


def test_looking_at_a_place_leaves_nothing_there(model, data_file, tmp_path):
    path, worse, out = (tmp_path / name for name in ("m.safetensors", "worse.yaml", "new/er/s.safetensors"))
    save_model(model, path, {})
    worse.write_text("prune: {sparsity: 0.9999}\n")
    before = sorted(tmp_path.rglob("*"))
    assert "refused" in str(run(path, "--recipe", worse, "--data", data_file, "--out", out).exception)
    assert sorted(tmp_path.rglob("*")) == before
    assert run(path, "--recipe", "bf16", "--data", data_file, "--out", out).exception is None
    assert out.is_file()
