"""Modelled hourly carbon intensity, offline: what a grid does on a day of average weather.

I(t) = annual mean x shape(t), and the mean of shape over a calendar year (UTC) is 1. The annual mean is the zone's
public annual mix times life-cycle factors (mixes.py). The shape follows from a balance in every hour, all in units of
the zone's mean demand:

    residual = demand - wind - solar - inflexible plants      fossil and stored hydro share it, never below must-run
    shape    ~ emissions / generation

There is no weather in it and no randomness: no calm week, no storm, no outage; trade with neighbours only damps the
residual, it brings no grams. The profile knows when the sun shines and when people cook. Every number is `modelled`,
and looking ahead costs it nothing, so its forecast equals its history: savings computed on it say nothing about real
forecasts.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eco_ray.core.intensity import IntensitySeries, LifecycleSeries, SignalKind
from eco_ray.core.units import Nature
from eco_ray.grid.asking import check_span, unknown_zone
from eco_ray.grid.live import kind_of, refuse
from eco_ray.grid.mixes import FACTORS_G_PER_KWH, FOSSIL, VERSION, ZONES, Zone
from eco_ray.grid.sources import SourceOptions

STEP_S = 3600
_SOURCE = f"eco_ray modelled profile v{VERSION}: public annual mix x solar geometry and demand curve, average weather"

#: fossil plants that run whatever the residual is (heat, inertia), as a share of their mean output
_MUST_RUN = 0.30
#: share of hydro that has a reservoir and follows the residual; the rest runs with the river
_STORED_HYDRO = 0.5
#: water is kept for the peaks: stored hydro swings so many times as far around its mean as fossil plants do
_HYDRO_SWING = 2.0
#: swing of cooling demand within a day, and the solar hour at which it crests: buildings lag behind the sun
_COOLING_DAY, _COOLING_CREST_H = 0.5, 16.0
#: share of a change in residual demand that trade, storage and flexible nuclear plants take up, so that fossil need not
_ELSEWHERE = 0.5
#: output of nuclear plants in midwinter above their mean: outages are planned into summer
_NUCLEAR_SEASON = 0.08
#: swing of bioenergy with the seasons, relative to that of demand
_HEAT_LED = 2.0

Hours = NDArray[np.float64]


def open_source(options: SourceOptions) -> ModelledProfile:
    """The model, which has no options. Raises UsageError for any."""
    kind_of("profile", options, ModelledProfile.kind)
    refuse("profile", options, "file", "forecasts", "zones", "url")
    return ModelledProfile()


class ModelledProfile:
    """GridSource of modelled intensity for the zones of mixes.py, hourly, for any year."""

    kind: Literal[SignalKind.AVERAGE_LIFECYCLE] = SignalKind.AVERAGE_LIFECYCLE

    def __init__(self, name: str = "modelled profile") -> None:
        self.name = name

    def zones(self) -> tuple[str, ...]:
        """The zones of the table."""
        return tuple(ZONES)

    def actual(self, zone: str, start_s: float, end_s: float) -> LifecycleSeries:
        """The model's intensity over [start_s, end_s], on full hours."""
        return self._series(zone, start_s, end_s, None)

    def forecast(self, zone: str, now_s: float, end_s: float) -> LifecycleSeries:
        """The same values as `actual`: a model of the calendar has no other future."""
        return self._series(zone, now_s, end_s, now_s)

    def _series(self, zone: str, start_s: float, end_s: float, issued_s: float | None) -> LifecycleSeries:
        if zone not in ZONES:
            raise unknown_zone(zone, ZONES, self.name, "use one of these, or a CSV trace that has a column for it")
        check_span(zone, start_s, end_s)
        first = int(start_s // STEP_S)
        last = max(first + 1, int(-(-end_s // STEP_S)))
        return IntensitySeries(
            zone=zone,
            start_s=float(first * STEP_S),
            step_s=float(STEP_S),
            values_g_per_kwh=_hours(zone, first, last),
            kind=self.kind,
            source=_SOURCE,
            nature=Nature.MODELLED,
            issued_s=issued_s,
        )


def _hours(zone: str, first: int, last: int) -> Hours:
    """Intensity of the hours [first, last) since the epoch: pieces of calendar years, each from the cache."""
    pieces = []
    while first < last:
        year = _year_of(first)
        begin, end = _first_hour(year), _first_hour(year + 1)
        pieces.append(year_intensity(zone, year)[first - begin : min(last, end) - begin])
        first = end
    values = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
    values.flags.writeable = False
    return values


def _year_of(hour: int) -> int:
    return int(np.datetime64(hour, "h").astype("datetime64[Y]").astype(np.int64)) + 1970


def _first_hour(year: int) -> int:
    return int(np.datetime64(f"{year:04d}-01-01", "h").astype(np.int64))


@lru_cache(maxsize=256)  # a year is 70 kB
def year_intensity(zone: str, year: int) -> Hours:
    """Intensity [g/kWh] of every hour of a calendar year (UTC): its mean is the zone's annual mean."""
    values = ZONES[zone].mean_g_per_kwh * shape(ZONES[zone], year)
    values.flags.writeable = False
    return values


def shape(zone: Zone, year: int) -> Hours:
    """Intensity of every hour of a calendar year relative to the year's mean: positive, mean 1."""
    first = _first_hour(year)
    hours = _first_hour(year + 1) - first
    hour: Hours = np.arange(hours, dtype=np.float64) + 0.5  # the middle of each hour stands for it
    season: Hours = hour * (2 * np.pi / hours)  # angle of the year, 0 at New Year
    clock_h = hour + zone.longitude_deg / 15.0  # local mean solar time, hours since New Year
    share = zone.shares

    demand = _scaled(_demand(zone, season, clock_h, weekday_of_first=(first // 24 + 3) % 7), 1.0)
    solar = _scaled(_sunshine(zone, season, clock_h), share["solar"])
    wind = _scaled(_windiness(zone, season, clock_h), share["wind"])
    winter = np.cos(season - _angle(15)) * (1 if zone.latitude_deg >= 0 else -1)
    nuclear = share["nuclear"] * (1 + _NUCLEAR_SEASON * winter)
    stored = share["hydro"] * _STORED_HYDRO
    # bioenergy is burnt in heat-and-power plants where people heat with it: it follows the cold as demand does
    bio = share["bio"] * (1 + _HEAT_LED * max(zone.winter, 0.0) * winter)
    steady = share["hydro"] - stored + bio + share["geothermal"]

    fossil_mean = sum(share[source] for source in FOSSIL)
    mean = fossil_mean + stored
    residual = demand - solar - wind - nuclear - steady
    followed = mean + (1 - _ELSEWHERE) * (residual - mean)
    # stored hydro takes up more of a change than fossil plants, which have a smooth floor of must-run under them
    swing = (followed - mean) / (fossil_mean + _HYDRO_SWING * stored)
    output = _floored(1 + swing, _MUST_RUN)
    reservoirs = stored * _floored(1 + _HYDRO_SWING * swing, 0.0)
    generation = solar + wind + nuclear + steady + reservoirs + fossil_mean * output
    emissions = (
        solar * FACTORS_G_PER_KWH["solar"]
        + wind * FACTORS_G_PER_KWH["wind"]
        + nuclear * FACTORS_G_PER_KWH["nuclear"]
        + bio * FACTORS_G_PER_KWH["bio"]
        + share["geothermal"] * FACTORS_G_PER_KWH["geothermal"]
        + (share["hydro"] - stored) * FACTORS_G_PER_KWH["hydro"]
        + reservoirs * FACTORS_G_PER_KWH["hydro"]
        + output * sum(share[source] * FACTORS_G_PER_KWH[source] for source in FOSSIL)
    )
    return _scaled(emissions / generation, 1.0)


def _demand(zone: Zone, season: Hours, clock_h: Hours, weekday_of_first: int) -> Hours:
    """Demand: two peaks a day (about 9 and 19 h solar time), low at night and on Sundays, higher in cold or heat."""
    turn = 2 * np.pi / 24
    daily = 1 - 0.15 * np.cos(turn * (clock_h - 3.0)) + 0.06 * np.cos(2 * turn * (clock_h - 19.5))
    # cos is +1 in midwinter and -1 in midsummer; demand lags the sun by some weeks (crests at 20 January and July)
    cold = np.cos(season - _angle(20)) * (1 if zone.latitude_deg >= 0 else -1)
    cooling = 1 + _COOLING_DAY * np.cos(turn * (clock_h - _COOLING_CREST_H)) * (zone.summer > 0)
    yearly = 1 + zone.winter * np.maximum(cold, 0.0) ** 2 + zone.summer * np.maximum(-cold, 0.0) ** 2 * cooling
    weekday = (np.floor(clock_h / 24).astype(np.int64) + weekday_of_first) % 7  # 0 is Monday
    by_day = np.array([1, 1, 1, 1, 1, (1 + zone.sunday) / 2, zone.sunday])
    return np.asarray(daily * yearly * by_day[weekday], dtype=np.float64)


def _sunshine(zone: Zone, season: Hours, clock_h: Hours) -> Hours:
    """Clear-sky irradiance on the horizontal, relative: solar geometry and air mass.

    Declination and equation of time: Spencer (1971). Air mass: Kasten and Young (1989). Beam through it:
    0.7 ** (AM ** 0.678), Meinel (1976). Clouds take more in winter and tilted panels give more in winter: both are left
    out, and roughly cancel.
    """
    declination = (
        0.006918
        - 0.399912 * np.cos(season)
        + 0.070257 * np.sin(season)
        - 0.006758 * np.cos(2 * season)
        + 0.000907 * np.sin(2 * season)
        - 0.002697 * np.cos(3 * season)
        + 0.00148 * np.sin(3 * season)
    )
    equation_h = (229.18 / 60) * (
        0.000075
        + 0.001868 * np.cos(season)
        - 0.032077 * np.sin(season)
        - 0.014615 * np.cos(2 * season)
        - 0.040849 * np.sin(2 * season)
    )
    hour_angle = 2 * np.pi * (clock_h + equation_h - 12) / 24
    latitude = np.radians(zone.latitude_deg)
    sin_elevation = np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(declination) * np.cos(hour_angle)
    up = np.maximum(sin_elevation, 0.0)
    elevation_deg = np.degrees(np.arcsin(np.minimum(up, 1.0)))
    air_mass = 1 / (up + 0.50572 * (elevation_deg + 6.07995) ** -1.6364)
    return np.asarray(up * 0.7 ** (air_mass**0.678), dtype=np.float64)


def _windiness(zone: Zone, season: Hours, clock_h: Hours) -> Hours:
    wind = zone.wind
    yearly = 1 + wind.season * np.cos(season - _angle(wind.crest_day))
    return np.asarray(yearly * (1 + wind.day * np.cos(2 * np.pi * (clock_h - wind.crest_h) / 24)), dtype=np.float64)


def _angle(day_of_year: float) -> float:
    return 2 * np.pi * day_of_year / 365.25


def _scaled(values: Hours, mean: float) -> Hours:
    """The values scaled to a mean."""
    return values * (mean / float(values.mean()))


def _floored(values: Hours, floor: float, width: float = 0.15) -> Hours:
    """A smooth maximum of values and floor (softplus): plants are turned down one after the other, not at a corner."""
    return floor + width * np.logaddexp(0.0, (values - floor) / width)
