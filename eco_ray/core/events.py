"""What the orchestrator is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.intensity import IntensitySeries, Kind, kind_of
from eco_ray.core.jobs import JobSpec


@dataclass(frozen=True, slots=True)
class JobSubmitted:
    """A checked job came in."""

    job_id: str
    spec: JobSpec
    nonce: str = ""


@dataclass(frozen=True, slots=True)
class JobCancelled:
    """A person wants the job ended."""

    job_id: str


@dataclass(frozen=True, slots=True)
class SuspendRequested:
    """A person wants the job suspended until they resume it."""

    job_id: str


@dataclass(frozen=True, slots=True)
class ResumeRequested:
    """A person lets a held job go on, perhaps with other budgets; None: as they are."""

    job_id: str
    budget_g: float | None = None
    budget_j: float | None = None


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """The attempt's process runs."""

    job_id: str
    number: int
    #: when it was seen running; None: now
    started_s: float | None = None


@dataclass(frozen=True, slots=True)
class AttemptProgressed:
    """The attempt reported through its session."""

    job_id: str
    number: int
    #: share of the work done, in [0, 1]; None: not said
    done: float | None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    #: when it had restored a checkpoint, or began to work
    productive_s: float | None = None
    checkpoint_s: float | None = None
    checkpoint_gb: float | None = None
    #: when it was so; None: now
    at_s: float | None = None


@dataclass(frozen=True, slots=True)
class JobAccounted:
    """What the ledger has for a job, all attempts together."""

    job_id: str
    energy_j: float
    #: None: an intensity was unknown
    operational_g: float | None


#: exited: by itself; stopped: through Ray's job API; lost: node or supervisor gone; refused: could not be launched
Outcome = Literal["exited", "stopped", "lost", "refused"]


@dataclass(frozen=True, slots=True)
class AttemptExited:
    """The attempt is over, and nothing of it runs any more."""

    job_id: str
    number: int
    outcome: Outcome
    exit_code: int | None = None
    message: str = ""
    #: when it ended; None: now
    ended_s: float | None = None


@dataclass(frozen=True, slots=True)
class ForecastArrived(Generic[Kind]):
    """Intensity forecasts by zone, all of one kind (else MixedKindsError); zones that are left out keep theirs.

    Where their kind is another one than before, zones that are left out have none.
    """

    series: Mapping[str, IntensitySeries[Kind]]
    #: what was, for policies that compare with the past 24 h
    past: Mapping[str, IntensitySeries[Kind]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the kinds."""
        kind_of(*self.series.values(), *self.past.values())


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """A node is there, new or again."""

    node: Node


@dataclass(frozen=True, slots=True)
class NodeLost:
    """A node went away; its attempts are reported one by one."""

    name: str


@dataclass(frozen=True, slots=True)
class NodeDraining:
    """A node is being emptied, by whomever, and will go away. May be told again and again."""

    name: str


@dataclass(frozen=True, slots=True)
class NodeKept:
    """A node that was to be emptied is not, after all: it takes jobs again."""

    name: str


@dataclass(frozen=True, slots=True)
class ForeignUse:
    """What others than our attempts hold of a node."""

    node: str
    #: each part of a GPU as what has to be kept for it (`core.grants.held_by_others`)
    held: Resources


@dataclass(frozen=True, slots=True)
class NeededReplica:
    """A replica that a latency objective needs, and where it may be."""

    #: what Ray holds for it
    demand: Resources
    #: nodes, and zones, that it may be on; empty: any
    nodes: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()

    def may_be_on(self, node: Node) -> bool:
        """Whether a node is allowed, and its capacity large enough."""
        allowed = (not self.nodes or node.name in self.nodes) and (not self.zones or node.zone in self.zones)
        return allowed and self.demand.fits_node(node.capacity)


@dataclass(frozen=True, slots=True)
class ServingNeeds:
    """All replicas of a model for which jobs must leave room, those that have it by now among them; none: none do.

    It may be told again and again, and is the same need as long as it says the same.
    """

    model: str
    replicas: tuple[NeededReplica, ...] = ()
    #: until when they are needed [s since epoch]; None: nobody knows
    until_s: float | None = None
    #: promised 95th percentile of the model's latency [s]; None: none was
    slo_p95_s: float | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


Event = (
    JobSubmitted
    | JobCancelled
    | SuspendRequested
    | ResumeRequested
    | AttemptStarted
    | AttemptProgressed
    | JobAccounted
    | AttemptExited
    | ForecastArrived
    | NodeJoined
    | NodeLost
    | NodeDraining
    | NodeKept
    | ForeignUse
    | ServingNeeds
    | Tick
)
