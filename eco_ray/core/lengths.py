"""How long jobs take beside what was said of them, and how likely it therefore is that the rest of a plan is needed.

A length that is told is either right, or no more than a mean: then the job may end at any moment or run on for as long
again (the exponential distribution: the one that assumes no more than the mean). How often it is which, jobs that have
ended teach.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: a length that differs by more (relative) was not right
_RIGHT = 0.25
#: what is told is trusted like so many jobs that kept to it
_TRUST_JOBS = 3.0
#: that a job runs for longer than so many times its mean length after its plan is left out
_LONGEST = 3.0


class Lengths:
    """Learns from jobs that have ended how often the lengths that one source gives are wrong."""

    def __init__(self) -> None:
        self._ended = self._wrong = 0

    def ended(self, told_s: float, took_s: float) -> None:
        """Take a job into account that is done."""
        self._ended += 1
        self._wrong += abs(took_s - told_s) > _RIGHT * told_s

    @property
    def doubt(self) -> float:
        """Share of the lengths that are no more than a mean, in [0, 1)."""
        return self._wrong / (self._ended + _TRUST_JOBS)


def needed(doubt: float, told_s: float, slot_s: float, most_left: int) -> Floats:
    """How likely a job needs the next slot of its work, by how many slots of it are left: shape (most_left + 1,)."""
    done_s: Floats = np.maximum(told_s - np.arange(most_left + 1) * slot_s, 0.0)
    return _still(doubt, done_s, told_s) + 1 - doubt


def needed_after(doubt: float, told_s: float, slot_s: float) -> Floats:
    """How likely it is to need each of the slots that follow when all the work that was told is done: shape (K,)."""
    slots = max(1, round(_LONGEST * told_s / slot_s))
    return _still(doubt, told_s + np.arange(slots, dtype=np.float64) * slot_s, told_s)


def _still(doubt: float, done_s: Floats, mean_s: float) -> Floats:
    """The share of jobs of which only the mean is known, and that still run after so much work."""
    likely: Floats = doubt * np.exp(-done_s / mean_s)
    return likely
