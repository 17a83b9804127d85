"""Joules of a piece of work of this process: its share of the node's, as a job's is counted (core/attribution.py)."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from eco_ray.core.ports import CpuUse, EnergyMeter, WorkEnergy
from eco_ray.core.units import MJ_PER_J
from eco_ray.errors import UsageError
from eco_ray.power.procfs import NodeCpu


class CpuWorkMeter:
    """E = E_dynamic * own CPU time / CPU time of all processes + E_idle * reserved CPUs / CPUs + E of its own GPUs."""

    def __init__(self, meter: EnergyMeter, cpus: float, reserved_cpus: float = 1.0, gpus: Collection[str] = ()) -> None:
        """`meter` is of the whole machine with `cpus`; the work is charged for `reserved_cpus` while it lasts.

        `gpus`: UUIDs of those that this process has to itself, which count whole; others are left out. Raises
        UsageError unless 0 <= reserved_cpus <= cpus.
        """
        if not 0 <= reserved_cpus <= cpus:
            raise UsageError(f"{reserved_cpus:g} reserved CPUs of {cpus:g}; give 0 to {cpus:g}")
        self._meter = meter
        self._cpus = cpus
        self._reserved_cpus = reserved_cpus
        self._gpus = frozenset(gpus)
        self._node: NodeCpu[str] = NodeCpu(None, lambda _process: None)
        self._began_s, self._cpu_began_s = time.monotonic(), time.process_time()
        self.lap()  # what was before belongs to nobody here

    def measure(self, work: Callable[[], object]) -> WorkEnergy:
        """Do the work, and say what it used."""
        self.lap()
        work()
        return self.lap()

    def lap(self) -> WorkEnergy:
        """What was used since the last lap, or since this was made."""
        now_s, cpu_now_s = time.monotonic(), time.process_time()
        wall_s, cpu_s = max(1e-9, now_s - self._began_s), cpu_now_s - self._cpu_began_s
        self._began_s, self._cpu_began_s = now_s, cpu_now_s
        node_s, _, _ = self._node.read()
        # /proc counts in ticks of 10 ms, our own clock in nanoseconds: the node used at least what we did
        node_s = max(node_s, cpu_s)
        reading = self._meter.read(CpuUse(node_s, wall_s, self._cpus))
        host_j = (reading.energy_mj - sum(gpu.energy_mj for gpu in reading.gpus)) / MJ_PER_J
        idle_j = (reading.idle_mj - sum(gpu.idle_mj for gpu in reading.gpus)) / MJ_PER_J
        share = cpu_s / node_s if node_s else 0.0
        used_j = (host_j - idle_j) * share + idle_j * self._reserved_cpus / self._cpus
        used_j += sum(gpu.energy_mj for gpu in reading.gpus if gpu.gpu in self._gpus) / MJ_PER_J
        described = f"{reading.source}; its share by CPU time and {self._reserved_cpus:g} of {self._cpus:g} CPUs"
        if self._gpus:
            described += f", and {len(self._gpus)} whole GPU{'s' * (len(self._gpus) > 1)}"
        return WorkEnergy(used_j, cpu_s, wall_s, reading.nature, described, reading.error_rel)
