"""Trained models as safetensors files that say which architecture they belong to. No pickle.

The file's metadata: `format`, `architecture` (a name of ARCHITECTURES), `eco_ray_version`, `metadata` (a JSON object of
the caller, e.g. {"version": 1, "accuracy": 0.976}), of a quantised model `quantisation` (a name of quantize.SCHEMES),
and `sha256` of all that and the tensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from eco_ray import __version__
from eco_ray.errors import EcoRayError, NotFoundError, UsageError
from eco_ray.models.cnn import SmallCNN
from eco_ray.models.quantize import SCHEMES, quantisation_of, quantize_model
from eco_ray.whole_file import draft_of

FORMAT = "eco_ray.weights/1"
#: name in the file -> makes the untrained model
ARCHITECTURES: dict[str, Callable[[], torch.nn.Module]] = {"small-cnn": SmallCNN}


def save_model(model: torch.nn.Module, path: str | Path, metadata: Mapping[str, Any]) -> None:
    """Write the weights and JSON metadata; the file appears whole or not at all."""
    path = Path(path)
    architecture = next((name for name, make in ARCHITECTURES.items() if type(model) is make), None)
    if architecture is None:
        raise UsageError(
            f"a {type(model).__name__} cannot be saved: the known architectures are {', '.join(ARCHITECTURES)}; "
            "add it to ARCHITECTURES in eco_ray/models/weights.py"
        )
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    try:
        described = json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the metadata {dict(metadata)!r} is not JSON ({error}); give finite numbers and text"
        ) from error
    header = {
        "format": FORMAT,
        "architecture": architecture,
        "eco_ray_version": __version__,
        "metadata": described,
    }
    if scheme := quantisation_of(model):
        header["quantisation"] = scheme
    header["sha256"] = _digest(header, tensors)
    part = draft_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, metadata=header)
        with part.open("r+b") as file:
            _sort_metadata(file)
            os.fsync(file.fileno())
        part.rename(path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise EcoRayError(
            f"the model could not be written to {path}: {error}; free space or give another path"
        ) from error


def _sort_metadata(file: BinaryIO) -> None:
    """The library writes the metadata in an order that is another each time; sorted, one model is one file."""
    size = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(size))
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    file.seek(8)
    file.write(text.ljust(size))  # as many bytes as before: the same parts, in another order
    file.flush()


def load_model(path: str | Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The model, ready to infer, and its metadata with `architecture` and `eco_ray_version` added."""
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"no model file {path}; train one with `python jobs/train_mnist.py --out {path}`")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except (OSError, SafetensorError) as error:
        raise _damaged(path, str(error)) from error
    if header.get("format") != FORMAT:
        raise EcoRayError(
            f"{path} is a safetensors file of format {header.get('format')!r}, not {FORMAT!r}; write it with save_model"
        )
    architecture = header.get("architecture", "")
    if architecture not in ARCHITECTURES:
        raise EcoRayError(
            f"{path} holds the architecture {architecture!r}; this eco_ray {__version__} knows "
            f"{', '.join(ARCHITECTURES)}; use eco_ray {header.get('eco_ray_version', 'of a newer version')}"
        )
    written = header.pop("sha256", "none")
    if (found := _digest(header, tensors)) != written:
        raise _damaged(path, f"sha256 {found[:12]}..., not {written[:12]}...")
    model = ARCHITECTURES[architecture]()
    if scheme := header.get("quantisation"):
        if scheme not in SCHEMES:
            raise EcoRayError(
                f"{path} is quantised as {scheme!r}; this eco_ray {__version__} knows {', '.join(SCHEMES)}; "
                f"use eco_ray {header.get('eco_ray_version', 'of a newer version')}"
            )
        model = quantize_model(model, scheme)
    try:
        metadata = json.loads(header["metadata"])
        model.load_state_dict(tensors)
    except (KeyError, ValueError, RuntimeError) as error:
        raise _damaged(path, str(error)) from error
    model.eval()
    return model, {**metadata, "architecture": architecture, "eco_ray_version": header.get("eco_ray_version", "")}


def _digest(header: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    sha = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _damaged(path: Path, why: str) -> EcoRayError:
    return EcoRayError(f"{path} ({path.stat().st_size} bytes) is damaged: {why}; copy or train it again")
