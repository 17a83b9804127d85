"""Which node has promised what to whom, slot by slot.

A slot is `slot_s` seconds of grid time; slot k is [k*slot_s, (k+1)*slot_s). What touches a slot holds it whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.jobs import Segment

_INITIAL_SLOTS = 512


class Calendar:
    """Reserved resources per node and slot."""

    def __init__(self, slot_s: float, first_slot: int = 0) -> None:
        #: length of a slot [s]
        self.slot_s = slot_s
        self._first = first_slot
        #: node name -> shape (slots, 3): CPUs, GPUs, GB
        self._held: dict[str, NDArray[np.float64]] = {}

    def slot_of(self, time_s: float) -> int:
        """Index of the slot that holds a time."""
        return math.floor(time_s / self.slot_s + 1e-9)

    def reserve(self, segment: Segment, demand: Resources) -> None:
        """Hold the demand for the slots that the segment touches."""
        self._add(segment, demand, +1.0)

    def release(self, segment: Segment, demand: Resources) -> None:
        """Undo `reserve` of the same segment and demand."""
        self._add(segment, demand, -1.0)

    def fits(
        self, nodes: Sequence[Node], demand: Resources, first: int, count: int, foreign: Mapping[str, Resources]
    ) -> NDArray[np.bool_]:
        """Whether the demand fits beside others' (`foreign`) use: shape (nodes, count), slots first..first+count-1."""
        wanted = _vector(demand)
        result = np.empty((len(nodes), count), dtype=np.bool_)
        for row, node in enumerate(nodes):
            usable = node.capacity - foreign.get(node.name, Resources())
            free = _vector(usable) - self._view(node.name, first, count)
            result[row] = (free + 1e-9 >= wanted).all(axis=1)
        return result

    def held_mean(self, name: str, edges_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean of what a node has promised between edges [s since epoch]: shape (len(edges) - 1, 3)."""
        if name not in self._held:
            return np.zeros((len(edges_s) - 1, 3))
        first = max(self.slot_of(float(edges_s[0])), self._first)
        count = math.ceil(float(edges_s[-1]) / self.slot_s) - first
        total = np.concatenate([np.zeros((1, 3)), np.cumsum(self._view(name, first, count), axis=0)])
        position = np.clip(edges_s / self.slot_s - first, 0, count)
        at = np.stack([np.interp(position, np.arange(count + 1), total[:, r]) for r in range(3)], axis=1)
        mean: NDArray[np.float64] = np.diff(at, axis=0) / np.maximum(np.diff(position), 1e-9)[:, None]
        return mean

    def forget_before(self, time_s: float) -> None:
        """Drop slots that are over, so that a long life does not grow memory."""
        passed = self.slot_of(time_s) - self._first
        if passed > _INITIAL_SLOTS:
            self._first += passed
            ahead = {name: held[passed:].copy() for name, held in self._held.items()}
            self._held = {name: held for name, held in ahead.items() if (abs(held) > 1e-9).any()}  # nodes come and go

    def _view(self, name: str, first: int, count: int) -> NDArray[np.float64]:
        start = first - self._first
        if start < 0:
            raise ValueError(f"slot {first} is before the calendar's first slot {self._first}")
        held = self._held.get(name)
        if held is None:
            held = self._held[name] = np.zeros((_INITIAL_SLOTS, 3))
        if start + count > len(held):
            more = np.zeros((max(start + count - len(held), len(held)), 3))
            held = self._held[name] = np.concatenate([held, more])
        return held[start : start + count]

    def _add(self, segment: Segment, demand: Resources, sign: float) -> None:
        first = max(self.slot_of(segment.start_s), self._first)
        last = math.ceil(segment.end_s / self.slot_s - 1e-9)
        if last > first:
            self._view(segment.node, first, last - first)[:] += sign * _vector(demand)


def _vector(amount: Resources) -> NDArray[np.float64]:
    return np.array([amount.cpus, amount.gpus, amount.memory_gb])
