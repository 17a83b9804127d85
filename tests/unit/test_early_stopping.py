"""When a training has cost too many grams for what it gained."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco_ray.errors import UsageError
from eco_ray.train.early_stopping import GramsPerPoint

NAN = math.nan


def ends(rows, most=2.0, patience=2):
    """After which evaluation it ends (counted from 1), and what was told."""
    told = []
    rule = GramsPerPoint(most, patience=patience, say=told.append)
    for number, (accuracy, grams) in enumerate(rows, start=1):
        if rule.update(accuracy, grams):
            return number, rule.why
    return None, told


@pytest.mark.parametrize(
    ("rows", "after"),
    [
        ([(0.50, 0), (0.60, 10), (0.70, 20), (0.80, 30)], None),  # 1 g a point
        ([(0.50, 0), (0.60, 10), (0.70, 20), (0.71, 40), (0.72, 60)], 4),  # 11 points for 30 g: more than 2 g each
        ([(0.50, 0), (0.51, 2), (0.52, 4), (0.53, 6)], None),  # exactly what is allowed
        ([(0.50, 0), (0.50, 1), (0.50, 2)], 3),  # nothing gained
        ([(0.50, 0), (0.40, 1), (0.45, 2)], 3),  # the best counts
        ([(0.50, 0), (0.40, 1), (0.55, 2)], None),  # a bad evaluation between good ones is none
        ([(0.50, 0), (0.50, 0), (0.50, 0)], None),  # nothing was emitted, as far as the ledger has got
        ([(0.50, 9), (0.50, 8), (0.50, 7)], None),  # grams were corrected
        ([(0.50, 0), (NAN, 10), (0.60, 20)], None),  # 10 points for 20 g
        ([(NAN, 0), (0.5, 1), (0.5, 2)], None),
        ([(0.50, 0)], None),
    ],
)
def test_it_ends_when_a_point_costs_more_than_is_allowed(rows, after):
    assert ends(rows)[0] == after


def test_it_says_why():
    _, why = ends([(0.50, 0), (0.60, 10), (0.70, 20), (0.71, 40)])
    assert why == "the last 2 evaluations gained 11 points of accuracy for 30 g, and a point may cost 2 g"
    _, why = ends([(0.50, 0), (0.5, 1), (0.5, 2)])
    assert "gained nothing of accuracy for 2 g" in why


@given(st.lists(st.tuples(st.floats(0, 1), st.one_of(st.none(), st.just(NAN))), max_size=20))
def test_unknown_grams_never_end_a_training_and_are_told_once(rows):
    after, told = ends(rows)
    assert after is None
    assert len(told) == (1 if rows else 0)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 100)), min_size=1, max_size=12), st.integers(0, 11))
def test_a_resumed_training_decides_as_one_that_was_not_interrupted(rows, cut):
    whole, first = GramsPerPoint(2.0), GramsPerPoint(2.0)
    expected = [whole.update(*row) for row in rows]
    found = [first.update(*row) for row in rows[:cut]]
    second = GramsPerPoint(2.0)
    second.load_state_dict(first.state_dict())
    assert found + [second.update(*row) for row in rows[cut:]] == expected


@pytest.mark.parametrize(
    "make", [lambda: GramsPerPoint(0), lambda: GramsPerPoint(NAN), lambda: GramsPerPoint(1, patience=0)]
)
def test_limits_that_mean_nothing_are_refused(make):
    with pytest.raises(UsageError):
        make()
