"""A chunk of a tensor to planes and back: whole or without its zeros, alone or against a base version."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from eco_ray.errors import DamagedError
from eco_ray.models.plane_coding import (
    Backend,
    Coded,
    Data,
    coded_bits,
    decode_plane,
    encode_plane,
    entropy_bits,
    sampled,
)
from eco_ray.models.planes import Words, difference, join, kept_bytes, split, undo_difference, word_type

#: decoded bytes of every chunk of a tensor but its last; part of format 1, and a multiple of every word
CHUNK_BYTES = 1 << 20
#: a sparse form is looked at from this share of zeros on
_SPARSE_FROM = 1 / 16
#: bits per word that another form has to save, for the time that it takes
_WORTH_BITS = 0.1


class Against(IntEnum):
    """What a chunk was made of; the numbers stand in files."""

    #: its own words
    NOTHING = 0
    #: words XOR base
    XOR = 1
    #: words - base, wrapping, as zigzag
    DIFFERENCE = 2


@dataclass(frozen=True, slots=True)
class Chunk:
    """What the index says of one chunk."""

    against: Against
    #: high bytes of each word that are there; the others are zero
    kept: int
    #: words that are not zero, if only these are in the planes and a mask comes before them
    nonzero: int | None
    #: the mask if there is one, then the bytes of the words, the highest first
    planes: tuple[Coded, ...]

    @property
    def size(self) -> int:
        """Bytes in the body."""
        return sum(plane.size for plane in self.planes)


def plane_lengths(count: int, kept: int, nonzero: int | None) -> list[int]:
    """Decoded bytes of each plane of a chunk of `count` words."""
    return [count] * kept if nonzero is None else [(count + 7) // 8, *([nonzero] * kept)]


def encode_chunk(words: Words, rotate: bool, backend: Backend, base: Words | None) -> tuple[Chunk, list[Data]]:
    """The chunk's index entry and its planes; `base` are the words in its place in the version before."""
    against = Against.NOTHING if base is None else _best(words, base, rotate)
    words = _minus(words, base, against)
    rotate = rotate and against is not Against.DIFFERENCE
    kept = kept_bytes(words)
    if not kept:
        return Chunk(against, 0, None, ()), []
    coded: list[tuple[Coded, Data]] = []
    nonzero = int(np.count_nonzero(words))
    sparse = _sparse_pays(words, nonzero, rotate)
    if sparse:
        there = words != 0
        coded.append(encode_plane(np.packbits(there), backend, mask=True))
        words = words[there]
    coded.extend(encode_plane(plane, backend) for plane in split(words, kept, rotate))
    chunk = Chunk(against, kept, nonzero if sparse else None, tuple(plane for plane, _ in coded))
    return chunk, [data for _, data in coded]


def decode_chunk(
    chunk: Chunk, body: memoryview, count: int, word_bytes: int, rotate: bool, base: Words | None
) -> Words:
    """`count` words from the chunk's bytes; DamagedError if they cannot be that."""
    if chunk.against is not Against.NOTHING and base is None:
        raise DamagedError("a chunk is a difference from a base version, but the container names none that has it")
    rotate = rotate and chunk.against is not Against.DIFFERENCE
    planes, start = [], 0
    for coded, length in zip(chunk.planes, plane_lengths(count, chunk.kept, chunk.nonzero), strict=True):
        planes.append(decode_plane(coded, body[start : start + coded.size], length))
        start += coded.size
    if not chunk.kept:
        words = np.zeros(count, word_type(word_bytes))
    elif chunk.nonzero is None:
        words = join(planes, word_bytes, rotate)
    else:
        there = np.unpackbits(planes[0], count=count).view(bool)
        if np.count_nonzero(there) != chunk.nonzero:
            raise DamagedError(f"a mask does not say of exactly {chunk.nonzero} words that they are not zero")
        words = np.zeros(count, word_type(word_bytes))
        words[there] = join(planes[1:], word_bytes, rotate)
    if chunk.against is Against.XOR:
        words ^= base
    elif chunk.against is Against.DIFFERENCE and base is not None:
        words = undo_difference(words, base)
    return words


def _minus(words: Words, base: Words | None, against: Against) -> Words:
    if base is None or against is Against.NOTHING:
        return words
    return words ^ base if against is Against.XOR else difference(words, base)


def _best(words: Words, base: Words, rotate: bool) -> Against:
    """What takes the fewest bits, by a sample."""
    if np.array_equal(words, base):
        return Against.XOR
    words, base = sampled(words), sampled(base)
    bits = {
        Against.NOTHING: _bits(words, rotate) - _WORTH_BITS,  # no base has to be read
        Against.XOR: _bits(words ^ base, rotate),
        Against.DIFFERENCE: _bits(difference(words, base), False),
    }
    return min(bits, key=lambda against: bits[against])


def _bits(words: Words, rotate: bool) -> float:
    """Bits per word that coding the words is expected to take."""
    nonzero = int(np.count_nonzero(words))
    if not nonzero:
        return 0.0
    kept = kept_bytes(words)
    return min(_dense_bits(words, kept, rotate), _sparse_bits(words, nonzero, kept, rotate))


def _sparse_pays(words: Words, nonzero: int, rotate: bool) -> bool:
    if words.size - nonzero < _SPARSE_FROM * words.size:
        return False
    words = sampled(words)
    nonzero, kept = int(np.count_nonzero(words)), kept_bytes(words)
    if not nonzero:
        return True
    return _sparse_bits(words, nonzero, kept, rotate) < _dense_bits(words, kept, rotate) - _WORTH_BITS


def _dense_bits(words: Words, kept: int, rotate: bool) -> float:
    return sum(coded_bits(plane) for plane in split(words, kept, rotate)) if kept else 0.0


def _sparse_bits(words: Words, nonzero: int, kept: int, rotate: bool) -> float:
    share = nonzero / words.size
    mask = np.packbits(words != 0)
    return entropy_bits(mask) / 8 + share * _dense_bits(words[words != 0], kept, rotate)
