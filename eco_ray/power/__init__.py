"""Joules of this machine, and limits on its watts. Works without Ray and without a cluster.

    from eco_ray.core.ports import CpuUse
    from eco_ray.power import curve_from_tdp, open_meter

    meter = open_meter(curve_from_tdp(205, memory_gb=64))   # RAPL and NVML where they can be read, else the model
    ...
    reading = meter.read(CpuUse(cpu_s=3.2, wall_s=2.0, cpus=16))
    print(reading.energy_mj / 1000, reading.nature, reading.error_rel, reading.source, reading.flags)

    with open_control() as control:   # undone on leaving, and after a crash
        control.set_limit("0", watts=300)

docs/power.md tells what each meter reads and how sure it is.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eco_ray.power.capping import open_control
    from eco_ray.power.composite import open_meter
    from eco_ray.power.modelled import curve_from_cpu, curve_from_tdp

__all__ = ["open_meter", "curve_from_cpu", "curve_from_tdp", "open_control"]

#: each is imported when it is used: capping needs pydantic, which readers of /proc should not wait for
_HOME = {
    "open_meter": "composite",
    "curve_from_cpu": "modelled",
    "curve_from_tdp": "modelled",
    "open_control": "capping",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
