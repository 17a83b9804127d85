"""Points that a source sent -> a checked series. What cannot be true is refused, never mended in silence."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np

from eco_ray.core.intensity import IntensitySeries, Kind, SignalKind
from eco_ray.core.units import Nature
from eco_ray.grid.asking import EARLIEST_S, LATEST_S, iso
from eco_ray.grid.http import Fault, SourceError

#: a year of 5-minute points
MAX_POINTS = 110_000
#: no kWh is dirtier: the worst marginal plants with losses are at 2,000 gCO2e/kWh
MAX_G_PER_KWH = 5_000.0
#: no life cycle is cleaner: hydropower, the least of IPCC's table A.III.2, begins at 1 gCO2e/kWh
LEAST_LIFECYCLE_G_PER_KWH = 0.5


def instant_s(text: Any, source: str) -> float:
    """An ISO 8601 time with its offset [s since epoch]. Raises SourceError (malformed)."""
    if not isinstance(text, str):
        raise wrong(source, f"{shown(text)} is no time")
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError
        time_s = moment.timestamp()
    except (ValueError, OverflowError):
        raise wrong(source, f"{shown(text)} is no time with an offset from UTC") from None
    if not EARLIEST_S <= time_s <= LATEST_S:
        raise wrong(source, f"the time {shown(text)} can only be a mistake")
    return time_s


def number(value: Any, source: str, what: str = "the intensity") -> float:
    """A finite number that was sent as one, not as text or truth value. Raises SourceError (malformed)."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            if math.isfinite(value):
                return float(value)
        except OverflowError:  # an integer of hundreds of digits
            pass
    raise wrong(source, f"{what} is {shown(value)}, not a finite number")


def shown(value: Any) -> str:
    """What kind of value an answer holds, for a message. Texts are not quoted: a server may send a key back in them."""
    if isinstance(value, (dict, list)):
        return "a list" if isinstance(value, list) else "an object"
    if isinstance(value, str):
        return f"a text of {len(value)} characters" if value else "an empty text"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else "a number"


def wrong(source: str, what: str) -> SourceError:
    """The error for an answer that cannot be used."""
    return SourceError(f"{source}: {what}; the answer is not used", Fault.MALFORMED)


def series(
    zone: str,
    points: Iterable[tuple[float, float]],
    *,
    kind: Kind,
    source: str,
    nature: Nature,
    step_s: float | None = None,
    issued_s: float | None = None,
) -> IntensitySeries[Kind]:
    """A series of (start of step [s since epoch], gCO2e/kWh) in any order; the same time twice needs the same value.

    `step_s` None: the usual distance between points, which needs two of them. After a gap a forecast ends (its near
    part decides) and history begins (its newest part is used). Raises SourceError (malformed, or no-data without any
    point).
    """
    least = LEAST_LIFECYCLE_G_PER_KWH if kind is SignalKind.AVERAGE_LIFECYCLE else 0.0
    by_time: dict[float, float] = {}
    for time_s, value in points:
        if not least <= value <= MAX_G_PER_KWH:
            limits = f"outside {least:g} to {MAX_G_PER_KWH:g}"
            raise wrong(source, f"{value:g} gCO2e/kWh ({kind}) for {zone} at {iso(time_s)} is {limits}")
        if by_time.setdefault(time_s, value) != value:
            raise wrong(source, f"two values for {zone} at {iso(time_s)}: {by_time[time_s]:g} and {value:g}")
        if len(by_time) > MAX_POINTS:
            raise wrong(source, f"more than {MAX_POINTS} points for {zone}")
    if not by_time:
        raise SourceError(f"{source}: no point for {zone}", Fault.NO_DATA)
    times = np.array(sorted(by_time))
    steps = np.diff(times)
    if step_s is None:
        if len(steps) == 0:
            raise wrong(source, f"one point for {zone}, whose step is not said")
        sizes, counts = np.unique(steps, return_counts=True)
        step_s = float(sizes[np.argmax(counts)])
    if np.any(np.abs(steps / step_s - np.round(steps / step_s)) > 1e-6):
        at = float(times[1:][np.abs(steps / step_s - np.round(steps / step_s)) > 1e-6][0])
        raise wrong(source, f"the point of {zone} at {iso(at)} does not lie on steps of {step_s:g} s")
    gaps = np.flatnonzero(steps > step_s * 1.5)
    if len(gaps):
        times = times[: gaps[0] + 1] if issued_s is not None else times[gaps[-1] + 1 :]
    values = np.array([by_time[float(time_s)] for time_s in times], dtype=np.float64) + 0.0  # -0.0 becomes 0.0
    values.flags.writeable = False
    return IntensitySeries(
        zone=zone,
        start_s=float(times[0]),
        step_s=step_s,
        values_g_per_kwh=values,
        kind=kind,
        source=source,
        nature=nature,
        issued_s=issued_s,
    )


def cut(series: IntensitySeries[Kind], start_s: float, end_s: float) -> IntensitySeries[Kind]:
    """The steps that reach into [start_s, end_s], at least the one that holds `start_s`.

    All points were checked before: an answer with one that cannot be true is not used in part. Raises SourceError
    (no-data) where no step does.
    """
    first = math.floor((start_s - series.start_s) / series.step_s)
    last = max(math.ceil((end_s - series.start_s) / series.step_s), first + 1)
    first = max(first, 0)
    values = series.values_g_per_kwh[first : max(last, 0)]
    if len(values) == 0:
        raise SourceError(
            f"{series.source}: {series.zone} is known from {iso(series.start_s)} to {iso(series.end_s)}, and "
            f"{iso(start_s)} to {iso(end_s)} was asked for",
            Fault.NO_DATA,
        )
    return replace(series, start_s=series.start_s + first * series.step_s, values_g_per_kwh=values)
