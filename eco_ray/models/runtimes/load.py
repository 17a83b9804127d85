"""The runtime of a model's file or folder, as a registry gives it or as it lies there."""

from __future__ import annotations

import threading
from pathlib import Path

import torch

from eco_ray.core.ports import Runtime
from eco_ray.errors import EcoRayError, UsageError
from eco_ray.models.bundle import files_of, format_of
from eco_ray.models.find_signature import architecture_of
from eco_ray.models.manifest import Format
from eco_ray.models.signature import Signature

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
) -> Runtime:
    """A model that answers; `format`, `signature` and `main` as its manifest has them, or found out from its files.

    `path`: its file, or the folder with it and what belongs to it. `threads`: of one inference; with more than one, the
    CPU time of a request is no longer that of the thread that asks.

    Raises UsageError for a model that cannot be served, NotAllowedError for what is or may hold a pickle, DamagedError
    for a file that is none of its format, EcoRayError where an extra is not installed.
    """
    file = path if not path.is_dir() else path / main if main else files_of(path)[0]
    kind = format or format_of(file, allow_pickle=False)
    if kind == "pickle":
        raise UsageError(
            f"{name}:{version} is a pickle, which runs code when it is loaded: it is never served; save it as "
            "safetensors, or export it with torch.export to .pt2"
        )
    with _ONE_AT_A_TIME:
        torch.set_num_threads(threads)
        return _loaded(path, file, name, version, kind, signature, threads)


def _loaded(
    path: Path, file: Path, name: str, version: int, kind: Format, signature: Signature | None, threads: int
) -> Runtime:
    # each imports what only such a model needs
    if kind == "pt2":
        from eco_ray.models.runtimes import program

        return program.load(file, name, version, signature)
    if kind == "onnx":
        from eco_ray.models.runtimes.onnx import Onnx

        return Onnx(file, name, version, signature, threads)
    if kind == "gguf":
        from eco_ray.models.runtimes.chat import Chat

        return Chat(file, name, version)
    if not path.is_dir() or _is_ours(file):
        return _digits(file, name, version)
    if (path / "1_Pooling").is_dir():
        from eco_ray.models.runtimes.embedding import Embedding

        return Embedding(path, name, version)
    from eco_ray.models.runtimes.chat import Chat
    from eco_ray.models.runtimes.pretrained import read_config

    known = (read_config(path, "config.json") or {}).get("architectures") or []
    if not any(str(one).endswith(("ForCausalLM", "LMHeadModel")) for one in known):
        raise UsageError(
            f"{name}:{version} is of {', '.join(map(str, known)) or 'no known architecture'}; a folder that is served "
            f"holds a language model, or an embedding one with 1_Pooling; {_EXPORT}"
        )
    return Chat(path, name, version)


def _digits(file: Path, name: str, version: int) -> Runtime:
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
    explained = ExplainedDigits(file, name, version)
    return Digits(file, name, version) if rounds(explained.model) or not has_captum() else explained


def _is_ours(file: Path) -> bool:
    """Whether eco_ray wrote the header of a safetensors file."""
    try:
        architecture_of(file)
    except EcoRayError:
        return False
    return True
