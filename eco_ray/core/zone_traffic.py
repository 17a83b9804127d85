"""The requests of one model between the zones that serve it: from what is seen now to what routers are told.

`core/serving.py` decides; here is what it is asked, and what is done where something is not known:

- a zone of unknown intensity counts as dirtier than any (`UNKNOWN_G_PER_KWH`): it is filled last, and its grams are not
  told. Of no zone known: the shares stay, or each request goes to the nearest zone
- a way that nobody has told counts as longer than any promise leaves (`UNKNOWN_WAY_MS`): another zone answers only
  where nothing was promised, or where no zone within the promise has room
- a zone that does not answer, or has no node any more, has no capacity. One whose nodes are asleep has some, with what
  waking them takes
- a zone without a replica gets no share before one is up, if it has none yet: it is woken, and meanwhile those that are
  up answer, if they can. Where none is up, requests go where they are to go, and wait
- more requests than all zones can answer: the shares stay
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from eco_ray.core.cluster import Resources
from eco_ray.core.replica_places import Room
from eco_ray.core.serving import (
    Shares,
    Traffic,
    TrafficConfig,
    TrafficState,
    next_traffic,
    plan_traffic,
)
from eco_ray.core.units import Nature
from eco_ray.core.zone_power import Curve, zone_curve
from eco_ray.core.zone_routes import UNKNOWN_WAY_MS, Routes
from eco_ray.errors import InfeasibleError

#: what an unknown intensity counts as [g/kWh]: lignite emits some 1,100
UNKNOWN_G_PER_KWH = 2_000.0
#: so few requests count where there are none, so that the first ones find shares [requests/s]
_LEAST_PER_S = 1e-3
#: with fewer requests none is woken beforehand: it might be idle again before the next one [requests/s]
_WAKING_PER_S = 1 / 60
#: of its time a replica is busy at most, so that requests need not wait
_BUSY = 0.85
#: of each request beside its computation: HTTP, JSON [s]
_BESIDE_S = 1e-3

_NO_ROOM = Curve((0.0,), (0.0,))

#: from zone to zone and back [ms]
Ways = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class ZoneNow:
    """One zone that serves a model."""

    name: str
    #: its nodes that are there, without what the replicas of the model hold
    rooms: tuple[Room, ...]
    #: routers get no answer of it
    away: bool = False
    #: a replica is up, or is to be always; else it sleeps until somebody asks it
    runs: bool = True
    #: of a replica's time that a request takes there, with others in a batch, as measured [s]; None: not measured
    work_s: float | None = None

    @property
    def nature(self) -> Nature:
        """Of how many requests it can answer."""
        return Nature.ASSUMED if self.work_s is None else Nature.MEASURED


@dataclass(frozen=True, slots=True)
class ModelNow:
    """A model in its zones."""

    #: grid time [s since epoch]
    now_s: float
    #: zone of requests that do not say theirs
    home: str
    #: from which they come, and how many
    requests_per_s: Mapping[str, float]
    zones: tuple[ZoneNow, ...]
    #: of each replica
    demand: Resources
    #: replicas in each zone, at most
    most: int
    #: computing a request takes a replica so long alone [s]
    request_s: float
    #: promised 95th percentile of the latency [s]; None: nothing was promised
    slo_p95_s: float | None = None


@dataclass(frozen=True, slots=True)
class ZonePlan:
    """What routers are told, and why."""

    routes: Routes
    why: str
    #: of each zone [requests/s]
    load_per_s: tuple[float, ...]
    capacity_per_s: tuple[float, ...]
    #: with these shares, above what is emitted without these requests; None: the intensity of a zone is not known
    grams_per_h: float | None
    #: if each request was answered in the zone that it comes from, or else in the nearest; None: not known, or no room
    home_grams_per_h: float | None
    #: zones that are to have a replica, and get a share as soon as it is up
    wakes: tuple[str, ...] = ()


def plan_zones(
    now: ModelNow, ways: Ways, before: Routes | None, state: TrafficState | None, config: TrafficConfig
) -> tuple[ZonePlan, TrafficState | None]:
    """The plan that holds from now, and the state to give next time; `before`: the routes that hold."""
    origins = tuple(sorted(now.requests_per_s))
    names = tuple(zone.name for zone in now.zones)
    told = tuple(tuple(_way(ways, origin, name) for name in names) for origin in origins)
    able = [zone for zone in now.zones if zone.rooms and not zone.away]
    unknown = {zone.name for zone in able if _is_unknown(zone)}
    traffic = Traffic(
        now.now_s,
        tuple(max(now.requests_per_s[origin], _LEAST_PER_S) for origin in origins),
        tuple(_curve(now, zone) for zone in now.zones),
        tuple(tuple(UNKNOWN_WAY_MS if way is None else way for way in row) for row in told),
        math.inf if now.slo_p95_s is None else max(0.0, (now.slo_p95_s - now.request_s) * 1000),
        names,
    )
    stay = before.shares if before and (before.origins, before.zones) == (origins, names) else None
    if state is not None and stay is None:
        state = None  # of other origins or zones
    all_unknown = len(unknown) == len(able)
    found = _shares(traffic, stay, state, config, all_unknown=all_unknown)
    asleep = _not_up(now, traffic, stay)
    late = tuple(name for name, load in zip(names, _loads(traffic, found[0]), strict=True) if load and name in asleep)
    if late:
        meanwhile = _without(traffic, asleep)
        if stay is not None and _fits(meanwhile, stay):
            found = stay, state, "kept"
        else:  # no state: these shares are not held, as others are to follow
            found = _shares(meanwhile, stay, state, config, all_unknown=all_unknown)[0], None, "for a while"
    shares, state, why = found
    wakes = late if sum(now.requests_per_s.values()) >= _WAKING_PER_S else ()
    if late:
        why += f"; {', '.join(late)} would get some, and {'is woken' if wakes else 'is left asleep for so few'}"
    if unknown:
        why += f"; the intensity of {', '.join(sorted(unknown))} is unknown: it counts as {UNKNOWN_G_PER_KWH:g} g/kWh"
    if now.slo_p95_s is not None and (far := _untold(origins, names, told)):
        why += f"; {far}: rtt_ms of the cluster file tells no way"
    traffic = replace(traffic, requests_per_s=tuple(now.requests_per_s[origin] for origin in origins))
    loads = _loads(traffic, shares)
    homes = _loads(traffic, tuple(_at_home(origin, names, row) for origin, row in zip(origins, told, strict=True)))
    plan = ZonePlan(
        Routes(now.home, origins, names, shares, told, tuple(zone.name for zone in now.zones if not zone.runs)),
        why,
        loads,
        tuple(curve.capacity_per_s for curve in traffic.curves),
        _grams(traffic, loads, unknown),
        _grams(traffic, homes, unknown),
        wakes,
    )
    return plan, state


def _shares(
    traffic: Traffic, stay: Shares | None, state: TrafficState | None, config: TrafficConfig, *, all_unknown: bool
) -> tuple[Shares, TrafficState | None, str]:
    """The shares, the state to keep, and why."""
    try:
        if not all_unknown:
            plan, held, why = next_traffic(traffic, state, config)
            return plan.shares, held, why
        if stay is not None and _fits(traffic, stay):
            return stay, state, "kept: where it is clean now is not known"
        near = tuple(Curve(curve.requests_per_s, (0.0,) * len(curve.grams_per_h)) for curve in traffic.curves)
        return plan_traffic(replace(traffic, curves=near)).shares, None, "to the nearest"
    except InfeasibleError as error:
        if stay is not None:
            return stay, state, f"kept: {error}"
        return (_by_capacity(traffic.curves),) * len(traffic.requests_per_s), None, f"by capacity: {error}"


def _not_up(now: ModelNow, traffic: Traffic, stay: Shares | None) -> tuple[str, ...]:
    """Zones without a replica and without a share until now, where those that are up can answer all."""
    had = _loads(traffic, stay) if stay is not None else (0.0,) * len(now.zones)
    asleep = tuple(zone.name for zone, load in zip(now.zones, had, strict=True) if not (zone.runs or load))
    up = (curve.capacity_per_s for zone, curve in zip(now.zones, traffic.curves, strict=True) if zone.runs)
    return asleep if sum(traffic.requests_per_s) <= sum(up) else ()


def _without(traffic: Traffic, zones: Sequence[str]) -> Traffic:
    """As if these had no room."""
    curves = zip(traffic.names, traffic.curves, strict=True)
    return replace(traffic, curves=tuple(_NO_ROOM if name in zones else curve for name, curve in curves))


def _curve(now: ModelNow, zone: ZoneNow) -> Curve:
    if zone.away or not zone.rooms:
        return _NO_ROOM
    rooms = [
        replace(room, intensity_g_per_kwh=UNKNOWN_G_PER_KWH) if room.intensity_g_per_kwh is None else room
        for room in zone.rooms
    ]
    return zone_curve(rooms, now.demand, now.most, _BUSY / _work_s(now, zone))


def _work_s(now: ModelNow, zone: ZoneNow) -> float:
    """Of a replica's time that a request takes in a zone [s].

    Where it was not measured, as in the others, so that no zone looks better only because it was; else what it takes
    alone, and what HTTP takes beside it.
    """
    known = [one.work_s for one in now.zones if one.work_s is not None]
    if zone.work_s is not None:
        return zone.work_s
    return sum(known) / len(known) if known else now.request_s + _BESIDE_S


def _is_unknown(zone: ZoneNow) -> bool:
    """Whether nobody knows what its nodes emit; one without nodes emits nothing."""
    return any(room.intensity_g_per_kwh is None for room in zone.rooms)


def _way(ways: Ways, origin: str, zone: str) -> float | None:
    there = ways.get(origin, {}).get(zone)
    return 0.0 if there is None and origin == zone else there


def _untold(origins: Sequence[str], zones: Sequence[str], told: Sequence[Sequence[float | None]]) -> str:
    """Zones between which nobody has told a way, in words; empty: there are none."""
    pairs = [
        f"{origin} to {', '.join(missing)}"
        for origin, row in zip(origins, told, strict=True)
        if (missing := [zone for zone, way in zip(zones, row, strict=True) if way is None])
    ]
    return "; ".join(pairs)


def _loads(traffic: Traffic, shares: Shares) -> tuple[float, ...]:
    parts = [[asked * part for part in row] for asked, row in zip(traffic.requests_per_s, shares, strict=True)]
    return tuple(sum(row[zone] for row in parts) for zone in range(len(traffic.curves)))


def _fits(traffic: Traffic, shares: Shares) -> bool:
    loads = _loads(traffic, shares)
    return all(load <= curve.capacity_per_s * (1 + 1e-9) for load, curve in zip(loads, traffic.curves, strict=True))


def _grams(traffic: Traffic, loads: Sequence[float], unknown: set[str]) -> float | None:
    """Of all zones; None: of one that answers something it is not known, or it has no room for that."""
    total = 0.0
    for name, load, curve in zip(traffic.names, loads, traffic.curves, strict=True):
        if load > 0 and (name in unknown or load > curve.capacity_per_s * (1 + 1e-9)):
            return None
        total += curve.grams(load)
    return total


def _at_home(origin: str, zones: Sequence[str], ways: Sequence[float | None]) -> tuple[float, ...]:
    """The shares of an origin whose requests stay where they come from, or as near as there is a zone."""
    if origin in zones:
        nearest = zones.index(origin)
    else:
        nearest = min(range(len(zones)), key=lambda zone: (math.inf if ways[zone] is None else ways[zone], zone))
    return tuple(float(zone == nearest) for zone in range(len(zones)))


def _by_capacity(curves: Sequence[Curve]) -> tuple[float, ...]:
    total = sum(curve.capacity_per_s for curve in curves)
    return tuple(curve.capacity_per_s / total if total else 1 / len(curves) for curve in curves)
