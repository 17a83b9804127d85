"""The book of open jobs: their records, their plans, what those promise of the nodes, and what changed.

The orchestrator decides what happens to a job; the book keeps jobs, plans and calendar consistent with each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from eco_ray.core.agenda import Agenda, Occupancy
from eco_ray.core.calendar import Calendar
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.decide import decided_once
from eco_ray.core.explain import plan_message
from eco_ray.core.intensity import IntensitySeries
from eco_ray.core.jobs import TRANSITIONS, Attempt, AttemptState, Job, Plan, Reason, Segment
from eco_ray.core.market import Cleared, Floats
from eco_ray.core.planner import NoPlan, PlannerConfig, Situation, plan_job, segments_g
from eco_ray.core.ports import LogEntry


class Book:
    """Open jobs with their plans. Invariant: the calendar holds exactly the segments of `jobs`' plans."""

    def __init__(self, home_zone: str, now_s: float, config: PlannerConfig) -> None:
        self.config = config
        self.home_zone = home_zone
        #: open jobs by id; to be changed through `set` only
        self.jobs: dict[str, Job] = {}
        #: nodes that are there, by name
        self.nodes: dict[str, Node] = {}
        self.forecast: dict[str, IntensitySeries] = {}
        #: what capacity is worth, as last cleared, and the pool of each node in it
        self.market: Cleared | None = None
        self.pools: dict[str, int] = {}
        #: intensity of the past, by zone
        self.past: dict[str, IntensitySeries] = {}
        self._means: dict[str, tuple[IntensitySeries, int, Floats]] = {}
        #: what others than our attempts hold, by node
        self.foreign: dict[str, Resources] = {}
        self.calendar = Calendar(config.slot_s)
        self.calendar.forget_before(now_s)
        #: ids of jobs with a live attempt, in a dictionary for its order
        self._live: dict[str, None] = {}
        #: ids of jobs that wait and would take any earlier place: they have none, or want the earliest
        self.placeless: dict[str, None] = {}
        self._agenda = Agenda()
        self._occupancy = Occupancy()
        self._changed: dict[str, Job] = {}
        self._log: list[LogEntry] = []

    def situation(self, now_s: float) -> Situation:
        """What a plan made now depends on."""
        nodes = list(self.nodes.values())
        return Situation(
            now_s,
            nodes,
            self.calendar,
            self.forecast,
            self.home_zone,
            self.foreign,
            self.market,
            self.pools,
            self.past,
            self._means,
        )

    # -- records ---------------------------------------------------------------------------------------------------

    def set(self, job: Job, now_s: float, kind: str = "", message: str = "") -> None:
        """Write a job down, with a line in its log. Its state may only change as `TRANSITIONS` says.

        The calendar follows its plan. A job that has ended leaves the book.
        """
        old = self.jobs.get(job.id)
        if old is not None and old.state is not job.state and job.state not in TRANSITIONS[old.state]:
            raise AssertionError(f"job {job.id}: no transition from {old.state} to {job.state}")
        self._keep(job)
        self._changed[job.id] = job
        if job.state.is_final:
            del self.jobs[job.id]
        if kind:
            self._log.append(LogEntry(now_s, job.id, kind, message))

    def take_changes(self) -> tuple[list[Job], list[LogEntry]]:
        """Jobs that changed and log lines since the last call."""
        jobs, log = list(self._changed.values()), self._log
        self._changed, self._log = {}, []
        return jobs, log

    def adopt_all(self, jobs: Iterable[Job]) -> None:
        """Take over the open jobs of an earlier life with the plans that they had."""
        for job in jobs:
            self._keep(job)

    def live(self) -> Iterator[tuple[Job, Attempt]]:
        """Jobs with a live attempt, and that attempt; jobs may be changed meanwhile."""
        for job_id in list(self._live):
            job = self.jobs.get(job_id)
            if job is not None and job.live_attempt is not None:
                yield job, job.live_attempt

    def free(self, node: Node) -> Resources:
        """What is free on a node at this moment, by the attempts that live on it."""
        return node.capacity - self.foreign.get(node.name, Resources()) - self._occupancy.held(node.name)

    def due(self, now_s: float) -> list[Job]:
        """Jobs that have to be looked at: their start or the end of their stretch has come, or they are leaving."""
        return [self.jobs[job_id] for job_id in self._agenda.due(now_s)]

    def is_leaving(self, node: Node, now_s: float, limit_s: float) -> bool:
        """Whether an attempt on the node was asked to leave it, or was to be done, not longer ago than `limit_s`."""
        leaving = (AttemptState.PAUSING, AttemptState.STOPPING)
        for job_id in self._occupancy.on(node.name):
            job = self.jobs[job_id]
            attempt = job.live_attempt
            due_s = job.plan.segments[0].end_s if job.plan else now_s + limit_s
            if attempt is not None and attempt.state in leaving:
                due_s = attempt.pause_asked_s or now_s
            if now_s - limit_s <= due_s <= now_s + 1e-6:
                return True
        return False

    # -- plans -----------------------------------------------------------------------------------------------------

    def plan(self, job: Job, now_s: float) -> Job:
        """Plan a job afresh; returns it as written down."""
        old = job.plan
        job = self._without_plan(job)
        return self._adopt(job, old, plan_job(job, self.situation(now_s), self.config), now_s)

    def replan(self, jobs: Iterable[Job], now_s: float, gain_pct: float) -> None:
        """Plan waiting jobs again in the given order; a plan that still holds is changed only for a worthwhile gain."""
        for job in jobs:
            if decided_once(job.spec.policy) and self._holds(job.plan):
                continue
            old, bare = job.plan, self._without_plan(job)
            situation = self.situation(now_s)
            new = plan_job(bare, situation, self.config)
            if old is not None and self._holds(old):
                # what it was promised, by what is known now
                old_now = replace(old, carbon_g=segments_g(old.segments, job.spec, situation))
                if not _better(job, new, old_now, gain_pct):
                    self._keep(job)
                    continue
            if old is None and isinstance(new, NoPlan) and (new.reason, new.message) == (job.reason, job.message):
                self._keep(job)
                continue
            self._adopt(bare, old, new, now_s)

    def lift(self, jobs: Iterable[Job]) -> list[Job]:
        """Take the plans of jobs out of the calendar, to plan all of them anew with `place`."""
        return [self._without_plan(job) for job in jobs]

    def try_out(self, job: Job, now_s: float) -> Plan | NoPlan:
        """Plan a job that was lifted, and hold its place; `accept` or `restore` follows."""
        found = plan_job(job, self.situation(now_s), self.config)
        if isinstance(found, Plan):
            self._keep(replace(job, plan=found))
        return found

    def tried(self, jobs: Iterable[Job]) -> list[Job]:
        """The jobs as they stand now."""
        return [self.jobs[job.id] for job in jobs]

    def restore(self, jobs: Iterable[Job]) -> None:
        """Put jobs back as they are given, plans and all."""
        for job in jobs:
            self._keep(job)

    def accept(self, job: Job, plan: Plan | NoPlan, now_s: float) -> None:
        """Give a job the plan that was tried out; one that means the same as the old one is no change."""
        if job.plan is not None and isinstance(plan, Plan) and _same(job.plan, plan, now_s):
            self._keep(job)
        else:
            self._adopt(replace(job, plan=None), job.plan, plan, now_s)

    def next_segment(self, job: Job, now_s: float) -> Job:
        """The first stretch of a plan that stays as it is has passed."""
        if job.plan is not None:
            job = replace(job, plan=replace(job.plan, segments=job.plan.segments[1:]))
        self.set(job, now_s)
        return job

    def hold_node(self, job: Job, attempt: Attempt, now_s: float) -> None:
        """Let a live job that has no better plan hold its node for a slot, whatever was promised to others.

        What has run for long is expected to run on for longer: otherwise every job that overruns is asked every slot.
        """
        ran_s = now_s - (attempt.started_s if attempt.started_s is not None else now_s)
        segment = Segment(attempt.node, attempt.zone, now_s, now_s + max(self.config.slot_s, ran_s / 20))
        self.set(replace(job, plan=Plan((segment,), None, None, now_s)), now_s)

    def _holds(self, plan: Plan | None) -> bool:
        """Whether the nodes of a plan are still there."""
        return plan is not None and all(s.node in self.nodes for s in plan.segments)

    def _adopt(self, job: Job, old: Plan | None, plan: Plan | NoPlan, now_s: float) -> Job:
        found = None if isinstance(plan, NoPlan) else plan
        if isinstance(plan, NoPlan):
            reason, message = plan.reason, plan.message
        else:
            reason, message = plan_message(job, plan, now_s, self.config)
            if job.retry_at_s > now_s and plan.start_s <= job.retry_at_s + self.config.slot_s:
                reason, message = Reason.RETRYING, job.message
        kind = ""
        if job.live_attempt is None and not job.held:
            moved = (found and found.segments) != (old and old.segments)
            kind = "planned" if (moved or reason is not job.reason) and message != job.message else ""
            job = replace(job, reason=reason, message=message)
        job = replace(job, plan=found)
        self.set(job, now_s, kind, message)
        return job

    def _without_plan(self, job: Job) -> Job:
        """Give the promised slots of a job back, for the moment in which it is planned."""
        bare = replace(job, plan=None)
        if job.id in self.jobs:
            self._keep(bare)
        return bare

    def _keep(self, job: Job) -> None:
        """Replace the record of a job, and what it holds in the calendar."""
        old = self.jobs.get(job.id)
        if old is None or old.plan is not job.plan:
            for segment in old.plan.segments if old and old.plan else ():
                self.calendar.release(segment, job.spec.demand)
            for segment in job.plan.segments if job.plan else ():
                self.calendar.reserve(segment, job.spec.demand)
        self.jobs[job.id] = job
        attempt = job.live_attempt
        if attempt is not None:
            self._live[job.id] = None
        else:
            self._live.pop(job.id, None)
        waits = attempt is None and not job.held and not job.state.is_final
        if waits and (job.plan is None or job.spec.policy == "run-now"):
            self.placeless[job.id] = None
        else:
            self.placeless.pop(job.id, None)
        self._occupancy.put(job.id, attempt.node if attempt else None, job.spec.demand)
        self._agenda.set(job.id, _due_s(job, attempt))


def _better(job: Job, new: Plan | NoPlan, old: Plan, gain_pct: float) -> bool:
    """Whether changing to the new plan is worth it: clearly cleaner, or earlier at no more grams or when it is late."""
    if isinstance(new, NoPlan):
        return False
    if job.spec.policy == "run-now" or old.end_s > job.spec.deadline_s:
        return new.start_s < old.start_s
    if new.carbon_g is None or old.carbon_g is None:
        return new.carbon_g is not None or new.start_s < old.start_s
    if new.start_s < old.start_s and new.carbon_g <= old.carbon_g:
        return True
    return new.carbon_g <= old.carbon_g * (1 - gain_pct / 100)


def _due_s(job: Job, attempt: Attempt | None) -> float | None:
    """When a job has to be looked at; None: not before something happens to it."""
    if attempt is None:
        return None if job.plan is None or job.held or job.state.is_final else job.plan.start_s
    if attempt.state is AttemptState.STOPPING:
        return None
    if attempt.state is AttemptState.PAUSING or job.plan is None:
        return -math.inf  # at every tick
    return job.plan.segments[0].end_s


def _same(old: Plan, new: Plan, now_s: float) -> bool:
    """Whether two plans mean the same from now on."""

    def ahead(plan: Plan) -> list[tuple[str, float, float]]:
        return [(s.node, round(max(s.start_s, now_s), 3), round(s.end_s, 3)) for s in plan.segments if s.end_s > now_s]

    return ahead(old) == ahead(new)
