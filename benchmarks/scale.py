"""The planner with many jobs: a year of 100,000, a million on 10,000 nodes, and one live replan of 10,000.

    python benchmarks/scale.py [--only year,million,live] [--no-save]

Each case is a process of its own on one core; CPU time and memory are those of the whole process. Needs ../shared
(traces that are not ours to ship); without it, it says so and ends.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import median, run_tables, table, verdict
from published import EM2022, SHARED, setup
from simulator import hours_to_seconds

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.events import ForecastArrived, JobSubmitted, NodeJoined, Tick
from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.jobs import JobSpec, SuspendRule, Workers
from eco_ray.core.orchestrator import Orchestrator, OrchestratorConfig
from eco_ray.core.power import PowerCurve
from eco_ray.core.situation import PlannerConfig
from eco_ray.core.units import Nature
from eco_ray.sim.simulate import Simulated, simulate
from eco_ray.sim.workload import Workload

#: bars of the issue: CPU time [s], memory [GB]
YEAR_BAR = 60.0, 2.0
MILLION_BAR = 600.0, 6.0
LIVE_BAR_S = 1.0
ZONES = ("DE", "FR", "GB", "ES", "PL", "AU-SA", "US-CAL-CISO", "CA-ON")
HOUR_S = 3600.0


def year_case(pauses: bool) -> dict[str, Any]:
    """GAIA's year of 100,000 jobs (Alibaba PAI) in DE, on 400 CPUs, 5-minute ticks, perfect knowledge."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = Path(folder) / "jobs.csv"
        hours_to_seconds(SHARED / "data" / "jobs" / "gaia_pai-100k.csv.gz", jobs)
        case = setup(
            jobs=jobs,
            intensity=EM2022,
            zones={"DE": "DE"},
            start="2022-01-01T00:00Z",
            hours=8759.0,
            resolution="5m",
            capacity_cpus=400.0,
            interruptible=pauses,
        )
        return told(simulate(case, "eco"))


def million_case() -> dict[str, Any]:
    """Ten such years at once, arrivals shifted by chance, on 10,000 nodes of 4 CPUs in 8 zones, hourly ticks."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = Path(folder) / "jobs.csv"
        hours_to_seconds(SHARED / "data" / "jobs" / "gaia_pai-100k.csv.gz", jobs)
        case = setup(
            jobs=jobs,
            intensity=EM2022,
            zones={zone: zone for zone in ZONES},
            start="2022-01-01T00:00Z",
            hours=8759.0,
            resolution="1h",
        )
    curve = PowerCurve((0.0, 1.0), (15.0, 45.0), "assumed: a small server", Nature.ASSUMED)
    size = Resources(cpus=4.0, memory_gb=16.0)
    nodes = tuple(Node(f"{zone}-{i:04}", zone, size, curve, 1.1) for zone in ZONES for i in range(10_000 // len(ZONES)))
    return told(simulate(replace(case, workload=repeated(case.workload, 10), nodes=nodes), "eco"))


def repeated(work: Workload, times: int) -> Workload:
    """The jobs of up to 4 CPUs several times, each at another hour of the year, until there are as many as before."""
    small = np.flatnonzero(work.cpus <= 4)
    chosen = np.resize(small, times * len(work))
    arrival_s = work.arrival_s[chosen] + np.random.default_rng(1).integers(0, 8759, len(chosen)) * 3600
    arrival_s %= int(work.arrival_s.max()) + 1
    order = np.argsort(arrival_s, kind="stable")
    chosen = chosen[order]
    return Workload(
        ids=[str(number) for number in range(len(chosen))],
        arrival_s=arrival_s[order],
        length_s=work.length_s[chosen],
        expected_s=work.expected_s[chosen],
        cpus=work.cpus[chosen],
        gpus=work.gpus[chosen],
        max_wait_s=work.max_wait_s[chosen],
        max_workers=work.max_workers[chosen],
        zones=[()] * len(chosen),
    )


def told(done: Simulated) -> dict[str, Any]:
    """What is kept of a simulation."""
    found = done.outcome
    return {
        "jobs": found.jobs,
        "saved_pct": found.saved_pct,
        "late": found.missed_deadlines,
        "peak_cpus": found.peak_cpus,
        "changes": found.plan_changes_per_job,
    }


def live_case(pauses: bool) -> dict[str, Any]:
    """10,000 queued jobs, a fifth elastic up to 4 workers, on 320 nodes in 8 zones; a forecast comes that changes all.

    Times one tick of the orchestrator, in which all jobs are planned again, and their plans compared and written down.
    """
    orchestrator, begin_s = queued(10_000, pauses)
    orchestrator.handle(ForecastArrived({zone: forecast(zone, begin_s, 2) for zone in ZONES}), begin_s + 1)
    before = {job.id: job.plan for job in orchestrator.book.jobs.values()}
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    orchestrator.handle(Tick(), begin_s + HOUR_S)
    cpu_s, wall_s = time.process_time() - began_cpu_s, time.perf_counter() - began_s
    after = {job.id: job.plan for job in orchestrator.book.jobs.values()}
    changed = sum(1 for one in after if before[one] is not None and after[one] != before[one])
    late = sum(1 for job in orchestrator.book.jobs.values() if not job.plan or job.plan.end_s > job.spec.deadline_s + 1)
    return {"jobs": len(after), "changed": changed, "late": late, "replan_s": wall_s, "replan_cpu_s": cpu_s}


def queued(count: int, pauses: bool) -> tuple[Orchestrator, float]:
    """An orchestrator with so many jobs that wait, and its time."""
    begin_s, chance = 1_783_252_800.0, np.random.default_rng(7)
    config = OrchestratorConfig(planner=PlannerConfig(slot_s=HOUR_S))
    orchestrator = Orchestrator(ZONES[0], begin_s, config)
    curve = PowerCurve((0.0, 1.0), (50.0, 200.0), "assumed", Nature.ASSUMED)
    for zone in ZONES:
        for number in range(40):
            node = Node(f"{zone}-{number}", zone, Resources(cpus=16.0, memory_gb=64.0), curve)
            orchestrator.handle(NodeJoined(node), begin_s)
    orchestrator.handle(ForecastArrived({zone: forecast(zone, begin_s, 1) for zone in ZONES}), begin_s)
    for number in range(count):
        hours = float(chance.choice([0.5, 1, 2, 3, 5, 8, 12]) * chance.uniform(0.7, 1.3))
        elastic = chance.random() < 0.2
        spec = JobSpec(
            name=f"job-{number}",
            run="true",
            deadline_s=begin_s + min(hours + float(chance.uniform(4, 90)), 96.0) * HOUR_S,
            demand=Resources(cpus=float(chance.choice([1, 1, 2, 4]))),
            expected_duration_s=hours * HOUR_S,
            not_before_s=begin_s + 2 * HOUR_S,  # they are queued, and stay so
            workers=Workers(1, 4, (1.0, 1.9, 2.7, 3.4)) if elastic else Workers(),
            suspend=SuspendRule(allow=pauses, min_run_s=60.0, resume_cost_s=10.0),
        )
        orchestrator.handle(JobSubmitted(spec.name, spec), begin_s)
    orchestrator.take_changes()
    return orchestrator, begin_s


@functools.cache
def intensities() -> dict[str, list[float]]:
    """The zones' intensities of 2022, by hour [g/kWh]."""
    with EM2022.open() as file:
        rows = list(csv.DictReader(file))
    return {zone: [float(row[zone]) for row in rows] for zone in ZONES}


def forecast(zone: str, begin_s: float, number: int) -> IntensitySeries:
    """Five days of May 2022; the first forecast is what was a week before."""
    first = 3000 + 168 * (number - 1)
    values = np.array(intensities()[zone][first : first + 120])
    kind = SignalKind.AVERAGE_LIFECYCLE
    return IntensitySeries(zone, begin_s, HOUR_S, values, kind, "Electricity Maps", Nature.ASSUMED, issued_s=begin_s)


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "year": lambda: year_case(False),
    "year-pauses": lambda: year_case(True),
    "million": million_case,
    "live": lambda: live_case(False),
    "live-pauses": lambda: live_case(True),
}


def measured(case: str) -> dict[str, Any]:
    """One case in a process of its own, on one core: what it told, CPU time [s] and peak memory [GB]."""
    core = {min(os.sched_getaffinity(0))}
    text = subprocess.run(
        [sys.executable, __file__, "--case", case],
        check=True,
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, core),
    ).stdout
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found


def run_case(case: str) -> None:
    """What `measured` starts."""
    found = CASES[case]()
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({**found, "cpu_s": used.ru_utime + used.ru_stime, "memory_gb": used.ru_maxrss * 1024 / 1e9}))


def simulations(bars: dict[str, tuple[float, float]]) -> bool:
    """Run them, print a table, and compare with the bars."""
    found = {case: measured(case) for case in bars}
    rows = [
        [
            case,
            f"{one['jobs']:,}",
            f"{one['saved_pct']:.2f}",
            str(one["late"]),
            f"{one['peak_cpus']:.0f}",
            f"{one['changes']:.3f}",
            f"{one['cpu_s']:.1f}",
            f"{one['cpu_s'] / one['jobs'] * 1e3:.3f}",
            f"{one['memory_gb']:.2f}",
        ]
        for case, one in found.items()
    ]
    table(["", "jobs", "saved %", "late", "peak CPUs", "changes/job", "CPU-s", "ms/job", "GB"], rows)
    print()
    holds = True
    for case, (cpu_s, memory_gb) in bars.items():
        holds &= verdict(f"{case}: CPU of the whole process", found[case]["cpu_s"], cpu_s, " s")
        holds &= verdict(f"{case}: memory", found[case]["memory_gb"], memory_gb, " GB")
    return holds


def live() -> bool:
    """The replan after a forecast, medians of three processes."""
    rows, holds = [], True
    for case in ("live", "live-pauses"):
        runs = [measured(case) for _ in range(3)]
        wall_s = median([one["replan_s"] for one in runs])
        rows.append([case, *(str(runs[0][key]) for key in ("jobs", "changed", "late")), f"{wall_s:.2f}"])
        rows[-1].append(f"{median([one['replan_cpu_s'] for one in runs]):.2f}")
        holds &= wall_s <= LIVE_BAR_S
    table(["10,000 queued jobs x 8 zones x 96 slots", "jobs", "plans changed", "late", "s", "CPU-s"], rows)
    print(f"\n{'ok    ' if holds else 'MISSED'}  each replan within {LIVE_BAR_S:g} s")
    return holds


TABLES: dict[str, Callable[[], bool]] = {
    "year": lambda: simulations({"year": YEAR_BAR, "year-pauses": YEAR_BAR}),
    "million": lambda: simulations({"million": MILLION_BAR}),
    "live": live,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="tables, with commas between them: " + ", ".join(TABLES))
    parser.add_argument("--no-save", action="store_true", help="print only")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        run_case(args.case)
        return 0
    if not SHARED.exists():
        print("skipped: ../shared, with the traces, is not here")
        return 0
    return run_tables("scale", "eco_ray's planner with many jobs", TABLES, args.only, save=not args.no_save)


if __name__ == "__main__":
    sys.exit(main())
