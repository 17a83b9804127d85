"""What was published of a zone: gaps stay gaps, newer values win, old ones go."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planning_cases import HOUR_S, T0, hourly

from eco_ray.core.intensity import SignalKind
from eco_ray.grid.history import KEEP_S, History


def values(history: History | None) -> list[float | None]:
    return [None if math.isnan(v) else float(v) for v in history.series.values_g_per_kwh] if history else []


def at(hour: float, *of: float, **changes):
    return hourly("DE", *of, start_s=T0 + hour * HOUR_S, **changes)


def test_new_values_are_added_and_win():
    history = History.of(at(0, 1, 2, 3)).with_(at(2, 30, 4, source="newer"))
    assert values(history) == [1, 2, 30, 4]
    assert (history.series.source, history.end_s) == ("newer", T0 + 4 * HOUR_S)
    assert values(history.with_(at(-2, 8, 9, 10))) == [8, 9, 10, 2, 30, 4]


def test_older_values_do_not_rename_the_newest():
    assert History.of(at(5, 1, source="now")).with_(at(0, 1, source="then")).series.source == "now"


def test_a_gap_is_unknown_and_not_bridged():
    history = History.of(at(0, 1, 2)).with_(at(4, 5, 6))
    assert values(history) == [1, 2, None, None, 5, 6]
    assert history.since(T0 + 0.5 * HOUR_S).values_g_per_kwh.tolist() == [1, 2]
    assert history.since(T0 + 2.5 * HOUR_S) is None
    assert history.since(T0 - 1) is None
    assert history.since(T0 + 6 * HOUR_S) is None
    assert (history.tail().start_s, history.tail().values_g_per_kwh.tolist()) == (T0 + 4 * HOUR_S, [5, 6])


def test_what_lies_after_now_is_not_of_the_past():
    history = History.of(at(0, 1, 2)).with_(at(4, 5, 6))
    assert values(history.until(T0 + 4 * HOUR_S)) == [1, 2, None, None, 5]
    assert values(history.until(T0 + 3.9 * HOUR_S)) == [1, 2]  # ends with a value, not with a gap
    assert history.until(T0 - 1) is None


@pytest.mark.parametrize(
    "new", [at(2, 9, kind=SignalKind.MARGINAL), at(2, 9, step_s=1800.0), at(2.5, 9)], ids=["kind", "step", "shifted"]
)
def test_newer_values_that_do_not_fit_start_anew(new):
    assert values(History.of(at(0, 1, 2)).with_(new)) == [9]


def test_older_values_in_other_steps_are_left_out():
    assert values(History.of(at(5, 1, 2)).with_(at(0, 9, step_s=1800.0))) == [1, 2]


def test_the_oldest_gap_is_known():
    history = History.of(at(0, 1, 2)).with_(at(4, 5, 6))
    assert history.first_gap == (T0 + 2 * HOUR_S, T0 + 4 * HOUR_S)
    assert history.with_(at(2, 3, 4)).first_gap is None


def test_many_labels_become_one_that_says_so():
    history = History.of(at(0, 1, source="s0"))
    for hour in range(1, 60):
        history = history.with_(at(hour, 1, source=f"s{hour}"))
    assert len(history.labels) <= 20
    assert history.series.source == "s59"
    assert "and others" in history.since(T0, T0 + HOUR_S).source


def test_five_weeks_are_kept():
    hours = round(KEEP_S / HOUR_S)
    history = History.of(at(0, *range(hours))).with_(at(hours, 7, 8))
    assert len(values(history)) == hours
    assert values(history)[0] == 2
    assert values(history.with_(at(10 * hours, 5)))[-1] == 5
    assert len(values(history.with_(at(10 * hours, 5)))) == hours
    assert values(History.of(at(10 * hours, 5)).with_(at(0, 1))) == [None] * (hours - 1) + [5]


pieces = st.tuples(st.integers(0, 60), st.lists(st.floats(0, 900), min_size=1, max_size=30))


@given(st.lists(pieces, min_size=1, max_size=6))
def test_it_knows_what_was_told_last_and_nothing_else(told):
    history, known = None, {}
    for start, of in told:
        piece = at(start, *of)
        history = history.with_(piece) if history else History.of(piece)
        known |= {T0 + (start + i) * HOUR_S: value for i, value in enumerate(of)}
    series = history.series
    found = {series.start_s + i * HOUR_S: float(v) for i, v in enumerate(series.values_g_per_kwh) if not np.isnan(v)}
    assert found == known
    assert not np.isnan(series.values_g_per_kwh[[0, -1]]).any()
