"""Whose turn it is to be planned again: a tick stays short with any number of waiting jobs."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from eco_ray.core.book import Book
from eco_ray.core.clearing import Clearing
from eco_ray.core.jobs import AttemptState, Job, Plan
from eco_ray.core.planner import NoPlan
from eco_ray.core.task import work_left_s


def urgency(job: Job) -> tuple[int, float]:
    """Sorts jobs that compete for a node: the higher priority, then the earlier deadline first."""
    return -job.spec.priority, job.spec.deadline_s


class Line:
    """The waiting jobs of a book. `changed` says that there may be something better for them."""

    def __init__(self, book: Book, now_s: float, limit: int, gain_pct: float, market_limit: int) -> None:
        self._book = book
        self._clearing = Clearing(book, now_s)
        #: plans made together replace the old ones only if all of them save this much more [%]
        self._market_gain_pct = gain_pct / 10
        self._room_slot = -1
        #: with more jobs than this they are not planned together
        self._market_limit = market_limit
        self._market_step = int(now_s // book.config.market_step_s)
        #: the most urgent jobs without a place, and as many others in turn, are planned again per call
        self._limit = limit
        #: a new plan replaces an old one only if it saves this much more [%]
        self._gain_pct = gain_pct
        self._changed = False
        #: something changed since the last round over all of them began; one round per slot at most
        self._round_wanted = False
        self._round_slot = -1
        #: ids of the jobs of this round whose turn is still to come, the last one first
        self._round: list[str] = []

    def waiting(self) -> Iterator[Job]:
        """Jobs that may start and have no live attempt."""
        return (job for job in self._book.jobs.values() if not job.held and job.live_attempt is None)

    def changed(self) -> None:
        """Capacity, forecasts or plans have changed."""
        self._changed = self._round_wanted = True

    def submitted(self, job: Job, now_s: float) -> bool:
        """A job came in: the market learns of it, and is held at once where it found no place in time.

        Returns whether plans of running jobs may have changed.
        """
        self._clearing.submitted(job, now_s)
        job = self._book.jobs.get(job.id, job)
        late = job.plan is None or job.plan.end_s > job.spec.deadline_s + 1e-6
        return job.spec.policy == "eco" and late and self._hold_market(now_s)

    def _hold_market(self, now_s: float) -> bool:
        """Plan all jobs of the policy eco together: the tightest first, as nothing else can make room for it.

        Returns whether plans have changed.
        """
        book = self._book
        jobs = [job for job in book.jobs.values() if job.spec.policy == "eco" and not job.held and _free(job, now_s)]
        if not 0 < len(jobs) <= self._market_limit:
            book.market = None  # what was cleared an hour ago is not worth following
            return False
        lifted = book.lift(jobs)
        self._clearing.clear(lifted, now_s)
        slack = {job.id: job.spec.deadline_s - work_left_s(job, now_s, book.config) for job in lifted}
        plans: dict[str, Plan | NoPlan] = {}
        for job in sorted(lifted, key=lambda job: (-job.spec.priority, slack[job.id])):
            plans[job.id] = book.try_out(job, now_s)
        if self._is_better(self._total(book.tried(jobs), now_s), self._total(jobs, now_s)):
            book.restore(lifted)
            for job in jobs:
                book.accept(job, plans[job.id], now_s)
            return True
        book.restore(jobs)
        return False

    def _make_room(self, jobs: Iterable[Job], now_s: float) -> bool:
        """Plan all together where a job found no place by itself: others may give way. Once per slot at most."""
        slot = self._book.calendar.slot_of(now_s)
        placeless = (self._book.jobs[job.id].plan is None and job.spec.policy == "eco" for job in jobs)
        if slot == self._room_slot or not any(placeless):
            return False
        self._room_slot = slot
        return self._hold_market(now_s)

    def _total(self, jobs: Iterable[Job], now_s: float) -> tuple[int, float]:
        """How many jobs have no plan that is in time, and what the others' emit and keep from others [g]."""
        worth_g = [self._clearing.worth_g(job, now_s) for job in jobs]
        known_g = [one for one in worth_g if one is not None]
        return len(worth_g) - len(known_g), sum(known_g)

    def _is_better(self, new: tuple[int, float], old: tuple[int, float]) -> bool:
        """Fewer late jobs, or clearly fewer grams: all of them change their plans together, or none does."""
        return new[0] < old[0] or (new[0] == old[0] and new[1] < old[1] * (1 - self._market_gain_pct / 100))

    def replan(self, now_s: float) -> bool:
        """Use what became free: at once for jobs that wait for a place, in turn and once per slot for all others.

        Returns whether plans of running jobs may have changed.
        """
        moved = False
        step = int(now_s // self._book.config.market_step_s)
        if step != self._market_step:
            self._market_step = step
            moved = self._hold_market(now_s)
        if self._changed:
            placeless = (self._book.jobs[job_id] for job_id in self._book.placeless)
            first = heapq.nsmallest(self._limit, placeless, key=urgency)
            self._book.replan(first, now_s, self._gain_pct)
            moved |= self._make_room(first, now_s)
            # as long as one gets a place, there may be more
            self._changed = any(j.plan is None and self._book.jobs[j.id].plan is not None for j in first)
        slot = self._book.calendar.slot_of(now_s)
        if self._round_wanted and not self._round and slot != self._round_slot:
            self._round_wanted, self._round_slot = False, slot
            line = sorted(self.waiting(), key=lambda j: (j.plan is not None, *urgency(j)), reverse=True)
            self._round = [job.id for job in line]
        turn = [self._book.jobs.get(self._round.pop()) for _ in range(min(self._limit, len(self._round)))]
        due = [j for j in turn if j is not None and j.live_attempt is None and not j.held]
        self._book.replan(due, now_s, self._gain_pct)
        return moved


def _free(job: Job, now_s: float) -> bool:
    """Whether its plan may change now: it waits, or runs and may be paused, and did so long enough."""
    attempt = job.live_attempt
    if attempt is None:
        return True
    if attempt.state is not AttemptState.RUNNING or not (job.pausable and job.spec.suspend.allow):
        return False
    return now_s - (attempt.started_s or now_s) >= job.spec.suspend.min_run_s
