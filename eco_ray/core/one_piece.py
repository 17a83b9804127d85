"""The cheapest run in one piece, on any of some places."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from eco_ray.core.picks import Window
from eco_ray.core.situation import Floats
from eco_ray.core.spread import Ints

#: sums of the same grams differ by less (relative)
EQUAL = 1e-6
#: shorter than any time that matters [s]
INSTANT_S = 1e-6


class Rates(NamedTuple):
    """What slots cost. A window is a block of memory here, and in it what begins first comes first."""

    #: (slots, places): grams per second, inf where it may not run
    rate_g: Floats
    #: (slots + 1, places): their running sums, where what is shut counts as `shut_g`
    sums_g: Floats
    #: far more than any run
    shut_g: float

    @classmethod
    def of(cls, rate_g: Floats, shut_g: float) -> Rates:
        """From grams per second, shape (places, slots)."""
        rate_g = np.ascontiguousarray(rate_g.T)
        sums_g = np.zeros((len(rate_g) + 1, rate_g.shape[1]))
        upto_g = np.minimum(rate_g, shut_g, out=sums_g[1:])
        np.add.accumulate(upto_g, axis=0, out=upto_g)
        return cls(rate_g, sums_g, shut_g)

    def cheapest(
        self, window: Window, run_s: float, emptiest: Callable[[int, Ints], int]
    ) -> tuple[float, int, float] | None:
        """Grams (over the seconds of a slot), place and start [s] of the cheapest run of that length; None: no room.

        `emptiest`: of slots in which it is as cheap to begin on a place, the one to begin in.
        """
        rate_g, sums_g, slot_s, length = self.rate_g, self.sums_g, window.slot_s, run_s / window.slot_s
        if window.end_s - run_s < window.begin_s - INSTANT_S:
            return None
        best_g, row, begin_s = math.inf, 0, 0.0
        # from the edges of slots: so many whole slots, and a part of one more
        whole = math.ceil(length - 1e-9) - 1
        low = window.first + (window.begin_s > window.first * slot_s + INSTANT_S)
        high = int((window.end_s - run_s) / slot_s + 1e-9) + 1
        if low > window.first:  # at its earliest, in mid-slot
            at = window.begin_s / slot_s
            last = min(math.ceil(at + length - 1e-9) - 1, len(rate_g) - 1)
            first_g, last_g = sums_g[window.first], sums_g[last]
            cost_g = last_g - first_g - (sums_g[window.first + 1] - first_g) * (at - window.first)
            cost_g += (sums_g[last + 1] - last_g) * (at + length - last)
            cost_g[np.isinf(rate_g[window.first : last + 1]).any(axis=0)] = np.inf
            row = int(cost_g.argmin())
            best_g, begin_s = float(cost_g[row]), window.begin_s
        if high > low:
            cost_g = rate_g[low + whole : high + whole] * (length - whole)
            cost_g += sums_g[low + whole : high + whole]
            cost_g -= sums_g[low:high]
            cost_g = cost_g.ravel()
            least = cost_g.item(cost_g.argmin())
            if least < min(best_g * (1 - EQUAL), self.shut_g / 2):
                # among equals the earliest start, then the first place
                equal = (cost_g <= max(least, least * (1 + EQUAL))).nonzero()[0]
                start, row = divmod(equal.item(0), rate_g.shape[1])
                if len(equal) > 1 and (start or low > window.first):  # who can begin now, does
                    starts, rows = np.divmod(equal, rate_g.shape[1])
                    start = emptiest(row, low + starts[rows == row]) - low
                best_g, begin_s = least, (low + start) * slot_s
        return None if best_g == math.inf else (best_g, row, begin_s)
