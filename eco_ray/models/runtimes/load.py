"""The runtime of a model's file or folder, as a registry gives it or as it lies there."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from eco_ray.core.ports import Runtime
from eco_ray.errors import EcoRayError, UsageError
from eco_ray.models.bundle import files_of, format_of
from eco_ray.models.find_signature import architecture_of
from eco_ray.models.manifest import Format
from eco_ray.models.runtimes.device import described, gives_back, open_device
from eco_ray.models.runtimes.rows import Tried, rows_apart
from eco_ray.models.signature import Signature

if TYPE_CHECKING:
    from eco_ray.models.digits import Digits
    from eco_ray.models.runtimes.chat import Chat
    from eco_ray.models.runtimes.embedding import Embedding
    from eco_ray.models.runtimes.onnx import Onnx
    from eco_ray.models.runtimes.program import Program

    Loaded = Digits | Program | Onnx | Chat | Embedding

_EXPORT = "export it with torch.export to .pt2"
#: libraries change what holds for the whole process while they make a model
_ONE_AT_A_TIME = threading.Lock()


def load_runtime(
    path: Path,
    name: str,
    version: int,
    *,
    format: Format | None = None,
    signature: Signature | None = None,
    main: str = "",
    threads: int = 1,
    device: str = "cpu",
    memory_bytes: int | None = None,
    device_note: str = "",
) -> Runtime:
    """A model that answers; `format`, `signature` and `main` as its manifest has them, or found out from its files.

    `path`: its file, or the folder with it and what belongs to it. `threads`: of one inference; with more than one, the
    CPU time of a request is no longer that of the thread that asks. `device`: `cpu`, `cuda` or `cuda:NUMBER`, told in
    the model's metadata with `device_note`, which says why it is that one. `memory_bytes`: of a GPU's that this process
    may take; None: all.

    Raises UsageError for a model that cannot be served, NotAllowedError for what is or may hold a pickle, DamagedError
    for a file that is none of its format, DeviceFullError where it has no room on its device, EcoRayError where an
    extra is not installed or the device is not there.
    """
    where = open_device(device, memory_bytes)
    file = path if not path.is_dir() else path / main if main else files_of(path)[0]
    kind = format or format_of(file, allow_pickle=False)
    if kind == "pickle":
        raise UsageError(
            f"{name}:{version} is a pickle, which runs code when it is loaded: it is never served; save it as "
            "safetensors, or export it with torch.export to .pt2"
        )
    with _ONE_AT_A_TIME:
        torch.set_num_threads(threads)
        runtime = _loaded(path, file, name, version, kind, signature, threads, where, memory_bytes)
        if isinstance(runtime, Tried):
            runtime.rows_apart = rows_apart(runtime)
    note = {"device_note": device_note} if device_note else {}
    runtime.metadata = {**runtime.metadata, "device": described(where), **note}
    return runtime


@gives_back
def _loaded(
    path: Path,
    file: Path,
    name: str,
    version: int,
    kind: Format,
    signature: Signature | None,
    threads: int,
    device: torch.device,
    memory_bytes: int | None,
) -> Loaded:
    # each imports what only such a model needs
    if kind == "pt2":
        from eco_ray.models.runtimes import program

        return program.load(file, name, version, signature, device)
    if kind == "onnx":
        from eco_ray.models.runtimes.onnx import Onnx

        return Onnx(file, name, version, signature, threads, device, memory_bytes)
    if kind == "gguf":
        from eco_ray.models.runtimes.chat import Chat

        return Chat(file, name, version, device=device)
    if not path.is_dir() or _is_ours(file):
        return _digits(file, name, version, device)
    if (path / "1_Pooling").is_dir():
        from eco_ray.models.runtimes.embedding import Embedding

        return Embedding(path, name, version, device)
    from eco_ray.models.runtimes.chat import Chat
    from eco_ray.models.runtimes.pretrained import read_config

    known = (read_config(path, "config.json") or {}).get("architectures") or []
    if not any(str(one).endswith(("ForCausalLM", "LMHeadModel")) for one in known):
        raise UsageError(
            f"{name}:{version} is of {', '.join(map(str, known)) or 'no known architecture'}; a folder that is served "
            f"holds a language model, or an embedding one with 1_Pooling; {_EXPORT}"
        )
    return Chat(path, name, version, device=device)


def _digits(file: Path, name: str, version: int, device: torch.device) -> Digits:
    from eco_ray.models.digits import Digits, ExplainedDigits
    from eco_ray.models.explain import has_captum, rounds

    try:
        architecture = architecture_of(file)
    except EcoRayError as error:
        raise UsageError(f"{name}:{version} cannot be served: {error}; {_EXPORT}") from None
    if architecture != "small-cnn":
        raise UsageError(
            f"{name}:{version} is of the architecture {architecture[:80]!r}, which is not served; {_EXPORT}"
        )
    explained = ExplainedDigits(file, name, version, device)
    return Digits(file, name, version, device) if rounds(explained.model) or not has_captum() else explained


def _is_ours(file: Path) -> bool:
    """Whether eco_ray wrote the header of a safetensors file."""
    try:
        architecture_of(file)
    except EcoRayError:
        return False
    return True
