"""Which processes used a GPU, and for how much of the time.

The driver samples the SM utilisation of each process, over up to a second; a process is charged the newest of its
samples times the interval. Where the driver does not tell (old drivers, some virtual GPUs, MIG) the processes
that hold a compute context count for equal parts of the time: that is a convention, and the meter's source says so.

MIG: a process inside a MIG device counts for its part of that device's time, times the device's share of the GPU's SMs.

Process ids are those of the driver. In a container with its own process ids they need not be the container's: run the
agent in the host's process namespace (`hostPID: true`), else the ids are unknown, flagged, and belong to nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eco_ray.power import _nvml
from eco_ray.power._counter import CLOCK_JUMP

#: NVML documents sample periods of 1/6 s to 1 s by product: within that time no new sample says nothing
SAMPLE_PERIOD_S = 1.0
#: more use than there is time, beyond this factor, is flagged
_OVERRUN = 1.1
#: nvml.h: NVML_GPU_INSTANCE_PROFILE_7_SLICE, 8_SLICE, 4_SLICE: the profiles that may span a whole GPU
_WHOLE_GPU_PROFILES = (4, 5, 3)
#: "no value" of an unsigned number in NVML
_NO_PID = 0xFFFFFFFF


def pid_exists(pid: int) -> bool:
    """Whether this process namespace has a process of that id."""
    return Path(f"/proc/{pid}").exists()


class GpuUse:
    """Time of each process on one GPU between two readings."""

    def __init__(
        self,
        nvml: Any,
        name: str,
        known: Callable[[int], bool] = pid_exists,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`name` goes before the flags, e.g. `gpu-0`; `clock` is that of the driver's time stamps [s]."""
        self._nvml = nvml
        self._name = name
        self._known = known
        self._clock = clock
        #: time stamp of the newest sample seen [us], and the utilisation of each process in it
        self._seen_us = 0
        self._sampled: dict[int, float] = {}
        #: time since then [s]
        self._unsampled_s = 0.0
        #: how the last reading came about, for the source: "" where the driver told it by process
        self.method = ""

    def read(self, handle: Any, wall_s: float, flags: list[str]) -> dict[int, float]:
        """{pid: SM utilisation x share of the GPU x time [s]} over an interval; what was odd goes into `flags`."""
        odd: set[str] = set()
        if self._mig_enabled(handle):
            self.method = "equal parts of each MIG device"
            busy_s = self._by_mig_device(handle, wall_s, odd)
        else:
            utilisation = self._utilisation(handle, wall_s, odd)
            if utilisation is None:
                self.method = "equal parts"
                busy_s = self._equal_parts(handle, wall_s, odd)
            else:
                self.method = ""
                busy_s = {pid: share * wall_s for pid, share in utilisation.items()}
        total_s = sum(busy_s.values())
        if total_s > wall_s > 0:
            if total_s > wall_s * _OVERRUN:
                odd.add("use-above-capacity")
            busy_s = {pid: part * (wall_s / total_s) for pid, part in busy_s.items()}
        if any(not self._known(pid) for pid in busy_s):
            odd.add("unknown-pid")
        flags += [what if what == CLOCK_JUMP else f"{self._name}-{what}" for what in sorted(odd)]
        return {pid: part for pid, part in sorted(busy_s.items()) if part > 0}

    def _utilisation(self, handle: Any, wall_s: float, odd: set[str]) -> dict[int, float] | None:
        """SM utilisation in [0, 1] by process; None where the driver does not tell."""
        if self._seen_us > (self._clock() + SAMPLE_PERIOD_S) * 1e6:
            # the clock was put back: no sample would be new until it is there again
            odd.add(CLOCK_JUMP)
            self._seen_us = 0
        try:
            samples = self._nvml.nvmlDeviceGetProcessUtilization(handle, self._seen_us)
        except (self._nvml.NVMLError, AttributeError) as error:
            # no process has used the GPU since the last sample, or there is no new sample yet; pynvml makes an error
            # even of a success without samples
            if not _nvml.is_error(self._nvml, error, "NVML_ERROR_NOT_FOUND", "NVML_SUCCESS"):
                return None
            self._unsampled_s += wall_s
            if self._unsampled_s >= SAMPLE_PERIOD_S:
                self._sampled = {}
            return self._sampled
        if not isinstance(samples, list | tuple):
            odd.add("bad-utilisation")
            return None
        newest: dict[int, tuple[int, float]] = {}
        bad = False
        for sample in samples:
            pid = self._pid(getattr(sample, "pid", None), odd)
            percent = _nvml.number(getattr(sample, "smUtil", None))
            stamp_us = _nvml.number(getattr(sample, "timeStamp", None))
            if percent is None or percent > 100 or stamp_us is None:  # drivers do give such
                odd.add("bad-utilisation")
                bad = True
            elif pid is not None and stamp_us > max(self._seen_us, newest.get(pid, (0, 0.0))[0]):
                newest[pid] = (int(stamp_us), percent / 100)
        if bad and not newest:
            return None
        self._seen_us = max([self._seen_us, *(stamp_us for stamp_us, _ in newest.values())])
        self._sampled, self._unsampled_s = {pid: share for pid, (_, share) in newest.items()}, 0.0
        return self._sampled

    def _equal_parts(self, handle: Any, wall_s: float, odd: set[str]) -> dict[int, float]:
        listed = _nvml.ask(self._nvml, "nvmlDeviceGetComputeRunningProcesses", handle)
        if not isinstance(listed, list | tuple):
            odd.add("processes-unreadable")
            return {}
        pids = {self._pid(getattr(process, "pid", None), odd) for process in listed} - {None}
        return {pid: wall_s / len(pids) for pid in pids if pid is not None}

    def _by_mig_device(self, handle: Any, wall_s: float, odd: set[str]) -> dict[int, float]:
        count = _nvml.number(_nvml.ask(self._nvml, "nvmlDeviceGetMaxMigDeviceCount", handle)) or 0
        devices = []
        for index in range(int(count)):
            device = _nvml.ask(self._nvml, "nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
            if device is None:  # not every place is taken
                continue
            size = _sm_count(_nvml.ask(self._nvml, "nvmlDeviceGetAttributes", device))
            if size is None:
                odd.add("mig-size-unknown")
                continue
            devices.append((device, size))
        whole = self._whole_gpu_sms(handle)
        if whole is None:
            odd.add("mig-size-unknown")
        capacity = max(whole or 0.0, sum(size for _, size in devices))
        busy_s: dict[int, float] = {}
        for device, size in devices:
            for pid, part_s in self._equal_parts(device, wall_s, odd).items():
                busy_s[pid] = busy_s.get(pid, 0.0) + part_s * size / capacity
        return busy_s

    def _mig_enabled(self, handle: Any) -> bool:
        modes = _nvml.ask(self._nvml, "nvmlDeviceGetMigMode", handle)  # [current, pending]
        return isinstance(modes, list | tuple) and bool(modes) and modes[0] == 1

    def _whole_gpu_sms(self, handle: Any) -> float | None:
        """SMs of the largest MIG device that the GPU can be: all that MIG devices can have together."""
        sizes = [
            _sm_count(_nvml.ask(self._nvml, "nvmlDeviceGetGpuInstanceProfileInfo", handle, profile))
            for profile in _WHOLE_GPU_PROFILES
        ]
        return max((size for size in sizes if size is not None), default=None)

    @staticmethod
    def _pid(value: Any, odd: set[str]) -> int | None:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _NO_PID:
            odd.add("bad-pid")
            return None
        return value


def _sm_count(info: Any) -> float | None:
    return _nvml.number(getattr(info, "multiprocessorCount", None)) or None


def methods(counts: Mapping[str, int]) -> str:
    """`; use by equal parts on 1 GPU` for the source; nothing where the driver told the use by process."""
    return "".join(f", use by {method} on {count} GPU" for method, count in sorted(counts.items()) if method)
