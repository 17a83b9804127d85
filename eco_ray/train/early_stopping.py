"""End a training when an accuracy point more costs more grams than its owner allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from eco_ray.errors import UsageError
from eco_ray.train.power_limit import say as say_on_stderr

#: of accuracy in [0, 1]
_POINTS = 100.0
_ROUNDING = 1e-9


class GramsPerPoint:
    """Call `update` after each evaluation; it is true once the last ones cost too much for what they gained.

    The gain is that of the best accuracy so far, over the last `patience` evaluations, in percentage points; the grams
    are those emitted meanwhile. Where either is unknown, nothing is decided, and that is told once: a training never
    ends because something was not known.
    """

    def __init__(
        self, most_g_per_point: float, *, patience: int = 3, say: Callable[[str], None] = say_on_stderr
    ) -> None:
        """`most_g_per_point`: what one percentage point may cost [g]. Raises UsageError unless it is above 0."""
        if not 0 < most_g_per_point < math.inf:
            raise UsageError(f"{most_g_per_point} g per accuracy point is no limit; give grams above 0")
        if patience < 1:
            raise UsageError(f"a patience of {patience} evaluations; give 1 or more")
        self._most_g, self._patience, self._say = most_g_per_point, patience, say
        #: (best accuracy, grams emitted) of the last evaluations; NaN: unknown
        self._seen: list[tuple[float, float]] = []
        self._told = False
        #: why it ends; empty: it does not
        self.why = ""

    def update(self, accuracy: float, emitted_g: float | None) -> bool:
        """Take in an accuracy in [0, 1] and what the training has emitted so far [g]; whether it should end."""
        best = max([accuracy, *(seen for seen, _ in self._seen[-1:])]) if math.isfinite(accuracy) else math.nan
        if math.isnan(best) and self._seen:
            best = self._seen[-1][0]  # one that is not known gained nothing, and loses nothing
        grams = math.nan if emitted_g is None else emitted_g
        self._seen = [*self._seen[-self._patience :], (best, grams)]
        if not math.isfinite(grams) and not self._told:
            self._told = True
            self._say("what this training emits is not known: it does not end early for its grams")
        if len(self._seen) <= self._patience:
            return False
        best_before, grams_before = self._seen[0]
        added_g, points = grams - grams_before, (best - best_before) * _POINTS
        # a comparison with NaN is false; grams that shrank were corrected, and the best accuracy never shrinks
        if not (added_g > self._most_g * points * (1 + _ROUNDING)):
            return False
        gained = f"{points:.3g} points" if points > 0 else "nothing"
        self.why = (
            f"the last {self._patience} evaluations gained {gained} of accuracy for {added_g:.3g} g, and a point may "
            f"cost {self._most_g:.3g} g"
        )
        return True

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"seen": [list(each) for each in self._seen]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._seen = [(float(best), float(grams)) for best, grams in state["seen"]]
