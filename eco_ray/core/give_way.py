"""Room for a replica: which jobs give way to it, on which node.

What does the least harm, by these in turn: no job that runs is touched; those that are touched run on at once, with
fewer workers or elsewhere; one is suspended. Then the lowest priority, then the fewest added grams, with those of the
replica. Nobody is made late, and nobody is touched who may not be suspended, or would be before it has paid for its
last start.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eco_ray.core.book import Book
from eco_ray.core.feasible import hours
from eco_ray.core.grants import Grant, total
from eco_ray.core.jobs import AttemptState, Job, Plan
from eco_ray.core.planner import plan_job
from eco_ray.core.records import changed
from eco_ray.core.room import is_late
from eco_ray.core.starts import as_of_now
from eco_ray.core.stay import as_paused, plans_that_stay
from eco_ray.core.units import MJ_PER_J, grams

_INSTANT_S = 1e-6
#: a job that gave way before runs for so many times what its start took before it gives way again
_PAYS_BACK = 10.0
_LEAVING = (AttemptState.PAUSING, AttemptState.STOPPING)


@dataclass(frozen=True, slots=True)
class Way:
    """How room comes to be on a node."""

    grant: Grant
    #: of the jobs that change, by id
    plans: Mapping[str, Plan]
    #: what is touched, of which priority, how many grams more: the smallest is best
    harm: tuple[int, int, float]


class GiveWay:
    """Looks for ways; nothing has changed when one is found."""

    def __init__(self, book: Book, pause_timeout_s: float) -> None:
        self._book = book
        #: how long an attempt may take to leave: a plan that begins with that must be in time by so much more [s]
        self._pause_timeout_s = pause_timeout_s

    def find(self, grants: Iterable[Grant], now_s: float) -> Way | str:
        """The best way to one of these grants, of one replica on different nodes; else why there is none."""
        best: Way | None = None
        whys: dict[str, None] = {}
        for grant in grants:
            way, why = self._on_node(grant, now_s)
            if way is not None and (best is None or way.harm < best.harm):
                best = way
            whys |= dict.fromkeys(why)
        if best is not None:
            return best
        return "; ".join(whys) or "no node that it may be on is large enough"

    def _on_node(self, grant: Grant, now_s: float) -> tuple[Way | None, list[str]]:
        """The best way on one node, and why there is none or no better one."""
        waiting, able, why = self._users(grant, now_s)
        way = self._try(grant, waiting, [], now_s)
        if isinstance(way, Way):
            return way, why
        tried = {job.id: self._try(grant, waiting, [job], now_s) for job in able}
        ways = [way for way in tried.values() if isinstance(way, Way)]
        if ways:
            return min(ways, key=lambda way: way.harm), why
        why += [no for no in tried.values() if isinstance(no, str)]
        together = self._together(grant, waiting, [job for job in able if tried[job.id] is None], now_s)
        if together is None and not why:
            why.append(f"{grant.node} has no {grant.demand} that jobs could leave to it")
        return together, why

    def _users(self, grant: Grant, now_s: float) -> tuple[list[Job], list[Job], list[str]]:
        """Who waits for a place on the node, who runs there and may give way, and why others may not."""
        waiting, able, why = [], [], list[str]()
        for job in list(self._book.jobs.values()):
            attempt, planned = job.live_attempt, self._is_planned(job, grant)
            if attempt is None or attempt.node != grant.node:
                if planned and not is_late(job, job.plan):
                    waiting.append(job)
            elif planned or not (attempt.state in _LEAVING or grant.from_s > now_s):
                no = self._why_not(job, now_s)
                if no:
                    why.append(f"job {job.id} on {grant.node} keeps its place: {no}")
                else:
                    able.append(job)
        return waiting, able, why

    def _together(self, grant: Grant, waiting: Sequence[Job], able: Sequence[Job], now_s: float) -> Way | None:
        """Several that run give way, the lowest priority first, of these the elastic ones, until there is room."""
        leaving: list[Job] = []
        for job in sorted(able, key=lambda job: (job.spec.priority, job.spec.workers.max == job.spec.workers.min)):
            leaving.append(job)
            found = self._try(grant, waiting, leaving, now_s) if len(leaving) > 1 else None
            if isinstance(found, Way):
                return found
            if found is not None:  # with the others it would be late
                leaving.pop()
        return None

    def _why_not(self, job: Job, now_s: float) -> str:
        """Why a job that runs does not give way; nothing: it may."""
        attempt, rule = job.live_attempt, job.spec.suspend
        if not rule.allow:
            return "it may not be suspended (carbon.suspend.allow: false)"
        if not job.pausable:
            return "it ignored a pause request"
        if attempt is None or attempt.state is not AttemptState.RUNNING or job.held or job.cancelling:
            return "it is being started or ended"
        ran_s = now_s - (attempt.started_s if attempt.started_s is not None else now_s)
        least_s = rule.min_run_s
        if attempt.number > 1:
            least_s = max(least_s, _PAYS_BACK * (rule.resume_cost_s + self._book.launch_s))
        if ran_s < least_s - _INSTANT_S:
            return f"it runs for {hours(ran_s)}, and for at least {hours(least_s)} after each start"
        if job.plan is None or is_late(job, job.plan):
            return "it is late"
        return "how long it still takes is unknown" if job.plan.length_s is None else ""

    def _try(self, grant: Grant, waiting: Sequence[Job], leaving: Sequence[Job], now_s: float) -> Way | str | None:
        """Let some jobs give way to a grant; why one cannot, or None where that is not enough room."""
        book = self._book
        before = [*waiting, *leaving]
        bare = {job.id: job for job in book.lift(before)}
        try:
            if not self._fits(grant, leaving, now_s):
                return None
            replica_g = _replica_g(book, grant, now_s)
            book.grant(grant)
            try:
                plans = self._plans(grant, waiting, leaving, bare, now_s)
            finally:
                book.withdraw(grant)
        finally:
            book.restore(before)
        if isinstance(plans, str):
            return plans
        touched = [job for job in before if job.id in plans and job.live_attempt is not None]
        kinds = [_kind(job, plans[job.id], now_s) for job in touched]
        priority = max((job.spec.priority for job, kind in zip(touched, kinds, strict=True) if kind), default=0)
        more_g = replica_g + sum(_more_g(book, job, plans[job.id], now_s) for job in before if job.id in plans)
        return Way(grant, plans, (max(kinds, default=0), priority, more_g))

    def _fits(self, grant: Grant, leaving: Sequence[Job], now_s: float) -> bool:
        """Whether there is room without the jobs that were lifted: by what is promised, and, of now, by what runs."""
        book, calendar = self._book, self._book.calendar
        place, node = calendar.fleet.place_of(grant.node), book.nodes[grant.node]
        first = max(calendar.slot_of(grant.from_s), calendar.first_slot)
        count = max(1, math.ceil(grant.until_s / calendar.slot_s - 1e-9) - first)
        if place is None or not calendar.open_slots(place, grant.demand, first, count).all():
            return False
        if grant.from_s > now_s + _INSTANT_S:
            return True
        gone = {job.id for job in leaving}
        freed = total(
            (job.spec.demand * attempt.workers).reserved_on(node.capacity)
            for job, attempt in book.live()
            if attempt.node == grant.node and (job.id in gone or attempt.state in _LEAVING)
        )
        return grant.demand.reserved_on(node.capacity).fits_in(book.free(node) + freed)

    def _plans(
        self, grant: Grant, waiting: Sequence[Job], leaving: Sequence[Job], bare: Mapping[str, Job], now_s: float
    ) -> dict[str, Plan] | str:
        """The plans of those that must change beside a grant that is held; why one cannot."""
        book = self._book
        slack_s = {job.id: job.spec.deadline_s - book.durations.left_s(job, now_s) for job in (*waiting, *leaving)}
        displaced = list(leaving)
        for job in sorted(waiting, key=lambda job: slack_s[job.id]):
            if book.has_room(job):
                book.restore([job])
            else:
                displaced.append(job)
        plans: dict[str, Plan] = {}
        for job in sorted(displaced, key=lambda job: (-job.spec.priority, slack_s[job.id])):
            plan = self.plan_beside(bare[job.id], grant, now_s)
            if plan is None:
                return f"job {job.id} would end after its deadline"
            book.restore([changed(bare[job.id], plan=plan)])
            plans[job.id] = plan
        return plans

    def plan_beside(self, job: Job, grant: Grant, now_s: float) -> Plan | None:
        """A plan in time of a lifted job beside a grant that is held: it stays with the workers that fit, or leaves."""
        book, attempt = self._book, job.live_attempt
        if attempt is None or attempt.node != grant.node:
            found = book.try_out(job, now_s)
            return found if isinstance(found, Plan) and not is_late(job, found) else None
        margin_s = self._pause_timeout_s
        stays = self.staying(job, grant, margin_s, now_s)
        if stays is not None:
            return stays
        away = plan_job(as_paused(book, job, now_s), book.situation(now_s), book.config)
        in_time = isinstance(away, Plan) and away.end_s + margin_s <= job.spec.deadline_s
        return away if isinstance(away, Plan) and in_time else None

    def staying(self, job: Job, grant: Grant, margin_s: float, now_s: float) -> Plan | None:
        """A plan of a lifted job on the node where it is, so much before its deadline; None where there is none."""
        for plan in plans_that_stay(self._book, job, grant, now_s):
            if plan.end_s + margin_s <= job.spec.deadline_s and self._book.has_room(changed(job, plan=plan)):
                return plan
        return None

    def _is_planned(self, job: Job, grant: Grant) -> bool:
        """Whether a job has a place on a node at a time, in whole slots."""
        slot_s, segments = self._book.calendar.slot_s, job.plan.segments if job.plan is not None else ()
        begin_s = math.floor(grant.from_s / slot_s + 1e-9) * slot_s
        end_s = math.ceil(grant.until_s / slot_s - 1e-9) * slot_s
        return any(s.node == grant.node and s.start_s < end_s and s.end_s > begin_s for s in segments)


def _kind(job: Job, plan: Plan, now_s: float) -> int:
    """What a plan is to a job that runs: 0 it runs on, 1 it does so with fewer workers or elsewhere, 2 it waits."""
    first, attempt = plan.segments[0], job.live_attempt
    if first.start_s > now_s + _INSTANT_S:
        return 2
    return int(attempt is not None and (first.node, first.workers) != (attempt.node, attempt.workers))


def _more_g(book: Book, job: Job, plan: Plan, now_s: float) -> float:
    """What a plan adds beyond the one that a job has [g]; nothing where that is not known."""
    old_g = as_of_now(job, job.plan, book.situation(now_s)).added_g if job.plan is not None else None
    return 0.0 if plan.added_g is None or old_g is None else plan.added_g - old_g


def _replica_g(book: Book, grant: Grant, now_s: float) -> float:
    """What a replica adds where it is granted, beside those that are not lifted [g]; inf where that is not known."""
    situation, calendar = book.situation(now_s), book.calendar
    place, series = calendar.fleet.place_of(grant.node), situation.forecast.get(grant.zone)
    if place is None or series is None or not series.covers(max(grant.from_s, now_s), grant.until_s):
        return math.inf
    first = max(calendar.slot_of(grant.from_s), calendar.first_slot)
    added_w = situation.added_w(place, grant.demand, first, max(1, calendar.slot_of(grant.until_s) + 1 - first))
    length_s = grant.until_s - max(grant.from_s, now_s)
    mean = series.mean(max(grant.from_s, now_s), grant.until_s)
    return float(np.mean(added_w)) * grams(length_s * MJ_PER_J, mean, 1.0)
