"""A file of Ray's cluster launcher (`ray up`) read as a cluster file, so that one file starts and describes a cluster.

    ray up cluster/aws.yaml                                            starts the machines
    eco-ray up --address auto --cluster cluster/aws.yaml               on its head: starts controller and agents

Ray leaves its key `metadata` to its users: below `metadata.eco_ray` stand the keys of a cluster file. Each worker node
type is a group of nodes: its zone, CPUs, GPUs and memory are those of `available_node_types`, and what Ray has no word
for (power, PUE, GPU memory) stands below `metadata.eco_ray.nodes.TYPE`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from eco_ray.errors import UsageError
from eco_ray.schema import Path
from eco_ray.yaml_file import Document

_TYPES, _OURS = "available_node_types", ("metadata", "eco_ray")
#: key of a node: where the launcher's node type has it
_FROM_TYPE = {
    "zone": ("labels", "grid_zone"),
    "num_cpus": ("resources", "CPU"),
    "num_gpus": ("resources", "GPU"),
    "memory_gb": ("resources", "memory"),
}


def is_launcher_file(data: Mapping[str, Any]) -> bool:
    """Whether Ray's launcher is meant: its files name a provider."""
    return "provider" in data and "cluster_name" in data


def as_cluster_file(document: Document) -> tuple[dict[str, Any], Callable[[Path], int | None]]:
    """The keys of a cluster file, and the line of each of them in the launcher's file. Raises UsageError."""
    data, where = document.value, document.where
    ours = _mapping(_mapping(data, "metadata", where), "eco_ray", where, f"{where}: metadata.eco_ray")
    types = _mapping(data, _TYPES, where)
    head = str(data.get("head_node_type"))
    told = dict(_mapping(ours, "nodes", where, f"{where}: metadata.eco_ray.nodes"))
    workers = [name for name in types if name != head]
    if strangers := sorted(set(told) - set(workers)):
        raise UsageError(
            f"{where}, line {document.line_of((*_OURS, 'nodes', strangers[0]))}: metadata.eco_ray.nodes: "
            f"{strangers[0]!r} is no worker of {_TYPES}; those are {', '.join(workers)}"
        )
    nodes = [{**_of_type(name, types[name]), **(told.get(name) or {})} for name in workers]
    cpus = _of_type("head", types.get(head) or {}).get("num_cpus", 0)
    made = {
        **ours,
        "name": data["cluster_name"],
        "head": {"num_cpus": cpus, **(ours.get("head") or {})},
        "nodes": nodes,
    }

    def line_of(path: Path) -> int | None:
        if path[:1] == ("name",):
            return document.line_of(("cluster_name",))
        if len(path) < 2 or path[0] != "nodes" or not isinstance(path[1], int):
            return document.line_of((*_OURS, *path))
        name, rest = workers[path[1]], path[2:]
        if rest and rest[0] in _FROM_TYPE and rest[0] not in (told.get(name) or {}):
            return document.line_of((_TYPES, name, *_FROM_TYPE[str(rest[0])]))
        return document.line_of((*_OURS, "nodes", name, *rest))

    return made, line_of


def _of_type(name: str, node_type: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "group": True}
    for key, (part, inner) in _FROM_TYPE.items():
        value = (node_type.get(part) or {}).get(inner)
        if value is not None:  # the check says what is missing
            found[key] = value / 1e9 if key == "memory_gb" else value
    return found


def _mapping(data: Mapping[str, Any], key: str, where: str, shown: str = "") -> Mapping[str, Any]:
    value = data.get(key)
    if not isinstance(value, dict):
        raise UsageError(
            f"{shown or f'{where}: {key}'} is missing, or no mapping; a file of Ray's launcher describes its nodes for "
            "eco_ray there (cluster/aws.yaml is an example)"
        )
    return value
