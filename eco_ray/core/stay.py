"""Plans of a job that runs and gives way without leaving its node, and how it stands once it has left."""

from __future__ import annotations

from collections.abc import Iterator

from eco_ray.core.book import Book
from eco_ray.core.durations import done_so_far_s
from eco_ray.core.grants import Grant
from eco_ray.core.jobs import AttemptState, Job, Plan, Segment
from eco_ray.core.records import changed
from eco_ray.core.starts import plan_with_starts_g

_INSTANT_S = 1e-6


def as_paused(book: Book, job: Job, now_s: float) -> Job:
    """The job as it will be when it has written a checkpoint and left."""
    attempt = job.live_attempt
    if attempt is None:
        return job
    left = changed(attempt, state=AttemptState.PAUSED, ended_s=now_s, pause_asked_s=now_s)
    done_s = done_so_far_s(job, now_s)
    return changed(job, attempts=(*job.attempts[:-1], left), productive_s=done_s, has_checkpoint=True)


def plans_that_stay(book: Book, job: Job, grant: Grant, now_s: float) -> Iterator[Plan]:
    """Plans on its node, the most workers first: with fewer than it wants while room is granted there, then with all.

    With as many as now it stays only where the grant begins later: it has to leave something. Whether they are in time,
    and have room, is for the caller to see. `job`: without a plan; it runs, or has just left. None of a job with a
    budget: what its budget allows, the planner knows.
    """
    last, spec = job.attempts[-1], job.spec
    if spec.budget_g is not None or spec.budget_j is not None:
        return
    gave = book.gives_way.get(job.id)
    wanted = max(last.workers, gave.workers if gave else 0)
    runs = job.live_attempt is not None
    least = spec.workers.min if spec.workers.max > spec.workers.min else last.workers
    most = last.workers - (grant.from_s <= now_s + _INSTANT_S) if runs else wanted
    for workers in range(most, least - 1, -1):
        start_s = 0.0 if runs and workers == last.workers else spec.suspend.resume_cost_s + book.launch_s
        for segments in _shapes(book, job, workers, wanted, start_s, grant.until_s, now_s):
            situation = book.situation(now_s)
            carbon_g, added_g = plan_with_starts_g(job, segments, situation)
            length = book.durations.expected(spec, done_so_far_s(job, now_s), job.progress)
            yield Plan(
                segments,
                carbon_g,
                situation.run_now_g(spec, book.durations.left_s(job, now_s)),
                now_s,
                could_start_s=now_s,
                added_g=added_g,
                length_s=length.seconds,
                length_from=length.source,
            )


def _shapes(
    book: Book, job: Job, workers: int, wanted: int, start_s: float, until_s: float, now_s: float
) -> Iterator[tuple[Segment, ...]]:
    """Few workers until a time and then more, where both stretches are worth their starts; few until the end."""
    last, spec = job.attempts[-1], job.spec
    left_s, speed = book.durations.left_s(job, now_s), spec.workers.speed
    again_s = spec.suspend.resume_cost_s + book.launch_s
    few_s = until_s - now_s - start_s
    end_s = now_s + start_s + left_s / speed(workers)
    if workers < wanted and few_s * speed(workers) < left_s and few_s >= max(spec.suspend.min_run_s, again_s):
        rest_s = again_s + (left_s - few_s * speed(workers)) / speed(wanted)
        if until_s + rest_s < end_s - again_s:
            yield (
                Segment(last.node, last.zone, now_s, until_s, workers),
                Segment(last.node, last.zone, until_s, until_s + rest_s, wanted),
            )
    yield (Segment(last.node, last.zone, now_s, end_s, workers),)
