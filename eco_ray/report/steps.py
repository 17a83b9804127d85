"""A kept intensity series as the report sees it: (time, value) steps, with gaps that stay unknown."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise


def iso(time_s: float) -> str:
    """ISO 8601 UTC with whole seconds (rounded down) of a time [s since epoch]."""
    return datetime.fromtimestamp(int(time_s // 1), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def epoch_s(text: str) -> float:
    """Time [s since epoch] of an ISO 8601 text."""
    return datetime.fromisoformat(text).timestamp()


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of constant intensity."""

    start_s: float
    end_s: float
    g_per_kwh: float

    @property
    def length_s(self) -> float:
        """Length [s]."""
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Steps:
    """Intensity [g/kWh] that holds from each time for `step_s`, or until the next time if that comes earlier."""

    times_s: tuple[float, ...]
    values_g_per_kwh: tuple[float, ...]
    step_s: float

    @classmethod
    def of(cls, rows: Sequence[tuple[float, float]], step_s: float | None) -> Steps:
        """From rows ordered by time; an unknown step length is taken to be the shortest distance of two rows."""
        times = tuple(float(t) for t, _ in rows)
        if step_s is None:
            step_s = min((b - a for a, b in pairwise(times)), default=0.0)
        return cls(times, tuple(float(v) for _, v in rows), float(step_s))

    def end_of(self, index: int) -> float:
        """End [s since epoch] of a step."""
        end_s = self.times_s[index] + self.step_s
        return min(end_s, self.times_s[index + 1]) if index + 1 < len(self.times_s) else end_s

    def time_of(self, time_s: float) -> float:
        """Start [s since epoch] of the step that a time is in."""
        return self.times_s[bisect_right(self.times_s, time_s) - 1]

    def pieces(self, start_s: float, end_s: float) -> list[Piece] | None:
        """What is known of [start_s, end_s], step by step; None when a part of it is unknown.

        An empty span gives one piece of length zero.
        """
        index = bisect_right(self.times_s, start_s) - 1
        if index < 0 or start_s >= self.end_of(index):
            return None
        found: list[Piece] = []
        at_s = start_s
        while True:
            stop_s = min(end_s, self.end_of(index))
            found.append(Piece(at_s, max(at_s, stop_s), self.values_g_per_kwh[index]))
            if end_s <= self.end_of(index):
                return found
            index += 1
            if index == len(self.times_s) or self.times_s[index] > stop_s:
                return None
            at_s = stop_s

    def mean(self, start_s: float, end_s: float) -> float | None:
        """Time-weighted mean [g/kWh] over [start_s, end_s]; None when a part of it is unknown."""
        found = self.pieces(start_s, end_s)
        if found is None:
            return None
        length_s = sum(piece.length_s for piece in found)
        if length_s <= 0:
            return found[0].g_per_kwh
        return sum(piece.g_per_kwh * piece.length_s for piece in found) / length_s

    def cut(self, start_s: float, end_s: float) -> Steps:
        """The whole steps that touch [start_s, end_s]."""
        keep = [i for i, t in enumerate(self.times_s) if t <= end_s and self.end_of(i) > start_s]
        return Steps(
            tuple(self.times_s[i] for i in keep), tuple(self.values_g_per_kwh[i] for i in keep), float(self.step_s)
        )


def covered_s(spans: Sequence[tuple[float, float]]) -> float:
    """Length [s] of the union of spans: what runs at the same time counts once."""
    total, reached = 0.0, float("-inf")
    for start_s, end_s in sorted(spans):
        total += max(0.0, end_s - max(start_s, reached))
        reached = max(reached, end_s)
    return total


def merged(spans: Sequence[tuple[float, float]]) -> list[list[float]]:
    """The union of spans as spans that do not touch, in order."""
    found: list[list[float]] = []
    for start_s, end_s in sorted(spans):
        if found and start_s <= found[-1][1]:
            found[-1][1] = max(found[-1][1], end_s)
        else:
            found.append([start_s, end_s])
    return found


def overlap_s(spans: Sequence[tuple[float, float]], start_s: float, end_s: float) -> float:
    """How much [s] of [start_s, end_s] lies in the union of spans."""
    return covered_s([(max(a, start_s), min(b, end_s)) for a, b in spans if min(b, end_s) > max(a, start_s)])
