"""How many bytes a file takes once its zeros and its uneven values are coded without loss."""

from __future__ import annotations

import zlib
from pathlib import Path

from eco_ray.models.container import pack

_PIECE_BYTES = 1 << 20


def packed_size(path: Path) -> tuple[int, str]:
    """Bytes of the coded file, and what coded it: the container, or Huffman codes for what it does not take."""
    if path.suffix == ".safetensors":
        target = path.with_suffix(".ecoz")
        try:
            return pack(path, target).container_bytes, "container"
        finally:
            target.unlink(missing_ok=True)
    coder = zlib.compressobj(level=9, strategy=zlib.Z_HUFFMAN_ONLY)
    with path.open("rb") as file:
        size = sum(len(coder.compress(piece)) for piece in iter(lambda: file.read(_PIECE_BYTES), b""))
    return size + len(coder.flush()), "zlib, Huffman only"
