"""Programs of torch.export and ONNX files: inputs and outputs by name, of every type, and explained where they can."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from eco_ray.core.ports import Explains
from eco_ray.errors import UsageError
from eco_ray.models.cnn import SmallCNN
from eco_ray.models.export import export_model
from eco_ray.models.quantize import quantize_model
from eco_ray.models.runtimes import load, program
from eco_ray.models.runtimes.load import load_runtime
from eco_ray.models.signature import parse_signature
from eco_ray.models.weights import save_model
from eco_ray.service.batches import is_open

torch.set_num_threads(1)
BATCH = torch.export.Dim("batch", min=1, max=64)
TYPES = {"FP16": torch.float16, "BF16": torch.bfloat16, "FP32": torch.float32, "FP64": torch.float64}


def exported(path, model, *given, **shapes):
    """A .pt2 file of any inputs."""
    made = torch.export.export(model.eval(), given, **shapes)
    made.example_inputs = None
    torch.export.save(made, path)
    return path


class Two(nn.Module):
    """Tokens and a dictionary in, a dictionary of several types out."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Embedding(10, 4)

    def forward(self, tokens, more):
        return {"sum": self.rows(tokens).sum(1) + more["b"], "half": (more["b"] * 2).bfloat16(), "odd": tokens % 2 == 1}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    given = torch.zeros(2, 3, dtype=torch.int64), {"b": torch.rand(2, 4)}
    shapes = {"dynamic_shapes": ({0: BATCH}, {"b": {0: BATCH}})}
    return exported(tmp_path_factory.mktemp("two") / "two.pt2", Two(), *given, **shapes)


def told(kind="", labels=(), **ends):
    specs = {
        what: [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in of]
        for what, of in ends.items()
    }
    return parse_signature({**specs, "kind": kind, "labels": list(labels)}, "s")


def test_inputs_and_outputs_go_by_name_and_keep_their_types(two):
    runtime = load_runtime(two, "two", 3)
    assert [(one.name, one.datatype, one.shape) for one in runtime.inputs] == [
        ("tokens", "INT64", (-1, 3)),
        ("more_b", "FP32", (-1, 4)),
    ]
    assert [(one.datatype, one.shape) for one in runtime.outputs] == [
        ("FP32", (-1, 4)),
        ("BF16", (-1, 4)),
        ("BOOL", (-1, 3)),
    ]
    tokens, floats = np.array([[1, 2, 3]] * 5), np.random.default_rng(0).random((5, 4), np.float32)
    tokens.flags.writeable = floats.flags.writeable = False
    answer = list(runtime.infer({"more_b": floats, "tokens": tokens}).values())
    assert [one.dtype for one in answer] == [np.float32, np.uint16, bool]
    np.testing.assert_allclose((answer[1].astype(np.uint32) << 16).view(np.float32), floats * 2, rtol=0.01)
    assert answer[2].tolist() == [[True, False, True]] * 5
    assert (runtime.name, runtime.version, runtime.deterministic) == ("two", 3, True)
    assert not isinstance(runtime, Explains)


def test_a_signature_gives_the_names(two):
    inputs = [("ids", "INT64", [-1, 3]), ("extra", "FP32", [-1, 4])]
    outputs = [("x", "FP32", [-1, 4]), ("y", "BF16", [-1, 4]), ("z", "BOOL", [-1, 3])]
    runtime = load_runtime(two, "two", 1, signature=told("classifier", inputs=inputs, outputs=outputs))
    answer = runtime.infer({"ids": np.zeros((1, 3), np.int64), "extra": np.ones((1, 4), np.float32)})
    assert list(answer) == ["x", "y", "z"]
    assert runtime.kind == "classifier"
    turned = told(inputs=[("more_b", "FP32", [-1, 4]), ("tokens", "INT64", [-1, 3])], outputs=outputs)
    assert [one.name for one in load_runtime(two, "two", 1, signature=turned).inputs] == ["tokens", "more_b"]
    for wrong, match in (
        (inputs[:1], "the inputs ids, the model tokens, more_b"),
        ([("tokens", "INT64", [-1, 3]), inputs[1]], "name all of those, or none"),
        ([("ids", "INT32", [-1, 3]), inputs[1]], "'ids' as INT32 "),
        ([("ids", "INT64", [-1, 7]), inputs[1]], r"the model as INT64 \[-1, 3\]"),
        ([("ids", "INT64", [3]), inputs[1]], r"'ids' as INT64 \[3\]"),
    ):
        with pytest.raises(UsageError, match=match):
            load_runtime(two, "two", 1, signature=told(inputs=wrong, outputs=outputs))


class Sums(nn.Module):
    """Its first dimension is time."""

    def forward(self, x):
        return x.cumsum(0)


class Smooths(nn.Module):
    """The same, with each moment beside those ten before."""

    def forward(self, x):
        return x + torch.roll(x, 10, 0) * (torch.arange(x.shape[0]) >= 10)[:, None]


@pytest.mark.parametrize(
    ("model", "shape", "apart"),
    [
        (nn.Linear(4, 3), (2, 4), True),
        (nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Softmax(1)), (2, 4), True),
        (Sums(), (2,), False),
        (Smooths(), (2, 4), False),
        (nn.Softmax(0), (2, 4), False),
        (nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0), (2, 1, 8), False),  # [words, batch, size]
    ],
)
def test_rows_that_see_each_other_are_no_batch(model, shape, apart, tmp_path):
    time = torch.export.Dim("time", min=1, max=64)
    path = exported(tmp_path / "m.pt2", model, torch.rand(shape), dynamic_shapes=({0: time},))
    runtime = load_runtime(path, "m", 1)
    assert runtime.inputs[0].shape[0] == -1
    assert is_open(runtime) == apart


def test_a_batch_of_several_types_is_one(two):
    assert is_open(load_runtime(two, "two", 1))


def test_a_batch_size_that_the_program_fixes_stays(tmp_path):
    path = exported(tmp_path / "m.pt2", nn.Linear(4, 3), torch.rand(1, 4))
    for signature in (None, told(inputs=[("x", "FP32", [-1, 4])], outputs=[("y", "FP32", [-1, 3])])):
        runtime = load_runtime(path, "m", 1, signature=signature)
        assert (runtime.inputs[0].shape, runtime.outputs[0].shape) == ((1, 4), (1, 3))
        assert isinstance(runtime, Explains)


def test_what_does_not_fit_is_the_asker_s_mistake(two):
    runtime = load_runtime(two, "two", 1)

    def ask(tokens, floats):
        runtime.infer({"tokens": tokens, "more_b": np.zeros(floats, np.float32)})

    with pytest.raises(UsageError, match=r"two does not take these sizes: .* equal to 2, but got 3"):
        ask(np.zeros((2, 3), np.int64), (3, 4))
    with pytest.raises(UsageError, match="<= 64, but got 65"):
        ask(np.zeros((65, 3), np.int64), (65, 4))
    with pytest.raises(UsageError, match=r"two does not take these values: index out of range"):
        ask(np.full((1, 3), 10), (1, 4))


def test_chance_in_a_program_is_told(tmp_path):
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    runtime = load_runtime(exported(tmp_path / "m.pt2", Noisy(), torch.rand(2, 4)), "m", 1)
    assert not runtime.deterministic
    x = np.zeros((2, 4), np.float32)
    assert (*runtime.infer({"x": x}).values(),)[0].tolist() != (*runtime.infer({"x": x}).values(),)[0].tolist()


@pytest.mark.parametrize("datatype", TYPES)
def test_floats_of_every_type_are_answered_and_explained(datatype, tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(4, 3).to(TYPES[datatype])
    export_model(model, torch.rand(2, 4, dtype=TYPES[datatype]), tmp_path / "m.pt2")
    runtime = load_runtime(tmp_path / "m.pt2", "m", 1)
    x = torch.randn(3, 4).to(TYPES[datatype])
    sent = x.view(torch.uint16).numpy() if datatype == "BF16" else x.numpy()
    (answer,) = runtime.infer({"input": sent}).values()
    got = torch.from_numpy(answer)
    assert torch.equal(got.view(torch.bfloat16) if datatype == "BF16" else got, model(x))
    assert isinstance(runtime, Explains)
    found = runtime.explain({"input": sent}, 2)["input"]
    np.testing.assert_allclose(found, (model.weight[2] * x).detach().double(), rtol=0.03, atol=0.01)
    predicted = model(x).argmax(1)
    found = runtime.explain({"input": sent}, None)["input"]
    np.testing.assert_allclose(found, (model.weight[predicted] * x).detach().double(), rtol=0.03, atol=0.01)


class Rounding(nn.Module):
    def forward(self, x):
        return x.round()


class Cut(nn.Module):
    """No gradient comes through."""

    def forward(self, x):
        return (x > 0).float()


@pytest.mark.parametrize(("model", "shape"), [(Rounding(), (2, 4)), (Cut(), (2, 4)), (nn.Identity(), (2, 4, 4))])
def test_programs_without_gradients_do_not_explain(model, shape, tmp_path):
    path = exported(tmp_path / "m.pt2", model, torch.rand(*shape), dynamic_shapes=({0: BATCH},))
    runtime = load_runtime(path, "m", 1)
    assert not isinstance(runtime, Explains)
    assert not hasattr(runtime, "explain")


def test_digits_are_explained_one_by_one(tmp_path):
    torch.manual_seed(0)
    save_model(SmallCNN(), tmp_path / "m.safetensors", {})
    runtime = load_runtime(tmp_path / "m.safetensors", "mnist", 1)
    assert isinstance(runtime, Explains)
    grey = np.random.default_rng(0).integers(0, 256, (2, 28, 28), np.uint8)
    found = runtime.explain({"image": grey}, 3)["image"]
    assert found.shape == grey.shape
    with torch.no_grad():
        scores = [
            runtime.model(torch.from_numpy(one))[:, 3]
            for one in (runtime._pixels(grey), np.zeros((1, 1, 28, 28), "f4"))
        ]
    np.testing.assert_allclose(found.sum((1, 2)), scores[0] - scores[1], rtol=0.05, atol=1e-3)
    floats = runtime.explain({"image": (grey / np.float32(255)).reshape(2, 1, 28, 28)}, 3)["image"]
    np.testing.assert_allclose(floats.reshape(found.shape), found, atol=1e-6)
    with pytest.raises(UsageError, match="scale them"):
        runtime.explain({"image": np.full((1, 28, 28), 2.0, np.float32)}, 3)


@pytest.mark.parametrize(("scheme", "explains"), [("int8-weight-only", True), ("int8-dynamic", False)])
def test_quantised_digits_explain_where_nothing_rounds(scheme, explains, tmp_path):
    save_model(quantize_model(SmallCNN().eval(), scheme), tmp_path / "m.safetensors", {})
    runtime = load_runtime(tmp_path / "m.safetensors", "mnist", 1)
    assert isinstance(runtime, Explains) == explains
    assert runtime.infer({"image": np.zeros((1, 28, 28), np.uint8)})["label"].shape == (1,)


def test_without_captum_nothing_explains(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "has_captum", lambda: False)
    monkeypatch.setattr("eco_ray.models.explain.has_captum", lambda: False)
    export_model(nn.Linear(4, 3), torch.rand(2, 4), tmp_path / "m.pt2")
    save_model(SmallCNN(), tmp_path / "m.safetensors", {})
    for file in ("m.pt2", "m.safetensors"):
        assert not isinstance(load_runtime(tmp_path / file, "m", 1), Explains)


# -- ONNX --------------------------------------------------------------------------------------------------------------


def onnx_file(path, nodes, inputs, outputs):
    """A graph of nodes (operator, inputs, outputs, attributes), of inputs and outputs (name, type, shape)."""
    import onnx
    from onnx import helper

    kinds = {"FP32": onnx.TensorProto.FLOAT, "BYTES": onnx.TensorProto.STRING, "BF16": onnx.TensorProto.BFLOAT16}
    ends = [
        [helper.make_tensor_value_info(name, kinds[t], shape) for name, t, shape in one] for one in (inputs, outputs)
    ]
    made = [helper.make_node(kind, list(a), list(b), **more) for kind, a, b, more in nodes]
    model = helper.make_model(helper.make_graph(made, "g", *ends), opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    onnx.save(model, path)
    return path


ADDS = [("Add", "ab", "s", {}), ("Mul", "ab", "p", {})], [("a", "FP32", ["n", 2]), ("b", "FP32", ["n", 2])]


@pytest.fixture
def adds(tmp_path):
    pytest.importorskip("onnxruntime", reason="extra `onnx` is not installed")
    return onnx_file(tmp_path / "m.onnx", *ADDS, [("s", "FP32", ["n", 2]), ("p", "FP32", ["n", 2])])


def test_onnx_answers_all_outputs_by_name(adds):
    runtime = load_runtime(adds, "m", 1)
    assert [(one.name, one.shape) for one in runtime.inputs] == [("a", (-1, 2)), ("b", (-1, 2))]
    a, b = np.random.default_rng(0).random((2, 3, 2), np.float32)
    answer = runtime.infer({"b": b, "a": a})
    np.testing.assert_allclose(answer["s"], a + b)
    np.testing.assert_allclose(answer["p"], a * b)
    assert runtime.deterministic
    assert is_open(runtime)
    assert not isinstance(runtime, Explains)
    with pytest.raises(UsageError, match="the model does not take these inputs"):
        runtime.infer({"a": np.zeros((1, 3), np.float32), "b": b})


def test_onnx_with_a_signature_of_its_own(adds):
    outputs = [("sum", "FP32", [-1, 2]), ("product", "FP32", [-1, 2])]
    signature = told(inputs=[("left", "FP32", [-1, 2]), ("right", "FP32", [-1, 2])], outputs=outputs)
    ones = np.ones((1, 2), np.float32)
    answer = load_runtime(adds, "m", 1, signature=signature).infer({"left": ones * 3, "right": ones})
    assert answer["product"].tolist() == [[3, 3]]


def test_onnx_with_texts_and_with_chance(tmp_path):
    pytest.importorskip("onnxruntime", reason="extra `onnx` is not installed")
    twice = [("Concat", "tt", "u", {"axis": 0})]
    texts = onnx_file(tmp_path / "t.onnx", twice, [("t", "BYTES", [1])], [("u", "BYTES", [2])])
    runtime = load_runtime(texts, "t", 1)
    assert runtime.infer({"t": np.array(["né".encode()], object)})["u"].tolist() == ["né".encode()] * 2
    with pytest.raises(UsageError, match="UTF-8"):
        runtime.infer({"t": np.array([b"\xff"], object)})
    chance = [("RandomUniformLike", "a", "r", {})]
    noisy = onnx_file(tmp_path / "r.onnx", chance, ADDS[1][:1], [("r", "FP32", ["n", 2])])
    assert not load_runtime(noisy, "r", 1).deterministic
    half = onnx_file(tmp_path / "h.onnx", [("Identity", "a", "r", {})], [("a", "BF16", [2])], [("r", "BF16", [2])])
    with pytest.raises(UsageError, match="'a' is BF16"):
        load_runtime(half, "h", 1)


def test_onnx_that_tells_no_signature_needs_one(adds, tmp_path, monkeypatch):
    monkeypatch.setattr("eco_ray.models.find_signature.MAX_ONNX_BYTES", 10)
    monkeypatch.setattr("eco_ray.models.runtimes.onnx.MAX_ONNX_BYTES", 10)
    with pytest.raises(UsageError, match="--signature FILE"):
        load_runtime(adds, "m", 1)
    outputs = [("s", "FP32", [-1, 2]), ("p", "FP32", [-1, 2])]
    inputs = [("a", "FP32", [-1, 2]), ("b", "FP32", [-1, 2])]
    runtime = load_runtime(adds, "m", 1, signature=told(inputs=inputs, outputs=outputs))
    ones = np.ones((1, 2), np.float32)
    assert runtime.infer({"a": ones, "b": ones})["s"].tolist() == [[2, 2]]
    assert not runtime.deterministic
    with pytest.raises(UsageError, match="the outputs s, the model s, p"):
        load_runtime(adds, "m", 1, signature=told(inputs=inputs, outputs=outputs[:1]))


# -- which runtime -----------------------------------------------------------------------------------------------------


def test_what_cannot_be_served_says_why(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=r"holds weights alone.*torch\.export to \.pt2"):
        load_runtime(tmp_path / "w.safetensors", "w", 1)
    save_file({"w": torch.zeros(2)}, tmp_path / "n.safetensors", {"format": "eco_ray.weights/1", "architecture": "big"})
    with pytest.raises(UsageError, match=r"architecture 'big', which is not served.*\.pt2"):
        load_runtime(tmp_path / "n.safetensors", "n", 1)
    torch.save({}, tmp_path / "m.pt")
    with pytest.raises(UsageError, match="never served"):
        load_runtime(tmp_path / "m.pt", "m", 1, format="pickle")
    with pytest.raises(load.EcoRayError, match="a pickle"):
        load_runtime(tmp_path / "m.pt", "m", 1)

    class Three(nn.Module):
        def forward(self, x, times: int):
            return x * times

    constant = exported(tmp_path / "c.pt2", Three(), torch.rand(2, 4), 3)
    with pytest.raises(UsageError, match="c:1 takes more than tensors"):
        load_runtime(constant, "c", 1)


def test_a_folder_serves_its_model(tmp_path):
    export_model(nn.Linear(4, 3), torch.rand(2, 4), tmp_path / "m.pt2")
    (tmp_path / "README.md").write_text("about it")
    assert load_runtime(tmp_path, "m", 1).inputs[0].name == "input"
    assert load_runtime(tmp_path, "m", 1, format="pt2", main="m.pt2").inputs[0].name == "input"
    save_model(SmallCNN(), tmp_path / "m.safetensors", {})
    assert load_runtime(tmp_path, "m", 1, format="safetensors", main="m.safetensors").kind == "image-classifier"
