"""What can be measured on this machine, what is only modelled, what is missing, and how to get more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eco_ray.core.power import PowerCurve
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError, NotFoundError
from eco_ray.power.nvml import COUNTER_ERROR_REL, NvmlMeter
from eco_ray.power.rapl import ERROR_REL, POWERCAP, RaplMeter

_NO_DRAM = (
    "AMD's and many desktop CPUs count no memory; on an Intel server try a newer kernel (driver intel_rapl_msr). Else "
    "it draws about 0.3 to 0.4 W per GB beside what is told here"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """How the energy of one part of a node is known."""

    part: str
    how: Literal["measured", "modelled", "assumed", "missing", "none"]
    source: str
    #: half-width of the error band [%]; None: nothing is counted
    error_pct: float | None = None
    #: what would make it better; empty: nothing
    better: str = ""


def probe(
    curve: PowerCurve,
    *,
    whole_machine: bool = True,
    gpus: float = 0.0,
    rapl_root: Path = POWERCAP,
    nvml: Any = None,
) -> list[Finding]:
    """Each part of a node with `gpus` GPUs by Ray's count, whose host is modelled by `curve` where nothing measures."""
    return [*_host(curve, whole_machine, rapl_root), _gpus(whole_machine, gpus, nvml)]


def _host(curve: PowerCurve, whole_machine: bool, rapl_root: Path) -> list[Finding]:
    part = "CPUs and memory"
    if whole_machine:
        try:
            meter = RaplMeter(rapl_root)
        except EcoRayError as error:
            better = str(error)
        else:
            source = "RAPL counters of the machine"
            if meter.counts_memory:
                return [Finding(part, "measured", source, 100 * ERROR_REL)]
            missing = Finding("memory", "missing", "RAPL has no dram domain here: no figure has it", None, _NO_DRAM)
            return [Finding("CPUs", "measured", source, 100 * ERROR_REL), missing]
    else:
        better = "it shares its machine with other Ray nodes, whose counters cannot be told apart: one node per machine"
    how: Literal["modelled", "assumed"] = "assumed" if curve.nature is Nature.ASSUMED else "modelled"
    better += "; or give watts that you measured as `power: {curve: ..., source: ...}` in the cluster file"
    return [Finding(part, how, curve.source, 100 * curve.error_rel, better)]


def _gpus(whole_machine: bool, gpus: float, nvml: Any) -> Finding:
    part = "GPUs"
    try:
        meter = NvmlMeter(nvml)
    except NotFoundError as error:
        if gpus == 0:
            return Finding(part, "none", "no GPU")
        return Finding(part, "missing", f"Ray counts {gpus:g} GPUs that nothing meters", None, str(error))
    meter.close()
    if not whole_machine:
        better = "it shares its machine with other Ray nodes, whose GPUs cannot be told apart: one node per machine"
        return Finding(part, "missing", "NVML is there and not used", None, better)
    silent = ", ".join(map(str, meter.silent))
    better = f"GPU {silent} tells neither energy nor power: check `nvidia-smi`" if silent else ""
    if meter.error_rel is None:
        return Finding(part, "missing", "NVML is there and tells nothing", None, better)
    source = "NVML, energy counters" if meter.error_rel == COUNTER_ERROR_REL else "NVML, power sampled and integrated"
    return Finding(
        part, "measured", f"{source}, not of GPU {silent}" if silent else source, 100 * meter.error_rel, better
    )
