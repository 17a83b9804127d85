"""Whose turn it is to be planned again: a tick stays short with any number of waiting jobs."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from eco_ray.core.book import Book, is_settled
from eco_ray.core.clearing import Clearing
from eco_ray.core.jobs import Job, Plan
from eco_ray.core.room import is_late, make_room, may_change, stands_firm
from eco_ray.core.rounds import in_time_by_priority, replan_all, waits
from eco_ray.core.situation import NoPlan

#: all jobs are planned together where plans lose so much of their grams to each other, or so much of the nodes is asked
#: for: elsewhere it would change nothing
_LOST = 0.01
_BUSY = 0.45
#: after so many rounds of the market in a row in which nobody moved, the next ones only ask for its prices: one more
#: after each, up to the second number. In a year of 100,000 jobs, 19 of 20 rounds moved nobody
_PATIENCE, _LONGEST_MARKET_PAUSE = 4, 3

#: submissions per slot that ask others to give way in vain
_MOST_VAIN = 2

#: more jobs than this are not planned again one by one
_MANY = 64


def urgency(job: Job) -> tuple[int, float]:
    """Sorts jobs that compete for a node: the higher priority, then the earlier deadline first."""
    return -job.spec.priority, job.spec.deadline_s


def _turn(job: Job) -> tuple[bool, int, float]:
    """Sorts by whether they are in time, then by urgency."""
    return not is_late(job, job.plan), -job.spec.priority, job.spec.deadline_s


class Line:
    """The waiting jobs of a book. `changed` says that there may be something better for them."""

    def __init__(self, book: Book, now_s: float, limit: int, gain_pct: float, market_limit: int) -> None:
        self._book = book
        self._clearing = Clearing(book, now_s)
        #: plans made together replace the old ones only if all of them save this much more [%]
        self._market_gain_pct = gain_pct / 10
        self._room_slot = -1
        #: how many submissions asked others in vain to give way, in which slot, and ids of the late jobs that came then
        self._vain, self._vain_slot = 0, -1
        self._late: list[str] = []
        #: with more jobs than this they are not planned together
        self._market_limit = market_limit
        self._market_step = int(now_s // book.config.market_step_s)
        #: the most urgent jobs without a place, and as many others in turn, are planned again per call
        self._limit = limit
        #: rounds of the market in a row in which nobody moved, and for how many more only its prices are asked
        self._market_vain = self._market_pause = 0
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

    def changed(self, *, everywhere: bool = False) -> None:
        """Something may have become free for jobs without a place; `everywhere`: forecasts or nodes have changed."""
        self._changed = True
        self._round_wanted |= everywhere
        if everywhere:
            self._market_vain = self._market_pause = 0

    def submitted(self, job: Job, now_s: float) -> bool:
        """A job came in: the market learns of it, and others give way where it found no place in time.

        Where that was in vain a few times in a slot, who comes later in it waits for its turn: asking all takes long.
        Returns whether plans of running jobs may have changed.
        """
        self._clearing.submitted(job, now_s)
        job, slot = self._book.jobs.get(job.id, job), self._book.calendar.slot_of(now_s)
        if job.spec.policy != "eco" or not is_late(job, job.plan):
            return False
        if slot != self._vain_slot:
            self._vain, self._vain_slot = 0, slot
        if self._vain >= _MOST_VAIN:
            self._late.append(job.id)
            return False
        made = make_room(self._book, job, now_s)
        self._vain += not made
        return made

    def _take_late(self) -> list[Job]:
        """Jobs that came in late and still wait for their turn, the most urgent first, as many as have one."""
        late = [job for job_id in self._late if (job := self._book.jobs.get(job_id)) is not None and waits(job)]
        late.sort(key=urgency)
        self._late = [job.id for job in late[self._limit :]]
        return late[: self._limit]

    def _hold_market(self, now_s: float) -> bool:
        """Plan all jobs of the policy eco together: the tightest first, as nothing else can make room for it.

        Returns whether plans have changed.
        """
        book = self._book
        jobs = [
            job
            for job in book.jobs.values()
            if job.spec.policy == "eco"
            and may_change(job, now_s)
            and not is_settled(job)
            and not stands_firm(book, job, now_s)
        ]
        if not 0 < len(jobs) <= self._market_limit:
            book.market = None  # what was cleared an hour ago is not worth following
            return False
        lifted = book.lift(jobs)
        self._clearing.clear(lifted, now_s)
        if book.market is None or not book.market.shares_s:  # each can have what it wants, at its turn
            book.restore(jobs)
            return False
        if self._market_pause > 0:
            self._market_pause -= 1
            book.restore(jobs)
            return False
        slack = {job.id: job.spec.deadline_s - book.durations.left_s(job, now_s) for job in lifted}
        plans: dict[str, Plan | NoPlan] = {}
        for job in sorted(lifted, key=lambda job: (-job.spec.priority, slack[job.id])):
            plans[job.id] = book.try_out(job, now_s)
        # who runs and has no plan runs on all the same, on places that others would have been promised
        holds = not any(job.live_attempt and isinstance(plans[job.id], NoPlan) for job in lifted)
        if holds and self._is_better(jobs, self._in_time_g(book.tried(jobs), now_s), self._in_time_g(jobs, now_s)):
            book.restore(lifted)
            for job in jobs:
                book.accept(job, plans[job.id], now_s)
            self._market_vain = 0
            return True
        book.restore(jobs)
        self._market_vain += 1
        self._market_pause = min(max(0, self._market_vain - _PATIENCE), _LONGEST_MARKET_PAUSE)
        return False

    def _replan_all(self, now_s: float) -> None:
        """Plan all waiting jobs anew where one by one, a few per tick, it would take long."""
        jobs = self._book.jobs.values()
        due = (job for job in jobs if waits(job) and not self._book.is_content(job, self._gain_pct))
        if any(islice(due, max(self._limit, _MANY), None)):  # there are more
            replan_all(self._book, now_s, self._market_gain_pct)

    def _market_is_worthwhile(self, now_s: float) -> bool:
        """Whether jobs stand in each other's way, or soon will.

        They do where all of them emit clearly more than each would alone: that is the most that others could leave to
        it. They will where much is submitted.
        """
        added_g = lost_g = divisible_g = 0.0
        for job in self._book.jobs.values():
            plan = job.plan
            if plan is not None and plan.added_g is not None and job.spec.policy == "eco":
                added_g += plan.added_g
                lost_g += plan.added_g * plan.regret / (1 + plan.regret)
                if job.pausable and job.spec.suspend.allow:
                    divisible_g += plan.added_g
        if divisible_g < added_g / 2:
            return False  # the market takes jobs for divisible: with those that are not, its prices mislead
        return lost_g > added_g * _LOST or self._clearing.load(now_s) > _BUSY

    def _make_room(self, jobs: Iterable[Job], now_s: float) -> bool:
        """Let others give way to jobs that found no place by themselves. Once per slot at most."""
        slot, made = self._book.calendar.slot_of(now_s), False
        if slot == self._room_slot:
            return False
        for job in jobs:
            now = self._book.jobs[job.id]
            if now.spec.policy == "eco" and is_late(now, now.plan):
                self._room_slot = slot
                made |= make_room(self._book, now, now_s)
        return made

    def _in_time_g(self, jobs: Iterable[Job], now_s: float) -> dict[str, float]:
        """What the plans that are in time emit and keep from others, by id [g]."""
        worth_g = {job.id: self._clearing.worth_g(job, now_s) for job in jobs}
        return {job_id: one for job_id, one in worth_g.items() if one is not None}

    def _is_better(self, jobs: Sequence[Job], new_g: dict[str, float], old_g: dict[str, float]) -> bool:
        """More in time of the highest priority in which the numbers differ, or the same jobs and clearly fewer grams.

        All change their plans together, or none does.

        The grams of different jobs are not compared: who is late is in neither sum.
        """
        if new_g.keys() != old_g.keys():
            return in_time_by_priority(jobs, new_g) > in_time_by_priority(jobs, old_g)
        return sum(new_g.values()) < sum(old_g.values()) * (1 - self._market_gain_pct / 100)

    def replan(self, now_s: float) -> bool:
        """Use what became free: at once for jobs that wait for a place, in turn and once per slot for all others.

        Returns whether plans of running jobs may have changed.
        """
        moved = False
        step = int(now_s // self._book.config.market_step_s)
        if step != self._market_step:
            self._market_step = step
            self._book.market = None
            if self._market_is_worthwhile(now_s):
                moved = self._hold_market(now_s)
        if self._changed:
            placeless = (self._book.jobs[job_id] for job_id in self._book.placeless)
            first = heapq.nsmallest(self._limit, placeless, key=urgency)
            self._book.replan(first, now_s, self._gain_pct)
            moved |= self._make_room(first, now_s)
            # as long as one gets a place, or an earlier one, there may be more
            now = [(job.plan, self._book.jobs[job.id].plan) for job in first]
            self._changed = any(new is not None and (old is None or new.end_s < old.end_s) for old, new in now)
        slot = self._book.calendar.slot_of(now_s)
        if self._late and slot != self._room_slot:
            moved |= self._make_room(self._take_late(), now_s)
        self._round_wanted |= self._book.freed
        self._book.freed = False
        if self._round_wanted and not self._round and slot != self._round_slot:
            self._round_wanted, self._round_slot = False, slot
            if len(self._book.jobs) > _MANY:
                self._replan_all(now_s)
            line = sorted(self.waiting(), key=_turn, reverse=True)
            self._round = [job.id for job in line]
        turn = [self._book.jobs.get(self._round.pop()) for _ in range(min(self._limit, len(self._round)))]
        due = [j for j in turn if j is not None and j.live_attempt is None and not j.held]
        self._book.replan(due, now_s, self._gain_pct)
        return moved
