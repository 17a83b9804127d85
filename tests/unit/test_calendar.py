"""Promises of nodes, slot by slot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco_ray.core.calendar import Calendar
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.jobs import Segment
from eco_ray.core.power import PowerCurve

SLOT_S = 900.0
CURVE = PowerCurve((0.0, 1.0), (10.0, 20.0), source="test")
BIG = Node("big", "DE", Resources(4.0, 2.0, 16.0), CURVE)
SMALL = Node("small", "FR", Resources(1.0, 0.0, 2.0), CURVE)
ONE = Resources(cpus=1.0)
NOBODY: dict[str, Resources] = {}


def segment(first, last, node="big"):
    return Segment(node, "DE", first * SLOT_S, last * SLOT_S)


def fits(calendar, node=BIG, demand=ONE, first=0, count=4, foreign=NOBODY):
    return calendar.fits([node], demand, first, count, foreign)[0].tolist()


def test_what_touches_a_slot_holds_it_whole():
    calendar = Calendar(SLOT_S)
    calendar.reserve(Segment("small", "FR", 1.5 * SLOT_S, 2.1 * SLOT_S), ONE)
    assert fits(calendar, SMALL) == [True, False, False, True]


def test_a_segment_that_ends_with_a_slot_leaves_the_next_one_free():
    calendar = Calendar(SLOT_S)
    start_s = 1_963_000 * SLOT_S  # today's epoch, where floats are coarse
    calendar.reserve(Segment("small", "FR", start_s, start_s + SLOT_S), ONE)
    assert fits(calendar, SMALL, first=1_963_000, count=2) == [False, True]
    assert calendar.slot_of(start_s) == 1_963_000
    assert calendar.slot_of(start_s - 1e-3) == 1_962_999


def test_an_empty_segment_holds_nothing():
    calendar = Calendar(SLOT_S)
    calendar.reserve(segment(2, 2, "small"), ONE)
    assert fits(calendar, SMALL) == [True] * 4


@pytest.mark.parametrize(
    ("demand", "expected"),
    [
        (Resources(2.0), True),
        (Resources(2.1), False),
        (Resources(1.0, 1.5), True),
        (Resources(1.0, 2.0), False),
        (Resources(1.0, 0.0, 13.0), False),
        (Resources(), True),
    ],
)
def test_every_resource_counts(demand, expected):
    calendar = Calendar(SLOT_S)
    calendar.reserve(segment(0, 1), Resources(2.0, 0.5, 4.0))
    assert fits(calendar, demand=demand, count=2) == [expected, True]


def test_ten_tenths_of_a_cpu_are_one():
    calendar = Calendar(SLOT_S)
    for taken in range(10):
        assert fits(calendar, SMALL, Resources(0.1), count=1) == [True], taken
        calendar.reserve(segment(0, 1, "small"), Resources(0.1))
    assert fits(calendar, SMALL, Resources(0.1), count=1) == [False]


def test_rounding_takes_nothing_away():
    calendar = Calendar(SLOT_S)
    for cpus in (0.1, 0.2, 0.4):  # 0.7000000000000001 together
        calendar.reserve(segment(0, 1, "small"), Resources(cpus))
    assert fits(calendar, SMALL, Resources(0.3), count=1) == [True]


def test_what_others_hold_counts_in_every_slot():
    calendar = Calendar(SLOT_S)
    calendar.reserve(segment(1, 2), Resources(2.0))
    assert fits(calendar, foreign={"big": Resources(2.0), "small": Resources(9.0)}) == [True, False, True, True]
    assert fits(calendar, foreign={"big": Resources(4.0)}) == [False] * 4


def test_it_grows_far_beyond_its_first_size():
    calendar = Calendar(SLOT_S)
    calendar.reserve(segment(100_000, 100_001, "small"), ONE)
    assert fits(calendar, SMALL, first=99_999, count=3) == [True, False, True]


def test_forgetting_drops_the_past_only():
    calendar = Calendar(SLOT_S)
    long, later = segment(500, 1200, "small"), segment(1300, 1301, "small")
    calendar.reserve(long, ONE)
    calendar.reserve(later, ONE)
    calendar.forget_before(1000 * SLOT_S)
    assert fits(calendar, SMALL, first=1199, count=2) == [False, True]
    calendar.release(long, ONE)  # its beginning is forgotten, its end is given back
    assert fits(calendar, SMALL, first=1000, count=302) == [True] * 300 + [False, True]
    with pytest.raises(ValueError, match="slot 999 is before the calendar's first slot 1000"):
        fits(calendar, SMALL, first=999)


def test_nodes_that_are_gone_take_no_memory():
    calendar = Calendar(SLOT_S)
    for i in range(20):
        calendar.reserve(segment(10 * i, 10 * i + 1, f"spot-{i}"), ONE)
    calendar.forget_before(5000 * SLOT_S)
    assert calendar._held == {}


amount = st.builds(
    Resources, st.sampled_from([0.0, 0.1, 1 / 3, 1.0, 2.5]), st.sampled_from([0.0, 0.25]), st.sampled_from([0.0, 0.7])
)
stretch = st.tuples(st.floats(0, 1200 * SLOT_S), st.floats(0, 900 * SLOT_S)).map(
    lambda t: Segment("big", "DE", t[0], t[0] + t[1])
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(stretch, amount), max_size=12), st.randoms(use_true_random=False), st.data())
def test_release_undoes_reserve_in_any_order_with_forgetting_in_between(promises, order, data):
    calendar, now = Calendar(SLOT_S), 0
    for part, demand in promises:
        calendar.reserve(part, demand)
    order.shuffle(promises)
    for part, demand in promises:
        now += data.draw(st.sampled_from([0, 0, 100, 700]))
        calendar.forget_before(now * SLOT_S)
        calendar.release(part, demand)
    held = calendar._view("big", now, 2500)
    assert np.abs(held).max() < 1e-12
    assert calendar.fits([BIG], BIG.capacity, now, 2500, NOBODY).all()
