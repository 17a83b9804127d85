"""Whose turn it is to be planned again: a tick stays short with any number of waiting jobs."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from eco_ray.core.book import Book
from eco_ray.core.jobs import Job


def urgency(job: Job) -> tuple[int, float]:
    """Sorts jobs that compete for a node: the higher priority, then the earlier deadline first."""
    return -job.spec.priority, job.spec.deadline_s


class Line:
    """The waiting jobs of a book. `changed` says that there may be something better for them."""

    def __init__(self, book: Book, limit: int, gain_pct: float) -> None:
        self._book = book
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

    def replan(self, now_s: float) -> None:
        """Use what became free: at once for jobs that wait for a place, in turn and once per slot for all others."""
        if self._changed:
            placeless = (j for j in self.waiting() if j.plan is None or j.spec.policy == "run-now")
            first = heapq.nsmallest(self._limit, placeless, key=urgency)
            self._book.replan(first, now_s, self._gain_pct)
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
