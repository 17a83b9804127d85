"""What replicas of a deployment cost where they are, and what others would: what its scaling and its explanation need.

Grams are added ones, as in `replica_places`: of each node without the replicas of this deployment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eco_ray.core.cluster import Resources
from eco_ray.core.deployments import Deployment
from eco_ray.core.replica_counts import ColdStart, cold_start
from eco_ray.core.replica_places import Room, grams_by_count, plan_replicas, without

#: numbers of replicas whose grams are told, at most
_MOST = 32


@dataclass(frozen=True, slots=True)
class Start:
    """What one start of a version's replica took, and what it takes while it waits; as last measured."""

    start_s: float
    start_j: float
    #: of its process, beside its node's
    idle_w: float


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """What is known of a deployment's replicas."""

    #: that Ray holds for each
    demand: Resources
    #: nodes that they may be on
    nodes: tuple[str, ...]
    #: of the last one; None: unknown, as none has ever started
    cold: ColdStart | None
    #: that 0, 1, 2, ... of them add, as many as there is room for; infinite where an intensity is unknown
    grams_per_h: tuple[float, ...]

    def alternatives(self, replicas: int, most: int) -> list[dict[str, Any]]:
        """What none, one, two, one less or more than there are, and all add; None: unknown."""
        counts = {0, 1, 2, replicas - 1, replicas, replicas + 1, most}
        shown = sorted(count for count in counts if 0 <= count < len(self.grams_per_h) and count <= most)
        return [{"replicas": count, "grams_per_h": _known(self.grams_per_h[count])} for count in shown]


def replica_facts(one: Deployment, rooms: Sequence[Room], here: Mapping[str, int], start: Start | None) -> ReplicaFacts:
    """`here`: replicas of the deployment on nodes now. Raises InfeasibleError where no node has what each needs."""
    free = own_rooms(one, rooms, here)
    grams = grams_by_count(free, one.demand, min(one.max_replicas, _MOST))
    nodes = plan_replicas(free, one.demand, 0, 1).nodes  # by grams
    nodes = tuple(node for node in nodes if here.get(node)) or nodes  # the last that stays, or the first that comes
    cold = None
    if start is not None and nodes:
        (room,) = (room for room in free if room.node.name == nodes[0])
        cold = cold_start(room, one.demand, start.start_s, start_j=start.start_j, idle_w=start.idle_w)
    return ReplicaFacts(one.demand, tuple(room.node.name for room in free), cold, grams)


def own_rooms(one: Deployment, rooms: Sequence[Room], here: Mapping[str, int]) -> list[Room]:
    """The nodes that a deployment may be on, without what its replicas hold there."""
    allowed = (room for room in rooms if not one.nodes or room.node.name in one.nodes)
    return [without(room, one.demand * here.get(room.node.name, 0)) for room in allowed]


def cold_to_json(cold: ColdStart | None) -> dict[str, Any] | None:
    """For people and scripts: what a start from none takes, and what waiting does."""
    if cold is None:
        return None
    return {
        "start_s": cold.start_s,
        "start_j": cold.start_j,
        "start_g": cold.start_g,
        "idle_w": cold.idle_w,
        "idle_g_per_h": cold.idle_g_per_h,
        "pays_after_s": _known(cold.pays_after_s),
    }


def _known(amount: float) -> float | None:
    return amount if math.isfinite(amount) else None
