"""Small worlds of one job, on one node or two of which others hold a part, and all of its plans.

A plan is runs in whole slots, each on one node with one number of workers; only the last one ends when its work is
done. Times are slots from the start of the world, in seconds where the name says so.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from planning_cases import CONFIG, SLOT_S, T0, a_job, a_node, a_situation, a_spec, hourly, no_suspension

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.events import ForecastArrived
from eco_ray.core.intensity import IntensitySeries
from eco_ray.core.jobs import Attempt, AttemptState, Job, JobSpec, JobState, Segment, SuspendRule, Workers
from eco_ray.core.orchestrator import Orchestrator, OrchestratorConfig
from eco_ray.core.situation import Situation
from eco_ray.sim.replay import Replay, Submission

CURVES = ((1.0, 1.9, 2.7, 3.4), (1.0, 2.0, 3.0, 4.0), (1.0, 1.5, 1.8, 2.0), (1.0, 1.2, 2.2, 2.3))
ZONES = ("DE", "FR")
VALUES = (50, 100, 200, 300, 400)
#: node, workers, first slot, slot after the last
Run = tuple[int, int, int, int]
#: rounding of times since 1970, and of work [s]
EPS_S = 1e-3


@dataclass(frozen=True)
class OneJob:
    """A job and what is free for it."""

    #: by node and slot: CPUs that are free, and intensity [g/kWh]
    free: tuple[tuple[int, ...], ...]
    g_per_kwh: tuple[tuple[int, ...], ...]
    speeds: tuple[float, ...]
    min_run_s: float
    resume_s: float
    launch_s: float
    #: how much of the first slot is over
    passed_s: float
    #: from the start of the world
    deadline_s: float
    work_s: float = 0.0
    max_intensity: float | None = None
    #: workers with which it runs on the first node, for long enough; 0: it waits
    running: int = 0

    @property
    def slots(self) -> int:
        return len(self.free[0])

    def time_s(self, slot: int) -> float:
        """When a slot begins for the job, and the last one ends."""
        return min(max(slot * SLOT_S, self.passed_s), self.deadline_s)

    def runs(self, since: int, *, first: bool) -> Iterator[tuple[Run, float, bool]]:
        """What it may do next: a run, the work that it does, and whether it may be followed by another."""
        resume_s = 0.0 if first and not self.running else self.resume_s
        for node, free in enumerate(self.free):
            for begin in range(since, self.slots):
                for workers in range(1, min(free[begin], len(self.speeds)) + 1):
                    goes_on = first and (node, workers, begin) == (0, self.running, 0)
                    start_s = 0.0 if goes_on else self.launch_s + resume_s
                    for end in range(begin + 1, self.slots + 1):
                        if free[end - 1] < workers or self._too_dirty(node, end - 1):
                            break
                        useful_s = self.time_s(end) - self.time_s(begin) - start_s
                        if useful_s > EPS_S:
                            run = node, workers, begin, end
                            may_stop = goes_on or useful_s >= self.min_run_s - EPS_S
                            yield run, useful_s * self.speeds[workers - 1], may_stop

    def _too_dirty(self, node: int, slot: int) -> bool:
        return self.max_intensity is not None and self.g_per_kwh[node][slot] > self.max_intensity

    def most_work_s(self) -> float:
        """The most that any plan does by the deadline."""

        def after(since: int, before: tuple[int, int, int] | None) -> float:
            best_s = 0.0
            for (node, workers, begin, end), work_s, may_stop in self.runs(since, first=before is None):
                if before != (node, workers, begin):  # else it goes on, and that is another run
                    then_s = after(end, (node, workers, end)) if may_stop else 0.0
                    best_s = max(best_s, work_s + then_s)
            return best_s

        return after(0, None)

    def least_g(self) -> float:
        """The least that any plan adds that is in time; infinite where none is."""
        kwh_per_s = 50.0 / 3.6e6  # each worker adds 50 W

        def after(since: int, first: bool, left_s: float) -> float:
            best_g = float("inf")
            for (node, workers, begin, end), work_s, may_stop in self.runs(since, first=first):
                spare_s = max(0.0, (work_s - left_s) / self.speeds[workers - 1])
                if work_s < left_s - EPS_S and not may_stop:
                    continue
                if spare_s > self.time_s(end) - self.time_s(end - 1) + EPS_S:
                    continue  # over before this slot
                grams = -spare_s * workers * kwh_per_s * self.g_per_kwh[node][end - 1]
                for slot in range(begin, end):
                    length_s = self.time_s(slot + 1) - self.time_s(slot)
                    grams += length_s * workers * kwh_per_s * self.g_per_kwh[node][slot]
                if work_s < left_s - EPS_S:
                    grams += after(end, False, left_s - work_s)
                best_g = min(best_g, grams)
            return best_g

        return after(0, True, self.work_s)

    @property
    def nodes(self) -> list[Node]:
        """Nodes of four CPUs, in a zone each."""
        return [a_node(f"{zone.lower()}-1", zone, cpus=4.0, watts=400.0) for zone in ZONES[: len(self.free)]]

    @property
    def series(self) -> list[IntensitySeries]:
        """Their intensity, and days of 300 g/kWh after it."""
        pairs = zip(ZONES, self.g_per_kwh, strict=False)
        return [hourly(zone, *values, *[300] * 400, step_s=SLOT_S) for zone, values in pairs]

    def situation(self) -> Situation:
        """What is not free is held by others."""
        situation = a_situation(*self.series, nodes=self.nodes, now_s=T0 + self.passed_s, launch_s=self.launch_s)
        for node, held, first, end in self.held():
            there = Segment(node.name, node.zone, T0 + first * SLOT_S, T0 + end * SLOT_S)
            situation.calendar.reserve(there, Resources(cpus=float(held)))
        return situation

    def held(self) -> Iterator[tuple[Node, int, int, int]]:
        """What others hold: node, CPUs, first slot, slot after the last."""
        for node, free in zip(self.nodes, self.free, strict=True):
            first = 0
            for cpus, some in groupby(free):
                end = first + len(list(some))
                if cpus < 4:
                    yield node, 4 - cpus, first, end
                first = end

    def job(self) -> Job:
        """The job as the planner gets it."""
        now_s = T0 + self.passed_s
        job = a_job(self.spec(), now_s=now_s)
        if not self.running:
            return job
        node = self.nodes[0]
        attempt = Attempt(1, "j-a1", node.name, node.zone, AttemptState.RUNNING, now_s, now_s, now_s)
        return replace(job, state=JobState.RUNNING, attempts=(replace(attempt, workers=self.running),))

    def attempts(self) -> list[tuple[float, float, int]]:
        """What an orchestrator makes of it: start, end [s from the start of the world] and workers of each attempt.

        Others are jobs without slack. Launches take no time here.
        """
        others = [
            Submission(
                f"other-{number}",
                T0,
                a_spec(
                    (end - first) / 4,
                    end / 4,
                    not_before_s=T0 + first * SLOT_S,
                    zones=(node.zone,),
                    demand=Resources(float(held)),
                    **no_suspension(),
                ),
                (end - first) * SLOT_S,
            )
            for number, (node, held, first, end) in enumerate(self.held())
        ]
        mine = Submission("j", T0 + self.passed_s, self.spec(), self.work_s)
        core = Orchestrator("DE", T0, OrchestratorConfig(planner=CONFIG))
        replay = Replay(
            core, self.nodes, [*others, mine], Told(self.series), begin_s=T0, end_s=T0 + 48 * 3600.0, tick_s=SLOT_S
        )
        return [
            (start_s, end_s, workers) for who, _, start_s, end_s, workers in replay.run().rows if who == len(others)
        ]

    def spec(self) -> JobSpec:
        return a_spec(
            self.work_s / 3600,
            self.deadline_s / 3600,
            workers=Workers(1, len(self.speeds), self.speeds),
            suspend=SuspendRule(True, self.min_run_s, self.resume_s),
            max_intensity=self.max_intensity,
        )


@dataclass(frozen=True)
class Told:
    """The one forecast that there is."""

    series: list[IntensitySeries]

    def times_s(self) -> list[float]:
        return [T0]

    def at(self, _now_s: float) -> ForecastArrived:
        return ForecastArrived({one.zone: one for one in self.series})


def tight(seed: int, *, runs: bool = False, **fixed: Any) -> OneJob | None:
    """A world in which hardly more could be done in time; None where nothing can. `runs`: the job runs already."""
    world, chance = drawn(seed, **fixed), random.Random(seed)
    if runs:
        world = replace(world, running=min(world.free[0][0], len(world.speeds), chance.randint(1, 4)))
    most_s = world.most_work_s()
    share = chance.choice([1.0, 0.99, 0.95, 0.9, 0.8])
    return replace(world, work_s=most_s * share - 0.5) if most_s > 200.0 and (world.running or not runs) else None


def drawn(seed: int, *, levels: int = 4, **fixed: Any) -> OneJob:
    """A world, without the work."""
    chance = random.Random(seed)
    nodes = chance.choice([1, 1, 2])
    slots = chance.randint(4, 8 if nodes == 1 else 6)
    most = min(levels, 4 if nodes == 1 else 3)
    free, g_per_kwh = [], []
    for _ in range(nodes):
        row: list[int] = []
        while len(row) < slots:  # what others hold lasts some slots
            row += [chance.choice([0, 1, 1, 2, 3, 4])] * chance.choice([1, 1, 2, 3])
        free.append(tuple(min(cpus, 4) for cpus in row[:slots]))
        g_per_kwh.append(tuple(chance.choice(VALUES) for _ in range(slots)))
    world = OneJob(
        tuple(free),
        tuple(g_per_kwh),
        chance.choice(CURVES)[: chance.randint(min(2, most), most)],
        min_run_s=chance.choice([1, 1.5, 2, 2, 3, 4]) * SLOT_S,
        resume_s=chance.choice([0.0, 0.0, 60.0, 300.0, 1000.0]),
        launch_s=chance.choice([0.0, 0.0, 0.0, 40.0]),
        passed_s=chance.choice([0.0, 0.0, 0.0, 300.0]),
        deadline_s=slots * SLOT_S - chance.choice([0.0, 0.0, 0.0, 500.0]),
    )
    return replace(world, **fixed)
