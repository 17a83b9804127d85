"""Which node is emptied so that it can be released: the one that saves most, if all on it has a place elsewhere.

    saved = horizon * (grams per hour of what is on the node - those it adds where it goes) - moves - waking      [g]

With the same nodes everywhere that is the dirtiest. Ray's own compaction knows no carbon and empties the node with the
least on it, which may be the green one (docs/green-serving.md). What flaps must not move things to and fro: a node has
to be worth it for a while, drains have a gap, and what was moved stays. A pure function: live, dry run and simulator
call the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.replica_places import Room, added_g_per_h, memory_fits, without
from eco_ray.core.units import MJ_PER_J, grams


@dataclass(frozen=True, slots=True)
class Guest:
    """A replica or a job on a node."""

    #: for people, and unique
    name: str
    node: str
    #: as Ray holds it, with its GPUs
    demand: Resources
    #: grid zones that it may be in, for residency and latency; empty: all
    zones: tuple[str, ...] = ()
    #: nodes that it may be on, in the order in which whoever starts it fills them: it goes to the first with room.
    #: Empty: to the one on which it adds the fewest grams
    nodes: tuple[str, ...] = ()
    #: of leaving and beginning again elsewhere: a cold start, or what is lost of a job and its transfer [g]
    move_g: float = 0.0
    #: it cannot go now: a job without checkpoints, or one that has just been resumed
    stays: bool = False
    #: a node that is asleep comes back for it, if no other one has room
    wakes: bool = False


@dataclass(frozen=True, slots=True)
class Hosts:
    """Nodes that are on or can be woken, without those that are being emptied, and what is on them."""

    now_s: float
    #: each with the mean intensity of its zone over the horizon
    rooms: tuple[Room, ...]
    guests: tuple[Guest, ...]
    #: nodes that are not emptied, and why, in a few words
    kept: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Consolidation:
    """When emptying a node is worth it, and how steady that is."""

    #: so long savings are counted
    horizon_s: float = 3600.0
    #: of the grams of what is on the node, so much has to be saved [part]
    min_saving: float = 0.05
    #: it has to be worth it for so long without a break
    hold_s: float = 300.0
    #: between two drains
    gap_s: float = 900.0
    #: a node that was filled is not emptied for so long, and one that was emptied is not filled
    rest_s: float = 3600.0
    #: a node with nothing on it is released after so long; `release_after_s`
    empty_s: float = 60.0


@dataclass(frozen=True, slots=True)
class DrainState:
    """What is remembered between two looks."""

    #: the node that is to be emptied, if it stays worth it; empty: none
    candidate: str = ""
    since_s: float = 0.0
    drained_s: float = -math.inf
    #: nodes that were filled, and until when they are not emptied
    filled: tuple[tuple[str, float], ...] = ()
    #: nodes that were emptied, and until when they are not filled
    emptied: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Move:
    """What goes where."""

    guest: str
    to: str


@dataclass(frozen=True, slots=True)
class Drain:
    """The node to be emptied now; None: none, and why."""

    node: str | None
    moves: tuple[Move, ...]
    #: over the horizon
    saved_g: float
    why: str


def next_step(
    hosts: Hosts, empty_since_s: Mapping[str, float], state: DrainState | None, config: Consolidation
) -> tuple[Drain, DrainState]:
    """The node that goes now: one that has been empty for long enough, else one that is to be emptied.

    `empty_since_s`: nodes with nothing on them, and since when. The state to give next time is the second.
    """
    for node in (room.node for room in hosts.rooms if room.node.name in empty_since_s.keys() - hosts.kept.keys()):
        empty_s = hosts.now_s - empty_since_s[node.name]
        if empty_s >= release_after_s(node, config):
            why = f"{node.name} is released: nothing has been on it for {empty_s:.0f} s"
            return Drain(node.name, (), 0.0, why), state or DrainState()
    return next_drain(hosts, state, config)


def next_drain(hosts: Hosts, state: DrainState | None, config: Consolidation) -> tuple[Drain, DrainState]:
    """The decision, and the state to give next time; None: nothing is remembered."""
    state = state or DrainState()
    state = replace(state, filled=_yet(state.filled, hosts.now_s), emptied=_yet(state.emptied, hosts.now_s))
    tried = {room.node.name: _emptied(room, hosts, state, config) for room in hosts.rooms if room.held != Resources()}
    worth = {name: one for name, one in tried.items() if isinstance(one, Drain)}
    if not worth:
        words = "; ".join(f"{name}: {why}" for name, why in tried.items()) or "there is nothing on any"
        return Drain(None, (), 0.0, f"no node is emptied: {words}"), replace(state, candidate="")
    if state.candidate not in worth:
        best = max(worth, key=lambda name: (worth[name].saved_g, name))
        state = replace(state, candidate=best, since_s=hosts.now_s)
    found = worth[state.candidate]
    left_s = max(state.since_s + config.hold_s, state.drained_s + config.gap_s) - hosts.now_s
    if left_s > 0:
        return Drain(None, (), 0.0, f"nothing is moved for another {left_s:.0f} s; then {found.why}"), state
    until_s = hosts.now_s + config.rest_s
    filled = {**dict(state.filled), **{move.to: until_s for move in found.moves}}
    emptied = {**dict(state.emptied), state.candidate: until_s}
    return found, DrainState(drained_s=hosts.now_s, filled=tuple(filled.items()), emptied=tuple(emptied.items()))


def release_after_s(node: Node, config: Consolidation) -> float:
    """How long a node with nothing on it is kept on [s]: until its waiting has taken the energy of waking it.

    Whenever it is needed next, that takes at most twice what would have been least (Karlin et al., Algorithmica 3,
    1988; as for the last replica of a model).
    """
    return max(config.empty_s, node.wake_j / node.idle_w if node.idle_w > 0 else math.inf)


def _yet(times: tuple[tuple[str, float], ...], now_s: float) -> tuple[tuple[str, float], ...]:
    return tuple((name, until_s) for name, until_s in times if until_s > now_s)


def _emptied(room: Room, hosts: Hosts, state: DrainState, config: Consolidation) -> Drain | str:
    """How a node could be emptied, or why not."""
    guests = [guest for guest in hosts.guests if guest.node == room.node.name]
    stuck = _stuck(room, guests, hosts, state)
    if stuck:
        return stuck
    emptied = {room.node.name, *dict(state.emptied)}
    able = [one for one in hosts.rooms if one.node.name not in emptied and one.intensity_g_per_kwh is not None]
    moved = _places(guests, able)
    if isinstance(moved, str):
        return moved
    moves, elsewhere_g_per_h, woken_g = moved
    hours = config.horizon_s / 3600
    here_g = added_g_per_h(replace(room, held=Resources()), room.held) * hours
    moves_g = sum(guest.move_g for guest in guests) + woken_g
    saved_g = here_g - elsewhere_g_per_h * hours - moves_g
    words = ", ".join(f"{move.guest} to {move.to}" for move in moves)
    if saved_g <= 0:
        return f"would emit {-saved_g:.3g} g more ({words})"
    if saved_g < config.min_saving * here_g:
        return f"saves {saved_g:.3g} of {here_g:.3g} g only ({words})"
    why = f"{room.node.name} is emptied: saves {saved_g:.3g} of {here_g:.3g} g in {hours:.3g} h ({words})"
    return Drain(room.node.name, tuple(moves), saved_g, why)


def _stuck(room: Room, guests: Sequence[Guest], hosts: Hosts, state: DrainState) -> str:
    """Why a node cannot be emptied, wherever its guests could go; empty: it can."""
    others = without(room, sum((guest.demand for guest in guests), Resources())).held
    staying = next((guest.name for guest in guests if guest.stays), "")
    if room.node.name in hosts.kept:
        return hosts.kept[room.node.name]
    if room.intensity_g_per_kwh is None:
        return "its intensity is unknown"
    if room.node.name in dict(state.filled):
        return "filled lately"
    if others != Resources():
        return f"somebody else holds {others}"
    return f"{staying} stays" if staying else ""


def _places(guests: Sequence[Guest], rooms: Sequence[Room]) -> tuple[list[Move], float, float] | str:
    """Where each goes, the largest first; the grams per hour that all add, and those of waking nodes."""
    held, moves, added, woken_g = {room.node.name: room for room in rooms}, list[Move](), 0.0, 0.0
    for guest in sorted(guests, key=_size, reverse=True):
        able = [room for room in held.values() if _takes(room, guest)]
        if not able:
            return f"{guest.name} has no room elsewhere"
        room = min(able, key=partial(_preferred, guest))
        added += added_g_per_h(room, guest.demand)
        if room.node.sleeps and room.held == Resources():
            woken_g += grams(room.node.wake_j * MJ_PER_J, room.intensity_g_per_kwh or 0.0, room.node.pue)
        held[room.node.name] = replace(room, held=room.held + guest.demand.reserved_on(room.node.capacity))
        moves.append(Move(guest.name, room.node.name))
    return moves, added, woken_g


def _preferred(guest: Guest, room: Room) -> tuple[int, float, str]:
    """The room with the least is where it goes."""
    rank = guest.nodes.index(room.node.name) if guest.nodes else 0
    return rank, added_g_per_h(room, guest.demand), room.node.name


def _takes(room: Room, guest: Guest) -> bool:
    node, demand = room.node, guest.demand
    return (
        (guest.wakes or not room.asleep)
        and (not guest.zones or node.zone in guest.zones)
        and (not guest.nodes or node.name in guest.nodes)
        and demand.fits_node(node.capacity)
        and memory_fits(node, demand)
        and (room.held + demand.reserved_on(node.capacity)).fits_in(node.capacity)
    )


def _size(guest: Guest) -> tuple[float, float, float]:
    return guest.demand.gpus, guest.demand.cpus, guest.demand.memory_gb
