"""NVIDIA GPU energy through NVML, GPU by GPU. Without driver or GPU it is absent, never an error.

Each GPU is one source of energy, MIG or not: NVML counts energy and power of the whole GPU only. Which process used
how much of it is told beside, see `_gpu_use`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eco_ray.core.ports import CpuUse, GpuReading, Reading
from eco_ray.core.units import MJ_PER_J, Nature
from eco_ray.errors import EcoRayError, NotFoundError
from eco_ray.power import _nvml
from eco_ray.power._counter import COUNTER_RESET, IdleFloor, step, wall_time
from eco_ray.power._gpu_use import GpuUse, methods, pid_exists

#: NVML states +-5 % for its power reading; the energy counter integrates the same sensor
COUNTER_ERROR_REL = 0.05
#: one power sample per interval misses what happens between samples (arXiv:2312.02741); our estimate
TRAPEZOID_ERROR_REL = 0.15
_COUNTER, _POWER = "energy counter", "integrated power"


@dataclass(slots=True)
class _Gpu:
    index: int
    #: None: it was lost, and has not come back
    handle: Any
    uuid: str
    idle: IdleFloor
    use: GpuUse
    #: energy counter [mJ] at the last reading; None: this GPU has none, as far as we know
    last_mj: float | None = None
    #: wall time [s] since the counter was last read, beyond the current interval
    unread_s: float = 0.0
    #: power [W] at the last reading, for a GPU without counter
    last_w: float | None = None

    @property
    def name(self) -> str:
        return f"gpu-{self.index}"


class NvmlMeter:
    """Measured energy of all GPUs of the machine: from the energy counter, or integrated from power."""

    name = "nvml"

    def __init__(self, nvml: Any = None, known_pid: Callable[[int], bool] = pid_exists) -> None:
        """Open NVML (a `pynvml` module; imported when not given). Raises NotFoundError without driver or GPU."""
        self._nvml = _nvml.load(nvml)
        self._known_pid = known_pid
        self._gpus: list[_Gpu] = []
        try:
            count = _count(self._nvml.nvmlDeviceGetCount())
        except self._nvml.NVMLError as error:
            _nvml.close(self._nvml)
            raise NotFoundError(f"NVML finds no usable GPU ({error}): check `nvidia-smi`") from error
        self._add_gpus(count)
        if all(gpu.handle is None for gpu in self._gpus):
            _nvml.close(self._nvml)
            lost = f", none of which can be opened (of {count}): check `nvidia-smi`" if count else ""
            raise NotFoundError(f"NVML finds {count} GPUs{lost or ': nothing to measure on this node'}")

    @staticmethod
    def available(nvml: Any = None) -> bool:
        """Whether a meter can be opened here."""
        try:
            NvmlMeter(nvml).close()
        except EcoRayError:
            return False
        return True

    @property
    def error_rel(self) -> float | None:
        """The widest error band among the GPUs by what each offered when it was last asked; None: none is readable."""
        if any(gpu.last_mj is None and gpu.last_w is not None for gpu in self._gpus):
            return TRAPEZOID_ERROR_REL
        return COUNTER_ERROR_REL if any(gpu.last_mj is not None for gpu in self._gpus) else None

    @property
    def silent(self) -> tuple[int, ...]:
        """Indices of the GPUs that told neither energy nor power when they were last asked."""
        return tuple(gpu.index for gpu in self._gpus if gpu.last_mj is None and gpu.last_w is None)

    def read(self, use: CpuUse) -> Reading:
        """Energy of all GPUs since the last call, or since the meter was made, with who used them."""
        wall_s, flags = wall_time(use.wall_s)
        readings: list[GpuReading] = []
        error_mj = 0.0
        how: Counter[str] = Counter()
        shared: Counter[str] = Counter()
        for gpu in self._gpus:
            method, energy_mj, error_rel = self._energy(gpu, wall_s, flags)
            silent = f"{gpu.name}-unreadable" in flags
            busy_s = {} if silent else gpu.use.read(gpu.handle, wall_s, flags)
            how[method] += 1
            shared[gpu.use.method] += 1
            error_mj += energy_mj * error_rel
            idle_mj = min(energy_mj, gpu.idle.idle_mj(energy_mj, wall_s))
            readings.append(GpuReading(gpu.uuid, gpu.index, energy_mj, idle_mj, busy_s))
        energy_mj = sum(reading.energy_mj for reading in readings)
        source = " and ".join(f"{method} of {how[method]} GPU" for method in (_COUNTER, _POWER) if how[method])
        worst = TRAPEZOID_ERROR_REL if how[_POWER] else COUNTER_ERROR_REL
        count = _count(_nvml.ask(self._nvml, "nvmlDeviceGetCount"))
        if count > len(self._gpus):
            flags += [f"gpu-{index}-new" for index in range(len(self._gpus), count)]
            self._add_gpus(count)
        return Reading(
            energy_mj=energy_mj,
            idle_mj=min(energy_mj, sum(reading.idle_mj for reading in readings)),
            nature=Nature.MEASURED,
            source=f"{self.name}: {source}{methods(shared)}",
            error_rel=error_mj / energy_mj if energy_mj else worst,
            flags=tuple(dict.fromkeys(flags)),
            gpus=tuple(readings),
        )

    def close(self) -> None:
        """Release NVML."""
        _nvml.close(self._nvml)

    def _add_gpus(self, count: int) -> None:
        for index in range(len(self._gpus), count):
            handle = _nvml.ask(self._nvml, "nvmlDeviceGetHandleByIndex", index)
            uuid = f"index-{index}" if handle is None else _nvml.uuid(self._nvml, handle, index)
            gpu = _Gpu(index, handle, uuid, IdleFloor(), GpuUse(self._nvml, f"gpu-{index}", self._known_pid))
            gpu.last_mj = self._counter_mj(gpu)
            if gpu.last_mj is None:
                gpu.last_w = self._power_w(gpu)
            self._gpus.append(gpu)

    def _energy(self, gpu: _Gpu, wall_s: float, flags: list[str]) -> tuple[str, float, float]:
        """(method, energy [mJ], relative error) of one GPU since its last reading."""
        self._reopen(gpu)
        now_mj = self._counter_mj(gpu)
        if now_mj is not None and gpu.last_mj is not None:
            increase_mj = step(gpu.last_mj, now_mj, MJ_PER_J, wall_s + gpu.unread_s)
            gpu.last_mj, gpu.unread_s = now_mj, 0.0
            if increase_mj is None:
                flags.append(COUNTER_RESET)
            return _COUNTER, increase_mj or 0.0, COUNTER_ERROR_REL
        now_w = self._power_w(gpu)
        if gpu.last_mj is not None:
            if now_w is None:
                # all of it is silent: the counter counts on, and the next reading has it all
                flags.append(f"{gpu.name}-unreadable")
                gpu.unread_s += wall_s
                gpu.handle = self._same(gpu)
                return _COUNTER, 0.0, COUNTER_ERROR_REL
            # the counter is gone but the GPU is there: what is integrated now must not be counted once more later
            flags.append(f"{gpu.name}-counter-gone")
            wall_s += gpu.unread_s
            gpu.last_mj, gpu.unread_s = None, 0.0
        elif now_mj is not None:
            # it has a counter after all: it counts from here on
            flags.append(f"{gpu.name}-counter-new")
            gpu.last_mj = now_mj
        elif now_w is None:
            flags.append(f"{gpu.name}-unreadable")
        return _POWER, self._trapezoid_mj(gpu, now_w, wall_s), TRAPEZOID_ERROR_REL

    @staticmethod
    def _trapezoid_mj(gpu: _Gpu, now_w: float | None, wall_s: float) -> float:
        before_w, gpu.last_w = gpu.last_w, now_w
        ends_w = [watts for watts in (before_w, now_w) if watts is not None]
        return sum(ends_w) / len(ends_w) * wall_s * MJ_PER_J if ends_w else 0.0

    def _reopen(self, gpu: _Gpu) -> None:
        """A GPU that was lost at the start may be there now."""
        if gpu.handle is not None:
            return
        handle = _nvml.ask(self._nvml, "nvmlDeviceGetHandleByIndex", gpu.index)
        if handle is not None:
            gpu.handle = handle
            gpu.uuid = _nvml.uuid(self._nvml, handle, gpu.index)

    def _same(self, gpu: _Gpu) -> Any:
        """A fresh handle of a GPU that does not answer: after a driver's reset the old one stays dead."""
        fresh = _nvml.ask(self._nvml, "nvmlDeviceGetHandleByUUID", gpu.uuid)
        return gpu.handle if fresh is None else fresh

    def _counter_mj(self, gpu: _Gpu) -> float | None:
        if gpu.handle is None:
            return None
        return _nvml.number(_nvml.ask(self._nvml, "nvmlDeviceGetTotalEnergyConsumption", gpu.handle))

    def _power_w(self, gpu: _Gpu) -> float | None:
        return None if gpu.handle is None else _nvml.power_w(self._nvml, gpu.handle)


def _count(value: Any) -> int:
    return int(_nvml.number(value) or 0)
