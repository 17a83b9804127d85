"""The book of open jobs: their records, their plans, what those promise of the nodes, and what changed.

The orchestrator decides what happens to a job; the book keeps jobs, plans and calendar consistent with each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from eco_ray.core.calendar import Calendar
from eco_ray.core.cluster import Node
from eco_ray.core.comparing import is_better, is_same, replaces
from eco_ray.core.decide import decided_once
from eco_ray.core.explain import plan_message
from eco_ray.core.job_records import JobRecords
from eco_ray.core.jobs import Attempt, Job, Plan, Reason, Segment
from eco_ray.core.planner import plan_job
from eco_ray.core.records import changed
from eco_ray.core.situation import NoPlan, Situation
from eco_ray.core.starts import as_of_now
from eco_ray.core.store_port import LogEntry

#: part of the work by which a plan may be wrong about it
_AS_PLANNED = 0.02
#: a waiting job whose plan was replaced so often keeps the one that it has, while that is in time and has its place
MAX_REPLANS = 50


class Book(JobRecords):
    """Open jobs, and how their plans are made and replaced."""

    def plan(self, job: Job, now_s: float, instead_of: Plan | None = None) -> Job:
        """Plan a job afresh; returns it as written down. `instead_of`: the plan that it had until now."""
        old = job.plan or instead_of
        job = self._without_plan(job)
        situation = self.situation(now_s)
        if job.live_attempt is not None:
            situation = replace(situation, firm=lambda until_s: self.firm_calendar(job, until_s, now_s))
        return self._adopt(job, old, plan_job(job, situation, self.config), now_s)

    def elsewhere(self, job: Job, node: Node, now_s: float) -> Plan | None:
        """What a job would do if a node were full for a slot; it keeps the plan that it has."""
        full = Segment(node.name, node.zone, now_s, now_s + self.config.slot_s)
        bare = self._without_plan(job)
        self.calendar.reserve(full, node.capacity)
        try:
            found = plan_job(bare, self.situation(now_s), self.config)
        finally:
            self.calendar.release(full, node.capacity)
            self._keep(job)
        return found if isinstance(found, Plan) else None

    def replan(self, jobs: Iterable[Job], now_s: float, gain_pct: float) -> None:
        """Plan waiting jobs again in the given order; a plan that still holds is changed only for a worthwhile gain."""
        for job in jobs:
            if self._holds(job.plan) and (
                decided_once(job.spec.policy) or is_settled(job) or self.is_content(job, gain_pct)
            ):
                continue
            old, bare = job.plan, self._without_plan(job)
            situation = self.situation(now_s)
            new = plan_job(bare, situation, self.config)
            self._planned_at[job.id] = self.news
            if (
                old is not None
                and self._holds(old)
                and not is_better(job, new, as_of_now(bare, old, situation), gain_pct)
            ):
                self._keep(job)
                continue
            if old is None and isinstance(new, NoPlan) and (new.reason, new.message) == (job.reason, job.message):
                self._keep(job)
                continue
            self._adopt(bare, old, new, now_s)

    def lift(self, jobs: Iterable[Job]) -> list[Job]:
        """Take the plans of jobs out of the calendar, to plan all of them anew with `place`."""
        return [self._without_plan(job) for job in jobs]

    def try_out(self, job: Job, now_s: float, situation: Situation | None = None) -> Plan | NoPlan:
        """Plan a job that was lifted, and hold its place; `accept` or `restore` follows. `situation`: as if it were."""
        found = plan_job(job, situation or self.situation(now_s), self.config)
        if not isinstance(found, Plan):
            return found
        if job.live_attempt is not None and not self.has_room(changed(job, plan=found)):
            # it would run on where another job was put in this round
            return NoPlan(Reason.WAITING_FOR_CAPACITY, "has no place beside the others")
        self._keep(changed(job, plan=found))
        return found

    def has_room(self, job: Job) -> bool:
        """Whether the place that a lifted job had is still free, from now on."""
        for segment in job.plan.segments if job.plan is not None else ():
            place, first = self.calendar.fleet.place_of(segment.node), self.calendar.slot_of(segment.start_s)
            first = max(first, self.first_slot)
            count = math.ceil(segment.end_s / self.config.slot_s - 1e-9) - first
            demand = job.spec.demand * segment.workers
            if place is None or (count > 0 and not self.calendar.open_slots(place, demand, first, count).all()):
                return False
        return True

    def tried(self, jobs: Iterable[Job]) -> list[Job]:
        """The jobs as they stand now."""
        return [self.jobs[job.id] for job in jobs]

    def restore(self, jobs: Iterable[Job]) -> None:
        """Put jobs back as they are given, plans and all."""
        for job in jobs:
            self._keep(job)

    def accept(self, job: Job, plan: Plan | NoPlan, now_s: float) -> None:
        """Give a job the plan that was tried out; one that means the same as the old one is no change."""
        if job.plan is not None and isinstance(plan, Plan) and is_same(job.plan, plan, now_s):
            self._keep(job)
        else:
            self._adopt(changed(job, plan=None), job.plan, plan, now_s)

    def accept_all(self, plans: Mapping[str, Plan | NoPlan], calendar: Calendar, now_s: float) -> None:
        """Give many waiting jobs the plans that were made together, all of which `calendar` holds."""
        self._calendar = calendar
        for job_id, plan in plans.items():
            job = self.jobs[job_id]
            self._planned_at[job_id] = self.news
            if job.plan is not None and isinstance(plan, Plan) and job.plan.segments == plan.segments:
                continue
            reason, message = self.reason_of(job, plan, now_s)
            found = plan if isinstance(plan, Plan) else None
            replans = job.replans + (job.plan is not None and found is not None)
            new = changed(job, plan=found, reason=reason, message=message, replans=replans)
            self._index(new)
            self._changed[job_id] = new
            if message != job.message:
                self._log.append(LogEntry(now_s, job_id, "planned", message))

    def looked_at(self, jobs: Iterable[Job]) -> None:
        """No better plans were found for these jobs, by what is known now."""
        for job in jobs:
            self._planned_at[job.id] = self.news

    def next_segment(self, job: Job, now_s: float) -> Job:
        """The first stretch of a plan that stays as it is has passed."""
        if job.plan is not None:
            job = changed(job, plan=changed(job.plan, segments=job.plan.segments[1:]))
        self.set(job, now_s)
        return job

    def goes_as_planned(self, job: Job, now_s: float) -> bool:
        """Whether the stretches after the one that ends now are there, and do what is left of the work."""
        return job.plan is not None and self.does_the_rest(job, job.plan.segments[1:], now_s)

    def does_the_rest(self, job: Job, ahead: Sequence[Segment], now_s: float) -> bool:
        """Whether these stretches, on nodes that are there, do what is left of a job in time."""
        if not ahead or any(not self.is_open(segment.node) for segment in ahead):
            return False
        if decided_once(job.spec.policy):
            return True
        given_s = sum((s.end_s - s.start_s - self._start_s(job)) * job.spec.workers.speed(s.workers) for s in ahead)
        left_s = self.durations.left_s(job, now_s)
        return abs(given_s - left_s) <= _AS_PLANNED * left_s + 1.0 and ahead[-1].end_s <= job.spec.deadline_s

    def _start_s(self, job: Job) -> float:
        """What a start that goes on from a checkpoint costs [s]."""
        return job.spec.suspend.resume_cost_s + self.launch_s

    def resumed(self, job: Job, plan: Plan, now_s: float) -> Job:
        """A job that has paused as planned and goes on with its plan; its figures are those of what is left."""
        bare, situation = self._without_plan(job), self.situation(now_s)
        plan = as_of_now(bare, plan, situation)
        run_now_g = situation.run_now_g(job.spec, self.durations.left_s(job, now_s))
        return changed(job, plan=changed(plan, run_now_g=run_now_g))

    def hold_node(self, job: Job, attempt: Attempt, now_s: float) -> None:
        """Let a live job that has no better plan hold its node for a slot, whatever was promised to others.

        What has run for long is expected to run on for longer: otherwise every job that overruns is asked every slot.
        """
        ran_s = now_s - (attempt.started_s if attempt.started_s is not None else now_s)
        end_s = now_s + max(self.config.slot_s, ran_s / 20)
        segment = Segment(attempt.node, attempt.zone, now_s, end_s, attempt.workers)
        self.set(changed(job, plan=Plan((segment,), None, None, now_s)), now_s)

    def _holds(self, plan: Plan | None) -> bool:
        """Whether the nodes of a plan are still there, and take it."""
        return plan is not None and all(self.is_open(s.node) for s in plan.segments)

    def is_up_to_date(self, job: Job) -> bool:
        """Whether no forecast and no node has come since the job was last planned or looked at."""
        return self._planned_at.get(job.id) == self.news

    def is_content(self, job: Job, gain_pct: float) -> bool:
        """Whether nothing that others leave could give a job a better plan: it has about the best that there is."""
        plan = job.plan
        if plan is None or job.spec.policy != "eco" or plan.end_s > job.spec.deadline_s or plan.added_g is None:
            return False
        return self.is_up_to_date(job) and plan.regret * 100 < gain_pct

    def goes_on(self, job: Job, ahead: Plan, now_s: float) -> bool:
        """Whether a job that has paused keeps the plan that it paused for: a new one would move it for nothing.

        Where jobs pay for each other's places, prices may have changed since; a budget is looked at anew, and so is
        what has happened since the plan was made.
        """
        prices, spec = self.market is not None, job.spec
        budget = spec.budget_g is not None or spec.budget_j is not None
        news = prices or budget or not self.is_up_to_date(job)
        if job.held or (news and not decided_once(spec.policy) and not is_tired(job)):
            return False
        return self.does_the_rest(job, ahead.segments, now_s)

    def _adopt(self, job: Job, old: Plan | None, plan: Plan | NoPlan, now_s: float) -> Job:
        found = None if isinstance(plan, NoPlan) else plan
        self._planned_at[job.id] = self.news
        if old is not None and old.segments != (found and found.segments):
            self._note_freed(old, now_s)
        replans = job.replans + replaces(job, old, found, now_s)
        if job.live_attempt is not None or job.held:
            job = changed(job, plan=found, replans=replans)
            self.set(job, now_s)
            return job
        reason, message = self.reason_of(job, plan, now_s)
        moved = (found and found.segments) != (old and old.segments)
        kind = "planned" if (moved or reason is not job.reason) and message != job.message else ""
        job = changed(job, plan=found, replans=replans, reason=reason, message=message)
        self.set(job, now_s, kind, message)
        return job

    def reason_of(self, job: Job, plan: Plan | NoPlan, now_s: float) -> tuple[Reason, str]:
        """Why a job with this plan is where it is: it may have given way to a model that has its room."""
        reason, message = _reason(job, plan, now_s, self.config.slot_s)
        gave = self.gives_way.get(job.id)
        if (
            gave is None
            or reason is Reason.RETRYING
            or not any(not grant.ended for grant in self.grants.of(gave.model))
        ):
            return reason, message
        waits = isinstance(plan, NoPlan) or plan.start_s > now_s + 1e-6
        token = Reason.SUSPENDED if waits and reason is not Reason.DEADLINE_INFEASIBLE else reason
        return token, f"{gave}; {message}"

    def fewer(self, job: Job, attempt: Attempt) -> str:
        """That an attempt runs with fewer workers than before, and why; nothing where it does not."""
        gave = self.gives_way.get(job.id)
        if gave is None or attempt.workers >= gave.workers:
            return ""
        return f"; with {attempt.workers} of {gave.workers} workers, as it {gave}"

    def _without_plan(self, job: Job) -> Job:
        """Give the promised slots of a job back, for the moment in which it is planned."""
        now = self.jobs.get(job.id)
        if job.plan is None and now is job:
            return job
        bare = changed(job, plan=None)
        if now is not None:
            self._keep(bare)
        return bare


def is_tired(job: Job) -> bool:
    """Whether the plans of a job were replaced so often that no more of it is worth the trouble."""
    return job.replans >= MAX_REPLANS and job.spec.policy != "run-now"


def is_settled(job: Job) -> bool:
    """Whether the plan of a job was replaced so often that it stays, as it is in time.

    A forecast that says something else every hour would else move the job for ever. Who wants the earliest place only
    ever moves to an earlier one.
    """
    return job.plan is not None and is_tired(job) and job.plan.end_s <= job.spec.deadline_s + 1e-6


def _reason(job: Job, plan: Plan | NoPlan, now_s: float, slot_s: float) -> tuple[Reason, str]:
    """Why a job with this plan is where it is."""
    if isinstance(plan, NoPlan):
        return plan.reason, plan.message
    if job.retry_at_s > now_s and plan.start_s <= job.retry_at_s + slot_s:
        return Reason.RETRYING, job.message
    return plan_message(job, plan, now_s)
