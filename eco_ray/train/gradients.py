"""Gradients in fewer bytes, on their way from a worker to the parameter server.

| codec | bytes of float32, MLP on MNIST | what is lost |
|---|---|---|
| `none` | 100 % | nothing |
| `int8` | 3 to 10 % | rounding to 255 levels of each tensor's largest value, then deflate (lossless) |
| `topk:0.01` | 1.3 % | all but the largest 1 % of the values |

What one message loses is added to the next gradient (error feedback: Seide et al., "1-bit stochastic gradient descent",
2014; Karimireddy et al., "Error feedback fixes SignSGD", 2019): what was decoded so far and what is still held back
sum to all gradients so far, so nothing is lost for good while the worker lives.

A message comes from another process: its length is checked before it is read, inflating ends at the known number of
bytes, and nothing that is not finite is let in. `like` has the tensors' names, shapes and dtypes: both sides know them.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eco_ray.errors import DamagedError, UsageError
from eco_ray.train.sgd import Tensors

Like = Mapping[str, NDArray[Any]]
#: deflate's level; higher ones take several times as long for 1 or 2 % of the bytes
_LEVEL = 1
#: deflate may make incompressible data longer by so many bytes: 5 in each 16 kB block, and a frame
_SLACK = 64


class Codec(Protocol):
    """Turns a gradient into bytes and back; `decode(encode(g), g)` has the names, shapes and dtypes of g."""

    def encode(self, gradient: Tensors) -> bytes:
        """The message of a finite gradient."""

    def decode(self, message: bytes, like: Like) -> Tensors:
        """What it says. Raises DamagedError if it is not a message for such tensors."""


class Plain:
    """Every byte, little-endian, one tensor after the other."""

    def encode(self, gradient: Tensors) -> bytes:
        return b"".join(np.ascontiguousarray(g, g.dtype.newbyteorder("<")).tobytes() for g in gradient.values())

    def decode(self, message: bytes, like: Like) -> Tensors:
        _check_length(message, exactly=sum(t.nbytes for t in like.values()))
        gradient, offset = {}, 0
        for name, t in like.items():
            values = np.frombuffer(message, t.dtype.newbyteorder("<"), t.size, offset)
            gradient[name] = values.astype(t.dtype).reshape(t.shape)
            offset += t.nbytes
        return _finite(gradient)


class Int8:
    """Each tensor as 8-bit levels of max|g| / 127, all levels deflated: float32 scales, then a zlib stream.

    Rounds to the nearest level (error at most half a level; meant to be used with error feedback), or with `rng`
    up or down at random so that the expectation is the value itself (QSGD: Alistarh et al., 2017; error below a level).
    """

    def __init__(self, rng: np.random.Generator | None = None) -> None:
        self._rng = rng

    def encode(self, gradient: Tensors) -> bytes:
        scales = [np.float32(np.abs(g).max(initial=0.0) / 127) for g in gradient.values()]
        levels = [self._levels(g, scale) for g, scale in zip(gradient.values(), scales, strict=True)]
        return np.array(scales, "<f4").tobytes() + zlib.compress(np.concatenate(levels).tobytes(), _LEVEL)

    def _levels(self, values: NDArray[Any], scale: np.float32) -> NDArray[np.int8]:
        # a tensor of zeros, or of numbers too small for a float32 scale, has no level but 0
        exact = values.reshape(-1) / scale if scale > 0 else np.zeros(values.size)
        rounded = np.rint(exact) if self._rng is None else np.floor(exact + self._rng.random(exact.shape))
        return np.clip(rounded, -127, 127).astype(np.int8)

    def decode(self, message: bytes, like: Like) -> Tensors:
        size, head = sum(t.size for t in like.values()), 4 * len(like)
        _check_length(message, at_least=head, at_most=head + _deflated(size))
        scales = np.frombuffer(message, "<f4", len(like))
        _finite(dict(zip(like, scales, strict=True)))
        levels = np.frombuffer(_inflate(message[head:], size), np.int8)
        gradient, offset = {}, 0
        for (name, t), scale in zip(like.items(), scales, strict=True):
            part = levels[offset : offset + t.size]
            gradient[name] = (part.astype(t.dtype) * t.dtype.type(scale)).reshape(t.shape)
            offset += t.size
        return _finite(gradient)


class TopK:
    """The largest values of the whole gradient: their gaps in the order of reading, then the values, deflated."""

    def __init__(self, share: float) -> None:
        if not 0 < share <= 1:
            raise UsageError(f"top-k with a share of {share} of the values; give more than 0 and at most 1, e.g. 0.01")
        self.share = share

    def _count(self, size: int) -> int:
        return min(size, max(1, round(self.share * size)))

    def encode(self, gradient: Tensors) -> bytes:
        flat = np.concatenate([g.reshape(-1) for g in gradient.values()]).astype("<f4")
        count = self._count(flat.size)
        places = np.sort(np.argpartition(np.abs(flat), flat.size - count)[flat.size - count :])
        gaps = np.diff(places, prepend=0).astype("<u4")
        return zlib.compress(gaps.tobytes() + flat[places].tobytes(), _LEVEL)

    def decode(self, message: bytes, like: Like) -> Tensors:
        size = sum(t.size for t in like.values())
        count = self._count(size)
        _check_length(message, at_most=_deflated(8 * count))
        data = _inflate(message, 8 * count)
        places = np.cumsum(np.frombuffer(data, "<u4", count), dtype=np.int64)
        if places[-1] >= size or (np.diff(places) <= 0).any():
            raise DamagedError(
                f"a gradient message names the place {places[-1]} of {size} values; it was not made for these"
            )
        flat = np.zeros(size, np.float32)
        flat[places] = np.frombuffer(data, "<f4", count, 4 * count)
        gradient, offset = {}, 0
        for name, t in like.items():
            gradient[name] = flat[offset : offset + t.size].astype(t.dtype).reshape(t.shape)
            offset += t.size
        return _finite(gradient)


class ErrorFeedback:
    """A codec that adds to each gradient what the messages before did not say. One for each worker."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        #: what has been held back so far
        self.residual: Tensors = {}

    def encode(self, gradient: Tensors) -> bytes:
        whole = {name: g + self.residual[name] if self.residual else g for name, g in gradient.items()}
        message = self._codec.encode(whole)
        said = self._codec.decode(message, whole)
        self.residual = {name: w - said[name] for name, w in whole.items()}
        return message

    def decode(self, message: bytes, like: Like) -> Tensors:
        return self._codec.decode(message, like)


def codec(name: str) -> Codec:
    """`none`, `int8` or `topk:SHARE`, the last two with error feedback. Raises UsageError."""
    kind, _, share = name.partition(":")
    if name == "none":
        return Plain()
    if name == "int8":
        return ErrorFeedback(Int8())
    if kind == "topk":
        try:
            return ErrorFeedback(TopK(float(share or "0.01")))
        except ValueError:
            pass
    raise UsageError(f"no gradient codec {name!r}; give none, int8, or topk:0.01 for the largest hundredth")


def _deflated(size: int) -> int:
    """Most bytes that deflate makes of so many."""
    return size + 5 * (size // 16_000 + 1) + _SLACK


def _check_length(message: bytes, *, exactly: int | None = None, at_least: int = 0, at_most: int = 0) -> None:
    low, high = (at_least, at_most) if exactly is None else (exactly, exactly)
    if not low <= len(message) <= high:
        wanted = f"{low}" if low == high else f"{low} to {high}"
        raise DamagedError(
            f"a gradient message of {len(message)} bytes, where these parameters and this codec give {wanted}; both "
            "sides must have the same model and codec"
        )


def _inflate(stream: bytes, size: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(stream, size + 1)  # never more than that in memory, whatever the stream claims
    except zlib.error as error:
        raise DamagedError(f"a gradient message cannot be inflated: {error}") from error
    if len(data) != size or not inflater.eof or inflater.unused_data:
        raise DamagedError(
            f"a gradient message does not inflate to its {size} bytes; it was cut, or made for another model"
        )
    return data


def _finite(gradient: dict[str, Any]) -> dict[str, Any]:
    for name, values in gradient.items():
        if not np.isfinite(values).all():
            raise DamagedError(
                f"a gradient message has a value of {name!r} that is not finite; workers send finite ones"
            )
    return gradient
