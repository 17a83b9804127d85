"""Serve's replicas as guests of nodes: which can move where, and whether as many are up as should be."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from eco_ray.core.cluster import Resources
from eco_ray.core.consolidation import Guest
from eco_ray.core.deployments import SHARED_DEMAND, Deployment
from eco_ray.core.replica_places import Room, added_g_per_h
from eco_ray.on_ray.serve_config import app_name
from eco_ray.on_ray.serving.placing import order

#: for so long two replicas compute where one moves [h]: a cold start takes 3 to 20 s
_MOVE_H = 20.0 / 3600


def replica_guests(
    details: Mapping[str, Any], deployments: Iterable[Deployment], rooms: Sequence[Room], *, by_grams: bool = False
) -> list[Guest]:
    """Every replica on these nodes. `details`: what Serve tells of itself (`ServeInstanceDetails`).

    `by_grams`: whether Serve starts replicas in the order of grams now (`placing`), and not in that of the deployment,
    which stays that of shared models. Only then it wakes a clean node for one that leaves a dirty one: else the first
    of its nodes may come back, which is the one that it leaves.
    """
    own = [part for one in deployments for part in one.in_zones()]
    ours = {app_name(one, beside=beside): one for one in own for beside in (False, True)}
    by_id = {room.node.ray_node_id: room for room in rooms if not room.asleep}
    guests = []
    for app, deployment, told in _deployments(details):
        one = ours.get(app)
        demand = _demand(one, told)
        ordered = by_grams and one is not None and not one.shared
        for replica in told["replicas"]:
            room = by_id.get(replica.get("node_id"))
            if room is None:
                continue
            guests.append(
                Guest(
                    f"{app} {replica['replica_id']}" if one else f"{app}/{deployment} {replica['replica_id']}",
                    room.node.name,
                    demand,
                    one.zones if one else (),
                    _nodes(one, rooms, ordered) if one else (),
                    _MOVE_H * added_g_per_h(room, demand) if room.intensity_g_per_kwh is not None else 0.0,
                    # it ends anyway, or a group of processes has to stay together
                    stays=_state(replica) == "STOPPING" or bool(_config(told).get("placement_group_bundles")),
                    wakes=ordered,
                )
            )
    return guests


def running_on(details: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """By application, how many replicas run on which node. `names`: of nodes, by Ray's ids."""
    found: dict[str, dict[str, int]] = {}
    for app, _, told in _deployments(details):
        nodes = found.setdefault(app, {})
        for one in told["replicas"]:
            if _state(one) == "RUNNING" and (name := names.get(one.get("node_id"))) is not None:
                nodes[name] = nodes.get(name, 0) + 1
    return found


def not_all_up(details: Mapping[str, Any], draining: Collection[str]) -> tuple[str, ...]:
    """What has fewer replicas up than it should, not counting those on nodes (Ray's ids) that are drained.

    Serve makes an application ready on any node, in a task that holds nothing: it has no replicas until then.
    """
    found = [app for app, told in details.get("applications", {}).items() if _word(told.get("status")) == "DEPLOYING"]
    for app, _, told in _deployments(details):
        up = [one for one in told["replicas"] if _state(one) == "RUNNING" and one.get("node_id") not in draining]
        if len(up) < told["target_num_replicas"] and app not in found:
            found.append(app)
    return tuple(found)


def _deployments(details: Mapping[str, Any]) -> Iterable[tuple[str, str, Mapping[str, Any]]]:
    for app, told in details.get("applications", {}).items():
        for name, deployment in told.get("deployments", {}).items():
            yield app, name, deployment


def _nodes(one: Deployment, rooms: Sequence[Room], by_grams: bool) -> tuple[str, ...]:
    """Its nodes in the order in which Serve fills them."""
    first = order(rooms, one.demand, one.nodes) if by_grams else ()
    return (*first, *(node for node in one.nodes if node not in first))


def _demand(one: Deployment | None, told: Mapping[str, Any]) -> Resources:
    if one is not None:
        return SHARED_DEMAND if one.shared else one.demand
    needs = told.get("required_resources") or {}
    return Resources(float(needs.get("CPU", 0)), float(needs.get("GPU", 0)), float(needs.get("memory", 0)) / 1e9)


def _config(told: Mapping[str, Any]) -> Mapping[str, Any]:
    return told.get("deployment_config") or {}


def _state(replica: Mapping[str, Any]) -> str:
    return _word(replica["state"])


def _word(state: Any) -> str:
    return str(getattr(state, "value", state))
