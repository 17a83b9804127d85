"""Answers of a model that has the same ones for the same inputs, kept by what was asked; the oldest used goes first."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import NamedTuple

from eco_ray.core.ports import Arrays, Runtime
from eco_ray.service import values
from eco_ray.service.form import Request

#: of an entry, without its arrays' values; measured with tracemalloc for two outputs [bytes]
_ENTRY_BYTES = 1024


class Kept(NamedTuple):
    """What was computed."""

    arrays: Arrays
    #: what computing it took [J]
    energy_j: float
    size_bytes: int


class AnswerCache:
    """Bounded in bytes and entries. One thread uses it."""

    def __init__(self, limit_bytes: int, limit_entries: int) -> None:
        self._limit_bytes, self._limit_entries = limit_bytes, limit_entries
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> Kept | None:
        """What was computed for the key, and is still there."""
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
        return kept

    def put(self, key: bytes, arrays: Arrays, energy_j: float) -> None:
        """Keep copies of the arrays, unless they are larger than all that may be kept."""
        size = _ENTRY_BYTES + sum(map(_size, arrays.values()))
        if size > self._limit_bytes or not self._limit_entries:
            return
        self._drop(key)
        self._kept[key] = Kept({name: array.copy() for name, array in arrays.items()}, energy_j, size)
        self.size_bytes += size
        while self.size_bytes > self._limit_bytes or len(self._kept) > self._limit_entries:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: bytes) -> None:
        if kept := self._kept.pop(key, None):
            self.size_bytes -= kept.size_bytes


def key_of(tenant: str, runtime: Runtime, request: Request) -> bytes:
    """Digest of who asks which model what. No tenant learns from a hit what another one asked."""
    digest = hashlib.blake2b(digest_size=20)
    inputs = [(name, request.datatypes[name], request.inputs[name]) for name in sorted(request.inputs)]
    told = [(name, datatype, array.shape) for name, datatype, array in inputs]
    digest.update(
        repr((tenant, runtime.name, runtime.version, request.what, told)).encode()
    )  # a third of the time of JSON
    for _, datatype, array in inputs:
        # sizes are told by shapes, and those of BYTES by their lengths: no two inputs have the same bytes here
        digest.update(b"\0" + values.to_bytes(datatype, array))
    return digest.digest()


def _size(array: values.Array) -> int:
    return array.nbytes + (sum(map(len, array.flat)) if array.dtype == object else 0)
