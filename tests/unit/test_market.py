"""The market: shares and prices worked out by hand, and what holds for all of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco_ray.core.market import EXPECTED_SHARE, MEMORY_S, Demand, Wish, clear, held_g

H = 3600.0


def wish(name, left_h, latest_h, *, earliest_h=0.0, cpus=1.0, watts=(1000.0,)):
    return Wish(name, left_h * H, earliest_h * H, latest_h * H, (cpus, 0.0, 0.0, 0.0), np.array(watts) * cpus)


def cleared(*wishes, zones, cpus=1.0, expected=()):
    """Hours of intensity by zone; a kW for an hour at 1 g/kWh is a gram."""
    g_per_kwh = np.array(zones, dtype=float)
    edges_s = np.arange(g_per_kwh.shape[1] + 1) * H
    capacity = np.zeros((*g_per_kwh.shape, 4))
    capacity[..., 0] = np.reshape(cpus, (-1, 1))
    return clear(wishes, expected, edges_s, g_per_kwh, capacity)


def hours(found, name):
    return (found.shares_s[name] / H).round(6).tolist()


def test_where_all_fit_nothing_has_a_price_and_nobody_a_share():
    found = cleared(wish("a", 1, 3), wish("b", 1, 3), zones=[[5, 1, 2]], cpus=2)
    assert found.shares_s == {}
    assert not found.price_g.any()


def test_the_scarce_hour_goes_to_the_job_that_cannot_do_without():
    """Both want hour 1; a has only hour 0 beside it, at 9 g, b has hour 2, at 2 g: b gives way for 1 g, not a for 8."""
    found = cleared(wish("a", 1, 2), wish("b", 1, 3), zones=[[9, 1, 2]])
    assert hours(found, "a") == [[0, 1, 0]]
    assert hours(found, "b") == [[0, 0, 1]]
    # one more CPU in hour 1 would save the gram by which b is worse off
    assert held_g(found, 0, (1, 0, 0, 0), 1 * H, 2 * H) == pytest.approx(1, rel=0.01)
    assert held_g(found, 0, (1, 0, 0, 0), 0, 1 * H) == 0
    assert held_g(found, 0, (2, 0, 0, 0), 1 * H, 1.5 * H) == pytest.approx(1, rel=0.01)  # two CPUs for half an hour


def test_of_two_zones_the_full_one_has_a_price():
    found = cleared(wish("a", 1, 1, watts=(1000, 1000)), wish("b", 1, 1, watts=(1000, 1000)), zones=[[1], [5]])
    shares = np.array([hours(found, "a"), hours(found, "b")])  # (job, zone, hour)
    assert shares.sum(axis=0).tolist() == [[1], [1]]
    assert held_g(found, 0, (1, 0, 0, 0), 0, H) == pytest.approx(4, rel=0.01)


def test_a_zone_where_a_job_may_not_run_gets_no_share():
    jobs = [
        wish("a", 1, 2, watts=(math.inf, 1000)),
        wish("b", 2, 2, watts=(1000, 1000)),
        wish("c", 1, 2, watts=(1000, 1000)),
    ]
    found = cleared(*jobs, zones=[[1, 1], [9, 8]])
    assert hours(found, "a")[0] == [0, 0]
    assert sum(hours(found, "a")[1]) == pytest.approx(1)


def test_jobs_that_are_still_to_be_expected_make_a_scarce_hour_dearer():
    ahead = wish("", 1, 2, earliest_h=1)
    alone = cleared(wish("a", 1, 2), zones=[[3, 1]])
    crowded = cleared(wish("a", 1, 2), zones=[[3, 1]], expected=[ahead])
    assert alone.shares_s == {}
    assert hours(crowded, "a") == [[1, 0]]  # who comes in hour 1 has only that hour


def test_of_equal_hours_the_first_and_where_it_runs_now():
    found = cleared(wish("a", 1, 4), wish("b", 1, 1), zones=[[5, 5, 5, 5]])
    assert hours(found, "a") == [[0, 1, 0, 0]]
    assert hours(found, "b") == [[1, 0, 0, 0]]


def test_too_much_work_is_shared_out_as_far_as_it_goes():
    found = cleared(wish("a", 2, 2), wish("b", 2, 2), zones=[[5, 1]])
    assert np.array([hours(found, "a"), hours(found, "b")]).sum() == pytest.approx(2)


def test_prices_by_slot_are_those_of_the_steps_and_nothing_outside():
    found = cleared(wish("a", 1, 2), wish("b", 1, 3), zones=[[9, 1, 2]])
    step, price_g = found.by_slot(1800.0, -1, 8)
    assert step.tolist() == [-1, 0, 0, 1, 1, 2, 2, -1]
    assert (price_g[0, :, 0] > 0).tolist() == [False, False, False, True, True, False, False, False]


@settings(max_examples=25, deadline=None)
@given(
    jobs=st.lists(st.tuples(st.integers(1, 3), st.integers(3, 6), st.sampled_from([1.0, 2.0])), min_size=1, max_size=6),
    values=st.lists(st.integers(1, 9), min_size=6, max_size=6),
    cpus=st.sampled_from([1.0, 2.0, 4.0]),
)
def test_shares_hold_capacity_and_windows(jobs, values, cpus):
    wishes = [wish(str(i), left, latest, cpus=held) for i, (left, latest, held) in enumerate(jobs)]
    found = cleared(*wishes, zones=[values], cpus=cpus)
    assert (found.price_g >= 0).all()
    load = np.zeros(6)
    for one in wishes:
        share = found.shares_s.get(one.job_id, np.zeros((1, 6)))[0]
        assert share.sum() <= one.left_s + 1e-6
        assert (share <= H + 1e-6).all()
        assert share[int(one.latest_s / H) :].sum() == 0
        load += share * one.demand[0]
    assert (load <= cpus * H * (1 + 1e-6)).all()


def test_what_came_lately_is_expected_again_in_part():
    demand = Demand(0.0)
    assert demand.expected(H, 0.0)[0].tolist() == [0, 0, 0, 0]
    for hour in range(24 * 20):
        demand.submitted((2.0, 0.0, 0.0, 0.0), 4 * H, 10 * H, hour * H)
    held, length_s, slack_s = demand.expected(H, 24 * 20 * H)
    assert (length_s, slack_s) == (pytest.approx(4 * H), pytest.approx(10 * H))
    # 2 CPUs for 4 hours come every hour: 8 CPUs run at a time; while one job of an hour runs it holds 2
    # some 24 jobs are remembered, so that 24 / (24 + 3) of the share is trusted
    assert held[0] == pytest.approx(EXPECTED_SHARE * 2 * 24.5 / 27.5, rel=0.05)
    later = demand.expected(H, (24 * 20) * H + 3 * MEMORY_S)[0]
    assert later[0] < held[0] / 15  # and is forgotten
