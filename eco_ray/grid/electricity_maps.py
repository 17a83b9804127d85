"""Electricity Maps: average carbon intensity of consumption (flow-traced), life-cycle or direct, hourly, with a key.

https://app.electricitymaps.com/developer-hub/api/reference, version 4. The free plan has /latest and /history (24 h) of
one zone. An answer for another zone or kind than was asked for is refused: without `disableCallerLookup` the service
answers an unknown zone with that of the caller's address.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.units import Nature
from eco_ray.grid import points
from eco_ray.grid.asking import check_span, iso
from eco_ray.grid.http import Fault, Http, SourceError
from eco_ray.grid.keyed import key_of
from eco_ray.grid.keys import Secret
from eco_ray.grid.live import MAX_AHEAD_S, Clock, field, holding_now, issued_before, items, kind_of, pieces
from eco_ray.grid.live import refuse as refuse_options
from eco_ray.grid.mixes import ZONES
from eco_ray.grid.points import shown, wrong
from eco_ray.grid.sources import SourceOptions

URL = "https://api.electricitymaps.com/v4"
STEP_S = 3_600.0
#: how far back /history reaches; an hour less, for it begins with a full hour [s]
HISTORY_S = 23 * 3_600.0
#: longest span of one /past-range, hourly [s]
MAX_RANGE_S = 240 * 3_600.0
#: horizons that /forecast knows [h]
HORIZONS_H = (6, 24, 48, 72)

_NAME = "electricity-maps"
_WHERE = "https://portal.electricitymaps.com (free for one zone)"
_FACTORS = {SignalKind.AVERAGE_LIFECYCLE: "lifecycle", SignalKind.AVERAGE_DIRECT: "direct"}


#: methods of estimation that are shown by name; any other text may be anything, an echo of the key too
METHODS = (
    "TIME_SLICER_AVERAGE",
    "CONSTRUCT_BREAKDOWN",
    "RECONSTRUCT_BREAKDOWN",
    "FORECASTS_HIERARCHY",
    "GENERAL_PURPOSE_ZONE_MODEL",
)


class _Hour(NamedTuple):
    at: float
    value: float
    #: method of estimation; "" for an hour that is not estimated
    estimation: str


def open_source(options: SourceOptions) -> ElectricityMaps:
    """The public service, or `options.url` (another version: .../v3). Raises UsageError for options without meaning."""
    return ElectricityMaps(options)


class ElectricityMaps:
    """GridSource for every zone of Electricity Maps, whose names are ours."""

    name = _NAME

    def __init__(self, options: SourceOptions, clock: Clock = time.time) -> None:
        """Opens no connection and needs no key yet. `clock` tells how far /history reaches."""
        refuse_options(self.name, options, "file", "forecasts")
        self.kind = kind_of(self.name, options, *_FACTORS)
        self._options = options
        self._http = Http(self.name, options.url or URL, keyed=True)
        self._clock = clock
        self._key: Secret | None = None

    def zones(self) -> tuple[str, ...]:
        """The zones that were given and those of the modelled profile; it knows hundreds more."""
        return tuple(dict.fromkeys([*self._options.zones, *ZONES]))

    def actual(self, zone: str, start_s: float, end_s: float) -> IntensitySeries:
        """The hours of [start_s, end_s] that are published; the newest are estimated, and marked as such.

        Raises SourceError, and EcoRayError for a span that makes no sense.
        """
        check_span(zone, start_s, end_s)
        hours = self._published(zone, start_s, end_s)
        late = [hour for hour in hours if hour.at > self._clock() + MAX_AHEAD_S]
        if late:
            raise wrong(self.name, f"an hour that is yet to come, {iso(late[0].at)}, is no history: a clock is wrong")
        return self._series(zone, hours, start_s, end_s, None)

    def forecast(self, zone: str, now_s: float, end_s: float) -> IntensitySeries:
        """At most 72 h from the hour of `now_s`, which is taken from /latest where the forecast begins with the next.

        Raises SourceError (refused with a plan that has no forecasts), and EcoRayError for a span that makes no sense.
        """
        check_span(zone, now_s, end_s)
        hours = next((h for h in HORIZONS_H if h * 3600 >= end_s - now_s), HORIZONS_H[-1])
        try:
            answer = self._get("/carbon-intensity/forecast", zone, horizonHours=str(hours))
        except SourceError as error:
            if error.fault is not Fault.REFUSED:
                raise
            why = f"{error}; not every plan has forecasts, the free one has none"
            raise SourceError(why, Fault.REFUSED, error.retry_after_s, error.status) from None
        issued_s = issued_before(points.instant_s(field(answer, "updatedAt", self.name), self.name), now_s, self.name)
        found = self._hours(answer, "forecast" if "forecast" in answer else "data", zone, of_forecast=True)
        if not found:
            raise SourceError(f"{self.name}: an empty forecast for {zone}", Fault.NO_DATA)
        first = min(hour.at for hour in found)
        if first > now_s + MAX_AHEAD_S:
            raise wrong(self.name, f"a forecast from {iso(first)} on, and it is {iso(now_s)}: a clock is wrong")
        if first > now_s:
            found += [hour for hour in self._latest(zone) if hour.at == first - STEP_S]
        return holding_now(self._series(zone, found, now_s, end_s, issued_s), now_s, self.name)

    def _published(self, zone: str, start_s: float, end_s: float) -> list[_Hour]:
        recent_s = self._clock() - HISTORY_S
        if start_s < recent_s:
            try:
                return self._range(zone, start_s, end_s)
            except SourceError as error:
                if error.fault is not Fault.REFUSED or end_s <= recent_s:
                    raise  # else the plan may have /history all the same
        hours = self._hours(self._get("/carbon-intensity/history", zone), "history", zone)
        newest = max((hour.at for hour in hours), default=-1.0)
        if newest + STEP_S < end_s:
            latest = self._latest(zone)  # may be an hour ahead of /history, or newer than what that holds
            hours = [hour for hour in hours if hour.at not in {other.at for other in latest}] + latest
        return hours

    def _range(self, zone: str, start_s: float, end_s: float) -> list[_Hour]:
        first = start_s // STEP_S * STEP_S
        last = max(-(-end_s // STEP_S) * STEP_S, first + STEP_S)
        hours: list[_Hour] = []
        for begin, end in pieces(self.name, first, last, MAX_RANGE_S):
            answer = self._get("/carbon-intensity/past-range", zone, start=iso(begin), end=iso(end))
            hours += [hour for hour in self._hours(answer, "data", zone) if begin <= hour.at < end]
        return hours

    def _latest(self, zone: str) -> list[_Hour]:
        answer = self._get("/carbon-intensity/latest", zone)
        return self._hours({"zone": field(answer, "zone", self.name), "history": [answer]}, "history", zone)

    def _get(self, path: str, zone: str, **more: str) -> Any:
        key = self._key = key_of(self.name, self._options, _WHERE)  # held, so that it is cut out of errors and logs
        params = {
            "zone": self._place(zone),
            "emissionFactorType": _FACTORS[self.kind],
            "temporalGranularity": "hourly",
            "disableCallerLookup": "true",
            **more,
        }
        return self._http.get_json(path, params, {"auth-token": key.reveal()})

    def _place(self, zone: str) -> str:
        return self._options.zones.get(zone, zone)

    def _hours(self, answer: Any, name: str, zone: str, of_forecast: bool = False) -> list[_Hour]:
        """The hours of an answer; those without a value (null) are left out."""
        if field(answer, "zone", self.name) != self._place(zone):
            raise wrong(self.name, f"zone {shown(answer['zone'])} was sent for {self._place(zone)}")
        self._check(answer, zone)
        hours = []
        for hour in items(field(answer, name, self.name), self.name, name):
            value = field(hour, "carbonIntensity", self.name)
            at = points.instant_s(field(hour, "datetime", self.name), self.name)
            self._check(hour, zone)
            if not of_forecast:
                field(hour, "emissionFactorType", self.name)  # nothing else tells whether the kind was heard
            if at % STEP_S:
                raise wrong(self.name, f"{iso(at)} is no full hour")
            if value is not None:
                hours.append(_Hour(at, points.number(value, self.name), "" if of_forecast else _estimation(hour)))
        return hours

    def _check(self, sent: Mapping[str, Any], zone: str) -> None:
        """Refuse what is said to be something else than was asked for."""
        asked = {
            "zone": self._place(zone),
            "emissionFactorType": _FACTORS[self.kind],
            "temporalGranularity": "hourly",
        }
        for name, value in asked.items():
            if sent.get(name, value) != value:
                raise wrong(self.name, f"{name} {shown(sent[name])} was sent, and {value} was asked for")

    def _series(
        self, zone: str, hours: list[_Hour], start_s: float, end_s: float, issued_s: float | None
    ) -> IntensitySeries:
        """The hours that reach into [start_s, end_s]; estimated if one of them is."""
        whole = points.series(
            zone,
            [(hour.at, hour.value) for hour in hours],
            kind=self.kind,
            source=self.name,
            nature=Nature.MODELLED,  # factors times measured generation
            step_s=STEP_S,
            issued_s=issued_s,
        )
        series = points.cut(whole, start_s, end_s)
        methods = {hour.estimation for hour in hours if series.start_s <= hour.at < series.end_s and hour.estimation}
        if not methods:
            return series
        # an estimated hour lacks the generation too
        return replace(series, source=f"{self.name}, estimated: {', '.join(sorted(methods))}", nature=Nature.ASSUMED)


def _estimation(hour: Mapping[str, Any]) -> str:
    estimated, method = hour.get("isEstimated"), hour.get("estimationMethod")
    if estimated is False:
        return ""
    if estimated is not True:
        return "not said whether"
    return method if isinstance(method, str) and method in METHODS else "method not named"
