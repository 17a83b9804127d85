"""The two workloads of "Let's Wait Awhile" (Wiesner et al., Middleware '21), generated.

Both start with their year: an arrival is counted from its 1 January, 00:00.
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np

from eco_ray.errors import UsageError
from eco_ray.sim.workload import Ints, Workload

_MINUTE_S = 60
_DAY_S = 86_400
_FRIDAY = 4
#: the paper's grid of time [min]
_SLOT_MIN = 30
#: starts of a working day: 09:00, 09:30, ..., 16:30 [min after midnight]
_STARTS_MIN = range(9 * 60, 17 * 60, _SLOT_MIN)
#: 4 h, 4.5 h, ..., 89.5 h [min]
_LENGTHS_MIN = range(4 * 60, 90 * 60, _SLOT_MIN)


def lets_wait_awhile_ml(
    seed: int = 0, jobs: int = 3387, year: int = 2020, max_wait_s: int = _DAY_S, resolution_s: int = 1800
) -> Workload:
    """A machine-learning project: trainings of 4 h to 90 h, started in the working hours of a year, one CPU each.

    The order of the draws decides which jobs a seed gives: days, starts day by day, then all lengths. They may run on
    into the next year.
    """
    rng = np.random.default_rng(seed)
    new_year = date(year, 1, 1)
    length = (date(year + 1, 1, 1) - new_year).days
    working = [day for day in range(length) if (new_year + timedelta(days=day)).weekday() <= _FRIDAY]
    per_day = rng.multinomial(jobs, [1 / len(working)] * len(working))
    starts_min = [
        day * 24 * 60 + np.sort(rng.choice(_STARTS_MIN, size=count))
        for day, count in zip(working, per_day, strict=True)
    ]
    lengths_min = rng.choice(_LENGTHS_MIN, size=jobs)
    return _one_cpu_each(
        np.concatenate(starts_min) * _MINUTE_S,
        lengths_min * _MINUTE_S,
        max_wait_s=max_wait_s,
        resolution_s=resolution_s,
    )


def nightly(year: int = 2020, days: int = 365, max_wait_s: int = _DAY_S, resolution_s: int = 1800) -> Workload:
    """A job of 30 minutes every night at 01:00 (builds, reports, backups), one CPU each."""
    length = (date(year + 1, 1, 1) - date(year, 1, 1)).days
    if not 0 <= days <= length:
        raise UsageError(f"{days} nightly jobs, but {year} has {length} nights: ask for 0 to {length}")
    return _one_cpu_each(
        np.arange(days) * _DAY_S + 3600, np.full(days, 1800), max_wait_s=max_wait_s, resolution_s=resolution_s
    )


def _one_cpu_each(arrival_s: Ints, length_s: Ints, *, max_wait_s: int, resolution_s: int) -> Workload:
    count = len(arrival_s)
    length_s = np.maximum(length_s // resolution_s, 1) * resolution_s
    return Workload(
        ids=[str(number) for number in range(count)],
        arrival_s=arrival_s // resolution_s * resolution_s,
        length_s=length_s,
        expected_s=length_s,
        cpus=np.ones(count),
        gpus=np.zeros(count),
        max_wait_s=np.full(count, max_wait_s, dtype=np.int64),
        max_workers=np.ones(count, dtype=np.int64),
        zones=[()] * count,
    )
