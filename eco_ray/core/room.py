"""Room for a job that found none in time: others that can still change give way, as few of them as possible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum

import numpy as np

from eco_ray.core.book import Book, is_settled
from eco_ray.core.cluster import KINDS
from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.jobs import AttemptState, Job, Plan
from eco_ray.core.late import is_overdue
from eco_ray.core.records import changed
from eco_ray.core.situation import NoPlan, Situation
from eco_ray.core.starts import as_of_now
from eco_ray.core.units import Nature

#: jobs that are placed anew together at most, and orders in which that is tried
_MOST, _TRIES = 32, 6


class _Way(Enum):
    """How jobs are placed in turn."""

    EARLIEST = "as early as they can"
    LATEST = "as late as they can"


def is_late(job: Job, plan: Plan | NoPlan | None) -> bool:
    """Whether a plan does not hold the deadline."""
    return not isinstance(plan, Plan) or plan.end_s > job.spec.deadline_s + 1e-6


def ends_no_later(plan: Plan | NoPlan, old: Plan | None) -> bool:
    """Whether a plan keeps what a job was promised that is late."""
    return isinstance(plan, Plan) and old is not None and plan.end_s <= old.end_s + 1e-6


def stands_firm(book: Book, job: Job, now_s: float) -> bool:
    """Whether a job keeps the place that it has until there is an earlier one: it can no longer be in time.

    Whatever its priority: it has given way for as long as it could, and would else wait for as long as others come.
    """
    return job.plan is not None and is_overdue(job, now_s, book.durations.left_s(job, now_s))


def may_change(job: Job, now_s: float) -> bool:
    """Whether its plan may change now: it waits, or runs and may be paused, and did so long enough."""
    attempt = job.live_attempt
    if job.held:
        return False
    if attempt is None:
        return True
    if attempt.state is not AttemptState.RUNNING or not (job.pausable and job.spec.suspend.allow):
        return False
    return now_s - (attempt.started_s or now_s) >= job.spec.suspend.min_run_s


def make_room(book: Book, job: Job, now_s: float) -> bool:
    """Let others of the policy eco give way to a job that is late; says whether they did.

    None of them is late then, or ends later where it was late before.

    The job takes the best place that those leave who cannot change. Of the others all keep theirs, the tightest first,
    but for those whose place is gone; these get new ones.
    """
    slack_s = {
        other.id: other.spec.deadline_s - book.durations.left_s(other, now_s)
        for other in book.jobs.values()
        if other.id != job.id
        and other.spec.policy == "eco"
        and other.spec.priority <= job.spec.priority
        and other.plan is not None
        and not is_settled(other)
        and may_change(other, now_s)
    }
    others = [book.jobs[other] for other in sorted(slack_s, key=slack_s.__getitem__)]
    lifted = {bare.id: bare for bare in book.lift([job, *others])}
    plans: dict[str, Plan | NoPlan] = {job.id: book.try_out(lifted[job.id], now_s)}
    displaced = []
    helps = may_help = not is_late(job, plans[job.id])
    if helps:
        for other in others:
            if book.has_room(other):
                book.restore([other])
            else:
                displaced.append(other)
        for other in displaced:
            plans[other.id] = book.try_out(lifted[other.id], now_s)
            helps = helps and _will_do(book, other, lifted[other.id], plans[other.id])
    if not helps:
        book.restore([job, *others])
        in_turn = all_in_turn(book, job, others, now_s) if may_help else {}
        if not in_turn:
            return False
        plans, displaced = dict(in_turn), [other for other in others if other.id in in_turn]
    for one in (job, *displaced):
        book.restore([lifted[one.id]])
    for one in (job, *displaced):
        book.accept(one, plans[one.id], now_s)
    return True


def _will_do(book: Book, other: Job, bare: Job, plan: Plan | NoPlan) -> bool:
    """Whether a plan that was tried out instead of its old one makes nobody late, this job or who has its place now."""
    if not isinstance(plan, Plan):
        return False
    if is_late(other, plan) and not (is_late(other, other.plan) and ends_no_later(plan, other.plan)):
        return False
    # what runs would run on where it is, also where others have been given its place
    book.restore([bare])
    tried = changed(bare, plan=plan)
    has_room = book.has_room(tried)
    book.restore([tried])
    return has_room


def all_in_turn(book: Book, job: Job, others: Sequence[Job], now_s: float) -> dict[str, Plan]:
    """The plans that change so that a job is in time and the others still are; none where that was not found.

    The last try: all are placed anew, the earliest deadline first, each as early as it can. With pauses on one node
    that keeps all deadlines that can be kept. Else the order matters: who is late gets the first turn, or they are
    placed as late as they can. Then each may have its old place back, or else the cleanest one that is left.
    """
    if _has_budget(job):
        return {}
    before = [job, *_who_can_help(job, others)]
    in_turn = sorted(book.lift(before), key=lambda one: one.spec.deadline_s)
    plans: dict[str, Plan] = {}
    if not _is_too_much(book, job, in_turn, now_s) and any(_fits(book, in_turn, now_s, way) for way in _Way):
        _settle(book, before, now_s)
        plans = {old.id: new for old in before if (new := book.jobs[old.id].plan) is not None and new is not old.plan}
    book.restore(before)
    return plans


def _has_budget(job: Job) -> bool:
    """Such a job stays where it is: which places its budget allows, only the real grid tells."""
    return job.spec.budget_g is not None or job.spec.budget_j is not None


def _who_can_help(job: Job, others: Sequence[Job]) -> list[Job]:
    """Those that are in time: first who is in its window, and of them who can wait for longest."""

    def far(other: Job) -> tuple[bool, float]:
        plan = other.plan
        beside = plan is None or plan.start_s >= job.spec.deadline_s or plan.end_s <= job.spec.not_before_s
        return beside, -other.spec.deadline_s

    able = [other for other in others if not is_late(other, other.plan) and not _has_budget(other)]
    return sorted(able, key=far)[:_MOST]


def _is_too_much(book: Book, job: Job, jobs: Sequence[Job], now_s: float) -> bool:
    """Whether the nodes together cannot do what must be done within some time: then no order helps.

    Such times begin now or when the job may start, and end with its deadline or a later one of another.
    """
    slot_s, calendar = book.config.slot_s, book.calendar
    end_s = min(max(one.spec.deadline_s for one in jobs), now_s + book.config.horizon_s)
    edges_s = np.arange(calendar.slot_of(now_s), math.ceil(end_s / slot_s) + 1, dtype=np.float64) * slot_s
    free = np.sum([calendar.free_mean(pool, edges_s) for pool in range(len(calendar.fleet.pools))], axis=0)
    upto = np.concatenate([np.zeros((1, KINDS)), np.cumsum(free, axis=0)]) * slot_s
    release_s = np.array([max(now_s, one.spec.not_before_s) for one in jobs])
    deadline_s = np.array([one.spec.deadline_s for one in jobs])
    demand = [(one.spec.demand * one.spec.workers.min).amounts for one in jobs]
    asked = np.array(demand) * np.array([[book.durations.left_s(one, now_s)] for one in jobs])
    for begin_s in {now_s, max(now_s, job.spec.not_before_s)}:
        for last_s in set(deadline_s[(deadline_s >= job.spec.deadline_s) & (deadline_s <= end_s)].tolist()):
            within = (release_s >= begin_s) & (deadline_s <= last_s)
            there = [np.diff(np.interp([begin_s, last_s], edges_s, upto[:, kind]))[0] for kind in range(KINDS)]
            if (asked[within].sum(axis=0) > np.array(there) + 1e-3).any():
                return True
    return False


def _fits(book: Book, in_turn: Sequence[Job], now_s: float, way: _Way) -> bool:
    """Whether all of the jobs, which were lifted, have places in time now: who is late gets the first turn."""
    line, seen, situation = list(in_turn), set(), _as_if(book, now_s, way)
    if way is _Way.LATEST:
        line.sort(key=lambda one: -max(one.spec.not_before_s, now_s))
    for _ in range(_TRIES):
        order = tuple(one.id for one in line)
        if order in seen:
            break
        seen.add(order)
        late = next((one for one in line if is_late(one, book.try_out(one, now_s, situation))), None)
        if late is None:
            return True
        book.lift(in_turn)
        line.remove(late)
        line.insert(0, late)
    return False


def _as_if(book: Book, now_s: float, way: _Way) -> Situation:
    """As if the grid got dirtier with every slot, so that the cleanest place is the earliest one; or else cleaner."""
    situation, slot_s = book.situation(now_s), book.config.slot_s
    first = book.calendar.slot_of(now_s)
    end_s = max([now_s + book.config.horizon_s, *(series.end_s for series in book.forecast.values())])
    values = np.arange(1.0, math.ceil(end_s / slot_s) - first + 1)
    if way is _Way.LATEST:
        values = values[::-1]
    kind = SignalKind.AVERAGE_LIFECYCLE
    forecast = {
        zone: IntensitySeries(zone, first * slot_s, slot_s, values, kind, "as if", Nature.ASSUMED)
        for zone in situation.fleet.zones
    }
    return replace(situation, forecast=forecast, market=None, past={}, means={})


def _settle(book: Book, before: Sequence[Job], now_s: float) -> None:
    """Give all that were placed in turn their old places where these are free, else the cleanest that are."""
    _back(book, before)
    for old in before:
        now = book.jobs[old.id]
        if now.plan is old.plan or now.plan is None:
            continue
        (bare,) = book.lift([now])
        situation = book.situation(now_s)
        kept = as_of_now(bare, now.plan, situation)
        if is_late(bare, book.try_out(bare, now_s)):  # it stays, with what that really emits
            run_now_g = situation.run_now_g(bare.spec, book.durations.left_s(bare, now_s))
            book.restore([changed(bare, plan=changed(kept, run_now_g=run_now_g))])
    _back(book, before)


def _back(book: Book, before: Sequence[Job]) -> None:
    """Let everyone return to its old place who can, until nobody can."""
    moved = [old for old in before if old.plan is not None and not is_late(old, old.plan)]
    again = True
    while again:
        again = False
        for old in moved:
            now = book.jobs[old.id]
            if now.plan is old.plan:
                continue
            book.lift([now])
            again |= (returns := book.has_room(old))
            book.restore([old if returns else now])
