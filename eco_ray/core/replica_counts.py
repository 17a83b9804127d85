"""How many replicas a deployment needs: as few as keep its latency objective, up quickly, down after a hold.

    replicas = ongoing requests, smoothed / requests that one may hold (`deployments.ongoing_target`)
    at most    requests/s * replica-seconds of each / 0.85 + what it takes to work off the queue, where that is known

A node that is on draws less for one more request than another that is woken, so that the fewest replicas that keep the
objective emit the fewest grams; where one is added or removed, `replica_places.changed_places` says. A pure function of
what is seen and a state: live, dry run and simulator call the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from eco_ray.core.cluster import Resources
from eco_ray.core.deployments import ongoing_target
from eco_ray.core.replica_places import Room
from eco_ray.core.units import MJ_PER_J, grams

#: added at once, where there are few; else as many as there are
_FEW = 4
#: with fewer requests than this at each replica they hardly wait for one another, and another replica does not help
_ALONE = 0.25
#: of its time, so much a replica may be busy where one is removed: above it a little more means a long queue
_BUSY = 0.85
#: of requests, so many may be slower than a 95th percentile
_SLOWER = 0.05


@dataclass(frozen=True, slots=True)
class ColdStart:
    """What it takes to start a replica where there is none, and what one takes that waits."""

    start_s: float
    #: of starting it, and of waking its node
    start_j: float
    #: that are saved while it is not there, with its node's where that sleeps then
    idle_w: float
    #: of its zone; None: unknown
    intensity_g_per_kwh: float | None
    pue: float = 1.0

    @property
    def pays_after_s(self) -> float:
        """From when on waiting has taken more than a start.

        Who drops a replica then never emits more than twice what would have been least, whenever the next request comes
        (Karlin et al., Algorithmica 3, 1988: snoopy caching, known as renting skis).
        """
        after_s = self.start_j / self.idle_w if self.idle_w > 0 else math.inf
        return after_s if after_s >= 0 else math.inf  # what cannot be true is no reason to drop it

    @property
    def start_g(self) -> float | None:
        """Of one start."""
        return self._grams(self.start_j)

    @property
    def idle_g_per_h(self) -> float | None:
        """Of an hour of waiting."""
        return self._grams(self.idle_w * 3600)

    def _grams(self, energy_j: float) -> float | None:
        if self.intensity_g_per_kwh is None:
            return None
        return grams(energy_j * MJ_PER_J, self.intensity_g_per_kwh, self.pue)


def cold_start(
    room: Room, demand: Resources, start_s: float, *, start_j: float | None = None, idle_w: float = 0.0
) -> ColdStart:
    """Of a replica on a node, which holds what is held there without it.

    `start_j`: measured; None: at the power of a busy replica. `idle_w`: what the process itself adds while it waits.
    """
    node = room.node
    alone = node.sleeps and room.held == Resources()
    if start_j is None:
        start_j = node.added_power_w(demand, room.held) * start_s
    return ColdStart(
        start_s,
        start_j + (node.wake_j if alone else 0.0),
        idle_w + (node.idle_w if alone else 0.0),
        room.intensity_g_per_kwh,
        node.pue,
    )


@dataclass(frozen=True, slots=True)
class Scaling:
    """What somebody asked for, and how steady it is."""

    min_replicas: int
    max_replicas: int
    #: promised 95th percentile of the latency [s]; None: nothing was promised
    slo_p95_s: float | None = None
    #: of the last replica; None: it stays
    cold: ColdStart | None = None
    #: how fast a rise, and a fall, of ongoing requests is believed: two thirds of it after so long
    rise_s: float = 2.0
    fall_s: float = 10.0
    #: a queue that has grown while too few were there is worked off in so long
    work_off_s: float = 2.0
    #: between two rises of the number
    up_gap_s: float = 5.0
    #: fewer were enough for so long before some are removed
    down_hold_s: float = 60.0
    #: of what a replica may hold, so much is used of those that stay
    spare: float = 0.8
    #: after a change the measured latency is believed again
    settle_s: float = 30.0


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """What is seen of a deployment."""

    now_s: float
    #: requests that replicas work at or hold, and those that wait for one
    ongoing: float
    #: that came so far; a counter
    requests: int
    #: that were asked for last
    replicas: int
    #: that answer
    running: int
    #: what one request takes alone, or a high quantile of it where that varies; 0: unknown
    service_s: float
    #: of a replica's time that one request takes now, with others in a batch: busy seconds / requests; None: unknown
    work_s: float | None = None
    #: latency lately; None: unknown, or there were no requests
    p95_s: float | None = None


@dataclass(frozen=True, slots=True)
class ScalingState:
    """What is remembered between two looks."""

    at_s: float
    #: smoothed
    ongoing: float
    requests: int
    #: that come, smoothed
    requests_per_s: float = 0.0
    #: of the number of replicas; minus infinity: never
    risen_s: float = -math.inf
    changed_s: float = -math.inf
    #: since when fewer would do; None: they would not
    enough_since_s: float | None = None
    #: since when there is no request, and a replica that would answer one; None: there is one
    idle_since_s: float | None = None
    #: that answered
    running: int = 0
    #: requests when there was last none, and how many have waited for a start since
    requests_at_none: int = 0
    waited: int = 0


@dataclass(frozen=True, slots=True)
class ReplicaDecision:
    """How many replicas from now, and why."""

    replicas: int
    why: str


def next_replicas(
    load: ReplicaLoad, state: ScalingState | None, scaling: Scaling
) -> tuple[ReplicaDecision, ScalingState]:
    """The decision, and the state to give next time; None: nothing is remembered."""
    seen = _seen(load, state, scaling)
    target = ongoing_target(load.service_s, scaling.slo_p95_s)
    if load.replicas < 1:
        wanted, why = _from_none(load, seen, target, scaling)
    else:
        wanted, why, seen = _from_some(load, seen, target, scaling)
    bounded = min(max(wanted, scaling.min_replicas), scaling.max_replicas)
    if bounded != wanted:
        why += f"; {scaling.min_replicas} at least, {scaling.max_replicas} at most"
    if bounded > load.replicas:
        seen = replace(seen, risen_s=load.now_s, changed_s=load.now_s, enough_since_s=None)
    elif bounded < load.replicas:
        seen = replace(seen, changed_s=load.now_s, enough_since_s=load.now_s)
        if not bounded:
            seen = replace(seen, requests_at_none=load.requests, waited=0)
    return ReplicaDecision(bounded, why), seen


def _seen(load: ReplicaLoad, state: ScalingState | None, scaling: Scaling) -> ScalingState:
    """The state with what is seen now."""
    if state is None:
        idle = None if load.ongoing > 0 else load.now_s
        return ScalingState(
            load.now_s,
            load.ongoing,
            load.requests,
            idle_since_s=idle,
            running=load.running,
            requests_at_none=load.requests,
        )
    state = _not_ahead(state, load.now_s)
    ongoing = load.ongoing
    if load.replicas:
        over_s = scaling.rise_s if ongoing > state.ongoing else scaling.fall_s
        kept = math.exp(-max(0.0, load.now_s - state.at_s) / over_s)
        ongoing += kept * (state.ongoing - ongoing)
    came, passed_s = max(0, load.requests - state.requests), load.now_s - state.at_s
    per_s = state.requests_per_s
    if passed_s > 0:
        over_s = scaling.rise_s if came / passed_s > per_s else scaling.fall_s
        per_s += (1 - math.exp(-passed_s / over_s)) * (came / passed_s - per_s)
    idle = state.idle_since_s
    if load.ongoing > 0:
        idle = None
    elif came or idle is None or (load.running and not state.running):  # it has just started: that was no idling
        idle = load.now_s
    return replace(
        state,
        at_s=load.now_s,
        ongoing=ongoing,
        requests=load.requests,
        requests_per_s=per_s,
        idle_since_s=idle,
        running=load.running,
        waited=state.waited + (0 if load.running else came),
    )


def _not_ahead(state: ScalingState, now_s: float) -> ScalingState:
    """A clock that was set back by an hour is no reason to add nothing for an hour."""
    since = {name: getattr(state, name) for name in ("risen_s", "changed_s", "enough_since_s", "idle_since_s")}
    return replace(state, **{name: min(at_s, now_s) for name, at_s in since.items() if at_s is not None})


def _from_none(load: ReplicaLoad, seen: ScalingState, target: float, scaling: Scaling) -> tuple[int, str]:
    if load.ongoing <= 0:
        return 0, "no requests: no replica"
    wanted = min(_FEW, _enough(seen.ongoing, target))
    cost = f", {scaling.cold.start_s:.3g} s{_of(scaling.cold.start_g, 'g')}" if scaling.cold else ""
    return wanted, f"{load.ongoing:.3g} requests wait: {_count(wanted)} started{cost}"


def _from_some(load: ReplicaLoad, seen: ScalingState, target: float, scaling: Scaling) -> tuple[int, str, ScalingState]:
    now_s, here = load.now_s, load.replicas
    why = f"{seen.ongoing:.3g} requests at a time, {target:.3g} of them for each replica"
    wanted, slow = _enough(seen.ongoing, target), _is_slow(load, seen, scaling)
    if load.work_s:  # a long queue is no reason for more than it takes to work it off
        busy = seen.requests_per_s * load.work_s / _BUSY + seen.ongoing * load.work_s / scaling.work_off_s
        if (few := max(1, math.ceil(busy - 1e-9))) < wanted:
            wanted = few
            why = f"{seen.requests_per_s:.3g} requests/s of {load.work_s * 1000:.3g} ms, {seen.ongoing:.3g} at a time"
    if slow and wanted <= here and seen.ongoing > _ALONE * here:
        wanted, why = here + 1, slow
    if wanted > here:
        seen = replace(seen, enough_since_s=None)
        left_s = seen.risen_s + scaling.up_gap_s - now_s
        if left_s > 0:
            return here, f"{why}: {_count(wanted)}, but none more for {left_s:.2g} s", seen
        most = max(_FEW, 2 * here)
        limited = f", at most {most} at once" if wanted > most else ""
        return min(wanted, most), f"{why}: {_count(wanted)}{limited}", seen
    return _perhaps_fewer(load, seen, target, scaling, why)


def _perhaps_fewer(
    load: ReplicaLoad, seen: ScalingState, target: float, scaling: Scaling, why: str
) -> tuple[int, str, ScalingState]:
    now_s, here = load.now_s, load.replicas
    busy = math.ceil(seen.requests_per_s * (load.work_s or 0.0) / _BUSY - 1e-9)
    fewer = max(_enough(seen.ongoing, target * scaling.spare), busy, here // 2, scaling.min_replicas, 1)
    if here == 1:
        return _perhaps_none(load, seen, why, scaling)
    if fewer >= here:
        return here, f"{why}: {_count(here)}", replace(seen, enough_since_s=None)
    since_s = now_s if seen.enough_since_s is None else seen.enough_since_s
    seen = replace(seen, enough_since_s=since_s)
    left_s = max(since_s, seen.changed_s) + scaling.down_hold_s - now_s
    if left_s > 0:
        return here, f"{why}: {fewer} would do, {_count(here)} for {left_s:.2g} s yet", seen
    quick = next((count for count in range(fewer, here) if _is_quick(load, seen, scaling, count)), here)
    if quick == here:
        then_ms = _p95_with(load, here - 1) * 1000
        return here, f"{why}: with {here - 1} the p95 would be about {then_ms:.3g} ms: {_count(here)}", seen
    return quick, f"{why}: {_count(quick)}", seen


def _perhaps_none(load: ReplicaLoad, seen: ScalingState, why: str, scaling: Scaling) -> tuple[int, str, ScalingState]:
    """Whether the last replica goes."""
    cold = scaling.cold
    if scaling.min_replicas > 0 or cold is None or seen.idle_since_s is None:
        return 1, f"{why}: 1 replica", seen
    idle_s = load.now_s - seen.idle_since_s
    after_s = max(cold.pays_after_s, scaling.down_hold_s)
    start, idle = _of(cold.start_g, "g"), _of(cold.idle_g_per_h, "g/h")
    price = f"a cold start takes {cold.start_s:.3g} s, {cold.start_j:.3g} J{start}; waiting {cold.idle_w:.3g} W{idle}"
    if idle_s < after_s:
        when = f"none after {after_s:.3g} s without requests" if after_s < math.inf else "never none"
        return 1, f"no requests for {idle_s:.3g} s: 1 replica, {when} ({price})", seen
    came = seen.requests - seen.requests_at_none
    if scaling.slo_p95_s is not None and cold.start_s > scaling.slo_p95_s and seen.waited > _SLOWER * came + 1e-9:
        return 1, f"{seen.waited} of the {came} requests since the last start waited for it: 1 replica", seen
    return 0, f"no requests for {idle_s:.3g} s, as long as {after_s:.3g} s: none ({price})", seen


def _is_slow(load: ReplicaLoad, seen: ScalingState, scaling: Scaling) -> str:
    """Why there have to be more, although there are enough by the count; empty: there need not."""
    slo_s = scaling.slo_p95_s
    settled = load.running >= load.replicas and load.now_s >= seen.changed_s + scaling.settle_s
    if slo_s is None or load.p95_s is None or load.p95_s <= slo_s or not settled:
        return ""
    return f"the p95 of {load.p95_s * 1000:.3g} ms is above {slo_s * 1000:.3g} ms"


def _is_quick(load: ReplicaLoad, seen: ScalingState, scaling: Scaling, replicas: int) -> bool:
    """Whether fewer replicas keep the promise, or break it no more than these do."""
    slo_s = scaling.slo_p95_s
    return slo_s is None or seen.ongoing <= _ALONE * replicas or _p95_with(load, replicas) <= slo_s


def _p95_with(load: ReplicaLoad, replicas: int) -> float:
    """Of fewer replicas [s]: what is not the request's own time is waiting, for as many fewer."""
    if load.p95_s is None:
        return 0.0
    own_s = min(load.p95_s, load.service_s)
    return own_s + (load.p95_s - own_s) * load.replicas / replicas


def _enough(ongoing: float, target: float) -> int:
    return max(1, math.ceil(ongoing / target - 1e-9))


def _count(replicas: int) -> str:
    return f"{replicas} replica{'s' * (replicas != 1)}"


def _of(amount: float | None, unit: str) -> str:
    return "" if amount is None else f", {amount:.2g} {unit}"
