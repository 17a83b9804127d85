"""The records of open jobs, and what follows from them: what plans promise of the nodes, who is due, who changed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from eco_ray.core.agenda import Agenda, Occupancy
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.grants import GaveWay
from eco_ray.core.inventory import Inventory
from eco_ray.core.jobs import TRANSITIONS, Attempt, AttemptState, Job, Plan
from eco_ray.core.situation import PlannerConfig
from eco_ray.core.store_port import LogEntry


class JobRecords(Inventory):
    """Open jobs with their plans. Invariant: the calendar holds exactly the segments of `jobs`' plans."""

    def __init__(self, home_zone: str, now_s: float, config: PlannerConfig) -> None:
        super().__init__(home_zone, now_s, config)
        #: what `news` was when each job was planned last
        self._planned_at: dict[str, int] = {}
        #: by id: the jobs that gave way to replicas, and to which
        self.gives_way: dict[str, GaveWay] = {}
        #: a place that was promised to a job is free again
        self.freed = False
        #: ids of jobs with a live attempt, in a dictionary for its order
        self._live: dict[str, None] = {}
        #: ids of those whose attempt is being stopped
        self._stopping: dict[str, None] = {}
        #: ids of jobs that wait and would take any earlier place: they have none, are late, or want the earliest
        self.placeless: dict[str, None] = {}
        self._agenda = Agenda()
        self._occupancy = Occupancy()
        self._changed: dict[str, Job] = {}
        self._log: list[LogEntry] = []

    def set(self, job: Job, now_s: float, kind: str = "", message: str = "") -> None:
        """Write a job down, with a line in its log. Its state may only change as `TRANSITIONS` says.

        The calendar follows its plan. A job that has ended leaves the book.
        """
        old = self.jobs.get(job.id)
        if old is not None and old.state is not job.state and job.state not in TRANSITIONS[old.state]:
            raise AssertionError(f"job {job.id}: no transition from {old.state} to {job.state}")
        if old is not None and job.state.is_final:
            self._note_freed(old.plan, now_s)
        self._keep(job)
        self._changed[job.id] = job
        if job.state.is_final:
            del self.jobs[job.id]
            self._planned_at.pop(job.id, None)
            self.gives_way.pop(job.id, None)
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
        free = node.capacity - self.others(node) - self._occupancy.held(node)
        return free - self.grants.kept(node) if self.grants else free

    def due(self, now_s: float) -> list[Job]:
        """Jobs that have to be looked at: their start or the end of their stretch has come, or they are leaving."""
        return [self.jobs[job_id] for job_id in self._agenda.due(now_s)]

    def is_leaving(self, node: Node, now_s: float, limit_s: float) -> bool:
        """Whether an attempt on the node was asked to leave it, or was to be done, not longer ago than `limit_s`."""
        leaving = (AttemptState.PAUSING, AttemptState.STOPPING)
        # all others on the node have their place for longer
        for job_id in (*self._agenda.due(now_s), *self._stopping):
            job = self.jobs[job_id]
            attempt = job.live_attempt
            if attempt is None or attempt.node != node.name:
                continue
            due_s = job.plan.segments[0].end_s if job.plan else now_s + limit_s
            if attempt.state in leaving:
                due_s = attempt.pause_asked_s or now_s
            if now_s - limit_s <= due_s <= now_s + 1e-6:
                return True
        return False

    def _note_freed(self, plan: Plan | None, now_s: float) -> None:
        if plan is not None and plan.segments and plan.end_s > now_s + self.config.slot_s:
            self.freed = True

    def _keep(self, job: Job) -> None:
        """Replace the record of a job, and what it holds in the calendar."""
        old = self.jobs.get(job.id)
        if old is None or old.plan is not job.plan:
            before = old.plan.segments if old and old.plan else ()
            after = job.plan.segments if job.plan else ()
            for segment in before:
                if segment not in after:
                    self.calendar.release(segment, job.spec.demand)
            for segment in after:
                if segment not in before:
                    self.calendar.reserve(segment, job.spec.demand)
        self._index(job)

    def _index(self, job: Job) -> None:
        """Replace the record of a job, and what is derived from it."""
        old = self.jobs.get(job.id)
        self.jobs[job.id] = job
        attempt, lives_on = job.live_attempt, old is not None and old.attempts is job.attempts
        if old is not None and lives_on and old.plan is job.plan and old.held is job.held and old.state is job.state:
            return
        if not lives_on:
            self._index_attempt(job, attempt)
        waits = attempt is None and not job.held and not job.state.is_final
        if waits and (job.plan is None or job.spec.policy == "run-now" or job.plan.end_s > job.spec.deadline_s):
            self.placeless[job.id] = None
        else:
            self.placeless.pop(job.id, None)
        self._agenda.set(job.id, _due_s(job, attempt))

    def _index_attempt(self, job: Job, attempt: Attempt | None) -> None:
        """Replace what is derived from its live attempt."""
        if attempt is not None:
            self._live[job.id] = None
        else:
            self._live.pop(job.id, None)
        if attempt is not None and attempt.state is AttemptState.STOPPING:
            self._stopping[job.id] = None
        else:
            self._stopping.pop(job.id, None)
        workers = attempt.workers if attempt else 1
        self._occupancy.put(job.id, attempt.node if attempt else None, job.spec.demand * workers)


def _due_s(job: Job, attempt: Attempt | None) -> float | None:
    """When a job has to be looked at; None: not before something happens to it."""
    if attempt is None:
        return None if job.plan is None or job.held or job.state.is_final else job.plan.start_s
    if attempt.state is AttemptState.STOPPING:
        return None
    if attempt.state is AttemptState.PAUSING or job.plan is None:
        return -math.inf  # at every tick
    return job.plan.segments[0].end_s
