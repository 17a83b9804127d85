"""How many bytes a file takes once its zeros and its uneven values are coded without loss."""

from __future__ import annotations

import importlib
import importlib.util
import zlib
from pathlib import Path

_CONTAINER = "eco_ray.models.container"
_PIECE_BYTES = 1 << 20


def packed_size(path: Path) -> tuple[int, str]:
    """Bytes of the coded file, and what coded it: the container, or Huffman codes where there is none for the file."""
    if path.suffix == ".safetensors" and importlib.util.find_spec(_CONTAINER) is not None:
        target = path.with_suffix(".ecoz")
        try:
            importlib.import_module(_CONTAINER).pack(path, target)
            return target.stat().st_size, "container"
        finally:
            target.unlink(missing_ok=True)
    coder = zlib.compressobj(level=9, strategy=zlib.Z_HUFFMAN_ONLY)
    with path.open("rb") as file:
        size = sum(len(coder.compress(piece)) for piece in iter(lambda: file.read(_PIECE_BYTES), b""))
    return size + len(coder.flush()), "zlib, Huffman only"
