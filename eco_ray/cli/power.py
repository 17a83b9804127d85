"""`eco-ray power sample`: what this machine draws, and how that is known."""

from __future__ import annotations

import os
import time

import click

from eco_ray.cli.options import common_options
from eco_ray.cli.output import emit
from eco_ray.config import Settings


@click.group()
def power() -> None:
    """Power of this machine."""


@power.command()
@click.option("--seconds", type=click.FloatRange(0.2, 3600), default=2.0, show_default=True)
@click.option(
    "--cpu", default="cascade-lake", show_default=True, help="CPU family of the model, where nothing measures."
)
@common_options
def sample(seconds: float, cpu: str, settings: Settings) -> None:
    """Measure for a while (RAPL and NVML where they can be read, else modelled from CPU use)."""
    from eco_ray.core.ports import CpuUse
    from eco_ray.power.composite import open_meter
    from eco_ray.power.modelled import curve_from_cpu
    from eco_ray.power.procfs import NodeCpu

    cpus = os.cpu_count() or 1
    meter = open_meter(curve_from_cpu(cpu, cpus))
    usage: NodeCpu[str] = NodeCpu(None, lambda _process: None)
    began = time.monotonic()
    time.sleep(seconds)
    total_s, _, _ = usage.read()
    wall_s = time.monotonic() - began
    reading = meter.read(CpuUse(total_s, wall_s, cpus))
    emit(
        settings,
        {
            "power_w": reading.energy_mj / 1000 / wall_s,
            "energy_j": reading.energy_mj / 1000,
            "seconds": wall_s,
            "cpu_utilisation": min(1.0, total_s / (wall_s * cpus)),
            "nature": str(reading.nature),
            "error_pct": 100 * reading.error_rel,
            "source": reading.source,
            "flags": list(reading.flags),
        },
    )
