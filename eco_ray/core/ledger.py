"""Rows of the energy ledger: what an agent saw, what became of it, and what was put right later."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError
from eco_ray.times import iso_utc

OwnerKind = Literal["job", "model"]
OWNER_KINDS: tuple[str, ...] = get_args(OwnerKind)

#: what a row may say, so that one absurd value can spoil no sum, no calendar and no export of all the others.
#: 9999-12-31T23:59:59Z, the last second of calendars; the first is 0 [s since epoch]
MAX_TIME_S = 253_402_300_799.0
MAX_LENGTH_S = 366 * 86_400.0
#: as in the cluster file
MAX_PUE = 10.0
#: a hundred times that of coal [gCO2e/kWh]
MAX_G_PER_KWH = 100_000.0
#: relative half-width of an error band: the unsurest meter still says more than this
MAX_ERROR_REL = 1000.0
#: flag of an interval that overlaps in time with one of another life of its node's agent
OTHER_LIFE = "overlap-other-life"


def check_times(start_s: float, end_s: float, what: str) -> None:
    """Raise EcoRayError unless these are the ends of an interval that the ledger takes."""
    for name, time_s in (("start_s", start_s), ("end_s", end_s)):
        if not math.isfinite(time_s):
            raise EcoRayError(f"{name} of {what} is {time_s}, must be finite: check the clock of the node's agent")
        if not 0 <= time_s <= MAX_TIME_S:
            raise EcoRayError(
                f"{name} of {what} is {time_s:g} s since 1970, limits 0 to {MAX_TIME_S:.0f} (the year 9999): "
                "check the clock of the node's agent"
            )
    if end_s <= start_s:
        raise EcoRayError(
            f"{what} ends at {end_s!r} s, not after its start at {start_s!r} s: check the clock of the node's agent"
        )
    if end_s - start_s > MAX_LENGTH_S:
        raise EcoRayError(
            f"{what} is {end_s - start_s:g} s long, limit {MAX_LENGTH_S:.0f} s (366 days): "
            "check the clock of the node's agent, and its speed"
        )


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
    #: replica of a model; empty: not known, or a job
    part: str = ""


@dataclass(frozen=True, slots=True)
class GpuUse:
    """What one owner used of a GPU, or of a slice of it, during an interval."""

    owner_kind: OwnerKind
    owner_id: str
    attempt: int
    #: time during which its kernels ran, weighed by how much of the GPU they used: SM utilisation x slice x time [s]
    busy_s: float
    #: part of the GPU that is held for it, in [0, 1]
    reserved: float = 0.0
    #: as in `Usage`
    part: str = ""


@dataclass(frozen=True, slots=True)
class Served:
    """What a replica answered for one tenant during an interval; with 0 requests: it reports, and answered nobody."""

    #: `name:version` of the model
    owner_id: str
    #: the replica
    part: str
    #: as the requests named it; empty: they named none
    tenant: str
    requests: int
    #: what the requests asked for, e.g. images
    items: int
    #: time that it computed for them x their share of their batch, summed over the requests [s]
    service_s: float
    #: owner that its process is charged to before the split, where that is not `owner_id`: of replicas of many models
    process: str = ""


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One GPU of a node during an interval. Its energy is a part of the node's."""

    #: UUID, or `index-N` where it has none
    gpu: str
    #: in grid time [mJ]
    energy_mj: int
    #: part of `energy_mj` that the idle GPU would have used [mJ]
    idle_mj: int
    uses: tuple[GpuUse, ...] = ()
    #: the same as `busy_s` of processes that belong to no owner [s]
    system_busy_s: float = 0.0


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
    #: energy of the node with its GPUs in grid time [mJ]
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
    #: the node's GPUs that are metered by themselves; what is left of `energy_mj` is the host's
    gpus: tuple[GpuSample, ...] = ()
    #: by replica and tenant; replicas that are not in it do not report their requests
    served: tuple[Served, ...] = ()


@dataclass(frozen=True, slots=True)
class Share:
    """Energy that one owner is charged for one interval."""

    owner_kind: OwnerKind
    owner_id: str
    attempt: int
    energy_mj: int
    #: who the owner works for; empty: not known
    tenant: str = ""
    #: replica of a model; empty: not known, or a job
    part: str = ""
    #: of the tenant that the replica answered, 0: it waited; None: not known, or a job
    requests: int | None = None
    #: what these asked for, e.g. images; None where `requests` is
    items: int | None = None


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
    #: value of a `SignalKind`; empty: unknown
    intensity_kind: str = ""
    #: how the intensity is known; None: unknown
    intensity_nature: Nature | None = None
    #: how long before the interval's end its source had last renewed the value [s]; 0 for a computed profile
    intensity_age_s: float | None = None

    @property
    def unallocated_mj(self) -> int:
        """Energy of the node that belongs to nobody [mJ]."""
        return self.sample.energy_mj - sum(share.energy_mj for share in self.shares)


@dataclass(frozen=True, slots=True)
class Correction:
    """What is said about an interval later. The interval's own row stays; sums are those of the row and all of these.

    Energies are differences to what holds so far. What `shares` leave of `energy_mj` is the difference of the
    unallocated energy, so that parts and whole stay equal. No part may become negative.
    """

    node: str
    boot_id: str
    seq: int
    #: why, in words
    reason: str
    #: who
    author: str
    #: when it was made, in grid time [s since epoch]
    made_s: float
    #: of what it states: a value put in by hand is assumed
    nature: Nature = Nature.ASSUMED
    #: difference of the node's energy [mJ]
    energy_mj: int = 0
    #: differences of owners' energies [mJ]
    shares: tuple[Share, ...] = ()
    #: in the place of the one before [gCO2e/kWh]; None: it stays
    intensity_g_per_kwh: float | None = None
    intensity_source: str = ""
    intensity_kind: str = ""

    @property
    def unallocated_mj(self) -> int:
        """Difference of the energy that belongs to nobody [mJ]."""
        return self.energy_mj - sum(share.energy_mj for share in self.shares)


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
    tenant: str = ""
    #: these three as in `Share`
    part: str = ""
    requests: int | None = None
    items: int | None = None


@dataclass(frozen=True, slots=True)
class HourlyEnergy:
    """What one owner, or nobody, was charged on a node in an hour, corrections included."""

    #: start of the hour [s since epoch]
    hour_s: float
    node: str
    zone: str
    #: empty: unallocated
    owner_kind: OwnerKind | Literal[""]
    owner_id: str
    attempt: int
    tenant: str
    #: replica of a model; empty: not known, or no model
    part: str
    #: of the energy
    nature: Nature
    source: str
    #: value of a `SignalKind`; empty: unknown
    intensity_kind: str
    intensity_nature: Nature | None
    #: of the rows: those with another one stand apart
    pue: float
    energy_mj: int
    #: location-based; None where the intensity is unknown: such intervals stand apart
    operational_g: float | None
    #: half-width of the energy's error band [mJ]: errors of one meter add up
    error_mj: float
    #: that are known; an interval over the turn of an hour has them split by time; None: none is known
    requests: int | None
    #: the oldest intensity's age [s]; None where one was unknown
    intensity_age_s: float | None
    #: the hour, and how far the intervals that have a part in it reach: each has one intensity for all its length
    from_s: float
    to_s: float
    #: start of the first and end of the last interval in it, cut to the hour and the span that was asked for
    first_s: float
    last_s: float


@dataclass(frozen=True, slots=True)
class Overlap:
    """Time of a node that two lives of its agent counted: as a sentence, with the cure."""

    node: str
    #: the life that was booked later, and the one before
    boot_id: str
    other_boot_id: str
    #: of the later life's intervals that overlap: start of the first, end of the last [s since epoch]
    start_s: float
    end_s: float
    #: how many
    intervals: int

    def __str__(self) -> str:
        return (
            f"node {self.node}: {self.intervals} intervals of agent life {self.boot_id}, {iso_utc(self.start_s)} to "
            f"{iso_utc(self.end_s)}, overlap in time with agent life {self.other_boot_id}: all sums have their energy, "
            "their times are in doubt. If the node's clock was set back, let NTP slew it, and put the intensity right "
            "by `eco-ray ledger correct`; if two agents ran at once, end one and correct the energy"
        )


@dataclass(frozen=True, slots=True)
class ChainCheck:
    """Whether the ledger's rows are those that were written, in their order, and none is missing."""

    #: intervals and corrections
    entries: int
    #: hash of the last one, by the head that is kept beside the rows
    head: str
    #: names of the entries that do not follow from the one before or do not sum up, the first hundred
    broken: tuple[str, ...]
    #: the same in sentences, and what else is wrong
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class LedgerCheck:
    """Whether every interval's parts sum to its whole, by the stored columns."""

    #: intervals in the ledger
    rows: int
    #: sum over all intervals and corrections of |node energy - shares - unallocated| [mJ]: 0 if sound
    residual_mj: int
    #: `node/boot/sequence` of the intervals that do not sum, the first hundred
    broken: tuple[str, ...]
