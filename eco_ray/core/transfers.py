"""Bytes that were moved between machines, and the energy that this is taken to cost.

No meter of ours sees a network. So these estimates are rows of their own, and no part of any node's or owner's sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from eco_ray.core.units import MJ_PER_J, Nature

#: energy of moving data between sites [J/GB]: 0.001 kWh/GB within one provider's network (Cloud Carbon Footprint,
#: methodology 2.x, after Aslan et al. 2018 extrapolated)
TRANSFER_J_PER_GB = 3600.0
#: in words
TRANSFER_SOURCE = f"{TRANSFER_J_PER_GB:g} J/GB, Cloud Carbon Footprint"

Direction = Literal["push", "pull"]
DIRECTIONS: tuple[str, ...] = get_args(Direction)


@dataclass(frozen=True, slots=True)
class Transfer:
    """What one push or pull of a model moved."""

    #: one that is booked again is counted once
    id: str
    #: when it ended [s since epoch]
    time_s: float
    #: `name:version` of the model; `name` where a push was broken off
    owner_id: str
    direction: Direction
    #: where to or from, without a credential
    place: str
    #: bytes that went to the place or came from it (at most, where it broke off), and bytes that did not have to, as
    #: they were there
    moved_bytes: int
    reused_bytes: int
    #: of the network [mJ]
    energy_mj: int
    nature: Nature
    #: of the energy, in words
    source: str


def transfer_energy_mj(moved_bytes: int) -> int:
    """Energy of the network for so many bytes [mJ]."""
    return round(moved_bytes / 1e9 * TRANSFER_J_PER_GB * MJ_PER_J)


def transferred(
    id_: str,
    time_s: float,
    owner_id: str,
    direction: Direction,
    place: str,
    moved_bytes: int,
    reused_bytes: int,
    *,
    remote: bool,
    whole: bool = True,
) -> Transfer:
    """The row of a transfer; a store that is a directory (`remote` is false) is taken to be on this machine.

    `whole`: False where it broke off, so that `moved_bytes` is an upper bound.
    """
    energy_mj = transfer_energy_mj(moved_bytes) if remote else 0
    source = TRANSFER_SOURCE if remote else "a directory, taken to be on this machine: no network"
    source += "" if whole else "; it broke off: at most"
    return Transfer(
        id_, time_s, owner_id, direction, place, moved_bytes, reused_bytes, energy_mj, Nature.ASSUMED, source
    )
