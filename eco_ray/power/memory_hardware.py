"""Devices in memory: for tests, and for rehearsing a policy where there is no GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from eco_ray.core.ports import PowerDevice
from eco_ray.errors import EcoRayError, NotAllowedError, NotFoundError


class MemoryHardware:
    """Devices whose limits live as long as this object does."""

    name = "memory"

    def __init__(self, *devices: PowerDevice, allowed: bool = True) -> None:
        """`allowed=False` refuses every change, as a driver does without root."""
        self._devices = {device.id: device for device in devices}
        self._allowed = allowed
        #: locked clocks [MHz] by device
        self.locked_mhz: dict[str, tuple[int, int]] = {}

    def devices(self) -> Sequence[PowerDevice]:
        """The devices as they are now."""
        return list(self._devices.values())

    def set_limit(self, device: str, watts: float) -> None:
        """Set a limit [W]."""
        self._devices[device] = dataclasses.replace(self._changeable(device), limit_w=watts)

    def lock_clocks(self, device: str, min_mhz: int, max_mhz: int) -> None:
        """Lock the core clock [MHz]."""
        if self._changeable(device).clocks_mhz is None:
            raise EcoRayError(f"the clocks of {device} cannot be set: it does not support that")
        self.locked_mhz[device] = (min_mhz, max_mhz)

    def unlock_clocks(self, device: str) -> None:
        """Let the core clock run freely."""
        self._changeable(device)
        self.locked_mhz.pop(device, None)

    def close(self) -> None:
        """Nothing to release."""

    def _changeable(self, device: str) -> PowerDevice:
        if device not in self._devices:
            raise NotFoundError(f"no device '{device}': this has {', '.join(self._devices) or 'none'}")
        if not self._allowed:
            raise NotAllowedError(f"the power of {device} may only be set by root: run this as root")
        return self._devices[device]
