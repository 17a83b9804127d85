"""Carbon intensity of a zone as a step function of time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Generic, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeVar  # with defaults, which typing has from Python 3.13 on

from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError, MixedKindsError


class SignalKind(StrEnum):
    """What an intensity stands for. Series of different kinds are never added, compared or planned together."""

    AVERAGE_LIFECYCLE = "average-lifecycle"
    AVERAGE_DIRECT = "average-direct"
    MARGINAL = "marginal"


#: the kind of a series as a type: a source of one kind returns `MarginalSeries`, say, and a type checker refuses to
#: hand it to what already holds a `LifecycleSeries`; plain `IntensitySeries` is of a kind that only shows at run time
Kind = TypeVar("Kind", bound=SignalKind, default=Any)


@dataclass(frozen=True, slots=True)
class IntensitySeries(Generic[Kind]):
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
    kind: Kind
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

    def then(self, later: IntensitySeries[Kind]) -> IntensitySeries[Kind]:
        """The series, and after its end what `later` knows; the series alone where `later` does not go on from it.

        Raises MixedKindsError for another kind, and EcoRayError for another zone or step.
        """
        kind_of(self, later)
        if (later.zone, later.step_s) != (self.zone, self.step_s):
            raise EcoRayError(
                f"a series of {self.zone} in steps of {self.step_s:g} s cannot go on as one of {later.zone} in "
                f"steps of {later.step_s:g} s; join series of one zone and step"
            )
        skip = round((self.end_s - later.start_s) / self.step_s)
        if not 0 <= skip < len(later.values_g_per_kwh) or later.start_s + skip * self.step_s != self.end_s:
            return self
        levels = self.quantiles_g_per_kwh.keys() & later.quantiles_g_per_kwh.keys()
        return replace(
            self,
            values_g_per_kwh=np.concatenate([self.values_g_per_kwh, later.values_g_per_kwh[skip:]]),
            source=f"{self.source}; after that {later.source}",
            nature=Nature.weakest([self.nature, later.nature]),
            quantiles_g_per_kwh={
                level: np.concatenate([self.quantiles_g_per_kwh[level], later.quantiles_g_per_kwh[level][skip:]])
                for level in sorted(levels)
            },
        )

    def _unknown(self, start_s: float, end_s: float) -> EcoRayError:
        return EcoRayError(
            f"no intensity for zone {self.zone} over {start_s:.0f}..{end_s:.0f} s: the series covers "
            f"{self.start_s:.0f} to {self.end_s:.0f} s; load a longer trace or forecast"
        )


LifecycleSeries = IntensitySeries[Literal[SignalKind.AVERAGE_LIFECYCLE]]
DirectSeries = IntensitySeries[Literal[SignalKind.AVERAGE_DIRECT]]
MarginalSeries = IntensitySeries[Literal[SignalKind.MARGINAL]]


def kind_of(*series: IntensitySeries[Kind]) -> Kind | None:
    """The kind that all series have; None: there is none. Raises MixedKindsError where they differ."""
    first: IntensitySeries[Kind] | None = None
    for one in series:
        if first is not None and one.kind is not first.kind:
            raise MixedKindsError(
                f"{first.zone} is {first.kind} ({first.source}) and {one.zone} is {one.kind} ({one.source}): series of "
                "different kinds cannot be added, compared or planned together; take one kind for all zones"
            )
        first = first or one
    return first.kind if first is not None else None
