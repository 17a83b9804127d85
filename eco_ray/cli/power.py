"""`eco-ray power`: what this machine draws, and how that is known; what its GPUs may draw."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import click

from eco_ray.cli.options import LazyGroup, common_options
from eco_ray.cli.output import emit
from eco_ray.config import Settings

if TYPE_CHECKING:
    from eco_ray.core.ports import Reading
    from eco_ray.power.codecarbon_check import SecondOpinion, Unavailable


@click.group(
    cls=LazyGroup,
    lazy={
        "limits": "eco_ray.cli.power_cap:limits",
        "cap": "eco_ray.cli.power_cap:cap",
        "restore": "eco_ray.cli.power_cap:restore",
    },
)
def power() -> None:
    """Power of this machine."""


@power.command()
@click.option("--seconds", type=click.FloatRange(0.2, 3600), default=2.0, show_default=True)
@click.option(
    "--cpu", default="cascade-lake", show_default=True, help="CPU family of the model, where nothing measures."
)
@click.option("--cross-check", is_flag=True, help="Also measure with CodeCarbon; takes some seconds more to start.")
@common_options
def sample(seconds: float, cpu: str, cross_check: bool, settings: Settings) -> None:
    """Measure for a while (RAPL and NVML where they can be read, else modelled from CPU use)."""
    from eco_ray.core.ports import CpuUse
    from eco_ray.power import curve_from_cpu, open_meter
    from eco_ray.power.codecarbon_check import CodeCarbonCheck
    from eco_ray.power.procfs import NodeCpu

    check = CodeCarbonCheck()
    if cross_check:
        check.start()
    try:
        cpus = os.cpu_count() or 1
        memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
        meter = open_meter(curve_from_cpu(cpu, cpus, memory_gb))
        usage: NodeCpu[str] = NodeCpu(None, lambda _process: None)
        began = time.monotonic()
        time.sleep(seconds)
        total_s, _, _ = usage.read()
        wall_s = time.monotonic() - began
        reading = meter.read(CpuUse(total_s, wall_s, cpus))
    finally:
        other = check.stop()
    result: dict[str, Any] = {
        "power_w": reading.energy_mj / 1000 / wall_s,
        "energy_j": reading.energy_mj / 1000,
        "seconds": wall_s,
        "cpu_utilisation": min(1.0, total_s / (wall_s * cpus)),
        "nature": str(reading.nature),
        "error_pct": 100 * reading.error_rel,
        "source": reading.source,
        "flags": list(reading.flags),
    }
    if reading.gpus:
        result["gpus"] = [{"gpu": gpu.gpu, "energy_j": gpu.energy_mj / 1000} for gpu in reading.gpus]
    if cross_check:
        result["cross_check"] = _beside(other, reading, wall_s)
        if settings.output == "table":  # a line for each of its figures
            result |= {f"cross_check {key}": value for key, value in result.pop("cross_check").items()}
    emit(settings, result)


def _beside(other: SecondOpinion | Unavailable, reading: Reading, wall_s: float) -> dict[str, Any]:
    from eco_ray.power.codecarbon_check import Unavailable

    if isinstance(other, Unavailable):
        return {"available": False, "reason": other.reason}
    return {
        "available": True,
        "power_w": other.power_w,
        "energy_j": other.energy_j,
        "seconds": other.seconds,
        "ratio": other.ratio_to(reading, wall_s),
        "source": other.source,
        "why_they_differ": other.why_they_differ(reading),
    }
