"""Models on a device: it is there or an error says what to do, all tensors go to it, and what is full gives back.

Torch's `meta` stands for a GPU: a device of its own, whose tensors have sizes and no values.
"""

from __future__ import annotations

import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from eco_ray.core.text import Sampling
from eco_ray.errors import DeviceFullError, EcoRayError, UsageError
from eco_ray.models.cnn import SmallCNN
from eco_ray.models.digits import Digits
from eco_ray.models.explain import explain_rows
from eco_ray.models.runtimes import program
from eco_ray.models.runtimes.arrays import to_bytes
from eco_ray.models.runtimes.device import gives_back, must_work, open_device
from eco_ray.models.runtimes.load import load_runtime
from eco_ray.models.weights import save_model

META = torch.device("meta")
BATCH = torch.export.Dim("batch", min=1, max=64)


@pytest.fixture
def two_gpus(monkeypatch):
    """A torch with two GPUs of 16 GB; the shares of their memory that were set."""
    shares = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=16 * 10**9))
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: shares.update({device: share})
    )
    return shares


@pytest.fixture
def fetched(monkeypatch):
    """Tensors that were fetched from meta, with values all of a sudden."""
    found = []

    def cpu(tensor):
        if tensor.device != META:
            return tensor
        found.append(tensor.device)
        return torch.zeros(tensor.shape, dtype=tensor.dtype)

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    return found


def watched(model):
    """The devices of all that the model's own layers are given."""
    found = set()

    def look(_module, args, kwargs):
        found.update(one.device for one in (*args, *kwargs.values()) if isinstance(one, torch.Tensor))

    for layer in model.modules():
        layer.register_forward_pre_hook(look, with_kwargs=True)
    return found


# -- which device ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "tpu", "meta", "gpu:0", "cuda:x"])
def test_what_is_no_device_is_refused(name):
    with pytest.raises(UsageError, match="give cpu, cuda or cuda:NUMBER"):
        open_device(name)


def test_a_gpu_that_is_not_there_is_an_error_with_its_cure(monkeypatch, two_gpus):
    with pytest.raises(EcoRayError, match=r"'cuda:2' is asked for, .* sees 2 GPUs; give cuda:0 to cuda:1"):
        open_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EcoRayError, match=r"'cuda' is asked for, and torch .* finds no GPU; install a torch with CUDA"):
        open_device("cuda")
    assert open_device("cpu", 10) == torch.device("cpu")


def test_the_declared_memory_is_all_that_torch_may_take(two_gpus):
    assert open_device("cuda") == torch.device("cuda", 0)
    assert two_gpus == {}
    open_device("cuda", 6 * 10**9)
    assert open_device("cuda:1", 20 * 10**9) == torch.device("cuda", 1)
    assert two_gpus == {torch.device("cuda", 0): 6 / 16, torch.device("cuda", 1): 1.0}


def test_the_description_tells_the_device(tmp_path):
    save_model(SmallCNN(), tmp_path / "m.safetensors", {"accuracy": 0.5})
    metadata = load_runtime(tmp_path / "m.safetensors", "m", 1).metadata
    assert (metadata["device"], metadata["accuracy"], "device_note" in metadata) == ("cpu", 0.5, False)
    noted = load_runtime(tmp_path / "m.safetensors", "m", 1, device_note="there is no GPU").metadata
    assert noted["device_note"] == "there is no GPU"


# -- a device that is full, or lost ------------------------------------------------------------------------------------


def test_what_a_full_device_had_taken_is_given_back(monkeypatch):
    taken, alive = [], []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(taken[0]()))

    @gives_back
    def fails():
        held = nn.Identity()
        taken.append(weakref.ref(held))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(DeviceFullError, match=r"Tried to allocate 2\.00 GiB; ask for less at once, or .*--gpu-memory"):
        fails()
    assert alive == [None]


def test_a_gpu_that_an_error_has_left_of_no_use_is_found(monkeypatch):
    must_work()  # a process without one

    def query():
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(query=query))
    with pytest.raises(EcoRayError, match="lost to this process: CUDA error: device-side assert triggered; start"):
        must_work()


def test_an_explanation_of_a_full_device_says_so():
    def model(_rows):
        raise torch.OutOfMemoryError("full")

    pytest.importorskip("captum", reason="extra `explain` is not installed")
    with pytest.raises(torch.OutOfMemoryError):
        explain_rows(model, np.zeros((1, 4), np.float32), 0)


# -- everything is there -----------------------------------------------------------------------------------------------


def test_the_digits_are_computed_on_the_device(tmp_path, fetched):
    save_model(SmallCNN(), tmp_path / "m.safetensors", {})
    runtime = Digits(tmp_path / "m.safetensors", "m", 1, META)
    given = watched(runtime.model)
    answer = runtime.infer({"image": np.zeros((2, 28, 28), np.float32)})
    assert given == {META} == set(fetched)
    assert answer["probabilities"].shape == (2, 10)


def test_explanations_are_made_on_the_device():
    pytest.importorskip("captum", reason="extra `explain` is not installed")
    given = []

    def model(rows):
        given.append(rows.device)
        raise torch.OutOfMemoryError("seen enough")

    with pytest.raises(torch.OutOfMemoryError):
        explain_rows(model, np.zeros((1, 4), np.float32), 0, device=META)
    assert given == [META]


class Many(nn.Module):
    """Weights, buffers, constants, and tensors that the program makes by itself."""

    def __init__(self):
        super().__init__()
        self.rows, self.constant = nn.Embedding(10, 4), torch.arange(4.0)
        self.register_buffer("kept", torch.ones(4))
        self.register_buffer("passing", torch.ones(4), persistent=False)

    def forward(self, tokens):
        x = self.rows(tokens) + self.kept + self.passing + self.constant + torch.tensor([1.0, 2.0, 3.0, 4.0])
        return x + torch.arange(4).float() + torch.zeros(4) + x.new_ones(4) + torch.eye(4)[0].to("cpu")


@pytest.fixture
def many(tmp_path):
    made = torch.export.export(Many().eval(), (torch.zeros(2, 3, dtype=torch.int64),), dynamic_shapes=({0: BATCH},))
    made.example_inputs = None
    torch.export.save(made, tmp_path / "m.pt2")
    return tmp_path / "m.pt2"


def test_a_program_is_moved_with_its_constants_and_what_it_makes(many, fetched):
    runtime = program.load(many, "m", 1, None, META)
    on_cpu = set()

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, call, types, args=(), kwargs=None):
            answer = call(*args, **(kwargs or {}))
            seen = [one.device for one in (answer, *args) if isinstance(one, torch.Tensor)]
            if set(seen) - {META}:
                on_cpu.add(str(call))
            return answer

    tokens = np.zeros((2, 3), np.int64)
    with Watch():
        (answer,) = runtime.infer({runtime.inputs[0].name: tokens}).values()
    assert answer.shape == (2, 3, 4)
    assert fetched == [META]
    # the input before it goes and as it goes, and the answer when it has come
    ends = {"aten.lift_fresh.default", "aten._to_copy.default", "aten.zeros.default", "aten.detach.default"}
    assert on_cpu <= ends


def test_an_index_that_would_cost_the_gpu_is_refused_before(many, fetched):
    runtime = program.load(many, "m", 1, None, META)
    (name,) = (tensor.name for tensor in runtime.inputs)
    for wrong in (10, -1):
        with pytest.raises(UsageError, match=rf"'{name}' has the index {wrong}; m has rows 0 to 9: send those"):
            runtime.infer({name: np.array([[0, wrong, 9]])})
    assert runtime.infer({name: np.array([[0, 9, 9]])})
    assert runtime.infer({name: np.zeros((1, 3), np.int64)})


def test_texts_are_embedded_on_the_device(tmp_path, fetched):
    pytest.importorskip("transformers", reason="extra `text` is not installed")
    from text_cases import embedding_folder

    from eco_ray.models.runtimes.embedding import Embedding

    runtime = Embedding(embedding_folder(tmp_path), "m", 1, META)
    assert {weight.device for weight in runtime._model.parameters()} == {META}
    given = []

    def model(input_ids, attention_mask):  # BERT looks whether the mask is all ones, and meta has no ones
        given.extend((input_ids.device, attention_mask.device))
        return SimpleNamespace(last_hidden_state=torch.zeros(*input_ids.shape, 16, device=META))

    runtime._model = model
    answer = runtime.infer({"text": to_bytes(["the cat", "a dog ran"])})
    assert set(given) == {META} == set(fetched)
    assert answer["embedding"].shape == (2, 16)


def test_a_chat_is_computed_on_the_device_and_chosen_here(tmp_path, fetched):
    pytest.importorskip("transformers", reason="extra `text` is not installed")
    from text_cases import chat_folder

    from eco_ray.models.runtimes.chat import Chat

    runtime = Chat(chat_folder(tmp_path), "m", 1, torch.float32, META)
    given = watched(runtime._model)
    pieces = list(runtime.generate(runtime.tokens("Say something"), Sampling(3, temperature=1.0, seed=1)))
    assert len(pieces) == 3
    assert given == {META}
    assert fetched == [META] * 3  # the scores of a token, each time


# -- onnxruntime -------------------------------------------------------------------------------------------------------


@pytest.fixture
def onnx_model(tmp_path):
    """Of as many zeros as its input says."""
    onnx = pytest.importorskip("onnx", reason="extra `onnx` is not installed")
    helper = onnx.helper
    shape = helper.make_tensor_value_info("size", onnx.TensorProto.INT64, [1])
    zeros = helper.make_tensor_value_info("zeros", onnx.TensorProto.FLOAT, [None])
    graph = helper.make_graph([helper.make_node("ConstantOfShape", ["size"], ["zeros"])], "g", [shape], [zeros])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_onnxruntime_without_cuda_is_an_error_and_never_the_cpu(onnx_model, two_gpus, monkeypatch):
    import onnxruntime

    with pytest.raises(EcoRayError, match=r"none for CUDA, and the model is to compute on cuda:0; .*onnxruntime-gpu"):
        load_runtime(onnx_model, "m", 1, device="cuda")
    real, asked, given = onnxruntime.InferenceSession, [], ["CPUExecutionProvider"]

    def session(path, options, providers):
        asked.append(providers)
        made = real(path, options, providers=["CPUExecutionProvider"])
        return SimpleNamespace(get_providers=lambda: given, get_inputs=made.get_inputs, get_outputs=made.get_outputs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H")
    with pytest.raises(EcoRayError, match=r"cannot load its part for CUDA"):
        load_runtime(onnx_model, "m", 1, device="cuda")
    given.insert(0, "CUDAExecutionProvider")
    assert load_runtime(onnx_model, "m", 1, device="cuda:1", memory_bytes=10**9).metadata["device"] == "cuda:1 (H)"
    assert asked[-1] == [("CUDAExecutionProvider", {"device_id": 1, "gpu_mem_limit": 10**9})]


def test_onnxruntime_without_memory_says_so(onnx_model):
    runtime = load_runtime(onnx_model, "m", 1)
    assert runtime.infer({"size": np.array([3])})["zeros"].tolist() == [0, 0, 0]
    with pytest.raises(DeviceFullError, match=r"Failed to allocate memory.*; ask for less at once"):
        runtime.infer({"size": np.array([1 << 46])})
