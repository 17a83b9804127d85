"""A forecast of our own, from a zone's past alone: no weather, no other zone, no state.

    y(t) = profile(t) + fast * now + slow * day

`profile` is what the hour of day brings (mean over days, the last ones count most), moved towards what the hour of the
week brings by as much as that has explained in the history. `now` is how far the last hour lies above the profile,
`day` how far the last 24 hours do; both fade with the horizon, within hours and days. The 80 % band is made of the
errors that the same rule would have made within the history, by horizon.

The constants are one choice for all zones, made on 43 zones of 2022 that are in none of our tables; around them the
result is flat, and fitting them to each zone gained nothing (docs/grid-forecast.md, benchmarks/grid.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eco_ray.core.intensity import IntensitySeries
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError
from eco_ray.grid.asking import check_span, iso

DAY_S = 86_400.0
HOUR_S = 3_600.0
WEEK_DAYS = 7
#: no more of the past is read than this [days]
MAX_HISTORY_DAYS = 35
#: no forecast reaches further [days]
MAX_AHEAD_DAYS = 14

#: a day counts half as much as one that is so many days younger; a week, as one so many weeks younger
_DAY_HALF_LIFE, _WEEK_HALF_LIFE = 5.0, 2.0
#: what remains of the last hour's anomaly, and how fast it fades [h]
_FAST, _FAST_H = 0.95, 4.0
#: what the last day's anomaly tells of the time after, and how fast it fades [h]
_SLOW, _SLOW_H = 0.5, 100.0

LEVELS = (0.1, 0.9)
#: horizons at which past errors are looked at [h]; between them the band is interpolated
_ERRORS_AT_H = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 18.0, 24.0, 36.0, 48.0, 72.0, 96.0, 144.0, 192.0, 264.0, 336.0)
#: past errors of fewer days than this tell too little [days]
_ENOUGH_DAYS = 3
#: the band is wider than past errors by this share over the days of history, and by one part in the number of errors
#: that are independent: those less than so many hours, or than their horizon, apart are one
_WIDER_DAYS, _APART_H = 1.5, 6.0

Values = NDArray[np.float64]
Indices = NDArray[np.int64]


def forecast(history: IntensitySeries, now_s: float, end_s: float) -> IntensitySeries:
    """Forecast [now_s, end_s] on the steps of `history` from what of it had passed at `now_s`; 14 days at most.

    The first step holds `now_s`. The quantiles 0.1 and 0.9 lie on either side of the values; none is below 0. Steps
    of the history whose value is not finite count as unknown. Raises EcoRayError for a history of less than a day or
    of steps that do not fill a day, and for one that ended more than 14 days before `now_s`.
    """
    check_span(history.zone, now_s, end_s)
    first = int((now_s - history.start_s) // history.step_s)
    past = _Past.of(history, first)
    until_s = min(end_s, now_s + MAX_AHEAD_DAYS * DAY_S)
    last = max(first + 1, int(np.ceil((until_s - history.start_s) / history.step_s)))
    ahead = np.arange(first, last) - past.end_index
    if ahead[0] > MAX_AHEAD_DAYS * past.per_day:
        raise EcoRayError(
            f"no forecast for zone {history.zone} at {iso(now_s)}: its history ended at {iso(history.end_s)}, "
            f"more than {MAX_AHEAD_DAYS} days before; load newer history"
        )
    values = past.expected(np.full(len(ahead), past.count), ahead)
    low, high, tested = past.band(ahead)
    return IntensitySeries(
        zone=history.zone,
        start_s=history.start_s + first * history.step_s,
        step_s=history.step_s,
        values_g_per_kwh=np.maximum(values, 0.0),
        kind=history.kind,
        source=f"eco_ray forecast from {past.words()} of {history.source} history"
        + ("" if tested else "; its band is the spread of that history"),
        nature=Nature.MODELLED,
        issued_s=now_s,
        quantiles_g_per_kwh={0.1: np.maximum(values + low, 0.0), 0.9: np.maximum(values + high, 0.0)},
    )


@dataclass(frozen=True, slots=True)
class _Past:
    """Whole days of history up to the last step that had passed, with what is learned from them.

    All arrays have shape (count,); `i` in the methods is a number of known steps: a forecast issued then knows [:i].
    """

    values: Values
    #: mean by hour of day, and by hour of week, of the steps up to and including each
    by_day: Values
    by_week: Values
    #: of each step, what lies above the profile that was known a day before
    anomaly: Values
    #: running sum of the anomaly, shape (count + 1,)
    anomaly_sum: Values
    #: weight of the hour of week beside the hour of day, in [0, 1]
    week_weight: float
    per_day: int
    step_h: float
    #: step of the history after the last known one
    end_index: int
    #: share of the steps that had no value
    unknown: float

    @property
    def count(self) -> int:
        return len(self.values)

    @property
    def _per_hour(self) -> int:
        return max(1, round(1 / self.step_h))

    @classmethod
    def of(cls, history: IntensitySeries, now_index: int) -> _Past:
        """What had passed of a history at the beginning of its step `now_index`."""
        zone, per_day = history.zone, round(DAY_S / history.step_s)
        if per_day < 1 or abs(per_day * history.step_s - DAY_S) > 1e-6:
            raise EcoRayError(
                f"no forecast for zone {zone}: its history has steps of {history.step_s:g} s, which do not fill a day "
                "of 86400 s; load history in steps of 5, 15, 30 or 60 minutes"
            )
        passed = max(0, min(now_index, len(history.values_g_per_kwh)))
        days = min(passed // per_day, MAX_HISTORY_DAYS)
        if days < 1:
            raise EcoRayError(
                f"no forecast for zone {zone}: only {passed * history.step_s / HOUR_S:.1f} h of its history had "
                "passed, 24 h are needed; load a longer history"
            )
        known = history.values_g_per_kwh[passed - days * per_day : passed]
        if not np.isfinite(known).any():
            raise EcoRayError(f"no forecast for zone {zone}: no value of its history is finite; load one with values")
        values, unknown = _filled(known, per_day)
        by_day = _recent_mean(values, per_day, _DAY_HALF_LIFE)
        by_week = _recent_mean(values, WEEK_DAYS * per_day, _WEEK_HALF_LIFE)
        above_day, above_week = np.zeros(len(values)), np.zeros(len(values))
        above_day[per_day:] = values[per_day:] - by_day[:-per_day]
        week = WEEK_DAYS * per_day
        above_week[week:] = by_week[:-week] - by_day[week - per_day : -per_day]
        explained, all_of_it = float(above_week @ above_day), float(above_week @ above_week)
        weight = min(1.0, max(0.0, explained / all_of_it)) if all_of_it > 0 else 0.0
        anomaly = above_day - weight * above_week
        return cls(
            values=values,
            by_day=by_day,
            by_week=by_week,
            anomaly=anomaly,
            anomaly_sum=np.concatenate([[0.0], np.cumsum(anomaly)]),
            week_weight=weight,
            per_day=per_day,
            step_h=history.step_s / HOUR_S,
            end_index=passed,
            unknown=unknown,
        )

    def words(self) -> str:
        """What there is of it, for the source text."""
        days = self.count // self.per_day
        unknown = f" ({self.unknown:.1%} of it unknown)" if self.unknown else ""
        return f"{days} day{'s' if days > 1 else ''}{unknown}"

    def expected(self, i: Indices, ahead: Indices) -> Values:
        """What is expected `ahead` steps (0: the next one) after `i` known ones; same shapes."""
        week = WEEK_DAYS * self.per_day
        profile = self.by_day[i - self.per_day + ahead % self.per_day]
        if self.week_weight > 0:
            has_week = i >= week
            by_week = self.by_week[np.where(has_week, i - week + ahead % week, 0)]
            profile = profile + self.week_weight * np.where(has_week, by_week - profile, 0.0)
        horizon_h = (ahead + 1) * self.step_h
        fast = np.exp(-horizon_h / _FAST_H)
        slow = (1 - fast) * np.exp(-horizon_h / _SLOW_H)
        return np.asarray(
            profile + _FAST * fast * self._recent(i, self._per_hour) + _SLOW * slow * self._recent(i, self.per_day),
            dtype=np.float64,
        )

    def band(self, ahead: Indices) -> tuple[Values, Values, bool]:
        """Lower (<= 0) and upper (>= 0) offset [g/kWh] of the 80 % band, and whether past errors stand behind it."""
        hours, offsets = self._past_errors()
        tested = bool(hours)
        if not tested:
            # nothing to go by but how far the history's values lie apart, and how few days they are
            wider = 1 + self.per_day / self.count
            hours, offsets = [1.0], [wider * np.quantile(self.values - self.values.mean(), LEVELS)]
        low, high = np.array(offsets).T
        at = np.log((ahead + 1) * self.step_h)
        return (
            np.interp(at, np.log(hours), np.minimum(low, 0.0)),
            np.interp(at, np.log(hours), np.maximum(high, 0.0)),
            tested,
        )

    def _past_errors(self) -> tuple[list[float], list[Values]]:
        """Horizons [h], and the widened quantiles of the errors there; none where the history is too short for it."""
        days = self.count // self.per_day
        warm, hour = min(WEEK_DAYS, days // 2) * self.per_day, self._per_hour
        hours, offsets = [], []
        for horizon_h in _ERRORS_AT_H:
            steps = max(0, round(horizon_h / self.step_h) - 1)
            issued = np.arange(warm, self.count - steps, hour)
            if len(issued) * hour < _ENOUGH_DAYS * self.per_day:
                break
            errors = self.values[issued + steps] - self.expected(issued, np.full(len(issued), steps))
            independent = len(issued) * hour * self.step_h / max(horizon_h, _APART_H)
            hours.append(horizon_h)
            offsets.append((1 + _WIDER_DAYS / days + 1 / independent) * np.quantile(errors, LEVELS))
        return (hours, offsets) if hours and hours[-1] >= DAY_S / HOUR_S else ([], [])

    def _recent(self, i: Indices, steps: int) -> Values:
        """Mean anomaly of the last steps before `i`."""
        begin = np.maximum(i - steps, 0)
        return np.asarray((self.anomaly_sum[i] - self.anomaly_sum[begin]) / steps, dtype=np.float64)


def _recent_mean(values: Values, period: int, half_life: float) -> Values:
    """Of each step, the mean of it and the steps whole periods before, the younger the more weight; same shape."""
    keep = 0.5 ** (1 / half_life)
    means = np.empty_like(values)
    total, weight = np.zeros(period), 0.0
    for begin in range(0, len(values), period):
        part = values[begin : begin + period]
        total, weight = keep * total[: len(part)] + part, keep * weight + 1.0
        means[begin : begin + period] = total / weight
    return means


def _filled(values: Values, per_day: int) -> tuple[Values, float]:
    """The values, each unknown one as a day before (at the beginning: a day after), and the share of unknown ones."""
    unknown = ~np.isfinite(values)
    if not unknown.any():
        return values, 0.0
    days = np.where(unknown, np.nan, values).reshape(-1, per_day)
    for day in [*range(1, len(days)), *range(len(days) - 2, -1, -1)]:
        other = days[day - 1] if day > 0 else days[day + 1]
        days[day] = np.where(np.isnan(days[day]), other, days[day])
    mean = float(np.mean(values[~unknown]))
    return np.where(np.isnan(days), mean, days).ravel(), float(unknown.mean())
