"""The GPUs that a replica holds: on which of them its model computes, and what power its part of them has."""

from __future__ import annotations

import logging
import os
from typing import Any, NamedTuple

from eco_ray.core.cluster import Resources
from eco_ray.errors import NotFoundError
from eco_ray.on_ray.gpu_use import Holding
from eco_ray.on_ray.owners import VISIBLE_DEVICES
from eco_ray.power.gpu_power import GpuPowers

log = logging.getLogger("eco_ray.serving")


class Chosen(NamedTuple):
    """Where a model computes, as `load_runtime` takes it."""

    device: str = "cpu"
    memory_bytes: int | None = None
    #: why the CPU, where it holds a GPU
    device_note: str = ""


def visible_devices() -> tuple[str, ...]:
    """The GPUs that Ray gave to this process: indices, or UUIDs."""
    return tuple(device for device in os.environ.get(VISIBLE_DEVICES, "").split(",") if device)


def choose_device(demand: Resources) -> Chosen:
    """The first GPU that this process sees, if it holds any, and so much of its memory as was declared.

    Without CUDA, which is so where a cluster only says that it has GPUs, it is the CPU, and the log says so.
    """
    if demand.gpus <= 0:
        return Chosen()
    # CUDA has the fastest first else, and NVML, which meters them, never
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    import torch

    if visible_devices() and torch.cuda.is_available():
        return Chosen("cuda:0", round(demand.gb_per_gpu * 1e9) or None)
    why = f"torch {torch.__version__} finds no GPU" if visible_devices() else f"{VISIBLE_DEVICES} names none"
    note = f"holds {demand.gpus:g} GPUs and computes on the CPU: {why}"
    log.warning("the replica %s; install a torch with CUDA and the driver, or deploy without GPUs", note)
    return Chosen(device_note=note)


class GpuShare:
    """The power of the part of GPUs that a process holds."""

    def __init__(self, gpus: float, devices: tuple[str, ...], nvml: Any = None) -> None:
        """`devices`: as in CUDA_VISIBLE_DEVICES. `nvml`: a `pynvml` module; imported when not given."""
        self._holding = Holding(gpus, devices)
        self._powers: GpuPowers | None = None
        # of a GPU that MIG divides, only the power of the whole is known
        if gpus > 0 and not any(device.startswith("MIG-") for device in devices):
            try:
                self._powers = GpuPowers(nvml)
            except NotFoundError as error:
                log.warning("the energy of answers is without the GPUs that the replica holds: %s", error)

    def power_w(self) -> float | None:
        """Power now [W] x part of it, over all devices; 0: none are held, None: one or more of them do not tell."""
        if self._holding.gpus <= 0:
            return 0.0
        found = self._powers.read() if self._powers else []
        parts = self._holding.parts(found, frozenset())
        watts = [(found[place].power_w, part) for place, part in parts.items()]
        if len(watts) < len(self._holding.devices) or not watts:
            return None
        known = [power_w * part for power_w, part in watts if power_w is not None]
        return sum(known) if len(known) == len(watts) else None
