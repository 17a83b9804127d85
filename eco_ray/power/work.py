"""Joules of a piece of work of this process: its share of the node's, as a job's is counted (core/attribution.py)."""

from __future__ import annotations

import time
from collections.abc import Callable

from eco_ray.core.ports import CpuUse, EnergyMeter, WorkEnergy
from eco_ray.core.units import Nature
from eco_ray.errors import UsageError
from eco_ray.power.procfs import NodeCpu


class CpuWorkMeter:
    """E = E_dynamic * own CPU time / CPU time of all processes + E_idle * reserved CPUs / CPUs; GPUs are left out."""

    def __init__(self, meter: EnergyMeter, cpus: float, reserved_cpus: float = 1.0) -> None:
        """`meter` is of the whole machine with `cpus`; the work is charged for `reserved_cpus` while it lasts.

        Raises UsageError unless 0 <= reserved_cpus <= cpus.
        """
        if not 0 <= reserved_cpus <= cpus:
            raise UsageError(f"{reserved_cpus:g} reserved CPUs of {cpus:g}; give 0 to {cpus:g}")
        self._meter = meter
        self._cpus = cpus
        self._reserved_cpus = reserved_cpus
        self._node: NodeCpu[str] = NodeCpu(None, lambda _process: None)

    def measure(self, work: Callable[[], object]) -> WorkEnergy:
        """Do the work, and say what it used."""
        self._read(0.0, 1e-9)  # what was before belongs to nobody here
        began_s, cpu_began_s = time.monotonic(), time.process_time()
        work()
        wall_s, cpu_s = max(1e-9, time.monotonic() - began_s), time.process_time() - cpu_began_s
        energy_j, idle_j, node_cpu_s, (nature, source, error_rel) = self._read(cpu_s, wall_s)
        share = cpu_s / node_cpu_s if node_cpu_s else 0.0
        used_j = (energy_j - idle_j) * share + idle_j * self._reserved_cpus / self._cpus
        described = f"{source}; its share by CPU time and {self._reserved_cpus:g} of {self._cpus:g} CPUs"
        return WorkEnergy(used_j, cpu_s, wall_s, nature, described, error_rel)

    def _read(self, own_s: float, wall_s: float) -> tuple[float, float, float, tuple[Nature, str, float]]:
        total_s, _, _ = self._node.read()
        # /proc counts in ticks of 10 ms, our own clock in nanoseconds: the node used at least what we did
        total_s = max(total_s, own_s)
        reading = self._meter.read(CpuUse(total_s, wall_s, self._cpus))
        gpus_mj, gpus_idle_mj = sum(g.energy_mj for g in reading.gpus), sum(g.idle_mj for g in reading.gpus)
        kept = (reading.nature, reading.source, reading.error_rel)
        return (reading.energy_mj - gpus_mj) / 1000, (reading.idle_mj - gpus_idle_mj) / 1000, total_s, kept
