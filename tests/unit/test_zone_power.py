"""Grams per hour of a zone by its requests: the power of its nodes, in the order in which they are filled."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.power import PowerCurve
from eco_ray.core.replica_places import Room
from eco_ray.core.zone_power import Curve, straight, zone_curve
from eco_ray.errors import UsageError


def room(name="a", cpus=4.0, gpus=0.0, intensity=100.0, held=Resources(), sleeps=False, pue=1.0, bend=()):  # noqa: B008
    u, w = zip((0.0, 50.0), *bend, (1.0, 100.0), strict=True)
    node = Node(
        name,
        "DE",
        Resources(cpus, gpus, 8.0, gpus * 16),
        PowerCurve(u, w, "test"),
        pue,
        gpu_idle_w=20.0,
        gpu_busy_w=120.0,
        sleeps=sleeps,
    )
    return Room(node, held, intensity)


def test_a_node_that_is_on_adds_what_its_load_adds():
    curve = zone_curve([room(pue=1.5)], Resources(1.0), 9, 5.0)
    assert curve == Curve((0.0, 20.0), (0.0, 7.5))


def test_one_that_sleeps_is_woken_by_the_first_request():
    curve = zone_curve([room(sleeps=True)], Resources(1.0), 9, 5.0)
    assert curve.requests_per_s == (0.0, 0.0, 20.0)
    assert curve.grams_per_h == pytest.approx((0.0, 5.0, 10.0))
    assert [curve.grams(load) for load in (0.0, 1e-12, 10.0, 99.0)] == pytest.approx([0.0, 5.0, 7.5, 10.0])


def test_what_waking_takes_counts_over_an_hour_where_it_is_asleep():
    awake = room(sleeps=True, pue=1.5)
    asleep = replace(awake, node=replace(awake.node, wake_j=36_000.0), asleep=True)
    curve = zone_curve([asleep], Resources(1.0), 9, 5.0)
    assert curve.requests_per_s == (0.0, 0.0, 20.0)
    assert curve.grams_per_h == pytest.approx((0.0, 7.5 + 1.5, 15.0 + 1.5))  # 10 Wh at 100 g/kWh and a PUE of 1.5
    later = zone_curve([room("b", cpus=1.0), asleep], Resources(1.0), 3, 5.0)  # for what the others have no room for
    assert later.requests_per_s == (0.0, 5.0, 5.0, 15.0)


def test_beside_others_it_is_awake_and_the_curve_begins_where_they_are():
    bend = ((0.5, 90.0),)
    curve = zone_curve([room(sleeps=True, held=Resources(1.0), bend=bend)], Resources(1.0), 9, 5.0)
    assert curve.requests_per_s == pytest.approx((0.0, 5.0, 15.0))
    assert curve.grams_per_h == pytest.approx((0.0, 2.0, 3.0))


def test_nodes_are_filled_one_after_the_other_and_gpus_count():
    rooms = [room("dirty", gpus=2, intensity=300.0), room("clean", gpus=1)]
    curve = zone_curve(rooms, Resources(0.0, gpus=1.0), 2, 10.0)
    assert curve.requests_per_s == pytest.approx((0.0, 10.0, 20.0))
    assert curve.grams_per_h == pytest.approx((0.0, 10.0, 40.0))


def test_without_room_there_is_no_capacity():
    assert zone_curve([room(cpus=1.0)], Resources(2.0), 3, 5.0).capacity_per_s == 0.0


def test_unknown_is_no_number_of_grams():
    with pytest.raises(UsageError, match=r"intensity of a \(DE\) is unknown"):
        zone_curve([room(intensity=None)], Resources(1.0), 1, 5.0)
    with pytest.raises(UsageError, match="must be > 0"):
        zone_curve([room()], Resources(1.0), 1, 0.0)


@pytest.mark.parametrize(
    ("x", "y"),
    [((), ()), ((0.0, 1.0), (0.0,)), ((1.0, 2.0), (0.0, 1.0)), ((0.0, 1.0), (1.0, 0.0)), ((0.0, math.inf), (0.0, 1.0))],
)
def test_no_curve(x, y):
    with pytest.raises(UsageError, match="do not fall, from 0"):
        Curve(x, y)


def test_a_straight_one():
    assert straight(10.0, 3.0).grams(5.0) == 15.0
    assert straight(0.0, 3.0).grams(5.0) == 0.0


loads = st.lists(st.floats(0, 200), min_size=2, max_size=2).map(sorted)


@given(
    loads,
    st.booleans(),
    st.integers(0, 30).map(lambda tenths: tenths / 10),
    st.lists(st.tuples(st.sampled_from([0.1, 0.3, 0.7]), st.floats(50, 100)), max_size=3, unique_by=lambda at: at[0]),
)
def test_more_requests_never_emit_less_and_all_of_them_what_the_planner_counts(between, sleeps, held, bend):
    x, y = sorted(at[0] for at in bend), sorted(at[1] for at in bend)
    rooms = [
        room(name, sleeps=sleeps, held=Resources(held), bend=tuple(zip(x, y, strict=True)), intensity=intensity)
        for name, intensity in (("a", 100.0), ("b", 300.0))
    ]
    curve = zone_curve(rooms, Resources(0.5), 99, 5.0)
    less, more = (curve.grams(load) for load in between)
    assert less <= more
    each = int((4 - held) / 0.5 + 1e-9)
    assert curve.capacity_per_s == pytest.approx(2 * each * 5.0)
    added = [one.node.added_power_w(Resources(each * 0.5), one.held) * one.intensity_g_per_kwh / 1000 for one in rooms]
    assert curve.grams_per_h[-1] == pytest.approx(sum(added) if each else 0.0)
