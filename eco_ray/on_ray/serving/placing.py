"""Where Ray Serve starts another replica, and which one it ends: by grams. The one file on Serve's private scheduler.

Serve (2.60) has no hook for either. A new replica goes to the first node of its label selector and fallbacks that has
room, which is the order of grams when the model was deployed; of those that are there Serve ends one on a fallback
node with the fewest replicas of all applications, the newest first. Here, in the process of Serve's controller:

    DeploymentScheduler.schedule                the selector and its fallbacks, in the order of grams now
    DeploymentScheduler._get_replicas_to_stop   other replicas, as many as Serve chose, by `changed_places`

Serve's own choice stays wherever anything is in doubt: an old snapshot, a node or a selector that is not ours, replicas
that are not running yet, gangs, all nodes alike, any error. Where Serve has become another one (`what_changed`),
nothing is put in its way at all.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from eco_ray.core.cluster import Resources
from eco_ray.core.replica_facts import ReplicaFacts
from eco_ray.core.replica_places import Place, Room, added_g_per_h, changed_places, without
from eco_ray.on_ray.local_cluster import NODE_LABEL
from eco_ray.on_ray.serving.exchange import Exchange

log = logging.getLogger("eco_ray.serving")

_MARK = "_eco_ray_asks"
#: methods that are called or replaced, and their parameters
_METHODS = {
    "schedule": ["self", "upscales", "downscales"],
    "_get_replicas_to_stop": [
        *("self", "deployment_id", "max_num_to_stop"),
        *("gang_id_by_replica", "replicas_by_gang_id", "gang_size"),
    ],
}
#: names in its constructor that are read here
_FIELDS = ("_running_replicas", "_cluster_node_info_cache")


def what_changed(scheduler: type) -> str:
    """What is no more as this file needs it; empty: nothing."""
    for name, wanted in _METHODS.items():
        method = getattr(scheduler, name, None)
        found = list(inspect.signature(method).parameters) if callable(method) else None
        if found != wanted:
            return f"{scheduler.__name__}.{name} has the parameters {found}, not {wanted}"
    source = inspect.getsource(scheduler.__init__)  # type: ignore[misc]
    missing = [name for name in _FIELDS if f"self.{name}" not in source]
    return f"{scheduler.__name__} has no {missing[0]}" if missing else ""


def install(exchange: Exchange) -> None:
    """Have the scheduler of this process ask; once, and only the one that this file knows."""
    from ray.serve._private.deployment_scheduler import DeploymentScheduler as Scheduler

    if getattr(Scheduler, _MARK, False):
        return
    if changed := what_changed(Scheduler):
        log.warning("Ray Serve chooses nodes without grams: %s", changed)
        return
    own_schedule, own_stop = Scheduler.schedule, Scheduler._get_replicas_to_stop

    def schedule(self: Any, upscales: Any, downscales: Any) -> Any:
        try:
            drained = _drained(self) if upscales else set()
            for requests in upscales.values():
                for request in requests:
                    _reorder(request, exchange, drained)
        except Exception:
            log.exception("new replicas go where Ray Serve puts them")
        return own_schedule(self, upscales, downscales)

    def stop(self: Any, deployment_id: Any, max_num_to_stop: int, *gangs: Any, **more: Any) -> Any:
        chosen = own_stop(self, deployment_id, max_num_to_stop, *gangs, **more)
        try:
            return _others(self, deployment_id, chosen, exchange) or chosen
        except Exception:
            log.exception("those replicas end that Ray Serve chose")
            return chosen

    Scheduler.schedule, Scheduler._get_replicas_to_stop = schedule, stop
    setattr(Scheduler, _MARK, True)


def order(rooms: Sequence[Room], demand: Resources, nodes: Collection[str]) -> list[str]:
    """The nodes by the grams that another replica adds now, those asleep last; empty: all are there, and alike.

    Those of which there is no room are left out.
    """
    added = {room.node.name: (room.asleep, added_g_per_h(room, demand)) for room in rooms if room.node.name in nodes}
    return (
        sorted(added, key=lambda node: (added[node], node))
        if len(set(added.values())) > 1 or len(added) < len(nodes)
        else []
    )


def victims(rooms: Sequence[Room], facts: ReplicaFacts, running: Mapping[Any, str], count: int) -> set[Any] | None:
    """So many of the replicas (their nodes, the oldest first) that take the most grams along; None: Serve's own."""
    known = {room.node.name: room for room in rooms}
    if not set(running.values()) <= set(known) or count >= len(running):
        return None
    takes = {added_g_per_h(without(known[node], facts.demand), facts.demand) for node in running.values()}
    if len(takes) < 2:
        return None
    places = {replica: Place(node, None) for replica, node in running.items()}
    stay = list(changed_places(list(known.values()), facts.demand, list(places.values()), len(running) - count))
    gone = set()
    for replica in running:  # places alike are told apart by their order: the newest of a node goes
        if places[replica] in stay:
            stay.remove(places[replica])
        else:
            gone.add(replica)
    return gone if len(gone) == count else None


def _drained(scheduler: Any) -> set[str]:
    """Nodes that are emptied, which Serve sees before any snapshot tells."""
    cache = scheduler._cluster_node_info_cache
    return {cache.get_node_labels(node_id).get(NODE_LABEL, "") for node_id in cache.get_draining_nodes()}


def _reorder(request: Any, exchange: Exchange, drained: Collection[str] = ()) -> None:
    """The label selector of a replica that is to start, and its fallbacks, by grams.

    A node that is drained comes last: where none has room, Ray's autoscaler would start another one in its place.
    """
    snapshot = exchange.snapshot()
    facts = snapshot.facts.get(request.replica_id.deployment_id.app_name) if snapshot else None
    options = request.actor_options
    if facts is None or snapshot is None or not options.get("label_selector"):
        return
    selectors = [options["label_selector"], *(one["label_selector"] for one in options.get("fallback_strategy") or ())]
    nodes = [one.get(NODE_LABEL) for one in selectors if len(one) == 1]
    if len(nodes) != len(selectors) or None in nodes:
        return
    wanted = order([room for room in snapshot.rooms if room.node.name not in drained], facts.demand, nodes)
    if not wanted:
        return
    wanted += [node for node in nodes if node not in wanted]
    first, *others = ({NODE_LABEL: node} for node in wanted)
    fallbacks = {"fallback_strategy": [{"label_selector": one} for one in others]} if others else {}
    request.actor_options = {**options, "label_selector": first, **fallbacks}


def _others(scheduler: Any, deployment_id: Any, chosen: set[Any], exchange: Exchange) -> set[Any] | None:
    """Those to stop in place of Serve's choice; None: that stands."""
    snapshot = exchange.snapshot()
    facts = snapshot.facts.get(deployment_id.app_name) if snapshot else None
    running = scheduler._running_replicas[deployment_id]
    if facts is None or snapshot is None or not chosen or not chosen <= set(running):
        return None  # those that do not run yet go first
    labels = scheduler._cluster_node_info_cache.get_node_labels
    nodes = {replica: labels(node_id).get(NODE_LABEL, "") for replica, node_id in running.items()}
    return victims(snapshot.rooms, facts, nodes, len(chosen))
