"""Points that a source sent: what cannot be true is refused with its value, never mended in silence."""

from __future__ import annotations

import numpy as np
import pytest

from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.units import Nature
from eco_ray.grid.http import Fault, SourceError
from eco_ray.grid.points import LEAST_LIFECYCLE_G_PER_KWH, MAX_G_PER_KWH, MAX_POINTS, cut, instant_s, number, series

START = 1_790_841_600.0  # 2026-10-01T08:00Z
HOUR = 3600.0


def a_series(points, **options) -> IntensitySeries:
    return series("DE", points, **{"kind": SignalKind.MARGINAL, "source": "test", "nature": Nature.MODELLED, **options})


def hourly(*values: float, start: float = START) -> list[tuple[float, float]]:
    return [(start + index * HOUR, value) for index, value in enumerate(values)]


def malformed(call, *args, says: str = ".", fault: Fault = Fault.MALFORMED) -> str:
    with pytest.raises(SourceError, match=says) as caught:
        call(*args)
    assert caught.value.fault is fault
    assert len(str(caught.value)) < 300
    return str(caught.value)


# --- times


@pytest.mark.parametrize(
    "text",
    [
        "2026-10-01T08:00:00.000Z",
        "2026-10-01T08:00Z",
        "2026-10-01T08:00:00+00:00",
        "2026-10-01T10:00:00+02:00",
        "2026-09-30T22:00:00-10:00",
    ],
)
def test_a_time_with_its_offset(text):
    assert instant_s(text, "test") == START


@pytest.mark.parametrize(
    "text",
    [
        "2026-10-01T08:00:00",
        "2026-10-01",
        "yesterday",
        "",
        "2026-13-01T08:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "1700-01-01T00:00Z",
        None,
        1_790_841_600,
        True,
        [],
        {"a": 1},
        "x" * 1_000_000,
    ],
)
def test_what_is_no_time(text):
    assert malformed(instant_s, text, "test").startswith("test: ")


# --- numbers


@pytest.mark.parametrize("value", [0, 302, 302.5, -1, 1e300])
def test_a_number(value):
    assert number(value, "test") == value
    assert isinstance(number(value, "test"), float)


@pytest.mark.parametrize(
    "value", [None, "302", True, float("nan"), float("inf"), 10**400, -(10**4000), [302], {"value": 302}, "x" * 10**6]
)
def test_what_is_no_number(value):
    malformed(number, value, "test", "the share", says="the share is .*, not a finite number")


def test_deep_values_are_not_spelled_out():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    malformed(number, deep, "test", says="a list")


def test_no_text_of_an_answer_is_quoted_for_it_may_be_a_key_in_any_form():
    for call in (instant_s, number):
        assert malformed(call, "y3k", "test").startswith("test: ")
        assert "y3k" not in malformed(call, "y3k", "test")
        assert "a text of 3 characters" in malformed(call, "y3k", "test")


# --- series


def test_points_in_any_order_make_a_series():
    made = a_series(reversed(hourly(1, 2, 3)), issued_s=START)
    assert (made.zone, made.start_s, made.step_s, made.end_s) == ("DE", START, HOUR, START + 3 * HOUR)
    assert made.values_g_per_kwh.tolist() == [1, 2, 3]
    assert made.values_g_per_kwh.dtype == np.float64
    assert (made.kind, made.source, made.nature, made.issued_s) == (
        SignalKind.MARGINAL,
        "test",
        Nature.MODELLED,
        START,
    )


def test_nobody_can_change_a_series_that_others_read():
    with pytest.raises(ValueError, match="read-only"):
        a_series(hourly(1, 2)).values_g_per_kwh[0] = 0


def test_one_point_is_enough_where_the_step_is_known():
    assert a_series(hourly(5), step_s=HOUR).end_s == START + HOUR
    malformed(a_series, hourly(5), says="one point for DE, whose step is not said")


def test_no_point_is_no_data():
    malformed(a_series, [], says="no point for DE", fault=Fault.NO_DATA)


def test_the_same_twice_is_once_but_not_with_two_values():
    assert a_series(hourly(1, 2) + hourly(1, 2)).values_g_per_kwh.tolist() == [1, 2]
    malformed(a_series, hourly(1, 2) + hourly(1, 3), says="two values for DE at 2026-10-01T09:00:00Z: 2 and 3")


@pytest.mark.parametrize("value", [-0.001, -302, MAX_G_PER_KWH + 1, 1e300, float("nan"), float("inf")])
def test_a_value_that_cannot_be_true(value):
    says = r"gCO2e/kWh \(marginal\) for DE at 2026-10-01T09:00:00Z is outside 0 to 5000"
    malformed(a_series, hourly(1, value), says=says)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-318, 0.49, -1.0])
def test_no_life_cycle_is_without_grams(value):
    def lifecycle(least):
        return a_series(hourly(300, least), kind=SignalKind.AVERAGE_LIFECYCLE)

    malformed(lifecycle, value, says=r"\(average-lifecycle\) for DE .* is outside 0.5 to 5000")
    assert lifecycle(LEAST_LIFECYCLE_G_PER_KWH).values_g_per_kwh.tolist() == [300, 0.5]


@pytest.mark.parametrize("kind", [SignalKind.MARGINAL, SignalKind.AVERAGE_DIRECT])
def test_nothing_is_less_than_nothing(kind):
    assert not np.signbit(a_series(hourly(-0.0, 1), kind=kind).values_g_per_kwh).any()


@pytest.mark.parametrize("value", [0.0, MAX_G_PER_KWH])
def test_the_least_and_the_most(value):
    assert a_series(hourly(value, value)).values_g_per_kwh.tolist() == [value, value]


def test_a_point_between_steps():
    points = [*hourly(1, 2, 3), (START + 1800, 9.0)]
    malformed(a_series, [*points, *hourly(4, 5, start=START + 3 * HOUR)], says="08:30:00Z does not lie on steps")
    malformed(lambda: a_series(points, step_s=HOUR), says="does not lie on steps of 3600 s")


def test_points_nearer_than_the_known_step():
    malformed(lambda: a_series([(START, 1.0), (START + 1, 2.0)], step_s=HOUR), says="does not lie on steps")


def test_a_forecast_ends_at_a_gap_and_history_begins_after_it():
    points = [*hourly(1, 2), *hourly(5, 6, 7, start=START + 4 * HOUR)]
    assert a_series(points, issued_s=START).values_g_per_kwh.tolist() == [1, 2]
    newest = a_series(points)
    assert (newest.start_s, newest.values_g_per_kwh.tolist()) == (START + 4 * HOUR, [5, 6, 7])


def test_more_points_than_a_year_of_them():
    malformed(a_series, ((START + index * 300, 1.0) for index in range(MAX_POINTS + 1)), says="more than 110000 points")


# --- parts


@pytest.mark.parametrize(
    ("start", "end", "values"),
    [
        (0, 4, [1, 2, 3, 4]),
        (0.5, 2.5, [1, 2, 3]),
        (1, 2, [2]),
        (1, 1, [2]),
        (1.5, 1.5, [2]),
        (3.9, 9, [4]),
        (-5, 1, [1]),
        (-5, 9, [1, 2, 3, 4]),
        (-5, 0.1, [1]),
    ],
)
def test_the_steps_that_reach_into_a_span(start, end, values):
    part = cut(a_series(hourly(1, 2, 3, 4), issued_s=START), START + start * HOUR, START + end * HOUR)
    assert part.values_g_per_kwh.tolist() == values
    assert part.at(part.start_s) == a_series(hourly(1, 2, 3, 4)).at(part.start_s)
    assert part.issued_s == START
    with pytest.raises(ValueError, match="read-only"):
        part.values_g_per_kwh[0] = 0


@pytest.mark.parametrize(("start", "end"), [(4, 5), (4, 4), (-2, 0), (-2, -2), (-2, -1), (100, 200)])
def test_a_span_of_which_nothing_is_known(start, end):
    whole = a_series(hourly(1, 2, 3, 4))
    says = "known from 2026-10-01T08:00:00Z to 2026-10-01T12:00:00Z"
    malformed(cut, whole, START + start * HOUR, START + end * HOUR, says=says, fault=Fault.NO_DATA)
