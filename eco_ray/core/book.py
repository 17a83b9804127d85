"""The book of open jobs: their records, their plans, what those promise of the nodes, and what changed.

The orchestrator decides what happens to a job; the book keeps jobs, plans and calendar consistent with each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from eco_ray.core.calendar import Calendar
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.explain import plan_message
from eco_ray.core.intensity import IntensitySeries
from eco_ray.core.jobs import TRANSITIONS, Attempt, AttemptState, Job, Plan, Reason, Segment
from eco_ray.core.planner import NoPlan, PlannerConfig, Situation, plan_job
from eco_ray.core.ports import LogEntry


class Book:
    """Open jobs with their plans. Invariant: the calendar holds exactly the segments of `jobs`' plans."""

    def __init__(self, home_zone: str, now_s: float, config: PlannerConfig) -> None:
        self.config = config
        self.home_zone = home_zone
        #: open jobs by id
        self.jobs: dict[str, Job] = {}
        #: nodes that are there, by name
        self.nodes: dict[str, Node] = {}
        self.forecast: dict[str, IntensitySeries] = {}
        #: what others than our attempts hold, by node
        self.foreign: dict[str, Resources] = {}
        self.calendar = Calendar(config.slot_s)
        self.calendar.forget_before(now_s)
        self._changed: dict[str, Job] = {}
        self._log: list[LogEntry] = []

    def situation(self, now_s: float) -> Situation:
        """What a plan made now depends on."""
        return Situation(now_s, list(self.nodes.values()), self.calendar, self.forecast, self.home_zone, self.foreign)

    # -- records ---------------------------------------------------------------------------------------------------

    def set(self, job: Job, now_s: float, kind: str = "", message: str = "") -> None:
        """Write a job down, with a line in its log. Its state may only change as `TRANSITIONS` says."""
        old = self.jobs.get(job.id)
        if old is not None and old.state is not job.state and job.state not in TRANSITIONS[old.state]:
            raise AssertionError(f"job {job.id}: no transition from {old.state} to {job.state}")
        self.jobs[job.id] = self._changed[job.id] = job
        if kind:
            self._log.append(LogEntry(now_s, job.id, kind, message))

    def take_changes(self) -> tuple[list[Job], list[LogEntry]]:
        """Jobs that changed and log lines since the last call; final jobs are forgotten here."""
        jobs, log = list(self._changed.values()), self._log
        self._changed, self._log = {}, []
        for job in jobs:
            if job.state.is_final:
                self.jobs.pop(job.id, None)
        return jobs, log

    def adopt_all(self, jobs: Iterable[Job]) -> None:
        """Take over the jobs of an earlier life with the plans that they had."""
        for job in jobs:
            self.jobs[job.id] = job
            for segment in job.plan.segments if job.plan else ():
                self.calendar.reserve(segment, job.spec.demand)

    def free(self, node: Node) -> Resources:
        """What is free on a node at this moment, by the attempts that live on it."""
        free = node.capacity - self.foreign.get(node.name, Resources())
        for job in self.jobs.values():
            attempt = job.live_attempt
            if attempt is not None and attempt.node == node.name:
                free = free - job.spec.demand
        return free

    def is_leaving(self, node: Node) -> bool:
        """Whether an attempt on the node has been asked to leave it."""
        live = (job.live_attempt for job in self.jobs.values())
        leaving = (AttemptState.PAUSING, AttemptState.STOPPING)
        return any(a is not None and a.node == node.name and a.state in leaving for a in live)

    # -- plans -----------------------------------------------------------------------------------------------------

    def plan(self, job: Job, now_s: float) -> Job:
        """Plan a job afresh; returns it as written down."""
        self.unplan(job)
        return self._adopt(job, plan_job(job, self.situation(now_s), self.config), now_s)

    def unplan(self, job: Job) -> None:
        """Give the promised slots of a job back."""
        for segment in job.plan.segments if job.plan else ():
            self.calendar.release(segment, job.spec.demand)
        if job.plan is not None and job.id in self.jobs:
            self.jobs[job.id] = replace(self.jobs[job.id], plan=None)

    def replan(self, jobs: Iterable[Job], now_s: float, gain_pct: float) -> None:
        """Plan waiting jobs again in the given order; a plan that still holds is changed only for a worthwhile gain."""
        for job in jobs:
            old = job.plan
            self.unplan(job)
            new = plan_job(job, self.situation(now_s), self.config)
            holds = old is not None and all(s.node in self.nodes for s in old.segments)
            if old is not None and holds and not _better(job, new, old, gain_pct):
                new = old
            self._adopt(job, new, now_s)

    def hold_node(self, job: Job, attempt: Attempt, now_s: float) -> None:
        """Let a running job that has no plan hold its node for a slot, whatever was promised to others."""
        segment = Segment(attempt.node, attempt.zone, now_s, now_s + self.config.slot_s)
        self.calendar.reserve(segment, job.spec.demand)
        self.set(replace(job, plan=Plan((segment,), None, None, now_s)), now_s)

    def _adopt(self, job: Job, plan: Plan | NoPlan, now_s: float) -> Job:
        waits = job.live_attempt is None and not job.held
        if isinstance(plan, NoPlan):
            reason, message = plan.reason, plan.message
        else:
            for segment in plan.segments:
                self.calendar.reserve(segment, job.spec.demand)
            reason, message = plan_message(job, plan, now_s, self.config)
            if job.retry_at_s > now_s and plan.start_s <= job.retry_at_s + self.config.slot_s:
                reason, message = Reason.RETRYING, job.message
        kind = "planned" if waits and (reason, message) != (job.reason, job.message) else ""
        if waits:
            job = replace(job, reason=reason, message=message)
        job = replace(job, plan=None if isinstance(plan, NoPlan) else plan)
        self.set(job, now_s, kind, message)
        return job


def _better(job: Job, new: Plan | NoPlan, old: Plan, gain_pct: float) -> bool:
    """Whether changing to the new plan is worth it: clearly cleaner, or earlier at no more grams."""
    if isinstance(new, NoPlan):
        return False
    if job.spec.policy == "run-now":
        return new.start_s < old.start_s
    if new.carbon_g is None or old.carbon_g is None:
        return new.carbon_g is not None or new.start_s < old.start_s
    if new.start_s < old.start_s and new.carbon_g <= old.carbon_g:
        return True
    return new.carbon_g <= old.carbon_g * (1 - gain_pct / 100)
