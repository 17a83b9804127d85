"""What the deployer keeps of scaling: what was decided last and why, what starts took, and a log for the simulator.

STATE_DIR/scaling/APP.jsonl        one `ScalingRecord` a line, the last thousand or two
store, meta `deployments_scaling`  by model, what `eco-ray status` and `model show` tell without asking anybody
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eco_ray.core.deployments import Deployment
from eco_ray.core.replica_facts import ReplicaFacts, Start, cold_to_json, replica_facts
from eco_ray.core.replica_places import Room
from eco_ray.core.scaling_log import ScalingRecord
from eco_ray.core.store_port import Store
from eco_ray.errors import EcoRayError, UnreachableError
from eco_ray.on_ray.serve_config import app_name
from eco_ray.on_ray.serving.exchange import FRESH_S, Last, News, Snapshot
from eco_ray.times import iso_utc

log = logging.getLogger("eco_ray.serving")

SCALING_KEY = "deployments_scaling"
_STARTS_KEY = "deployment_starts"
#: records of an application that are kept; twice as many until they are cut
_RECORDS = 1000
#: what people are shown is written down so often, where nothing has changed [s]
_KEEP_S = 10.0
#: a measurement that differs by less is the same [part]
_DIFFERS = 0.1


class ScalingBooks:
    """Of one cluster. Threads may share it."""

    def __init__(
        self,
        store: Store,
        folder: Path,
        rooms: Callable[[], Sequence[Room]],
        deployments: Callable[[], Sequence[Deployment]],
        now_s: Callable[[], float] = time.time,
        where: Callable[[], Mapping[str, Mapping[str, int]]] = dict,
    ) -> None:
        """`rooms`: what each node has, holds and emits now. `where`: replicas by application and node, by Serve."""
        self._store, self._folder, self._now_s = store, folder, now_s
        self._ask_rooms, self._deployments, self._ask_where = rooms, deployments, where
        #: as Serve told last, and when it was asked [s]
        self._where: Mapping[str, Mapping[str, int]] = {}
        self._where_s = -math.inf
        self._seen: tuple[Room, ...] | None = None
        self._asking = threading.Lock()
        self._last: dict[str, Last] = {}
        #: by application: name:VERSION, and what a request took of a replica's time [s]
        self._work: dict[str, tuple[str, float]] = {}
        #: lines of each log, and the time of its last record [s]
        self._lines: dict[str, int] = {}
        self._logged_s: dict[str, float] = {}
        self._starts: dict[str, Start] | None = None
        self._kept: tuple[float, Any] = 0.0, None
        self._lock = threading.Lock()
        #: when policies were told last [s]
        self._exchanged_s = -math.inf

    def exchange(self, news: News) -> Snapshot:
        """Take what policies decided, and give what they have to know."""
        with self._lock:
            self._last |= {last.app: last for last in news.last}
            self._note_work(news.last)
            self._note_starts(news.last)
        try:
            self._write(news.records)
        except (OSError, ValueError) as error:  # a full disk, or what JSON does not know: scaling does not depend on it
            log.warning("decisions are not written down: %s", error)
        rooms, own = self._rooms(), self._own()
        self._look(own)
        facts = {app: found for app, one in own.items() if (found := self._facts(app, one, rooms))}
        self._exchanged_s = self._now_s()
        return Snapshot(rooms, facts)

    @property
    def is_asked(self) -> bool:
        """Whether policies have a snapshot, so that Serve starts replicas by grams (`placing`)."""
        return self._now_s() - self._exchanged_s < FRESH_S

    def replicas(self, one: Deployment) -> int:
        """As many as it was given last; 0: nobody knows."""
        last = self._last.get(app_name(one))
        return last.decision.replicas if last else 0

    def work_s(self, one: Deployment) -> float | None:
        """Of a replica's time that a request takes, as last measured [s]; None: it was not."""
        reference, took_s = self._work.get(app_name(one), ("", None))
        return took_s if reference == one.reference(one.version) else None

    def rows(self) -> dict[str, dict[str, Any]]:
        """By model: how many replicas, where, why, and what other numbers would emit."""
        own = self._own()
        rooms = self._rooms() if own else ()
        self._look(own)
        with self._lock:  # who is deployed again begins anew
            self._last = {app: last for app, last in self._last.items() if app in own}
        found = {app: self._row(app, one, self._facts(app, one, rooms)) for app, one in own.items()}
        return {one.model: _of_model(one, found) for one in self._deployed()}

    def keep(self) -> None:
        """Write down what people are shown, where it has changed or is old. Raises EcoRayError."""
        rows, now_s = self.rows(), self._now_s()
        stands = {model: (row["replicas"], row["running"], row["nodes"]) for model, row in rows.items()}
        if self._kept[1] != stands or (rows and now_s >= self._kept[0] + _KEEP_S):
            self._store.put_meta(SCALING_KEY, rows)
            self._kept = now_s, stands

    def _rooms(self) -> tuple[Room, ...]:
        """As they are now; while somebody else asks, as they were. Raises EcoRayError."""
        if self._asking.acquire(blocking=False):  # a controller that is away holds up one thread, and no more
            try:
                self._seen = tuple(self._ask_rooms())
            except BaseException:
                self._seen = None
                raise
            finally:
                self._asking.release()
        seen = self._seen
        if seen is None:
            raise UnreachableError("the controller has not told yet what its nodes have; ask again in a moment")
        return seen

    def _deployed(self) -> list[Deployment]:
        """Those with replicas of their own."""
        return [one for one in self._deployments() if not one.shared]

    def _own(self) -> dict[str, Deployment]:
        """By Serve application: each zone, and the version beside another, is one by itself."""
        own: dict[str, Deployment] = {}
        for one in self._deployed():
            own |= {app_name(part): part for part in one.in_zones()}
            if (beside := one.beside_part) is not None:
                own[app_name(one, beside=True)] = beside
        return own

    def _facts(self, app: str, one: Deployment, rooms: Sequence[Room]) -> ReplicaFacts | None:
        start = self._known_starts().get(one.reference(one.version))
        try:
            return replica_facts(one, rooms, self._nodes(app, one), start)
        except EcoRayError as error:  # no node has what it needs now
            log.info("nothing is known of the replicas of %s: %s", app, error)
            return None

    def nodes(self, one: Deployment) -> dict[str, int]:
        """Where its replicas are."""
        return self._nodes(app_name(one), one)

    def _nodes(self, app: str, one: Deployment) -> dict[str, int]:
        """Where the replicas of an application are: as they told, else as Serve does, else as planned."""
        last = self._last.get(app)
        if last is not None and _scales(one):
            known = {index: count for index, count in last.nodes.items() if 0 <= index < len(one.nodes)}
            return {one.nodes[index]: count for index, count in known.items()}
        if app in self._where:
            return dict(self._where[app])
        planned: dict[str, int] = {}
        for place in one.places[: one.min_replicas]:
            planned[place.node] = planned.get(place.node, 0) + 1
        return planned

    def _look(self, own: Mapping[str, Deployment]) -> None:
        """Ask Serve now and then where those are that tell nothing, as nobody scales them."""
        now_s = self._now_s()
        if now_s < self._where_s + _KEEP_S or all(_scales(one) for one in own.values()):
            return
        self._where_s = now_s
        try:
            self._where = self._ask_where()
        except Exception as error:  # Serve may be restarting
            log.info("Ray Serve does not say where replicas are: %s", error)
            self._where = {}

    def _row(self, app: str, one: Deployment, facts: ReplicaFacts | None) -> dict[str, Any]:
        last, scales = self._last.get(app), _scales(one)
        nodes = self._nodes(app, one)
        if last is not None and scales:
            replicas, why, at_s = last.decision.replicas, last.decision.why, last.at_s
            running = last.running
        else:
            replicas = max(one.min_replicas, int(scales))
            running = sum(nodes.values()) if app in self._where else replicas
            why = "Serve has not told of it yet" if scales else f"--min and --max are {one.min_replicas}"
            at_s = self._now_s()
        return {
            "replicas": replicas,
            "running": running,
            "nodes": nodes,
            "why": why,
            "at": iso_utc(at_s),
            "alternatives": facts.alternatives(replicas, one.max_replicas) if facts else [],
            "cold_start": cold_to_json(facts.cold) if facts else None,
        }

    def _known_starts(self) -> dict[str, Start]:
        if self._starts is None:
            told: Mapping[str, Mapping[str, float]] = self._store.get_meta(_STARTS_KEY) or {}
            self._starts = {reference: Start(**start) for reference, start in told.items()}
        return self._starts

    def _note_work(self, told: Sequence[Last]) -> None:
        """What hardly differs is the same, so that no plan changes for it; it is known on while nobody asks."""
        for last in told:
            reference, known_s = self._work.get(last.app, ("", 0.0))
            if last.work_s and (reference != last.reference or abs(last.work_s - known_s) > _DIFFERS * known_s):
                self._work[last.app] = last.reference, last.work_s

    def _note_starts(self, told: Sequence[Last]) -> None:
        """So that they are known while there is no replica, and after a restart."""
        known = self._known_starts()
        new = {last.reference: last.start for last in told if last.start is not None}
        if any(_differs(start, known.get(reference)) for reference, start in new.items()):
            served = {one.reference(one.version) for one in self._own().values()}
            self._starts = {name: start for name, start in {**known, **new}.items() if name in served or name in new}
            self._store.put_meta(_STARTS_KEY, {name: asdict(start) for name, start in self._starts.items()})

    def _write(self, records: Sequence[ScalingRecord]) -> None:
        with self._lock:
            for app in dict.fromkeys(one.app for one in records):
                since_s = self._logged_s.get(app, -1.0)
                new = [one for one in records if one.app == app and one.load.now_s > since_s]
                if new:
                    self._append(app, [json.dumps(one.to_json(), allow_nan=False) for one in new])
                    self._logged_s[app] = new[-1].load.now_s

    def _append(self, app: str, lines: list[str]) -> None:
        path = self._folder / f"{app}.jsonl"
        if app not in self._lines:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lines[app] = len(path.read_text().splitlines()) if path.exists() else 0
        if self._lines[app] + len(lines) > 2 * _RECORDS:
            kept = path.read_text().splitlines()[-_RECORDS:] if path.exists() else []
            part = path.with_suffix(".part")
            part.write_text("".join(f"{line}\n" for line in kept))
            part.replace(path)
            self._lines[app] = len(kept)
        with path.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))
        self._lines[app] += len(lines)


def read_records(path: Path) -> list[ScalingRecord]:
    """The records of a log, the oldest first; a line that was cut off by a crash is left out. Raises OSError."""
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(ScalingRecord.from_json(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _scales(one: Deployment) -> bool:
    return one.min_replicas != one.max_replicas


def _differs(new: Start, known: Start | None) -> bool:
    """Whether it is worth to be written down."""
    if known is None:
        return True
    pairs = zip(asdict(new).values(), asdict(known).values(), strict=True)
    return any(abs(now - before) > _DIFFERS * max(before, 1e-9) for now, before in pairs)


def _of_model(one: Deployment, found: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A model's row from those of its applications."""
    if one.per_zone:
        return _of_zones(one, found)
    row, beside = found[app_name(one)], one.beside_part
    if beside is None:
        return row
    other = found[app_name(one, beside=True)]
    kind = "variant" if one.canary is None else "canary"
    if not _scales(beside):
        few = "a canary has one" if one.canary is not None else f"its part of {one.min_replicas} is no more"
        other = {**other, "why": few}
    return {**row, "beside": {"kind": kind, "version": beside.version, **other}}


def _of_zones(one: Deployment, found: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A model's row from those of its zones."""
    zones = {part.zone: found[app_name(part)] for part in one.in_zones()}
    nodes: dict[str, int] = {}
    for row in zones.values():
        nodes |= row["nodes"]
    return {
        "replicas": sum(row["replicas"] for row in zones.values()),
        "running": sum(row["running"] for row in zones.values()),
        "nodes": nodes,
        "why": "; ".join(f"{zone} {row['replicas']}: {row['why']}" for zone, row in zones.items()),
        "at": max((row["at"] for row in zones.values()), default=""),
        "alternatives": [],
        "cold_start": None,
        "zones": zones,
    }
