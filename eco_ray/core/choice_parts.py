"""What the choices of many jobs are made of: the question, the answer, and spans of time in between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
#: (row, level, start, end), the times in seconds from the beginning of slot 0
Run = tuple[int, int, float, float]

#: sums of the same grams in another order differ by less (relative)
ROUNDING = 1e-9
#: shorter than any time that matters [s]
INSTANT_S = 1e-6
#: cells (job, row, slot) in one go: few enough for the cache, enough to forget the calls
CELLS = 1 << 18


@dataclass(frozen=True, slots=True)
class Batch:
    """J jobs on R rows in T slots, with W levels of workers. Times count from the beginning of slot 0."""

    #: length of a slot [s]
    slot_s: float
    #: (J, R, T): grams (with prices) per second on the least workers; inf where it may not run
    rate_g: Floats
    #: (J, T): seconds of each slot in the window of the job; contiguous, partial only at the first and the last
    room_s: Floats
    #: (J,): beginning of the window [s]
    begin_s: Floats
    #: (J,): useful seconds on the least workers
    work_s: Floats
    #: (J,)
    pausable: Bools
    #: (J,): run time that does no work, at every start after the first [s]
    resume_s: Floats
    #: (J,): share of that which the first start costs: all of it, a launch, nothing for what runs
    paid_start: Floats
    #: (J,): shortest useful time between suspensions [s]; what is left at the end may be shorter
    min_run_s: Floats
    #: (J, W): work per second relative to level 0, non-decreasing; 0 where a job does not have the level
    speed: Floats
    #: (J, W): power relative to level 0
    power: Floats
    #: (J, R, T): greatest level that fits; None: all fit everywhere
    most: NDArray[np.int8] | None = None


@dataclass(frozen=True, slots=True)
class Choices:
    """What `choose` found."""

    #: for each job its runs in order of time; None: nothing that is possible
    runs: list[list[Run] | None]
    #: (J,): their grams; inf for none
    carbon_g: Floats


@dataclass(frozen=True, slots=True)
class Spans:
    """Times on a row at a level, by job and time; all (n,)."""

    job: Ints
    row: Ints
    level: Ints
    start_s: Floats
    end_s: Floats

    def at(self, which: Any) -> Spans:
        return Spans(*(column[which] for column in (self.job, self.row, self.level, self.start_s, self.end_s)))

    def begins(self) -> Bools:
        """Where a run begins: spans that touch on one row at one level are one."""
        new = np.ones(len(self.job), dtype=np.bool_)
        new[1:] = self.start_s[1:] > self.end_s[:-1] + INSTANT_S
        for column in (self.job, self.row, self.level):
            new[1:] |= column[1:] != column[:-1]
        return new

    def tell(self, runs: list[list[Run] | None]) -> None:
        """Write the spans as runs of their jobs."""
        if not len(self.job):
            return
        first = np.flatnonzero(self.begins())
        end_s = self.end_s[np.append(first[1:], len(self.job)) - 1]
        columns = (self.row[first], self.level[first], self.start_s[first], end_s)
        told: list[Run] = list(zip(*(column.tolist() for column in columns), strict=True))
        job = self.job[first]
        cut = np.flatnonzero(job[1:] != job[:-1]) + 1
        firsts = [0, *cut.tolist()]
        for j, low, high in zip(job[firsts].tolist(), firsts, [*firsts[1:], len(told)], strict=True):
            runs[j] = told[low:high]


def joined(spans: list[Spans]) -> Spans:
    """All spans, one after the other."""
    none = np.zeros(0, dtype=np.int64)
    every = [Spans(none, none, none, none.astype(np.float64), none.astype(np.float64)), *spans]
    job, row, level = (np.concatenate([getattr(some, name) for some in every]) for name in ("job", "row", "level"))
    start_s, end_s = (np.concatenate([getattr(some, name) for some in every]) for name in ("start_s", "end_s"))
    return Spans(job, row, level, start_s, end_s)


def parts(items: Ints, cells: int) -> Iterator[Ints]:
    """The items in parts that have up to `CELLS` cells."""
    step = max(1, CELLS // max(1, cells))
    for first in range(0, len(items), step):
        yield items[first : first + step]


def near(least: Any) -> Any:
    """Up to what value something counts as equal to the least."""
    return least + ROUNDING * np.abs(least)
