"""Real inputs for benchmarks/elastic.py: Philly's jobs, Pollux' throughput, and a cluster with GPUs in three zones.

Jobs (msr-fiddle/philly-traces, as Pollux' artifact ships them): those of one week that ran for 15 minutes to 3 days on
at most 16 GPUs, without the rest of their row's meaning: all are taken to be training runs that can scale.

Application, by the GPU time of a job as the workload generator of Pollux has it (petuum/adaptdl,
simulator/workload.py): below 1 GPU-h cifar10 or ncf, below 10 deepspeech2 or bert, below 100 yolov3, else imagenet; of
two, the parity of the job's number decides.

Throughput (Pollux, OSDI'21, measured on nodes with 4 NVIDIA T4): GPUs x local batch / step time of the best placement
that was measured, with the local batch fixed at the one that is the application's own on one GPU (OSDI'21, table 1).
More GPUs then mean a larger batch in all; that some applications need more examples with it is not counted, for any
policy. What seems better than proportional is cut to that, and no number of GPUs is slower than a smaller one.

Workers: one worker is what the job asked for, so that run-now is the job as it ran. It may scale to 4 of them, and to
16 GPUs, the most that were measured.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

import numpy as np
from published import EM2022, SHARED

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.jobs import Workers
from eco_ray.core.power import PowerCurve
from eco_ray.core.units import Nature
from eco_ray.grid.trace import CsvTrace
from eco_ray.sim.foresight import Known
from eco_ray.sim.simulate import Setup
from eco_ray.sim.trace import Trace
from eco_ray.sim.workload import Workload

ZONES = ("AU-SA", "DE", "FR")
#: GPUs of each zone
GPUS = 120
#: a Monday in each: of the jobs, and of the same week of the year of the carbon intensity
JOBS_FROM = datetime(2017, 11, 13, tzinfo=UTC)
CARBON_FROM = datetime(2022, 11, 14, tzinfo=UTC)
DAYS = 7
#: jobs and their deadlines end inside
SPAN_S = 13 * 86_400
TICK_S = 900
SHORTEST_S, LONGEST_S = 900, 3 * 86_400
MOST_GPUS, MOST_WORKERS = 16, 4
#: the simulator's defaults: jobs below 2 h wait up to 6 h, others up to 24 h
SHORT_S, SHORT_WAIT_S, LONG_WAIT_S = 7_200, 21_600, 86_400
#: power limit of an NVIDIA T4, on which the throughput was measured (NVIDIA T4 datasheet) [W]
GPU_W = 70.0
#: local batch on one GPU
LOCAL_BATCH = {"bert": 12, "cifar10": 128, "deepspeech2": 20, "imagenet": 200, "ncf": 256, "yolov3": 8}


@dataclass(frozen=True)
class Inputs:
    """The jobs with what each of them is, and the traces."""

    workload: Workload
    applications: list[str]
    traces: list[Trace]


@cache
def speeds(application: str) -> tuple[float, ...]:
    """Throughput with 1, 2, ... 16 GPUs, in terms of that with one."""
    found: dict[int, float] = {}
    path = SHARED / "data" / "profiles" / f"pollux_{application}_placements.csv"
    with path.open() as file:
        rows = list(csv.DictReader(file))
    measured = {int(row["local_bsz"]) for row in rows}
    batch = min(measured, key=lambda size: (abs(size - LOCAL_BATCH[application]), size))
    for row in rows:
        if int(row["local_bsz"]) == batch:
            gpus = sum(int(digit) for digit in row["placement"])
            found[gpus] = max(found.get(gpus, 0.0), gpus * batch / float(row["step_time"]))
    made = [1.0]
    for gpus in range(2, MOST_GPUS + 1):
        made.append(max(made[-1], min(float(gpus), found[gpus] / found[1])))
    return tuple(made)


def workers_of(application: str, gpus: int) -> Workers:
    """One worker is so many GPUs."""
    most = max(1, min(MOST_WORKERS, MOST_GPUS // gpus))
    speed = speeds(application)
    return Workers(1, most, tuple(speed[count * gpus - 1] / speed[gpus - 1] for count in range(1, most + 1)))


def application_of(number: int, gpu_h: float) -> str:
    """As Pollux' workload generator chooses it."""
    if gpu_h < 1:
        return ("cifar10", "ncf")[number % 2]
    if gpu_h < 10:
        return ("deepspeech2", "bert")[number % 2]
    return "yolov3" if gpu_h < 100 else "imagenet"


@cache
def inputs() -> Inputs:
    """Read everything."""
    path = SHARED / "data" / "jobs" / "philly_pollux.csv.gz"
    jobs: list[tuple[float, float, int]] = []
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file):
            begin = datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC)
            arrival_s, length_s, gpus = (
                (begin - JOBS_FROM).total_seconds(),
                float(row["duration"]),
                int(row["num_gpus"]),
            )
            inside = 0 <= arrival_s < DAYS * 86_400
            if inside and SHORTEST_S <= length_s <= LONGEST_S and 1 <= gpus <= MOST_GPUS:
                jobs.append((arrival_s, length_s, gpus))
    jobs.sort()
    applications = [application_of(n, length_s * gpus / 3600) for n, (_, length_s, gpus) in enumerate(jobs)]
    arrival_s, length_s = (np.array([job[i] for job in jobs]) // TICK_S * TICK_S for i in (0, 1))
    workers = [workers_of(name, gpus) for name, (_, _, gpus) in zip(applications, jobs, strict=True)]
    gpus = np.array([job[2] for job in jobs], dtype=np.float64)
    work = Workload(
        ids=[f"philly-{number}" for number in range(len(jobs))],
        arrival_s=arrival_s.astype(np.int64),
        length_s=length_s.astype(np.int64),
        expected_s=length_s.astype(np.int64),
        cpus=gpus,  # a CPU beside each GPU, so that what the simulator says of CPUs goes for GPUs
        gpus=gpus,
        max_wait_s=np.where(length_s < SHORT_S, SHORT_WAIT_S, LONG_WAIT_S).astype(np.int64),
        max_workers=np.array([one.max for one in workers], dtype=np.int64),
        zones=[_from_home(number) for number in range(len(jobs))],
        workers=workers,
    )
    begin_s = CARBON_FROM.timestamp()
    file_of = CsvTrace(EM2022, columns={zone: zone for zone in ZONES}, start_s=begin_s, end_s=begin_s + SPAN_S)
    traces = [Trace.of(file_of.rows(zone, begin_s, begin_s + SPAN_S), begin_s, TICK_S) for zone in ZONES]
    return Inputs(work, applications, traces)


def _from_home(number: int) -> tuple[int, ...]:
    """All zones; the home of the job, its first one, by turns."""
    home = number % len(ZONES)
    return (home, *(zone for zone in range(len(ZONES)) if zone != home))


def setup() -> Setup:
    """All jobs in all zones, elastic, with perfect knowledge."""
    made = inputs()
    power = PowerCurve((0.0, 1.0), (0.0, 0.0), "GPUs only", Nature.ASSUMED)
    nodes = tuple(
        Node(zone, zone, Resources(cpus=float(GPUS), gpus=float(GPUS)), power, gpu_busy_w=GPU_W) for zone in ZONES
    )
    return Setup(
        workload=made.workload,
        traces=made.traces,
        beliefs=[Known(trace) for trace in made.traces],
        begin_s=CARBON_FROM.timestamp(),
        span_s=SPAN_S,
        resolution_s=TICK_S,
        nodes=nodes,
        source="NVIDIA T4 at its power limit of 70 W",
    )
