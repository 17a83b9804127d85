"""Nodes: where jobs can run, in which zone, at what power."""

from __future__ import annotations

from dataclasses import dataclass

from eco_ray.core.power import PowerCurve


@dataclass(frozen=True, slots=True)
class Resources:
    """An amount of what a node has and a job holds."""

    cpus: float = 0.0
    gpus: float = 0.0
    memory_gb: float = 0.0

    def fits_in(self, free: Resources) -> bool:
        """Whether this demand fits into what is free (with a tolerance for sums of fractions)."""
        return (
            self.cpus <= free.cpus + 1e-9 and self.gpus <= free.gpus + 1e-9 and self.memory_gb <= free.memory_gb + 1e-9
        )

    def __add__(self, other: Resources) -> Resources:
        return Resources(self.cpus + other.cpus, self.gpus + other.gpus, self.memory_gb + other.memory_gb)

    def __sub__(self, other: Resources) -> Resources:
        return Resources(self.cpus - other.cpus, self.gpus - other.gpus, self.memory_gb - other.memory_gb)

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs, {self.gpus:g} GPUs, {self.memory_gb:g} GB memory"


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of the cluster (or one third of a laptop that plays three)."""

    #: the name people use; unique in the cluster
    name: str
    #: electricity grid zone, e.g. DE
    zone: str
    capacity: Resources
    power: PowerCurve
    #: facility energy / IT energy, >= 1
    pue: float = 1.0
    #: Ray's id of the node that plays it now; None while it is away
    ray_node_id: str | None = None

    def attributed_power_w(self, demand: Resources) -> float:
        """Power [W] that the ledger gives to a job which keeps its CPUs busy: dynamic plus reserved idle."""
        share = min(1.0, demand.cpus / self.capacity.cpus) if self.capacity.cpus else 0.0
        dynamic_w = self.power.power_w(share) - self.power.idle_w
        return dynamic_w + self.power.idle_w * share
