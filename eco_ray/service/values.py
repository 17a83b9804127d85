"""Tensors of the V2 protocol as JSON values and as bytes, of every datatype.

Sizes are compared with the declared shape before an array is made. Binary tensors are little-endian; BOOL is a byte of
0 or 1; BYTES are elements of four bytes of length and their bytes; BF16 is kept as its bits in uint16.
https://github.com/kserve/open-inference-protocol, and its binary tensor data extension.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from eco_ray.service.problems import Problem, shown

Array = np.ndarray[Any, Any]

#: BYTES are arrays of objects
DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}  # fmt: skip
_PREFIX_BYTES = 4
#: Python types of JSON values, and their name for an error
_NUMBERS = (frozenset((int, float)), "numbers")
_JSON_TYPES: Mapping[str, tuple[frozenset[type], str]] = {
    "BOOL": (frozenset((bool,)), "true or false"),
    "BYTES": (frozenset((str,)), "strings"),
    **dict.fromkeys(("FP16", "BF16", "FP32", "FP64"), _NUMBERS),
}
_WHOLE = (frozenset((int,)), "whole numbers")


def from_json(name: str, datatype: str, shape: Sequence[int], data: object, *, nonfinite: bool = False) -> Array:
    """The array of a tensor in JSON: a flat list, or one nested as the shape says."""
    values = _flat(name, shape, data)
    if len(values) != (wanted := math.prod(shape)):
        raise _wrong(f"{len(values)} values in {shown(name)}; its shape {list(shape)} needs {wanted}")
    types, words = _JSON_TYPES.get(datatype, _WHOLE)
    if odd := set(map(type, values)) - types:
        found = next(value for value in values if type(value) in odd)
        raise _wrong(f"{shown(found)} in {shown(name)}; {datatype} takes {words}")
    try:
        array = _array(datatype, values)
    except (OverflowError, ValueError) as error:
        what = shown(str(error), 200)
        raise _wrong(f"values of {shown(name)} do not fit {datatype} ({what}); send smaller ones") from None
    return _checked(name, datatype, array, nonfinite).reshape(shape)


def from_bytes(name: str, datatype: str, shape: Sequence[int], raw: memoryview, *, nonfinite: bool = False) -> Array:
    """The array of a binary tensor; of numbers it is a view of `raw` wherever that is aligned."""
    wanted = math.prod(shape)
    if datatype == "BYTES":
        return _elements(name, wanted, raw).reshape(shape)
    dtype = DTYPES[datatype]
    if len(raw) != wanted * dtype.itemsize:
        detail = f"{len(raw)} bytes in {shown(name)}; {datatype} of shape {list(shape)} is {wanted * dtype.itemsize}"
        raise _wrong(f"{detail}; send as many as binary_data_size says")
    if datatype == "BOOL" and wanted and (top := np.frombuffer(raw, np.uint8).max()) > 1:
        raise _wrong(f"byte {top} in {shown(name)}; BOOL takes 0 and 1")
    array = np.require(np.frombuffer(raw, dtype), requirements="A")
    return _checked(name, datatype, array, nonfinite).reshape(shape)


def to_json(name: str, datatype: str, array: Array) -> list[Any]:
    """An output as a flat list. Raises Problem for what JSON cannot say."""
    if datatype == "BYTES":
        try:
            return [bytes(value).decode() for value in array.reshape(-1)]
        except UnicodeDecodeError:
            detail = f"output {name!r} is not UTF-8, which JSON needs; ask for it with binary_data true"
            raise Problem(422, "not text", detail) from None
    if datatype == "BF16":
        array = (array.astype("<u4") << 16).view("<f4")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        detail = f"output {name!r} has NaN or infinities, which JSON cannot say; ask for it with binary_data true"
        raise Problem(422, "not finite", detail)
    values: list[Any] = array.reshape(-1).tolist()
    return values


def to_bytes(datatype: str, array: Array) -> bytes:
    """An output as a binary tensor."""
    if datatype == "BYTES":
        return b"".join(len(value).to_bytes(_PREFIX_BYTES, "little") + value for value in array.reshape(-1))
    with np.errstate(over="ignore"):  # what is too large for a narrower type is infinite in it
        return array.astype(DTYPES[datatype], copy=False).tobytes()


def _flat(name: str, shape: Sequence[int], data: object) -> list[Any]:
    if not isinstance(data, list):
        raise _wrong(f"data of {shown(name)} is {shown(data)}; send a list of values")
    level = 0
    while data and type(data[0]) is list:
        level += 1
        wanted = shape[level] if level < len(shape) else None
        if set(map(type, data)) != {list} or set(map(len, data)) != {wanted}:
            raise _wrong(f"data of {shown(name)} are not nested as its shape {list(shape)} says; send a flat list")
        data = list(chain.from_iterable(data))
    if level not in (0, len(shape) - 1):
        raise _wrong(f"data of {shown(name)} are nested {level + 1} deep; its shape {list(shape)} needs {len(shape)}")
    return data


def _array(datatype: str, values: list[Any]) -> Array:
    dtype = DTYPES[datatype]
    if datatype == "BYTES":
        array = np.empty(len(values), object)
        array[:] = [value.encode() for value in values]  # UnicodeEncodeError of half a character is a ValueError
        return array
    if datatype == "BF16":
        return _to_bf16(np.array(values, "<f4"))
    if dtype.kind in "iu" and values:
        # NumPy 1.26 wraps what does not fit
        low, high, info = min(values), max(values), np.iinfo(dtype)
        if low < info.min or high > info.max:
            raise OverflowError(f"{shown(low)} to {shown(high)} is not within {info.min} to {info.max}")
    with np.errstate(over="ignore"):  # told as not finite
        return np.array(values, dtype)


def _to_bf16(array: Array) -> Array:
    """Bits of the nearest BF16, ties to even."""
    bits = array.view("<u4").astype("<u8")
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(array), 0x7FC0, rounded).astype("<u2")


def _elements(name: str, wanted: int, raw: memoryview) -> Array:
    """BYTES: the elements, after a look at whether there can be as many."""
    if wanted * _PREFIX_BYTES > len(raw):
        detail = f"{len(raw)} bytes in {shown(name)}; {wanted} elements need {wanted * _PREFIX_BYTES} for lengths alone"
        raise _wrong(f"{detail}; send each as four bytes of length and its bytes")
    values: list[bytes] = []
    at = 0
    for _ in range(wanted):
        end = at + _PREFIX_BYTES
        size = int.from_bytes(raw[at:end], "little")
        at = end + size
        if end > len(raw) or at > len(raw):
            raise _wrong(f"element {len(values)} of {shown(name)} ends at byte {at}; there are {len(raw)}: send all")
        values.append(bytes(raw[end:at]))
    if at != len(raw):
        raise _wrong(f"{len(raw) - at} bytes after the last of {wanted} elements in {shown(name)}; leave them out")
    array = np.empty(wanted, object)
    array[:] = values
    return array


def all_finite(datatype: str, array: Array) -> bool:
    """Whether no value is NaN or infinite."""
    if datatype == "BF16":
        return bool(((array & 0x7F80) != 0x7F80).all())
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _checked(name: str, datatype: str, array: Array, nonfinite: bool) -> Array:
    if nonfinite:
        return array
    if not all_finite(datatype, array):
        raise _wrong(f"NaN, infinities or numbers too large for {datatype} in {shown(name)}; send finite ones")
    return array


def _wrong(detail: str) -> Problem:
    return Problem(400, "wrong data", detail)
