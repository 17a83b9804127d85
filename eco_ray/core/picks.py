"""Runs of a job that is planned together with many others, and the window in which it may run."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from eco_ray.core.situation import Floats


class Pick(NamedTuple):
    """A run on a place; times count from the beginning of the first slot."""

    row: int
    workers: int
    start_s: float
    end_s: float


class Window(NamedTuple):
    """From the first start to the last end; times count from the beginning of the first slot."""

    begin_s: float
    end_s: float
    #: first slot that it touches, and the one after the last
    first: int
    stop: int
    slot_s: float

    @classmethod
    def of(cls, begin_s: float, end_s: float, slot_s: float) -> Window:
        """The window over these times."""
        return cls(begin_s, end_s, int(begin_s / slot_s + 1e-9), math.ceil(end_s / slot_s - 1e-9), slot_s)

    @property
    def first_room_s(self) -> float:
        """Seconds of its first slot."""
        return min((self.first + 1) * self.slot_s, self.end_s) - self.begin_s

    def room_s(self) -> Floats:
        """Seconds of each of its slots: shape (stop - first,)."""
        room_s = np.full(self.stop - self.first, self.slot_s)
        room_s[0] -= self.begin_s - self.first * self.slot_s
        room_s[-1] -= self.stop * self.slot_s - self.end_s
        return room_s

    def from_next_slot(self) -> Window:
        """The same without the first slot."""
        return Window.of((self.first + 1) * self.slot_s, self.end_s, self.slot_s)


class Starts(NamedTuple):
    """What starting and pausing takes."""

    #: run time that does no work at the first start, and at each one after it [s]
    first_s: float
    again_s: float
    #: useful run time between two suspensions at least [s]
    min_run_s: float


class Slots(NamedTuple):
    """Chosen slots of a window, in order of time, and the runs that they make."""

    #: row and level of each run; its first slot and its last one
    runs: list[tuple[int, int, int, int]]
    #: work of theirs that is too much [s with the least workers]
    spare_s: float
    #: the dearest slot
    dearest: int
    #: whether others are as good as that
    tied: bool


class Cut(NamedTuple):
    """Something to leave out of chosen runs; sorts by what it saves, then the latest last."""

    #: grams per second of work
    price: float
    #: the run
    number: int
    at_end: bool
    #: what is left of it; nothing: its start is its end
    start_s: float
    end_s: float
    #: [s with the least workers]
    work_s: float
