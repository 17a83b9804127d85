"""The power of GPUs now, for an estimate at once: what they really used is for a meter, see `nvml`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eco_ray.power import _nvml


@dataclass(frozen=True, slots=True)
class GpuPower:
    """One GPU of this machine."""

    #: UUID, or `index-N` where it has none
    gpu: str
    #: position among the machine's GPUs
    index: int
    #: now [W]; None: it does not tell
    power_w: float | None


class GpuPowers:
    """Reads the power of all GPUs."""

    def __init__(self, nvml: Any = None) -> None:
        """Open NVML (a `pynvml` module; imported when not given). Raises NotFoundError without driver."""
        self._nvml = _nvml.load(nvml)

    def read(self) -> list[GpuPower]:
        """As it is now; a GPU that is lost is left out."""
        found = []
        for index in range(int(_nvml.number(_nvml.ask(self._nvml, "nvmlDeviceGetCount")) or 0)):
            handle = _nvml.ask(self._nvml, "nvmlDeviceGetHandleByIndex", index)
            if handle is not None:
                uuid = _nvml.uuid(self._nvml, handle, index)
                found.append(GpuPower(uuid, index, _nvml.power_w(self._nvml, handle)))
        return found
