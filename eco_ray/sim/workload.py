"""Jobs of a simulation, as arrays: one entry per job, times in whole seconds since the simulation's start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eco_ray.core.jobs import Workers

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Workload:
    """J jobs in order of arrival. Times are multiples of the resolution: floored, and a length is at least one tick."""

    #: what the schedule calls them
    ids: Sequence[str]
    #: shape (J,), since the simulation's start; may be after its end [s]
    arrival_s: Ints
    #: true length on the least workers [s]
    length_s: Ints
    #: what a policy is told of the length [s]; 0: nothing
    expected_s: Ints
    #: per worker
    cpus: Floats
    gpus: Floats
    #: how much later than at once a job may finish [s]
    max_wait_s: Ints
    #: 1: not elastic; the most of `workers`, where they are given
    max_workers: Ints
    #: allowed zones as indices into the simulation's zones; empty: all
    zones: Sequence[tuple[int, ...]]
    #: shape (J,): whether the wait was asked for, job by job, and so binds calendars, too; None: it never was
    owns_wait: NDArray[np.bool_] | None = None
    #: shape (J,): latest finish that a job itself asked for, since the start [s], NaN: none; None: none of them did
    deadline_s: Floats | None = None
    #: with how many workers each job runs, and how fast; None: 1 to `max_workers`, and speed grows in proportion
    workers: Sequence[Workers] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def least_workers(self) -> Ints:
        """With how many workers each job runs at least: shape (J,)."""
        if self.workers is None:
            return np.ones(len(self), dtype=np.int64)
        return np.array([one.min for one in self.workers], dtype=np.int64)

    def workers_of(self, job: int) -> Workers:
        """With how many workers a job runs, and how fast."""
        return self.workers[job] if self.workers is not None else Workers(1, int(self.max_workers[job]))
