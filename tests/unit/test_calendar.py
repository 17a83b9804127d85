"""Promises of nodes, slot by slot; pools of like nodes are in test_calendar_pools.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from eco_ray.core.calendar import Calendar
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.fleet import Place
from eco_ray.core.jobs import Segment
from eco_ray.core.power import PowerCurve

SLOT_S = 900.0
CURVE = PowerCurve((0.0, 1.0), (10.0, 20.0), source="test")
BIG = Node("big", "DE", Resources(4.0, 2.0, 16.0, 80.0), CURVE)
SMALL = Node("small", "FR", Resources(1.0, 0.0, 2.0), CURVE)
ONE = Resources(cpus=1.0)


def a_calendar(first_slot=0):
    return Calendar(SLOT_S, [BIG, SMALL], first_slot)


def segment(first, last, node="big", workers=1):
    return Segment(node, "DE", first * SLOT_S, last * SLOT_S, workers)


def place(calendar, name="big") -> Place:
    found = calendar.fleet.place_of(name)
    assert found is not None
    return found


def fits(calendar, name="big", demand=ONE, first=0, count=4):
    return calendar.fits([place(calendar, name)], demand, first, count)[0].tolist()


def workers_in(calendar, name="big", demand=ONE, first=0, count=4, most=9):
    return calendar.most_workers([place(calendar, name)], demand, first, count, most)[0].tolist()


# -- slots -------------------------------------------------------------------------------------------------------------


def test_what_touches_a_slot_holds_it_whole():
    calendar = a_calendar()
    calendar.reserve(Segment("small", "FR", 1.5 * SLOT_S, 2.1 * SLOT_S), ONE)
    assert fits(calendar, "small") == [True, False, False, True]


def test_a_segment_that_ends_with_a_slot_leaves_the_next_one_free():
    start_s = 1_963_000 * SLOT_S  # today's epoch, where floats are coarse
    calendar = a_calendar(1_962_999)
    calendar.reserve(Segment("small", "FR", start_s, start_s + SLOT_S), ONE)
    assert fits(calendar, "small", first=1_962_999, count=3) == [True, False, True]
    assert calendar.slot_of(start_s) == 1_963_000
    assert calendar.slot_of(start_s - 1e-3) == 1_962_999


@pytest.mark.parametrize("slot_s", [0.1, 0.3, 1.7, 7.1])
def test_slots_that_floats_cannot_hold_exactly_begin_where_they_should(slot_s):
    calendar = Calendar(slot_s, [SMALL], 0)
    for slot in range(0, 300, 7):
        assert calendar.slot_of(slot * slot_s) == slot
        part = Segment("small", "FR", slot * slot_s, (slot + 1) * slot_s)
        calendar.reserve(part, ONE)
        assert fits(calendar, "small", first=slot, count=2) == [False, True], slot
        calendar.release(part, ONE)


def test_an_empty_segment_holds_nothing():
    calendar = a_calendar()
    calendar.reserve(segment(2, 2, "small"), ONE)
    assert fits(calendar, "small") == [True] * 4


def test_what_began_before_the_first_slot_holds_what_is_left_of_it():
    calendar = a_calendar(first_slot=10)
    calendar.reserve(segment(2, 12, "small"), ONE)
    calendar.reserve(segment(2, 9, "small"), ONE)  # all of it is over
    assert fits(calendar, "small", first=10) == [False, False, True, True]


# -- amounts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("demand", "expected"),
    [
        (Resources(2.0), True),
        (Resources(2.1), False),
        (Resources(1.0, 1.5), True),
        (Resources(1.0, 2.0), False),
        (Resources(1.0, 0.0, 12.0), True),
        (Resources(1.0, 0.0, 13.0), False),
        (Resources(1.0, 0.5, 0.0, 40.0), True),
        (Resources(1.0, 1.5, 0.0, 61.0), False),
        (Resources(), True),
    ],
)
def test_every_resource_counts(demand, expected):
    calendar = a_calendar()
    calendar.reserve(segment(0, 1), Resources(2.0, 0.5, 4.0, 20.0))
    assert fits(calendar, demand=demand, count=2) == [expected, True]
    assert workers_in(calendar, demand=demand, count=2, most=1) == [int(expected), 1]


@pytest.mark.parametrize(
    ("demand", "jobs"),
    [
        (Resources(0.1, 0.4, 0.0, 25.0), 2),  # a GPU has 40 GB
        (Resources(0.1, 0.6), 2),
        (Resources(0.1, 0.4, 0.0, 20.0), 4),
        (Resources(0.1, 1 / 3), 6),
        (Resources(0.1, 0.25), 8),
    ],
)
def test_no_more_parts_of_gpus_are_promised_than_fit_on_them(demand, jobs):
    calendar = a_calendar()
    for _ in range(jobs):
        assert fits(calendar, demand=demand, count=1) == [True]
        calendar.reserve(segment(0, 1), demand)
    assert fits(calendar, demand=demand, count=2) == [False, True]
    assert workers_in(calendar, demand=demand, count=2, most=1) == [0, 1]


def test_what_is_kept_for_others_is_not_free():
    calendar = a_calendar()
    calendar.set_foreign("big", Resources(0.0, 0.75))  # of three that have a quarter each
    assert fits(calendar, demand=Resources(0.1, 0.25), count=1) == [True]
    calendar.reserve(segment(0, 1), Resources(0.1, 1.0))
    assert fits(calendar, demand=Resources(0.1, 0.25), count=1) == [True]
    assert fits(calendar, demand=Resources(0.1, 0.3), count=1) == [False]


def test_ten_tenths_of_a_cpu_are_one():
    calendar = a_calendar()
    for taken in range(10):
        assert fits(calendar, "small", Resources(0.1), count=1) == [True], taken
        assert workers_in(calendar, "small", Resources(0.1), count=1, most=20) == [10 - taken]
        calendar.reserve(segment(0, 1, "small"), Resources(0.1))
    assert fits(calendar, "small", Resources(0.1), count=1) == [False]
    assert workers_in(calendar, "small", Resources(0.1), count=1) == [0]


def test_rounding_takes_nothing_away():
    calendar = a_calendar()
    for cpus in (0.1, 0.2, 0.4):  # 0.7000000000000001 together
        calendar.reserve(segment(0, 1, "small"), Resources(cpus))
    assert fits(calendar, "small", Resources(0.3), count=1) == [True]
    assert workers_in(calendar, "small", Resources(0.3), count=1) == [1]
    found = calendar.find(place(calendar, "small").pool, 0.0, SLOT_S, Resources(0.3))
    assert found == SMALL


def test_each_worker_holds_the_demand():
    calendar = a_calendar()
    calendar.reserve(segment(0, 2, workers=3), ONE)
    calendar.reserve(segment(1, 3), ONE)
    assert workers_in(calendar) == [1, 0, 3, 4]
    assert workers_in(calendar, most=2) == [1, 0, 2, 2]
    assert workers_in(calendar, demand=Resources(0.5, 0.0, 4.0)) == [2, 0, 4, 4]  # the scarcest counts
    calendar.release(segment(0, 2, workers=3), ONE)
    assert workers_in(calendar) == [4, 3, 3, 4]


def test_who_asks_for_nothing_is_limited_by_the_most_alone():
    calendar = a_calendar()
    calendar.reserve(segment(0, 9), BIG.capacity)
    assert workers_in(calendar, demand=Resources(), most=7) == [7] * 4


def test_a_node_that_is_overrun_has_room_for_nobody():
    calendar = a_calendar()
    calendar.reserve(segment(0, 1), BIG.capacity)
    calendar.reserve(segment(0, 1), ONE)  # a job that nobody can pause
    assert fits(calendar, count=2) == [False, True]
    assert workers_in(calendar, count=2) == [0, 4]


def test_what_others_hold_counts_in_every_slot_until_they_say_otherwise():
    calendar = a_calendar()
    calendar.reserve(segment(1, 2), Resources(2.0))
    calendar.set_foreign("big", Resources(2.0))
    calendar.set_foreign("small", Resources(9.0))
    assert fits(calendar, demand=Resources(2.0)) == [True, False, True, True]
    assert fits(calendar, "small", Resources(0.1)) == [False] * 4
    assert calendar.cpus_held(place(calendar, "small"), 0, 2).tolist() == [1, 1]  # no more than it has
    calendar.set_foreign("big", Resources(4.0))
    assert fits(calendar) == [False] * 4
    assert workers_in(calendar) == [0] * 4
    calendar.set_foreign("big", Resources())  # not beside what they held before
    assert workers_in(calendar) == [4, 2, 4, 4]


def test_rows_are_in_the_order_of_the_places():
    calendar = a_calendar()
    calendar.reserve(segment(0, 1), BIG.capacity)
    calendar.reserve(segment(1, 2, "small"), ONE)
    both = [place(calendar, "small"), place(calendar, "big")]
    assert calendar.fits(both, ONE, 0, 2).tolist() == [[True, False], [False, True]]
    assert calendar.most_workers(both, ONE, 0, 2, 9).tolist() == [[1, 0], [0, 4]]


def test_nodes_that_are_not_there_are_ignored():
    calendar = a_calendar()
    calendar.reserve(segment(0, 100_000, "gone"), BIG.capacity)
    calendar.set_foreign("gone", ONE)
    calendar.release(segment(5, 6, "never-there"), ONE)
    assert workers_in(calendar) == [4] * 4
    assert fits(calendar, "small") == [True] * 4
    nobody = Calendar(SLOT_S)
    nobody.reserve(segment(0, 9), ONE)
    nobody.forget_before(5000 * SLOT_S)
    assert nobody.fits([], ONE, 5000, 3).shape == (0, 3)


# -- what is held ------------------------------------------------------------------------------------------------------


def test_held_says_what_a_node_has_promised_of_each_resource():
    calendar = a_calendar()
    calendar.reserve(segment(1, 2, workers=2), Resources(1.0, 0.5, 3.0, 20.0))
    assert calendar.held("big", 0, 2).tolist() == [[0, 0, 0, 0], [2, 1, 6, 40]]
    assert calendar.cpus_held(place(calendar), 0, 3).tolist() == [0, 2, 0]
    assert not calendar.held("small", 0, 9).any()


def test_the_load_of_a_node_includes_what_others_run_there():
    calendar = a_calendar()
    calendar.reserve(segment(1, 2), ONE)
    calendar.set_foreign("big", Resources(2.0, 1.0))
    assert calendar.cpus_held(place(calendar), 0, 3).tolist() == [2, 3, 2]
    assert calendar.held("big", 1, 1).tolist() == [[1, 0, 0, 0]]  # of this, nothing is promised


def test_what_is_free_on_the_mean_between_two_times():
    calendar = a_calendar()
    calendar.reserve(segment(0, 1), Resources(2.0, 1.0, 8.0, 40.0))
    calendar.set_foreign("big", Resources(1.0))
    edges_s = np.array([0.0, 2.0, 3.5, 4.0]) * SLOT_S
    free = calendar.free_mean(place(calendar).pool, edges_s)
    assert free.tolist() == [[2, 1.5, 12, 60], [3, 2, 16, 80], [3, 2, 16, 80]]
    within = calendar.free_mean(place(calendar).pool, np.array([0.5, 1.5]) * SLOT_S)
    assert within == pytest.approx(np.array([[2, 1.5, 12, 60]]))
    calendar.reserve(segment(0, 1), BIG.capacity)
    assert calendar.free_mean(place(calendar).pool, edges_s)[0].tolist() == [1.5, 1, 8, 40]  # never below 0


# -- memory ------------------------------------------------------------------------------------------------------------


def test_it_grows_far_beyond_its_first_size():
    calendar = a_calendar()
    calendar.reserve(segment(3, 4, "small"), ONE)
    calendar.reserve(segment(100_000, 100_001, "small"), ONE)
    assert fits(calendar, "small", first=99_999, count=3) == [True, False, True]
    assert fits(calendar, "small", first=2, count=3) == [True, False, True]
    assert fits(calendar, "small", first=250_000, count=1) == [True]


def test_forgetting_drops_the_past_only():
    calendar = a_calendar()
    long, later = segment(500, 1200, "small"), segment(1300, 1301, "small")
    calendar.reserve(long, ONE)
    calendar.reserve(later, ONE)
    calendar.forget_before(1000 * SLOT_S)
    assert fits(calendar, "small", first=1199, count=2) == [False, True]
    calendar.release(long, ONE)  # its beginning is forgotten, its end is given back
    assert fits(calendar, "small", first=1000, count=302) == [True] * 300 + [False, True]
    with pytest.raises(ValueError, match="slot 999 is before the calendar's first slot 1000"):
        fits(calendar, "small", first=999)


def test_a_long_life_takes_no_more_memory():
    calendar = a_calendar()
    for day in range(100):
        calendar.reserve(segment(96 * day, 96 * day + 200), ONE)
        calendar.forget_before(96 * day * SLOT_S)
    assert max(held.shape[1] for held in (*calendar._held, *calendar._total)) < 2000


# -- against a table of its own ----------------------------------------------------------------------------------------

amount = st.builds(
    Resources,
    st.sampled_from([0.0, 0.1, 1 / 3, 1.0, 2.5]),
    st.sampled_from([0.0, 0.25]),
    st.sampled_from([0.0, 0.7]),
    st.sampled_from([0.0, 11.1]),
)
stretch = st.tuples(st.floats(0, 1200 * SLOT_S), st.floats(0, 900 * SLOT_S), st.integers(1, 3)).map(
    lambda t: Segment("big", "DE", t[0], t[0] + t[1], t[2])
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(stretch, amount), max_size=12), st.randoms(use_true_random=False), st.data())
def test_release_undoes_reserve_in_any_order_with_forgetting_in_between(promises, order, data):
    calendar, now = a_calendar(), 0
    for part, demand in promises:
        calendar.reserve(part, demand)
    order.shuffle(promises)
    for part, demand in promises:
        now += data.draw(st.sampled_from([0, 0, 100, 700]))
        calendar.forget_before(now * SLOT_S)
        calendar.release(part, demand)
    assert np.abs(calendar.held("big", now, 2500)).max() < 1e-12
    assert calendar.fits([place(calendar)], BIG.capacity, now, 2500).all()


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(stretch, amount), max_size=6), st.integers(0, 2000), amount)
def test_a_slot_holds_the_sum_of_what_touches_it(promises, slot, demand):
    calendar = a_calendar()
    for part, held in promises:
        calendar.reserve(part, held)
    start_s, end_s = slot * SLOT_S, (slot + 1) * SLOT_S
    inside = [(part, held) for part, held in promises if part.start_s < end_s - 1e-6 and part.end_s > start_s + 1e-6]
    edges = [abs(t - edge) for part, _ in promises for t in (part.start_s, part.end_s) for edge in (start_s, end_s)]
    assume(min(edges, default=1.0) > 1e-5)  # closer than that, rounding decides which slot it touches
    kept = ((held * part.workers).reserved_on(BIG.capacity) for part, held in inside)
    free = BIG.capacity - sum(kept, Resources())
    assert calendar.held("big", slot, 1)[0] == pytest.approx((BIG.capacity - free).amounts)
    each = zip(demand.reserved_on(BIG.capacity).amounts, free.amounts, strict=True)
    assert fits(calendar, demand=demand, first=slot, count=1) == [all(not a or a <= b + 1e-9 for a, b in each)]
