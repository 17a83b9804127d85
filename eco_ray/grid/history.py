"""What was published of a zone so far, with gaps where nothing was, kept over restarts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from eco_ray.core.intensity import IntensitySeries

#: older values say nothing more: the forecaster looks back five weeks [s]
KEEP_S = 35 * 86_400.0


@dataclass(frozen=True, slots=True)
class History:
    """A series of one zone and kind in which NaN stands for steps that nobody published."""

    #: its values with gaps; `source` and `nature` are those of the newest ones
    series: IntensitySeries

    @classmethod
    def of(cls, series: IntensitySeries) -> History:
        """The first that is known."""
        return cls(replace(series, issued_s=None, quantiles_g_per_kwh={}))

    @property
    def end_s(self) -> float:
        """End of the newest step [s since epoch]."""
        return self.series.end_s

    def with_(self, new: IntensitySeries) -> History:
        """The history with newly published values, which win; one in other steps or of another kind starts anew."""
        old = self.series
        offset = (new.start_s - old.start_s) / old.step_s
        if new.step_s != old.step_s or new.kind is not old.kind or offset != round(offset):
            return History.of(new)
        start_s = min(old.start_s, new.start_s)
        end_s = max(old.end_s, new.end_s)
        start_s = max(start_s, end_s - math.ceil(KEEP_S / old.step_s) * old.step_s)
        values = np.full(round((end_s - start_s) / old.step_s), np.nan)
        for part in (old, new):
            at = round((part.start_s - start_s) / old.step_s)
            kept = part.values_g_per_kwh[max(0, -at) :]
            values[max(0, at) : max(0, at) + len(kept)] = kept
        newest = new if new.end_s >= old.end_s else old
        return History(
            replace(old, start_s=start_s, values_g_per_kwh=values, source=newest.source, nature=newest.nature)
        )

    def until(self, now_s: float) -> History | None:
        """What had begun by `now_s`: after a clock went back, newer values are not of the past."""
        series = self.series
        count = math.floor((now_s - series.start_s) / series.step_s + 1)
        known = np.flatnonzero(~np.isnan(series.values_g_per_kwh[: max(0, count)]))
        if not len(known):
            return None
        return History(replace(series, values_g_per_kwh=series.values_g_per_kwh[: known[-1] + 1]))

    def since(self, start_s: float) -> IntensitySeries | None:
        """What is known from the step that holds `start_s` on, up to the next gap; None: that step is not known."""
        series = self.series
        first = math.floor((start_s - series.start_s) / series.step_s)
        if not 0 <= first < len(series.values_g_per_kwh) or math.isnan(series.values_g_per_kwh[first]):
            return None
        values = series.values_g_per_kwh[first:]
        gaps = np.flatnonzero(np.isnan(values))
        return replace(
            series,
            start_s=series.start_s + first * series.step_s,
            values_g_per_kwh=values[: gaps[0]] if len(gaps) else values,
        )

    def tail(self) -> IntensitySeries:
        """What is known without a gap up to the end; the last step is always known."""
        gaps = np.flatnonzero(np.isnan(self.series.values_g_per_kwh))
        first = int(gaps[-1]) + 1 if len(gaps) else 0
        series = self.series
        return replace(
            series,
            start_s=series.start_s + first * series.step_s,
            values_g_per_kwh=series.values_g_per_kwh[first:],
        )
