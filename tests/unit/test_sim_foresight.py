"""What is believed to come: values worked out by hand, and that no belief but the oracle reads the future."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_cases import MONDAY_S, H, trace

from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.units import Nature
from eco_ray.errors import UsageError
from eco_ray.sim.foresight import Issued, Known, MeanDay, issued, persistence, week_mean
from eco_ray.sim.news import News
from eco_ray.sim.trace import Trace

DAY = 24 * H
#: three days in steps of 6 h; the simulation begins with the second one
QUARTERS = trace(10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120, start=-DAY, step=6 * H)


def told(outlook):
    """Edges [h] and intensities; None: nothing."""
    return None if outlook is None else ((outlook.edges_s / H).tolist(), outlook.g_per_kwh.tolist())


# -- the trace -------------------------------------------------------------------------------------------------------


def series(values, start_h=0.0, step_s=H):
    return IntensitySeries(
        "A",
        MONDAY_S + start_h * H,
        step_s,
        np.array(values, dtype=float),
        SignalKind.AVERAGE_LIFECYCLE,
        "test",
        Nature.MODELLED,
    )


def test_a_trace_counts_from_the_simulations_start():
    made = Trace.of(series([1, 2, 3], start_h=-2), MONDAY_S, 300)
    assert (made.start_s, made.step_s, made.end_s) == (-2 * H, H, H)
    assert told(made.outlook(-1.5 * H, 0.5 * H)) == ([0, 0.5, 1.5, 2], [1, 2, 3])
    assert [made.index(time_s) for time_s in (-2 * H, -H - 1, -H, 0, H - 1)] == [0, 0, 1, 2, 2]
    assert told(made.outlook(0, H)) == ([0, 1], [3])


def test_carbon_of_a_trace():
    made = trace(10, 20, 30, start=-H)
    # 0.5*10 + 0.5*20, 20 + 0.25*30, nothing
    assert made.carbon(np.array([-0.5, 0, 1]) * H, np.array([0.5, 1.25, 1]) * H).tolist() == pytest.approx(
        [15, 27.5, 0]
    )


def test_the_past_is_what_is_over():
    made = trace(1, 2, 3, 4, 5, start=-3 * H)
    assert made.past(0, 2 * H).tolist() == [2, 3]
    assert made.past(0.5 * H, 2 * H).tolist() == [2, 3]  # the step that goes on is not over
    assert made.past(H, DAY).tolist() == [1, 2, 3, 4]
    assert made.past(-3 * H, DAY).tolist() == []


def test_steps_shorter_than_a_tick_are_averaged_over_ticks_from_the_start_on():
    made = Trace.of(series([1, 2, 3, 5, 10, 20, 30, 7], start_h=-2 / 12, step_s=300), MONDAY_S, 900)
    assert (made.start_s, made.step_s) == (0, 900)
    assert made.g_per_kwh.tolist() == [6, 19]  # (3+5+10)/3, (20+30+7)/3


@pytest.mark.parametrize(("begin_h", "tick_s"), [(0, 420), (0.05, 300), (0, 5400)])
def test_ticks_that_do_not_fit_the_steps(begin_h, tick_s):
    with pytest.raises(UsageError, match=rf"resolution {tick_s} s: zone A has steps of 3600 s .* choose a resolution"):
        Trace.of(series([1, 2, 3, 4]), MONDAY_S + begin_h * H, tick_s)


# -- values by hand --------------------------------------------------------------------------------------------------


def test_the_oracle_is_the_trace():
    oracle = Known(QUARTERS)
    assert told(oracle.outlook(H, 13 * H)) == ([0, 5, 11, 12], [50, 60, 70])
    assert told(oracle.outlook(40 * H, 90 * H)) == ([0, 2, 8], [110, 120])  # as far as it goes
    assert oracle.outlook(-25 * H, 0) is None
    assert oracle.outlook(2 * DAY, 3 * DAY) is None


@pytest.mark.parametrize(
    ("at_h", "until_h", "expected"),
    [
        (0, 24, ([0, 6, 12, 18, 24], [10, 20, 30, 40])),  # yesterday again
        (0, 30, ([0, 6, 12, 18, 24, 30], [10, 20, 30, 40, 10])),  # and again
        (7, 20, ([0, 5, 11, 13], [20, 30, 40])),  # from the step that goes on, which is not over
        (12, 24, ([0, 6, 12], [30, 40])),
        (24, 36, ([0, 6, 12], [50, 60])),
        (-1, 6, None),  # there is no day before
        (-24, 0, None),
    ],
)
def test_persistence(at_h, until_h, expected):
    assert told(persistence(QUARTERS).outlook(at_h * H, until_h * H)) == expected


@pytest.mark.parametrize(
    ("at_h", "expected"),
    [
        (0, ([0, 6, 12, 18, 24], [10, 20, 30, 40])),  # of one day
        (24, ([0, 6, 12, 18, 24], [30, 40, 50, 60])),  # (10 + 50) / 2, ...
        (30, ([0, 6, 12, 18, 24], [40, 50, 60, 70])),  # the two days before 6:00: 20 and 60, ..., 50 and 90
        (-6, None),
    ],
)
def test_the_mean_of_as_many_days_as_there_are(at_h, expected):
    assert told(week_mean(QUARTERS).outlook(at_h * H, (at_h + 24) * H)) == expected


def test_the_week_forgets_what_is_older():
    days = np.repeat(np.arange(10.0), 4)
    made = Trace("A", -9 * DAY, 6 * H, days)
    # of the days 2 to 8
    assert told(week_mean(made).outlook(0, 6 * H)) == ([0, 6], [5])
    assert told(persistence(made).outlook(0, 6 * H)) == ([0, 6], [8])
    assert told(MeanDay(made, 2).outlook(0, 6 * H)) == ([0, 6], [7.5])


def forecasts(truth=None):
    """Three hours each, issued at 0:00, 2:00 and 10:00."""
    values = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype=float)
    issues_s = np.array([0.0, 2.0, 10.0]) * H
    return Issued(issues_s, values) if truth is None else issued(issues_s, values, truth)


@pytest.mark.parametrize(
    ("at_h", "until_h", "expected"),
    [
        (0, 2, ([0, 1, 2], [1, 2])),
        (0, 9, ([0, 1, 2, 3], [1, 2, 3])),  # as far as it goes
        (1.5, 3, ([0, 0.5, 1.5], [2, 3])),
        (1.99, 5, ([0, 0.01, 1.01], [2, 3])),  # the next one is not out yet
        (2, 4, ([0, 1, 2], [4, 5])),  # the newest
        (4.5, 9, ([0, 0.5], [6])),
        (4, 4.25, ([0, 0.25], [6])),
        (5, 9, None),  # beyond its last hour
        (9.5, 12, None),
        (10, 11, ([0, 1], [7])),
        (-1, 3, None),  # before the first one
    ],
)
def test_the_newest_forecast_that_was_out(at_h, until_h, expected):
    found = told(forecasts().outlook(at_h * H, until_h * H))
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert (found[0], found[1]) == (pytest.approx(expected[0]), expected[1])


@pytest.mark.parametrize(
    ("at_h", "until_h", "expected"),
    [
        (-2, 2, ([0, 2, 4], [40, 10])),  # before the first one: the mean day
        (0, 9, ([0, 1, 2, 3, 6, 9], [1, 2, 3, 10, 20])),  # continued from its third hour on
        (4, 13, ([0, 1, 2, 8, 9], [6, 10, 20, 30])),
        (5, 13, ([0, 1, 7, 8], [10, 20, 30])),  # beyond its last hour
        (0, 3, ([0, 1, 2, 3], [1, 2, 3])),
        (3, 4.5, ([0, 1, 1.5], [5, 6])),
        (10, 14, ([0, 1, 2, 3, 4], [7, 8, 9, 30])),
        (-24, -20, None),  # no history either
    ],
)
def test_a_forecast_that_ends_goes_on_with_the_mean_day(at_h, until_h, expected):
    # two days before the start that are equal, so that the mean day is 10, 20, 30, 40
    truth = trace(10, 20, 30, 40, 10, 20, 30, 40, 90, 90, 90, 90, start=-2 * DAY, step=6 * H)
    if at_h == -24:
        truth = QUARTERS
    assert told(forecasts(truth).outlook(at_h * H, until_h * H)) == expected


def test_a_continuation_in_the_middle_of_a_step():
    """The forecast ends at 5:00, in a step of the mean day that began at 0:00 and ends at 6:00."""
    truth = trace(10, 20, 30, 40, 0, 0, 0, 0, start=-DAY, step=6 * H)
    assert told(forecasts(truth).outlook(2 * H, 8 * H)) == ([0, 1, 2, 3, 4, 6], [4, 5, 6, 10, 20])


# -- nothing reads the future ----------------------------------------------------------------------------------------

value = st.integers(0, 500)


@st.composite
def two_futures(draw):
    """A time, and two traces in steps of `step_s` that are the same up to the step that holds it."""
    step_s = draw(st.sampled_from([H, 3 * H]))
    per_day = DAY // step_s
    days = draw(st.integers(1, 9))
    count = days * per_day
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    one = rng.integers(0, 500, count).astype(float)
    at = draw(st.integers(0, count - 1))
    other = np.concatenate([one[:at], rng.integers(0, 500, count - at)])
    start_s = -draw(st.integers(0, per_day)) * step_s
    at_s = start_s + at * step_s + draw(st.sampled_from([0, 300, step_s - 300]))
    return at_s, Trace("A", start_s, step_s, one), Trace("A", start_s, step_s, other)


@settings(max_examples=60, deadline=None)
@given(two_futures(), st.integers(1, 60))
def test_beliefs_from_the_past_do_not_read_the_future(case, reach_h):
    at_s, one, other = case
    for believe in (persistence, week_mean):
        outlooks = [told(believe(truth).outlook(at_s, at_s + reach_h * H)) for truth in (one, other)]
        assert outlooks[0] == outlooks[1]


@settings(max_examples=60, deadline=None)
@given(two_futures(), st.integers(1, 60), st.lists(st.integers(-10, 100), min_size=1, max_size=5, unique=True))
def test_forecast_files_are_read_up_to_the_newest_that_was_out(case, reach_h, issues_h):
    at_s, one, other = case
    issues_s = np.array(sorted(issues_h)) * float(H)
    out = int((issues_s <= at_s).sum())
    rng = np.random.default_rng(len(issues_h))
    first = rng.integers(0, 500, (len(issues_s), 6)).astype(float)
    second = np.concatenate([first[:out], rng.integers(0, 500, (len(issues_s) - out, 6))])
    assert told(issued(issues_s, first, one).outlook(at_s, at_s + reach_h * H)) == told(
        issued(issues_s, second, other).outlook(at_s, at_s + reach_h * H)
    )


@settings(max_examples=60, deadline=None)
@given(two_futures(), st.integers(1, 60), st.none() | st.integers(-2, 9))
def test_outlooks_begin_now_and_cover_what_was_asked_for(case, reach_h, age_h):
    """With a forecast of 7 h that is so old, or none."""
    at_s, truth, _ = case
    belief = week_mean(truth) if age_h is None else issued(np.array([at_s - age_h * H]), np.ones((1, 7)), truth)
    outlook = belief.outlook(at_s, at_s + reach_h * H)
    if week_mean(truth).outlook(at_s, at_s + 1) is None:
        return
    assert outlook is not None
    assert outlook.edges_s[0] == 0
    assert outlook.end_s == reach_h * H
    assert (np.diff(outlook.edges_s) > 0).all()
    assert len(outlook.g_per_kwh) == len(outlook.edges_s) - 1


# -- as news ---------------------------------------------------------------------------------------------------------


def news(*beliefs, traces=(QUARTERS,), tells_past=False):
    begin_s = float(MONDAY_S)
    return News(traces, beliefs, begin_s, begin_s + DAY, horizon_s=12.0 * H, tells_past=tells_past)


def test_perfect_knowledge_is_told_once():
    told_once = news(Known(QUARTERS))
    assert list(told_once.times_s()) == [MONDAY_S]
    series = told_once.at(MONDAY_S).series["A"]
    assert (series.start_s, series.step_s) == (MONDAY_S - DAY, 6 * H)
    assert series.values_g_per_kwh.tolist() == QUARTERS.g_per_kwh.tolist()


def test_other_beliefs_are_told_whenever_a_step_is_over():
    every = news(persistence(QUARTERS))
    assert [(time_s - MONDAY_S) / H for time_s in every.times_s()] == [0, 6, 12, 18]
    event = every.at(MONDAY_S + 6 * H)
    series = event.series["A"]
    assert (series.start_s, series.issued_s) == (MONDAY_S + 6 * H, MONDAY_S + 6 * H)
    assert series.values_g_per_kwh.tolist() == [20, 30]
    assert not event.past


def test_a_simulation_that_begins_within_a_step():
    """At 2:00 of steps of 6 h from midnight on: news come at 2:00, and whenever a step is over."""
    shifted = Trace("A", -DAY - 2 * H, 6 * H, QUARTERS.g_per_kwh)
    every = news(persistence(shifted), traces=(shifted,), tells_past=True)
    assert [(time_s - MONDAY_S) / H for time_s in every.times_s()] == [0, 4, 10, 16, 22]
    event = every.at(float(MONDAY_S))
    series, past = event.series["A"], event.past["A"]
    assert series.start_s == MONDAY_S - 2 * H
    assert series.values_g_per_kwh.tolist() == [10, 20]
    assert (past.end_s, past.values_g_per_kwh.tolist()) == (MONDAY_S - 2 * H, [10, 20, 30, 40])
    # of hourly values the one in the middle of each step
    hourly = news(Issued(np.array([0.0]), np.arange(12.0)[None]), traces=(shifted,))
    series = hourly.at(float(MONDAY_S)).series["A"]
    assert (series.start_s, series.values_g_per_kwh.tolist()) == (MONDAY_S - 2 * H, [1, 7])


def test_zones_of_which_nothing_is_known_are_left_out():
    young = trace(1, 2, 3, 4, step=6 * H, zone="B")
    event = news(persistence(QUARTERS), persistence(young), traces=(QUARTERS, young)).at(float(MONDAY_S))
    assert list(event.series) == ["A"]


def test_the_past_is_told_where_a_policy_compares_with_it():
    with_past = news(Known(QUARTERS), tells_past=True)
    assert len(list(with_past.times_s())) == 4
    past = with_past.at(MONDAY_S + 6 * H).past["A"]
    assert past.values_g_per_kwh.tolist() == [20, 30, 40, 50]
    assert past.end_s == MONDAY_S + 6 * H
