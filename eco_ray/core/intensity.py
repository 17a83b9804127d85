"""Carbon intensity of a zone as a step function of time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError


class SignalKind(StrEnum):
    """What an intensity stands for. Series of different kinds are never added, compared or planned together."""

    AVERAGE_LIFECYCLE = "average-lifecycle"
    AVERAGE_DIRECT = "average-direct"
    MARGINAL = "marginal"


@dataclass(frozen=True, slots=True)
class IntensitySeries:
    """Carbon intensity [gCO2e/kWh] of one zone, constant within each step of `step_s` seconds.

    `values_g_per_kwh[i]` holds in [start_s + i*step_s, start_s + (i+1)*step_s). Outside that range the intensity is
    unknown, and asking for it is an error, never an extrapolation.
    """

    zone: str
    #: start of the first step [s since epoch, UTC]
    start_s: float
    #: length of a step [s]
    step_s: float
    #: shape (T,), gCO2e/kWh
    values_g_per_kwh: NDArray[np.float64]
    kind: SignalKind
    #: where the numbers come from, in words a reader can follow up
    source: str
    nature: Nature
    #: when a forecast was issued [s since epoch]; None for history
    issued_s: float | None = None
    #: of a forecast whose source has them: level in (0, 1) -> shape (T,), gCO2e/kWh; decisions use the values above
    quantiles_g_per_kwh: Mapping[float, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def end_s(self) -> float:
        """End of the last step [s since epoch]."""
        return self.start_s + self.step_s * len(self.values_g_per_kwh)

    def covers(self, start_s: float, end_s: float) -> bool:
        """Whether the whole of [start_s, end_s] is known."""
        return self.start_s <= start_s and end_s <= self.end_s

    def at(self, time_s: float) -> float:
        """Intensity [g/kWh] at a time. Raises EcoRayError outside the series."""
        index = int((time_s - self.start_s) // self.step_s)
        if not 0 <= index < len(self.values_g_per_kwh):
            raise EcoRayError(
                f"no intensity for zone {self.zone} at t={time_s:.0f} s: the series covers "
                f"{self.start_s:.0f} to {self.end_s:.0f} s; load a longer trace or forecast"
            )
        return float(self.values_g_per_kwh[index])

    def mean(self, start_s: float, end_s: float) -> float:
        """Time-weighted mean intensity [g/kWh] over [start_s, end_s]; `at(start_s)` when the span is empty."""
        if end_s <= start_s:
            return self.at(start_s)
        if not self.covers(start_s, end_s):
            raise self._unknown(start_s, end_s)
        begin = (start_s - self.start_s) / self.step_s
        end = min((end_s - self.start_s) / self.step_s, float(len(self.values_g_per_kwh)))  # a sum of floats ends here
        first, last = int(begin), math.ceil(end) - 1
        if last <= first:
            return float(self.values_g_per_kwh[first])
        values = self.values_g_per_kwh[first : last + 1]
        total = float(values.sum()) - float(values[0]) * (begin - first) - float(values[-1]) * (last + 1 - end)
        return total / (end - begin)

    def means(self, edges_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean intensity [g/kWh] between consecutive edges: shape (n+1,) increasing -> shape (n,)."""
        if not self.covers(float(edges_s[0]), float(edges_s[-1])):
            raise self._unknown(float(edges_s[0]), float(edges_s[-1]))
        # in steps since the first edge's step, so that sums stay small and little is lost by taking their difference
        position = (edges_s - self.start_s) / self.step_s
        first = int(position[0])
        values = self.values_g_per_kwh[first : int(np.ceil(position[-1])) + 1]
        integral = np.concatenate([[0.0], np.cumsum(values)])
        at_edges = np.interp(position - first, np.arange(len(values) + 1), integral)
        means: NDArray[np.float64] = np.diff(at_edges) / np.diff(position)
        begin, end = (position[:-1] - first).astype(np.int64), np.ceil(position[1:] - first).astype(np.int64)
        inside = end - begin == 1  # within one step: its value, to the last bit
        means[inside] = values[begin[inside]]
        return means

    def _unknown(self, start_s: float, end_s: float) -> EcoRayError:
        return EcoRayError(
            f"no intensity for zone {self.zone} over {start_s:.0f}..{end_s:.0f} s: the series covers "
            f"{self.start_s:.0f} to {self.end_s:.0f} s; load a longer trace or forecast"
        )
