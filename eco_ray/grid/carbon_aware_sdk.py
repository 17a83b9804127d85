"""The Carbon Aware SDK's web API, which a site runs itself in front of a source of its own. No key.

It passes on what its source gives (WattTime: marginal; Electricity Maps: average) and does not say which, so `kind`
must be given. Values are gCO2/kWh, durations minutes. Its errors are problem details (RFC 7807).
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import httpx

from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.units import Nature
from eco_ray.errors import UsageError
from eco_ray.grid import points
from eco_ray.grid.asking import check_span, iso, unknown_zone
from eco_ray.grid.http import Fault, Http, SourceError
from eco_ray.grid.live import MAX_AHEAD_S, field, holding_now, issued_before, items, pieces, refuse, utc
from eco_ray.grid.sources import SourceOptions

NAME = "carbon-aware-sdk"
#: longest span of one request [s]
MAX_SPAN_S = 14 * 86_400.0
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_LOCATION = re.compile(r"[\w.() -]{1,100}")
_CLOCK = re.compile(r"(\d{1,2}):(\d\d):(\d\d)")


def open_source(options: SourceOptions) -> CarbonAwareSdk:
    """The server of `options.url`, giving `options.kind`. Raises UsageError without them."""
    return CarbonAwareSdk(options)


class CarbonAwareSdk:
    """GridSource for the locations that the server knows; `options.zones` maps our zones to them."""

    name = NAME

    def __init__(self, options: SourceOptions) -> None:
        """Opens no connection."""
        refuse(NAME, options, "file", "forecasts")
        if not options.url:
            raise UsageError(
                f"grid source {NAME!r} has no url; it runs at your site: write http://HOST:8080 as its url"
            )
        if options.kind is None:
            raise UsageError(
                f"grid source {NAME!r} has no kind, and its answers do not say it; write the kind of the source behind "
                f"it: {', '.join(SignalKind)} (WattTime is {SignalKind.MARGINAL})"
            )
        self.kind = options.kind
        self._locations = dict(options.zones)
        self._http = Http(NAME, options.url)

    def zones(self) -> tuple[str, ...]:
        """The zones that were given; any other is asked for by its own name."""
        return tuple(self._locations)

    def actual(self, zone: str, start_s: float, end_s: float) -> IntensitySeries:
        """What the server knows of [start_s, end_s]. Raises SourceError, and EcoRayError for a senseless span."""
        location = self._location(zone)
        check_span(zone, start_s, end_s)
        found: dict[float, float] = {}
        steps: set[float] = set()
        for begin, end in pieces(NAME, start_s, max(end_s, start_s + 1), MAX_SPAN_S):
            # the step that holds the first moment may have begun an hour before
            span = {"time": utc(begin - 3_600, _TIME), "toTime": utc(end, _TIME)}
            answer = self._get("/emissions/bylocation", {"location": location, **span})
            for point in _of_one_place(items(answer, NAME, "the answer"), zone):
                at = points.instant_s(field(point, "time", NAME), NAME)
                value = points.number(field(point, "rating", NAME), NAME)
                if at > end + MAX_AHEAD_S:
                    raise points.wrong(NAME, f"a point at {iso(at)} for a question up to {iso(end)}")
                if found.setdefault(at, value) != value:
                    raise points.wrong(NAME, f"two values for {zone} at {iso(at)}: {found[at]:g} and {value:g}")
                if point.get("duration") is not None:
                    steps.add(_duration_s(point["duration"]))
        step_s = _step_s(steps, found)
        series = points.series(
            zone, found.items(), kind=self.kind, source=f"{NAME}, history", nature=Nature.MODELLED, step_s=step_s
        )
        return points.cut(series, start_s, end_s)

    def forecast(self, zone: str, now_s: float, end_s: float) -> IntensitySeries:
        """The server's current forecast. Its first value is held for a step under way that it begins after.

        Raises SourceError, also for moving means in place of values, and EcoRayError for a senseless span.
        """
        location = self._location(zone)
        check_span(zone, now_s, end_s)
        # a start would cut the step under way, a window would ask for moving means: both are left out
        answer = self._get("/emissions/forecasts/current", {"location": location})
        forecasts = items(answer, NAME, "the answer")
        if len(forecasts) != 1:
            raise points.wrong(NAME, f"{len(forecasts)} forecasts for {zone}")
        forecast = forecasts[0]
        issued_s = points.instant_s(field(forecast, "generatedAt", NAME), NAME)
        sent = _of_one_place(items(field(forecast, "forecastData", NAME), NAME, "forecastData"), zone)
        found, steps = [], set()
        for point in sent:
            at = points.instant_s(field(point, "timestamp", NAME), NAME)
            found.append((at, points.number(field(point, "value", NAME), NAME)))
            steps.add(_duration_s(field(point, "duration", NAME)))
        if not found:
            raise SourceError(f"{NAME}: a forecast without values for {zone}", Fault.NO_DATA)
        step_s = _step_s(steps, dict(found))
        window = forecast.get("windowSize")
        if window and points.number(window, NAME, "windowSize") * 60 != step_s:
            raise points.wrong(NAME, f"moving means over {window} min, not values of {step_s / 60:g} min each")
        first_s, first = min(found)
        if first_s > now_s + MAX_AHEAD_S:
            raise points.wrong(NAME, f"a forecast from {iso(first_s)} on, and it is {iso(now_s)}: a clock is wrong")
        source = f"{NAME}, forecast"
        if now_s < first_s <= now_s + step_s:  # the step under way is often not in it
            found.append((first_s - step_s, first))
            source += f"; its first value is taken from {(step_s / 60):g} min earlier on"
        series = points.series(
            zone,
            found,
            kind=self.kind,
            source=source,
            nature=Nature.MODELLED,
            step_s=step_s,
            issued_s=issued_before(issued_s, now_s, NAME),
        )
        return holding_now(points.cut(series, now_s, end_s), now_s, NAME)

    def _get(self, path: str, params: dict[str, str]) -> Any:
        try:
            return self._http.get_json(path, params)
        except SourceError as error:
            if error.status != httpx.codes.NOT_IMPLEMENTED:
                raise
            raise SourceError(f"{error} (the source behind it has none)", Fault.NO_DATA, None, error.status) from None

    def _location(self, zone: str) -> str:
        location = self._locations.get(zone, zone)
        if not _LOCATION.fullmatch(location):
            raise unknown_zone(zone, self._locations, NAME, "use one of these, or the name of a location in zones")
        return location


def _of_one_place(sent: list[Any], zone: str) -> list[Any]:
    """The points themselves. The place may be called otherwise than we asked, as its source does, but it is one."""
    places = {str(field(point, "location", NAME))[:40] for point in sent}
    if len(places) > 1:
        raise points.wrong(NAME, f"points of {len(places)} places for {zone}: {', '.join(sorted(places)[:4])}")
    return sent


def _duration_s(value: Any) -> float:
    """Minutes, or hh:mm:ss as newer servers write it in histories [s]."""
    if isinstance(value, str) and (clock := _CLOCK.fullmatch(value)):
        hours, minutes, seconds = map(float, clock.groups())
        found_s = hours * 3_600 + minutes * 60 + seconds
    else:
        found_s = points.number(value, NAME, "duration") * 60
    if not 60 <= found_s <= 86_400:
        raise points.wrong(NAME, f"a duration of {found_s:g} s is outside 60 to 86400 s")
    return found_s


def _step_s(durations_s: set[float], found: dict[float, float]) -> float:
    """The one duration that the points said, or where they said none their distance."""
    if len(durations_s) > 1:
        raise points.wrong(NAME, f"points of different durations: {', '.join(f'{d:g} s' for d in sorted(durations_s))}")
    if durations_s:
        return durations_s.pop()
    if not found:
        raise SourceError(f"{NAME}: no point", Fault.NO_DATA)
    times = sorted(found)
    if len(times) == 1:
        raise points.wrong(NAME, f"one point, at {iso(times[0])}, whose duration is not said")
    gaps = [round(after - before, 3) for before, after in pairwise(times)]
    return max(set(gaps), key=lambda gap: (gaps.count(gap), -gap))
