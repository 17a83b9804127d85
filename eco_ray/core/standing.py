"""What an attempt is told of its job while it runs: what it used so far, and what it has ahead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from eco_ray.core.clock import Clock
from eco_ray.core.intensity import IntensitySeries
from eco_ray.core.power_limits import Stretch
from eco_ray.core.units import Nature

#: steps of a forecast that an attempt is told at most
MOST_STEPS = 96


@dataclass(frozen=True, slots=True)
class Spent:
    """What the ledger has for a job, all attempts together."""

    energy_j: float
    #: None: an intensity was unknown
    operational_g: float | None
    #: the weakest of its energies and intensities, and where they come from
    nature: Nature
    source: str


@dataclass(frozen=True, slots=True)
class Standing:
    """Times are wall time [s since epoch]."""

    #: when it was told
    time_s: float
    #: latest finish
    deadline_s: float
    #: None: the ledger has nothing yet
    spent: Spent | None = None
    #: starts of steps, each up to the next, and the intensity in them; the last step ends at `ahead_end_s`
    ahead: tuple[tuple[float, float], ...] = ()
    ahead_end_s: float = 0.0

    def stretches(self, now_s: float) -> Sequence[Stretch]:
        """From now to the deadline; NaN where the intensity is unknown. Empty where nothing at all is known."""
        ends = [*(start_s for start_s, _ in self.ahead[1:]), self.ahead_end_s]
        found = []
        at_s = now_s
        for (_, intensity), end_s in zip(self.ahead, ends, strict=False):
            until_s = min(end_s, self.deadline_s)
            if until_s > at_s:
                found.append(Stretch(until_s - at_s, intensity))
                at_s = until_s
        if found and self.deadline_s > at_s:
            found.append(Stretch(self.deadline_s - at_s, math.nan))
        return found


def steps_ahead(
    series: IntensitySeries | None, now_s: float, deadline_s: float, clock: Clock
) -> tuple[tuple[tuple[float, float], ...], float]:
    """`ahead` and `ahead_end_s` of a forecast, from grid time [s since epoch] to wall time."""
    if series is None or not series.start_s <= now_s < series.end_s:
        return (), 0.0
    first = int((now_s - series.start_s) // series.step_s)
    last = min(
        len(series.values_g_per_kwh), first + MOST_STEPS, math.ceil((deadline_s - series.start_s) / series.step_s)
    )
    steps = tuple(
        (clock.wall_s(series.start_s + index * series.step_s), float(series.values_g_per_kwh[index]))
        for index in range(first, max(first + 1, last))
    )
    return steps, clock.wall_s(series.start_s + (first + len(steps)) * series.step_s)
