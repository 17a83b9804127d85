"""Power limits and locked clocks, undone on leaving, after a crash, or by hand.

A `with` block owns what it changes: leaving it, by an error or by SIGTERM too, gives everything back, and the next
`with` on the node gives back what a killed owner left. Outside of a `with`, a change is by hand and stays until
`restore`. A device belongs to one owner at a time. The journal says what was before the first change; see `_journal`.

NVML does not tell which clocks were locked before, so giving clocks back means unlocking them.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, Self

from eco_ray.core.ports import PowerDevice
from eco_ray.errors import EcoRayError, NotAllowedError, NotFoundError, UsageError
from eco_ray.power import _nvml
from eco_ray.power._journal import Entry, Journal, Lease, is_alive

#: the journal of a node, whoever runs and whichever cluster is up; in a container, a folder of the host
JOURNAL = Path("/var/lib/eco-ray/power-journal.json")


class Hardware(Protocol):
    """What a driver must do; `JournalledControl` does the rest."""

    name: str

    def devices(self) -> Sequence[PowerDevice]:
        """The devices as they are now."""
        ...

    def set_limit(self, device: str, watts: float) -> None:
        """Set a limit [W]; raises EcoRayError where it is refused."""
        ...

    def lock_clocks(self, device: str, min_mhz: int, max_mhz: int) -> None:
        """Lock the core clock [MHz]; raises EcoRayError where it is refused."""
        ...

    def unlock_clocks(self, device: str) -> None:
        """Let the core clock run freely."""
        ...

    def close(self) -> None:
        """Release the driver."""
        ...


class JournalledControl:
    """The PowerControl of a node: checks each value, journals what was before, then changes it."""

    def __init__(self, hardware: Hardware, journal: Path, *, boot_id: str | None = None) -> None:
        """`journal` must be the same file for every process of the node."""
        self.name = hardware.name
        self._hardware = hardware
        self._journal = Journal(journal, boot_id)
        #: what owns the changes; None: a person
        self._owner: str | None = None
        self._lease: Lease | None = None
        #: devices in the journal that were not there when this owner came
        self._absent: set[str] = set()
        self._old_handler: Any = None

    def devices(self) -> Sequence[PowerDevice]:
        """The devices that can be limited, by index."""
        return self._hardware.devices()

    def set_limit(self, device: str, watts: float) -> None:
        """Limit a device's power [W]."""
        gpu = self._find(device)
        if not (math.isfinite(watts) and gpu.min_w <= watts <= gpu.max_w):
            raise UsageError(
                f"Power {watts:g} W is outside [{gpu.min_w:g}, {gpu.max_w:g}] W of '{gpu.name}' ({gpu.id}): "
                f"give a value in that range; its default is {gpu.default_w:g} W"
            )
        with self._journal.locked() as entries:
            before = self._mine(entries, gpu)
            if before.limit_w is None:
                entries[gpu.id] = before.model_copy(update={"limit_w": gpu.limit_w})
            self._change(entries, gpu.id, before, lambda: self._hardware.set_limit(gpu.id, watts))

    def lock_clocks(self, device: str, min_mhz: int, max_mhz: int) -> None:
        """Keep a device's core clock within a range [MHz]."""
        gpu = self._find(device)
        if gpu.clocks_mhz is None:
            raise EcoRayError(f"the clocks of '{gpu.name}' ({gpu.id}) cannot be locked: limit its power instead")
        low, high = gpu.clocks_mhz
        if not low <= min_mhz <= max_mhz <= high:
            raise UsageError(
                f"Clocks {min_mhz} to {max_mhz} MHz are outside [{low}, {high}] MHz of '{gpu.name}' ({gpu.id}): "
                "give a lower and an upper clock in that range"
            )
        with self._journal.locked() as entries:
            before = self._mine(entries, gpu)
            entries[gpu.id] = before.model_copy(update={"clocks": True})
            self._change(entries, gpu.id, before, lambda: self._hardware.lock_clocks(gpu.id, min_mhz, max_mhz))

    def restore(self) -> Sequence[str]:
        """Give back what this owner changed and what ended owners left; by hand: also what was set by hand.

        What another running process owns stays. Raises EcoRayError when a device could not be given back: it stays in
        the journal, for the next try.
        """
        return self._restore(set())

    def _restore(self, absent: set[str]) -> Sequence[str]:
        """`restore`, where devices that are `absent` are left in the journal without an error."""
        restored, problems = [], []
        with self._journal.locked() as entries:
            for device, entry in list(entries.items()):
                if entry.owner != self._owner and (entry.owner is None or is_alive(self._journal.path, entry.owner)):
                    continue
                if device in absent:
                    continue
                try:
                    if entry.limit_w is not None:
                        self._hardware.set_limit(device, entry.limit_w)
                    if entry.clocks:
                        self._hardware.unlock_clocks(device)
                except EcoRayError as error:
                    problems.append(str(error))
                    continue
                del entries[device]
                restored.append(device)
            if restored or not entries:
                self._journal.write(entries)
        if problems:
            raise EcoRayError(
                f"{len(problems)} device{'s' * (len(problems) > 1)} could not be given back, and stay in "
                f"{self._journal.path}: {'; '.join(problems)}; mend that, then run `eco-ray power restore`"
            )
        return restored

    def close(self) -> None:
        """Release the driver; changes made by hand stay."""
        self._hardware.close()

    def __enter__(self) -> Self:
        """Undo what a killed owner left, and own what is changed from now on."""
        self._lease = Lease(self._journal.path)
        self._owner = self._lease.owner
        try:
            # a device that fell off the bus, or that this container does not see, must not keep the others from use
            with self._journal.locked() as entries:
                self._absent = set(entries) - {gpu.id for gpu in self.devices()}
            self._restore(self._absent)
        except EcoRayError:
            self._end_lease()
            self.close()
            raise
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            # the default ends the process without unwinding it; a handler that is there already has its reason
            self._old_handler = signal.signal(signal.SIGTERM, _leave)
        return self

    def __exit__(self, *_: object) -> None:
        """Undo everything."""
        try:
            self._restore(self._absent)
        finally:
            self._end_lease()
            if self._old_handler is not None:
                signal.signal(signal.SIGTERM, self._old_handler)
                self._old_handler = None
            self.close()

    def _end_lease(self) -> None:
        self._owner = None
        if self._lease is not None:
            self._lease.end()
            self._lease = None

    def _find(self, device: str) -> PowerDevice:
        devices = self.devices()
        for gpu in devices:
            if device in (gpu.id, str(gpu.index)):
                return gpu
        known = ", ".join(f"{gpu.index} ({gpu.id})" for gpu in devices) or "none"
        raise NotFoundError(f"no GPU '{device}' whose power can be limited: this node has {known}")

    def _mine(self, entries: dict[str, Entry], gpu: PowerDevice) -> Entry:
        """The entry of a device, if this owner may change it."""
        entry = entries.get(gpu.id)
        if entry is None or entry.owner == self._owner:
            return entry or Entry(owner=self._owner)
        who = "by hand" if entry.owner is None else f"by process {entry.owner.partition(':')[0]}"
        left = entry.owner is None or not is_alive(self._journal.path, entry.owner)
        cure = " with `eco-ray power restore`" if left else ""
        raise NotAllowedError(
            f"'{gpu.name}' ({gpu.id}) was limited {who}, which alone may change it: end that first{cure}"
        )

    def _change(self, entries: dict[str, Entry], device: str, before: Entry, change: Callable[[], None]) -> None:
        """Journal, then change; a change that was refused leaves the journal as it was."""
        self._journal.write(entries)
        try:
            change()
        except EcoRayError:
            if before == Entry(owner=before.owner):
                del entries[device]
            else:
                entries[device] = before
            self._journal.write(entries)
            raise


class NvmlHardware:
    """NVIDIA GPUs. Reading needs no privilege, changing needs root."""

    name = "nvml"

    def __init__(self, nvml: Any = None) -> None:
        """Open NVML (a `pynvml` module; imported when not given). Raises NotFoundError without driver."""
        self._nvml = _nvml.load(nvml)

    def devices(self) -> Sequence[PowerDevice]:
        """The GPUs whose limits can be read; one that is lost, or knows no limits, is left out."""
        count = _nvml.number(_nvml.ask(self._nvml, "nvmlDeviceGetCount")) or 0
        found = [self._device(index) for index in range(int(count))]
        return [device for device in found if device is not None]

    def set_limit(self, device: str, watts: float) -> None:
        """Set a power limit [W]."""
        self._set("the power limit", device, "nvmlDeviceSetPowerManagementLimit", round(watts * 1000))

    def lock_clocks(self, device: str, min_mhz: int, max_mhz: int) -> None:
        """Lock the core clock [MHz]."""
        self._set("the clocks", device, "nvmlDeviceSetGpuLockedClocks", min_mhz, max_mhz)

    def unlock_clocks(self, device: str) -> None:
        """Let the core clock run freely."""
        self._set("the clocks", device, "nvmlDeviceResetGpuLockedClocks")

    def close(self) -> None:
        """Release NVML."""
        _nvml.close(self._nvml)

    def _set(self, what: str, device: str, function: str, *values: int) -> None:
        try:
            getattr(self._nvml, function)(self._handle(device), *values)
        except self._nvml.NVMLError as error:
            if _nvml.is_error(self._nvml, error, "NVML_ERROR_NO_PERMISSION"):
                raise NotAllowedError(
                    f"{what} of {device} may only be set by root ({error}): run this as root, in a container with "
                    "CAP_SYS_ADMIN"
                ) from error
            if _nvml.is_error(self._nvml, error, "NVML_ERROR_NOT_SUPPORTED"):
                raise EcoRayError(
                    f"{what} of {device} cannot be set: the GPU or its driver does not support it"
                ) from error
            raise EcoRayError(f"{what} of {device} could not be set to {list(values)}: NVML says '{error}'") from error

    def _handle(self, device: str) -> Any:
        if device.startswith("index-"):
            return self._nvml.nvmlDeviceGetHandleByIndex(int(device.removeprefix("index-")))
        return self._nvml.nvmlDeviceGetHandleByUUID(device)

    def _device(self, index: int) -> PowerDevice | None:
        handle = _nvml.ask(self._nvml, "nvmlDeviceGetHandleByIndex", index)
        if handle is None:
            return None
        limit, default = (
            _nvml.number(_nvml.ask(self._nvml, f"nvmlDeviceGetPowerManagement{kind}", handle))
            for kind in ("Limit", "DefaultLimit")
        )
        ends = _nvml.ask(self._nvml, "nvmlDeviceGetPowerManagementLimitConstraints", handle) or ()
        low, high = [_nvml.number(end) for end in ends] if len(ends) == 2 else (None, None)
        if limit is None or default is None or low is None or high is None:
            return None
        name = _nvml.ask(self._nvml, "nvmlDeviceGetName", handle)
        return PowerDevice(
            id=_nvml.uuid(self._nvml, handle, index),
            index=index,
            name=name.decode(errors="replace") if isinstance(name, bytes) else str(name or "NVIDIA GPU"),
            limit_w=limit / 1000,
            default_w=default / 1000,
            min_w=low / 1000,
            max_w=high / 1000,
            clocks_mhz=self._clocks_mhz(handle),
        )

    def _clocks_mhz(self, handle: Any) -> tuple[int, int] | None:
        clocks: list[int] = []
        for memory_mhz in _nvml.ask(self._nvml, "nvmlDeviceGetSupportedMemoryClocks", handle) or ():
            clocks += _nvml.ask(self._nvml, "nvmlDeviceGetSupportedGraphicsClocks", handle, memory_mhz) or ()
        return (min(clocks), max(clocks)) if clocks else None


def open_control(journal: Path = JOURNAL, nvml: Any = None) -> JournalledControl:
    """The power control of this node's GPUs. Raises NotFoundError where there is no NVIDIA driver."""
    return JournalledControl(NvmlHardware(nvml), journal)


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
