"""NVIDIA GPU energy through NVML. Without driver or GPU it is absent, never an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eco_ray.core.ports import CpuUse, Reading
from eco_ray.core.units import MJ_PER_J, Nature
from eco_ray.errors import EcoRayError, NotFoundError
from eco_ray.power._counter import COUNTER_RESET, IdleFloor, step, wall_time

#: NVML states +-5 % for its power reading; the energy counter integrates the same sensor
COUNTER_ERROR_REL = 0.05
#: one power sample per interval misses what happens between samples (arXiv:2312.02741); our estimate
TRAPEZOID_ERROR_REL = 0.15


@dataclass(slots=True)
class _Gpu:
    index: int
    handle: Any
    idle: IdleFloor
    #: energy counter [mJ] at the last reading; None: this GPU has none
    last_mj: float | None = None
    #: wall time [s] since the counter was last read, beyond the current interval
    unread_s: float = 0.0
    #: power [W] at the last reading, for a GPU without counter
    last_w: float | None = None


class NvmlMeter:
    """Measured energy of all GPUs of the machine: from the energy counter, or integrated from power."""

    name = "nvml"

    def __init__(self, nvml: Any = None) -> None:
        """Open NVML (a `pynvml` module; imported when not given). Raises NotFoundError without driver or GPU."""
        self._nvml = _load(nvml)
        try:
            count = self._nvml.nvmlDeviceGetCount()
            self._gpus = [
                _Gpu(index, self._nvml.nvmlDeviceGetHandleByIndex(index), IdleFloor()) for index in range(count)
            ]
        except self._nvml.NVMLError as error:
            self.close()
            raise NotFoundError(f"NVML finds no usable GPU ({error}): check `nvidia-smi`") from error
        if not self._gpus:
            self.close()
            raise NotFoundError("NVML finds 0 GPUs: nothing to measure on this node")
        for gpu in self._gpus:
            gpu.last_mj = self._counter_mj(gpu)
            if gpu.last_mj is None:
                gpu.last_w = self._power_w(gpu)

    @staticmethod
    def available(nvml: Any = None) -> bool:
        """Whether a meter can be opened here."""
        try:
            NvmlMeter(nvml).close()
        except EcoRayError:
            return False
        return True

    def read(self, use: CpuUse) -> Reading:
        """Energy of all GPUs since the last call, or since the meter was made."""
        wall_s, flags = wall_time(use.wall_s)
        energy_mj = idle_mj = error_mj = 0.0
        counted = integrated = 0
        for gpu in self._gpus:
            if gpu.last_mj is not None:
                gpu_mj, error_rel = self._counter_step_mj(gpu, wall_s, flags), COUNTER_ERROR_REL
                counted += 1
            else:
                gpu_mj, error_rel = self._trapezoid_mj(gpu, wall_s, flags), TRAPEZOID_ERROR_REL
                integrated += 1
            energy_mj += gpu_mj
            error_mj += gpu_mj * error_rel
            idle_mj += gpu.idle.idle_mj(gpu_mj, wall_s)
        how = " and ".join(
            text
            for number, text in (
                (counted, f"energy counter of {counted} GPU"),
                (integrated, f"integrated power of {integrated} GPU"),
            )
            if number
        )
        worst = TRAPEZOID_ERROR_REL if integrated else COUNTER_ERROR_REL
        return Reading(
            energy_mj=energy_mj,
            idle_mj=min(idle_mj, energy_mj),
            nature=Nature.MEASURED,
            source=f"{self.name}: {how}",
            error_rel=error_mj / energy_mj if energy_mj else worst,
            flags=tuple(dict.fromkeys(flags)),
        )

    def close(self) -> None:
        """Release NVML."""
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError:
            return

    def _counter_step_mj(self, gpu: _Gpu, wall_s: float, flags: list[str]) -> float:
        now_mj = self._counter_mj(gpu)
        if now_mj is None or gpu.last_mj is None:
            # the counter counts on: the next reading has it all
            flags.append(f"gpu-{gpu.index}-unreadable")
            gpu.unread_s += wall_s
            return 0.0
        increase_mj = step(gpu.last_mj, now_mj, MJ_PER_J, wall_s + gpu.unread_s)
        gpu.last_mj, gpu.unread_s = now_mj, 0.0
        if increase_mj is None:
            flags.append(COUNTER_RESET)
            return 0.0
        return increase_mj

    def _trapezoid_mj(self, gpu: _Gpu, wall_s: float, flags: list[str]) -> float:
        now_w = self._power_w(gpu)
        before_w, gpu.last_w = gpu.last_w, now_w
        ends_w = [watts for watts in (before_w, now_w) if watts is not None]
        if now_w is None:
            flags.append(f"gpu-{gpu.index}-unreadable")
        return sum(ends_w) / len(ends_w) * wall_s * MJ_PER_J if ends_w else 0.0

    def _counter_mj(self, gpu: _Gpu) -> float | None:
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(gpu.handle))
        except self._nvml.NVMLError:
            return None

    def _power_w(self, gpu: _Gpu) -> float | None:
        try:
            return float(self._nvml.nvmlDeviceGetPowerUsage(gpu.handle)) / 1000
        except self._nvml.NVMLError:
            return None


def _load(nvml: Any) -> Any:
    if nvml is None:
        try:
            import pynvml  # of no use on most machines
        except ImportError as error:
            raise NotFoundError("pynvml is not installed: `pip install nvidia-ml-py`") from error
        nvml = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise NotFoundError(f"no NVIDIA driver ({error}): GPUs are not measured on this node") from error
    return nvml
