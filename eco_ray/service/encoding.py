"""Content codings gzip and zstd: bodies of requests decompressed within a bound, answers compressed where asked for."""

from __future__ import annotations

import zlib
from functools import lru_cache

import zstandard

from eco_ray.service.problems import Problem, shown

#: what is understood and written, best first
CODINGS = ("zstd", "gzip")
#: shorter answers are not compressed: it would cost more than it saves
MIN_BYTES = 1024
#: largest window of zstd over HTTP (RFC 9659) [bytes]
_WINDOW_BYTES = 8 << 20
_CHUNK_BYTES = 1 << 16
#: gzip members or zstd frames of a body, one after the other; writers of blocks make one of each 64 KiB. The libraries
#: copy what is left of a chunk for each, and of a whole body that would take minutes for one of empty members
_MOST_PARTS = 1000
#: zlib's number for a gzip wrapper
_GZIP = 16 + zlib.MAX_WBITS
#: fast ones: an answer is compressed once and sent once
_GZIP_LEVEL, _ZSTD_LEVEL = 1, 1


def decompressed(coding: bytes, body: bytes, limit: int) -> bytes:
    """The body of a request; no more than `limit` bytes are ever made of it. Raises Problem."""
    name = coding.decode("latin-1").strip().lower()
    try:
        match name:
            case "" | "identity":
                return body
            case "gzip" | "x-gzip":
                return _gunzip(body, limit)
            case "zstd":
                return _unzstd(body, limit)
    except (zlib.error, zstandard.ZstdError) as error:
        raise Problem(400, "wrong encoding", f"the body is no {name} ({shown(str(error))}); send it whole") from None
    detail = f"Content-Encoding {shown(name)}; use one of {', '.join(CODINGS)}, once, or none"
    raise Problem(415, "unknown encoding", detail, ((b"accept-encoding", ", ".join(CODINGS).encode()),))


def compressed(coding: str, body: bytes) -> bytes:
    """A body in one of CODINGS."""
    if coding == "zstd":
        return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(body)
    packer = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP)
    return packer.compress(body) + packer.flush()


@lru_cache(maxsize=64)
def negotiated(accept: bytes) -> str | None:
    """The coding for an answer by the value of Accept-Encoding (RFC 9110, 12.5.3); None: as it is."""
    weights: dict[str, float] = {}
    for part in accept.decode("latin-1").lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weights[name.removeprefix("x-")] = _weight(parameters)
    best = max(CODINGS, key=lambda coding: weights.get(coding, weights.get("*", 0.0)))
    weight = weights.get(best, weights.get("*", 0.0))
    return best if weight > 0 and weight >= weights.get("identity", 0.0) else None


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                weight = float(parameter[2:])
            except ValueError:
                return 0.0
            return weight if 0 <= weight <= 1 else 0.0
    return 1.0


def _gunzip(body: bytes, limit: int) -> bytes:
    parts: list[bytes] = []
    left, at, members, view = limit, 0, 0, memoryview(body)
    while at < len(body):  # one member after the other
        members = _one_more(members, "gzip")
        unpacker = zlib.decompressobj(_GZIP)
        while not unpacker.eof:
            chunk = view[at : at + _CHUNK_BYTES]
            if not chunk:
                raise _cut("gzip")
            parts.append(unpacker.decompress(chunk, left + 1))
            left -= len(parts[-1])
            if left < 0:
                raise _too_large(limit)
            at += len(chunk) - len(unpacker.unused_data)
    return b"".join(parts)


def _unzstd(body: bytes, limit: int) -> bytes:
    unpacker = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
    size = 0
    # once to learn the size: the reader stops where it is told to, but does not tell a cut frame from a whole one
    with unpacker.stream_reader(body, read_across_frames=True) as reader:
        while chunk := reader.read(_CHUNK_BYTES):
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
    parts: list[bytes] = []
    at, frames, view = 0, 0, memoryview(body)
    while at < len(body):
        frames = _one_more(frames, "zstd")
        frame = unpacker.decompressobj()
        while not frame.eof:
            taken = view[at : at + _CHUNK_BYTES]
            if not taken:
                raise _cut("zstd")
            parts.append(frame.decompress(taken))
            at += len(taken) - len(frame.unused_data)
    return b"".join(parts)


def _one_more(parts: int, name: str) -> int:
    if parts == _MOST_PARTS:
        detail = f"the body has more than {_MOST_PARTS} {name} streams, one after the other; send it as one"
        raise Problem(400, "wrong encoding", detail)
    return parts + 1


def _cut(name: str) -> Problem:
    return Problem(400, "wrong encoding", f"the body ends within its {name} data; send it whole")


def _too_large(limit: int) -> Problem:
    detail = f"the body is larger than {limit} bytes when it is decompressed; send fewer rows"
    return Problem(413, "request too large", detail)
