"""The ladder: a source's forecast, our own, persistence, an old forecast, the last resort, nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planning_cases import HOUR_S, T0, hourly

from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError
from eco_ray.grid import ModelledProfile
from eco_ray.grid.answers import Known, Rung, best_actual, best_forecast
from eco_ray.grid.history import History

DAY = 24 * HOUR_S
WAVE = (300 + 100 * np.sin(np.arange(24) / 24 * 2 * np.pi)).round(1)
END = T0 + 48 * HOUR_S


def published(days: float, ended_h: float = 0.0) -> History:
    """So many days of a daily wave, up to so many hours before T0."""
    count = round(days * 24)
    hours = np.arange(-count, 0) - round(ended_h)
    return History.of(
        hourly("DE", *WAVE[hours % 24], start_s=T0 + hours[0] * HOUR_S, source="told", nature=Nature.MEASURED)
    )


def issued(hours_ago: float, hours: int = 72, value: float = 50.0):
    start_s = T0 - hours_ago * HOUR_S
    return hourly("DE", *[value] * hours, start_s=start_s, issued_s=start_s, source="theirs", nature=Nature.MODELLED)


def ask(*known: Known, last=(), now_s: float = T0, end_s: float = END):
    return best_forecast(known, last, "DE", now_s, end_s)


def test_a_fresh_forecast_is_the_first_choice_and_ours_goes_on_after_its_end():
    rung, series = ask(Known(published(14), issued(1, hours=24)))
    assert rung is Rung.FORECAST
    assert (series.start_s, series.values_g_per_kwh[:23].tolist()) == (T0, [50.0] * 23)
    assert series.end_s == END
    assert series.source.startswith("theirs; after that eco_ray forecast")
    alone = ask(Known(None, issued(1, hours=24)))[1]
    assert alone.end_s == T0 + 23 * HOUR_S


def test_the_second_source_is_asked_before_a_lower_rung():
    rung, series = ask(Known(published(14)), Known(None, issued(2, value=70.0)))
    assert (rung, series.values_g_per_kwh[0]) == (Rung.FORECAST, 70)


def test_a_week_of_history_makes_our_own_forecast():
    rung, series = ask(Known(published(8), issued(30)))
    assert rung is Rung.OWN
    assert (series.kind, series.nature, series.issued_s) == (published(8).series.kind, Nature.MODELLED, T0)
    assert series.values_g_per_kwh == pytest.approx(np.tile(WAVE, 2), rel=0.02)
    assert set(series.quantiles_g_per_kwh) >= {0.1, 0.9}


@pytest.mark.parametrize(
    ("days", "ended_h", "expected"),
    [
        (2, 0, WAVE),
        (2, 3, WAVE),  # three hours are not published yet: still the same hours of the day
        (0.5, 0, [WAVE[23]] * 24),
        (1 / 24, 5, [WAVE[18]] * 24),
    ],
)
def test_less_of_it_is_repeated(days, ended_h, expected):
    rung, series = ask(Known(published(days, ended_h)))
    assert rung is Rung.PERSISTENCE
    assert series.start_s == T0
    assert series.values_g_per_kwh.tolist() == pytest.approx([*expected, *expected])
    assert "again, known to" in series.source
    assert (series.nature, series.issued_s) == (Nature.MODELLED, T0 - ended_h * HOUR_S)


def test_an_old_forecast_is_better_than_a_model():
    assert ask(Known(published(2, 30), issued(30)), last=[ModelledProfile()])[0] is Rung.OLD
    assert ask(Known(published(2, 30), issued(80)), last=[ModelledProfile()])[0] is Rung.LAST_RESORT


def test_nothing_is_nothing():
    assert ask() == (Rung.NOTHING, None)
    assert ask(Known(published(2, 30))) == (Rung.NOTHING, None)

    class Lost(ModelledProfile):
        def forecast(self, zone, now_s, end_s):
            raise EcoRayError("no such zone")

    assert ask(last=[Lost()]) == (Rung.NOTHING, None)
    assert ask(last=[Lost(), ModelledProfile()])[0] is Rung.LAST_RESORT


def test_after_a_clock_went_back_nothing_is_read_from_the_future():
    early_s = T0 - 10 * DAY
    rung, series = ask(Known(published(14), issued(1)), now_s=early_s, end_s=early_s + DAY)
    assert rung is Rung.PERSISTENCE  # four days had passed by then
    assert series.issued_s <= early_s
    later = published(14).with_(hourly("DE", *[999] * 24, start_s=early_s + HOUR_S))
    assert ask(Known(later), now_s=early_s, end_s=early_s + DAY)[1].values_g_per_kwh.max() < 999
    assert ask(Known(published(14)), now_s=T0 - 20 * DAY, end_s=T0)[0] is Rung.NOTHING


def actual(*known: Known, hours=(-2.0, 0.0), last=()):
    return best_actual(known, last, "DE", T0 + hours[0] * HOUR_S, T0 + hours[1] * HOUR_S)


def test_what_was_published_is_told_as_it_is():
    series = actual(Known(published(2), issued(1)))
    assert (series.values_g_per_kwh.tolist(), series.source, series.issued_s) == (WAVE[22:].tolist(), "told", None)


def test_what_is_not_published_yet_is_forecast_and_says_so():
    series = actual(Known(published(2, 1), issued(1)))
    assert series.values_g_per_kwh.tolist() == [WAVE[22], 50]
    assert series.source == "told; after that theirs, as nothing newer is published"
    assert (series.nature, series.issued_s) == (Nature.MODELLED, T0 - HOUR_S)


def test_without_a_forecast_the_last_value_is_carried_on_for_three_hours():
    series = actual(Known(published(2, 1)))
    assert series.values_g_per_kwh.tolist() == [WAVE[22], WAVE[22]]
    assert "carried on" in series.source
    assert series.issued_s == T0 - HOUR_S
    assert actual(Known(published(2, 3)), hours=(-0.5, 0.0)).values_g_per_kwh.tolist() == [WAVE[20]]
    assert actual(Known(published(2, 4)), hours=(-0.5, 0.0)) is None
    assert actual(Known(published(2, 4)), Known(published(2)), hours=(-0.5, 0.0)).source == "told"


def test_a_gap_is_answered_by_another_source_or_the_last_resort():
    gap = published(2, 10).with_(hourly("DE", 5.0, start_s=T0 - HOUR_S, source="told"))
    assert actual(Known(gap), hours=(-5, -4)) is None
    assert actual(Known(gap), Known(published(3)), hours=(-5, -4)).values_g_per_kwh.tolist() == [WAVE[19]]
    assert actual(Known(gap), hours=(-5, -4), last=[ModelledProfile()]).nature is Nature.MODELLED


def test_two_steps_are_not_glued_together():
    half_hours = replace(issued(1), step_s=1800.0)
    assert actual(Known(published(2, 1), half_hours), hours=(-2, -0.5)).source.startswith("told; after that the last")


# -- what a review found -----------------------------------------------------------------------------------------------


def test_what_any_source_published_goes_before_what_another_forecast():
    old = Known(published(2, 10), issued(20))
    assert actual(old, Known(published(2)), hours=(-0.5, 0.0)).source == "told"
    assert actual(old, hours=(-0.5, 0.0)).source.startswith("theirs, as nothing newer")


def test_a_forecast_of_yesterday_is_not_what_was():
    assert actual(Known(published(3, 30), issued(30)), hours=(-0.5, 0.0)) is None


def test_the_newer_of_two_old_forecasts_is_planned_with():
    rung, series = ask(Known(None, issued(23, value=10.0)), Known(None, issued(8, value=20.0)))
    assert (rung, series.values_g_per_kwh[0]) == (Rung.FORECAST, 20)
    assert ask(Known(None, issued(23, value=10.0)), Known(None, issued(5, value=20.0)))[1].values_g_per_kwh[0] == 20


def test_our_own_forecast_is_as_old_as_what_it_was_made_from():
    rung, series = ask(Known(published(14, 100)))
    assert rung is Rung.OWN
    assert series.issued_s == T0 - 100 * HOUR_S
    assert "known to 20" in series.source
    assert ask(Known(published(14, 100)), Known(published(14, 1)))[1].issued_s == T0 - HOUR_S


def test_a_forecast_from_the_future_is_not_used():
    late = replace(issued(1), issued_s=T0 + 2 * HOUR_S)
    assert ask(Known(None, late)) == (Rung.NOTHING, None)


def test_a_short_gap_carries_the_value_before_and_says_so():
    later = hourly("DE", *[5.0] * 3, start_s=T0 - 3 * HOUR_S, source="told", nature=Nature.MEASURED)
    gap = published(2, 5).with_(later)
    series = actual(Known(gap), hours=(-8, 0), last=[ModelledProfile()])
    assert series.values_g_per_kwh.tolist() == [*WAVE[16:19], WAVE[18], WAVE[18], 5, 5, 5]
    assert series.source == "told; 2 h that were not published carry the value before"
    assert series.nature is Nature.MODELLED
    inside = actual(Known(gap), hours=(-4.5, -4.2))
    assert inside.values_g_per_kwh.tolist() == [WAVE[18]]
    assert "carry the value before" in inside.source


def test_each_value_keeps_its_own_label():
    first = hourly("DE", 1, 2, 3, start_s=T0 - 3 * HOUR_S, source="estimated", nature=Nature.ASSUMED)
    both = History.of(first).with_(hourly("DE", 9, start_s=T0 - HOUR_S, source="final", nature=Nature.MEASURED))
    told = [actual(Known(both), hours=hours) for hours in [(-1, 0), (-3, -2), (-3, 0)]]
    assert [series.source for series in told] == ["final", "estimated", "estimated; final"]
    assert [series.nature for series in told] == [Nature.MEASURED, Nature.ASSUMED, Nature.ASSUMED]
