"""Integrated gradients: they add up to the answer, are exact where the answer is known, and are refused elsewhere."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eco_ray.errors import EcoRayError, NotFoundError, UsageError
from eco_ray.models.cnn import SmallCNN
from eco_ray.models.explain import class_of, explain, explainable, load_differentiable
from eco_ray.models.explain_input import is_image, read_input
from eco_ray.models.explain_picture import write_picture
from eco_ray.models.export import export_model
from eco_ray.models.find_signature import SIGNATURES, find_signature
from eco_ray.models.quantize import quantize_model
from eco_ray.models.signature import TensorSpec, parse_signature
from eco_ray.models.weights import save_model

torch.set_num_threads(1)
DIGITS = SIGNATURES["small-cnn"]


def spec(shape, datatype="FP32"):
    return TensorSpec(name="x", datatype=datatype, shape=shape)


def signature(shape=(-1, 4), classes=(-1, 3), datatype="FP32", **more):
    ends = {"inputs": [{"name": "x", "datatype": datatype, "shape": list(shape)}]}
    ends["outputs"] = [{"name": "y", "datatype": "FP32", "shape": list(classes)}]
    return parse_signature({**ends, **more}, "s")


# -- the numbers -------------------------------------------------------------------------------------------------------


def make_cnn():
    torch.manual_seed(1)
    return SmallCNN().eval()


@pytest.fixture(scope="module")
def cnn():
    return make_cnn()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), target=st.integers(0, 9))
def test_attributions_add_up_to_the_answer_less_that_of_the_baseline(cnn, seed, target):
    image = np.random.default_rng(seed).random((1, 1, 28, 28), dtype=np.float32)
    found = explain(cnn, image, target=target, steps=50)
    with torch.no_grad():
        change = (cnn(torch.from_numpy(image)) - cnn(torch.zeros(1, 1, 28, 28)))[0, target].item()
    assert found.attributions.shape == image.shape
    size = np.abs(found.attributions).sum(dtype=float)
    assert found.attributions.sum(dtype=float) == pytest.approx(change, abs=0.01 * size)
    assert found.convergence_delta == pytest.approx(found.attributions.sum(dtype=float) - change, abs=1e-5)
    assert found.is_complete
    assert not any(parameter.grad is not None for parameter in cnn.parameters())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 60))
def test_a_linear_model_is_explained_exactly(seed, steps):
    chance = np.random.default_rng(seed)
    weight, x = (chance.normal(size=shape).astype(np.float32) for shape in ((3, 4), (1, 4)))
    model = torch.nn.Linear(4, 3)
    model.weight.data = torch.from_numpy(weight)
    found = explain(model, x, target=2, steps=steps)
    np.testing.assert_allclose(found.attributions, weight[2] * x, rtol=1e-4, atol=1e-5)
    assert found.baseline_score == pytest.approx(model.bias[2].item(), abs=1e-6)
    assert (found.target, found.steps) == (2, steps)


@pytest.mark.parametrize("datatype", ["BF16", "FP16", "FP64"])
def test_other_floats_are_explained(datatype, tmp_path):
    dtype = {"BF16": torch.bfloat16, "FP16": torch.float16, "FP64": torch.float64}[datatype]
    model = torch.nn.Linear(4, 3).to(dtype)
    export_model(model, torch.rand(2, 4, dtype=dtype), tmp_path / "m.pt2")
    (given,) = find_signature(tmp_path / "m.pt2", "pt2").signature.inputs
    kept = {"BF16": "float32", "FP16": "float16", "FP64": "float64"}[datatype]
    x = read_input(saved(tmp_path / "x.npy", np.ones(4, kept)), given)
    found = explain(load_differentiable(tmp_path / "m.pt2", "pt2"), x, target=1, given=given)
    np.testing.assert_allclose(found.attributions[0], model.weight[1].detach().float(), rtol=0.02, atol=0.01)


def test_a_model_that_takes_one_row_only_is_explained(tmp_path):
    model = torch.nn.Linear(4, 3)
    program = torch.export.export(model, (torch.rand(1, 4),))
    program.example_inputs = None
    torch.export.save(program, tmp_path / "m.pt2")
    given = explainable(find_signature(tmp_path / "m.pt2", "pt2").signature, "pt2", "m:1")
    assert given.shape == (1, 4)
    found = explain(load_differentiable(tmp_path / "m.pt2", "pt2"), np.ones((1, 4), np.float32), 0, given=given)
    np.testing.assert_allclose(found.attributions[0], model.weight[0].detach(), rtol=1e-4)


def test_without_a_target_it_is_the_predicted_class(cnn):
    image = np.full((1, 1, 28, 28), 0.7, np.float32)
    found = explain(cnn, image)
    with torch.no_grad():
        scores = cnn(torch.from_numpy(image))[0]
    assert found.predicted == found.target == scores.argmax().item()
    assert found.score == found.target_score == pytest.approx(scores.max().item())


def test_too_few_steps_are_told():
    class Steep(torch.nn.Module):
        def forward(self, x):
            return torch.sigmoid(50 * (x - 0.5))

    found = explain(Steep(), np.ones((1, 1), np.float32), steps=1)
    assert abs(found.convergence_delta) > 1
    assert not found.is_complete
    assert explain(Steep(), np.ones((1, 1), np.float32), steps=300).is_complete


class Answers(torch.nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda x: x.detach() * 2, "has no gradient"),
        (lambda x: x * float("nan"), "not finite"),
        (lambda x: x.sum(), r"answers with \[\]"),
        (lambda x: torch.cat([x, x]), r"answers with \[2, 4\]"),
        (lambda x: x.long(), "int64"),
        (lambda _x: "no tensor", "answers with a str"),
        (lambda x: x @ torch.zeros(7, 2), "did not run"),
    ],
)
def test_a_model_that_cannot_be_explained_says_why(answer, error):
    with pytest.raises(EcoRayError, match=error):
        explain(Answers(answer), np.ones((1, 4), np.float32))


def test_without_captum_the_cure_is_told(cnn, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(EcoRayError, match=r"pip install 'eco-ray\[explain\]'"):
        explain(cnn, np.zeros((1, 1, 28, 28), np.float32))


# -- who may be explained ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "kind", "error"),
    [
        (signature(), "onnx", "ONNX, which has no gradients here; push the .pt2"),
        (signature(), "pickle", "pickle, which runs code .*push"),
        (None, "pt2", "no signature.*--signature"),
        (signature(datatype="INT64"), "pt2", r"input 'x' is INT64.*FP32"),
        (signature(shape=(-1, -1)), "pt2", r"input 'x' has the shape \[-1, -1\]"),
        (signature(shape=()), "pt2", r"has the shape \[\]"),
        (signature(shape=(4, 4)), "pt2", r"\[4, 4\].*batch"),
        (signature(shape=(-1, 5000, 5000)), "pt2", "25000000 values, limit"),
        (signature(classes=(-1, 3, 5)), "pt2", r"output 'y' has the shape \[-1, 3, 5\]"),
        (signature(kind="embedding"), "pt2", "'embedding'.*classes"),
        (signature(kind="text-generation"), "pt2", "'text-generation'"),
    ],
)
def test_whose_signature_does_not_allow_it(told, kind, error):
    with pytest.raises(UsageError, match=error):
        explainable(told, kind, "m:1")


def test_two_inputs_or_outputs_are_too_many():
    two = signature().model_dump()
    with pytest.raises(UsageError, match="2 inputs"):
        explainable(
            parse_signature({**two, "inputs": [*two["inputs"], {**two["inputs"][0], "name": "z"}]}, "s"), "pt2", ""
        )
    with pytest.raises(UsageError, match="2 outputs"):
        explainable(
            parse_signature({**two, "outputs": [*two["outputs"], {**two["outputs"][0], "name": "z"}]}, "s"), "pt2", ""
        )


@pytest.mark.parametrize("told", [DIGITS, signature(), signature(shape=(1, 4)), signature(kind="classifier")])
def test_whose_signature_allows_it(told):
    assert explainable(told, "pt2", "m:1") == told.inputs[0]


def test_both_formats_are_loaded_and_say_the_same(cnn, tmp_path):
    save_model(cnn, tmp_path / "m.safetensors", {})
    export_model(cnn, torch.rand(2, 1, 28, 28), tmp_path / "m.pt2")
    image = np.random.default_rng(0).random((1, 1, 28, 28), dtype=np.float32)
    ours, exported = (
        explain(load_differentiable(tmp_path / f"m.{kind}", kind), image, steps=20) for kind in ("safetensors", "pt2")
    )
    np.testing.assert_allclose(ours.attributions, exported.attributions, atol=1e-5)


def test_rounded_arithmetic_is_refused_and_other_weights_too(tmp_path):
    save_model(quantize_model(make_cnn(), "int8-dynamic"), tmp_path / "m.safetensors", {})
    with pytest.raises(UsageError, match=r"int8-dynamic rounds.*int8-weight-only"):
        load_differentiable(tmp_path / "m.safetensors", "safetensors")
    export_model(quantize_model(make_cnn(), "int8-dynamic"), torch.rand(2, 1, 28, 28), tmp_path / "m.pt2")
    with pytest.raises(UsageError, match="rounds"):
        load_differentiable(tmp_path / "m.pt2", "pt2")
    (tmp_path / "o.safetensors").write_bytes(b"x")
    with pytest.raises(EcoRayError, match="no safetensors file"):
        load_differentiable(tmp_path / "o.safetensors", "safetensors")


@pytest.mark.parametrize("scheme", ["bf16", "int8-weight-only", "int4-weight-only"])
def test_quantised_weights_are_explained(scheme, tmp_path):
    save_model(quantize_model(make_cnn(), scheme), tmp_path / "m.safetensors", {})
    image = np.random.default_rng(0).random((1, 1, 28, 28), dtype=np.float32)
    assert explain(load_differentiable(tmp_path / "m.safetensors", "safetensors"), image, steps=50).is_complete


def test_a_target_is_a_number_or_a_label():
    pets = signature(labels=["cat", "dog", "dog"])
    assert class_of("cat", pets) == 0
    assert class_of("2", pets) == 2
    assert class_of("1", signature(labels=["1", "0", "2"])) == 0
    for text, error in (
        ("3", "0 to 2"),
        ("-1", "0 to 2"),
        ("bird", "cat, dog"),
        ("dog", "classes 1, 2"),
        ("²", "no class"),
    ):
        with pytest.raises(UsageError, match=error):
            class_of(text, pets)
    assert class_of("7", signature(classes=(-1, -1))) == 7


# -- inputs ------------------------------------------------------------------------------------------------------------


def saved(path, array):
    np.save(path, array, allow_pickle=True)
    return str(path)


@pytest.mark.parametrize("dtype", ["<f4", ">f4"])
@pytest.mark.parametrize("shape", [(4, 5), (1, 4, 5)])
def test_an_array_with_or_without_its_batch(dtype, shape, tmp_path):
    array = np.arange(20, dtype=dtype).reshape(shape)
    found = read_input(saved(tmp_path / "x.npy", array), spec((-1, 4, 5)))
    assert (found.shape, found.dtype) == ((1, 4, 5), np.float32)
    assert (found.ravel() == array.ravel()).all()
    found[:] = 0  # its own memory


@pytest.mark.parametrize(
    ("array", "error"),
    [
        (np.zeros((4, 5), np.float64), r"float64.*float32.*astype"),
        (np.zeros((4, 5), np.int64), "int64"),
        (np.zeros((5, 4), np.float32), r"\[5, 4\].*\[4, 5\]"),
        (np.zeros((2, 4, 5), np.float32), r"\[2, 4, 5\]"),
        (np.full((4, 5), np.nan, np.float32), "not finite"),
        (np.full((4, 5), np.inf, np.float32), "not finite"),
        (np.array([{}] * 20, dtype=object).reshape(4, 5), "cannot be read"),
    ],
)
def test_a_wrong_array_is_refused(array, error, tmp_path):
    with pytest.raises(UsageError, match=error):
        read_input(saved(tmp_path / "x.npy", array), spec((-1, 4, 5)))


def test_hostile_arrays_are_refused_at_once(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"
    for name, content in {
        "huge": b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"0" * 80,
        "long": b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little") + b"(" * 1000,
        "pickle": b"\x80\x04K\x01.",
        "zip": b"PK\x03\x04",
        "empty": b"",
    }.items():
        (tmp_path / f"{name}.npy").write_bytes(content)
        with pytest.raises(UsageError, match="cannot be read"):
            read_input(str(tmp_path / f"{name}.npy"), spec((-1, 4, 5)))
    with pytest.raises(NotFoundError, match="no input file"):
        read_input(str(tmp_path / "none.npy"), spec((-1, 4)))
    with pytest.raises(UsageError, match=r"give FILE.npy, FILE.png, FILE.jpg or mnist:INDEX"):
        read_input("x.csv", spec((-1, 4)))


def image_file(path, array, mode=None, **more):
    from PIL import Image

    Image.fromarray(array, mode).save(path, **more)
    return str(path)


def test_a_picture_becomes_zero_to_one(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    found = read_input(image_file(tmp_path / "g.png", grey), spec((-1, 1, 3, 4)))
    np.testing.assert_allclose(found[0, 0], grey / 255, rtol=1e-6)
    assert found.dtype == np.float32
    colour = np.random.default_rng(0).integers(0, 255, (3, 4, 3), dtype=np.uint8)
    found = read_input(image_file(tmp_path / "c.png", colour), spec((-1, 3, 3, 4), "FP64"))
    np.testing.assert_allclose(found[0], colour.transpose(2, 0, 1) / 255, rtol=1e-6)
    assert read_input(image_file(tmp_path / "g.png", grey), spec((-1, 3, 3, 4))).shape == (1, 3, 3, 4)
    assert read_input(image_file(tmp_path / "c.jpg", colour), spec((-1, 1, 3, 4))).shape == (1, 1, 3, 4)


def test_other_pictures_are_refused(tmp_path):
    grey = np.zeros((3, 4), np.uint8)
    path = image_file(tmp_path / "g.png", grey)
    with pytest.raises(UsageError, match=r"4 x 3 pixels.*28 x 28.*resize"):
        read_input(path, spec((-1, 1, 28, 28)))
    with pytest.raises(UsageError, match=r"takes no image.*npy"):
        read_input(path, spec((-1, 12)))
    with pytest.raises(UsageError, match="RGBA"):
        read_input(image_file(tmp_path / "a.png", np.zeros((3, 4, 4), np.uint8)), spec((-1, 3, 3, 4)))
    with pytest.raises(UsageError, match="I;16"):
        read_input(image_file(tmp_path / "d.png", np.zeros((3, 4), np.uint16)), spec((-1, 1, 3, 4)))
    (tmp_path / "x.png").write_bytes(b"GIF89a")
    with pytest.raises(UsageError, match="cannot be read"):
        read_input(str(tmp_path / "x.png"), spec((-1, 1, 3, 4)))
    image_file(tmp_path / "g.png", np.random.default_rng(0).integers(0, 255, (3, 4), dtype=np.uint8))
    (tmp_path / "cut.png").write_bytes((tmp_path / "g.png").read_bytes()[:50])
    with pytest.raises(UsageError, match="cannot be read"):
        read_input(str(tmp_path / "cut.png"), spec((-1, 1, 3, 4)))


def test_a_bomb_is_not_decoded(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for side in (12, 20):  # above the limit, and above twice the limit
        path = image_file(tmp_path / "b.png", np.zeros((side, side), np.uint8))
        with pytest.raises(UsageError, match=r"cannot be read.*pixels"):
            read_input(path, spec((-1, 1, side, side)))


def test_an_image_of_the_demo_data_set():
    found = read_input("mnist:3", DIGITS.inputs[0])
    assert (found.shape, found.dtype, found.min(), found.max()) == ((1, 1, 28, 28), np.float32, 0, 1)
    for wrong, error in (("mnist:1000", "0 to 999"), ("mnist:-1", "0 to 999"), ("mnist:x", "0 to 999")):
        with pytest.raises(UsageError, match=error):
            read_input(wrong, DIGITS.inputs[0])
    with pytest.raises(UsageError, match=r"\[1, 28, 28\].*\[4\]"):
        read_input("mnist:3", spec((-1, 4)))


# -- the picture -------------------------------------------------------------------------------------------------------


def pixels_of(path):
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_the_picture_shows_for_in_red_and_against_in_blue(tmp_path):
    attributions = np.zeros((1, 1, 8, 8), np.float32)
    attributions[..., :4], attributions[..., 4:] = 1, -1
    write_picture(tmp_path / "p.png", np.zeros((1, 1, 8, 8), np.float32), attributions, "7", "title", "note")
    found = pixels_of(tmp_path / "p.png")
    height, width, _ = found.shape
    assert 800 <= width <= 2000
    assert 300 <= height <= 1200
    red = (found[..., 0] > found[..., 2] + 60).sum(axis=0)
    blue = (found[..., 2] > found[..., 0] + 60).sum(axis=0)
    centre = [np.average(np.arange(width), weights=side) for side in (red, blue)]
    assert width / 2 < centre[0] < centre[1]
    assert [one.name for one in tmp_path.iterdir()] == ["p.png"]


@pytest.mark.parametrize("channels", [1, 3])
def test_any_label_and_any_number_can_be_drawn(channels, tmp_path):
    image = np.random.default_rng(0).normal(size=(1, channels, 5, 9)).astype(np.float32)
    write_picture(tmp_path / "p.png", image, np.zeros_like(image), *(3 * ["$\\frac{x" + "w" * 300 + "鯨"]))
    assert pixels_of(tmp_path / "p.png").any()


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path):
    image = np.zeros((1, 1, 8, 8), np.float32)
    with pytest.raises(EcoRayError, match="could not be written"):
        write_picture(tmp_path / "none" / "p.png", image, image, "7", "title", "note")
    (tmp_path / "p.png").mkdir()
    with pytest.raises(EcoRayError, match="could not be written"):
        write_picture(tmp_path / "p.png", image, image, "7", "title", "note")
    assert [one.name for one in tmp_path.iterdir()] == ["p.png"]


def test_what_an_image_is():
    assert is_image(DIGITS.inputs[0])
    assert is_image(spec((-1, 3, 224, 224)))
    assert not is_image(spec((-1, 2, 28, 28)))
    assert not is_image(spec((-1, 28, 28)))
