"""Every job decided at its arrival, by a published policy, on a cluster without limits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eco_ray.core.decide import Question, Stretch, Window, decide, resumed, window
from eco_ray.core.jobs import Workers
from eco_ray.core.outlook import Outlook
from eco_ray.core.policies import DAY_S
from eco_ray.core.situation import PlannerConfig
from eco_ray.sim.foresight import Foresight, Known
from eco_ray.sim.schedule import Row, Schedule
from eco_ray.sim.trace import Trace
from eco_ray.sim.workload import Workload

#: policies that do not choose a zone: they run where the job would run anyway
_AT_HOME = ("run-now", "threshold")
#: true windows that differ by less are equal; forecasts that repeat a day are told apart as in the published figures
_ORACLE_TOLERANCE = 1e-12
#: policies whose window comes from the calendar, not from the job
CALENDAR = ("next-workday", "semi-weekly", "nightly")


@dataclass(frozen=True, slots=True)
class Rules:
    """How jobs are decided and run."""

    policy: str
    span_s: int
    interruptible: bool = False
    published_quirks: bool = False
    #: what every start after the first takes before it works again [s]
    resume_cost_s: int = 0
    #: assumed where nothing is known of a length [s]
    assumed_length_s: float = PlannerConfig().assumed_duration_s
    watts_per_cpu: float = 1.0
    #: time of the simulation's start on the clock of the trace file [s since epoch]
    clock_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Decided:
    """What `run_batch` comes back with."""

    schedule: Schedule
    #: deadline of each job [s]: shape (J,)
    latest_s: NDArray[np.float64]
    #: starts after the first, of each job: shape (J,)
    resumes: NDArray[np.int64]


def run_batch(workload: Workload, traces: Sequence[Trace], beliefs: Sequence[Foresight], rules: Rules) -> Decided:
    """Decide all jobs: one entry of `traces` (what is) and `beliefs` (what is thought to come) per zone."""
    rows: list[Row] = []
    latest_s = (workload.arrival_s + workload.length_s + workload.max_wait_s).astype(np.float64)
    resumes = np.zeros(len(workload), dtype=np.int64)
    arrivals, lengths = workload.arrival_s.tolist(), workload.length_s.tolist()
    expected, waits = workload.expected_s.tolist(), workload.max_wait_s.tolist()
    own_waits = own_wait_s(workload, rules.policy).tolist()
    every_zone = tuple(range(len(traces)))
    for job, (arrival_s, length_s) in enumerate(zip(arrivals, lengths, strict=True)):
        if arrival_s + length_s > rules.span_s:
            continue
        workers = workload.workers_of(job)
        question = Question(
            length_s=float(expected[job] or rules.assumed_length_s),
            max_wait_s=float(waits[job]),
            own_wait_s=own_waits[job],
            clock_s=rules.clock_s + arrival_s,
            interruptible=rules.interruptible,
            max_workers=workers.max,
            throughput=(0.0, *workers.throughput) if workers.throughput else (),
            least_workers=workers.min,
            published_quirks=rules.published_quirks,
        )
        place = window(rules.policy, question)
        if place.lead_s > arrival_s:  # the window begins before the simulation
            if rules.published_quirks:
                continue  # the published code leaves such a job out
            place = replace(place, lead_s=float(arrival_s))
        if rules.policy in CALENDAR:
            latest_s[job] = arrival_s + length_s + place.wait_s
        zones = workload.zones[job] or every_zone
        zone, plan = _best(arrival_s, question, place, zones, workers, traces, beliefs, rules)
        begin_s = arrival_s - place.lead_s
        ran = _run(plan, float(length_s), rules.resume_cost_s, workers)
        resumes[job] = sum(1 for before, after in itertools.pairwise(ran) if after[0] > before[1])
        rows += [(job, zone, begin_s + start, begin_s + end, count) for start, end, count in ran]
    row_cpus = workload.cpus[np.array([row[0] for row in rows], dtype=np.int64)]
    return Decided(Schedule.of(rows, row_cpus * rules.watts_per_cpu), latest_s, resumes)


def own_wait_s(workload: Workload, policy: str) -> NDArray[np.float64]:
    """How long each job itself lets a calendar wait [s]: shape (J,), inf where it does not say.

    For `nightly` a maximum delay is the width of the window around 1:00, so that only a deadline binds.
    """
    own_s = np.full(len(workload), np.inf)
    if policy != "nightly" and workload.owns_wait is not None:
        own_s[workload.owns_wait] = workload.max_wait_s[workload.owns_wait]
    if workload.deadline_s is not None:
        spare_s = np.maximum(workload.deadline_s - workload.arrival_s - workload.length_s, 0.0)
        own_s = np.fmin(own_s, spare_s)
    return own_s


def _best(
    arrival_s: int,
    question: Question,
    place: Window,
    zones: Sequence[int],
    workers: Workers,
    traces: Sequence[Trace],
    beliefs: Sequence[Foresight],
    rules: Rules,
) -> tuple[int, list[Stretch]]:
    """The zone with the least carbon by what is believed, and the plan there; without belief, at once at home."""
    begin_s = arrival_s - place.lead_s
    until_s = min(arrival_s + place.reach_s, rules.span_s)
    latest_s = min(arrival_s + question.length_s + place.wait_s, rules.span_s)
    if rules.policy in _AT_HOME:
        zones = zones[:1]
    found: list[tuple[float, int, list[Stretch]]] = []
    for zone in zones:
        asked = question if not isinstance(beliefs[zone], Known) else replace(question, tolerance=_ORACLE_TOLERANCE)
        belief: Foresight = beliefs[zone]
        if rules.policy == "threshold":  # it reads what is, step by step
            belief = Known(traces[zone])
            asked = replace(asked, past_g_per_kwh=traces[zone].past(arrival_s, DAY_S))
        outlook = belief.outlook(begin_s, until_s)
        plan = decide(rules.policy, outlook, asked, place) if outlook is not None else []
        plan = resumed(plan, rules.resume_cost_s, latest_s - begin_s, workers)
        if plan and len(zones) == 1:
            return zone, plan
        if plan and outlook is not None:
            found.append((_believed_g(outlook, plan), zone, plan))
    if not found:
        return zones[0], [(place.lead_s, place.lead_s + question.length_s, 1)]
    _, zone, plan = min(found, key=lambda choice: choice[:2])
    return zone, plan


def _believed_g(outlook: Outlook, plan: Sequence[Stretch]) -> float:
    return sum(float(outlook.carbon(start, end - start)) * workers for start, end, workers in plan)


def _run(plan: Sequence[Stretch], length_s: float, resume_cost_s: float, workers: Workers) -> list[Stretch]:
    """What happens when a job of this true length follows a plan, in which each start after a pause resumes first.

    A job that is shorter than believed ends early; one that is longer runs on after the plan's end, on its least
    workers. Another number of workers is no pause.
    """
    ran: list[Stretch] = []
    left_s, works_s = length_s, 0.0
    for start_s, end_s, planned in plan:
        count = max(planned, workers.min)
        speed = workers.speed(count)
        paused = bool(ran) and start_s > ran[-1][1]
        works_s = start_s + resume_cost_s if paused else max(start_s, works_s)
        stop_s = max(min(end_s, works_s + left_s / speed), start_s)
        if ran and start_s == ran[-1][1] and count == ran[-1][2]:
            ran[-1] = (ran[-1][0], stop_s, count)
        else:
            ran.append((start_s, stop_s, count))
        left_s -= max(0.0, stop_s - works_s) * speed
        if left_s <= 1e-6:
            return ran
    start_s, end_s, count = ran[-1]
    done_s = max(end_s, works_s) + left_s  # it may still be resuming
    if count == workers.min:
        ran[-1] = (start_s, done_s, count)
    else:
        ran.append((end_s, done_s, workers.min))
    return ran
