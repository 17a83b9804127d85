"""Tells the controller which replicas wait for room, so that jobs leave it to them; and when that is over."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from eco_ray.core.deployments import Deployment
from eco_ray.core.events import NeededReplica, ServingNeeds
from eco_ray.on_ray.serve_config import app_name

log = logging.getLogger("eco_ray.serving")

#: how often Serve is asked [wall s]
_LOOK_S = 2.0


class Replicas(NamedTuple):
    """The replicas of a deployment, as Serve wants them."""

    #: how many there are to be
    wanted: int
    #: of these, how many no node has taken in
    unplaced: int


def needed(replicas: Replicas, without_help: int | None) -> tuple[int, int | None]:
    """How many replicas need room that jobs must leave, and how many have room without that.

    `without_help`: the second figure of the look before; None: no room was needed then. A need that has begun is over
    when Serve wants no more replicas than had room by themselves: those that jobs made room for hold it until then.
    """
    if without_help is None:
        if replicas.unplaced == 0:
            return 0, None
        without_help = replicas.wanted - replicas.unplaced
    more = replicas.wanted - without_help
    return (more, without_help) if more > 0 else (0, None)


class NeedsWatch:
    """Looks at the deployments that promised a latency, again and again."""

    def __init__(
        self,
        deployments: Callable[[], Iterable[Deployment]],
        replicas: Callable[[str], Replicas | None],
        tell: Callable[[ServingNeeds | str], Mapping[str, Any]],
    ) -> None:
        """`replicas`: of a Serve application; None: Serve does not say.

        `tell`: hands a need to the controller, or only asks for that of a model; what it has been granted.
        """
        self._deployments, self._replicas, self._tell = deployments, replicas, tell
        #: by model, or model in a zone: how many replicas have room without help; None: no need
        self._without_help: dict[str, int | None] = {}
        self._stopped = threading.Event()

    def look_once(self) -> None:
        """Tell of each model what it needs by now."""
        own = [part for one in self._deployments() if not one.shared for part in one.in_zones()]
        promised = {_name(one): one for one in own if one.slo_p95_s is not None}
        for model in self._without_help.keys() - promised.keys():
            if self._without_help[model] is not None:
                self._tell(ServingNeeds(model))
            del self._without_help[model]
        for name, one in promised.items():
            replicas = self._replicas(app_name(one))
            if replicas is not None:
                self._look_at(name, one, replicas)

    def _look_at(self, name: str, one: Deployment, replicas: Replicas) -> None:
        if name not in self._without_help:  # the watch of an earlier life may have asked for room
            granted = len(self._tell(name)["granted"])
            self._without_help[name] = replicas.wanted - granted if granted else None
        before = self._without_help[name]
        count, after = needed(replicas, before)
        if count or before is not None:
            need = (NeededReplica(one.demand, one.nodes, one.zones),) * count
            told = self._tell(ServingNeeds(name, need, slo_p95_s=one.slo_p95_s if count else None))
            if count and told["message"]:
                log.warning("%s", told["message"])
        self._without_help[name] = after

    def follow(self) -> None:
        """Look in the background."""

        def run() -> None:
            while not self._stopped.wait(_LOOK_S):
                try:
                    self.look_once()
                except Exception:  # Serve or the controller may be away; the next look may go well
                    log.exception("what replicas need could not be told")

        threading.Thread(target=run, name="needs", daemon=True).start()


def _name(one: Deployment) -> str:
    """For people: one that is served per zone needs room in each by itself."""
    return f"{one.model} in {one.zone}" if one.zone else one.model


def serve_replicas(app: str) -> Replicas | None:
    """The replicas of a Serve application, in all its deployments; None where there is no such application."""
    import ray
    from ray import serve
    from ray.serve._private.common import ReplicaState
    from ray.util.state import list_actors

    found = serve.status().applications.get(app)
    if found is None:
        return None
    gone = (ReplicaState.STOPPING, ReplicaState.STOPPED)
    wanted = sum(
        count for one in found.deployments.values() for state, count in one.replica_states.items() if state not in gone
    )
    if not any(one.replica_states.get(ReplicaState.STARTING) for one in found.deployments.values()):
        return Replicas(wanted, 0)
    here = ray.get_runtime_context().gcs_address  # there may be another cluster on this machine
    waiting = list_actors(here, filters=[("state", "=", "PENDING_CREATION")], limit=1000)
    unplaced = sum(actor.class_name.startswith(f"ServeReplica:{app}:") and not actor.node_id for actor in waiting)
    return Replicas(wanted, min(unplaced, wanted))


def tell_controller(told: ServingNeeds | str) -> Mapping[str, Any]:
    """Hand a need to the controller, or ask what a model has been granted."""
    import ray

    from eco_ray.on_ray.connection import controller_handle

    granted: Mapping[str, Any] = ray.get(controller_handle().serving_needs.remote(told), timeout=60.0)
    return granted
