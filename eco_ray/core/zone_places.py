"""Where the replicas of a model go that has some of its own in each zone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from eco_ray.core.cluster import UNKNOWN_ZONE
from eco_ray.core.deployments import Deployment, ZonePart
from eco_ray.core.replica_places import Room, plan_replicas, with_gpus
from eco_ray.errors import InfeasibleError


def placed_in_zones(wanted: Deployment, rooms: Sequence[Room]) -> Deployment:
    """With its parts: in the zones that it names, or else in all that have room.

    Raises InfeasibleError where one that it names has none, or none has.
    """
    demand = with_gpus(wanted.demand, [room.node for room in rooms])
    zones = tuple(sorted(wanted.zones)) or tuple(sorted({room.node.zone for room in rooms} - {UNKNOWN_ZONE}))
    parts, full = [], list[str]()
    for zone in zones:
        inside = [room for room in rooms if room.node.zone == zone]
        try:
            plan = plan_replicas(inside, demand, max(1, wanted.min_replicas), wanted.max_replicas)
        except InfeasibleError as error:
            if wanted.zones:
                raise InfeasibleError(f"zone {zone}: {error}") from None
            full.append(f"{zone}: {error}")
        else:
            parts.append(ZonePart(zone, plan.nodes, plan.places))
    if not parts:
        raise InfeasibleError(f"no zone has room. {'. '.join(full) or 'No node tells its zone'}")
    return replace(
        wanted,
        demand=demand,
        parts=tuple(parts),
        nodes=tuple(node for part in parts for node in part.nodes),
        places=tuple(place for part in parts for place in part.places),
    )
