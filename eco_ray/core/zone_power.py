"""What answering requests in a zone emits: grams per hour by the requests per second that its nodes are given.

    grams per hour = sum over nodes of (P(load with requests) - P(load without)) * PUE * intensity / 1000    [W, g/kWh]

Nodes are filled in the order of `replica_places`, one after the other, so that the curve has a jump where one that
would sleep is woken, and bends where a node's power curve does. What waking one takes that is asleep counts over an
hour, as where nodes are emptied.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import isfinite

import numpy as np

from eco_ray.core.cluster import Resources
from eco_ray.core.replica_places import Room, plan_replicas
from eco_ray.core.units import MJ_PER_J, grams
from eco_ray.errors import UsageError

#: over which waking counts [h]
_WAKE_H = 1.0


@dataclass(frozen=True, slots=True)
class Curve:
    """Grams per hour by requests per second: straight between points."""

    #: from 0, not falling; the same twice is a jump, and the lower value holds there
    requests_per_s: tuple[float, ...]
    #: above what is emitted without these requests, not falling
    grams_per_h: tuple[float, ...]

    def __post_init__(self) -> None:
        x, y = self.requests_per_s, self.grams_per_h
        if len(x) != len(y) or not x or x[0] != 0 or not all(map(isfinite, x + y)) or _falls(x) or _falls(y):
            raise UsageError(
                f"curve of {x} requests/s with {y} g/h: need as many of each, finite, that do not fall, from 0 requests"
            )

    @property
    def capacity_per_s(self) -> float:
        """The most requests per second."""
        return self.requests_per_s[-1]

    def grams(self, load_per_s: float) -> float:
        """Grams per hour at a load, which is clipped to the capacity."""
        x, y = self.requests_per_s, self.grams_per_h
        after = bisect_left(x, load_per_s)
        if after == len(x):
            return y[-1]
        if after == 0 or x[after] == load_per_s:
            return y[after]
        part = (load_per_s - x[after - 1]) / (x[after] - x[after - 1])
        return y[after - 1] + part * (y[after] - y[after - 1])


def straight(capacity_per_s: float, grams_per_h_each: float) -> Curve:
    """Where the power of nodes is not known: every request per second emits the same."""
    return Curve((0.0, capacity_per_s), (0.0, capacity_per_s * grams_per_h_each))


def zone_curve(rooms: Sequence[Room], demand: Resources, most: int, each_per_s: float) -> Curve:
    """The curve of a zone whose nodes take up to `most` replicas with a demand, of `each_per_s` requests/s each.

    What `rooms` hold is without these replicas. A replica with half of its requests draws half of what its demand
    would. Raises UsageError where the intensity of a node that takes one is unknown: it has no grams.
    """
    if not (isfinite(each_per_s) and each_per_s > 0):
        raise UsageError(f"{each_per_s} requests/s of a replica: must be > 0; measure how long one request takes")
    plan = plan_replicas(rooms, demand, 0, most)
    by_name = {room.node.name: room for room in rooms}
    x, y = [0.0], [0.0]
    for name, places in groupby(place.node for place in plan.places):
        room, count = by_name[name], len(list(places))
        if room.intensity_g_per_kwh is None:
            raise UsageError(f"the intensity of {name} ({room.node.zone}) is unknown: leave it out, or name a source")
        each_g = room.node.pue * room.intensity_g_per_kwh / 1000
        woken_g = grams(room.node.wake_j * MJ_PER_J, room.intensity_g_per_kwh, room.node.pue) if room.asleep else 0.0
        begin_per_s, begin_g = x[-1], y[-1] + woken_g / _WAKE_H
        for part in _bends(room, plan.demand * count):
            added_w = _added_w(room, plan.demand * count, part)
            x.append(begin_per_s + part * count * each_per_s)
            y.append(begin_g + max(0.0, added_w) * each_g)
    return Curve(tuple(x), tuple(y))


def _bends(room: Room, demand: Resources) -> list[float]:
    """The parts of a demand, 0 to 1, at which its node's power bends; 0 only where there is a jump."""
    power, cpus = room.node.power, room.node.capacity.cpus
    first = [0.0] if room.asleep or _added_w(room, demand, 0.0) > 0 else []
    if not cpus or not demand.cpus:
        return [*first, 1.0]
    load = np.array(power.utilisation[1:-1])
    parts = (load * cpus - room.held.cpus) / demand.cpus
    return [*first, *(float(part) for part in parts if 0 < part < 1), 1.0]


def _added_w(room: Room, demand: Resources, part: float) -> float:
    return room.node.added_power_w(demand * part, room.held)


def _falls(values: tuple[float, ...]) -> bool:
    return any(later < earlier for earlier, later in pairwise(values))
