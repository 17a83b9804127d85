"""Nodes: where jobs can run, in which zone, at what power."""

from __future__ import annotations

import math
from dataclasses import dataclass

from eco_ray.core.embodied import Embodied
from eco_ray.core.power import PowerCurve

#: what is counted of a node, in the order of `Resources.amounts`
KINDS = 4
#: parts of a GPU that are given out: with these, whatever adds up to so many GPUs can be put on so many. With fifths it
#: cannot: a half, two thirds and four fifths take three
_PARTS = (96, 48, 24, 12, 8, 6, 4, 3, 2, 1)
#: zone of a node that says none: it has no intensity, and numbers of it are unknown
UNKNOWN_ZONE = "unknown"


@dataclass(frozen=True, slots=True)
class Resources:
    """An amount of what a node has and a job holds."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory_gb: float = 0.0
    #: memory of all its GPUs together
    gpu_memory_gb: float = 0.0

    @property
    def amounts(self) -> tuple[float, float, float, float]:
        """CPUs, GPUs, GB, GB of GPUs."""
        return self.cpus, self.gpus, self.memory_gb, self.gpu_memory_gb

    def fits_in(self, free: Resources) -> bool:
        """Whether this demand fits into what is free (with a tolerance for sums of fractions)."""
        return (
            self.cpus <= free.cpus + 1e-9
            and self.gpus <= free.gpus + 1e-9
            and self.memory_gb <= free.memory_gb + 1e-9
            and self.gpu_memory_gb <= free.gpu_memory_gb + 1e-9
        )

    @property
    def gb_per_gpu(self) -> float:
        """Memory of each GPU that is used, if all have the same [GB]; a part of a GPU is one that is used."""
        return self.gpu_memory_gb / max(1, math.ceil(self.gpus - 1e-9)) if self.gpu_memory_gb else 0.0

    def fits_node(self, capacity: Resources) -> bool:
        """Whether an empty node of this capacity could take this demand: all of it, and each GPU its part of it."""
        return self.fits_in(capacity) and self.gb_per_gpu <= capacity.gb_per_gpu + 1e-9

    @property
    def has_parts(self) -> bool:
        """Whether it takes a part of a GPU."""
        return self.gpus > 0 and self.gpus - math.floor(self.gpus + 1e-9) > 1e-9

    def reserved_on(self, capacity: Resources) -> Resources:
        """What is to be kept for this demand on a node of this capacity, where nobody writes down which GPU is whose.

        A part of a GPU is on one GPU, and so is its memory. It counts as the next larger of the parts of a GPU that
        always fit together: jobs with 0.6 of a GPU, or with 25 of its 40 GB, have one each, as no two of them share it.
        """
        if not self.has_parts:
            return self
        whole = math.floor(self.gpus + 1e-9)
        part = self.gpus - whole
        if not whole and capacity.gb_per_gpu > 0:
            part = max(part, min(1.0, self.gpu_memory_gb / capacity.gb_per_gpu))
        most = next(count for count in _PARTS if count * part <= 1 + 1e-9)
        return Resources(self.cpus, whole + 1 / most, self.memory_gb, self.gpu_memory_gb)

    def __add__(self, other: Resources) -> Resources:
        return Resources(*(mine + theirs for mine, theirs in zip(self.amounts, other.amounts, strict=True)))

    def __sub__(self, other: Resources) -> Resources:
        return Resources(*(mine - theirs for mine, theirs in zip(self.amounts, other.amounts, strict=True)))

    def __mul__(self, workers: float) -> Resources:
        """What so many workers hold together."""
        return self if workers == 1 else Resources(*(amount * workers for amount in self.amounts))

    def __str__(self) -> str:
        of_gpus = f", {self.gpu_memory_gb:g} GB GPU memory" if self.gpu_memory_gb else ""
        return f"{self.cpus:g} CPUs, {self.gpus:g} GPUs, {self.memory_gb:g} GB memory{of_gpus}"


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of the cluster (or one third of a laptop that plays three)."""

    #: the name people use; unique in the cluster
    name: str
    #: electricity grid zone, e.g. DE
    zone: str
    capacity: Resources
    #: of all but its GPUs
    power: PowerCurve
    #: facility energy / IT energy, >= 1
    pue: float = 1.0
    #: Ray's id of the node that plays it now; None while it is away
    ray_node_id: str | None = None
    #: power of each GPU without work, and with a job on it [W]
    gpu_idle_w: float = 0.0
    gpu_busy_w: float = 0.0
    #: where these come from; empty: they are not counted
    gpu_source: str = ""
    #: it is switched off while nobody uses it, and draws nothing then
    sleeps: bool = False
    #: energy that switching it on takes [J]
    wake_j: float = 0.0
    #: what making it emitted, for reports; no decision looks at it. None: unknown
    embodied: Embodied | None = None

    def attributed_power_w(self, demand: Resources) -> float:
        """Power [W] that the ledger gives to a job which keeps its CPUs and GPUs busy: dynamic plus reserved idle."""
        share = self._share(demand)
        dynamic_w = self.power.power_w(share) - self.power.idle_w
        return dynamic_w + self.power.idle_w * share + demand.gpus * self.gpu_busy_w

    def added_power_w(self, demand: Resources, others: Resources) -> float:
        """Power [W] that a job adds to a node on which others hold so much: what the planner counts.

        A node that is on draws its idle power anyway, so that only what the job adds above it counts; one that would
        sleep draws it for this job alone. On a curve that bends, the same job adds less beside others, or more.
        """
        load = self._share(others)
        added_w = self.power.power_w(load + self._share(demand)) - self.power.power_w(load)
        added_w += demand.gpus * (self.gpu_busy_w - self.gpu_idle_w)
        return added_w + self.idle_w if self.sleeps and others == Resources() else added_w

    @property
    def power_source(self) -> str:
        """Where its power figures come from, in words."""
        return f"{self.power.source}; GPUs: {self.gpu_source}" if self.gpu_source else self.power.source

    @property
    def idle_w(self) -> float:
        """Power of the node when nobody uses it, but it is on [W]."""
        return self.power.idle_w + self.capacity.gpus * self.gpu_idle_w

    def _share(self, demand: Resources) -> float:
        return min(1.0, demand.cpus / self.capacity.cpus) if self.capacity.cpus else 0.0
