"""The modelled profile: mean 1, positive, and the dips and peaks where sun and people put them."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timing import quiet_seconds_of

from eco_ray.core.intensity import SignalKind
from eco_ray.core.units import Nature
from eco_ray.grid import ModelledProfile
from eco_ray.grid.mixes import FACTORS_G_PER_KWH, FOSSIL, ZONES, Wind, Zone
from eco_ray.grid.profile import shape, year_intensity

JUNE = slice(24 * 160, 24 * 174)
JANUARY = slice(24 * 7, 24 * 21)


def local_day(zone: str, days: slice, year: int = 2025) -> np.ndarray:
    """Mean intensity by hour of local solar time, rolled to the nearest hour."""
    hours = year_intensity(zone, year)[days].reshape(-1, 24).mean(axis=0)
    return np.roll(hours, round(ZONES[zone].longitude_deg / 15))


def year_of(zone: str, year: int = 2025) -> tuple[float, float]:
    start, end = (np.datetime64(f"{y}-01-01", "s").astype(np.int64) for y in (year, year + 1))
    return float(start), float(end)


@pytest.mark.parametrize("zone", ZONES)
def test_the_table_is_sound(zone):
    entry = ZONES[zone]
    assert set(entry.mix) <= set(FACTORS_G_PER_KWH)
    assert min(entry.mix.values()) >= 0
    assert 95 <= sum(entry.mix.values()) <= 105
    assert sum(entry.shares.values()) == pytest.approx(1)
    assert 5 < entry.mean_g_per_kwh < 850


@pytest.mark.parametrize(
    ("zone", "low", "high"),
    # Bands around what Ember (2023, life cycle) and the operators publish, wide enough for a rounded mix.
    [
        ("DE", 300, 420),
        ("FR", 40, 65),
        ("GB", 190, 260),
        ("ES", 140, 200),
        ("PL", 550, 750),
        ("SE", 20, 50),
        ("NO", 20, 40),
        ("US-CAL-CISO", 200, 280),
        ("IN", 600, 750),
    ],
)
def test_annual_means_are_in_the_published_order(zone, low, high):
    assert low <= ZONES[zone].mean_g_per_kwh <= high
    start, end = year_of(zone)
    assert ModelledProfile().actual(zone, start, end).mean(start, end) == pytest.approx(ZONES[zone].mean_g_per_kwh)


def test_the_mean_is_shares_times_factors():
    zone = replace(ZONES["DE"], mix={"coal": 50.0, "wind": 150.0})
    assert zone.mean_g_per_kwh == pytest.approx(0.25 * 820 + 0.75 * 11)


@pytest.mark.parametrize("zone", ["DE", "ES", "US-CAL-CISO", "NL", "IT", "AU-SA"])
def test_a_solar_zone_dips_at_midday_and_peaks_in_the_evening(zone):
    summer = JUNE if ZONES[zone].latitude_deg > 0 else JANUARY
    day = local_day(zone, summer)
    assert 10 <= day.argmin() <= 14
    assert day.max() > 1.5 * day.min()
    evening = day[18:23].max()
    assert evening > day[10:15].max()
    assert evening >= 0.95 * day.max()


@pytest.mark.parametrize("zone", ["DE", "ES", "US-CAL-CISO", "NL"])
def test_the_dip_is_deeper_in_summer(zone):
    winter, summer = local_day(zone, JANUARY), local_day(zone, JUNE)
    assert summer.min() / summer.max() < winter.min() / winter.max()


def test_gb_is_lower_at_night_than_in_the_evening_and_dips_moderately():
    for days in (JANUARY, JUNE):
        day = local_day("GB", days)
        assert day[1:5].mean() < 0.95 * day[17:21].mean()
        assert 0.6 * day.max() < day[11:14].mean() < day[17:21].mean()


def test_fr_is_low_and_pl_is_high_at_all_hours():
    fr, pl = year_intensity("FR", 2025), year_intensity("PL", 2025)
    assert fr.max() < 110
    assert np.percentile(fr, [10, 50, 90]) == pytest.approx([45, 60, 80], abs=20)
    assert pl.min() > 3.5 * fr.max()


def test_sundays_are_cleaner_than_working_days():
    days = year_intensity("DE", 2024).reshape(-1, 24).mean(axis=1)  # 1 January 2024 was a Monday
    weekday = np.arange(len(days)) % 7
    assert days[weekday == 6].mean() < days[weekday == 5].mean() < days[weekday < 5].mean()


@pytest.mark.parametrize(("latitude", "month_hours"), [(50.0, JUNE), (-50.0, JANUARY)])
def test_the_sun_is_high_in_the_summer_of_its_hemisphere(latitude, month_hours):
    zone = Zone(latitude, 0.0, {"solar": 20.0, "gas": 80.0}, Wind(0, 0, 0, 0), 0.0, 0.0)
    day = shape(zone, 2025)[month_hours].reshape(-1, 24).mean(axis=0)
    assert day.argmin() in (11, 12)
    other = shape(zone, 2025)[JANUARY if month_hours is JUNE else JUNE].reshape(-1, 24).mean(axis=0)
    assert day.min() < other.min()


def test_solar_noon_moves_with_the_longitude():
    def noon(longitude: float) -> int:
        zone = Zone(20.0, longitude, {"solar": 30.0, "gas": 70.0}, Wind(0, 0, 0, 0), 0.0, 0.0)
        return int(shape(zone, 2025)[JUNE].reshape(-1, 24).mean(axis=0).argmin())

    assert (noon(0) - noon(90)) % 24 == 6
    assert (noon(-90) - noon(0)) % 24 == 6


zones = st.builds(
    lambda latitude, longitude, mix, fossil, winter, summer: Zone(
        latitude, longitude, {**mix, fossil: 5.0 + mix.get(fossil, 0.0)}, Wind(0.3, 15, 0.1, 14), winter, summer
    ),
    st.floats(-70, 70),
    st.floats(-180, 180),
    st.dictionaries(st.sampled_from(sorted(FACTORS_G_PER_KWH)), st.floats(0, 100)).map(
        lambda mix: {source: mix.get(source, 0.0) for source in FACTORS_G_PER_KWH}
    ),
    st.sampled_from(FOSSIL),
    st.floats(-0.2, 0.4),
    st.floats(-0.2, 0.4),
)


@settings(max_examples=40, deadline=None)
@given(zone=zones, year=st.integers(1970, 2100))
def test_any_shape_is_positive_and_has_mean_one(zone, year):
    values = shape(zone, year)
    assert len(values) in (8760, 8784)
    assert abs(values.mean() - 1) < 1e-6
    assert np.isfinite(values).all()
    assert values.min() > 0
    assert values.max() < max(FACTORS_G_PER_KWH.values()) / zone.mean_g_per_kwh * 1.5


@settings(max_examples=60, deadline=None)
@given(
    zone=st.sampled_from(sorted(ZONES)),
    start=st.floats(0, 4e9),
    length=st.floats(0, 3e6),
)
def test_any_answer_is_a_window_of_the_same_function(zone, start, length):
    profile = ModelledProfile()
    series = profile.actual(zone, start, start + length)
    assert series.covers(start, start + length)
    assert (series.kind, series.nature) == (SignalKind.AVERAGE_LIFECYCLE, Nature.MODELLED)
    assert series.at(start) == profile.actual(zone, start, start).at(start)
    ahead = profile.forecast(zone, start, start + length)
    assert ahead.issued_s == start
    assert np.array_equal(ahead.values_g_per_kwh, series.values_g_per_kwh)


def test_years_join_without_a_step():
    new_year, _ = year_of("DE", 2026)
    values = ModelledProfile().actual("DE", new_year - 6 * 3600, new_year + 6 * 3600).values_g_per_kwh
    assert len(values) == 12
    assert np.abs(np.diff(values)).max() < 0.1 * values.mean()


def test_the_source_names_model_and_version():
    assert ModelledProfile().actual("DE", 0, 3600).source.startswith("eco_ray modelled profile v2")


def test_another_process_gets_the_same_numbers():
    code = "from eco_ray.grid.profile import year_intensity as y; print(y('DE', 2025).tobytes().hex()[:4000])"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == year_intensity("DE", 2025).tobytes().hex()[:4000]


def test_a_year_takes_less_than_50_ms():
    assert min(quiet_seconds_of(lambda: shape(ZONES["DE"], 2025)) for _ in range(5)) < 0.05


def test_reservoirs_rather_than_gas_follow_the_evening():
    """Where most of a zone is stored water, its evening peak is clean: water is added to steady gas."""
    zone = Zone(-20.0, 0.0, {"hydro": 80.0, "gas": 20.0}, Wind(0, 0, 0, 0), 0.0, 0.0)
    day = shape(zone, 2025)[JUNE].reshape(-1, 24).mean(axis=0)
    assert day[19] < day[3]


def test_cooling_crests_in_the_afternoon():
    def hot(summer: float) -> np.ndarray:
        zone = Zone(30.0, 0.0, {"coal": 50.0, "nuclear": 50.0}, Wind(0, 0, 0, 0), 0.0, summer)
        return shape(zone, 2025)[JUNE].reshape(-1, 24).mean(axis=0)

    more = hot(0.3) - hot(0.0)
    assert 15 <= more.argmax() <= 17
