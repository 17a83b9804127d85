"""Which of the things known of a zone answers a question: pure, without network, the same for status and planner.

forecast     the source's own, not older than a day
own          our forecaster on a week or more of what was published (forecast.py)
persistence  the last day again, or the last value
old          a source's forecast that is older than a day and still reaches now
last resort  the modelled profile, then the annual table, where they are of the same kind
nothing      jobs run as if there were no signal: at once
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from eco_ray.core.intensity import IntensitySeries
from eco_ray.core.ports import GridSource
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError
from eco_ray.grid.asking import iso
from eco_ray.grid.forecast import forecast as own_forecast
from eco_ray.grid.history import History

_HOUR_S, _DAY_S = 3600.0, 86_400.0
#: a forecast that is newer is taken from the first source that has one, of older ones the newest [s]
FRESH_FORECAST_S = 6 * _HOUR_S
#: an older forecast comes after what our own makes of newer history [s]
MAX_FORECAST_AGE_S = _DAY_S
#: history that our forecaster needs, and how long ago it may have ended [s]
WEEK_S = 7 * _DAY_S
#: values that ended no longer ago than this are as new as services are [s]
FRESH_VALUES_S = 3 * _HOUR_S
#: how long ago the values may be that persistence repeats [s]
MAX_PERSISTENCE_AGE_S = _DAY_S
#: how long the last published value stands for the present, or for a gap, where no forecast does [s]
MAX_CARRIED_S = 3 * _HOUR_S
#: what a server's clock may be ahead of ours [s]
_AHEAD_S = _HOUR_S


class Rung(StrEnum):
    """How far down the ladder an answer comes from."""

    FORECAST = "forecast"
    OWN = "own-forecast"
    PERSISTENCE = "persistence"
    OLD = "old-forecast"
    LAST_RESORT = "last-resort"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Known:
    """What one source has told of a zone."""

    history: History | None = None
    forecast: IntensitySeries | None = None


def best_forecast(
    known: Sequence[Known], last_resorts: Sequence[GridSource], zone: str, now_s: float, end_s: float
) -> tuple[Rung, IntensitySeries | None]:
    """The first rung that knows something of now, sources in the order of preference."""
    by_age = sorted(known, key=lambda one: one.forecast.issued_s or -math.inf if one.forecast else -math.inf)[::-1]
    steps: list[tuple[Rung, Sequence[Known], Callable[[Known], IntensitySeries | None]]] = [
        (Rung.FORECAST, known, lambda one: _issued(one, now_s, end_s, FRESH_FORECAST_S)),
        (Rung.FORECAST, by_age, lambda one: _issued(one, now_s, end_s, MAX_FORECAST_AGE_S)),
        (Rung.OWN, known, lambda one: _own(one, now_s, end_s, FRESH_VALUES_S)),
        (Rung.OWN, known, lambda one: _own(one, now_s, end_s, WEEK_S)),
        (Rung.PERSISTENCE, known, lambda one: _persistence(one, now_s, end_s)),
        (Rung.OLD, by_age, lambda one: _issued(one, now_s, end_s, math.inf)),
    ]
    for rung, ones, answer in steps:
        for one in ones:
            series = answer(one)
            if series is not None:
                return rung, series
    for source in last_resorts:
        try:
            return Rung.LAST_RESORT, source.forecast(zone, now_s, end_s)
        except EcoRayError:
            continue
    return Rung.NOTHING, None


def best_actual(
    known: Sequence[Known], last_resorts: Sequence[GridSource], zone: str, start_s: float, end_s: float
) -> IntensitySeries | None:
    """The intensity over a span in the past: published by any source, else forecast, else carried on, else modelled."""
    for answer in (_published, _forecast_since, _carried_on):
        for one in known:
            series = answer(one, start_s, end_s)
            if series is not None:
                return series
    for source in last_resorts:
        try:
            return source.actual(zone, start_s, end_s)
        except EcoRayError:
            continue
    return None


def has_fresh_values(one: Known, now_s: float) -> bool:
    """Whether what was published reaches near enough to now; else the next source is asked as well."""
    return one.history is not None and now_s - one.history.end_s <= FRESH_VALUES_S


def has_fresh_forecast(one: Known, now_s: float) -> bool:
    """Whether the source's forecast was issued lately; else the next source is asked as well."""
    return _issued(one, now_s, now_s, FRESH_FORECAST_S) is not None


def _issued(one: Known, now_s: float, end_s: float, max_age_s: float) -> IntensitySeries | None:
    series = one.forecast
    if series is None or not series.start_s <= now_s < series.end_s or series.issued_s is None:
        return None
    if not -_AHEAD_S <= now_s - series.issued_s <= max_age_s:  # from the future: the clock went back
        return None
    if series.end_s < end_s:  # beyond its end, what our own forecaster says
        own = _own(one, now_s, end_s, WEEK_S)
        if own is not None and own.step_s == series.step_s:
            series = series.then(own)
    return _cut(series, now_s, end_s)


def _own(one: Known, now_s: float, end_s: float, max_age_s: float) -> IntensitySeries | None:
    history = one.history.until(now_s) if one.history else None
    if history is None or history.end_s - history.series.start_s < WEEK_S or now_s - history.end_s > max_age_s:
        return None
    try:
        series = own_forecast(history.series, now_s, end_s)
    except EcoRayError:  # too many gaps
        return None
    # as old as the newest value that it was made from, whenever it was computed
    known_s = min(now_s, history.end_s)
    text = series.source if now_s - known_s <= FRESH_VALUES_S else f"{series.source}, known to {iso(known_s)}"
    return replace(series, issued_s=known_s, source=text)


def _persistence(one: Known, now_s: float, end_s: float) -> IntensitySeries | None:
    history = one.history.until(now_s) if one.history else None
    if history is None or now_s - history.end_s > MAX_PERSISTENCE_AGE_S:
        return None
    last = history.tail()
    day = round(_DAY_S / last.step_s)
    values = last.values_g_per_kwh
    pattern, what = (values[-day:], "the last day") if len(values) >= day else (values[-1:], "the last value")
    first = math.floor((now_s - last.end_s) / last.step_s)
    count = max(1, math.ceil((end_s - last.end_s) / last.step_s) - first)
    return replace(
        last,
        start_s=last.end_s + first * last.step_s,
        values_g_per_kwh=pattern[(first + np.arange(count)) % len(pattern)],
        source=f"{what} of {last.source} again, known to {iso(last.end_s)}",
        nature=Nature.MODELLED,
        issued_s=min(now_s, last.end_s),
    )


def _published(one: Known, start_s: float, end_s: float) -> IntensitySeries | None:
    base = one.history.since(start_s, end_s, MAX_CARRIED_S) if one.history else None
    return base if base is not None and base.end_s >= end_s else None


def _forecast_since(one: Known, start_s: float, end_s: float) -> IntensitySeries | None:
    """What was published, and the forecast for what is not published yet, if it was less than a day old then."""
    rest = one.forecast
    if rest is None or rest.issued_s is None or end_s - rest.issued_s > MAX_FORECAST_AGE_S:
        return None
    return _gone_on(one, replace(rest, source=f"{rest.source}, as nothing newer is published"), start_s, end_s)


def _carried_on(one: Known, start_s: float, end_s: float) -> IntensitySeries | None:
    """What was published, and its last value for what is not published yet."""
    if one.history is None:
        return None
    last = one.history.tail()
    text = f"the last value of {last.source}, of {iso(last.end_s - last.step_s)}, carried on"
    values = np.repeat(last.values_g_per_kwh[-1:], math.ceil(MAX_CARRIED_S / last.step_s))
    rest = replace(
        last, start_s=last.end_s, values_g_per_kwh=values, source=text, nature=Nature.MODELLED, issued_s=last.end_s
    )
    return _gone_on(one, rest, start_s, end_s)


def _gone_on(one: Known, rest: IntensitySeries, start_s: float, end_s: float) -> IntensitySeries | None:
    base = one.history.since(start_s, end_s, MAX_CARRIED_S) if one.history else None
    whole = base.then(rest) if base is not None and base.step_s == rest.step_s else rest
    if not whole.covers(start_s, end_s):
        return None
    return replace(_cut(whole, start_s, end_s), issued_s=rest.issued_s)


def _cut(series: IntensitySeries, start_s: float, end_s: float) -> IntensitySeries:
    """The steps that touch [start_s, end_s]; at least one."""
    first = max(0, math.floor((start_s - series.start_s) / series.step_s))
    last = max(first + 1, math.ceil((end_s - series.start_s) / series.step_s))
    return replace(
        series,
        start_s=series.start_s + first * series.step_s,
        values_g_per_kwh=series.values_g_per_kwh[first:last],
        quantiles_g_per_kwh={level: of[first:last] for level, of in series.quantiles_g_per_kwh.items()},
    )
