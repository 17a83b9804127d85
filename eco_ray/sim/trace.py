"""Carbon intensity of one zone as the simulator sees it: steps on a time axis that begins with the simulation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eco_ray.core.intensity import IntensitySeries
from eco_ray.core.outlook import S_PER_H, Outlook
from eco_ray.errors import UsageError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Intensity [g/kWh] in steps of `step_s`; the first step begins `start_s` <= 0 seconds after the simulation."""

    zone: str
    start_s: int
    step_s: int
    #: shape (T,)
    g_per_kwh: Floats
    _sum: Floats = field(init=False, repr=False)
    _edges_s: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        edges_s = self.start_s + np.arange(len(self.g_per_kwh) + 1, dtype=np.float64) * self.step_s
        object.__setattr__(self, "_edges_s", edges_s)
        object.__setattr__(self, "_sum", np.concatenate([[0.0], np.cumsum(self.g_per_kwh)]) * (self.step_s / S_PER_H))

    @classmethod
    def of(cls, series: IntensitySeries, begin_s: float, resolution_s: int) -> Trace:
        """A series whose times are counted from `begin_s`. Raises UsageError where ticks do not fit its steps.

        Steps that are shorter than a tick are averaged over the tick.
        """
        step_s, offset_s = round(series.step_s), round(series.start_s - begin_s)
        values = series.values_g_per_kwh
        if resolution_s > step_s and resolution_s % step_s == 0:
            count = resolution_s // step_s
            skip = (-offset_s // step_s) % count  # whole ticks, counted from the simulation's start
            whole = (len(values) - skip) // count * count
            values = values[skip : skip + whole].reshape(-1, count).mean(axis=1)
            offset_s, step_s = offset_s + skip * step_s, resolution_s
        if step_s % resolution_s or offset_s % resolution_s:
            raise UsageError(
                f"resolution {resolution_s} s: zone {series.zone} has steps of {step_s} s that begin "
                f"{offset_s % step_s} s after the start; choose a resolution that divides both, e.g. "
                f"{np.gcd(step_s, abs(offset_s))} s"
            )
        return cls(series.zone, offset_s, step_s, values)

    @property
    def end_s(self) -> int:
        """End of the last step [s]."""
        return self.start_s + self.step_s * len(self.g_per_kwh)

    def index(self, time_s: float) -> int:
        """The step that holds a time."""
        return int((time_s - self.start_s) // self.step_s)

    def outlook(self, at_s: float, until_s: float) -> Outlook:
        """The truth over [at, until), which must lie in the trace."""
        first, last = self.index(at_s), -int((self.start_s - until_s) // self.step_s)
        edges_s = self._edges_s[first : last + 1] - at_s
        edges_s[0], edges_s[-1] = 0.0, until_s - at_s
        return Outlook(edges_s, self.g_per_kwh[first:last])

    def past(self, at_s: float, span_s: int) -> Floats:
        """The steps of the last `span_s` seconds that were over at a time, oldest first; fewer at the file's start."""
        last = self.index(at_s)
        return self.g_per_kwh[max(0, last - span_s // self.step_s) : max(0, last)]

    def carbon(self, start_s: Floats, end_s: Floats) -> Floats:
        """Carbon of 1 kW that runs from start to end, both of shape (N,) [g]."""
        carbon: Floats = np.interp(end_s, self._edges_s, self._sum) - np.interp(start_s, self._edges_s, self._sum)
        return carbon
