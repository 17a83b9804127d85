"""Indices over the jobs of a book, so that a tick looks only at what is due and a start only at its node."""

from __future__ import annotations

import heapq
from copy import copy

from eco_ray.core.cluster import Node, Resources

_INSTANT_S = 1e-6


class Agenda:
    """When each job has to be looked at again. What is due stays due until it gets another time."""

    def __init__(self) -> None:
        self._due_s: dict[str, float] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._pushed = 0
        #: ids that are due, in a dictionary for its order
        self._now: dict[str, None] = {}

    def __deepcopy__(self, _memo: object) -> Agenda:
        """Without a copy of each entry: none ever changes, and there are many."""
        twin = copy(self)
        twin._due_s, twin._heap, twin._now = self._due_s.copy(), self._heap.copy(), self._now.copy()
        return twin

    def set(self, job_id: str, due_s: float | None) -> None:
        """Look at a job at that time; None: not at all."""
        if self._due_s.get(job_id) == due_s:
            return
        self._now.pop(job_id, None)
        if due_s is None:
            del self._due_s[job_id]
            return
        self._due_s[job_id] = due_s
        self._pushed += 1  # of equal times the one that was set first
        heapq.heappush(self._heap, (due_s, self._pushed, job_id))

    def due(self, now_s: float) -> list[str]:
        """Ids of the jobs that are due, those due first in front."""
        while self._heap and self._heap[0][0] <= now_s + _INSTANT_S:
            due_s, _, job_id = heapq.heappop(self._heap)
            if self._due_s.get(job_id) == due_s:  # else it got another time since
                self._now[job_id] = None
        return list(self._now)


class Occupancy:
    """Which jobs live on which node, and what they hold of it."""

    def __init__(self) -> None:
        self._node_of: dict[str, tuple[str, Resources]] = {}
        self._on: dict[str, dict[str, None]] = {}
        self._held: dict[str, Resources] = {}
        #: how many of them have parts of GPUs
        self._with_parts: dict[str, int] = {}

    def put(self, job_id: str, node: str | None, demand: Resources) -> None:
        """A job lives on that node; None: nowhere."""
        before = self._node_of.get(job_id)
        if before == (None if node is None else (node, demand)):
            return
        if before is not None:
            del self._node_of[job_id]
            here = self._on[before[0]]
            del here[job_id]
            # from an empty node all of it is gone, to the last bit
            self._held[before[0]] = self._held[before[0]] - before[1] if here else Resources()
            self._with_parts[before[0]] -= before[1].has_parts
        if node is not None:
            self._node_of[job_id] = node, demand
            self._on.setdefault(node, {})[job_id] = None
            self._held[node] = self._held.get(node, Resources()) + demand
            self._with_parts[node] = self._with_parts.get(node, 0) + demand.has_parts

    def on(self, node: str) -> list[str]:
        """Ids of the jobs that live on a node."""
        return list(self._on.get(node, ()))

    def held(self, node: Node) -> Resources:
        """What is kept for them together."""
        if self._with_parts.get(node.name):
            each = (self._node_of[job_id][1].reserved_on(node.capacity) for job_id in self.on(node.name))
            return sum(each, Resources())
        return self._held.get(node.name, Resources())
