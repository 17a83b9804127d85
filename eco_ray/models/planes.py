"""Words to byte planes and back: what is alike lies together, so that an order-0 code finds it.

A word of a floating-point tensor is sign, exponent, mantissa. Rotated left by one bit it is exponent, mantissa, sign:
the exponent of bf16 and fp32 is then one whole byte, and only this plane is far from random (zipnn, arXiv:2411.05239,
does the same).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[Any]  # unsigned, little-endian
Plane = NDArray[np.uint8]


def word_type(word_bytes: int) -> np.dtype[Any]:
    """Unsigned little-endian words of 1, 2, 4 or 8 bytes."""
    return np.dtype(f"<u{word_bytes}")


def kept_bytes(words: Words) -> int:
    """High bytes of the words that are not zero in all of them: 2 for bf16 values held in fp32, 0 if all are zero."""
    seen = int(np.bitwise_or.reduce(words)) if words.size else 0
    low_zero_bits = (seen & -seen).bit_length() - 1
    return words.itemsize - low_zero_bits // 8 if seen else 0


def split(words: Words, kept: int, rotate: bool) -> list[Plane]:
    """The `kept` high bytes of the words as planes of shape (N,), the highest first."""
    # a shift and a cast are vector instructions; gathering every second or fourth byte takes three times as long
    words = _narrow(words, kept)
    planes = [(words >> (8 * place - rotate)).astype(np.uint8) for place in reversed(range(1, kept))]
    lowest = words.astype(np.uint8)
    if rotate:
        lowest += lowest
        lowest |= (words >> (8 * kept - 1)).astype(np.uint8)
    return [*planes, lowest]


def join(planes: Sequence[Plane], word_bytes: int, rotate: bool) -> Words:
    """The words of `split`, shape (N,)."""
    kept = len(planes)
    narrow = next(size for size in (1, 2, 4, 8) if size >= kept)
    words = planes[0].astype(word_type(narrow))
    for plane in planes[1:]:
        words <<= 8
        words |= plane
    if rotate:
        sign = words << (8 * kept - 1)
        words >>= 1
        words |= sign
        if kept < narrow:
            words &= (1 << 8 * kept) - 1
    if kept < word_bytes:
        words = words.astype(word_type(word_bytes))
        words <<= 8 * (word_bytes - kept)
    return words


def _narrow(words: Words, kept: int) -> Words:
    """The kept bytes in the smallest words that hold them."""
    if kept == words.itemsize:
        return words
    words = words >> (8 * (words.itemsize - kept))
    return words.astype(word_type(next(size for size in (1, 2, 4, 8) if size >= kept)))


def difference(words: Words, base: Words) -> Words:
    """Words less base, wrapping, then zigzag: 0, -1, 1, -2 become 0, 1, 2, 3: high bytes of small ones are 0."""
    delta = words - base
    sign = delta >> (8 * words.itemsize - 1)
    delta <<= 1
    delta ^= np.zeros_like(sign) - sign
    return delta


def undo_difference(delta: Words, base: Words) -> Words:
    """The words of `difference`."""
    low = delta & 1
    words = delta >> 1
    words ^= np.zeros_like(low) - low
    words += base
    return words
