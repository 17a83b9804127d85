"""A full replan: all waiting jobs of the policy eco get new plans together, or all keep theirs."""

from __future__ import annotations

import gc
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager

from eco_ray.core.book import Book, is_settled
from eco_ray.core.jobs import Job, Plan
from eco_ray.core.joint import Grid, is_plain
from eco_ray.core.late import is_overdue
from eco_ray.core.room import is_late
from eco_ray.core.situation import NoPlan

#: what sums of grams may differ by without meaning anything
_ROUNDING = 1e-9


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Plans are made by the ten thousand and refer to nothing that refers to them: looking for cycles takes a sixth."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_no_garbage_collection()
def replan_all(book: Book, now_s: float, gain_pct: float) -> bool:
    """Plan all waiting jobs of the policy eco anew, the most urgent first; says whether that was better and is done.

    Those that need a closer look (`joint.is_plain`) keep their places; the line has them planned again one by one.
    So do those that are late: what they were promised is not taken from them.
    Better is: more jobs are in time, of the highest priority in which the numbers differ; or the same ones are, and all
    of them add `gain_pct` % less to the emissions, by what is known now.
    """
    situation = book.situation(now_s)
    left_s: dict[str, float] = {}
    jobs = []
    for job in book.jobs.values():
        if waits(job) and is_plain(job, situation, book.config):
            left_s[job.id] = book.durations.left_s(job, now_s)
            late = job.plan is not None and (is_late(job, job.plan) or is_overdue(job, now_s, left_s[job.id]))
            if not late:
                jobs.append(job)
    if not jobs:
        return False
    together = {job.id for job in jobs}
    calendar = book.calendar_of(job for job in book.jobs.values() if job.id not in together)
    grid = Grid(jobs, book.situation(now_s, calendar), book.config)
    # by priority, then by slack: nothing else can make room for the tightest
    in_turn = sorted(jobs, key=lambda job: (-job.spec.priority, job.spec.deadline_s - left_s[job.id]))
    plans = {job.id: grid.plan(job) for job in in_turn}
    if _is_better(jobs, _in_time_g(jobs, plans), _as_they_are(jobs, grid), gain_pct):
        book.accept_all(plans, calendar, now_s)
        return True
    book.looked_at(jobs)
    return False


def waits(job: Job) -> bool:
    """Whether a full replan may change its plan."""
    return job.spec.policy == "eco" and not job.held and job.live_attempt is None and not is_settled(job)


def _in_time_g(jobs: Sequence[Job], plans: Mapping[str, Plan | NoPlan]) -> dict[str, float]:
    """What the jobs would add that are in time, by id [g]; where nobody knows what it would add, it counts as late."""
    found = {}
    for job in jobs:
        plan = plans[job.id]
        if isinstance(plan, Plan) and plan.added_g is not None and not is_late(job, plan):
            found[job.id] = plan.added_g
    return found


def _as_they_are(jobs: Sequence[Job], grid: Grid) -> dict[str, float]:
    """The same of the plans that they have, by what is known now; where a node or the intensity is gone, it is late.

    Plans that are late are not among them.
    """
    found = {}
    for job in jobs:
        now_g = grid.added_g(job, job.plan) if job.plan is not None else None
        if now_g is not None:
            found[job.id] = now_g
    return found


def _is_better(jobs: Sequence[Job], new_g: dict[str, float], old_g: dict[str, float], gain_pct: float) -> bool:
    """More in time of the highest priority in which the numbers differ, or the same jobs and clearly fewer grams."""
    if new_g.keys() == old_g.keys():
        return sum(new_g.values()) < sum(old_g.values()) * (1 - gain_pct / 100 - _ROUNDING)
    return in_time_by_priority(jobs, new_g) > in_time_by_priority(jobs, old_g)


def in_time_by_priority(jobs: Sequence[Job], in_time: Container[str]) -> list[int]:
    """How many of the jobs of each priority are in time, the highest first: the greater list is better."""
    counts = dict.fromkeys(sorted({job.spec.priority for job in jobs}, reverse=True), 0)
    for job in jobs:
        counts[job.spec.priority] += job.id in in_time
    return list(counts.values())
