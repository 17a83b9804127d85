"""How many bytes a file of tensors takes once its zeros and its uneven values are coded without loss."""

from __future__ import annotations

import zlib
from pathlib import Path

#: names what `packed_size` counts
CODER = "zlib, Huffman only"


def packed_size(path: Path) -> int:
    """Bytes of the file after Huffman coding, in pieces of 1 MiB."""
    coder = zlib.compressobj(level=9, strategy=zlib.Z_HUFFMAN_ONLY)
    size = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            size += len(coder.compress(piece))
    return size + len(coder.flush())
