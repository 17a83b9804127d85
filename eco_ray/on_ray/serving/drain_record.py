"""What is kept of emptying nodes, so that whoever goes on does nothing twice; and what is told of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from eco_ray.core.consolidation import DrainState

#: of the record in the store
META_KEY = "consolidation"
#: Ray shows a drain at once; after so long without it has not taken it, or not kept it [wall s]
TAKEN_S = 30.0


@dataclass(frozen=True, slots=True)
class DrainAnswer:
    """What Ray said when it was asked to drain a node."""

    accepted: bool
    #: why not; empty: accepted
    why: str = ""


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A drain that was decided, and has not ended yet."""

    node: str
    #: Ray's id of it: a node that comes back under the same name has another one
    ray_id: str
    why: str
    #: wall times [s since epoch]
    began_s: float
    deadline_s: float
    #: names of all guests of the cluster when it began
    guests: tuple[str, ...]
    #: when Ray was last seen to drain it; -1: not yet
    seen_s: float = -1.0


@dataclass(frozen=True, slots=True)
class Told:
    """What came of a look."""

    #: nothing, waits, would drain, draining, emptied, released, gone, refused or unknown
    did: str
    #: the node that it is about
    node: str | None
    why: str
    #: wall time [s since epoch]
    looked_s: float


@dataclass(frozen=True, slots=True)
class Kept:
    """The whole record."""

    state: DrainState = DrainState()  # noqa: RUF009  # frozen
    under_way: UnderWay | None = None
    told: Told = Told("nothing", None, "nobody has looked yet", 0.0)
    #: nodes with nothing on them, and since when [s since epoch]
    empty: tuple[tuple[str, float], ...] = ()
    #: how the last drain ended
    last: Told | None = None
    #: wall time of the last look that saw the cluster [s since epoch]
    looked_s: float = -math.inf
    #: what has fewer replicas up than it should, and since when [s since epoch]
    starting: tuple[tuple[str, float], ...] = ()
    #: nodes that were seen to be ones that come back
    returning: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it is kept; JSON has no infinity."""
        told = asdict(self)
        for place in (told, told["state"]):
            for key, value in place.items():
                place[key] = None if value == -math.inf else value
        return told

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Kept:
        """What `to_json` gave; {}: nothing."""
        if not told:
            return cls()
        state: dict[str, Any] = {key: -math.inf if value is None else value for key, value in told["state"].items()}
        for key in ("filled", "emptied"):
            state[key] = tuple((name, until_s) for name, until_s in state[key])
        under_way = told["under_way"]
        return cls(
            DrainState(**state),
            UnderWay(**{**under_way, "guests": tuple(under_way["guests"])}) if under_way else None,
            Told(**told["told"]),
            tuple((name, since_s) for name, since_s in told["empty"]),
            Told(**told["last"]) if told["last"] else None,
            -math.inf if told["looked_s"] is None else told["looked_s"],
            tuple((app, since_s) for app, since_s in told.get("starting", ())),
            tuple(told.get("returning", ())),
        )


def shown(told: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The record for `eco-ray status`; None: nobody has looked yet."""
    if not told:
        return None
    kept = Kept.from_json(told)
    return {**asdict(kept.told), "last": asdict(kept.last) if kept.last else None}
