"""Joules of a training over all its attempts, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eco_ray.core.ports import LapMeter, WorkEnergy
from eco_ray.core.units import Nature

#: between the sources of a sum
_AND = " | "


class TrainingEnergy:
    """Adds up what a meter counts, and what earlier attempts counted."""

    def __init__(self, meter: LapMeter) -> None:
        self._meter = meter
        #: of all attempts, as far as it was read; None: nothing was yet
        self.total: WorkEnergy | None = None
        #: since the last lap, as far as it was read
        self._since: WorkEnergy | None = None

    def lap(self) -> WorkEnergy:
        """What was used since the last lap, such as by an epoch, or since this was made."""
        used = self._read()
        self._since = None
        return used

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; the lap goes on."""
        self._read()
        total = self.total
        assert total is not None  # noqa: S101 - it was just read
        return {
            "energy_j": total.energy_j,
            "cpu_s": total.cpu_s,
            "wall_s": total.wall_s,
            "nature": total.nature.value,
            "source": total.source,
            "error_rel": total.error_rel,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.total = WorkEnergy(**{**state, "nature": Nature(state["nature"])})

    def _read(self) -> WorkEnergy:
        used = self._meter.lap()
        self.total = used if self.total is None else _sum(self.total, used)
        self._since = used if self._since is None else _sum(self._since, used)
        return self._since


def _sum(one: WorkEnergy, other: WorkEnergy) -> WorkEnergy:
    energy_j = one.energy_j + other.energy_j
    error_j = one.energy_j * one.error_rel + other.energy_j * other.error_rel
    sources = dict.fromkeys([*one.source.split(_AND), *other.source.split(_AND)])
    return WorkEnergy(
        energy_j,
        one.cpu_s + other.cpu_s,
        one.wall_s + other.wall_s,
        Nature.weakest([one.nature, other.nature]),
        _AND.join(sources),
        error_j / energy_j if energy_j > 0 else max(one.error_rel, other.error_rel),
    )
