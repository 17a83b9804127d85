"""Nodes as they will be, and the jobs on them, for whoever empties nodes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from eco_ray.core.book import Book
from eco_ray.core.consolidation import Guest
from eco_ray.core.jobs import Attempt, AttemptState, Job
from eco_ray.core.replica_places import Room, added_g_per_h


def rooms_and_jobs(
    book: Book, rooms: Sequence[Room], horizon_s: float, now_s: float, speed: float
) -> tuple[list[Room], list[Guest], frozenset[str]]:
    """Rooms with the mean intensity of so many wall seconds ahead, where it is forecast; attempts as guests of them.

    And the nodes on which waiting jobs have their places: nobody would wake those for them.
    `now_s`: grid time; `speed`: grid seconds per wall second.
    """
    ahead = [_ahead(book, room, now_s, now_s + horizon_s * speed) for room in rooms]
    by_name = {room.node.name: room for room in ahead if not room.asleep}
    return ahead, list(_guests(book, by_name, now_s, speed)), frozenset(node for _, node in _waiting(book))


def came_since(book: Book, node: str, guests: Collection[str]) -> str:
    """What has begun on a node since somebody saw these guests, or has its place there; empty: nothing."""
    began = [_name(job) for job, attempt in book.live() if attempt.node == node and _name(job) not in guests]
    planned = dict.fromkeys(_name(job) for job, name in _waiting(book) if name == node)
    return ", ".join([*(f"{job} began there" for job in began), *(f"{job} has its place there" for job in planned)])


def _waiting(book: Book) -> Iterator[tuple[Job, str]]:
    """Jobs that wait, and each node on which they have places."""
    for job in book.jobs.values():
        for segment in job.plan.segments if job.plan and job.live_attempt is None else ():
            yield job, segment.node


def _name(job: Job) -> str:
    return f"job {job.id}"


def _ahead(book: Book, room: Room, now_s: float, end_s: float) -> Room:
    series = book.forecast.get(room.node.zone)
    if series is None or not series.covers(now_s, end_s):
        return room
    return replace(room, intensity_g_per_kwh=series.mean(now_s, end_s))


def _guests(book: Book, rooms: dict[str, Room], now_s: float, speed: float) -> Iterable[Guest]:
    for job, attempt in book.live():
        room, demand = rooms.get(attempt.node), job.spec.demand * attempt.workers
        if room is None:
            continue
        if demand.gpu_memory_gb:  # as `rooms_of` counts it: the memory keeps more of a GPU than Ray was asked for
            demand = demand.reserved_on(room.node.capacity)
        again_h = (job.spec.suspend.resume_cost_s + book.launch_s) / speed / 3600
        yield Guest(
            _name(job),
            attempt.node,
            demand,
            job.spec.zones,
            move_g=again_h * added_g_per_h(room, demand) if room.intensity_g_per_kwh is not None else 0.0,
            stays=not _can_leave(job, attempt, now_s) or _would_be_late(book, job, attempt, now_s),
        )


def _can_leave(job: Job, attempt: Attempt, now_s: float) -> bool:
    """Whether it loses nothing when it is asked to pause: its session is open, and it has run for as long as it must.

    Of a job without a session nobody knows whether it writes checkpoints; one that ignores the request would be lost.
    """
    rule = job.spec.suspend
    if attempt.state is not AttemptState.RUNNING or attempt.productive_s is None or attempt.started_s is None:
        return False
    return rule.allow and job.pausable and now_s - attempt.started_s >= rule.min_run_s


def _would_be_late(book: Book, job: Job, attempt: Attempt, now_s: float) -> bool:
    """Whether beginning again elsewhere takes more time than its deadline leaves."""
    again_s = job.spec.suspend.resume_cost_s + book.launch_s
    left_s = book.durations.left_s(job, now_s) / job.spec.workers.speed(attempt.workers)
    return now_s + again_s + left_s > job.spec.deadline_s
