"""When forecasts arrive in a replay, and what they say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from eco_ray.core.events import ForecastArrived
from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.policies import DAY_S
from eco_ray.core.units import Nature
from eco_ray.sim.foresight import Foresight, Known
from eco_ray.sim.trace import Trace

#: how far ahead beliefs are told at least [s]
HORIZON_S = 96 * 3600.0


@dataclass(frozen=True, slots=True)
class News:
    """Every zone's belief, told again whenever a step of its trace is over; perfect knowledge is told once."""

    traces: Sequence[Trace]
    beliefs: Sequence[Foresight]
    #: the simulation [s since epoch]
    begin_s: float
    end_s: float
    kind: SignalKind = SignalKind.AVERAGE_LIFECYCLE
    #: how far beliefs are asked for [s]
    horizon_s: float = HORIZON_S
    #: whether a policy compares with the past, which changes all the time
    tells_past: bool = False

    def times_s(self) -> Iterable[float]:
        """At the beginning; and then step by step, unless everything is known."""
        if all(isinstance(belief, Known) for belief in self.beliefs) and not self.tells_past:
            return [self.begin_s]
        slow = max(self.traces, key=lambda trace: trace.step_s)
        first_s = self.begin_s + slow.start_s % slow.step_s
        over_s = np.arange(first_s, self.end_s, slow.step_s).tolist()
        return over_s if first_s == self.begin_s else [self.begin_s, *over_s]

    def at(self, now_s: float) -> ForecastArrived:
        """What is believed now; a zone of which nothing is known is left out."""
        series, past = {}, {}
        for trace, belief in zip(self.traces, self.beliefs, strict=True):
            known = self._series(trace, belief, now_s)
            if known is not None:
                series[trace.zone] = known
            values = trace.past(now_s - self.begin_s, DAY_S) if self.tells_past else np.empty(0)
            if len(values):
                start_s = now_s - _begun_s(trace, now_s - self.begin_s) - len(values) * trace.step_s
                past[trace.zone] = self._of(trace.zone, start_s, trace.step_s, values, None)
        return ForecastArrived(series, past)

    def _series(self, trace: Trace, belief: Foresight, now_s: float) -> IntensitySeries | None:
        at_s = now_s - self.begin_s
        if isinstance(belief, Known):
            start_s = self.begin_s + belief.trace.start_s
            return self._of(trace.zone, start_s, belief.trace.step_s, belief.trace.g_per_kwh, None)
        outlook = belief.outlook(at_s, at_s + self.horizon_s)
        if outlook is None:
            return None
        begun_s = _begun_s(trace, at_s)
        steps = int((outlook.end_s + begun_s) // trace.step_s)
        middle_s = np.maximum((np.arange(steps) + 0.5) * trace.step_s - begun_s, 0.0)
        values = outlook.g_per_kwh[np.searchsorted(outlook.edges_s, middle_s, side="right") - 1]
        return self._of(trace.zone, now_s - begun_s, trace.step_s, values, now_s)

    def _of(
        self, zone: str, start_s: float, step_s: float, values: np.ndarray, issued_s: float | None
    ) -> IntensitySeries:
        return IntensitySeries(zone, start_s, step_s, values, self.kind, "simulation", Nature.MODELLED, issued_s)


def _begun_s(trace: Trace, at_s: float) -> float:
    """How much of the step that goes on is over [s]."""
    return (at_s - trace.start_s) % trace.step_s
