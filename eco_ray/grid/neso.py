"""Great Britain's carbon intensity from NESO: half-hourly, nation and 17 regions, without a key.

https://api.carbonintensity.org.uk. It counts what generators emit per kWh (biomass with its supply chain), no life
cycle of the plants; imports with their country's factor. The nation has outturns and forecasts, regions have forecasts
only: where there is no outturn, the last forecast of a half hour that has begun stands for it, and the source text
says so.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any, Literal

from eco_ray.core.intensity import DirectSeries, SignalKind
from eco_ray.core.units import Nature
from eco_ray.errors import UsageError
from eco_ray.grid import points
from eco_ray.grid.asking import check_span, iso, unknown_zone
from eco_ray.grid.http import Fault, Http, SourceError
from eco_ray.grid.live import (
    MAX_AHEAD_S,
    Clock,
    field,
    holding_now,
    items,
    kind_of,
    pieces,
    refuse,
    utc,
)
from eco_ray.grid.sources import SourceOptions

URL = "https://api.carbonintensity.org.uk"
STEP_S = 1_800.0
#: longest span of one request [s]
MAX_SPAN_S = 14 * 86_400.0
#: NESO asks for at most one request a second, and blocks addresses that send more [s]
PAUSE_S = 1.0

_NATION = "GB"
_REGIONS = {f"GB-region-{number}": f"regionid/{number}" for number in range(1, 18)}
_PLACE = re.compile(r"regionid/([1-9]|1[0-7])|postcode/[A-Z]{1,2}[0-9][A-Z0-9]?")
_SOURCE = "neso, Carbon Intensity API, what generators emit"
_ESTIMATED = "estimated: NESO's forecast where there is no outturn"


def open_source(options: SourceOptions) -> Neso:
    """NESO's public server, or that of `options.url`. Raises UsageError for options that mean nothing here."""
    return Neso(options)


class Neso:
    """GridSource for GB, GB-region-1 to GB-region-17 and the places of `options.zones` (regionid/2, postcode/RG10)."""

    name = "neso"

    def __init__(self, options: SourceOptions, clock: Clock = time.time, pause_s: float = PAUSE_S) -> None:
        """Opens no connection. `clock` tells which half hours have begun."""
        refuse(self.name, options, "file", "forecasts")
        self.kind: Literal[SignalKind.AVERAGE_DIRECT] = kind_of(self.name, options, SignalKind.AVERAGE_DIRECT)
        self._places = {_NATION: "", **_REGIONS}
        for zone, there in options.zones.items():
            self._places[zone] = self._place(zone, there)
        self._http = Http(self.name, options.url or URL)
        self._clock = clock
        self._pause_s = pause_s
        self._next = 0.0

    def zones(self) -> tuple[str, ...]:
        """The nation, its regions, and the zones that were given."""
        return tuple(self._places)

    def actual(self, zone: str, start_s: float, end_s: float) -> DirectSeries:
        """Half hours of [start_s, end_s] that have begun. Raises SourceError, NotFoundError and EcoRayError."""
        place = self._known(zone)
        check_span(zone, start_s, end_s)
        first = start_s // STEP_S * STEP_S
        last = max(-(-end_s // STEP_S) * STEP_S, first + STEP_S)
        found, estimated = [], False
        for begin, end in pieces(self.name, first, last, MAX_SPAN_S):
            span = f"{utc(begin, _TIME)}/{utc(end, _TIME)}"
            for at, forecast, outturn in self._slots(place, span):
                if not begin - MAX_AHEAD_S <= at <= end + MAX_AHEAD_S:
                    raise points.wrong(self.name, f"a half hour at {iso(at)} for a question up to {iso(end)}")
                if begin <= at < end and at <= self._clock():
                    value = forecast if outturn is None else outturn
                    estimated |= outturn is None
                    found += [] if value is None else [(at, value)]
        source = f"{_SOURCE}; {_ESTIMATED}" if estimated else _SOURCE
        return self._series(zone, found, source, None)

    def forecast(self, zone: str, now_s: float, end_s: float) -> DirectSeries:
        """The next 48 h at most, as NESO sees them at this moment: it says nothing of when a forecast was made.

        Raises SourceError where `now_s` is not now, for its old forecasts are not kept, and as `actual`.
        """
        place = self._known(zone)
        check_span(zone, now_s, end_s)
        if abs(now_s - self._clock()) > MAX_AHEAD_S:
            raise SourceError(
                f"{self.name}: it keeps no forecast as it stood at {iso(now_s)}, and it is {iso(self._clock())}; ask "
                "for one of now",
                Fault.NO_DATA,
            )
        slots = self._slots(place, f"{utc(now_s // STEP_S * STEP_S, _TIME)}/fw48h")
        found = [(at, forecast) for at, forecast, _ in slots if forecast is not None]
        if found and min(found)[0] > now_s + MAX_AHEAD_S:
            raise points.wrong(self.name, f"a forecast from {iso(min(found)[0])} on, and it is {iso(now_s)}")
        series = self._series(zone, found, f"{_SOURCE}; forecast", now_s)
        return holding_now(points.cut(series, now_s, end_s), now_s, self.name)

    def _series(self, zone: str, found: list[tuple[float, float]], source: str, issued_s: float | None) -> DirectSeries:
        return points.series(
            zone, found, kind=self.kind, source=source, nature=Nature.MODELLED, step_s=STEP_S, issued_s=issued_s
        )

    def _slots(self, place: str, span: str) -> Iterator[tuple[float, float | None, float | None]]:
        """(start [s], forecast, outturn) [g/kWh] of half hours; the server begins one before the span."""
        path = f"/regional/intensity/{span}/{place}" if place else f"/intensity/{span}"
        answer = field(self._get(path), "data", self.name)
        if place:
            answer = _regional(answer, place)
        for slot in items(answer, self.name, "data"):
            at = points.instant_s(field(slot, "from", self.name), self.name)
            if points.instant_s(field(slot, "to", self.name), self.name) - at != STEP_S or at % STEP_S:
                raise points.wrong(self.name, f"the slot from {iso(at)} is no half hour")
            values = field(slot, "intensity", self.name)
            outturn = None if place else _value(values, "actual")
            forecast = _value(values, "forecast")
            if not place and 0 in (forecast, outturn):
                raise points.wrong(self.name, f"0 gCO2/kWh for all of Great Britain at {iso(at)} can only be a gap")
            yield at, forecast, outturn

    def _get(self, path: str) -> Any:
        time.sleep(max(0.0, self._next - time.monotonic()))
        self._next = time.monotonic() + self._pause_s
        return self._http.get_json(path)

    def _known(self, zone: str) -> str:
        if zone not in self._places:
            cure = "use one of these, or give its place in zones as regionid/N or postcode/OUTWARD"
            raise unknown_zone(zone, self._places, self.name, cure)
        return self._places[zone]

    def _place(self, zone: str, there: str) -> str:
        place = self._places.get(there, there)
        if place and not _PLACE.fullmatch(place):
            raise UsageError(
                f"grid source {self.name!r}: zone {zone} is {there!r}, which NESO has not; write GB, regionid/1 to "
                "regionid/17, or postcode/ and the part of a postcode before the space, such as postcode/RG10"
            )
        return place


_TIME = "%Y-%m-%dT%H:%MZ"


def _value(values: Any, name: str) -> float | None:
    value = values.get(name) if isinstance(values, dict) else field(values, name, Neso.name)
    if value is None:
        return None
    if not 0 <= points.number(value, Neso.name, name) <= points.MAX_G_PER_KWH:
        raise points.wrong(Neso.name, f"{value:g} gCO2/kWh is outside 0 to {points.MAX_G_PER_KWH:g}")
    return float(value)


def _regional(answer: Any, place: str) -> Any:
    """The half hours of a regional answer: its data are documented as a list and sent as an object."""
    if isinstance(answer, list):
        if len(answer) != 1:
            raise points.wrong(Neso.name, f"{len(answer)} regions for {place}")
        answer = answer[0]
    asked, number = place.split("/")
    if asked == "regionid" and str(field(answer, "regionid", Neso.name)) != number:
        raise points.wrong(Neso.name, f"region {str(answer['regionid'])[:20]} was sent for {place}")
    return field(answer, "data", Neso.name)
