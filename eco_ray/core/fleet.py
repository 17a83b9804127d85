"""The nodes of a cluster as the planner looks at them: each for itself, or like ones as a pool where they are many."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from eco_ray.core.cluster import Node, Resources

#: with more nodes, like ones are one pool
MAX_SINGLE = 24


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job may be put: a node, or any node of a pool."""

    pool: int
    #: index of the node in its pool; None: any of them
    member: int | None
    #: the node, or the one that stands for all
    node: Node

    @property
    def bends(self) -> bool:
        """Whether a job adds something else beside others than alone, and workers not in proportion."""
        return self.node.sleeps or not self.node.power.is_straight


class Fleet:
    """Nodes that are there, in pools. Immutable: when a node joins or leaves, there is another fleet."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes: dict[str, Node] = {node.name: node for node in nodes}
        #: members of each pool, the most frugal first: a job takes the first that has room, so that others stay empty
        self.pools: list[tuple[Node, ...]] = _pools(list(self.nodes.values()))
        #: pool and index in it of each node
        self.seat: dict[str, tuple[int, int]] = {
            node.name: (pool, member) for pool, nodes in enumerate(self.pools) for member, node in enumerate(nodes)
        }
        self._place: dict[str, Place] = {}
        self._places: dict[tuple[tuple[str, ...], Resources], tuple[Place, ...]] = {}
        self._watts: dict[tuple[int, int | None, Resources, bool], float] = {}
        #: the zones that have nodes, sorted
        self.zones: list[str] = sorted({node.zone for node in self.nodes.values()})
        #: one node of each pool: what there is, without the many that are alike
        self.kinds: list[Node] = [nodes[0] for nodes in self.pools]
        self._first_in: dict[str, Node] = {}
        for node in self.nodes.values():
            if node.capacity.cpus > 0:
                self._first_in.setdefault(node.zone, node)

    def __deepcopy__(self, _memo: object) -> Fleet:
        """Itself, with what it remembers of its own answers."""
        return self

    def first_in(self, zone: str) -> Node | None:
        """The node that stands for a zone, with CPUs; None where it has none."""
        return self._first_in.get(zone)

    def place_of(self, name: str) -> Place | None:
        """A node by its name, as a place of its own; None where it is not there."""
        place = self._place.get(name)
        if place is None and (seat := self.seat.get(name)) is not None:
            place = self._place[name] = Place(seat[0], seat[1], self.nodes[name])
        return place

    def attributed_w(self, place: Place, demand: Resources) -> float:
        """The job's share of the power of its node, with PUE [W]."""
        return self._power_w(place, demand, added=False)

    def added_w(self, place: Place, demand: Resources) -> float:
        """What it adds to an empty node that is on, with PUE [W]."""
        return self._power_w(place, demand, added=True)

    def _power_w(self, place: Place, demand: Resources, *, added: bool) -> float:
        key = place.pool, place.member, demand, added
        found = self._watts.get(key)
        if found is None:
            node = place.node
            watts = node.added_power_w(demand, Resources()) if added else node.attributed_power_w(demand)
            found = self._watts[key] = watts * node.pue
        return found

    def places(self, zones: tuple[str, ...], demand: Resources) -> tuple[Place, ...]:
        """Pools in these zones (none named: in all of them) whose empty nodes are large enough."""
        key = zones, demand
        found = self._places.get(key)
        if found is None:
            found = self._places[key] = tuple(
                Place(index, 0 if len(nodes) == 1 else None, nodes[0])
                for index, nodes in enumerate(self.pools)
                if (not zones or nodes[0].zone in zones) and demand.fits_node(nodes[0].capacity)
            )
        return found


def _pools(nodes: list[Node]) -> list[tuple[Node, ...]]:
    if len(nodes) <= MAX_SINGLE:
        return [(node,) for node in nodes]
    alike: dict[tuple[object, ...], list[Node]] = {}
    for node in nodes:
        alike.setdefault(_kind(node), []).append(node)
    return [tuple(sorted(members, key=lambda node: (_full_w(node), node.name))) for members in alike.values()]


def _kind(node: Node) -> tuple[object, ...]:
    """What like nodes share: where they are, how large, how they wake, and what work adds within about 10 %."""
    power = node.power.is_straight, round(10 * math.log(max(_full_w(node), 1e-9)))
    return node.zone, node.capacity, node.pue, node.sleeps, node.wake_j, power


def _full_w(node: Node) -> float:
    """What jobs that take all of it add to it: the planner compares nodes by what a job adds."""
    return node.added_power_w(node.capacity, Resources())
