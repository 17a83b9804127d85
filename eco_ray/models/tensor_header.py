"""The header of a safetensors file: names, types, shapes and places of its tensors, checked before it is believed.

Format: 8 bytes little-endian length, that many bytes of JSON, then the tensors' bytes without holes
(https://huggingface.co/docs/safetensors). The length is bounded before anything is allocated, and everything that the
JSON says must agree with the number of bytes that follow.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eco_ray.errors import DamagedError, EcoRayError, UsageError

#: of the JSON; 200,000 tensors take less
MAX_HEADER_BYTES = 32 << 20
#: commas and opening brackets of the JSON, each of which may become an object of Python: 200,000 tensors have fewer
MAX_HEADER_PARTS = 2_000_000
#: what every version of NumPy allows
MAX_DIMENSIONS = 32


@dataclass(frozen=True, slots=True)
class DType:
    """An element type of safetensors."""

    #: the name in the file
    name: str
    #: of one element
    bits: int
    #: bytes of the words in which the values are coded: 1, 2, 4 or 8
    word_bytes: int
    #: the sign bit is the highest one and an exponent follows
    is_float: bool
    #: NumPy's name of it, or that of package ml_dtypes; empty where several elements share a byte
    numpy_name: str


#: safetensors 0.7, in the order of its documentation
DTYPES = {
    dtype.name: dtype
    for dtype in (
        DType("BOOL", 8, 1, False, "bool"),
        DType("F4", 4, 1, False, ""),
        DType("F6_E2M3", 6, 1, False, ""),
        DType("F6_E3M2", 6, 1, False, ""),
        DType("U8", 8, 1, False, "uint8"),
        DType("I8", 8, 1, False, "int8"),
        DType("F8_E5M2", 8, 1, False, "float8_e5m2"),
        DType("F8_E4M3", 8, 1, False, "float8_e4m3fn"),
        DType("F8_E8M0", 8, 1, False, "float8_e8m0fnu"),
        DType("F8_E4M3FNUZ", 8, 1, False, "float8_e4m3fnuz"),
        DType("F8_E5M2FNUZ", 8, 1, False, "float8_e5m2fnuz"),
        DType("I16", 16, 2, False, "int16"),
        DType("U16", 16, 2, False, "uint16"),
        DType("F16", 16, 2, True, "float16"),
        DType("BF16", 16, 2, True, "bfloat16"),
        DType("I32", 32, 4, False, "int32"),
        DType("U32", 32, 4, False, "uint32"),
        DType("F32", 32, 4, True, "float32"),
        DType("C64", 64, 4, True, "complex64"),
        DType("I64", 64, 8, False, "int64"),
        DType("U64", 64, 8, False, "uint64"),
        DType("F64", 64, 8, True, "float64"),
    )
}
_BY_NUMPY_NAME = {dtype.numpy_name: dtype for dtype in DTYPES.values() if dtype.numpy_name}


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies among the bytes after the header, and what they mean."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def byte_count(self) -> int:
        """Bytes of the whole tensor."""
        return self.stop - self.start

    def numpy_dtype(self) -> np.dtype[Any]:
        """The type of its elements; UsageError if NumPy has none or package ml_dtypes is needed and missing."""
        name = self.dtype.numpy_name
        if not name:
            raise UsageError(
                f"tensor {self.name!r} is {self.dtype.name}, of which NumPy has no type; read its bytes with `words`"
            )
        if hasattr(np, name):
            return np.dtype(name).newbyteorder("<")
        try:
            import ml_dtypes

            dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        except (ImportError, AttributeError):
            raise UsageError(
                f"tensor {self.name!r} is {self.dtype.name}, which NumPy knows only with package ml_dtypes: "
                "install it, or read the bit patterns with `words`"
            ) from None
        return dtype


def dtype_of(array: NDArray[Any]) -> DType:
    """The safetensors type of an array; UsageError if there is none."""
    found = _BY_NUMPY_NAME.get(array.dtype.name)
    if found is None:
        raise UsageError(
            f"an array of {array.dtype} cannot be encoded; convert it to one of {', '.join(sorted(_BY_NUMPY_NAME))}"
        )
    return found


def make_header(name: str, dtype: DType, shape: Sequence[int], byte_count: int) -> bytes:
    """The JSON for a single tensor."""
    entry = {"dtype": dtype.name, "shape": list(shape), "data_offsets": [0, byte_count]}
    return json.dumps({name: entry}, separators=(",", ":")).encode()


def check_size(size: int, beyond: type[EcoRayError] = DamagedError) -> None:
    """Raise `beyond` for a header of more bytes than are read: our writer makes none, but other files may have one."""
    if size > MAX_HEADER_BYTES:
        raise beyond(f"a header of {size} bytes is above the limit of {MAX_HEADER_BYTES}; divide it into several files")


def parse_header(raw: bytes, beyond: type[EcoRayError] = DamagedError) -> list[Tensor]:
    """The tensors that a header names, in the order of their bytes, which are without holes.

    Raises DamagedError for anything that safetensors does not allow, `beyond` for what only our limits do not.
    """
    check_size(len(raw), beyond)
    parts = sum(map(raw.count, (b"[", b"{", b",")))
    if parts > MAX_HEADER_PARTS:
        raise beyond(
            f"a header of {parts} parts is above the limit of {MAX_HEADER_PARTS}; divide it into several files"
        )
    try:
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"the header is no JSON: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(document, dict):
        raise DamagedError("the header is no JSON object")
    metadata = document.pop("__metadata__", None)
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    ):
        raise DamagedError("__metadata__ is no object of texts")
    tensors = [_tensor(name, entry, beyond) for name, entry in document.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.stop))
    end = 0
    for tensor in tensors:
        if tensor.start != end:
            raise DamagedError(f"tensor {tensor.name[:80]!r} starts at byte {tensor.start}, not at {end}")
        end = tensor.stop
    return tensors


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _tensor(name: str, entry: Any, beyond: type[EcoRayError]) -> Tensor:
    shown = repr(name[:80])
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise DamagedError(f"tensor {shown} must have dtype, shape and data_offsets")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise DamagedError(f"tensor {shown} has the unknown type {str(entry['dtype'])[:40]!r}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _naturals(shape):
        raise DamagedError(f"tensor {shown} has an impossible shape")
    if len(shape) > MAX_DIMENSIONS:
        raise beyond(f"tensor {shown} has {len(shape)} dimensions, above the limit of {MAX_DIMENSIONS}; reshape it")
    if not _naturals(offsets) or len(offsets) != 2:
        raise DamagedError(f"tensor {shown} has impossible data_offsets")
    bits = math.prod(shape) * dtype.bits
    if bits % 8 or offsets[1] - offsets[0] != bits // 8:
        raise DamagedError(f"tensor {shown} of shape {shape} needs {bits / 8:g} bytes, not {offsets[1] - offsets[0]}")
    return Tensor(name, dtype, tuple(shape), offsets[0], offsets[1])


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)
