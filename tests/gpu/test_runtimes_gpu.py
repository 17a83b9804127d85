"""On a real GPU: models answer as on the CPU, within the memory that was declared, and their energy is counted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))

from eco_ray.core.cluster import Resources
from eco_ray.core.footprint import ReplicaPower, Signal, request_footprint
from eco_ray.core.power import PowerCurve
from eco_ray.core.text import Sampling
from eco_ray.errors import DeviceFullError, EcoRayError, UsageError
from eco_ray.models.cnn import SmallCNN
from eco_ray.models.quantize import quantize_model
from eco_ray.models.runtimes.arrays import to_bytes
from eco_ray.models.runtimes.device import must_work
from eco_ray.models.runtimes.load import load_runtime
from eco_ray.models.weights import save_model
from eco_ray.on_ray.replica_gpus import GpuShare, choose_device, visible_devices

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason=f"torch {torch.__version__} finds no GPU here"),
]
#: of convolutions, which cuDNN computes with 10 bits of mantissa (TF32)
TOLERANCE = 5e-3
BATCH = torch.export.Dim("batch", min=1, max=64)


def both(*args):
    return load_runtime(*args, device="cpu"), load_runtime(*args, device="cuda")


@pytest.mark.parametrize("scheme", [None, "int8-weight-only", "int8-dynamic", "int4-weight-only", "bf16"])
def test_digits(scheme, tmp_path):
    torch.manual_seed(0)
    model = SmallCNN()
    save_model(quantize_model(model, scheme) if scheme else model, tmp_path / "m.safetensors", {})
    here, there = both(tmp_path / "m.safetensors", "m", 1)
    assert {weight.device.type for weight in there.model.state_dict().values()} == {"cuda"}
    assert there.metadata["device"] == f"cuda:0 ({torch.cuda.get_device_name(0)})"
    images = {"image": np.random.default_rng(0).random((64, 28, 28), np.float32)}
    expected, got = here.infer(images), there.infer(images)
    np.testing.assert_allclose(got["probabilities"], expected["probabilities"], atol=4 * TOLERANCE)
    assert (got["label"].dtype, got["probabilities"].dtype) == (np.int64, np.float64)
    if scheme is None and hasattr(here, "explain"):
        target = int(expected["label"][0])
        first = {"image": images["image"][:1]}
        np.testing.assert_allclose(
            there.explain(first, target)["image"], here.explain(first, target)["image"], atol=0.01
        )


class Text(nn.Module):
    """Embeddings, attention, constants, and tensors that the program makes."""

    def __init__(self):
        super().__init__()
        self.rows, self.places = nn.Embedding(50, 16), nn.Embedding(8, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.scale = torch.tensor([2.0])

    def forward(self, tokens):
        x = self.rows(tokens) + self.places(torch.arange(tokens.shape[1])) * self.scale
        return {"state": self.layer(x).mean(1), "half": x.sum((1, 2)).bfloat16(), "odd": tokens % 2 == 1}


def test_a_program(tmp_path):
    torch.manual_seed(0)
    made = torch.export.export(Text().eval(), (torch.zeros(2, 8, dtype=torch.int64),), dynamic_shapes=({0: BATCH},))
    made.example_inputs = None
    torch.export.save(made, tmp_path / "m.pt2")
    here, there = both(tmp_path / "m.pt2", "m", 1)
    tokens = {here.inputs[0].name: np.random.default_rng(0).integers(0, 50, (5, 8))}
    expected, got = here.infer(tokens), there.infer(tokens)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype
        if array.dtype == np.float32:
            np.testing.assert_allclose(got[name], array, atol=TOLERANCE)
    with pytest.raises(UsageError, match="index 50"):
        there.infer({here.inputs[0].name: np.full((1, 8), 50)})
    must_work()
    assert there.infer(tokens)


def test_a_program_is_explained(tmp_path):
    pytest.importorskip("captum", reason="extra `explain` is not installed")
    from eco_ray.models.export import export_model

    torch.manual_seed(0)
    export_model(SmallCNN().eval(), torch.rand(2, 1, 28, 28), tmp_path / "m.pt2")
    here, there = both(tmp_path / "m.pt2", "m", 1)
    image = {here.inputs[0].name: np.random.default_rng(0).random((1, 1, 28, 28), np.float32)}
    (expected,), (got,) = here.explain(image, 3).values(), there.explain(image, 3).values()
    np.testing.assert_allclose(got, expected, atol=0.01)


def test_an_embedding(tmp_path):
    pytest.importorskip("transformers", reason="extra `text` is not installed")
    from text_cases import embedding_folder

    here, there = both(embedding_folder(tmp_path), "m", 1)
    texts = {"text": to_bytes(["the cat sat on the mat", "", "a dog ran"] * 20)}
    expected, got = here.infer(texts), there.infer(texts)
    np.testing.assert_allclose(got["embedding"], expected["embedding"], atol=TOLERANCE)
    assert (got["tokens"] == expected["tokens"]).all()


def test_a_chat(tmp_path):
    pytest.importorskip("transformers", reason="extra `text` is not installed")
    from text_cases import chat_folder

    from eco_ray.models.runtimes.chat import Chat

    folder = chat_folder(tmp_path)
    gpu = torch.device("cuda", 0)
    here, there = (Chat(folder, "m", 1, torch.float32, device) for device in (torch.device("cpu"), gpu))
    prompt = here.tokens("Say something")
    for sampling in (Sampling(24, temperature=0), Sampling(24, temperature=1.0, top_p=0.9, seed=7)):
        expected, got = ("".join(piece.text for piece in one.generate(prompt, sampling)) for one in (here, there))
        assert got == expected
    # what is best on the GPU answers, too
    best = load_runtime(folder, "m", 1, device="cuda")
    assert best.infer({"text_input": to_bytes(["Say"])})["text_output"].shape == (1,)
    assert best.metadata["dtype"] in ("bfloat16", "float32")


def test_onnx_computes_on_the_gpu_or_says_what_to_install(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="extra `onnx` is not installed")
    from eco_ray.models.export import export_onnx

    torch.manual_seed(0)
    export_onnx(SmallCNN().eval(), torch.rand(2, 1, 28, 28), tmp_path / "m.onnx")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(EcoRayError, match="onnxruntime-gpu"):
            load_runtime(tmp_path / "m.onnx", "m", 1, device="cuda")
        return
    here, there = both(tmp_path / "m.onnx", "m", 1)
    image = {here.inputs[0].name: np.random.default_rng(0).random((4, 1, 28, 28), np.float32)}
    (expected,), (got,) = here.infer(image).values(), there.infer(image).values()
    np.testing.assert_allclose(got, expected, atol=TOLERANCE)


class Large(nn.Module):
    """Its batch takes 4 MB a row."""

    def forward(self, rows):
        return rows.repeat(1, 1 << 20).sum(1, keepdim=True)


def test_declared_memory_is_enforced_and_given_back(tmp_path):
    made = torch.export.export(Large(), (torch.rand(2, 1),), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    made.example_inputs = None
    torch.export.save(made, tmp_path / "m.pt2")
    runtime = load_runtime(tmp_path / "m.pt2", "m", 1, device="cuda", memory_bytes=256 * 10**6)
    (name,) = (tensor.name for tensor in runtime.inputs)
    try:
        with pytest.raises(DeviceFullError, match=r"out of memory.*--gpu-memory"):
            runtime.infer({name: np.ones((256, 1), np.float32)})  # 1 GB
        assert torch.cuda.memory_reserved() < 128 * 10**6  # what cuBLAS keeps for itself is in it
        (answer,) = runtime.infer({name: np.ones((16, 1), np.float32)}).values()
        assert (answer == 1 << 20).all()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)


@pytest.mark.parametrize(("visible", "device"), [("0", "cuda:0"), ("", "cpu")])
def test_it_takes_what_ray_gave_it(visible, device):
    code = (
        "from eco_ray.core.cluster import Resources\n"
        "from eco_ray.on_ray.replica_gpus import choose_device\n"
        "print(choose_device(Resources(1.0, 1.0)).device)"
    )
    env = os.environ | {"CUDA_VISIBLE_DEVICES": visible, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    told = subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True, timeout=120
    )
    assert told.stdout.split() == [device]


def test_the_energy_of_the_gpu_is_in_the_estimate(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES") or "0")
    assert choose_device(Resources(1.0, 1.0)).device == "cuda:0"
    share = GpuShare(1.0, visible_devices()[:1])
    idle_w = share.power_w()
    if idle_w is None:
        pytest.skip("this GPU does not tell its power")
    x = torch.rand(4096, 4096, device="cuda")
    until_s = time.monotonic() + 3
    while time.monotonic() < until_s:
        x = torch.nn.functional.normalize(x @ x)
        torch.cuda.synchronize()
    busy_w = share.power_w()
    assert busy_w > idle_w > 0
    curve = PowerCurve((0.0, 1.0), (40.0, 100.0), "test")
    signal = Signal("DE", 360.0, "test")
    with_gpu, without = (
        request_footprint(0.1, 0.5, ReplicaPower(curve, 4.0, 1.0, 1.0, 1.0, watts), signal) for watts in (busy_w, 0.0)
    )
    assert with_gpu.energy_j - without.energy_j == pytest.approx(0.5 * busy_w)
