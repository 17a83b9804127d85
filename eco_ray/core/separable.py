"""Loads of zones with the fewest grams, where each request may be answered in some zones only.

    minimise  sum over zones j of curve_j(load_j);  load_j = sum over origins i of sent_ij;  sent_ij > 0 where allowed

Loads that can be reached are a polymatroid. Where the curves are convex, raising the load of the zone that adds the
least, as far as it goes, and never taking from one, is therefore exact (Federgruen and Groenevelt, Operations Research
34(6), 1986). Real nodes are not convex: one that wakes draws its idle power at once. There the curve's convex hull is
solved instead, which no plan can beat, and the zone at which hull and curve differ most is split at a bend of its curve
until the difference is within `GAP`, or `MOST_SPLITS` have been made.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, groupby, pairwise
from math import inf

from eco_ray.core.zone_power import Curve

#: of the grams: so close to the bound a plan is good enough
GAP = 2e-4
#: a plan is always there; more of these make it better, and each takes about 0.2 ms with six zones, 5 ms with twenty
MOST_SPLITS = 200

#: for each zone the origins that it may answer
Near = Sequence[Sequence[int]]
#: an origin, the zone that its requests leave, and the one that answers them instead
_Move = tuple[int, int, int]
#: of each zone: the first and last point of its curve that its load may lie between
_Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Loads:
    """How many requests per second go where."""

    #: from origin i to zone j [1/s]: shape [origins][zones]
    sent_per_s: list[list[float]]
    #: of zones
    grams_per_h: float
    #: no plan emits less; None: some requests go farther than they should, so that other plans are no match
    bound_g_per_h: float | None


def least_loads(
    requests_per_s: Sequence[float], curves: Sequence[Curve], within: Sequence[Near], beyond: Sequence[Near]
) -> Loads | None:
    """Everybody's requests in zones, with the fewest grams; None: they do not fit.

    `within`: what is allowed, from nearby to all; where zones add the same, those nearby are filled first.
    `beyond`: farther and farther, only for what does not fit within.
    """
    whole: _Ranges = tuple((0, len(curve.requests_per_s) - 1) for curve in curves)
    first = _solve(requests_per_s, curves, within, beyond, whole)
    if first is None:
        return None
    best = first
    if first.goes_far:
        return Loads(first.sent, first.grams, None)
    order = count()
    open_ = [(first.bound, next(order), first)]
    for _ in range(MOST_SPLITS):
        if not open_ or open_[0][0] >= best.grams * (1 - GAP):
            break
        for ranges in _split(heapq.heappop(open_)[2], curves):
            part = _solve(requests_per_s, curves, within, (), ranges)
            if part is None:
                continue
            best = min(best, part, key=lambda one: one.grams)
            if part.bound < best.grams:
                heapq.heappush(open_, (part.bound, next(order), part))
    return Loads(best.sent, best.grams, min(best.grams, open_[0][0]) if open_ else best.grams)


@dataclass(frozen=True)
class _Solved:
    """The fewest grams by the convex hulls within ranges."""

    ranges: _Ranges
    sent: list[list[float]]
    loads: list[float]
    #: by the hulls
    bound: float
    #: by the curves
    grams: float
    #: of each zone: by the curve less by its hull
    above: list[float]
    goes_far: bool


def _solve(
    requests_per_s: Sequence[float],
    curves: Sequence[Curve],
    within: Sequence[Near],
    beyond: Sequence[Near],
    ranges: _Ranges,
) -> _Solved | None:
    flow = _Flow(requests_per_s, len(curves))
    steps: list[tuple[float, int, float]] = []
    by_hull: list[float] = []
    for zone, (curve, (first, last)) in enumerate(zip(curves, ranges, strict=True)):
        least = curve.requests_per_s[first]
        if flow.push(zone, least, within[-1]) < least - flow.least:
            return None
        by_hull.append(curve.grams_per_h[first])
        steps += [(slope, zone, width) for slope, width in _hull(curve, first, last)]
    steps.sort()
    used = [0.0] * len(steps)
    levels = iter([within, *([near] for near in beyond)])
    goes_far = -1
    while not flow.is_done:
        rings = next(levels, None)
        if rings is None:
            return None
        goes_far += 1
        for _, tied in groupby(enumerate(steps), key=lambda one: one[1][0]):
            same = list(tied)
            for near in rings if len(same) > 1 else rings[-1:]:
                for index, (_, zone, width) in same:
                    used[index] += flow.push(zone, width - used[index], near)
    for (slope, zone, _), load in zip(steps, used, strict=True):
        by_hull[zone] += slope * load
    loads = [sum(row[zone] for row in flow.sent) for zone in range(len(curves))]
    at = [_grams(curve, load, span) for curve, load, span in zip(curves, loads, ranges, strict=True)]
    above = [real - hull for real, hull in zip(at, by_hull, strict=True)]
    return _Solved(ranges, flow.sent, loads, sum(by_hull), sum(at), above, goes_far > 0)


def _grams(curve: Curve, load: float, span: tuple[int, int]) -> float:
    """By the curve; at the lower end of a range as the range has it, which may begin above a jump."""
    first, last = span
    if load <= curve.requests_per_s[first]:
        return curve.grams_per_h[first]
    return curve.grams(min(load, curve.requests_per_s[last]))


def _hull(curve: Curve, first: int, last: int) -> list[tuple[float, float]]:
    """The lower convex hull between two points of a curve, as slopes [g/h per 1/s] and widths [1/s]."""
    x, y = curve.requests_per_s, curve.grams_per_h
    kept = [first]
    for point in range(first + 1, last + 1):
        if x[point] == x[kept[-1]]:
            continue  # above a jump
        while len(kept) > 1 and _slope(x, y, kept[-2], kept[-1]) >= _slope(x, y, kept[-1], point):
            kept.pop()
        kept.append(point)
    return [(_slope(x, y, here, there), x[there] - x[here]) for here, there in pairwise(kept)]


def _slope(x: Sequence[float], y: Sequence[float], here: int, there: int) -> float:
    return (y[there] - y[here]) / (x[there] - x[here])


def _split(one: _Solved, curves: Sequence[Curve]) -> list[_Ranges]:
    """Two parts of its ranges, at a bend near the load of the zone where curve and hull differ most."""
    zone = max(range(len(curves)), key=lambda index: one.above[index])
    x, (first, last) = curves[zone].requests_per_s, one.ranges[zone]
    load = one.loads[zone]
    cuts = []
    for point in range(first, last):
        if x[point] == x[point + 1]:
            cuts.append((point, point + 1))
        elif point > first and x[point] != x[point - 1]:
            cuts.append((point, point))
    if not cuts:
        return []
    low, high = min(cuts, key=lambda cut: abs(x[cut[0]] - load))
    return [(*one.ranges[:zone], part, *one.ranges[zone + 1 :]) for part in ((first, low), (high, last))]


class _Flow:
    """Requests on their way to zones: the load of a zone is raised without lowering that of another."""

    def __init__(self, requests_per_s: Sequence[float], zones: int) -> None:
        self._left = list(requests_per_s)
        #: less is rounding
        self.least = 1e-12 * max(1.0, sum(requests_per_s))
        self.sent = [[0.0] * zones for _ in requests_per_s]

    @property
    def is_done(self) -> bool:
        return max(self._left, default=0.0) <= self.least

    def push(self, zone: int, wanted: float, near: Near) -> float:
        """Raise the load of a zone by what is wanted, or as far as it goes; by how much it was."""
        pushed = 0.0
        while wanted - pushed > self.least:
            path = self._path(zone, near)
            if path is None:
                break
            origin, into, moves = path
            amount = min(wanted - pushed, self._left[origin], *(self.sent[who][here] for who, here, _ in moves))
            self._left[origin] -= amount
            self.sent[origin][into] += amount
            for who, here, there in moves:
                self.sent[who][here] -= amount
                self.sent[who][there] += amount
            pushed += amount
        return pushed

    def _path(self, zone: int, near: Near) -> tuple[int, int, list[_Move]] | None:
        """Requests that are left, where they go, and who moves on from there, until one more is in the zone."""
        onward: dict[int, _Move | None] = {zone: None}
        queue = [zone]
        for there in queue:
            for origin in near[there]:
                if self._left[origin] > self.least:
                    return origin, there, _moves(onward, there)
            for origin in near[there]:
                for here, sent in enumerate(self.sent[origin]):
                    if sent > self.least and here not in onward:
                        onward[here] = (origin, here, there)
                        queue.append(here)
        return None


def _moves(onward: dict[int, _Move | None], zone: int) -> list[_Move]:
    moves = []
    while (move := onward[zone]) is not None:
        moves.append(move)
        zone = move[2]
    return moves


def nearer(sent_per_s: list[list[float]], cost_ms: Sequence[Sequence[float]]) -> list[list[float]]:
    """The same loads of origins and zones with the least time on the way: rings of swaps that shorten it are made.

    A flow without such a ring is the shortest (Klein, Management Science 14, 1967).
    """
    sent = [list(row) for row in sent_per_s]
    least = 1e-12 * max(1.0, sum(map(sum, sent)))
    while ring := _ring(sent, cost_ms, least):
        amount = min(sent[origin][here] for origin, here, _ in ring)
        for origin, here, there in ring:
            sent[origin][here] = sent[origin][here] - amount if sent[origin][here] - amount > least else 0.0
            sent[origin][there] += amount
    return sent


def _ring(sent: Sequence[Sequence[float]], cost_ms: Sequence[Sequence[float]], least: float) -> list[_Move]:
    """Moves (origin, from zone, to zone) that leave all loads as they are and shorten the way; empty: none do."""
    zones = len(cost_ms[0]) if cost_ms else 0
    swaps = [
        (origin, here, there, costs[there] - costs[here])
        for origin, costs in enumerate(cost_ms)
        for here in range(zones)
        if sent[origin][here] > least
        for there in range(zones)
        if there != here and costs[there] < inf
    ]
    # Bellman-Ford from everywhere at once: what still shortens after as many rounds as zones hangs on a ring
    shortest = [0.0] * zones
    came: dict[int, _Move] = {}
    last = -1
    for _ in range(zones + 1):
        last = -1
        for origin, here, there, price in swaps:
            if shortest[here] + price < shortest[there] - 1e-9:
                shortest[there] = shortest[here] + price
                came[there] = (origin, here, there)
                last = there
        if last < 0:
            return []
    for _ in range(zones):
        last = came[last][1]
    ring = [came[last]]
    while ring[-1][1] != last:
        ring.append(came[ring[-1][1]])
    return ring
