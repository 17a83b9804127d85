"""What the consolidator sees of a Ray cluster, and does to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from eco_ray.core.cluster import Node
from eco_ray.core.deployments import Deployment
from eco_ray.errors import UnreachableError
from eco_ray.on_ray.connection import controller_handle
from eco_ray.on_ray.serving.consolidator import View
from eco_ray.on_ray.serving.drain_adapter import RayDrains
from eco_ray.on_ray.serving.drain_record import DrainAnswer
from eco_ray.on_ray.serving.replica_guests import not_all_up, replica_guests

#: for the controllers, ours and Serve's [s]
_ASK_S = 30.0


class RayCluster:
    """Implements `consolidator.Cluster`."""

    def __init__(
        self,
        deployments: Callable[[], Sequence[Deployment]],
        by_grams: Callable[[], bool] = lambda: False,
        changing: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """`deployments`: those that are served now. `by_grams`: whether Serve starts replicas by grams (`placing`).

        `changing`: models of which a version is tried or told, which may have woken a node.
        """
        self._deployments, self._by_grams, self._changing = deployments, by_grams, changing
        self._drains = RayDrains()

    def view(self, horizon_s: float) -> View:
        """Nodes, what is on them, and which of them come and go."""
        draining, owned = self._drains.draining(), self._drains.owned()
        rooms, jobs, planned = _ask(lambda: controller_handle().emptying.remote(horizon_s))
        details = serve_details()
        replicas = replica_guests(details, self._deployments(), rooms, by_grams=self._by_grams())
        nodes = [room.node for room in rooms]
        return View(
            time.time(),
            tuple(rooms),
            (*replicas, *jobs),
            frozenset(node.name for node in nodes if node.ray_node_id in draining),
            frozenset(node.name for node in nodes if node.sleeps and node.ray_node_id in owned),
            planned,
            (*not_all_up(details, draining), *self._changing()),
        )

    def drain(self, node: Node, guests: Collection[str], why: str, deadline_wall_s: float) -> DrainAnswer:
        """Ask the controller, which may have launched something there since, and then Ray.

        From the controller's answer on nothing is launched there: Ray would leave it pending.
        """
        came = _ask(lambda: controller_handle().close_node.remote(node.name, tuple(guests)))
        if came:
            return DrainAnswer(accepted=False, why=came)
        return self._drains.drain(node.ray_node_id or "", why, deadline_wall_s)

    def let_go(self, node: Node) -> None:
        """End our agent there."""
        _ask(lambda: controller_handle().let_go.remote(node.name))


def serve_details() -> Mapping[str, Any]:
    """What Serve tells of itself. Raises UnreachableError."""
    from ray.serve.context import _get_global_client  # no public call in Python tells on which node a replica is (2.60)

    controller = _get_global_client()._controller
    told: Mapping[str, Any] = _ask(controller.get_serve_instance_details.remote)
    return told


def _ask(call: Callable[[], Any]) -> Any:
    try:
        return ray.get(call(), timeout=_ASK_S)
    except (RayError, GetTimeoutError, ValueError) as error:  # ValueError: no such actor
        raise UnreachableError(f"no view of the cluster: {error}"[:300]) from error
