"""Splits the requests of models that are served per zone: what routers tell goes in, shares come out.

Shares and what they rest on are in the store, so that a deployer that starts again changes nothing, and a router finds
the last ones. Decided is in `core/zone_traffic.py`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from eco_ray.core.arrivals import Arrivals
from eco_ray.core.clock import Clock
from eco_ray.core.cluster import UNKNOWN_ZONE
from eco_ray.core.decision_log import TrafficRecord
from eco_ray.core.deployments import Deployment
from eco_ray.core.replica_places import Room, without
from eco_ray.core.serving import TrafficConfig, TrafficState
from eco_ray.core.store_port import Store
from eco_ray.core.zone_routes import Routes
from eco_ray.core.zone_traffic import ModelNow, ZoneNow, ZonePlan, plan_zones
from eco_ray.errors import EcoRayError
from eco_ray.on_ray.serve_config import app_name
from eco_ray.on_ray.serving.decision_file import NOT_KEPT, DecisionFile

log = logging.getLogger("eco_ray.serving")

#: what is decided, by model
KEY = "zone_traffic"
#: how often shares are looked at [grid s], and at most [wall s]
_PERIOD_S, _LEAST_PERIOD_S = 10.0, 1.0
#: what a router said of zones that are away holds so long [wall s]
_SAID_S = 5.0


class View(Protocol):
    """What is seen of the cluster."""

    def rooms(self) -> Sequence[Room]:
        """What each node has, holds and emits now. Raises EcoRayError."""
        ...

    def replicas(self) -> Mapping[str, int]:
        """Of each Serve application, how many run."""
        ...

    def wake(self, deployment: Deployment) -> None:
        """Have a replica started where there is none; returns when one is there, or after a while. Raises nothing."""
        ...


class Books(Protocol):
    """What replicas have told."""

    def nodes(self, one: Deployment) -> Mapping[str, int]:
        """Where those of a part are; as planned where that is not as many as run."""
        ...

    def work_s(self, one: Deployment) -> float | None:
        """Of a replica's time that a request takes, as measured [s]; None: it was not."""
        ...


class TrafficPlanner:
    """Threads may share it."""

    def __init__(
        self,
        store: Store,
        view: View,
        models: Callable[[], Sequence[tuple[Deployment, float]]],
        config: TrafficConfig = TrafficConfig(),  # noqa: B008  # frozen
        wall_s: Callable[[], float] = time.time,
        books: Books | None = None,
        decisions: DecisionFile = NOT_KEPT,
    ) -> None:
        """`models()`: those that are served per zone, and how long computing one request takes [s].

        `books`: None: nobody keeps any.
        """
        self._store, self._view, self._models, self._config, self._wall_s = store, view, models, config, wall_s
        self._decisions = decisions
        self._books, self._lock = books, threading.Lock()
        self._arrivals: dict[str, Arrivals] = {}
        #: by model and router: zones that gave no answer, and when it said so [wall s]
        self._away: dict[str, dict[str, tuple[float, frozenset[str]]]] = {}
        self._told: dict[str, dict[str, Any]] = dict(store.get_meta(KEY) or {})
        self._soon = threading.Event()
        #: applications that are asked to wake, and those of which somebody waits for that
        self._wakes: set[str] = set()
        self._waking: set[str] = set()

    def heard(self, model: str, router: str, counts: Mapping[str, int], away: Sequence[str]) -> dict[str, Any] | None:
        """Take what a router tells; the routes that hold (`Routes.to_json`), None: not decided yet.

        `counts`: requests since it began, by origin. `away`: zones that gave no answer.
        """
        now_s = self._wall_s()
        with self._lock:
            self._arrivals.setdefault(model, Arrivals()).note(router, counts, now_s)
            said = {who: one for who, one in self._away.get(model, {}).items() if now_s - one[0] < _SAID_S}
            before = _all_of(said)
            self._away[model] = {**said, router: (now_s, frozenset(away))}
            if model not in self._told or _all_of(self._away[model]) - before:
                self._soon.set()  # a zone is away that was not: its share is needed elsewhere
            return self._told[model]["routes"] if model in self._told else None

    def told(self, model: str) -> Mapping[str, Any] | None:
        """What was decided last, for people."""
        return self._told.get(model)

    def plan_once(self) -> None:
        """Decide the shares of all models. Raises EcoRayError where store or controller are away."""
        models = self._models()
        if not models and not self._told:
            return
        rooms, replicas = (self._view.rooms(), self._view.replicas()) if models else ((), {})
        ways = self._store.get_meta("rtt_ms") or {}
        told: dict[str, dict[str, Any]] = {}
        wakes: set[str] = set()
        for one, request_s in models:
            kept = self._told.get(one.model)
            before = Routes.from_json(kept["routes"]) if kept else None
            now = self._seen(one, request_s, rooms, replicas, before)
            held = _state(kept)
            try:
                plan, state = plan_zones(now, ways, before, held, self._config)
            except EcoRayError as error:  # the others have theirs
                log.warning("requests of %s stay where they go: %s", one.model, error)
                told |= {one.model: kept} if kept else {}
                continue
            told[one.model] = _as_told(now, plan, state)
            for part in one.in_zones():
                if part.zone in plan.wakes:
                    wakes.add(app_name(part))
                    self._wake(part)
            self._decisions.note(
                TrafficRecord(one.model, now, ways, before, held, self._config, plan), plan.routes.shares
            )
            if before is None or before.shares != plan.routes.shares:
                log.info("requests of %s go to %s: %s", one.model, _words(plan), plan.why)
        if told != self._told:
            self._store.put_meta(KEY, told)
        with self._lock:
            self._told, self._wakes = told, wakes
            self._arrivals = {model: one for model, one in self._arrivals.items() if model in told}
            self._away = {model: one for model, one in self._away.items() if model in told}

    def follow(self, stopped: threading.Event) -> None:
        """Decide again and again, until `stopped`."""
        period_s = _LEAST_PERIOD_S
        while not stopped.wait(_LEAST_PERIOD_S):
            self._soon.wait(period_s - _LEAST_PERIOD_S)
            self._soon.clear()
            try:
                self.plan_once()
                # a zone that wakes gets its share as soon as it is up
                period_s = _LEAST_PERIOD_S if self._wakes else max(_LEAST_PERIOD_S, _PERIOD_S / self._clock().speed)
            except Exception:  # whatever it was, the last shares hold, and the next look may go well
                log.exception("requests could not be split between zones")

    def _wake(self, part: Deployment) -> None:
        """Ask for a replica, in the background, where nobody does so already."""
        app = app_name(part)

        def ask() -> None:
            try:
                self._view.wake(part)
            finally:
                self._waking.discard(app)

        if app not in self._waking:
            self._waking.add(app)
            threading.Thread(target=ask, name=f"wake {app}", daemon=True).start()

    def _clock(self) -> Clock:
        return Clock(**(self._store.get_meta("clock") or {}))

    def _seen(
        self,
        one: Deployment,
        request_s: float,
        rooms: Sequence[Room],
        replicas: Mapping[str, int],
        before: Routes | None,
    ) -> ModelNow:
        """A model as it is now."""
        now_s, home = self._wall_s(), str((self._store.get_meta("cluster") or {}).get("home_zone", ""))
        zones = [part.zone for part in one.parts]
        with self._lock:
            per_s = self._arrivals.setdefault(one.model, Arrivals()).per_s(now_s)
            said = self._away.get(one.model, {})
            away = _all_of({who: heard for who, heard in said.items() if now_s - heard[0] < _SAID_S})
        known = {
            *zones,
            *(room.node.zone for room in rooms),
            *([home] if home else []),
            *(before.origins if before else ()),
        }
        return ModelNow(
            self._clock().grid_s(now_s),
            home or zones[0],
            {origin: per_s.get(origin, 0.0) for origin in known - {UNKNOWN_ZONE, ""}},
            tuple(
                ZoneNow(
                    part.zone,
                    self._own_rooms(part, rooms, count),
                    part.zone in away,
                    runs=count > 0 or one.min_replicas > 0,  # one that may not sleep is away, if anything
                    work_s=self._books.work_s(part) if self._books else None,
                )
                for part in one.in_zones()
                for count in (replicas.get(app_name(part), 0),)
            ),
            one.demand,
            one.max_replicas,
            request_s,
            one.slo_p95_s,
        )

    def _own_rooms(self, part: Deployment, rooms: Sequence[Room], replicas: int) -> tuple[Room, ...]:
        """The nodes of a zone that are there or asleep, without what the replicas of the model hold."""
        there: Mapping[str, int] = self._books.nodes(part) if self._books else {}
        if sum(there.values()) != replicas:  # by the plan, the first ones
            there = Counter(
                part.places[number % len(part.places)].node for number in range(replicas * bool(part.places))
            )
        own = [room for room in rooms if room.node.name in part.nodes]
        return tuple(without(room, part.demand * there.get(room.node.name, 0)) for room in own)


def zone_rows(one: Deployment, told: Mapping[str, Any] | None, states: Mapping[str, str]) -> list[dict[str, Any]]:
    """Of a model, each zone: its nodes, its state in Ray Serve (`states`), and its requests as decided last."""
    decided = told["zones"] if told else {}
    return [
        {
            "zone": part.zone,
            "nodes": list(part.nodes),
            "places": [{"node": place.node, "devices": place.devices} for place in part.places],
            "state": states[part.zone],
            **(decided.get(part.zone) or _UNDECIDED),
        }
        for part in one.parts
    ]


def traffic_row(told: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """How requests are split, and why; None: nothing is decided yet."""
    if told is None:
        return None
    routes = Routes.from_json(told["routes"])
    return {
        "home": routes.home,
        "origins": [
            {
                "origin": origin,
                "requests_per_s": told["requests_per_s"][origin],
                "shares": dict(zip(routes.zones, row, strict=True)),
                "rtt_ms": dict(zip(routes.zones, ways, strict=True)),
            }
            for origin, row, ways in zip(routes.origins, routes.shares, routes.ways_ms, strict=True)
        ],
        "why": told["why"],
        "grams_per_h": told["grams_per_h"],
        "home_grams_per_h": told["home_grams_per_h"],
    }


_UNDECIDED = dict.fromkeys(
    ("share", "requests_per_s", "capacity_per_s", "capacity_nature", "intensity_g_per_kwh", "away")
)


def _as_told(now: ModelNow, plan: ZonePlan, state: TrafficState | None) -> dict[str, Any]:
    total = sum(plan.load_per_s)
    zones = zip(now.zones, plan.load_per_s, plan.capacity_per_s, strict=True)
    return {
        "routes": plan.routes.to_json(),
        "state": state and {"shares": state.shares, "since_s": state.since_s, "names": state.names},
        "requests_per_s": dict(now.requests_per_s),
        "zones": {
            zone.name: {
                "share": load / total if total else None,
                "requests_per_s": load,
                "capacity_per_s": capacity,
                "capacity_nature": str(zone.nature),
                "intensity_g_per_kwh": next((room.intensity_g_per_kwh for room in zone.rooms), None),
                "away": zone.away,
            }
            for zone, load, capacity in zones
        },
        "why": plan.why,
        "grams_per_h": plan.grams_per_h,
        "home_grams_per_h": plan.home_grams_per_h,
    }


def _state(kept: Mapping[str, Any] | None) -> TrafficState | None:
    if kept is None or kept["state"] is None:
        return None
    told = kept["state"]
    return TrafficState(tuple(map(tuple, told["shares"])), told["since_s"], tuple(told["names"]))


def _all_of(said: Mapping[str, tuple[float, frozenset[str]]]) -> frozenset[str]:
    return frozenset().union(*(zones for _, zones in said.values()))


def _words(plan: ZonePlan) -> str:
    rows = zip(plan.routes.origins, plan.routes.shares, strict=True)
    return "; ".join(
        f"{origin}: "
        + ", ".join(f"{zone} {share:.0%}" for zone, share in zip(plan.routes.zones, row, strict=True) if share)
        for origin, row in rows
    )
