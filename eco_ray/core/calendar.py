"""Which node has promised what to whom, slot by slot.

A slot is `slot_s` seconds of grid time; slot k is [k*slot_s, (k+1)*slot_s). What touches a slot holds it whole.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from eco_ray.core.cluster import KINDS, Node, Resources
from eco_ray.core.fleet import Fleet, Place
from eco_ray.core.jobs import Segment

Floats = NDArray[np.float64]
#: kinds of resources and how much of each, of those of which there is some
Needs = tuple[tuple[int, float], ...]

_INITIAL_SLOTS = 512
#: nodes of a pool that are looked at together for a free one
_CHUNK = 64
#: sums of fractions differ by less
_EPS = 1e-9
#: changes of a pool's promises of which is known how much they left, and what stands for one of which it is not
_PEAKS, _UNKNOWN = 64, (math.inf,) * KINDS


class Calendar:
    """Reserved resources of a fleet. What is promised on nodes that are not there is not written down."""

    def __init__(self, slot_s: float, nodes: Iterable[Node] | Fleet = (), first_slot: int = 0) -> None:
        #: length of a slot [s]
        self.slot_s = slot_s
        self.fleet = nodes if isinstance(nodes, Fleet) else Fleet(nodes)
        self._first = first_slot
        pools = self.fleet.pools
        #: by pool, shape (KINDS, slots, members): what is held; its sum over members, of each no more than it has, as
        #: what one is overbooked by is not missing on others; shape (KINDS, members): what is there for our jobs; its
        #: sum over members
        self._held = [np.zeros((KINDS, _INITIAL_SLOTS, len(nodes))) for nodes in pools]
        self._total = [np.zeros((KINDS, _INITIAL_SLOTS)) for _ in pools]
        self._usable = [np.array([node.capacity.amounts for node in nodes]).T for nodes in pools]
        self._usable_total = [usable.sum(axis=1) for usable in self._usable]
        #: by pool, how often its promises have changed
        self.versions = [0] * len(pools)
        #: by pool, what the last changes left held at most where they took something, of each kind; inf: they gave back
        self._peaks = [deque[tuple[float, ...]](maxlen=_PEAKS) for _ in pools]

    @property
    def first_slot(self) -> int:
        """The earliest slot that is still written down."""
        return self._first

    def slot_of(self, time_s: float) -> int:
        """Index of the slot that holds a time."""
        return math.floor(time_s / self.slot_s + 1e-9)

    def set_foreign(self, name: str, held: Resources) -> None:
        """What is kept of a node for others than our attempts, and is taken to go on being so."""
        seat = self.fleet.seat.get(name)
        if seat is None:
            return
        pool, member = seat
        free = np.maximum((self.fleet.nodes[name].capacity - held).amounts, 0.0)
        ours, before = self._held[pool][:, :, member], self._usable[pool][:, member, None]
        self._total[pool] += np.minimum(ours, free[:, None]) - np.minimum(ours, before)
        self._usable[pool][:, member] = free
        self._usable_total[pool] = self._usable[pool].sum(axis=1)

    def reserve(self, segment: Segment, demand: Resources) -> None:
        """Hold the demand of each of its workers for the slots that the segment touches."""
        self._add(segment, demand, +1.0)

    def release(self, segment: Segment, demand: Resources) -> None:
        """Undo `reserve` of the same segment and demand."""
        self._add(segment, demand, -1.0)

    def fits(self, places: Sequence[Place], demand: Resources, first: int, count: int) -> NDArray[np.bool_]:
        """Whether the demand fits beside what is held, slots first..first+count-1: shape (places, count).

        In a pool: whether there is that much in all its nodes together; `find` knows whether one node has it.
        """
        return np.array([self.open_slots(place, demand, first, count) for place in places]).reshape(-1, count)

    def open_slots(self, place: Place, demand: Resources, first: int, count: int) -> NDArray[np.bool_]:
        """`fits` of one place: shape (count,)."""
        if demand.gpu_memory_gb and demand.gb_per_gpu > place.node.capacity.gb_per_gpu + _EPS:
            return np.zeros(count, dtype=np.bool_)
        return self.has_room(place, self.needs(place.pool, demand), first, count)

    def left(self, pool: int, version: int, needs: Needs) -> bool:
        """Whether all that was taken since a version of a pool's promises left room for that much, in all of its slots.

        What does not hold more than that is then as free as it was. False where nobody remembers.
        """
        changes, peaks, usable = self.versions[pool] - version, self._peaks[pool], self._usable_total[pool]
        if changes > len(peaks):
            return False
        for kind, amount in needs:
            most = usable.item(kind) - amount
            for change in range(1, changes + 1):
                if peaks[-change][kind] > most:
                    return False
        return True

    def needs(self, pool: int, demand: Resources) -> Needs:
        """What is to be kept for a demand on a node of a pool."""
        amounts = demand.reserved_on(self.fleet.kinds[pool].capacity).amounts
        return tuple(one for one in enumerate(amounts) if one[1] > 0)

    def has_room(self, place: Place, needs: Needs, first: int, count: int) -> NDArray[np.bool_]:
        """`open_slots` for whoever knows what is to be kept, and that each GPU has the memory: shape (count,)."""
        start, pool, member = self._reach(first, count), place.pool, place.member
        result: NDArray[np.bool_] | None = None
        for kind, amount in needs:
            if member is None:
                held, usable = self._total[pool][kind], self._usable_total[pool].item(kind)
            else:
                held, usable = self._held[pool][kind, :, member], self._usable[pool].item(kind, member)
            fits = held[start : start + count] <= usable - amount + _EPS
            result = fits if result is None else result & fits
        return np.ones(count, dtype=np.bool_) if result is None else result

    def most_workers(
        self, places: Sequence[Place], demand: Resources, first: int, count: int, most: int
    ) -> NDArray[np.int64]:
        """How many workers fit in each slot, up to `most`: shape (places, count)."""
        result = np.full((len(places), count), float(most))
        start = self._reach(first, count)
        for row, place in enumerate(places):
            if demand.gpu_memory_gb > 0:  # workers with parts of a GPU share its memory
                of_gpus = (count for count in range(most, 0, -1) if (demand * count).fits_node(place.node.capacity))
                result[row] = next(of_gpus, 0)
            for kind, amount in enumerate(demand.amounts):
                if amount > 0:
                    pool, member = place.pool, place.member
                    if member is None:
                        free = self._usable_total[pool][kind] - self._total[pool][kind, start : start + count]
                    else:
                        free = self._usable[pool][kind, member] - self._held[pool][kind, start : start + count, member]
                    if kind == 1 and amount % 1:
                        fit = [
                            (demand * workers).reserved_on(place.node.capacity).gpus for workers in range(1, most + 1)
                        ]
                        room = np.searchsorted(fit, free + _EPS, side="right").astype(np.float64)
                    else:
                        room = np.floor((free + _EPS) / amount)
                    np.minimum(result[row], room, out=result[row])
        workers: NDArray[np.int64] = np.maximum(result, 0.0).astype(np.int64)
        return workers

    def find(self, pool: int, start_s: float, end_s: float, demand: Resources, near: int | None = None) -> Node | None:
        """The first node of a pool with room all the time, `near` (an index) before all others; None where none has."""
        start, stop = self._span(start_s, end_s)
        member = self._member(pool, start, stop, self.needs(pool, demand), near)
        return None if member is None else self.fleet.pools[pool][member]

    def take(self, pool: int, start_s: float, end_s: float, needs: Needs) -> Node | None:
        """`find`, and reserve what was found: what all workers need."""
        start, stop = self._span(start_s, end_s)
        member = self._member(pool, start, stop, needs, None)
        if member is None:
            return None
        self.versions[pool] += 1
        peaks = [0.0] * KINDS
        for kind, amount in needs:  # it fits, so all of it counts
            held, total = self._held[pool][kind, start:stop, member], self._total[pool][kind, start:stop]
            held += amount
            total += amount
            peaks[kind] = total.item(total.argmax())
        self._peaks[pool].append(tuple(peaks))
        return self.fleet.pools[pool][member]

    def _span(self, start_s: float, end_s: float) -> tuple[int, int]:
        """Where the slots that a time touches are in the arrays."""
        first = max(math.floor(start_s / self.slot_s + 1e-9), self._first)
        count = math.ceil(end_s / self.slot_s - 1e-9) - first
        start = self._reach(first, count)
        return start, start + count

    def _member(self, pool: int, start: int, stop: int, needs: Needs, near: int | None) -> int | None:
        """The first member of a pool with room all the time, `near` before all others."""
        held, usable = self._held[pool], self._usable[pool]
        parts = [slice(low, low + _CHUNK) for low in range(0, held.shape[2], _CHUNK)]
        for part in parts if near is None else [slice(near, near + 1), *parts]:
            fits: NDArray[np.bool_] | None = None
            for kind, amount in needs:
                room = np.maximum.reduce(held[kind, start:stop, part], axis=0) <= usable[kind, part] - (amount - _EPS)
                fits = room if fits is None else fits & room
            found = int(fits.argmax()) if fits is not None else 0
            if fits is None or fits[found]:
                return part.start + found
        return None

    def roomiest(self, pool: int, demand: Resources, first: int, count: int, most: int) -> list[Place]:
        """The nodes of a pool on which the demand fits in the most slots."""
        start, demand = self._reach(first, count), demand.reserved_on(self.fleet.kinds[pool].capacity)
        fits = np.ones((count, len(self.fleet.pools[pool])), dtype=np.bool_)
        for kind, amount in enumerate(demand.amounts):
            if amount > 0:
                fits &= self._held[pool][kind, start : start + count] <= self._usable[pool][kind] - amount + _EPS
        order = np.argsort(-fits.sum(axis=0), kind="stable")[:most]
        return [Place(pool, int(member), self.fleet.pools[pool][member]) for member in order]

    def cpus_held(self, place: Place, first: int, count: int) -> Floats:
        """CPUs that anybody holds on a node, or on the mean node of a pool: shape (count,)."""
        return self._amount_held(place, 0, first, count)

    def idle(self, place: Place, first: int, count: int) -> NDArray[np.bool_]:
        """Whether nobody holds a CPU or a GPU of a node, or of any of a pool: then one that sleeps is off."""
        idle: NDArray[np.bool_] = np.ones(count, dtype=np.bool_)
        for kind in (0, 1):
            if place.node.capacity.amounts[kind] > 0:
                idle &= self._amount_held(place, kind, first, count) <= _EPS
        return idle

    def load(self, place: Place, demand: Resources, first: int, count: int) -> Floats:
        """What anybody holds there of what a demand needs most of all, GPUs or else CPUs: shape (count,)."""
        return self._amount_held(place, 1 if demand.gpus > 0 else 0, first, count)

    def _amount_held(self, place: Place, kind: int, first: int, count: int) -> Floats:
        start, pool, has = self._reach(first, count), place.pool, place.node.capacity.amounts[kind]
        if place.member is None:
            others = has - self._usable_total[pool][kind] / len(self.fleet.pools[pool])
            mean: Floats = self._total[pool][kind, start : start + count] / len(self.fleet.pools[pool]) + others
            return mean
        others = has - self._usable[pool][kind, place.member]
        held: Floats = self._held[pool][kind, start : start + count, place.member] + others
        return held

    def free_mean(self, pool: int, edges_s: Floats) -> Floats:
        """Mean of what a pool has left between edges [s since epoch]: shape (len(edges) - 1, KINDS)."""
        first = max(self.slot_of(float(edges_s[0])), self._first)
        count = math.ceil(float(edges_s[-1]) / self.slot_s) - first
        start = self._reach(first, count)
        held = self._total[pool][:, start : start + count]
        sums = np.concatenate([np.zeros((KINDS, 1)), np.cumsum(held, axis=1)], axis=1)
        position = np.clip(edges_s / self.slot_s - first, 0, count)
        at = np.stack([np.interp(position, np.arange(count + 1), sums[kind]) for kind in range(KINDS)], axis=1)
        mean = np.diff(at, axis=0) / np.maximum(np.diff(position), 1e-9)[:, None]
        free: Floats = np.maximum(self._usable_total[pool] - mean, 0.0)
        return free

    def held(self, name: str, first: int, count: int) -> Floats:
        """What a node has promised: shape (count, KINDS)."""
        pool, member = self.fleet.seat[name]
        start = self._reach(first, count)
        return self._held[pool][:, start : start + count, member].T

    def forget_before(self, time_s: float) -> None:
        """Drop slots that are over, so that a long life does not grow memory."""
        passed = self.slot_of(time_s) - self._first
        if passed <= _INITIAL_SLOTS:
            return
        self._first += passed
        self._held = [_dropped(held, passed) for held in self._held]
        self._total = [_dropped(total, passed) for total in self._total]

    def _reach(self, first: int, count: int) -> int:
        """Index of a slot in the arrays, which are made longer where they do not hold `count` slots from it on."""
        start = first - self._first
        if start < 0:
            raise ValueError(f"slot {first} is before the calendar's first slot {self._first}")
        if self._held and start + count > self._held[0].shape[1]:
            more = max(start + count - self._held[0].shape[1], self._held[0].shape[1])
            self._held = [_longer(held, more) for held in self._held]
            self._total = [_longer(total, more) for total in self._total]
        return start

    def _add(self, segment: Segment, demand: Resources, sign: float) -> None:
        seat = self.fleet.seat.get(segment.node)
        if seat is None:
            return
        first = max(self.slot_of(segment.start_s), self._first)
        count = math.ceil(segment.end_s / self.slot_s - 1e-9) - first
        if count <= 0:
            return
        pool, member = seat
        start = self._reach(first, count)
        self.versions[pool] += 1
        self._peaks[pool].append(_UNKNOWN)
        stop, alone = start + count, len(self._usable[pool][0]) == 1
        together = (demand * segment.workers).reserved_on(self.fleet.kinds[pool].capacity)
        for kind, amount in enumerate(together.amounts):
            if amount > 0:
                held, usable = self._held[pool][kind, start:stop, member], self._usable[pool][kind, member]
                total = self._total[pool][kind, start:stop]
                if alone:
                    held += sign * amount
                    np.minimum(held, usable, out=total)
                else:
                    before = np.minimum(held, usable)
                    held += sign * amount
                    total += np.minimum(held, usable) - before


def _longer(held: Floats, more: int) -> Floats:
    return np.concatenate([held, np.zeros((KINDS, more, *held.shape[2:]))], axis=1)


def _dropped(held: Floats, passed: int) -> Floats:
    ahead = held[:, passed:]
    return np.concatenate([ahead, np.zeros((KINDS, max(0, _INITIAL_SLOTS - ahead.shape[1]), *held.shape[2:]))], axis=1)
