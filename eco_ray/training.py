"""What a training script uses beside its session: power limits, joules per epoch, and what its job has emitted.

    from eco_ray import training
    from eco_ray.train import session

    with session.open() as run, training.power_limits(goal=training.ZeusCost(eta=0.5)) as power:
        energy = training.energy()
        for epoch in range(epochs):
            for batch in batches:
                ...
                power.step(len(batch), left=samples - done)
            print(energy.lap().energy_j, training.standing())

`train`, `power` and `models` do not know each other; here they are put together. docs/power-limits.md, docs/updates.md.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from eco_ray.core.ports import LapMeter, WorkEnergy
from eco_ray.core.power_limits import Goal, MaxSlowdown, Stretch, ZeusCost
from eco_ray.core.standing import Standing
from eco_ray.errors import UsageError
from eco_ray.train.early_stopping import GramsPerPoint
from eco_ray.train.energy import TrainingEnergy
from eco_ray.train.power_limit import PowerLimitOptimizer
from eco_ray.train.standing import read_standing as standing
from eco_ray.train.threads import CpuThreads

if TYPE_CHECKING:
    from eco_ray.models.manifest import Training
    from eco_ray.models.registry import Registry

__all__ = [
    "power_limits",
    "PowerLimitOptimizer",
    "ZeusCost",
    "MaxSlowdown",
    "energy",
    "TrainingEnergy",
    "standing",
    "Standing",
    "GramsPerPoint",
    "open_registry",
    "what_it_took",
]


def power_limits(
    goal: Goal | None = None, *, clock: bool = False, threads: int | None = None, cpu: str = "cascade-lake", **how: Any
) -> PowerLimitOptimizer:
    """An optimizer of this process's GPUs, or of its threads where it has none.

    `clock`: lock clocks instead of limiting power; `threads`: at most, by default the CPUs that the job holds; `cpu`:
    family of the power model, where nothing measures; `how`: passed on to PowerLimitOptimizer. Where the cluster tells
    the deadline and the intensities ahead, they count. Raises UsageError.
    """
    goal = goal or ZeusCost()
    gpus = _own_gpus()
    how = {"ahead": _ahead, **how}
    if not gpus:
        threads = max(1, int(_held_cpus())) if threads is None else threads
        return PowerLimitOptimizer(CpuThreads(threads), _meter(cpu), goal, **how)
    import torch

    from eco_ray.power.knobs import GpuPowerLimit, open_gpu_knob

    knob = open_gpu_knob(gpus, clock=clock)
    if isinstance(goal, ZeusCost) and goal.max_power_w is None and isinstance(knob, GpuPowerLimit):
        goal = replace(goal, max_power_w=knob.max_power_w)
    return PowerLimitOptimizer(knob, _meter(cpu), goal, synchronize=torch.cuda.synchronize, **how)


def energy(cpu: str = "cascade-lake") -> TrainingEnergy:
    """Joules of this training, lap by lap: its share of the machine, and its GPUs whole."""
    return TrainingEnergy(_meter(cpu))


def _meter(cpu: str) -> LapMeter:
    from eco_ray.power.composite import open_meter as open_node_meter
    from eco_ray.power.modelled import curve_from_cpu
    from eco_ray.power.work import CpuWorkMeter

    cpus = os.cpu_count() or 1
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    node = open_node_meter(curve_from_cpu(cpu, cpus, memory_gb))
    return CpuWorkMeter(node, cpus, _held_cpus(), _own_gpus())


def _held_cpus() -> float:
    """CPUs that this attempt holds for each worker; outside a cluster those that the process may use."""
    mine = float(len(os.sched_getaffinity(0)))
    given = os.environ.get("ECO_RAY_CPUS", "")
    try:
        return min(mine, float(given)) if given else mine
    except ValueError:
        raise UsageError(
            f"ECO_RAY_CPUS={given!r} is not a number of CPUs; unset it, or start with `eco-ray run`"
        ) from None


def open_registry(url: str | None = None) -> Registry:
    """The registry of a URL, of the settings, or of the state directory, as `eco-ray model` opens it."""
    from eco_ray.config import load_settings
    from eco_ray.open_registry import open_registry as opened

    return opened(load_settings(), url)


def what_it_took(used: WorkEnergy | None = None) -> Training:
    """For the record of a new version: what the ledger has of this job by now, else what the script measured itself.

    The ledger is some seconds behind; `eco-ray model push --job ID` takes its figures after the end.
    """
    from eco_ray.models.manifest import Training

    told = standing()
    if told is not None and told.spent is not None:
        spent = told.spent
        return Training(
            energy_j=spent.energy_j, operational_g=spent.operational_g, nature=spent.nature, source=spent.source
        )
    if used is None:
        return Training(source="not measured")
    return Training(energy_j=used.energy_j, nature=used.nature, source=used.source)


def _own_gpus() -> list[str]:
    """UUIDs of the GPUs that CUDA shows to this process, as NVML writes them."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [f"GPU-{torch.cuda.get_device_properties(index).uuid}" for index in range(torch.cuda.device_count())]


def _ahead() -> Sequence[Stretch]:
    """From now to the job's deadline, where the cluster has told it."""
    told = standing()
    return told.stretches(time.time()) if told is not None else ()
