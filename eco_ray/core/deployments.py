"""A model that is served: what somebody asked for, and what Ray Serve is told of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from eco_ray.core.cluster import Resources
from eco_ray.core.replica_places import Place
from eco_ray.core.variants import Mixing
from eco_ray.errors import UsageError

#: requests that a replica works at or holds, where no latency was promised: for Serve's autoscaling
ONGOING = 2.0
#: of the wait that a promise leaves, so much may be used up by requests ahead
_OF_PROMISE = 0.5
_MOST_ONGOING = 100.0
#: what each replica of shared models holds
SHARED_DEMAND = Resources(1.0)


@dataclass(frozen=True, slots=True)
class ZonePart:
    """Where replicas of a deployment are in one grid zone."""

    zone: str
    #: as those of the deployment
    nodes: tuple[str, ...]
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Deployment:
    """One model behind HTTP."""

    #: its name in URLs and in the registry
    model: str
    version: int
    #: alias that the version follows when it is moved; empty: the version stays
    follows: str = ""
    #: where versions are; empty: `path` is the model
    registry: str = ""
    #: a local file or folder, and the SHA-256 of what is in it
    path: str = ""
    sha256: str = ""
    #: another version that gets some of the requests
    canary: int | None = None
    canary_percent: int = 0
    #: a smaller version that answers a part of the requests while the grid is dirty, and what was allowed of it
    variant: int | None = None
    mixing: Mixing | None = None
    min_replicas: int = 1
    max_replicas: int = 1
    #: of each replica
    demand: Resources = Resources(1.0)  # noqa: RUF009  # frozen
    #: promised 95th percentile of the latency [s]; None: nothing was promised
    slo_p95_s: float | None = None
    #: how long a request waits for others to be computed with [s]; None: it is computed with those that wait anyway
    batch_wait_s: float | None = None
    #: replicas in turn, instead of the one with the fewest connections
    round_robin: bool = False
    #: answered by replicas that it shares with other models
    shared: bool = False
    #: replicas of its own in each zone, between which requests are split; numbers of replicas are those of each zone
    per_zone: bool = False
    #: of such a one, its zones; and of the part in one zone, which one it is
    parts: tuple[ZonePart, ...] = ()
    zone: str = ""
    #: grid zones that replicas may be in; empty: all
    zones: tuple[str, ...] = ()
    #: nodes that replicas may be on, in the order in which they are filled; empty: all of the cluster
    nodes: tuple[str, ...] = ()
    #: replicas to begin with, where Serve scales: as many as there were; 0: one, or the least
    initial_replicas: int = 0
    #: where replicas go by the plan, in the order in which they start
    places: tuple[Place, ...] = ()
    #: why the version that `follows` means now is not served; empty: it is
    refused: str = ""
    #: which one that is
    refused_version: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As it is kept."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Deployment:
        """What `to_json` gave."""
        parts = (ZonePart(one["zone"], tuple(one["nodes"]), _places(one["places"])) for one in told.get("parts", ()))
        kept = {
            "demand": Resources(**told["demand"]),
            "mixing": Mixing(**told["mixing"]) if told.get("mixing") else None,
            "nodes": tuple(told["nodes"]),
            "zones": tuple(told["zones"]),
            "places": _places(told["places"]),
            "parts": tuple(parts),
        }
        return cls(**{**told, **kept})

    def reference(self, version: int) -> str:
        """name:VERSION"""
        return f"{self.model}:{version}"

    @property
    def beside(self) -> int | None:
        """The version beside the one that is served: a canary, or a smaller variant; never both."""
        return self.variant if self.canary is None else self.canary

    @property
    def beside_part(self) -> Deployment | None:
        """The version beside it as a deployment by itself; None: there is none.

        A variant has as many replicas as its part of the requests takes, a canary has one.
        """
        if self.beside is None:
            return None
        least, most = 1, 1
        if self.canary is None:
            share = self.mixing.max_share if self.mixing else 0.0
            least, most = math.ceil(share * self.min_replicas), max(1, math.ceil(share * self.max_replicas))
        return replace(
            self,
            version=self.beside,
            canary=None,
            canary_percent=0,
            variant=None,
            mixing=None,
            min_replicas=least,
            max_replicas=most,
            places=(),
        )

    @property
    def versions(self) -> tuple[int, ...]:
        """Those that answer, first the one that is served."""
        return (self.version,) if self.beside is None else (self.version, self.beside)

    def in_zones(self) -> tuple[Deployment, ...]:
        """Its parts, each as a deployment; without zones of its own it is one itself."""
        if not self.per_zone:
            return (self,)
        return tuple(
            replace(self, per_zone=False, parts=(), zone=part.zone, zones=(), nodes=part.nodes, places=part.places)
            for part in self.parts
        )

    def apps(self) -> tuple[Deployment, ...]:
        """What has a Serve application of its own, but for a canary: the parts, and then the router before them."""
        return (*self.in_zones(), self) if self.per_zone else (self,)

    def promoted(self, version: int) -> Deployment:
        """With a version for all requests; a canary ends that becomes it, or that the live version is chosen over.

        A variant ends that becomes it, and stays beside any other.
        """
        ends = version in (self.canary, self.version)
        variant = None if version == self.variant else self.variant
        return replace(
            self,
            version=version,
            canary=None if ends else self.canary,
            canary_percent=0 if ends else self.canary_percent,
            variant=variant,
            mixing=None if variant is None else self.mixing,
            refused="",
            refused_version=None,
        )


class SharedModel(NamedTuple):
    """What a replica of many models has to know of one: another one is loaded anew."""

    model: str
    version: int
    registry: str
    path: str
    sha256: str

    @classmethod
    def of(cls, one: Deployment) -> SharedModel:
        """That of a deployment."""
        return cls(one.model, one.version, one.registry, one.path, one.sha256)

    @property
    def deployment(self) -> Deployment:
        """As where its files are."""
        return Deployment(self.model, self.version, registry=self.registry, path=self.path, sha256=self.sha256)

    def __str__(self) -> str:
        return f"{self.model}:{self.version}"


def check_change(known: Deployment | None, wanted: Deployment) -> None:
    """Raise UsageError for what cannot be, or cannot change while a model is served."""
    others = {"--shared": wanted.shared, "--canary": wanted.canary is not None, "--variant": wanted.variant is not None}
    if wanted.per_zone and (told := [option for option, there in others.items() if there]):
        raise UsageError(f"{wanted.model} cannot be served per zone and with {told[0]}; leave one of both out")
    if known is None:
        return
    if known.round_robin != wanted.round_robin:
        raise UsageError(
            f"the routing of {wanted.model} cannot change while it is served: Ray Serve would end it before it "
            "starts anew; undeploy it first"
        )
    ways = [
        "per zone" if one.per_zone else "by shared replicas" if one.shared else "by replicas of its own"
        for one in (known, wanted)
    ]
    if ways[0] != ways[1]:
        raise UsageError(f"{wanted.model} is served {ways[0]}, and cannot be {ways[1]} meanwhile; undeploy it first")


def _places(told: Sequence[Mapping[str, Any]]) -> tuple[Place, ...]:
    return tuple(Place(one["node"], _tuple(one["devices"])) for one in told)


def _tuple(told: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if told is None else tuple(told)


def ongoing_target(latency_s: float, slo_p95_s: float | None) -> float:
    """Requests that one replica may work at or hold, so that the last of them is answered as promised.

    A replica answers one after the other, `latency_s` each; half of the promise is left for what varies. At least one.
    """
    if slo_p95_s is None or latency_s <= 0:
        return ONGOING
    return min(_MOST_ONGOING, max(1.0, _OF_PROMISE * slo_p95_s / latency_s))
