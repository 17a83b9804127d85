"""Our own forecaster: it sees the past only, keeps what repeats, and says how wide it has been wrong."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timing import quiet_seconds_of

from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError
from eco_ray.grid.forecast import forecast

H = 3600.0
DAY = 24 * H
#: a Monday, 00:00 UTC
T0 = 1_641_168_000.0


def history(values, step_s=H, start_s=T0, **more) -> IntensitySeries:
    fields = {"kind": SignalKind.AVERAGE_DIRECT, "source": "a test", "nature": Nature.MEASURED, **more}
    return IntensitySeries("DE", start_s, step_s, np.asarray(values, dtype=np.float64), **fields)


def ahead(values, days=4.0, step_s=H) -> IntensitySeries:
    """The forecast at the end of these values."""
    now_s = T0 + len(values) * step_s
    return forecast(history(values, step_s), now_s, now_s + days * DAY)


def noisy(days: int, step_s=H, seed=0) -> np.ndarray:
    """A day and a week, and weather that stays for hours."""
    rng = np.random.default_rng(seed)
    count = int(days * DAY / step_s)
    hour = np.arange(count) * step_s / H
    keep = np.exp(-step_s / (20 * H))
    weather = np.empty(count)
    level = 0.0
    for i, shock in enumerate(rng.normal(0, 60 * np.sqrt(1 - keep**2), count)):
        weather[i] = level = keep * level + shock
    weekend = (hour // 24 % 7) >= 5
    return np.maximum(300 + 80 * np.cos(hour * 2 * np.pi / 24) - 50 * weekend + weather, 0.0)


steps = st.sampled_from([300.0, 900.0, 1800.0, 3600.0])


@st.composite
def histories(draw, max_days=16):
    """Any values, with unknown ones among them, on any step, and how much of it has passed [steps]."""
    step_s = draw(steps)
    per_day = int(DAY / step_s)
    count = draw(st.integers(per_day, max_days * per_day))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.gamma(draw(st.floats(0.1, 10)), draw(st.floats(0.1, 500)), count)
    unknown = rng.random(count) < draw(st.sampled_from([0.0, 0.01, 0.5]))
    values[unknown] = np.nan
    if unknown.all():
        values[0] = 1.0
    return history(values, step_s), draw(st.integers(per_day, count))


@settings(max_examples=60, deadline=None)
@given(case=histories(), inside=st.floats(0, 0.99), hours=st.floats(0, 500))
def test_any_forecast_is_finite_ordered_and_covers_now(case, inside, hours):
    past, passed = case
    if not np.isfinite(past.values_g_per_kwh[max(0, passed % int(DAY / past.step_s)) : passed]).any():
        return
    now_s = past.start_s + (passed + inside) * past.step_s
    ours = forecast(past, now_s, now_s + hours * H)
    low, high = ours.quantiles_g_per_kwh[0.1], ours.quantiles_g_per_kwh[0.9]
    for values in (low, ours.values_g_per_kwh, high):
        assert np.isfinite(values).all()
        assert values.min() >= 0
    assert (low <= ours.values_g_per_kwh).all()
    assert (ours.values_g_per_kwh <= high).all()
    assert ours.start_s <= now_s < ours.start_s + ours.step_s
    assert ours.covers(now_s, now_s + min(hours * H, 14 * DAY))
    assert ours.step_s == past.step_s
    assert (ours.kind, ours.nature, ours.issued_s) == (past.kind, Nature.MODELLED, now_s)


@settings(max_examples=40, deadline=None)
@given(case=histories(), inside=st.floats(0, 0.99), other=st.floats(0, 1e4))
def test_the_future_changes_nothing(case, inside, other):
    past, passed = case
    past = replace(past, values_g_per_kwh=np.nan_to_num(past.values_g_per_kwh, nan=7.0))
    now_s = past.start_s + (passed + inside) * past.step_s
    changed = past.values_g_per_kwh.copy()
    changed[passed:] = other
    ours = forecast(past, now_s, now_s + 2 * DAY)
    for future in (changed, past.values_g_per_kwh[:passed]):
        again = forecast(replace(past, values_g_per_kwh=future), now_s, now_s + 2 * DAY)
        assert np.array_equal(ours.values_g_per_kwh, again.values_g_per_kwh)
        for level, values in ours.quantiles_g_per_kwh.items():
            assert np.array_equal(values, again.quantiles_g_per_kwh[level])


@settings(max_examples=20, deadline=None)
@given(value=st.floats(0, 2000), days=st.integers(1, 36), step_s=steps)
def test_what_never_changed_stays(value, days, step_s):
    ours = ahead(np.full(int(days * DAY / step_s), value), step_s=step_s)
    for values in (ours.values_g_per_kwh, *ours.quantiles_g_per_kwh.values()):
        assert values == pytest.approx(value, rel=1e-9, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), weeks=st.integers(2, 5), more=st.integers(0, 24 * 7 - 1))
def test_a_pure_weekly_pattern_is_reproduced(seed, weeks, more):
    week = np.random.default_rng(seed).uniform(50, 600, 168)
    count = min(weeks * 168 + more, 35 * 24)
    ours = ahead(np.resize(week, count), days=14)
    truth = np.resize(week, count + 14 * 24)[count:]
    # after a few weeks, a pure pattern is what the hour of the week brings and no anomaly is left
    wrong = np.abs(ours.values_g_per_kwh - truth).mean() / week.std()
    assert wrong < (0.6 if weeks < 4 else 0.1)


def test_a_pure_daily_pattern_is_reproduced_from_a_single_day():
    day = np.random.default_rng(1).uniform(50, 600, 24)
    assert ahead(day).values_g_per_kwh == pytest.approx(np.tile(day, 4))


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(1e-3, 1e3), days=st.integers(1, 30))
def test_other_units_give_the_same_forecast(factor, days):
    values = noisy(days)
    one, other = ahead(values), ahead(values * factor)
    assert other.values_g_per_kwh == pytest.approx(one.values_g_per_kwh * factor)
    for level, quantile in one.quantiles_g_per_kwh.items():
        assert other.quantiles_g_per_kwh[level] == pytest.approx(quantile * factor, abs=1e-9)


def test_a_level_that_has_moved_carries_on_and_fades():
    values = noisy(28)
    raised = values.copy()
    raised[-24:] += 100
    more = ahead(raised, days=14).values_g_per_kwh - ahead(values, days=14).values_g_per_kwh
    assert more[0] > 70
    assert more[0] > more[24] > more[96] > more[-1] > 0


def test_the_band_holds_about_four_fifths_of_what_comes():
    values = noisy(400)
    inside = []
    for day in range(35, 396, 4):
        now_s = T0 + day * DAY
        ours = forecast(history(values), now_s, now_s + 4 * DAY)
        truth = values[day * 24 : day * 24 + 96]
        inside.append((ours.quantiles_g_per_kwh[0.1] <= truth) & (truth <= ours.quantiles_g_per_kwh[0.9]))
    assert 0.75 <= np.mean(inside) <= 0.85


def test_a_day_of_history_persists_with_a_wider_band():
    values = noisy(28)
    short, long = ahead(values[-24:]), ahead(values)
    assert short.values_g_per_kwh == pytest.approx(np.tile(values[-24:], 4))
    width = [np.mean(s.quantiles_g_per_kwh[0.9] - s.quantiles_g_per_kwh[0.1]) for s in (short, long)]
    assert width[0] > width[1]


def test_the_source_says_what_it_was_made_from():
    assert ahead(noisy(28)).source == "eco_ray forecast from 28 days of a test history"
    assert ahead(noisy(50)).source == "eco_ray forecast from 35 days of a test history"
    one_day = "eco_ray forecast from 1 day of a test history; its band is the spread of that history"
    assert ahead(noisy(1)).source == one_day
    holed = noisy(10)
    holed[30:54] = np.nan
    assert ahead(holed).source == "eco_ray forecast from 10 days (10.0% of it unknown) of a test history"


def test_an_unknown_day_counts_as_the_day_before():
    values = noisy(20)
    filled = values.copy()
    filled[240:264] = filled[216:240]
    values[240:264] = np.nan
    assert np.array_equal(ahead(values).values_g_per_kwh, ahead(filled).values_g_per_kwh)


def test_history_that_lags_is_bridged():
    values = noisy(21)
    end_s = T0 + len(values) * H
    late = forecast(history(values), end_s + 5 * H, end_s + 50 * H)
    assert late.start_s == end_s + 5 * H
    assert np.array_equal(late.values_g_per_kwh, ahead(values).values_g_per_kwh[5:50])


@pytest.mark.parametrize(
    ("values", "step_s", "now_s", "message"),
    [
        (np.ones(23), H, T0 + DAY, "only 23.0 h of its history had passed, 24 h are needed"),
        (np.ones(48), H, T0 - DAY, "only 0.0 h of its history"),
        (np.ones(48), H, T0 + DAY - 1, "only 23.0 h of its history"),
        (np.ones(48), 5000.0, T0 + DAY, "steps of 5000 s, which do not fill a day"),
        (np.ones(48), H, T0 + 17 * DAY, "more than 14 days before; load newer history"),
        (np.full(48, np.nan), H, T0 + 2 * DAY, "no value of its history is finite"),
    ],
)
def test_what_cannot_be_forecast_is_refused(values, step_s, now_s, message):
    with pytest.raises(EcoRayError, match=message):
        forecast(history(values, step_s), now_s, now_s + DAY)


@pytest.mark.parametrize("step_s", [300.0, 3600.0])
def test_two_weeks_from_five_take_less_than_50_ms(step_s):
    values = noisy(35, step_s)
    ahead(values, 14, step_s)
    assert min(quiet_seconds_of(lambda: ahead(values, 14, step_s)) for _ in range(5)) < 0.05
