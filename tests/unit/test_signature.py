"""What a signature may say, and what is found of it in a model's file without running anything of it."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from compress_cases import armed, rewritten
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.numpy import save_file

from eco_ray.errors import UsageError
from eco_ray.models.cnn import SmallCNN
from eco_ray.models.export import export_model
from eco_ray.models.find_signature import SIGNATURES, find_signature
from eco_ray.models.quantize import quantize_model
from eco_ray.models.registry import About, Registry
from eco_ray.models.signature import DATATYPES, Signature, TensorSpec, parse_signature
from eco_ray.models.weights import ARCHITECTURES, save_model

IMAGE = {"name": "image", "datatype": "FP32", "shape": [-1, 1, 28, 28]}
SCORES = {"name": "scores", "datatype": "FP32", "shape": [-1, 3]}
PIXELS = TensorSpec(name="pixels", datatype="FP32", shape=(-1, 1, 28, 28))


def told(**changed):
    return {"inputs": [IMAGE], "outputs": [SCORES], **changed}


# -- what it may say ---------------------------------------------------------------------------------------------------

specs = st.builds(
    dict,
    name=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=100),
    datatype=st.sampled_from(DATATYPES),
    shape=st.lists(st.one_of(st.just(-1), st.integers(1, 2**31 - 1)), max_size=8),
)
several = st.lists(specs, min_size=1, max_size=8, unique_by=lambda spec: spec["name"])


@given(inputs=several, outputs=several)
def test_it_is_kept_as_the_v2_protocol_says_it(inputs, outputs):
    found = parse_signature({"inputs": inputs, "outputs": outputs}, "s.json")
    kept = json.loads(found.model_dump_json())
    assert (kept["inputs"], kept["outputs"]) == (inputs, outputs)
    assert Signature.model_validate(kept) == found


def test_it_never_changes():
    found = parse_signature(told(), "s.json")
    with pytest.raises(ValidationError):
        found.kind = "classifier"


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ([], r"s.json: \[\] is not a mapping; give a mapping with keys from inputs, outputs, labels, kind"),
        ({"inputs": [IMAGE]}, "outputs: is missing"),
        (told(inputs=[]), "inputs: 0 entries are below 1"),
        (told(inputs=[{**IMAGE, "name": str(n)} for n in range(65)]), "65 entries are above 64"),
        (told(input=[]), "unknown key 'input'; did you mean 'inputs'"),
        (told(inputs=[{**IMAGE, "optional": True}]), r"inputs\[0\].optional: unknown key"),
        (told(inputs=[{**IMAGE, "datatype": "float32"}]), "'float32' is not one of .* give 'BOOL'.*'FP32'"),
        (told(inputs=[{**IMAGE, "shape": [0]}]), "0 is no size; give 1 or more, or -1 for any"),
        (told(inputs=[{**IMAGE, "shape": [-2]}]), "-2 is below -1"),
        (told(inputs=[{**IMAGE, "shape": [2**31]}]), "above 2.14748e"),
        (told(inputs=[{**IMAGE, "shape": [True]}]), "True is not a whole number"),
        (told(inputs=[{**IMAGE, "shape": ["3"]}]), "'3' is not a whole number"),
        (told(inputs=[{**IMAGE, "shape": [1] * 9}]), "9 entries are above 8"),
        (told(inputs=[{**IMAGE, "name": ""}]), "'' is empty"),
        (told(inputs=[{**IMAGE, "name": "n" * 101}]), "above 100 characters"),
        (told(inputs=[{**IMAGE, "name": "a\x1b[0m"}]), "cannot be printed"),
        (told(inputs=[IMAGE, IMAGE]), "'image' is the name of two inputs; rename one"),
        (told(outputs=[SCORES, SCORES]), "'scores' is the name of two outputs; rename one"),
        (told(labels=["a", "b"]), r"2 labels, but no output ends in 2: \[-1, 3\]; give as many as there are classes"),
        (told(labels=["a"] * 10_001), "10001 entries are above 10000"),
        (told(labels=["a" * 99] * 3000), "297000 characters of labels are above 100000; shorten"),
        (told(kind="cat"), "'cat' is not one of .* give .*'image-classifier'"),
    ],
)
def test_what_it_may_not_say(wrong, error):
    with pytest.raises(UsageError, match=error):
        parse_signature(wrong, "s.json")


def test_labels_may_be_alike_and_an_output_may_have_any_number():
    assert parse_signature(told(labels=["crane", "crane", "maillot"]), "s").labels[0] == "crane"
    assert parse_signature(told(outputs=[{**SCORES, "shape": [-1, -1]}], labels=["a", "b"]), "s").labels == ("a", "b")


# -- what a file tells -------------------------------------------------------------------------------------------------


@pytest.fixture
def registry(tmp_path):
    return Registry(str(tmp_path / "registry"))


@pytest.fixture
def pt2(tmp_path):
    torch.manual_seed(0)
    export_model(SmallCNN(), torch.rand(2, 1, 28, 28), tmp_path / "m.pt2")
    return tmp_path / "m.pt2"


def test_a_pt2_tells_its_signature(pt2, registry):
    made = registry.push(pt2, "m")
    assert made.signature.inputs == (PIXELS,)
    (output,) = made.signature.outputs
    assert (output.datatype, output.shape) == ("FP32", (-1, 10))
    assert (made.signature.labels, made.signature.kind) == ((), "")
    assert registry.manifest("m:1") == made


@pytest.mark.parametrize("scheme", [None, "bf16", "int8-weight-only"])
def test_our_safetensors_tell_their_signature(scheme, tmp_path, registry):
    model = SmallCNN() if scheme is None else quantize_model(SmallCNN(), scheme)
    save_model(model, tmp_path / "m.safetensors", {})
    made = registry.push(tmp_path / "m.safetensors", "m")
    assert made.signature.inputs == (PIXELS,)
    assert made.signature.labels == tuple("0123456789")
    assert made.signature.kind == "image-classifier"


def test_every_architecture_has_its_signature():
    assert SIGNATURES.keys() == ARCHITECTURES.keys()
    for name, make in ARCHITECTURES.items():
        (given,), (expected,) = SIGNATURES[name].inputs, SIGNATURES[name].outputs
        answer = make()(torch.zeros([2 if size == -1 else size for size in given.shape]))
        assert answer.shape[1:] == expected.shape[1:]


def test_the_example_of_the_documentation_is_that_of_the_digits():
    text = (Path(__file__).parents[2] / "docs/registry.md").read_text()
    example = text[text.index('    {"inputs"') : text.index("`datatype`: BOOL")]
    assert parse_signature(json.loads(example), "registry.md") == SIGNATURES["small-cnn"]


def test_onnx_tells_its_signature(tmp_path, registry):
    onnx = pytest.importorskip("onnx")
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [4, 3], [1.0] * 12)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [
            onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT16, ["batch", 4]),
            onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 3]),
        ],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT16, ["batch", 3])],
        [weight],
    )
    onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx")
    made = registry.push(tmp_path / "m.onnx", "m").signature
    assert made.inputs == (TensorSpec(name="x", datatype="FP16", shape=(-1, 4)),)
    assert made.outputs == (TensorSpec(name="y", datatype="FP16", shape=(-1, 3)),)


def test_onnx_without_its_package_is_pushed_without_a_signature(tmp_path, registry, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08\x3a\0")
    assert registry.push(tmp_path / "m.onnx", "m").signature is None
    assert "pip install 'eco-ray[onnx]'" in find_signature(tmp_path / "m.onnx", "onnx").why


def test_what_is_told_counts_more_than_what_is_found(pt2, registry):
    mine = parse_signature(told(), "s.json")
    assert registry.push(pt2, "m", About(signature=mine)).signature == mine


def test_other_safetensors_tell_nothing_and_are_pushed(tmp_path, registry):
    save_file({"w": np.zeros(3)}, tmp_path / "m.safetensors")
    assert registry.push(tmp_path / "m.safetensors", "m").signature is None
    assert "weights alone" in find_signature(tmp_path / "m.safetensors", "safetensors").why


def deep(graph):
    graph["graph_module"] = {"graph": 3}


def zero(graph):
    graph["graph_module"]["graph"]["tensor_values"]["pixels"]["sizes"][0] = {"as_int": 0}


def complex_numbers(graph):
    graph["graph_module"]["graph"]["tensor_values"]["pixels"]["dtype"] = 10


def no_tensor(graph):
    specs = graph["graph_module"]["signature"]["input_specs"]
    specs[-1] = {"user_input": {"arg": {"as_int": 3}}}


@pytest.mark.parametrize("change", [deep, zero, complex_numbers, no_tensor, dict.clear])
def test_a_pt2_of_another_kind_is_pushed_without_a_signature(change, pt2, registry):
    path = rewritten(pt2, graph=change)
    assert registry.push(path, "m").signature is None
    assert "--signature" in find_signature(path, "pt2").why


@pytest.mark.parametrize("suffix", [".pt2", ".onnx", ".safetensors"])
@given(content=st.binary(max_size=200))
def test_nothing_in_a_file_is_an_error(suffix, content, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / f"m{suffix}"
    path.write_bytes(content)
    found = find_signature(path, suffix[1:])
    assert found.signature is None
    assert found.why


def test_a_bomb_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/models/model.json", b"[" * (40 << 20))
    assert "limit" in find_signature(tmp_path / "m.pt2", "pt2").why


def test_finding_a_signature_runs_nothing(tmp_path, pt2):
    path = rewritten(pt2, contents={"data/sample_inputs/model.pt": pickle.dumps(armed(tmp_path / "ran"))})
    assert find_signature(path, "pt2").signature.inputs == (PIXELS,)
    assert not (tmp_path / "ran").exists()


def test_versions_of_before_had_an_empty_one(registry, pt2):
    """A version that was pushed when signatures were free text, with none told, still counts."""
    from eco_ray.models.manifest import Manifest

    made = registry.push(pt2, "m")
    old = {**made.model_dump(mode="json"), "signature": {}}
    assert Manifest.model_validate(old).signature is None
