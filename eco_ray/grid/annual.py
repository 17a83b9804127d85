"""One figure per country and year, from the table that the codecarbon package carries: the last resort, offline.

Its `carbon_intensity` is Our World in Data's "lifecycle carbon intensity of electricity generation", which is Ember's:
the mean of what was GENERATED in a country in a year, imports left out. The year stands in the source text. There is no
hour in it: nothing can be saved by waiting, only by going elsewhere.

Left out, because they are of another kind or incomplete: the same package's US states (EPA eGRID: what leaves the
stack), Chinese provinces (direct CO2), Canadian provinces (shares without an intensity) and Nordic bidding zones (some
types counted as 0). A zone within a country is answered with its country's figure, and the source text says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from eco_ray.core.intensity import IntensitySeries, LifecycleSeries, SignalKind
from eco_ray.core.units import Nature
from eco_ray.errors import UsageError
from eco_ray.grid.asking import check_span, unknown_zone
from eco_ray.grid.countries import ISO3
from eco_ray.grid.live import kind_of, refuse
from eco_ray.grid.points import LEAST_LIFECYCLE_G_PER_KWH, MAX_G_PER_KWH
from eco_ray.grid.sources import SourceOptions

NAME = "annual"
STEP_S = 3_600.0
_FILE = "codecarbon/data/private_infra/global_energy_mix.json"
_EARLIEST_YEAR, _LATEST_YEAR = 2000, 2100


@dataclass(frozen=True, slots=True)
class Figure:
    """A country's annual mean."""

    g_per_kwh: float
    year: int


def open_source(options: SourceOptions) -> Annual:
    """The table of the installed codecarbon. Raises UsageError if it is missing or not as expected."""
    return Annual(options)


class Annual:
    """GridSource for countries (DE), zones in them (US-CAL-CISO: the country) and `options.zones` (-> DE or DEU)."""

    name = NAME

    def __init__(self, options: SourceOptions | None = None) -> None:
        """Reads the table, once per process; codecarbon itself is not imported."""
        options = options or SourceOptions()
        refuse(NAME, options, "file", "forecasts", "url")
        self.kind: Literal[SignalKind.AVERAGE_LIFECYCLE] = kind_of(NAME, options, SignalKind.AVERAGE_LIFECYCLE)
        self._table = table()
        self._given = {}
        for zone, country in options.zones.items():
            iso3 = ISO3.get(country, country)
            if iso3 not in self._table:
                raise UsageError(
                    f"grid source {NAME!r}: zone {zone} is {country!r}, for which codecarbon's table has no figure; "
                    "write an ISO 3166 code of a country, such as DE or DEU"
                )
            self._given[zone] = iso3

    def zones(self) -> tuple[str, ...]:
        """The countries with a figure, by their two letters, and the zones that were given."""
        countries = [two for two, three in ISO3.items() if three in self._table]
        return tuple(dict.fromkeys([*countries, *self._given]))

    def actual(self, zone: str, start_s: float, end_s: float) -> LifecycleSeries:
        """The country's annual mean over [start_s, end_s], on full hours, whatever the year asked for."""
        return self._series(zone, start_s, end_s, None)

    def forecast(self, zone: str, now_s: float, end_s: float) -> LifecycleSeries:
        """The same as `actual`."""
        return self._series(zone, now_s, end_s, now_s)

    def _series(self, zone: str, start_s: float, end_s: float, issued_s: float | None) -> LifecycleSeries:
        country = self._given.get(zone) or ISO3.get(zone.partition("-")[0], "")
        if country not in self._table:
            cure = "use one of these, or give its country in zones"
            raise unknown_zone(zone, self.zones(), NAME, cure)
        check_span(zone, start_s, end_s)
        figure = self._table[country]
        first = start_s // STEP_S
        values = np.full(max(1, math.ceil(end_s / STEP_S - first)), figure.g_per_kwh)
        values.flags.writeable = False
        part = f", of the whole country for {zone}" if ISO3.get(zone) != country else ""
        return IntensitySeries(
            zone=zone,
            start_s=first * STEP_S,
            step_s=STEP_S,
            values_g_per_kwh=values,
            kind=self.kind,
            source=f"CodeCarbon's annual table, {country} {figure.year}{part}",
            nature=Nature.MODELLED,
            issued_s=issued_s,
        )


@lru_cache(maxsize=1)
def table() -> Mapping[str, Figure]:
    """ISO 3166 alpha-3 -> figure, from the installed package. Raises UsageError if it is missing or not as expected."""
    try:
        path = Path(str(distribution("codecarbon").locate_file(_FILE)))
    except PackageNotFoundError:
        raise UsageError(
            f"grid source {NAME!r} needs the package codecarbon, which is not installed; install it"
        ) from None
    return read(path)


def read(path: Path) -> Mapping[str, Figure]:
    """The table in a file. Raises UsageError if it is not as codecarbon 3.3 has it.

    Figures below LEAST_LIFECYCLE_G_PER_KWH are left out: no life cycle is without a gram (the Central African Republic
    stands there so).
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        figures = {country: _figure(row) for country, row in rows.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"grid source {NAME!r} cannot read {path} ({type(error).__name__}: {str(error)[:80]}); "
            "codecarbon may have changed: install 3.3"
        ) from None
    return MappingProxyType(
        {of: figure for of, figure in figures.items() if figure.g_per_kwh >= LEAST_LIFECYCLE_G_PER_KWH}
    )


def _figure(row: Mapping[str, Any]) -> Figure:
    value, year = row["carbon_intensity"], row["year"]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_G_PER_KWH:
        raise ValueError(f"{value!r} gCO2e/kWh is outside 0 to {MAX_G_PER_KWH:g}")
    if not isinstance(year, int) or not _EARLIEST_YEAR <= year <= _LATEST_YEAR:
        raise ValueError(f"{year!r} is no year")
    return Figure(float(value), year)
