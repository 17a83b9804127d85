"""Small simulations for tests: zones A, B, ... with steps of an hour, jobs a, b, ... of one CPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eco_ray.core.jobs import Workers
from eco_ray.sim.foresight import Known
from eco_ray.sim.simulate import Setup
from eco_ray.sim.trace import Trace
from eco_ray.sim.workload import Workload

H = 3600
#: Monday 1 June 2020, 00:00 UTC [s since epoch]
MONDAY_S = 1_590_969_600


@dataclass(frozen=True)
class Job:
    """Times in seconds; `told`: what a policy is told of the length, 0: nothing, None: the truth."""

    arrival: float
    length: float
    wait: float = 0
    told: float | None = None
    cpus: float = 1
    workers: int = 1
    zones: tuple[int, ...] = ()
    gpus: float = 0
    #: instead of `workers`
    scales: Workers | None = None


def workload(*jobs, owns_wait=None):
    def whole(values):
        return np.array(list(values), dtype=np.int64)

    return Workload(
        ids=[chr(97 + number) for number in range(len(jobs))],
        arrival_s=whole(j.arrival for j in jobs),
        length_s=whole(j.length for j in jobs),
        expected_s=whole(j.length if j.told is None else j.told for j in jobs),
        cpus=np.array([j.cpus for j in jobs], dtype=float),
        gpus=np.array([j.gpus for j in jobs], dtype=float),
        max_wait_s=whole(j.wait for j in jobs),
        max_workers=whole(j.scales.max if j.scales else j.workers for j in jobs),
        zones=[j.zones for j in jobs],
        owns_wait=None if owns_wait is None else np.array(owns_wait),
        workers=[j.scales or Workers(1, j.workers) for j in jobs] if any(j.scales for j in jobs) else None,
    )


def trace(*values, start=0, step=H, zone="A"):
    return Trace(zone, start, step, np.array(values, dtype=float))


def setup(jobs, *zones, tick=300, capacity=None, **rest):
    """Known intensities [g/kWh] by the hour, one sequence per zone, from a Monday on; as long as the shortest."""
    traces = [trace(*values, zone=chr(65 + number)) for number, values in enumerate(zones)]
    return Setup(
        workload=workload(*jobs),
        traces=traces,
        beliefs=[Known(one) for one in traces],
        begin_s=MONDAY_S,
        span_s=min(one.end_s for one in traces),
        resolution_s=tick,
        capacity_cpus=None if capacity is None else (float(capacity),) * len(traces),
        **rest,
    )


def ran(schedule):
    """What ran: (job, zone, start, end, workers)."""
    columns = (schedule.job, schedule.zone, schedule.start_s, schedule.end_s, schedule.workers)
    return list(zip(*(column.tolist() for column in columns), strict=True))
