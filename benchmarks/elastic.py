"""When, where and how wide GPU jobs run: eco with each freedom alone and all together, beside what a user would pick.

    python benchmarks/planner.py --only elastic,elastic-mean

`elastic_inputs.py` says what the jobs, the zones and the throughput are. Every job has a home, by turns in each zone;
savings are against the same jobs at once at home, on as many GPUs as they asked for, without limits.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from common import table
from elastic_inputs import GPUS, SHORT_S, TICK_S, ZONES, inputs, setup

from eco_ray.core.outlook import Outlook
from eco_ray.sim.simulate import Setup, Simulated, simulate
from eco_ray.sim.trace import Trace
from eco_ray.sim.workload import Ints, Workload

#: time without work at each start after a pause, or with another number of workers [s]
RESUME_S = 300


@dataclass(frozen=True)
class Row:
    """A policy, and which freedoms it has."""

    name: str
    policy: str = "eco"
    #: may wait; else the deadline is arrival + length
    time: bool = False
    #: may run in all zones; else at home
    space: bool = False
    #: may have up to 4 workers; else one, as it asked for
    scale: bool = False
    pauses: bool = False
    #: [s]
    resume_s: int = RESUME_S
    #: takes the intensity for what it is now
    looks_once: bool = False


#: what has to be the best
EVERYTHING = Row("eco: time, space, scale, pauses", time=True, space=True, scale=True, pauses=True)
#: what a user would pick
SIMPLE = (
    Row("run-now at home", "run-now"),
    Row("best zone now", space=True, looks_once=True),
    Row("lowest-window at home", "lowest-window", time=True),
    Row("carbon-scaler at home, resumes for nothing", "carbon-scaler", time=True, scale=True, pauses=True, resume_s=0),
    Row("carbon-scaler at home", "carbon-scaler", time=True, scale=True, pauses=True),
)
ROWS = (
    *SIMPLE,
    Row("eco: time", time=True),
    Row("eco: space", space=True),
    Row("eco: scale", scale=True),
    Row("eco: time, scale", time=True, scale=True),
    Row("eco: time, space", time=True, space=True),
    Row("eco: time, space, scale", time=True, space=True, scale=True),
    Row("eco: time, pauses", time=True, pauses=True),
    Row("eco: time, scale, pauses", time=True, scale=True, pauses=True),
    Row("eco: time, space, pauses", time=True, space=True, pauses=True),
    EVERYTHING,
)


@dataclass(frozen=True)
class AsNow:
    """The belief that the intensity stays as it is: that of somebody who looks once."""

    truth: Trace

    def outlook(self, at_s: float, until_s: float) -> Outlook | None:
        """One step, as clean as now."""
        return Outlook(np.array([0.0, until_s - at_s]), self.truth.g_per_kwh[[self.truth.index(at_s)]])


def case(row: Row, *, knows_length: bool = True) -> Setup:
    """The world of a row."""
    made = setup()
    work = made.workload
    if not row.time:
        work = replace(work, max_wait_s=np.zeros_like(work.max_wait_s))
    if not row.space:
        work = replace(work, zones=[zones[:1] for zones in work.zones])
    if not row.scale:
        work = replace(work, workers=None, max_workers=np.ones_like(work.max_workers))
    if not knows_length:
        work = replace(work, expected_s=_means_s(work))
    return replace(
        made,
        workload=work,
        beliefs=[AsNow(trace) for trace in made.traces] if row.looks_once else made.beliefs,
        interruptible=row.pauses,
        resume_cost_s=row.resume_s if row.pauses else 0,
    )


def _means_s(work: Workload) -> Ints:
    """The mean length of the short and of the long jobs of each application, in whole ticks [s]: shape (J,)."""
    mean_s = np.zeros_like(work.length_s)
    applications, short = np.array(inputs().applications), work.length_s < SHORT_S
    for application in np.unique(applications):
        for queue in (short, ~short):
            some = queue & (applications == application)
            if some.any():
                mean_s[some] = round(float(work.length_s[some].mean()) / TICK_S) * TICK_S
    return mean_s


def elastic() -> bool:
    """A week of GPU jobs in three zones, their lengths and the intensity known: each freedom alone and together."""
    return _compare(ROWS, knows_length=True)


def elastic_mean() -> bool:
    """The same, of each job only the mean length of its application's short or long jobs known."""
    return _compare((*SIMPLE, Row("eco: time, space", time=True, space=True), EVERYTHING), knows_length=False)


def _compare(rows: tuple[Row, ...], *, knows_length: bool) -> bool:
    """Print the table; whether its bars hold."""
    print(f"{len(inputs().workload)} jobs on {GPUS} GPUs in each of {', '.join(ZONES)}; resuming takes {RESUME_S} s")
    told, grams, holds = [], {}, True
    for row in rows:
        made = case(row, knows_length=knows_length)
        began_s = time.process_time()
        done = simulate(made, row.policy)
        cpu_s = time.process_time() - began_s
        outcome, peaks = done.outcome, _peaks(made, done)
        grams[row.name] = outcome.carbon_g
        fits = max(peaks) <= GPUS + 1e-6 and outcome.truncated == 0
        in_time = not (row.policy == "eco" and row.time and knows_length) or outcome.missed_deadlines == 0
        best = row is not EVERYTHING or outcome.carbon_g <= min(grams.values())
        holds &= fits and in_time and best
        told.append(
            [
                row.name,
                f"{outcome.saved_pct:.2f}",
                f"{outcome.mean_delay_h:.2f}",
                f"{outcome.p95_delay_h:.2f}",
                str(outcome.missed_deadlines),
                " ".join(f"{peak:.0f}" for peak in peaks),
                f"{_energy_kwh(done):.0f}",
                str(outcome.resumes),
                f"{cpu_s:.1f}",
                "MISSED" if not (fits and in_time and best) else "ok" if row.policy == "eco" else "",
            ]
        )
    bound = simulate(case(EVERYTHING), "bound").outcome
    told.append(["LP bound, everything known beforehand", f"{bound.saved_pct:.2f}", *[""] * 8])
    table(["", "saved %", "mean delay h", "p95 h", "late", "peak GPUs", "kWh", "resumes", "CPU-s", ""], told)
    return holds


def _peaks(made: Setup, done: Simulated) -> list[float]:
    """The most GPUs that ran at any moment, by zone."""
    if done.schedule is None:
        return []
    return [float(done.schedule.held(made.workload.gpus, zone)[1].max(initial=0.0)) for zone in range(len(ZONES))]


def _energy_kwh(done: Simulated) -> float:
    """What all jobs used, resumes and all."""
    if done.schedule is None:
        return 0.0
    return float(done.schedule.power_kw @ (done.schedule.end_s - done.schedule.start_s)) / 3600
