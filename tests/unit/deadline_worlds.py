"""Small worlds of one CPU and jobs of one priority, and who is late in them though all could be in time.

Times are whole slots. Whether all can be in time is known exactly: with pauses by earliest deadline first, which keeps
all deadlines of one machine that can be kept; in one piece by trying the orders.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from planning_cases import CONFIG, SLOT_S, T0, a_node, a_spec, hourly, no_suspension

from eco_ray.core.actions import Action
from eco_ray.core.events import Event, ForecastArrived, JobSubmitted
from eco_ray.core.orchestrator import Orchestrator, OrchestratorConfig
from eco_ray.sim.replay import Replay, Submission

#: release, work, deadline
Times = tuple[float, float, float]

ROUGH = ("pauses, rough", "pauses, coming rough", "in one piece, rough")
KINDS = ("pauses, known", "pauses, coming", "in one piece, known", "in one piece, told before", *ROUGH)
#: by which the last job has run, whoever is late
_HOURS = 48
#: rounding of times since 1970 in seconds
_EPS = 1e-3
_VALUES = (50, 100, 150, 200, 250, 300, 350, 400)


@dataclass(frozen=True)
class Wish:
    """A job, in slots from the start of the world."""

    told: int
    release: int
    work: int
    deadline: int
    #: by which it is told and released sooner, is shorter, and due later than in whole slots
    spare: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Small:
    """One world."""

    wishes: tuple[Wish, ...]
    pauses: bool
    g_per_kwh: tuple[float, ...]

    @property
    def feasible(self) -> bool:
        """Whether all could be in time for one who knows all."""
        jobs = [(one.release, one.work, one.deadline) for one in self.wishes]
        return (edf_keeps_all if self.pauses else some_order_keeps_all)(jobs)


def edf_keeps_all(jobs: Sequence[Times]) -> bool:
    """Whether all (release, work, deadline) can be in time on one machine, with pauses at any moment."""
    return all(
        sum(work for release, work, deadline in jobs if begin <= release and deadline <= end) <= end - begin + _EPS
        for begin in {release for release, _, _ in jobs}
        for end in {deadline for _, _, deadline in jobs}
    )


def some_order_keeps_all(jobs: Sequence[Times], now: float = 0.0) -> bool:
    """The same in one piece each: whether some order, each as soon as it may, keeps all deadlines."""
    if any(max(now, release) + work > deadline + _EPS for release, work, deadline in jobs):
        return False
    soonest = min((max(now, release) + work for release, work, _ in jobs), default=0.0)
    return not jobs or any(
        some_order_keeps_all([*jobs[:i], *jobs[i + 1 :]], max(now, release) + work)
        for i, (release, work, _) in enumerate(jobs)
        if max(now, release) < soonest  # else another one fits in before
    )


def a_world(kind: str, seed: int) -> Small:
    """A tight one in which all can be in time."""
    chance = random.Random(f"{kind} {seed}")
    while not (world := _drawn(kind, chance)).feasible:
        pass
    return world


def _drawn(kind: str, chance: random.Random) -> Small:
    pauses, known = kind.startswith("pauses"), kind in ("pauses, known", "in one piece, known", ROUGH[0], ROUGH[2])
    span, wishes = chance.choice([8, 16, 24]), []
    for _ in range(chance.randint(3, 7)):
        # nothing begins before all that is known at the start is told
        release, work = 1 + chance.choice([0, chance.randrange(span)]), chance.randint(1, 6)
        deadline = release + work + chance.choice([0, 1, chance.randint(0, 8), chance.randint(0, 24)])
        told = 0 if known else release if pauses else max(0, release - chance.randint(1, 12))
        spare = [chance.choice([0.0, 0.1, 0.5, 0.9]) * (kind in ROUGH) for _ in range(4)]
        wishes.append(Wish(told, release, work, deadline, tuple(spare)))
    chance.shuffle(wishes)
    wishes.sort(key=lambda one: one.told)
    return Small(tuple(wishes), pauses, tuple(chance.choice(_VALUES) for _ in range(_HOURS)))


@dataclass
class Told:
    """The one forecast that there is."""

    world: Small

    def times_s(self) -> list[float]:
        return [T0]

    def at(self, _now_s: float) -> ForecastArrived:
        return ForecastArrived({"DE": hourly("DE", *self.world.g_per_kwh)})


@dataclass
class Watched:
    """An orchestrator with somebody beside it who notes when a job comes that cannot be in time with the others."""

    core: Orchestrator
    pauses: bool
    #: a job came that could not, though all before it could: others were made to wait for a cleaner hour
    too_late: bool = False
    take_changes: object = field(init=False)

    def __post_init__(self) -> None:
        self.take_changes = self.core.take_changes

    def handle(self, event: Event, now_s: float) -> list[Action]:
        if isinstance(event, JobSubmitted):
            new = event.spec.not_before_s, event.spec.expected_duration_s or 0.0, event.spec.deadline_s
            self.too_late |= self._feasible(now_s) and not self._feasible(now_s, new)
        return self.core.handle(event, now_s)

    def _feasible(self, now_s: float, *new: tuple[float, float, float]) -> bool:
        """In whole slots, as they are promised: what remains of a slot after the end of a job is nobody's."""
        begin, jobs = 0, [_in_slots(max(now_s, release_s), left_s, due_s) for release_s, left_s, due_s in new]
        for job in self.core.book.jobs.values():
            left_s, due_s = self.core.book.durations.left_s(job, now_s), job.spec.deadline_s
            if job.live_attempt is None:
                jobs.append(_in_slots(max(now_s, job.spec.not_before_s), left_s, due_s))
            elif self.pauses:  # it has the slot that has begun
                began_s = _down(now_s) * SLOT_S
                jobs.append(_in_slots(began_s, now_s - began_s + left_s, due_s))
            else:
                begin = _up(now_s + left_s)  # it cannot leave
        return edf_keeps_all(jobs) if self.pauses else some_order_keeps_all(jobs, begin)


def _in_slots(release_s: float, left_s: float, due_s: float) -> tuple[int, int, int]:
    """The last slot need not be over at the deadline, only the work."""
    whole = _down(left_s)
    part_s = left_s - whole * SLOT_S
    if part_s < _EPS * SLOT_S:
        return _up(release_s), whole, _down(due_s)
    return _up(release_s), whole + 1, _down(due_s - part_s) + 1


def _up(time_s: float) -> int:
    return math.ceil(time_s / SLOT_S - _EPS)


def _down(time_s: float) -> int:
    return math.floor(time_s / SLOT_S + _EPS)


def _submission(number: int, wish: Wish, rule: dict[str, Any]) -> Submission:
    told, sooner, shorter, later = wish.spare
    told_s = T0 + max(0.0, wish.told - min(told, sooner)) * SLOT_S
    work, deadline = wish.work - shorter, wish.deadline + later
    spec = a_spec(work / 4, deadline / 4, not_before_s=T0 + (wish.release - sooner) * SLOT_S, **rule)
    return Submission(f"j{number}", told_s, spec, work * SLOT_S)


def late_in(world: Small) -> tuple[list[str], bool]:
    """Who is late, and whether a job came too late for somebody, as others had been made to wait."""
    rule = {} if world.pauses else no_suspension()
    submissions = [_submission(number, one, rule) for number, one in enumerate(world.wishes)]
    watched = Watched(Orchestrator("DE", T0, OrchestratorConfig(planner=CONFIG)), world.pauses)
    end_s = T0 + _HOURS * 3600.0
    replay = Replay(watched, [a_node()], submissions, Told(world), begin_s=T0, end_s=end_s, tick_s=SLOT_S)  # type: ignore[arg-type]
    ends_s: dict[int, float] = {}
    for number, _, _, end_s, _ in replay.run().rows:
        ends_s[number] = max(end_s, ends_s.get(number, 0.0))
    late = [
        f"j{number}"
        for number, one in enumerate(world.wishes)
        if ends_s.get(number, np.inf) > (one.deadline + one.spare[3]) * SLOT_S + _EPS
    ]
    return late, watched.too_late


def late_worlds(kind: str, count: int) -> dict[int, bool]:
    """By seed, of so many worlds, those in which somebody is late: whether a job came too late for that."""
    found = {seed: late_in(a_world(kind, seed)) for seed in range(count)}
    return {seed: too_late for seed, (late, too_late) in found.items() if late}
