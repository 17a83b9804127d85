"""Deploys models: tries a version, tells Ray Serve, waits until replicas answer, follows aliases.

What is deployed is in the store before Serve is told, so that a deployer killed at any moment goes on. Serve keeps
its own record: with the deployer dead, what is served is served on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from eco_ray.core.audit import AuditEntry
from eco_ray.core.deployments import SHARED_DEMAND, Deployment, check_change
from eco_ray.core.replica_places import Room, plan_replicas, without
from eco_ray.core.store_port import Store
from eco_ray.core.zone_places import placed_in_zones
from eco_ray.errors import EcoRayError, NotFoundError, UnreachableError, UsageError
from eco_ray.on_ray.serve_config import ServingConfig, app_name, serve_config
from eco_ray.on_ray.serving.books import ScalingBooks
from eco_ray.on_ray.serving.decision_file import DecisionFile
from eco_ray.on_ray.serving.exchange import News, Snapshot
from eco_ray.on_ray.serving.traffic import TrafficPlanner, View, traffic_row, zone_rows

log = logging.getLogger("eco_ray.serving")

_KEY = "deployments"
#: the last of each model that answered
_ANSWERED = "deployments_answered"
_LATENCIES = "deployment_latency_s"
#: how often aliases are looked at [wall s]
_FOLLOW_S = 2.0
#: for replicas to be there, of which each may take minutes to pull its model [wall s]
_READY_S = 600.0


class Serving(View, Protocol):
    """The Ray side."""

    def apply(self, config: dict[str, Any]) -> None:
        """Tell Serve."""
        ...

    def state(self, app: str) -> tuple[str, str]:
        """`RUNNING`, `DEPLOYING`, `DEPLOY_FAILED`, ... and why; `` where there is none."""
        ...

    def check(self, deployment: Deployment, version: int) -> float:
        """Load a version where it would run, and try it; how long an answer took [s]. Raises EcoRayError."""
        ...

    def answers(self, deployment: Deployment, version: int, *, beside: bool) -> bool:
        """Whether HTTP requests get answers of a version, and of no other. Raises EcoRayError where they never will."""
        ...

    def account(self, app: str, deployment: Deployment, version: int) -> None:
        """Energy of the application's replicas is the version's."""
        ...

    def where(self) -> Mapping[str, Mapping[str, int]]:
        """Of each application, how many run on which node."""
        ...


class Deployer:
    """The deployments of a cluster."""

    def __init__(
        self,
        store: Store,
        serving: Serving,
        resolve: Callable[[Deployment], int | None],
        config: ServingConfig,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """`resolve`: the version that the alias of a deployment means now; None: none."""
        self._store, self._serving, self._resolve = store, serving, resolve
        self._config, self._pause = config, pause
        folder = config.state_dir / "scaling"
        self._books = ScalingBooks(store, folder, serving.rooms, self.deployments, where=serving.where)
        self._lock = threading.Lock()
        #: models of which a change is under way
        self._changing: set[str] = set()
        self._stopped = threading.Event()
        self._decisions = DecisionFile(config.state_dir / "decisions")
        #: of models that are served per zone
        self.traffic = TrafficPlanner(store, serving, self._per_zone, books=self._books, decisions=self._decisions)

    def deploy(self, wanted: Deployment, before: Deployment | None = None) -> dict[str, Any]:
        """Serve a model, or change how it is served; when it answers, what is served.

        `before`: what the change is one of; None: the model was not served. Raises EcoRayError where that is another
        one by now, or its version fails: what was served before is served on.
        """
        with self._lock:
            known = self._known(wanted.model)
            if _essence(known) != _essence(before):
                raise EcoRayError(f"{wanted.model} was changed meanwhile; see `eco-ray model deployments`, try again")
            check_change(known, wanted)
            wanted = self._placed(wanted, known)
            self._begin(wanted.model)
        try:
            self._check(wanted, known)  # takes as long as the model: others go on meanwhile
            wanted = self._change(wanted, known)
        finally:
            self._changing.discard(wanted.model)
        return self._row(wanted)

    def undeploy(self, model: str) -> None:
        """Serve a model no more. Raises NotFoundError."""
        with self._lock:
            known = self.deployments()
            if all(one.model != model for one in known):
                raise self._unknown(model, known)
            self._tell([one for one in known if one.model != model])

    def deployments(self) -> list[Deployment]:
        """What is deployed, by name."""
        told = self._store.get_meta(_KEY) or []
        return sorted(map(Deployment.from_json, told), key=lambda one: one.model)

    def changing(self) -> tuple[str, ...]:
        """Models of which a change is under way."""
        return tuple(sorted(self._changing))

    def rows(self) -> list[dict[str, Any]]:
        """What is deployed, and how it stands."""
        try:
            scaling = self._books.rows()
        except EcoRayError as error:  # the controller is away
            log.warning("what is known of the replicas is not told: %s", error)
            scaling = {}
        return [{**self._row(one), "scaling": scaling.get(one.model)} for one in self.deployments()]

    def scaling(self, news: News) -> Snapshot:
        """Take what the policies in Serve's controller decided, and tell what they have to know."""
        return self._books.exchange(news)

    def follow_once(self) -> None:
        """Serve what aliases mean now; a version that fails is written down, and not tried again until it moves."""
        for one in self.deployments():
            try:
                version = self._resolve(one) if one.follows else None
                self._follow(one, version)
            except EcoRayError as error:  # its registry is away; the others are not
                log.warning("%s cannot be followed now: %s", one.model, error)

    def _follow(self, one: Deployment, version: int | None) -> None:
        if version in (None, one.version, one.refused_version):
            if version == one.version and one.refused:
                self._save(one, replace(one, refused="", refused_version=None))
            return
        with self._lock:
            if self._known(one.model) != one or one.model in self._changing:
                return  # somebody else is at it
            self._begin(one.model)
        try:
            wanted = one.promoted(version)
            self._check(wanted, one)
            self._change(wanted, one)
            log.info("%s serves version %d now, as %s does", one.model, version, one.follows)
            self._audit("follow-model", one.reference(version), f"{one.follows} means it; before: {one.version}")
        except UnreachableError:
            raise  # tried again
        except EcoRayError as error:
            log.warning("%s stays at version %d: %s", one.model, one.version, error)
            self._save(one, replace(one, refused=str(error), refused_version=version))
            self._audit("refuse-model", one.reference(version), f"{one.version} is served on: {error}")
        finally:
            self._changing.discard(one.model)

    def resume(self) -> None:
        """Tell Serve what is deployed, and see to what a deployer that was killed did not see the end of."""
        with self._lock:
            known = self.deployments()
            if known:
                self._tell(known)
        answered = {one.model: one for one in map(Deployment.from_json, self._store.get_meta(_ANSWERED) or [])}
        for one in known:
            before = answered.get(one.model)
            if before is not None and before.version != one.version:
                threading.Thread(target=self._see_to, args=(one, before), daemon=True).start()

    def _see_to(self, one: Deployment, before: Deployment) -> None:
        try:
            self._wait(one)
        except EcoRayError as error:
            log.warning("%s goes back to version %d: %s", one.model, before.version, error)
            with self._lock:
                if self._known(one.model) == one:
                    others = [other for other in self.deployments() if other.model != one.model]
                    self._tell([*others, before])
                    self._audit("refuse-model", one.reference(one.version), f"back to {before.version}: {error}")

    def follow(self) -> None:
        """Follow aliases in the background."""

        def run() -> None:
            while not self._stopped.wait(_FOLLOW_S):
                try:
                    self.follow_once()
                except Exception:  # whatever it was, the next look may go well
                    log.exception("aliases could not be followed")
                try:
                    self._books.keep()
                except Exception as error:  # the controller or the store is away
                    log.info("what is known of the replicas is not written down: %s", error)

        threading.Thread(target=run, name="follow", daemon=True).start()
        threading.Thread(target=self.traffic.follow, args=(self._stopped,), name="traffic", daemon=True).start()

    def _per_zone(self) -> list[tuple[Deployment, float]]:
        """Models that are served per zone, and how long computing one request takes [s]."""
        latencies = self._store.get_meta(_LATENCIES) or {}
        return [(one, latencies.get(one.reference(one.version), 0.0)) for one in self.deployments() if one.per_zone]

    def _audit(self, action: str, object_: str, detail: str) -> None:
        """Write down what nobody asked for in this moment; what is served does not depend on it."""
        try:
            self._store.add_audit([AuditEntry(time.time(), "deployer", action, object_, detail[:1000])])
        except EcoRayError as error:
            log.warning("%s of %s is not in the audit log: %s", action, object_, error)

    def _known(self, model: str) -> Deployment | None:
        return next((one for one in self.deployments() if one.model == model), None)

    def _begin(self, model: str) -> None:
        if model in self._changing:
            raise EcoRayError(f"a change of {model} is under way; wait for its end, or undeploy it")
        self._changing.add(model)

    def _placed(self, wanted: Deployment, known: Deployment | None) -> Deployment:
        """With the nodes on which it adds the fewest grams. Raises InfeasibleError and NotFoundError."""
        if wanted.shared:
            count = self._config.shared_replicas
            wanted = replace(wanted, demand=SHARED_DEMAND, min_replicas=count, max_replicas=count)
            if any(one.shared for one in self.deployments()):
                return self._beside(wanted)
        if known is not None and _needs(wanted) == _needs(known):
            return replace(wanted, nodes=known.nodes, places=known.places, parts=known.parts)
        zones = wanted.zones
        rooms = self._serving.rooms()
        if unknown := set(zones) - {room.node.zone for room in rooms}:
            here = ", ".join(sorted({room.node.zone for room in rooms}))
            raise NotFoundError(f"no node is in zone {min(unknown)!r:.40}; nodes are in {here}")
        allowed = [_without(room, known) for room in rooms if not zones or room.node.zone in zones]
        if wanted.per_zone:
            return placed_in_zones(wanted, allowed)
        plan = plan_replicas(allowed, wanted.demand, max(1, wanted.min_replicas), wanted.max_replicas)
        return replace(wanted, nodes=plan.nodes, demand=plan.demand, places=plan.places)

    def _beside(self, wanted: Deployment) -> Deployment:
        """A shared model where the others are: they have the same replicas."""
        there = next((one for one in self.deployments() if one.shared and wanted.shared), wanted)
        return replace(wanted, nodes=there.nodes, places=there.places)

    def _check(self, wanted: Deployment, known: Deployment | None) -> None:
        """Try those versions that do not answer already."""
        if wanted.beside == wanted.version:
            kind = "canary" if wanted.canary is not None else "variant"
            raise UsageError(f"{wanted.reference(wanted.version)} is served already; a {kind} is another version")
        here = set(known.versions) if known and known.sha256 == wanted.sha256 else set()
        for version in wanted.versions:
            if version in here:
                continue
            took_s = self._serving.check(wanted, version)
            self._keep_latency(wanted, version, took_s)

    def _keep_latency(self, wanted: Deployment, version: int, took_s: float) -> None:
        """Beside those of what is served or being changed; others are measured again before they are served."""
        with self._lock:
            kept = {one.reference(number) for one in (*self.deployments(), wanted) for number in one.versions}
            others = self._changing - {wanted.model}
            latencies = {
                reference: seconds
                for reference, seconds in (self._store.get_meta(_LATENCIES) or {}).items()
                if reference in kept or reference.rpartition(":")[0] in others
            }
            self._store.put_meta(_LATENCIES, {**latencies, wanted.reference(version): took_s})

    def _change(self, wanted: Deployment, known: Deployment | None) -> Deployment:
        """Tell Serve, and wait for it; what is served then.

        Back to what was where that fails, unless somebody has changed it since.
        """
        with self._lock:
            wanted = self._beside(wanted)  # the first of them may have come while this one was tried
            wanted = replace(wanted, initial_replicas=self._books.replicas(wanted))
            before = self.deployments()
            if self._known(wanted.model) != known:
                raise EcoRayError(f"{wanted.model} was changed while {wanted.reference(wanted.version)} was tried")
            others = [one for one in before if one.model != wanted.model]
            try:
                self._tell([*others, wanted])
            except Exception as error:
                self._put(before)
                raise EcoRayError(f"Ray Serve does not take {wanted.model}: {error}"[:1000]) from error
        try:
            self._wait(wanted)
        except EcoRayError:
            with self._lock:
                if self._known(wanted.model) == wanted:
                    now = [one for one in self.deployments() if one.model != wanted.model]
                    self._tell([*now, known] if known else now)
            raise
        with self._lock:
            told = [one for one in self._store.get_meta(_ANSWERED) or [] if one["model"] != wanted.model]
            self._store.put_meta(_ANSWERED, [*told, wanted.to_json()])
        return wanted

    def _tell(self, deployments: Sequence[Deployment]) -> None:
        for one in deployments:
            for part in one.in_zones():  # a router before them goes by its own name: it holds nothing of a node
                self._serving.account(app_name(part), part, one.version)
            if one.beside is not None:
                self._serving.account(app_name(one, beside=True), one, one.beside)
        self._put(deployments)
        latencies = self._store.get_meta(_LATENCIES) or {}
        self._serving.apply(serve_config(deployments, latencies, self._config))

    def _put(self, deployments: Sequence[Deployment]) -> None:
        self._store.put_meta(_KEY, [one.to_json() for one in deployments])

    def _save(self, before: Deployment, after: Deployment) -> None:
        """Write down what Serve need not know, unless somebody has changed it since."""
        with self._lock:
            self._put([after if one == before else one for one in self.deployments()])

    def _wait(self, wanted: Deployment) -> None:
        deadline = time.monotonic() + _READY_S
        parts = [(part, wanted.version, False) for part in wanted.apps()]
        parts += [(wanted, wanted.beside, True)] if wanted.beside is not None else []
        for part, version, beside in parts:
            app = app_name(part, beside=beside)
            while True:
                state, why = self._serving.state(app)
                if state in ("DEPLOY_FAILED", "UNHEALTHY"):
                    last = why.strip().splitlines()[-1] if why.strip() else state
                    raise EcoRayError(f"{wanted.reference(version)} could not be started: {last}"[:1000])
                if state == "RUNNING" and self._serving.answers(part, version, beside=beside):
                    break
                if wanted not in self.deployments():
                    raise EcoRayError(f"{wanted.model} was changed again before {wanted.reference(version)} answered")
                if time.monotonic() > deadline:
                    raise EcoRayError(
                        f"{wanted.reference(version)} did not answer within {_READY_S:g} s (Serve: {state} {why}); is "
                        f"there room for {wanted.demand}?"
                    )
                self._pause(0.25)

    def _row(self, one: Deployment) -> dict[str, Any]:
        states = {part.zone: self._serving.state(app_name(part)) for part in one.apps()}
        state, why = next((told for told in states.values() if told[0] != "RUNNING"), states[one.zone])
        told = self.traffic.told(one.model) if one.per_zone else None
        return {
            "model": one.model,
            "version": one.version,
            "follows": one.follows,
            "canary": one.canary,
            "canary_percent": one.canary_percent,
            "replicas": {"min": one.min_replicas, "max": one.max_replicas},
            "shared": one.shared,
            "nodes": list(one.nodes),
            "places": [{"node": place.node, "devices": place.devices} for place in one.places],
            "zones": zone_rows(one, told, {zone: told[0].lower() for zone, told in states.items()}),
            "traffic": traffic_row(told),
            "state": state.lower(),
            "message": why or one.refused,
            "url": f"http://{self._config.host}:{self._config.port}/v2/models/{one.model}",
        }

    def _unknown(self, model: str, known: Sequence[Deployment]) -> NotFoundError:
        names = ", ".join(one.model for one in known) or "none"
        return NotFoundError(f"no model {model!r:.120} is deployed; those that are: {names}")


def _without(room: Room, known: Deployment | None) -> Room:
    """A node without what a deployment holds there, for the replicas that take its place."""
    if known is None:
        return room
    return without(room, known.demand * sum(place.node == room.node.name for place in known.places))


def _essence(one: Deployment | None) -> Deployment | None:
    """What somebody asked for of it."""
    return one and replace(one, refused="", refused_version=None, nodes=(), places=(), parts=(), initial_replicas=0)


def _needs(one: Deployment) -> tuple[object, ...]:
    """What its places depend on."""
    return one.demand, one.zones, one.min_replicas, one.max_replicas
