"""The step function of carbon intensity."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_cases import HOUR_S, T0, hourly

from eco_ray.errors import EcoRayError

SERIES = hourly("DE", 100, 300, 200)


def mean_by_the_second(series, start_s, end_s):
    """Overlap with each step, one after the other."""
    total = 0.0
    for i, value in enumerate(series.values_g_per_kwh):
        begin_s = series.start_s + i * series.step_s
        total += value * max(0.0, min(end_s, begin_s + series.step_s) - max(start_s, begin_s))
    return total / (end_s - start_s)


@pytest.mark.parametrize(("hours", "value"), [(0, 100), (0.999, 100), (1, 300), (1.5, 300), (2, 200), (2.9999, 200)])
def test_a_value_holds_from_the_start_of_its_step_to_before_the_next(hours, value):
    assert SERIES.at(T0 + hours * HOUR_S) == value


@pytest.mark.parametrize("hours", [-0.001, 3, 4])
def test_outside_nothing_is_known(hours):
    with pytest.raises(EcoRayError, match=r"no intensity for zone DE at t=\d+ s: the series covers 1783252800 to"):
        SERIES.at(T0 + hours * HOUR_S)


@pytest.mark.parametrize(
    ("start_h", "end_h", "mean"),
    [(0, 1, 100), (0, 3, 200), (0.5, 1.5, 200), (0.75, 1.25, 200), (1.2, 1.3, 300), (2.5, 3, 200), (1, 1, 300)],
)
def test_means_worked_out_by_hand(start_h, end_h, mean):
    assert SERIES.mean(T0 + start_h * HOUR_S, T0 + end_h * HOUR_S) == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize(("start_h", "end_h"), [(-0.1, 1), (2, 3.1), (3, 4), (3, 3), (-2, -1)])
def test_a_mean_over_what_is_not_covered_is_an_error(start_h, end_h):
    with pytest.raises(EcoRayError, match="load a longer trace or forecast"):
        SERIES.mean(T0 + start_h * HOUR_S, T0 + end_h * HOUR_S)


def test_covers():
    assert SERIES.end_s == T0 + 3 * HOUR_S
    assert SERIES.covers(T0, SERIES.end_s)
    assert not SERIES.covers(T0 - 1, SERIES.end_s)
    assert not SERIES.covers(T0, SERIES.end_s + 1)
    assert not hourly("DE").covers(T0, T0 + 1)


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.floats(0, 2000), min_size=1, max_size=30),
    step_s=st.sampled_from([300.0, 900.0, 1800.0, 3600.0, 100.0 / 3]),
    cuts=st.lists(st.floats(0, 1), min_size=2, max_size=20, unique=True),
)
def test_means_are_what_summing_step_by_step_gives(values, step_s, cuts):
    series = hourly("DE", *values, start_s=7200.0, step_s=step_s)
    edges = np.array(sorted(series.start_s + cut * (series.end_s - series.start_s) for cut in cuts))
    edges = np.clip(edges[np.diff(edges, prepend=-1) > 1e-3], series.start_s, series.end_s)
    if len(edges) < 2:
        return
    expected = [mean_by_the_second(series, a, b) for a, b in pairwise(edges)]
    assert series.means(edges) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    whole = mean_by_the_second(series, edges[0], edges[-1])
    assert series.mean(edges[0], edges[-1]) == pytest.approx(whole, rel=1e-5, abs=1e-5)


def test_a_year_of_quarter_hours_keeps_its_precision_at_the_end():
    values = np.full(35_040, 1000.0)
    values[-1] = 1.0
    series = hourly("DE", *values, step_s=900.0)
    assert series.mean(series.end_s - 900.0, series.end_s) == pytest.approx(1.0, rel=1e-9)
