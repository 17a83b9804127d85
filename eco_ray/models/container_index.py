"""The index at the end of a container: what each byte of the body is, bounded and checked before it is believed.

docs/container.md describes it byte by byte.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from eco_ray.errors import DamagedError
from eco_ray.models.chunks import CHUNK_BYTES, Against, Chunk, plane_lengths
from eco_ray.models.plane_coding import Coded, Method
from eco_ray.models.tensor_header import Tensor, check_size, parse_header

FORMAT_VERSION = 1
PROLOGUE = b"ECOZ" + struct.pack("<HH", FORMAT_VERSION, 0)
_FOOTER = struct.Struct("<Q32s8s")
FOOTER_BYTES = _FOOTER.size
#: 20 GB of weights need less than 1 MB
MAX_INDEX_BYTES = 256 << 20
#: versions that a container can stand on, one on the other
MAX_CHAIN = 8
MAX_HINT_BYTES = 4096
_DIGEST_BYTES = 32


class Source(Protocol):
    """Bytes that can be read anywhere."""

    #: bytes in all
    size: int

    def read(self, start: int, size: int) -> memoryview:
        """Exactly `size` bytes; DamagedError if they are not there."""
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...


@dataclass(frozen=True, slots=True)
class BaseRef:
    """The version that a container is a difference from."""

    #: what `Index.content_id` of it is
    content_id: bytes
    #: where it lay, relative to the container
    hint: str
    #: how many versions stand below this container: 1 if the base stands alone
    depth: int


@dataclass(slots=True)
class Stored:
    """A tensor in a container."""

    tensor: Tensor
    #: SHA-256 of its decoded bytes
    digest: bytes = b""
    chunks: list[Chunk] = field(default_factory=list)
    #: where each chunk begins in the file
    starts: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Index:
    """Everything that a container says of itself."""

    #: the safetensors header as it was, spaces included
    header: bytes
    base: BaseRef | None
    stored: Sequence[Stored]

    @property
    def content_id(self) -> bytes:
        """SHA-256 of the header and the tensors' digests: what the safetensors file is, however it is coded."""
        sha = hashlib.sha256(self.header)
        for one in self.stored:
            sha.update(one.digest)
        return sha.digest()


def chunk_count(byte_count: int) -> int:
    """Chunks of a tensor."""
    return -(-byte_count // CHUNK_BYTES)


def chunk_words(tensor: Tensor, place: int) -> int:
    """Words in a chunk of a tensor."""
    return min(CHUNK_BYTES, tensor.byte_count - place * CHUNK_BYTES) // tensor.dtype.word_bytes


def write_index(index: Index) -> bytes:
    """The index with its footer."""
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    header = coder.compress(index.header) + coder.flush()
    parts = [struct.pack("<II", len(index.header), len(header)), header]
    if index.base is None:
        parts.append(b"\0")
    else:
        hint = index.base.hint.encode()
        parts += [struct.pack("<B32sH", index.base.depth, index.base.content_id, len(hint)), hint]
    for one in index.stored:
        parts.append(one.digest)
        parts.extend(_chunk_entry(chunk) for chunk in one.chunks)
    body = b"".join(parts)
    return body + _FOOTER.pack(len(body), hashlib.sha256(PROLOGUE + body).digest(), PROLOGUE)


def _chunk_entry(chunk: Chunk) -> bytes:
    sparse = chunk.nonzero is not None
    parts = [struct.pack("<BB", chunk.against | sparse << 2, chunk.kept)]
    if sparse:
        parts.append(struct.pack("<I", chunk.nonzero))
    for plane in chunk.planes:
        if plane.method is Method.RAW:
            parts.append(struct.pack("<B", plane.method))
        elif plane.method is Method.CONSTANT:
            parts.append(struct.pack("<BB", plane.method, plane.check))
        else:
            parts.append(struct.pack("<BII", plane.method, plane.size, plane.check))
    return b"".join(parts)


def read_index(source: Source) -> Index:
    """The index of a container; DamagedError if it is none or any of it cannot be true."""
    if source.size < len(PROLOGUE) + FOOTER_BYTES:
        raise DamagedError(f"{source.size} bytes are too few for a container")
    prologue = bytes(source.read(0, len(PROLOGUE)))
    if prologue[:4] != PROLOGUE[:4]:
        raise DamagedError("it is no eco_ray container: it does not start with ECOZ")
    if prologue != PROLOGUE:
        raise DamagedError(
            f"it is a container of format {struct.unpack('<HH', prologue[4:])}; this version reads format "
            f"({FORMAT_VERSION}, 0): read it with a newer one"
        )
    size, digest, end = _FOOTER.unpack(source.read(source.size - FOOTER_BYTES, FOOTER_BYTES))
    if end != PROLOGUE:
        raise DamagedError("its end is missing: it was cut, or written over")
    room = source.size - FOOTER_BYTES - len(PROLOGUE)
    if size > min(room, MAX_INDEX_BYTES):
        raise DamagedError(f"an index of {size} bytes is above the limit of {min(room, MAX_INDEX_BYTES)}")
    start = source.size - FOOTER_BYTES - size
    raw = source.read(start, size)
    if hashlib.sha256(PROLOGUE + bytes(raw)).digest() != digest:
        raise DamagedError("its index does not have its SHA-256")
    return _parse(_Cursor(raw), start)


class _Cursor:
    """Reads on, and never beyond the end."""

    def __init__(self, raw: memoryview) -> None:
        self._raw = raw
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._raw) - self._at

    def take(self, size: int) -> memoryview:
        if size > self.left:
            raise DamagedError(f"its index ends {size - self.left} bytes too early")
        self._at += size
        return self._raw[self._at - size : self._at]

    def unpack(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def byte(self) -> int:
        return self.take(1)[0]


def _parse(cursor: _Cursor, body_end: int) -> Index:
    header = _read_header(cursor)
    base = _read_base(cursor)
    at = len(PROLOGUE)
    stored = []
    for tensor in parse_header(header):
        one = Stored(tensor, bytes(cursor.take(_DIGEST_BYTES)))
        count = chunk_count(tensor.byte_count)
        if 2 * count > cursor.left:
            raise DamagedError(f"tensor {tensor.name[:80]!r} needs {count} chunks, for which its index is too short")
        for place in range(count):
            chunk = _read_chunk(cursor, chunk_words(tensor, place), tensor.dtype.word_bytes, base is not None)
            one.chunks.append(chunk)
            one.starts.append(at)
            at += chunk.size
        stored.append(one)
    if cursor.left or at != body_end:
        raise DamagedError(f"its index speaks of {at} bytes where {body_end} are, and {cursor.left} of it say nothing")
    return Index(header, base, stored)


def _read_header(cursor: _Cursor) -> bytes:
    size, coded_size = cursor.unpack("<II")
    check_size(size)
    decoder = zlib.decompressobj(-15)
    try:
        header = decoder.decompress(cursor.take(coded_size), size + 1)
    except zlib.error as error:
        raise DamagedError(f"its header is broken: {error}") from None
    if len(header) != size or not decoder.eof or decoder.unused_data:
        raise DamagedError(f"its header does not decode to exactly {size} bytes")
    return header


def _read_base(cursor: _Cursor) -> BaseRef | None:
    depth = cursor.byte()
    if not depth:
        return None
    if depth > MAX_CHAIN:
        raise DamagedError(f"it stands on {depth} versions; the limit is {MAX_CHAIN}")
    content_id = bytes(cursor.take(_DIGEST_BYTES))
    (size,) = cursor.unpack("<H")
    if size > MAX_HINT_BYTES:
        raise DamagedError(f"the path of its base has {size} bytes; the limit is {MAX_HINT_BYTES}")
    try:
        return BaseRef(content_id, str(cursor.take(size), "utf-8"), depth)
    except UnicodeDecodeError:
        raise DamagedError("the path of its base is no text") from None


def _read_chunk(cursor: _Cursor, count: int, word_bytes: int, has_base: bool) -> Chunk:
    form, kept = cursor.unpack("<BB")
    against, sparse = form & 3, form >> 2
    if against > Against.DIFFERENCE or sparse > 1 or kept > word_bytes or (against and not has_base):
        raise DamagedError(f"a chunk has the impossible form ({form}, {kept})")
    nonzero: int | None = None
    if sparse:
        (nonzero,) = cursor.unpack("<I")
        if not kept or not 0 < nonzero <= count:
            raise DamagedError(f"a chunk of {count} words has {nonzero} that are not zero")
    lengths = plane_lengths(count, kept, nonzero)
    return Chunk(Against(against), kept, nonzero, tuple(_read_plane(cursor, length) for length in lengths))


def _read_plane(cursor: _Cursor, length: int) -> Coded:
    number = cursor.byte()
    if number == Method.RAW:
        return Coded(Method.RAW, length)
    if number == Method.CONSTANT:
        return Coded(Method.CONSTANT, 0, cursor.byte())
    if number not in (Method.DEFLATE, Method.OPENZL):
        raise DamagedError(f"a plane is coded in the unknown way {number}")
    size, check = cursor.unpack("<II")
    if size >= length:
        raise DamagedError(f"a plane of {length} bytes takes {size} coded ones")
    return Coded(Method(number), size, check)
