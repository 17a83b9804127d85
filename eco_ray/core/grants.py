"""Room that is kept for replicas: on which node, for what, until when; and what of it they hold by now.

Ray says what others than our attempts hold of a node, and not who. What that has grown by since room was kept there is
what the replicas have taken of it, up to all of it; the rest is somebody else's. So a replica that starts in its room
takes nothing a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.jobs import Segment

#: how the message of a job begins that gave way
GIVES_WAY = "gives way to model"


@dataclass(frozen=True, slots=True)
class Grant:
    """Room that is kept for one replica of a model."""

    model: str
    node: str
    zone: str
    #: what the replica holds
    demand: Resources
    #: from when on, and until when [s since epoch]
    from_s: float
    until_s: float
    #: nobody needs it any more, and it is kept for a while lest the need comes back
    ended: bool = False

    @property
    def segment(self) -> Segment:
        """As the calendar holds it."""
        return Segment(self.node, self.zone, self.from_s, self.until_s)

    def to_json(self) -> dict[str, Any]:
        """As it is kept."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Grant:
        """What `to_json` gave."""
        return cls(**{**told, "demand": Resources(**told["demand"])})


@dataclass(frozen=True, slots=True)
class GaveWay:
    """What a job gave way to."""

    model: str
    #: the model's promised 95th percentile of the latency [s]; None: nothing was promised
    slo_p95_s: float | None
    #: workers that the job had before
    workers: int

    def __str__(self) -> str:
        promise = f", which promised p95 {self.slo_p95_s * 1000:g} ms" if self.slo_p95_s is not None else ""
        return f"{GIVES_WAY} {self.model}{promise}"


class Grants:
    """All of them, by node, with what others held when the first of a node was given."""

    def __init__(self) -> None:
        self._on: dict[str, list[Grant]] = {}
        self._base: dict[str, Resources] = {}

    def __iter__(self) -> Iterator[Grant]:
        return (grant for grants in self._on.values() for grant in grants)

    def __bool__(self) -> bool:
        return bool(self._on)

    def on(self, node: str) -> list[Grant]:
        """Those of a node."""
        return self._on.get(node, [])

    def of(self, model: str) -> list[Grant]:
        """Those of a model, in the order in which they were given on each node."""
        return [grant for grant in self if grant.model == model]

    def add(self, grant: Grant, foreign: Resources) -> None:
        """Keep room; `foreign`: what others than our attempts hold of the node now."""
        self._base.setdefault(grant.node, foreign)
        self._on.setdefault(grant.node, []).append(grant)

    def remove(self, grant: Grant) -> None:
        """Keep it no more; what the replica holds is somebody else's from now on."""
        left = self._on[grant.node]
        left.remove(grant)
        if not left:
            del self._on[grant.node], self._base[grant.node]

    def saw(self, node: str, foreign: Resources) -> None:
        """What others hold of a node now: what they held without the replicas is no more than that."""
        base = self._base.get(node)
        if base is not None:
            self._base[node] = Resources(*map(min, base.amounts, foreign.amounts))

    def taken(self, node: Node, foreign: Resources) -> Resources:
        """What of others' holdings is replicas in their room."""
        if node.name not in self._on:
            return Resources()
        kept, grown = self.kept(node), foreign - self._base[node.name]
        return Resources(*(min(max(0.0, more), most) for more, most in zip(grown.amounts, kept.amounts, strict=True)))

    def others(self, node: Node, foreign: Resources) -> Resources:
        """What of others' holdings is somebody else's."""
        return foreign - self.taken(node, foreign) if node.name in self._on else foreign

    def kept(self, node: Node) -> Resources:
        """What grants keep of a node, whether replicas hold it by now or not: each has a part of a GPU of its own."""
        return total(grant.demand.reserved_on(node.capacity) for grant in self._on.get(node.name, ()))

    def to_json(self) -> dict[str, Any]:
        """As they are kept."""
        return {
            "grants": [grant.to_json() for grant in self],
            "base": {node: asdict(held) for node, held in self._base.items()},
        }

    def restore(self, told: Mapping[str, Any]) -> None:
        """Take over what `to_json` gave."""
        for one in told["grants"]:
            grant = Grant.from_json(one)
            self.add(grant, Resources(**told["base"][grant.node]))


def held_by_others(given: Resources, ours: Resources, each: Iterable[Resources], capacity: Resources) -> Resources:
    """What is kept of a node for others than our attempts.

    `given`: what Ray has given away of it; `ours`: of that, our attempts; `each`: others, one by one, as far as they
    are known, with the GPU memory that they were declared to take, of which Ray knows nothing. Each of them has a part
    of a GPU of its own; what is left is somebody's, and counts as one.
    """
    left, kept = Resources(*(max(0.0, amount) for amount in (given - ours).amounts)), Resources()
    for demand in each:
        asked = replace(demand, gpu_memory_gb=0.0)
        if asked.fits_in(left):  # else it has ended, or is of an attempt
            left, kept = left - asked, kept + demand.reserved_on(capacity)
    return Resources(*(max(0.0, round(amount, 4)) for amount in (kept + left.reserved_on(capacity)).amounts))


def total(amounts: Iterable[Resources]) -> Resources:
    """The sum of amounts."""
    return sum(amounts, Resources())
