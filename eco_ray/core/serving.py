"""Which zone answers which requests: the fewest grams that capacity, round-trip time and the latency objective allow.

CASPER (Souza et al., IGSC 2023) asks a MILP with counts of servers; here the nodes' own power counts, and the plan is
as good without one (docs/green-serving.md). Everything is an argument: live, dry run and simulator call the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eco_ray.core.separable import Near, least_loads, nearer
from eco_ray.core.zone_power import Curve, straight
from eco_ray.errors import InfeasibleError, UsageError

#: a request beyond the latency objective counts like so much more time on its way [ms]
_LATE_MS = 1e9

Shares = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What requests and zones are like now."""

    now_s: float
    #: of each origin
    requests_per_s: tuple[float, ...]
    #: of each zone
    curves: tuple[Curve, ...]
    #: from each origin to each zone and back [origins][zones]; infinite: there is no way
    rtt_ms: tuple[tuple[float, ...], ...]
    #: what the latency objective leaves for the way
    max_rtt_ms: float
    #: of zones, for people; empty: they are numbered
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrafficPlan:
    """Which part of each origin's requests each zone answers."""

    #: [origins][zones]; each row sums to 1
    shares: Shares
    #: of each zone
    load_per_s: tuple[float, ...]
    #: of all zones, above what their nodes emit without these requests
    grams_per_h: float
    #: no plan emits less; None: where some are late there is no such bound
    bound_g_per_h: float | None
    #: beyond the objective, because no zone within it has room
    late_per_s: float
    mean_rtt_ms: float


def split_traffic(
    requests: ArrayLike, intensity: ArrayLike, rtt_ms: ArrayLike, capacity: ArrayLike, max_latency_ms: float
) -> NDArray[np.float64]:
    """The part of each region's requests that each region answers, with the fewest grams: share[origin, zone], [R, R].

    `requests` [R] and `capacity` [R] in the same unit (per second, per hour); `intensity` [R] in g/kWh, where a request
    takes the same energy everywhere; `rtt_ms` [R, R], infinite where there is no way. Each row sums to 1. No region is
    above its capacity. No request goes farther than `max_latency_ms`, except those for which no region within it has
    room: they go where they are answered soonest. Raises InfeasibleError where the requests are more than all capacity,
    UsageError for other shapes, and for values that are negative, not finite, or no numbers.
    """
    asked, g_per_kwh = _checked("requests", requests, 1), _checked("intensity", intensity, 1)
    limits, ways = _checked("capacity", capacity, 1), _checked("rtt_ms", rtt_ms, 2)
    if not len(asked) == len(g_per_kwh) == len(limits) or ways.shape != (len(asked), len(asked)):
        raise UsageError(
            f"requests {asked.shape}, intensity {g_per_kwh.shape}, capacity {limits.shape} and rtt_ms {ways.shape} do "
            "not fit: give R, R, R and R x R values"
        )
    curves = tuple(straight(limit, each) for limit, each in zip(limits.tolist(), g_per_kwh.tolist(), strict=True))
    told = Traffic(0.0, tuple(asked.tolist()), curves, tuple(map(tuple, ways.tolist())), max_latency_ms)
    return np.array(plan_traffic(told).shares, np.float64).reshape(ways.shape)


def plan_traffic(traffic: Traffic) -> TrafficPlan:
    """Shares with the fewest grams, and of those the ones with the shortest way.

    Raises InfeasibleError where the requests do not fit into all zones that they can reach.
    """
    asked, curves = traffic.requests_per_s, traffic.curves
    if math.isnan(traffic.max_rtt_ms):
        raise UsageError("the limit of the round-trip time is not a number: give milliseconds, or infinity for none")
    found = least_loads(asked, curves, *_rings(traffic))
    if found is None:
        capacity = sum(curve.capacity_per_s for curve in curves)
        raise InfeasibleError(
            f"{sum(asked):g} requests do not fit into {capacity:g} that the zones in reach can answer: add replicas, "
            "or refuse some requests"
        )
    cost_ms = [
        [way + (_LATE_MS if math.inf > way > traffic.max_rtt_ms else 0.0) for way in ways] for ways in traffic.rtt_ms
    ]
    sent = nearer(found.sent_per_s, cost_ms)
    shares = tuple(
        tuple(part / sum(row) for part in row) if sum(row) > 0 else _at_nearest(ways, curves)
        for row, ways in zip(sent, traffic.rtt_ms, strict=True)
    )
    return _plan(traffic, shares, found.bound_g_per_h)


@dataclass(frozen=True, slots=True)
class TrafficConfig:
    """How steady shares are."""

    #: shares stay so long, unless they cannot
    hold_s: float = 300.0
    #: they change for a plan that emits so much less [part]
    min_saving: float = 0.02


@dataclass(frozen=True, slots=True)
class TrafficState:
    """The shares that hold."""

    shares: Shares
    since_s: float
    #: of their zones
    names: tuple[str, ...] = ()


def next_traffic(
    traffic: Traffic, state: TrafficState | None, config: TrafficConfig
) -> tuple[TrafficPlan, TrafficState, str]:
    """The plan that holds from now, the state to give next time, and why.

    Shares that hold are left only for grams, and then at most once in `hold_s`, or because with them a zone would be
    over capacity, or more requests late than must be.
    """
    best = plan_traffic(traffic)
    fresh = TrafficState(best.shares, traffic.now_s, traffic.names)
    if state is None or state.names != traffic.names or np.shape(state.shares) != np.shape(best.shares):
        return best, fresh, f"first shares: {best.grams_per_h:.3g} g/h"
    kept = _plan(traffic, state.shares, best.bound_g_per_h)
    rounding = 1e-9 * max(1.0, sum(traffic.requests_per_s))
    for zone, (load, curve) in enumerate(zip(kept.load_per_s, traffic.curves, strict=True)):
        if load > curve.capacity_per_s + rounding:
            name = traffic.names[zone] if traffic.names else f"zone {zone}"
            return best, fresh, f"{name} would get {load:.3g} requests/s and can answer {curve.capacity_per_s:.3g}"
    if kept.late_per_s > best.late_per_s + rounding:
        return best, fresh, f"{kept.late_per_s:.3g} requests/s would be beyond {traffic.max_rtt_ms:g} ms on their way"
    saved_g = kept.grams_per_h - best.grams_per_h
    if saved_g <= config.min_saving * kept.grams_per_h:
        return kept, state, f"kept: other shares save {saved_g:.3g} of {kept.grams_per_h:.3g} g/h"
    left_s = state.since_s + config.hold_s - traffic.now_s
    if left_s > 0:
        return kept, state, f"kept for another {left_s:.0f} s: then other shares save {saved_g:.3g} g/h"
    return best, fresh, f"saves {saved_g:.3g} of {kept.grams_per_h:.3g} g/h"


def _plan(traffic: Traffic, shares: Shares, bound_g_per_h: float | None) -> TrafficPlan:
    """What shares come to."""
    sent = [[asked * part for part in row] for asked, row in zip(traffic.requests_per_s, shares, strict=True)]
    loads = tuple(sum(row[zone] for row in sent) for zone in range(len(traffic.curves)))
    total, late, way_ms = sum(traffic.requests_per_s), 0.0, 0.0
    for row, ways in zip(sent, traffic.rtt_ms, strict=True):
        for part, way in zip(row, ways, strict=True):
            if part > 0:
                way_ms += part * way
                late += part if way > traffic.max_rtt_ms else 0.0
    grams = sum(curve.grams(load) for curve, load in zip(traffic.curves, loads, strict=True))
    return TrafficPlan(shares, loads, grams, bound_g_per_h, late, way_ms / total if total else 0.0)


def _rings(traffic: Traffic) -> tuple[list[Near], list[Near]]:
    """Which origins each zone may answer, from nearby to all within the objective; and ever farther beyond it."""
    ways = sorted({way for row in traffic.rtt_ms for way in row if way < math.inf})
    zones = range(len(traffic.curves))
    near: list[Near] = [
        [[origin for origin, row in enumerate(traffic.rtt_ms) if row[zone] <= limit] for zone in zones]
        for limit in [-1.0, *ways]
    ]
    within = 1 + sum(way <= traffic.max_rtt_ms for way in ways)
    return near[:within], near[within:]


def _at_nearest(ways: Sequence[float], curves: Sequence[Curve]) -> tuple[float, ...]:
    """Of an origin from which nothing comes: if something does after all, it has the shortest way."""
    able = [zone for zone, curve in enumerate(curves) if curve.capacity_per_s > 0] or list(range(len(curves)))
    nearest = min(able, key=lambda zone: ways[zone])
    return tuple(float(zone == nearest) for zone in range(len(curves)))


def _checked(what: str, values: ArrayLike, dimensions: int) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.ndim != dimensions or not (array >= 0).all() or (dimensions == 1 and not np.isfinite(array).all()):
        raise UsageError(
            f"{what} of shape {array.shape} with values {array.ravel()[:8].tolist()}: need {dimensions} dimension(s) "
            f"of values >= 0{', finite ones' if dimensions == 1 else ''}"
        )
    return array
