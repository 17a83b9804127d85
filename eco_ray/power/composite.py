"""The meter of a node: the sum of what can be measured on it and a model of the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eco_ray.core.ports import CpuUse, EnergyMeter, Reading
from eco_ray.core.power import PowerCurve
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError
from eco_ray.power._counter import COUNTER_RESET
from eco_ray.power.modelled import ModelledMeter
from eco_ray.power.nvml import NvmlMeter
from eco_ray.power.rapl import POWERCAP, RaplMeter


def open_meter(
    curve: PowerCurve, *, whole_machine: bool = True, rapl_root: Path = POWERCAP, nvml: Any = None
) -> EnergyMeter:
    """The best meter of a node: host by RAPL where it can be read, else by `curve`; plus its GPUs by NVML.

    `curve` is of the host without GPUs. A node that shares its machine with other nodes (`whole_machine=False`) is
    always modelled: the machine's counters would be counted once per node.
    """
    modelled = ModelledMeter(curve)
    if not whole_machine:
        return modelled
    host: EnergyMeter = modelled
    try:
        host = FallbackMeter(RaplMeter(rapl_root, idle_w=curve.idle_w), modelled)
    except EcoRayError:
        # no RAPL, or not ours to read: the model says so in its nature and source
        host = modelled
    try:
        return SumMeter([host, NvmlMeter(nvml)])
    except EcoRayError:
        return host


class FallbackMeter:
    """A meter, and another that stands in, flagged, for intervals in which the first one failed or was reset.

    The first good reading after a failure reaches back over what the other has already counted: it is not used.
    """

    def __init__(self, first: EnergyMeter, other: EnergyMeter) -> None:
        self.name = first.name
        self._first = first
        self._other = other
        self._failed = False

    def read(self, use: CpuUse) -> Reading:
        """The first meter's reading, or the other's with the reason in its flags."""
        stand_in = self._other.read(use)
        try:
            reading = self._first.read(use)
        except EcoRayError:
            self._failed = True
            return _flagged(stand_in, f"{self.name}-unreadable")
        recovering, self._failed = self._failed, False
        if recovering:
            return _flagged(stand_in, f"{self.name}-recovered")
        if COUNTER_RESET in reading.flags:
            return _flagged(stand_in, *reading.flags)
        return reading


class SumMeter:
    """Several parts of one node as one meter. Its nature is that of the weakest part."""

    def __init__(self, parts: Sequence[EnergyMeter]) -> None:
        self.name = "+".join(part.name for part in parts)
        self._parts = tuple(parts)

    def read(self, use: CpuUse) -> Reading:
        """Sum of the parts; their errors are taken as fully correlated, which is the cautious side."""
        readings = [part.read(use) for part in self._parts]
        energy_mj = sum(reading.energy_mj for reading in readings)
        error_mj = sum(reading.energy_mj * reading.error_rel for reading in readings)
        return Reading(
            energy_mj=energy_mj,
            idle_mj=min(energy_mj, sum(reading.idle_mj for reading in readings)),
            nature=Nature.weakest([reading.nature for reading in readings]),
            source="; ".join(reading.source for reading in readings),
            error_rel=error_mj / energy_mj if energy_mj else max(reading.error_rel for reading in readings),
            flags=tuple(dict.fromkeys(flag for reading in readings for flag in reading.flags)),
            gpus=tuple(gpu for reading in readings for gpu in reading.gpus),
        )


def _flagged(reading: Reading, *flags: str) -> Reading:
    return dataclasses.replace(reading, flags=tuple(dict.fromkeys([*flags, *reading.flags])))
