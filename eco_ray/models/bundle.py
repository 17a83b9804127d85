"""What a version is made of: a file of a known format, or a folder as Hugging Face lays them out.

In such a folder are one model and what is needed to use it, a tokenizer and a configuration; no code, and no pickle.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path

from eco_ray.errors import EcoRayError, NotAllowedError, NotFoundError, UsageError
from eco_ray.models.content import check_content, pickle_in
from eco_ray.models.find_signature import embedding_signature
from eco_ray.models.manifest import PICKLES, SAFE_FORMATS, Format, is_extra
from eco_ray.models.signature import Signature

#: ends of the names of files that may stand beside a model
EXTRAS = (".json", ".jinja", ".md", ".model", ".txt")
#: how many, and how large one may be
MAX_EXTRAS = 64
MAX_EXTRA_BYTES = 64 << 20
_MAX_CONFIG_BYTES = 1 << 20


def files_of(folder: Path) -> tuple[Path, dict[str, Path]]:
    """The model in a folder, and the files beside it by their path in it; hidden ones are left out.

    Raises UsageError for a folder that is no model.
    """
    models: list[Path] = []
    extras: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder)
        if any(part.startswith(".") for part in path.parts) or (file.is_dir() and not file.is_symlink()):
            continue
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{file} is no plain file; copy what it stands for")
        if file.suffix in SAFE_FORMATS and len(path.parts) == 1:
            models.append(file)
        else:
            extras[path.as_posix()] = _checked(file, path.as_posix(), status.st_size)
    if len(models) != 1:
        raise UsageError(f"{folder} has {len(models)} models ({', '.join(SAFE_FORMATS)}) in it; give a folder with one")
    if len(extras) > MAX_EXTRAS:
        raise UsageError(f"{folder} has {len(extras)} files beside the model, limit {MAX_EXTRAS}; leave some out")
    return models[0], extras


def _checked(file: Path, path: str, size: int) -> Path:
    if file.suffix in PICKLES:
        raise UsageError(f"{file} is a pickle, which runs code when it is loaded; leave it out of the folder")
    if found := pickle_in(file, None):
        raise UsageError(f"{file} is a pickle, which runs code when it is loaded: it {found}; leave it out")
    if file.suffix not in EXTRAS:
        raise UsageError(f"{file} cannot stand beside a model: only {', '.join(EXTRAS)}; leave it out of the folder")
    if not is_extra(path):
        raise UsageError(f"the name {path[:120]!r} is not allowed: letters, digits, '.', '_', '-', 100 at most")
    if size > MAX_EXTRA_BYTES:
        raise UsageError(f"{file} has {size} bytes, limit {MAX_EXTRA_BYTES} beside a model")
    return file


def folder_signature(extras: dict[str, Path]) -> Signature | None:
    """Of a folder of sentence-transformers: texts in, a vector for each out; None for another folder."""
    config = extras.get("config.json")
    if config is None or "1_Pooling/config.json" not in extras or config.stat().st_size > _MAX_CONFIG_BYTES:
        return None
    try:
        return embedding_signature(json.loads(config.read_bytes())["hidden_size"])
    except (ValueError, KeyError, TypeError, RecursionError, EcoRayError):
        return None


def state_of(source: Path) -> tuple[int, int, int]:
    """What changes when a file does."""
    status = source.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def format_of(source: Path, allow_pickle: bool) -> Format:
    """The format of a model's file, by its name and its bytes.

    Raises UsageError, NotFoundError, DamagedError, and NotAllowedError for a pickle, whatever its name.
    """
    if not source.is_file():
        raise NotFoundError(f"no model file {source}")
    known = SAFE_FORMATS.get(source.suffix)
    if known is None and source.suffix not in PICKLES:
        raise UsageError(f"{source}: a model is a file that ends in {', '.join(SAFE_FORMATS)}")
    found = pickle_in(source, known) if known is not None else f"ends in {source.suffix}"
    if known is not None and not found:
        check_content(source, known)
        return known
    if not allow_pickle:
        raise NotAllowedError(
            f"{source} is a pickle, which runs code when it is loaded: it {found}. Save it as safetensors, or give "
            "--allow-pickle"
        )
    return "pickle"
