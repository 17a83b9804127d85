"""The file of a checkpoint: safetensors, without pickle, that says itself whether it is whole.

A state is a tree of dicts (keys: str or int), lists, tuples, None, bool, int, float, str, numpy arrays and torch
tensors. Arrays and tensors are the tensors of the safetensors file, named by their path ("model.fc.weight"), so that
any safetensors tool can read them; the tree is JSON in the file's metadata. `sha256` in the metadata is that of the
whole file with this field's 64 digits set to "0".
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

from eco_ray.errors import UsageError

FORMAT = "eco_ray.checkpoint/1"
_NO_DIGEST = "0" * 64
#: safetensors' own limit [bytes]
_MAX_HEADER = 100_000_000
#: numpy's and torch's name of a dtype -> (safetensors' name, bytes per element)
_DTYPES = {
    "bool": ("BOOL", 1),
    "uint8": ("U8", 1),
    "int8": ("I8", 1),
    "uint16": ("U16", 2),
    "int16": ("I16", 2),
    "uint32": ("U32", 4),
    "int32": ("I32", 4),
    "uint64": ("U64", 8),
    "int64": ("I64", 8),
    "float8_e4m3fn": ("F8_E4M3", 1),
    "float8_e5m2": ("F8_E5M2", 1),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
    "float32": ("F32", 4),
    "float64": ("F64", 8),
    "complex64": ("C64", 8),
}
_DTYPE_OF = {code: (name, width) for name, (code, width) in _DTYPES.items()}
#: types whose values stand for themselves; a generator of python alone has 625 of them
_PLAIN = frozenset({type(None), bool, int, str})


@dataclass(frozen=True, slots=True)
class _Buffer:
    """One tensor of the file."""

    dtype: str
    shape: list[int]
    data: memoryview


@dataclass(slots=True)
class Encoded:
    """A state as it goes into a file."""

    #: arrays are copied, so that what is done to them afterwards does not change the file
    is_copy: bool
    tree: Any = None
    buffers: dict[str, _Buffer] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Of its arrays [bytes]."""
        return sum(buffer.data.nbytes for buffer in self.buffers.values())


def encode(state: dict[Any, Any], *, copy: bool) -> Encoded:
    """A state; with `copy` its arrays may change before it is written. Raises UsageError."""
    if not isinstance(state, dict):
        raise UsageError(f'a checkpoint\'s state is a dict, got {type(state).__name__}; wrap it: {{"state": ...}}')
    encoded = Encoded(copy)
    encoded.tree = _encode(state, "", encoded)
    return encoded


# --- the tree: JSON scalars and lists stand for themselves, everything else is {kind: value} ----------------------


def _encode(value: Any, path: str, into: Encoded) -> Any:
    if type(value) in _PLAIN:
        return value
    if (array := _array_kind(value)) is not None:
        kind, to_buffer = array
        return {kind: _add(to_buffer(value, path, into.is_copy), path, into.buffers)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(float(value))}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        plain = all(type(v) in _PLAIN for v in value)
        items = list(value) if plain else [_encode(v, f"{path}.{i}", into) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str | int) or isinstance(key, bool):
                raise UsageError(f"the key {key!r} of {_name(path)} is a {type(key).__name__}; keys are str or int")
        return {"dict": [[k, _encode(v, f"{path}.{k}", into)] for k, v in value.items()]}
    raise UsageError(
        f"{_name(path)} is a {type(value).__name__}; a checkpoint holds dicts, lists, tuples, None, bool, int, float, "
        "str, numpy arrays and torch tensors: keep what it is made of, e.g. its state_dict()"
    )


def _array_kind(value: Any) -> tuple[str, Callable[[Any, str, bool], _Buffer]] | None:
    # numpy and torch are asked only if the program has imported them: a value of theirs cannot be there otherwise
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and isinstance(value, numpy.ndarray):
        return "numpy", _numpy_buffer
    if numpy is not None and isinstance(value, numpy.generic):
        return "numpy scalar", _numpy_buffer
    if torch is not None and isinstance(value, torch.Tensor):
        return "torch", _torch_buffer
    return None


def _decode(node: Any, buffers: dict[str, _Buffer]) -> Any:
    if isinstance(node, list):
        return [_decode(v, buffers) for v in node]
    if not isinstance(node, dict):
        return node
    ((kind, value),) = node.items()
    match kind:
        case "dict":
            result: Any = {k: _decode(v, buffers) for k, v in value}
        case "tuple":
            result = tuple(_decode(v, buffers) for v in value)
        case "float":
            result = float(value)
        case "torch":
            result = _to_torch(buffers[value])
        case "numpy":
            result = _to_numpy(buffers[value])
        case "numpy scalar":
            result = _to_numpy(buffers[value])[()]
        case _:
            raise ValueError(f"unknown kind {kind!r}; written by a newer eco_ray")
    return result


def _name(path: str) -> str:
    return f"state{path}" if path else "the state"


def _add(buffer: _Buffer, path: str, buffers: dict[str, _Buffer]) -> str:
    name = path.removeprefix(".")
    while name in buffers or name == "__metadata__":
        name += "'"
    buffers[name] = buffer
    return name


def _numpy_buffer(value: Any, path: str, copy: bool) -> _Buffer:
    import numpy as np

    name = value.dtype.newbyteorder("=").name
    if name not in _DTYPES or isinstance(value, np.ma.MaskedArray):
        raise UsageError(
            f"{_name(path)} is a {type(value).__name__} of {value.dtype}; a checkpoint holds plain {', '.join(_DTYPES)}"
        )
    little = np.array(value, dtype=value.dtype.newbyteorder("<"), order="C", copy=True if copy else None)
    return _Buffer(name, list(value.shape), little.reshape(-1).view(np.uint8).data)


def _torch_buffer(value: Any, path: str, copy: bool) -> _Buffer:
    import torch

    name = str(value.dtype).removeprefix("torch.")
    if name not in _DTYPES or value.layout != torch.strided:
        raise UsageError(
            f"{_name(path)} is a {value.layout} tensor of {value.dtype}; a checkpoint holds dense {', '.join(_DTYPES)}"
        )
    flat = value.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    shared = copy and flat.data_ptr() == value.data_ptr()  # what came from a GPU is a copy already
    if shared or flat.stride(0) != 1:  # which may be anything where there are fewer than two elements
        flat = flat.clone(memory_format=torch.contiguous_format)
    return _Buffer(name, list(value.shape), memoryview(flat.view(torch.uint8).numpy()))


def _to_numpy(buffer: _Buffer) -> Any:
    import numpy as np

    return np.frombuffer(buffer.data, dtype=np.dtype(buffer.dtype).newbyteorder("<")).reshape(buffer.shape)


def _to_torch(buffer: _Buffer) -> Any:
    import torch

    dtype = getattr(torch, buffer.dtype)
    flat = torch.frombuffer(buffer.data, dtype=dtype) if buffer.data.nbytes else torch.empty(0, dtype=dtype)
    return flat.reshape(buffer.shape)


# --- the file: https://github.com/huggingface/safetensors#format -------------------------------------------------
# Written here and not by the library, which needs a second copy of all tensors in memory and knows no check sum.


def write(file: IO[bytes], encoded: Encoded, about: dict[str, Any]) -> str:
    """Write a state, and `about` beside it, into a seekable file; returns its sha256."""
    metadata = {"format": FORMAT, "sha256": _NO_DIGEST, "about": json.dumps(about), "state": json.dumps(encoded.tree)}
    table: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    # wide elements first, so that each tensor is aligned to its element
    ordered = sorted(encoded.buffers.items(), key=lambda item: -_DTYPES[item[1].dtype][1])
    for name, buffer in ordered:
        end = offset + buffer.data.nbytes
        table[name] = {"dtype": _DTYPES[buffer.dtype][0], "shape": buffer.shape, "data_offsets": [offset, end]}
        offset = end
    header = json.dumps(table).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > _MAX_HEADER:
        raise UsageError(
            f"the state has {len(header)} bytes beside its arrays, more than {_MAX_HEADER}; keep long lists as arrays"
        )
    head = len(header).to_bytes(8, "little")
    sha = hashlib.sha256(head + header)
    file.write(head + header)
    for _, buffer in ordered:
        sha.update(buffer.data)
        file.write(buffer.data)
    digest = sha.hexdigest()
    file.seek(len(head) + header.index(_NO_DIGEST.encode()))
    file.write(digest.encode())
    file.seek(0, os.SEEK_END)
    return digest


class Damaged(Exception):
    """The file is not what was written."""


def read(file: IO[bytes], size: int) -> tuple[dict[Any, Any], dict[str, Any]]:
    """The state and what is about it, of a file of so many bytes. Raises Damaged."""
    try:
        return _parse(file, size)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise Damaged(str(error) or type(error).__name__) from error


def _parse(file: Any, size: int) -> tuple[dict[Any, Any], dict[str, Any]]:
    head = file.read(8)
    header_size = int.from_bytes(head, "little")
    if len(head) < 8 or header_size > min(_MAX_HEADER, size - 8):
        raise Damaged(f"{size} bytes long, shorter than its header")
    header = file.read(header_size)
    table = json.loads(header)
    metadata = table.pop("__metadata__")
    if metadata["format"] != FORMAT:
        raise Damaged(f"format {metadata['format']!r}, not {FORMAT!r}")
    digest = metadata["sha256"]
    sha = hashlib.sha256(head + header.replace(digest.encode(), _NO_DIGEST.encode(), 1))
    buffers = {}
    for name, entry in sorted(table.items(), key=lambda item: item[1]["data_offsets"]):
        start, end = entry["data_offsets"]
        if not file.tell() == 8 + header_size + start <= 8 + header_size + end <= size:
            raise Damaged(f"{size} bytes long, the data of {name!r} should end at {8 + header_size + end}")
        data = bytearray(end - start)
        file.readinto(data)
        sha.update(data)
        buffers[name] = _Buffer(_DTYPE_OF[entry["dtype"]][0], entry["shape"], memoryview(data))
    sha.update(file.read())
    if sha.hexdigest() != digest:
        raise Damaged(f"sha256 {sha.hexdigest()[:12]}..., not {str(digest)[:12]}...")
    return _decode(json.loads(metadata["state"]), buffers), json.loads(metadata["about"])
