"""Writing a container in one pass: chunks are read, hashed and coded by several threads, and written in order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from eco_ray.models.chunks import CHUNK_BYTES, Chunk, encode_chunk
from eco_ray.models.container_index import PROLOGUE, BaseRef, Index, Source, Stored, chunk_count, write_index
from eco_ray.models.container_reader import Container
from eco_ray.models.in_order import in_order
from eco_ray.models.plane_coding import Backend, Data
from eco_ray.models.planes import word_type
from eco_ray.models.tensor_header import parse_header


def write_container(
    write: Callable[[Data], Any],
    header: bytes,
    data: Source,
    first: int = 0,
    base: Container | None = None,
    reference: BaseRef | None = None,
    backend: Backend = "zlib",
    workers: int = 1,
    read: Callable[[memoryview], Any] = lambda _raw: None,
) -> Index:
    """A container, in the order of its bytes; the tensors begin at byte `first` of `data`.

    `read` is called with all of their bytes in the order in which they lie there.
    """
    stored = [Stored(tensor) for tensor in parse_header(header)]

    def chunks() -> Iterator[tuple[Stored, int, memoryview]]:
        for one in stored:
            sha = hashlib.sha256()
            for place in range(chunk_count(one.tensor.byte_count)):
                start = place * CHUNK_BYTES
                raw = data.read(first + one.tensor.start + start, min(CHUNK_BYTES, one.tensor.byte_count - start))
                sha.update(raw)
                read(raw)
                yield one, place, raw
            one.digest = sha.digest()

    def coded(job: tuple[Stored, int, memoryview]) -> tuple[Stored, Chunk, list[Data]]:
        one, place, raw = job
        dtype = one.tensor.dtype
        before = None if base is None else base.base_words(one.tensor, place)
        # in memory a tensor may begin anywhere, and NumPy is several times slower on words that are not aligned
        words = np.frombuffer(raw, word_type(dtype.word_bytes))
        if not words.flags.aligned:
            words = words.copy()
        return one, *encode_chunk(words, dtype.is_float, backend, before)

    write(PROLOGUE)
    for one, chunk, planes in in_order(coded, chunks(), workers):
        one.chunks.append(chunk)
        for plane in planes:
            write(plane)
    index = Index(header, reference, stored)
    write(write_index(index))
    return index
