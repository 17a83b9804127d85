"""Carbon ahead, worked out by hand: times in hours here, seconds in the code."""

from __future__ import annotations

import numpy as np
import pytest

from eco_ray.core.outlook import Outlook

H = 3600.0
X = np.inf


def ahead(edges_h, values):
    return Outlook(np.array(edges_h) * H, np.array(values, dtype=float))


@pytest.mark.parametrize(
    ("start_h", "length_h", "expected_g"),
    [
        (0, 3, 60),
        (0, 1, 10),
        (1, 1, 20),
        (0.5, 1, 15),  # half of 10 and half of 20
        (0.25, 0.5, 5),
        (1.5, 1.5, 40),  # half of 20 and all of 30
        (2, 0, 0),
    ],
)
def test_carbon_is_intensity_times_hours(start_h, length_h, expected_g):
    assert ahead([0, 1, 2, 3], [10, 20, 30]).carbon(start_h * H, length_h * H) == pytest.approx(expected_g)


def test_carbon_of_steps_of_any_length():
    """A first step of 15 min, then 1 h, then 3 h, as after 45 min of an hour have passed."""
    outlook = ahead([0, 0.25, 1.25, 4.25], [100, 40, 8])
    # 0.25*100 + 0.75*40 = 55; 40 + 8*1.75 = 54
    assert outlook.carbon(np.array([0.0, 0.25 * H]), H)[0] == pytest.approx(55)
    assert outlook.carbon(np.array([0.0, 0.25 * H]), 2.75 * H)[1] == pytest.approx(54)


def test_a_step_of_one_hour_counts_as_its_intensity_to_the_last_bit():
    assert float(ahead([0, 1, 2], [312.7, 0.1]).carbon(0.0, H)) == 312.7


@pytest.mark.parametrize(
    ("start_h", "length_h", "expected_g"),
    [
        (0, 1, 10),
        (0, 1.5, X),
        (1, 1, X),
        (1.5, 0.25, X),
        (2, 2, 70),  # it begins where the blocked step ends
        (0.5, 0.5, 5),  # it ends where the blocked step begins
        (0.5, 3.5, X),
    ],
)
def test_carbon_is_infinite_where_it_may_not_run(start_h, length_h, expected_g):
    assert ahead([0, 1, 2, 3, 4], [10, X, 30, 40]).carbon(start_h * H, length_h * H) == pytest.approx(expected_g)


def test_many_starts_at_once():
    outlook = ahead([0, 1, 2, 3, 4], [10, X, 30, 40])
    assert outlook.carbon(np.arange(4) * H, H).tolist() == [10, X, 30, 40]


def test_knowledge_ends_with_the_last_edge():
    assert ahead([0, 1, 2.5], [1, 2]).end_s == 2.5 * H


@pytest.mark.parametrize(
    ("end_h", "edges_h", "values"),
    [
        (4, [0, 1, 2, 3], [10, X, 30]),  # nothing is known there: as it was
        (3, [0, 1, 2, 3], [10, X, 30]),
        (2.5, [0, 1, 2, 2.5], [10, X, 30]),
        (2, [0, 1, 2], [10, X]),  # at an edge: no step without length
        (0.5, [0, 0.5], [10]),
    ],
)
def test_until_forgets_what_comes_later(end_h, edges_h, values):
    cut = ahead([0, 1, 2, 3], [10, X, 30]).until(end_h * H)
    assert (cut.edges_s / H).tolist() == edges_h
    assert cut.g_per_kwh.tolist() == values


def test_until_a_time_in_the_first_step_has_no_block_left():
    cut = ahead([0, 1, 2], [10, X]).until(0.5 * H)
    assert cut.is_flat
    assert float(cut.carbon(0.0, 0.5 * H)) == 5


@pytest.mark.parametrize(
    ("values", "flat"),
    [([5, 5, 5], True), ([5], True), ([5, 5, 6], False), ([5, X, 5], False), ([X, X], False), ([0, 0], True)],
)
def test_flat_is_the_same_all_the_time_without_a_block(values, flat):
    assert ahead(range(len(values) + 1), values).is_flat is flat
