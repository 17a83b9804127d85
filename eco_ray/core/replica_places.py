"""Where replicas of a model go: on the nodes on which they add the fewest grams, filled one after the other.

    added grams per hour = (P(load + replica) - P(load)) * PUE * intensity of the zone / 1000        [W, g/kWh]

Ray is told the order as a label and its fallbacks. It wakes a node only for what no other one has room for, so that
nodes that are asleep come last, the cleanest of them first. A part of a GPU is on one device; Ray fills the first
device with room, and so does the plan here: which is why it can say which device each replica gets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from eco_ray.core.cluster import Node, Resources
from eco_ray.errors import InfeasibleError


@dataclass(frozen=True, slots=True)
class Room:
    """A node, and what is held of it by whomever."""

    node: Node
    held: Resources
    #: of its zone now [g/kWh]; None: unknown
    intensity_g_per_kwh: float | None
    #: it was released; it comes back for a replica that no other node has room for
    asleep: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where one replica goes."""

    node: str
    #: indices of its GPUs; None: somebody else holds some of the node's, so that nobody knows
    devices: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """Where the replicas of a deployment go."""

    #: nodes in the order in which they are filled
    nodes: tuple[str, ...]
    #: what Ray holds for each replica
    demand: Resources
    #: of replicas, in the order in which they start; fewer than asked for where there is no room for more
    places: tuple[Place, ...]


def plan_replicas(rooms: Sequence[Room], demand: Resources, least: int, most: int) -> ReplicaPlan:
    """Places for `most` replicas, or as many as there is room for.

    Raises InfeasibleError where there is none for `least` of them.
    """
    demand = with_gpus(demand, [room.node for room in rooms])
    able = [room for room in rooms if demand.fits_node(room.node.capacity) and memory_fits(room.node, demand)]
    able.sort(key=lambda room: (room.asleep, added_g_per_h(room, demand), room.node.name))
    places = [place for room in able for place in _places(room, demand)][:most]
    if len(places) < least:
        names = ", ".join(f"{room.node.name} {_free(room)}" for room in rooms) or "no node"
        raise InfeasibleError(
            f"{least} replicas with {demand} each have no room: there is room for {len(places)} (free: {names}); ask "
            "for less, allow more zones, or end something"
        )
    return ReplicaPlan(tuple(room.node.name for room in able), demand, tuple(places))


def changed_places(rooms: Sequence[Room], demand: Resources, places: Sequence[Place], count: int) -> tuple[Place, ...]:
    """The places of `count` replicas, of which those at `places` are there and held in the rooms.

    Another one goes where it adds the fewest grams, and nowhere where there is no room; the one that goes is the one
    that takes the most grams along, with the idle power of its node where it is the last there and the node sleeps.
    """
    if count >= len(places):
        return (*places, *plan_replicas(rooms, demand, 0, count - len(places)).places)
    held = {room.node.name: room for room in rooms}
    demand, left = with_gpus(demand, [room.node for room in rooms]), list(places)
    while len(left) > count:
        free = {place.node: without(held[place.node], demand) for place in left}
        gone = max(left, key=lambda place: (added_g_per_h(free[place.node], demand), place.node))
        held[gone.node] = free[gone.node]
        left.reverse()
        left.remove(gone)
        left.reverse()
    return tuple(left)


def grams_by_count(rooms: Sequence[Room], demand: Resources, most: int) -> tuple[float, ...]:
    """Grams per hour that 0, 1, 2, ... replicas add, up to `most` or as many as there is room for."""
    plan, held, sums = plan_replicas(rooms, demand, 0, most), {room.node.name: room for room in rooms}, [0.0]
    for place in plan.places:
        room = held[place.node]
        sums.append(sums[-1] + added_g_per_h(room, plan.demand))
        held[place.node] = replace(room, held=room.held + plan.demand)
    return tuple(sums)


def without(room: Room, demand: Resources) -> Room:
    """A node on which so much is not held any more; what is left by rounding is nothing."""
    left = (amount if amount > 1e-9 else 0.0 for amount in (room.held - demand).amounts)
    return replace(room, held=Resources(*left))


def with_gpus(demand: Resources, nodes: Sequence[Node]) -> Resources:
    """The demand with the GPUs that its GPU memory takes: a part of one, or whole ones.

    By the smallest GPU that it fits on, so that what is declared never exceeds what a device has; and as one of the
    parts that fit together: Ray looks at what is free of all devices of a node, and a replica that fits into that and
    on no device would wait there (2.60).
    """
    memory_gb = demand.gpu_memory_gb
    if demand.gpus or not memory_gb:
        return demand
    sizes_gb = [node.capacity.gb_per_gpu for node in nodes if node.capacity.gpus and node.capacity.gb_per_gpu]
    if not sizes_gb:
        raise InfeasibleError(f"{memory_gb:g} GB of GPU memory: no node has a GPU whose memory is known")
    one = [size_gb for size_gb in sizes_gb if size_gb >= memory_gb - 1e-9]
    if one:
        return replace(demand, gpus=memory_gb / min(one)).reserved_on(Resources(gpus=1.0, gpu_memory_gb=min(one)))
    return replace(demand, gpus=float(math.ceil(memory_gb / max(sizes_gb) - 1e-9)))


def memory_fits(node: Node, demand: Resources) -> bool:
    """Whether the part of a GPU that is held has the memory that is declared."""
    size_gb = node.capacity.gb_per_gpu
    return demand.gpus >= 1 or demand.gpu_memory_gb <= demand.gpus * size_gb + 1e-9


def added_g_per_h(room: Room, demand: Resources) -> float:
    """Grams per hour that a demand adds on a node, beside what is held; infinite where the intensity is unknown."""
    if room.intensity_g_per_kwh is None:
        return math.inf
    return room.node.added_power_w(demand, room.held) * room.node.pue * room.intensity_g_per_kwh / 1000


def _places(room: Room, demand: Resources) -> list[Place]:
    """All that fit on a node."""
    capacity, held, places = room.node.capacity, room.held, list[Place]()
    known = held.gpus <= 0
    free = [1.0] * round(capacity.gpus)
    while (held + demand).fits_in(replace(capacity, gpu_memory_gb=math.inf)):
        devices: tuple[int, ...] | None = ()
        if demand.gpus:
            devices = _devices(free, demand.gpus)
            if devices is None and known:
                break
        places.append(Place(room.node.name, devices if known or not demand.gpus else None))
        held = held + replace(demand, gpu_memory_gb=0.0)
        if not demand.cpus and not demand.gpus and not demand.memory_gb:
            break  # without any demand one node takes them all
    return places


def _devices(free: list[float], gpus: float) -> tuple[int, ...] | None:
    """The devices of the next replica, taken off what is free; None: there is no room."""
    whole = gpus >= 1
    wanted = round(gpus) if whole else 1
    part = 1.0 if whole else gpus
    found = [index for index, left in enumerate(free) if left >= part - 1e-9][:wanted]
    if len(found) < wanted:
        return None
    for index in found:
        free[index] -= part
    return tuple(found)


def _free(room: Room) -> str:
    free = room.node.capacity - room.held
    return f"{free.cpus:g} CPUs, {free.gpus:g} GPUs"
