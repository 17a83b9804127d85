"""What is believed about the intensity ahead at a moment of the simulation. Only `Known` reads the future.

Forecasts are chained: where a forecast file has nothing (before its first issue, beyond its last hour) the mean day of
the past week stands in, then the past day; where there is no past either, nothing is known and a job runs at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from eco_ray.core.outlook import Outlook
from eco_ray.core.policies import DAY_S
from eco_ray.sim.trace import Trace

HOUR_S = 3600

Floats = NDArray[np.float64]


class Foresight(Protocol):
    """A way to look ahead."""

    def outlook(self, at_s: float, until_s: float) -> Outlook | None:
        """What is believed at a time about the time until another; may end earlier; None: nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Known:
    """Perfect knowledge of a trace: the truth (`oracle`), or a model of the calendar (`profile`)."""

    trace: Trace

    def outlook(self, at_s: float, until_s: float) -> Outlook | None:
        """The trace itself."""
        until_s = min(until_s, self.trace.end_s)
        return self.trace.outlook(at_s, until_s) if self.trace.start_s <= at_s < until_s else None


@dataclass(frozen=True, slots=True)
class MeanDay:
    """Every day ahead is the mean of the last `days` days, as far as there are so many."""

    truth: Trace
    days: int

    def outlook(self, at_s: float, until_s: float) -> Outlook | None:
        """The mean day, again and again, step by step from the step that holds `at`."""
        trace = self.truth
        per_day, now = DAY_S // trace.step_s, trace.index(at_s)
        days = min(self.days, now // per_day)
        if days == 0:
            return None
        day = trace.g_per_kwh[now - days * per_day : now].reshape(days, per_day).mean(axis=0)
        last = -int((trace.start_s - until_s) // trace.step_s)
        edges_s = trace.start_s + np.arange(now, last + 1, dtype=np.float64) * trace.step_s - at_s
        edges_s[0], edges_s[-1] = 0.0, until_s - at_s
        return Outlook(edges_s, np.resize(day, last - now))


@dataclass(frozen=True, slots=True, eq=False)
class Issued:
    """The newest forecast of a file that had been issued, hour by hour; then what `otherwise` believes."""

    #: shape (N,), increasing, since the simulation's start [s]
    issues_s: Floats
    #: shape (N, H): H hours from each issue on [g/kWh]
    g_per_kwh: Floats
    otherwise: tuple[Foresight, ...] = ()

    def outlook(self, at_s: float, until_s: float) -> Outlook | None:
        """The forecast, continued where it ends."""
        rest = next((found for other in self.otherwise if (found := other.outlook(at_s, until_s))), None)
        row = int(np.searchsorted(self.issues_s, at_s, side="right")) - 1
        if row < 0:
            return rest
        issue_s, hours = float(self.issues_s[row]), self.g_per_kwh.shape[1]
        first, last = int((at_s - issue_s) // HOUR_S), min(hours, -int((issue_s - until_s) // HOUR_S))
        if first >= last:
            return rest
        edges_s = issue_s + np.arange(first, last + 1, dtype=np.float64) * HOUR_S - at_s
        edges_s[0], edges_s[-1] = 0.0, min(float(edges_s[-1]), until_s - at_s)
        values = self.g_per_kwh[row, first:last]
        if rest is None or rest.end_s <= edges_s[-1]:
            return Outlook(edges_s, values)
        keep = int(np.searchsorted(rest.edges_s, edges_s[-1], side="right"))
        return Outlook(
            np.concatenate([edges_s, rest.edges_s[keep:]]), np.concatenate([values, rest.g_per_kwh[keep - 1 :]])
        )


def persistence(truth: Trace) -> MeanDay:
    """Tomorrow is like yesterday."""
    return MeanDay(truth, 1)


def week_mean(truth: Trace) -> MeanDay:
    """Every day ahead is like the mean day of the past week."""
    return MeanDay(truth, 7)


def issued(issues_s: Floats, g_per_kwh: Floats, truth: Trace) -> Issued:
    """A forecast file with its causal fallback."""
    return Issued(issues_s, g_per_kwh, (week_mean(truth),))
