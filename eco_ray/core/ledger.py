"""Rows of the energy ledger: what an agent saw, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eco_ray.core.units import Nature

OwnerKind = Literal["job", "model"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What one owner used of a node during an interval."""

    owner_kind: OwnerKind
    #: job id, or `name:version` of a model
    owner_id: str
    #: attempt number of a job; 0 for a model
    attempt: int
    #: CPU time of its processes [s]
    cpu_s: float
    #: CPUs that Ray holds for it
    reserved_cpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One interval of one node as its agent measured it. (node, boot_id, seq) is counted once, however often sent."""

    node: str
    #: new at each start of the agent
    boot_id: str
    seq: int
    #: grid time [s since epoch]
    start_s: float
    end_s: float
    #: energy of the node in grid time [mJ]
    energy_mj: int
    #: part of `energy_mj` that an idle node would have used [mJ]
    idle_mj: int
    nature: Nature
    #: which meter or model gave the energy
    source: str
    #: relative half-width of the error band
    error_rel: float
    usages: tuple[Usage, ...] = ()
    #: what was odd: "counter-reset", "clock-jump", ...; empty when nothing
    flags: tuple[str, ...] = ()
    #: CPU time of processes of the node that belong to no owner, e.g. raylet and agents [s]
    system_cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Share:
    """Energy that one owner is charged for one interval."""

    owner_kind: OwnerKind
    owner_id: str
    attempt: int
    energy_mj: int


@dataclass(frozen=True, slots=True)
class Interval:
    """A sample after attribution: the shares and the unallocated rest are exactly the node's energy."""

    sample: Sample
    zone: str
    pue: float
    shares: tuple[Share, ...]
    #: mean over the interval [gCO2e/kWh]; None: unknown, and so are the grams
    intensity_g_per_kwh: float | None
    #: where the intensity comes from
    intensity_source: str

    @property
    def unallocated_mj(self) -> int:
        """Energy of the node that belongs to nobody [mJ]."""
        return self.sample.energy_mj - sum(share.energy_mj for share in self.shares)


@dataclass(frozen=True, slots=True)
class NodeEnergy:
    """Sums of a node over the whole ledger."""

    node: str
    zone: str
    energy_mj: int
    attributed_mj: int
    #: operational carbon of the whole node [g]; None where an intensity was unknown
    operational_g: float | None
    #: operational carbon of the unallocated part [g]
    unallocated_g: float | None
    #: of its weakest interval
    nature: Nature

    @property
    def unallocated_mj(self) -> int:
        """Energy of the node that belongs to nobody [mJ]."""
        return self.energy_mj - self.attributed_mj


@dataclass(frozen=True, slots=True)
class OwnerInterval:
    """One share with its interval's time, intensity and nature: what reports and baselines are computed from."""

    owner_kind: OwnerKind
    owner_id: str
    attempt: int
    node: str
    zone: str
    start_s: float
    end_s: float
    energy_mj: int
    intensity_g_per_kwh: float | None
    pue: float
    nature: Nature
    source: str


@dataclass(frozen=True, slots=True)
class LedgerCheck:
    """Whether every interval's parts sum to its whole, by the stored columns."""

    #: intervals in the ledger
    rows: int
    #: sum over all intervals of |node energy - shares - unallocated| [mJ]: 0 if sound
    residual_mj: int
    #: `node/boot/sequence` of the intervals that do not sum, the first hundred
    broken: tuple[str, ...]
