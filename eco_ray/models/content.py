"""What a file is by its bytes, whatever its name says: pickles, which run code when they are loaded, are found out.

| format | what is looked at |
|---|---|
| all | a pickle's first bytes (protocol 2 to 5, as torch and Python write them); `.pkl` in a zip, as torch.save makes |
| safetensors | the whole header, which has to fit the file |
| pt2 | names in the archive: plain weights and a graph, nothing that torch unpickles or loads as code |
| onnx | the fields of the outermost message, through the whole file |
| gguf | the first four bytes, and a version |

None of the file is run. It keeps a pickle from being taken for a safe file; it does not say that a model is good.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO

from eco_ray.errors import UsageError
from eco_ray.models.container import check_safetensors
from eco_ray.models.manifest import Format
from eco_ray.models.pt2 import pickled_in

_ZIP = b"PK\x03\x04"
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
#: fields of ModelProto (onnx.proto): number -> wire type, 0 for numbers and 2 for bytes
_ONNX_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
_ONNX_GRAPH = 7
_GGUF = re.compile(rb"GGUF[\x01-\x09]\x00\x00\x00")


def pickle_in(path: Path, kind: Format | None) -> str:
    """What in a file of a format (None: of none) is a pickle, or code that is loaded as one; empty: nothing known.

    Raises DamagedError for an archive that cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(9)
    if kind == "safetensors" and start[8:] == b"{":  # its length may begin as a pickle does; `check_content` looks on
        return ""
    if _PICKLE.match(start):
        return "begins as a pickle does"
    return pickled_in(path, whole=kind == "pt2") if start.startswith(_ZIP) else ""


def check_content(path: Path, kind: Format) -> None:
    """Raises UsageError or DamagedError for a file that is not of its format."""
    if kind == "safetensors":
        check_safetensors(path)
    elif kind == "pt2":
        with path.open("rb") as file:
            if file.read(len(_ZIP)) != _ZIP:
                raise UsageError(f"{path} is no .pt2 file: it is no zip archive")
    elif kind == "onnx":
        with path.open("rb") as file:
            if not _is_onnx(file, os.fstat(file.fileno()).st_size):
                raise UsageError(f"{path} is no ONNX file: its bytes are no model's")
    elif kind == "gguf":
        with path.open("rb") as file:
            if not _GGUF.match(file.read(8)):
                raise UsageError(f"{path} is no GGUF file: it does not begin with these letters and a version")


def _is_onnx(file: BinaryIO, size: int) -> bool:
    """Whether the fields of the outermost message fill the file, and one of them is the graph."""
    graph = False
    while file.tell() < size:
        key = _varint(file)
        if key is None or _ONNX_FIELDS.get(key >> 3) != key & 7:
            return False
        length = _varint(file)
        if length is None:
            return False
        if key & 7:
            file.seek(length, os.SEEK_CUR)
        graph |= key >> 3 == _ONNX_GRAPH
    return graph and file.tell() == size


def _varint(file: BinaryIO) -> int | None:
    """A number of protobuf: 7 bits a byte, the lowest first, at most 64 bits."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return None
