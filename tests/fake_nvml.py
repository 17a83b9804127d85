"""A stand-in for the pynvml module: as many GPUs as a test wants, with the errors that the driver gives.

It behaves as the real one where we rely on it: errors carry NVML's codes, an idle GPU's utilisation is NotFound, sizes
are asked of MIG devices only, limits outside the range are InvalidArgument, and what is set needs root. With a
`state` file, what is set outlives the process, as it does in a GPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_ERRORS = {
    "NVML_SUCCESS": 0,
    "NVML_ERROR_INVALID_ARGUMENT": 2,
    "NVML_ERROR_NOT_SUPPORTED": 3,
    "NVML_ERROR_NO_PERMISSION": 4,
    "NVML_ERROR_NOT_FOUND": 6,
    "NVML_ERROR_DRIVER_NOT_LOADED": 9,
    "NVML_ERROR_GPU_IS_LOST": 15,
}


class NVMLError(Exception):
    """As pynvml's: `value` is NVML's code."""

    def __init__(self, name: str) -> None:
        self.value = _ERRORS[name]
        super().__init__(name.removeprefix("NVML_ERROR_").replace("_", " ").title())


class FakeNvml:
    """GPUs as dictionaries; a key that is None or absent is 'not supported' (`utilisation`: absent is idle).

    energy_mj, power_w, power_field_w, uuid, name; processes: [pid]; utilisation: [(pid, time stamp [us], SM %)];
    mig: [{"sms": int, "processes": [pid]}] with `sms` of the whole; lost: True;
    limit_w, default_w, min_w, max_w; clocks_mhz: [..]; locked: (min, max).
    """

    NVMLError = NVMLError
    NVML_CLOCK_GRAPHICS = 0

    def __init__(self, *gpus: dict[str, Any], driver: bool = True, root: bool = True, state: Path | None = None):
        self.gpus = list(gpus)
        for gpu in self.gpus:
            gpu.setdefault("utilisation", [])
        self.driver = driver
        self.root = root
        self.opened = 0
        #: (function, GPU, values) of everything that was set
        self.calls: list[tuple[Any, ...]] = []
        self._state = state
        for name, code in _ERRORS.items():
            setattr(self, name, code)
        if state is not None and state.exists():
            for gpu, kept in zip(self.gpus, json.loads(state.read_text()), strict=True):
                gpu.update(kept)

    # the module

    def nvmlInit(self) -> None:
        if not self.driver:
            raise NVMLError("NVML_ERROR_DRIVER_NOT_LOADED")
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:
        return self._there(self.gpus[index])

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> dict[str, Any]:
        for gpu in self.gpus:
            if gpu.get("uuid") == uuid:
                return self._there(gpu)
        raise NVMLError("NVML_ERROR_NOT_FOUND")

    def nvmlDeviceGetUUID(self, gpu: dict[str, Any]) -> Any:
        return self._value(gpu, "uuid")

    def nvmlDeviceGetName(self, gpu: dict[str, Any]) -> Any:
        return self._value(gpu, "name")

    # energy and power

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: dict[str, Any]) -> Any:
        return self._value(gpu, "energy_mj")

    def nvmlDeviceGetPowerUsage(self, gpu: dict[str, Any]) -> Any:
        power_w = self._value(gpu, "power_w")
        return power_w * 1000 if isinstance(power_w, int | float) else power_w

    def nvmlDeviceGetFieldValues(self, gpu: dict[str, Any], fields: list[int]) -> list[Any]:
        power_w = self._there(gpu).get("power_field_w")
        code = _ERRORS["NVML_ERROR_NOT_SUPPORTED" if power_w is None else "NVML_SUCCESS"]
        value = SimpleNamespace(uiVal=int((power_w or 0) * 1000))
        return [SimpleNamespace(fieldId=field, nvmlReturn=code, value=value) for field in fields]

    # who uses it

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: dict[str, Any]) -> Any:
        pids = self._value(gpu, "processes")
        return [SimpleNamespace(pid=pid, usedGpuMemory=1) for pid in pids] if isinstance(pids, list) else pids

    def nvmlDeviceGetProcessUtilization(self, gpu: dict[str, Any], last_seen_us: int) -> Any:
        samples = self._value(gpu, "utilisation")
        if not isinstance(samples, list):
            return samples
        new = [s for s in samples if not isinstance(s[1], int) or s[1] > last_seen_us]
        if not new:
            raise NVMLError("NVML_ERROR_NOT_FOUND")
        return [SimpleNamespace(pid=pid, timeStamp=stamp, smUtil=sm) for pid, stamp, sm in new]

    # MIG

    def nvmlDeviceGetMigMode(self, gpu: dict[str, Any]) -> list[int]:
        return [int(self._value(gpu, "mig") is not None), 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: dict[str, Any]) -> int:
        return 7 if gpu.get("mig") is not None else 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: dict[str, Any], index: int) -> dict[str, Any]:
        if index >= len(gpu["mig"]):
            raise NVMLError("NVML_ERROR_NOT_FOUND")
        return {"is_mig": True, **gpu["mig"][index]}

    def nvmlDeviceGetAttributes(self, device: dict[str, Any]) -> Any:
        if not device.get("is_mig"):
            raise NVMLError("NVML_ERROR_INVALID_ARGUMENT")
        return SimpleNamespace(multiprocessorCount=self._value(device, "sms"))

    def nvmlDeviceGetGpuInstanceProfileInfo(self, gpu: dict[str, Any], profile: int) -> Any:
        if profile != 4:
            raise NVMLError("NVML_ERROR_NOT_SUPPORTED")
        return SimpleNamespace(multiprocessorCount=self._value(gpu, "sms"))

    # limits

    def nvmlDeviceGetPowerManagementLimit(self, gpu: dict[str, Any]) -> int:
        return int(self._value(gpu, "limit_w") * 1000)

    def nvmlDeviceGetPowerManagementDefaultLimit(self, gpu: dict[str, Any]) -> int:
        return int(self._value(gpu, "default_w") * 1000)

    def nvmlDeviceGetPowerManagementLimitConstraints(self, gpu: dict[str, Any]) -> list[int]:
        return [int(self._value(gpu, key) * 1000) for key in ("min_w", "max_w")]

    def nvmlDeviceSetPowerManagementLimit(self, gpu: dict[str, Any], limit_mw: int) -> None:
        self._may_set(gpu, "limit_w")
        low, high = self.nvmlDeviceGetPowerManagementLimitConstraints(gpu)
        if not low <= limit_mw <= high:
            raise NVMLError("NVML_ERROR_INVALID_ARGUMENT")
        self.calls.append(("limit", gpu["uuid"], limit_mw))
        gpu["limit_w"] = limit_mw / 1000
        self._keep()

    def nvmlDeviceGetSupportedMemoryClocks(self, gpu: dict[str, Any]) -> list[int]:
        self._value(gpu, "clocks_mhz")
        return [1593, 810]

    def nvmlDeviceGetSupportedGraphicsClocks(self, gpu: dict[str, Any], _memory_mhz: int) -> list[int]:
        return self._value(gpu, "clocks_mhz")

    def nvmlDeviceSetGpuLockedClocks(self, gpu: dict[str, Any], low_mhz: int, high_mhz: int) -> None:
        self._may_set(gpu, "clocks_mhz")
        self.calls.append(("lock", gpu["uuid"], low_mhz, high_mhz))
        gpu["locked"] = [low_mhz, high_mhz]
        self._keep()

    def nvmlDeviceResetGpuLockedClocks(self, gpu: dict[str, Any]) -> None:
        self._may_set(gpu, "clocks_mhz")
        self.calls.append(("unlock", gpu["uuid"]))
        gpu["locked"] = None
        self._keep()

    # what they share

    def _there(self, gpu: dict[str, Any]) -> dict[str, Any]:
        if gpu.get("lost"):
            raise NVMLError("NVML_ERROR_GPU_IS_LOST")
        return gpu

    def _value(self, gpu: dict[str, Any], key: str) -> Any:
        value = self._there(gpu).get(key)
        if value is None:
            raise NVMLError("NVML_ERROR_NOT_SUPPORTED")
        return value

    def _may_set(self, gpu: dict[str, Any], key: str) -> None:
        self._value(gpu, key)
        if not self.root:
            raise NVMLError("NVML_ERROR_NO_PERMISSION")

    def _keep(self) -> None:
        if self._state is not None:
            kept = [{key: gpu.get(key) for key in ("limit_w", "locked")} for gpu in self.gpus]
            self._state.write_text(json.dumps(kept))
