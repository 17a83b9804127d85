"""One byte plane to fewer bytes and back: a constant, Huffman code, or as it is where coding does not pay.

Huffman code is raw DEFLATE (RFC 1951) that zlib writes with Z_HUFFMAN_ONLY; a mask of what is zero gets Z_RLE, which is
DEFLATE too. Package openzl, if it is asked for, has a faster Huffman coder with frames of its own.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from heapq import heappop, heapreplace
from threading import local
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eco_ray.errors import DamagedError, UsageError
from eco_ray.models.planes import Plane

Backend = Literal["zlib", "openzl"]
Data = bytes | memoryview

#: a plane is coded only if that is expected to save this share of it: 1.5 % of the bytes is not worth 10 ns a byte
WORTH = 1 / 64
#: bytes that a plane's entropy is estimated from; the estimate is 0.01 bits too low at most
SAMPLE = 16384


class Method(IntEnum):
    """How a plane is written; the numbers stand in files."""

    RAW = 0
    CONSTANT = 1
    DEFLATE = 2
    OPENZL = 3


@dataclass(frozen=True, slots=True)
class Coded:
    """What the index says of one plane."""

    method: Method
    #: bytes in the body
    size: int
    #: CRC-32 of those bytes (DEFLATE, OPENZL), or the value of a constant plane
    check: int = 0


def sampled(values: NDArray[Any], count: int = SAMPLE) -> NDArray[Any]:
    """About `count` values or fewer, evenly spread; by an odd step, to meet all places of a 2:4 pattern."""
    return np.ascontiguousarray(values[:: values.size // count | 1])


def entropy_bits(plane: Plane) -> float:
    """Order-0 entropy in bits per byte, of all that is given."""
    counts = np.bincount(plane, minlength=256)
    shares = counts[counts > 0] / max(1, plane.size)
    return float(-(shares * np.log2(shares)).sum())


def coded_bits(plane: Plane) -> float:
    """Bits per byte that Huffman code takes, its tree aside, of all that is given; 0 for a constant."""
    counts = np.bincount(plane)
    weights = sorted(counts[counts > 0].tolist())
    if len(weights) == 1:
        return 0.0
    weights.insert(0, 0)  # the end of a block is a symbol as well; a sorted list is a heap
    bits = 0
    while len(weights) > 1:
        pair = heappop(weights) + weights[0]
        heapreplace(weights, pair)
        bits += pair  # every symbol below this node gets one bit more
    return bits / plane.size


def encode_plane(plane: Plane, backend: Backend, mask: bool = False) -> tuple[Coded, Data]:
    """The plane as its index entry and its bytes in the body."""
    bits = entropy_bits(sampled(plane))
    if bits == 0 and plane.size and not (plane != plane[0]).any():
        return Coded(Method.CONSTANT, 0, int(plane[0])), b""
    if bits > 8 * (1 - WORTH):
        return Coded(Method.RAW, plane.size), plane.data
    if backend == "openzl" and not mask:
        method, data = Method.OPENZL, _openzl().encode(plane)
    else:
        coder = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_RLE if mask else zlib.Z_HUFFMAN_ONLY)
        method, data = Method.DEFLATE, coder.compress(plane.data) + coder.flush()
    if len(data) >= plane.size:
        return Coded(Method.RAW, plane.size), plane.data
    return Coded(method, len(data), zlib.crc32(data)), data


def decode_plane(coded: Coded, data: memoryview, count: int) -> Plane:
    """The plane of `count` bytes; DamagedError if `data` is not what was written."""
    if coded.method is Method.RAW:
        return np.frombuffer(data, np.uint8)
    if coded.method is Method.CONSTANT:
        return np.full(count, coded.check, np.uint8)
    # before a decoder sees the bytes: DEFLATE has bits that mean nothing, and a native decoder may not bear damage
    if zlib.crc32(data) != coded.check:
        raise DamagedError(f"{len(data)} coded bytes do not have their CRC-32")
    if coded.method is Method.OPENZL:
        return _openzl().decode(data, count)
    decoder = zlib.decompressobj(-15)
    try:
        plain = decoder.decompress(data, count + 1)
    except zlib.error as error:
        raise DamagedError(f"a Huffman code is broken: {error}") from None
    if len(plain) != count or not decoder.eof or decoder.unused_data:
        raise DamagedError(f"a Huffman code does not decode to exactly {count} bytes")
    return np.frombuffer(plain, np.uint8)


class _OpenZL:
    """The Huffman coder of package openzl; its contexts are of one thread."""

    def __init__(self) -> None:
        try:
            from openzl import ext
        except ImportError:
            raise UsageError(
                "package openzl is missing, which codes planes of this container: pip install 'eco-ray[openzl]'"
            ) from None
        self._ext = ext
        self._compressor = ext.Compressor()
        # we have checksums of our own
        for parameter, value in (
            (ext.CParam.FormatVersion, ext.MAX_FORMAT_VERSION),
            (ext.CParam.ContentChecksum, 2),
            (ext.CParam.CompressedChecksum, 2),
        ):
            self._compressor.set_parameter(parameter, value)
        self._compressor.select_starting_graph(ext.graphs.Huffman()(self._compressor))
        self._mine = local()

    def encode(self, plane: Plane) -> bytes:
        if not hasattr(self._mine, "encoder"):
            self._mine.encoder = self._ext.CCtx()
        self._mine.encoder.ref_compressor(self._compressor)
        data: bytes = self._mine.encoder.compress([self._ext.Input(self._ext.Type.Serial, plane)])
        return data

    def decode(self, data: memoryview, count: int) -> Plane:
        if not hasattr(self._mine, "decoder"):
            self._mine.decoder = self._ext.DCtx()
        frame = bytes(data)
        try:
            about = self._ext.FrameInfo(frame)
            if about.num_outputs != 1 or about.output_content_size(0) != count:
                raise DamagedError(f"an openzl frame does not hold exactly {count} bytes")
            plane: Plane = self._mine.decoder.decompress(frame)[0].content.as_nparray().view(np.uint8)
        except (RuntimeError, ValueError, IndexError) as error:
            raise DamagedError(f"an openzl frame is broken: {' '.join(str(error).split())[:120]}") from None
        if plane.size != count:
            raise DamagedError(f"an openzl frame does not hold exactly {count} bytes")
        return plane


@cache
def _openzl() -> _OpenZL:
    return _OpenZL()
