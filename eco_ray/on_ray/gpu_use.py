"""From what the meter saw of GPUs to whose it was: processes to owners, devices to reservations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

from eco_ray.core.ledger import GpuSample, GpuUse
from eco_ray.core.ports import GpuReading
from eco_ray.on_ray.owners import Owner


class Device(Protocol):
    """A GPU of this node, as a meter or a reader tells it."""

    @property
    def gpu(self) -> str:
        """Its UUID."""
        ...

    @property
    def index(self) -> int:
        """Its position among the node's GPUs."""
        ...


@dataclass(frozen=True, slots=True)
class Holding:
    """GPUs that Ray holds for an owner on this node."""

    gpus: float
    #: indices or UUIDs, as in CUDA_VISIBLE_DEVICES; empty: not known
    devices: tuple[str, ...] = ()

    def parts(self, readings: Sequence[Device], at_work: Set[int]) -> dict[int, float]:
        """Held part of devices, in (0, 1], by their place in `readings`; `at_work`: where the owner's processes run.

        Where nobody says which devices they are, or none of what is said is a device here, it is those at work.
        """
        mine = {place for device in self.devices for place in _places(device, readings)} or at_work
        return {place: min(1.0, self.gpus / len(mine)) for place in mine}


def _places(device: str, readings: Sequence[Device]) -> set[int]:
    """Where a device of CUDA_VISIBLE_DEVICES is: an index, a UUID, its unique beginning, or a MIG device of a GPU.

    `MIG-GPU-.../1/0` names its GPU; the newer `MIG-...` does not.
    """
    name = device.removeprefix("MIG-").split("/")[0] if device.startswith("MIG-GPU-") else device
    exact = {place for place, reading in enumerate(readings) if name in (reading.gpu, str(reading.index))}
    if exact or not name.removeprefix("GPU-") or not name.startswith("GPU-"):
        return exact
    short = {place for place, reading in enumerate(readings) if reading.gpu.startswith(name)}
    return short if len(short) == 1 else set()  # CUDA takes no other


def gpu_samples(
    readings: Sequence[GpuReading],
    owner_of: Callable[[int], Owner | None],
    holdings: Mapping[Owner, Holding],
    clock_speed: float,
) -> tuple[GpuSample, ...]:
    """The node's GPUs with who used them, energy in grid time. Time of processes without owner is the system's."""
    busy: list[dict[Owner, float]] = []
    system_s: list[float] = []
    for reading in readings:
        by_owner: dict[Owner, float] = {}
        nobody_s = 0.0
        for pid, busy_s in reading.busy_s.items():
            owner = owner_of(pid)
            if owner is None:
                nobody_s += busy_s
            else:
                by_owner[owner] = by_owner.get(owner, 0.0) + busy_s
        busy.append(by_owner)
        system_s.append(nobody_s)
    parts = {
        owner: holding.parts(readings, {place for place, one in enumerate(busy) if owner in one})
        for owner, holding in holdings.items()
    }
    samples = []
    for place, (reading, by_owner, nobody_s) in enumerate(zip(readings, busy, system_s, strict=True)):
        energy_mj = round(reading.energy_mj * clock_speed)
        held = {owner: of_owner[place] for owner, of_owner in parts.items() if place in of_owner}
        owners = dict.fromkeys([*by_owner, *(owner for owner, part in held.items() if part)])
        samples.append(
            GpuSample(
                gpu=reading.gpu,
                energy_mj=energy_mj,
                idle_mj=min(energy_mj, round(reading.idle_mj * clock_speed)),
                uses=tuple(
                    GpuUse(*owner[:3], by_owner.get(owner, 0.0), held.get(owner, 0.0), owner.part) for owner in owners
                ),
                system_busy_s=nobody_s,
            )
        )
    return tuple(samples)
