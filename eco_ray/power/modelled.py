"""Power from CPU use, for machines without a meter. Every number made here is an estimate, and says so."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass

from eco_ray.core.ports import CpuUse, Reading
from eco_ray.core.power import PowerCurve
from eco_ray.core.units import MJ_PER_J, Nature
from eco_ray.errors import UsageError
from eco_ray.power._counter import wall_time

#: half-width of the error band of generic tables: +-30..50 % are reported; we print the middle
GENERIC_ERROR_REL = 0.4
#: W per GB of memory: Boavizta's figure and Cloud Carbon Footprint's, the two ends of what is published
RAM_W_PER_GB_BOAVIZTA = 0.284
RAM_W_PER_GB_CCF = 0.392
#: more CPU time than the node has, beyond this factor, is flagged: the curve is then clipped at full load
_OVERRUN = 1.1


@dataclass(frozen=True, slots=True)
class CpuFamily:
    """Watts per vCPU of a CPU family, without memory, at no load and at full load."""

    name: str
    min_w_per_vcpu: float
    max_w_per_vcpu: float


_CCF = "Cloud Carbon Footprint coefficients (SPECpower)"
#: source: Cloud Carbon Footprint, cloud-carbon-coefficients, averages per microarchitecture over SPECpower_ssj2008
CPU_FAMILIES = {
    family.name: family
    for family in (
        CpuFamily("epyc-gen1", 0.82, 2.55),
        CpuFamily("epyc-gen2", 0.474, 1.693),
        CpuFamily("epyc-gen3", 0.445, 2.019),
        CpuFamily("skylake", 0.645, 4.193),
        CpuFamily("cascade-lake", 0.639, 3.967),
        CpuFamily("haswell", 1.90, 6.01),
    )
}
#: (utilisation, part of TDP); source: Teads engineering 2021, taken over by Boavizta
TDP_CURVE = ((0.0, 0.12), (0.1, 0.32), (0.5, 0.75), (1.0, 1.02))


def curve_from_cpu(family: str, vcpus: float, memory_gb: float = 0.0) -> PowerCurve:
    """Power curve of a (virtual) machine from its CPU family: P = vcpus * (min + u * (max - min)) + memory."""
    known = CPU_FAMILIES.get(family.lower())
    if known is None:
        near = difflib.get_close_matches(family.lower(), CPU_FAMILIES, n=1)
        hint = f"; did you mean {near[0]}?" if near else "; or give the TDP or the measured watts"
        raise UsageError(f"unknown CPU family '{family}': one of {', '.join(CPU_FAMILIES)}{hint}")
    _positive("vcpus", vcpus)
    ram_w = _ram_w(memory_gb, RAM_W_PER_GB_CCF)
    return PowerCurve(
        utilisation=(0.0, 1.0),
        watts=(known.min_w_per_vcpu * vcpus + ram_w, known.max_w_per_vcpu * vcpus + ram_w),
        source=f"{_CCF}: {known.name}, {vcpus:g} vCPU, {memory_gb:.4g} GB at {RAM_W_PER_GB_CCF} W/GB",
        error_rel=GENERIC_ERROR_REL,
    )


def curve_from_tdp(tdp_w: float, memory_gb: float = 0.0) -> PowerCurve:
    """Power curve of a machine from the thermal design power [W] of its CPUs."""
    _positive("tdp_w", tdp_w)
    ram_w = _ram_w(memory_gb, RAM_W_PER_GB_BOAVIZTA)
    return PowerCurve(
        utilisation=tuple(utilisation for utilisation, _ in TDP_CURVE),
        watts=tuple(part * tdp_w + ram_w for _, part in TDP_CURVE),
        source=f"Teads/Boavizta TDP curve: {tdp_w:g} W TDP, {memory_gb:.4g} GB at {RAM_W_PER_GB_BOAVIZTA} W/GB",
        error_rel=GENERIC_ERROR_REL,
    )


class ModelledMeter:
    """Energy of a node from its power curve and the CPU time of its processes.

    CPU time is per process, so time stolen by a hypervisor is in no number here.
    """

    name = "modelled"

    def __init__(self, curve: PowerCurve) -> None:
        self.curve = curve

    def read(self, use: CpuUse) -> Reading:
        """Curve at the interval's utilisation, times its wall time."""
        wall_s, utilisation, flags = _checked(use)
        scale = wall_s * MJ_PER_J
        return Reading(
            energy_mj=self.curve.power_w(utilisation) * scale,
            idle_mj=self.curve.idle_w * scale,
            # a curve that was measured once still makes today's energy a model's
            nature=Nature.weakest([self.curve.nature, Nature.MODELLED]),
            source=f"{self.name}: {self.curve.source}",
            error_rel=self.curve.error_rel,
            flags=flags,
        )


def _checked(use: CpuUse) -> tuple[float, float, tuple[str, ...]]:
    """(wall time [s], utilisation, flags) of a use; what makes no sense is flagged and counts as no time or no load."""
    wall_s, flags = wall_time(use.wall_s)
    if flags:
        return wall_s, 0.0, tuple(flags)
    if not (math.isfinite(use.cpu_s) and use.cpu_s >= 0 and math.isfinite(use.cpus) and use.cpus >= 0):
        return wall_s, 0.0, ("bad-cpu-time",)
    capacity_s = wall_s * use.cpus
    overrun = use.cpu_s > capacity_s * _OVERRUN and capacity_s > 0
    return wall_s, use.utilisation, ("cpu-above-capacity",) if overrun else ()


def _ram_w(memory_gb: float, w_per_gb: float) -> float:
    if not (math.isfinite(memory_gb) and memory_gb >= 0):
        raise UsageError(f"memory_gb is {memory_gb}: give the memory of the node in GB, >= 0")
    return memory_gb * w_per_gb


def _positive(what: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{what} is {value}: must be finite and > 0")
