"""Lives of a node's agent that count the same time, as after a clock that was set back: found, flagged, never dropped.

What a meter counted in either life was drawn; only the times are wrong. So sums keep it, and the time is flagged.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import NamedTuple

from eco_ray.core.ledger import OTHER_LIFE, Overlap
from eco_ray.store.codec import to_json
from eco_ray.store.rows import Row

#: pairs of lives that are told of
_MOST = 100
#: what rounding makes of the times of lives that follow each other: absolute [s], and of an interval's length, for
#: clocks that run many times as fast
_TOUCH_S, _TOUCH_REL = 1e-3, 2e-6


class Life(NamedTuple):
    """What an agent booked between its start and its end."""

    node: str
    boot_id: str
    #: place of its first interval in the chain
    first_id: int
    start_s: float
    end_s: float


#: whether one of another life of the node ends after the one time and starts before the other: (node, boot_id, s, s)
Booked = Callable[[str, str, float, float], bool]
#: start and end of a life's intervals that end after the one time and start before the other
SpansOf = Callable[[Life, float, float], Iterable[tuple[float, float]]]


def flag_overlaps(new: Sequence[Row], booked: Booked) -> None:
    """Flag the rows that overlap with one of another life of their node, booked before or in the same call."""
    by_life: dict[tuple[str, str], list[Row]] = {}
    for row in new:
        by_life.setdefault((row["node"], row["boot_id"]), []).append(row)
    lives_of: dict[str, list[list[Row]]] = {}
    for (node, boot_id), rows in by_life.items():
        lives_of.setdefault(node, []).append(rows)
        # as a rule the one question is enough
        if booked(node, boot_id, min(row["start_s"] for row in rows), max(row["end_s"] for row in rows)):
            for row in rows:
                if booked(node, boot_id, *_core(row["start_s"], row["end_s"])):
                    _flag(row)
    for lives in lives_of.values():
        if len(lives) > 1:
            _flag_among(sorted((row for rows in lives for row in rows), key=lambda row: float(row["start_s"])))


def _flag_among(rows: Iterable[Row]) -> None:
    """Of the rows of one node, in order of their start: each that starts before another life's has ended."""
    ends: dict[str, float] = {}  # of the two lives that reach furthest
    for row in rows:
        since_s, _ = _core(row["start_s"], row["end_s"])
        if any(end_s > since_s for boot_id, end_s in ends.items() if boot_id != row["boot_id"]):
            _flag(row)
        ends[row["boot_id"]] = max(row["end_s"], ends.get(row["boot_id"], row["end_s"]))
        if len(ends) > 2:
            del ends[min(ends, key=ends.__getitem__)]


def _flag(row: Row) -> None:
    flags = json.loads(row["flags"])
    if OTHER_LIFE not in flags:
        row["flags"] = to_json([*flags, OTHER_LIFE], "flags")


def overlaps(lives: Iterable[Life], spans_of: SpansOf) -> tuple[Overlap, ...]:
    """Which lives of one node overlap, whether it was seen when they were booked or not; a hundred pairs at most."""
    return tuple(islice(_overlaps(lives, spans_of), _MOST))


def _overlaps(lives: Iterable[Life], spans_of: SpansOf) -> Iterator[Overlap]:
    node, open_lives = "", list[Life]()
    for life in sorted(lives, key=lambda life: (life.node, life.start_s)):
        if life.node != node:
            node, open_lives = life.node, []
        open_lives = [one for one in open_lives if one.end_s - _TOUCH_S > life.start_s]
        for one in open_lives:
            first, later = sorted((one, life), key=lambda each: each.first_id)
            found = _overlap(first, later, spans_of)
            if found is not None:
                yield found
        open_lives.append(life)


def _overlap(first: Life, later: Life, spans_of: SpansOf) -> Overlap | None:
    """The intervals of the later life that overlap with one of the first; lives may also lie in each other's holes."""
    span = max(first.start_s, later.start_s), min(first.end_s, later.end_s)
    of_first = sorted(spans_of(first, *span))
    starts = [start_s for start_s, _ in of_first]
    reach = list(accumulate((end_s for _, end_s in of_first), max))
    found = []
    for start_s, end_s in spans_of(later, *span):
        since_s, until_s = _core(start_s, end_s)
        begun = bisect_left(starts, until_s)
        if begun and reach[begun - 1] > since_s:
            found.append((start_s, end_s))
    if not found:
        return None
    times = min(start_s for start_s, _ in found), max(end_s for _, end_s in found)
    return Overlap(later.node, later.boot_id, first.boot_id, *times, len(found))


def _core(start_s: float, end_s: float) -> tuple[float, float]:
    """An interval without what rounding may add to it."""
    touch_s = _TOUCH_S + _TOUCH_REL * (end_s - start_s)
    return start_s + touch_s, end_s - touch_s
