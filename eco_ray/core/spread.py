"""Of equally clean times the least crowded one, so that not all jobs start at the same moment.

A choice of runs is moved, whole slots at a time, to where it costs the same and less is held. Nothing is paid for it:
no grams, no end after the limit, no further pause, no other node. What starts at once stays: nobody waits for others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: sums of the same grams in another order differ by less (relative)
_EQUAL = 1e-9
#: part of a slot by which a time may be on its other side by rounding
_SLOT_ROUNDING = 1e-6


#: grams of a slot that is shut, in terms of the run: far more than any, but not so much that rounding shows
_SHUT = 1e3
#: the same, and what is left by rounding, where a run costs nothing [g]
_LEAST_SHUT_G, _NOTHING_G = 1e-3, 1e-14


class Stretch(NamedTuple):
    """A run on a row; times count in slots from the beginning of slot 0."""

    row: int
    workers: int
    begin: float
    end: float
    #: the first slot that it touches, and the one after the last
    first: int
    stop: int

    @classmethod
    def of(cls, row: int, workers: int, begin: float, end: float) -> Stretch:
        """A run between these times."""
        return cls(row, workers, begin, end, int(begin + _SLOT_ROUNDING), math.ceil(end - _SLOT_ROUNDING))


class Choice(NamedTuple):
    """What there is to choose from, each by row: shapes (slots,)."""

    #: grams per slot of a row with so many workers; inf where they may not run
    costs: Callable[[int, int], Floats]
    #: what is held
    load: Callable[[int], Floats]
    #: shape (rows, slots): what a start adds [g]; None: nothing
    starts_g: Floats | None = None


def shifts(stretches: Sequence[Stretch], choice: Choice, end: float, *, dearest: bool = False) -> list[int]:
    """By how many slots each stretch moves, from the last to the first; their order stays, and so do pauses.

    `end`: when all has to be over, in slots. dearest: they are the cheapest slots that there are, so that only what
    begins and ends as dear as the dearest can have equals.
    """
    moved, stop, high = [0] * len(stretches), end, len(stretches)
    as_dear = _as_dear(stretches, choice) if dearest else None
    if as_dear is not None and not any(as_dear):
        return moved
    while high:
        low = high - 1  # those that touch move together
        while low and stretches[low].begin - stretches[low - 1].end < _SLOT_ROUNDING:
            low -= 1
        head = stretches[low]
        if head.first < 1:
            break
        by = 0
        if as_dear is None or all(as_dear[low:high]):
            # a pause is never closed: it would be a run of another length
            since = stretches[low - 1].stop + 1 if low else 1
            by = _shift(stretches[low:high], choice, since, stop)
            if by:
                moved[low:high] = [by] * (high - low)
        stop = head.first + by - 1.0
        high = low
    return moved


def _as_dear(stretches: Sequence[Stretch], choice: Choice) -> list[bool]:
    """Which ones begin and end as dear as the dearest."""
    ends_g: list[tuple[float, float]] = []
    known, row_g = (-1, -1), np.empty(0)
    for one in stretches:
        if one[:2] != known:
            known, row_g = one[:2], choice.costs(one.row, one.workers)
        ends_g.append((row_g.item(one.first), row_g.item(one.stop - 1)))
    limit_g = max(map(max, ends_g))
    limit_g -= _EQUAL * abs(limit_g)
    return [first_g >= limit_g and last_g >= limit_g for first_g, last_g in ends_g]


def _shift(block: Sequence[Stretch], choice: Choice, since: int, end: float) -> int:
    """By how many slots stretches that touch move together, within slots from `since` on and up to `end`."""
    row, first = block[0].row, block[0].first
    count = first + math.floor(end - block[-1].end + _SLOT_ROUNDING) - since + 1
    start = first - since
    if start < 0 or count <= max(start, 1):
        return 0  # less than a slot away from its neighbours, or nowhere else to go
    if len(block) == 1:
        total_g = _windows_g(choice.costs(row, block[0].workers), block[0], since, count)
    elif all(one.row == row for one in block):
        windows_g = [_windows_g(choice.costs(row, one.workers), one, since + one.first - first, count) for one in block]
        count = min(map(len, windows_g))
        total_g = np.sum([one[:count] for one in windows_g], axis=0)
    else:
        return 0
    if choice.starts_g is not None:
        total_g = total_g + choice.starts_g[row, since : since + len(total_g)]
    start_g = total_g.item(start)
    equal = (total_g <= start_g * (1 + _EQUAL) + _NOTHING_G).nonzero()[0]
    if len(equal) < 2 or start_g < 0 or start_g == np.inf:
        return 0
    by = emptiest(equal, choice.load(row)[since:], start) - start
    # nothing is as cheap as a run with a shut slot, unless others in it are far below zero
    if by and any(choice.costs(row, one.workers)[one.first + by : one.stop + by].max() == np.inf for one in block):
        return 0
    return by


def _windows_g(row_g: Floats, one: Stretch, since: int, count: int) -> Floats:
    """Grams of a stretch, were its first slot each of `count` slots from `since` on, as far as there are slots."""
    length = one.stop - one.first
    part_g = row_g[since : since + count + length - 1]
    count = len(part_g) - length + 1
    shut_g = max(_SHUT * np.add.reduce(row_g[one.first : one.stop]), _LEAST_SHUT_G)
    if shut_g == np.inf:  # it is where it may not be, by others' needs: nothing can be compared with it
        return np.full(max(count, 0), np.inf)
    sums = np.zeros(len(part_g) + 1)
    np.minimum(part_g, shut_g, out=sums[1:])
    np.add.accumulate(sums, out=sums)
    windows_g: Floats = sums[length:] - sums[:count]
    head, tail = one.begin - one.first, one.stop - one.end
    if head > _SLOT_ROUNDING:
        windows_g -= head * np.minimum(part_g[:count], shut_g)
    if tail > _SLOT_ROUNDING:
        windows_g -= tail * np.minimum(part_g[length - 1 :], shut_g)
    return windows_g


def emptiest(starts: Ints, load: Floats, start: int) -> int:
    """Of some starts one with the least load, shape (slots,): `start` if that is one, else the first."""
    held = load[starts]
    least = np.minimum.reduce(held) + _EQUAL
    return start if load[start] <= least else int(starts[(held <= least).argmax()])
