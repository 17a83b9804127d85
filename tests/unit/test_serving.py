"""Requests between zones: the fewest grams, never above capacity, in time where it can be, steady where it flaps."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from eco_ray.core.separable import GAP
from eco_ray.core.serving import (
    Traffic,
    TrafficConfig,
    next_traffic,
    plan_traffic,
    split_traffic,
)
from eco_ray.core.zone_power import Curve, straight
from eco_ray.errors import InfeasibleError, UsageError

INF = math.inf
RTT = [[3.0, 12.0, 90.0], [12.0, 3.0, 80.0], [90.0, 80.0, 3.0]]


@pytest.mark.parametrize(
    ("requests", "intensity", "capacity", "max_ms", "share"),
    [
        # all to the clean zone that is near enough
        ([10, 10, 10], [500, 100, 50], [99, 99, 99], 50, [[0, 1, 0], [0, 1, 0], [0, 0, 1]]),
        ([10, 10, 10], [500, 100, 50], [99, 99, 99], 100, [[0, 0, 1], [0, 0, 1], [0, 0, 1]]),
        # what does not fit goes to the next cleanest; of those with the same grams the nearest go
        ([10, 10, 10], [500, 100, 50], [99, 99, 15], 100, [[0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]]),
        # nowhere cleaner: each at home
        ([10, 10, 10], [100, 100, 100], [99, 99, 99], 100, [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        # nothing is in time: the soonest
        ([10, 10, 10], [500, 100, 50], [99, 99, 99], 1, [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        # a zone that is away
        ([10, 10, 10], [500, 100, 50], [99, 0, 99], 50, [[1, 0, 0], [1, 0, 0], [0, 0, 1]]),
        # no room in time at home and next door: late, but answered
        ([10, 10, 10], [500, 100, 50], [5, 14, 99], 50, [[0.5, 0.5, 0], [0, 0.9, 0.1], [0, 0, 1]]),
        # from where nothing comes, something could come after all
        ([0, 10, 0], [500, 100, 50], [99, 99, 0], 50, [[1, 0, 0], [0, 1, 0], [0, 1, 0]]),
    ],
)
def test_shares(requests, intensity, capacity, max_ms, share):
    assert split_traffic(requests, intensity, RTT, capacity, max_ms) == pytest.approx(np.array(share), abs=1e-9)


def test_a_chain_of_requests_makes_way_for_one_more():
    """The last origin's requests can go to the first zone only, where others are who can go elsewhere."""
    rtt = [[3, 3, 99], [99, 3, 3], [3, 99, 99]]
    share = split_traffic([10, 10, 10], [10, 20, 30], rtt, [10, 10, 10], 50)
    assert share == pytest.approx(np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]))


def test_more_than_fits_is_refused_with_both_numbers():
    with pytest.raises(InfeasibleError, match=r"30 requests do not fit into 29 .* add replicas"):
        split_traffic([10, 10, 10], [1, 1, 1], RTT, [9, 10, 10], 50)


def test_room_that_cannot_be_reached_is_none():
    with pytest.raises(InfeasibleError, match="in reach"):
        split_traffic([10, 10], [1, 1], [[1, INF], [INF, 1]], [5, 50], 50)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"requests": [1, -1, 1]}, "requests"),
        ({"requests": [1, math.nan, 1]}, "requests"),
        ({"intensity": [1, INF, 1]}, "intensity"),
        ({"capacity": [1, 1]}, "R x R"),
        ({"capacity": [[1, 1, 1]]}, "capacity"),
        ({"rtt_ms": [[1, 2, math.nan]] * 3}, "rtt_ms"),
        ({"max_latency_ms": math.nan}, "not a number"),
    ],
)
def test_what_is_no_number_of_anything(changed, why):
    told = {"requests": [1, 1, 1], "intensity": [1, 1, 1], "rtt_ms": RTT, "capacity": [9, 9, 9], "max_latency_ms": 50}
    with pytest.raises(UsageError, match=why):
        split_traffic(**{**told, **changed})


def worlds(most=5):
    def of(zones):
        amounts = st.lists(st.integers(0, 40), min_size=zones, max_size=zones)
        ways = st.lists(
            st.lists(st.sampled_from([2, 20, 60, 200]), min_size=zones, max_size=zones), min_size=zones, max_size=zones
        )
        return st.tuples(amounts, st.lists(st.integers(0, 700), min_size=zones, max_size=zones), ways, amounts)

    return st.integers(1, most).flatmap(of)


def by_lp(requests, intensity, rtt, capacity, max_ms):
    """Grams by SciPy; None: infeasible."""
    count = len(requests)
    bounds = [(0, None if way <= max_ms else 0) for way in np.ravel(rtt)]
    per_zone = np.kron(np.ones((1, count)), np.eye(count))
    per_origin = np.kron(np.eye(count), np.ones((1, count)))
    found = linprog(np.tile(intensity, count), per_zone, capacity, per_origin, requests, bounds)
    return found.fun if found.status == 0 else None


@given(worlds(), st.sampled_from([10, 50, 100]))
@example(([0], [5], [[2]], [0]), 10)
def test_as_good_as_a_solver_and_within_all_limits(world, max_ms):
    requests, intensity, rtt, capacity = world
    if sum(requests) > sum(capacity):
        with pytest.raises(InfeasibleError):
            split_traffic(requests, intensity, rtt, capacity, max_ms)
        return
    share = split_traffic(requests, intensity, rtt, capacity, max_ms)
    sent = share * np.array(requests)[:, None]
    assert share.sum(1) == pytest.approx(1.0)
    assert (share >= 0).all()
    assert (sent.sum(0) <= np.array(capacity) * (1 + 1e-9)).all()
    best = by_lp(requests, intensity, rtt, capacity, max_ms)
    if best is not None:
        assert not sent[np.array(rtt) > max_ms].any()
        assert (sent * intensity).sum() == pytest.approx(best, rel=1e-7, abs=1e-7)


@given(worlds())
def test_the_way_is_the_shortest_with_these_loads(world):
    requests, intensity, rtt, capacity = world
    if sum(requests) > sum(capacity):
        return
    share = split_traffic(requests, intensity, rtt, capacity, 1e9)
    sent = share * np.array(requests)[:, None]
    count = len(requests)
    both = np.vstack([np.kron(np.ones((1, count)), np.eye(count)), np.kron(np.eye(count), np.ones((1, count)))])
    found = linprog(np.ravel(rtt), A_eq=both, b_eq=np.concatenate([sent.sum(0), sent.sum(1)]))
    assert (sent * rtt).sum() == pytest.approx(found.fun, rel=1e-6, abs=1e-6)


@given(worlds(), st.integers(0, 20), st.integers(0, 60))
def test_more_room_or_more_time_never_emits_more(world, room, time_ms):
    requests, intensity, rtt, capacity = world
    if by_lp(requests, intensity, rtt, capacity, 50) is None:
        return

    def grams(capacity, max_ms):
        sent = split_traffic(requests, intensity, rtt, capacity, max_ms) * np.array(requests)[:, None]
        return (sent * intensity).sum()

    tight = grams(capacity, 50)
    assert grams(capacity, 50 + time_ms) <= tight + 1e-6
    assert grams([limit + room for limit in capacity], 50) <= tight + 1e-6


def nodes(intensity, count, each=10, idle_w=60.0, busy_w=100.0):
    """Nodes that sleep while nothing is there, of `each` requests/s."""
    x, y = [0.0], [0.0]
    for node in range(count):
        begin_g = node * busy_w * intensity / 1000
        x += [node * each, (node + 1) * each]
        y += [begin_g + idle_w * intensity / 1000, begin_g + busy_w * intensity / 1000]
    return Curve(tuple(map(float, x)), tuple(y))


def traffic(requests, curves, rtt=RTT, max_ms=50.0, now_s=0.0):
    return Traffic(now_s, tuple(map(float, requests)), tuple(curves), tuple(map(tuple, rtt)), max_ms)


def test_one_node_that_is_woken_costs_less_than_two():
    """7 requests here and 3 there fill one node; by the grams of each request both would stay at home."""
    plan = plan_traffic(traffic([7, 3], [nodes(100, 9), nodes(101, 9)], [[1, 9], [9, 1]]))
    assert plan.shares == ((1.0, 0.0), (1.0, 0.0))
    assert plan.grams_per_h == pytest.approx(10.0)
    apart = plan_traffic(traffic([7, 3], [nodes(100, 9), nodes(101, 9)], [[1, 9], [9, 1]], max_ms=5))
    assert apart.grams_per_h == pytest.approx(8.8 + 72 * 0.101)


def test_a_node_that_would_wake_for_little_stays_asleep():
    """By its grams for each request when it is full it would be chosen: 1 g against 1.2 g."""
    plan = plan_traffic(traffic([5], [nodes(100, 1), straight(99, 1.2)], [[1, 1]]))
    assert plan.shares == ((0.0, 1.0),)
    assert plan.grams_per_h == pytest.approx(6.0)
    assert plan.bound_g_per_h == pytest.approx(6.0)


@given(worlds(4), st.data())
def test_power_with_jumps_is_near_the_optimum_of_a_milp(world, data):
    requests, intensity, rtt, _ = world
    zones = len(requests)
    counts = data.draw(st.lists(st.integers(0, 5), min_size=zones, max_size=zones))
    curves = [nodes(one, count) for one, count in zip(intensity, counts, strict=True)]
    try:
        plan = plan_traffic(traffic(requests, curves, rtt))
    except InfeasibleError:
        return
    if plan.late_per_s:
        return
    # sent requests, then nodes that are on: 60 W each, and 4 W for each request
    each = np.array(intensity) / 1000
    per_zone = np.hstack([np.kron(np.ones((1, zones)), np.eye(zones)), -10 * np.eye(zones)])
    per_origin = np.hstack([np.kron(np.eye(zones), np.ones((1, zones))), np.zeros((zones, zones))])
    most = np.concatenate([np.where(np.ravel(rtt) <= 50, INF, 0), counts])
    found = milp(
        np.concatenate([np.tile(4 * each, zones), 60 * each]),
        integrality=np.repeat([0, 1], [zones * zones, zones]),
        bounds=Bounds(0, most),
        constraints=[LinearConstraint(per_zone, -INF, 0), LinearConstraint(per_origin, requests, requests)],
    )
    assert plan.grams_per_h <= found.fun * (1 + 2 * GAP) + 1e-6
    assert plan.bound_g_per_h <= found.fun * (1 + 1e-4) + 1e-6


@given(st.lists(st.sampled_from([50, 400]), min_size=2, max_size=60), st.integers(10, 400))
def test_flapping_intensity_changes_shares_once_in_the_hold_at_most(flaps, every_s):
    config, state, changes = TrafficConfig(hold_s=300.0), None, 0
    for step, intensity in enumerate(flaps):
        now = traffic(
            [10, 10, 10], [straight(99, intensity), straight(99, 200), straight(99, 300)], now_s=step * every_s
        )
        plan, after, _ = next_traffic(now, state, config)
        changes += state is not None and after.shares != state.shares
        assert plan.shares == after.shares
        state = after
    assert changes <= 1 + len(flaps) * every_s / 300


def test_shares_stay_for_little_and_go_for_much():
    config = TrafficConfig(hold_s=300.0, min_saving=0.02)
    calm = traffic([10, 10, 10], [straight(99, 100), straight(99, 200), straight(99, 300)])
    _, state, why = next_traffic(calm, None, config)
    assert "first" in why
    little = replace(calm, now_s=900.0, curves=(straight(99, 201), straight(99, 200), straight(99, 300)))
    plan, same, why = next_traffic(little, state, config)
    assert same is state
    assert "kept: other shares save" in why
    assert plan.grams_per_h == pytest.approx(20 * 201 + 10 * 300)
    much = replace(little, curves=(straight(99, 400), straight(99, 200), straight(99, 300)))
    plan, after, why = next_traffic(much, state, config)
    assert after.since_s == 900.0
    assert "saves" in why
    assert plan.load_per_s == (0, 20, 10)
    _, same, why = next_traffic(replace(much, now_s=1000.0, curves=calm.curves), after, config)
    assert same is after
    assert "kept for another 200 s" in why


def test_shares_go_at_once_where_a_zone_is_full_or_requests_would_be_late():
    config = TrafficConfig(hold_s=300.0)
    calm = traffic([10, 10, 10], [straight(99, 100), straight(99, 200), straight(99, 300)])
    _, state, _ = next_traffic(calm, None, config)
    full = replace(calm, now_s=1.0, curves=(straight(15, 100), *calm.curves[1:]))
    plan, _, why = next_traffic(full, state, config)
    assert plan.load_per_s == (15, 5, 10)
    assert "zone 0 would get 20 requests/s and can answer 15" in why
    plan, _, why = next_traffic(replace(calm, now_s=1.0, max_rtt_ms=5.0), state, config)
    assert plan.late_per_s == 0
    assert "10 requests/s would be beyond 5 ms" in why


def test_shares_of_other_zones_are_forgotten():
    calm = traffic([10, 10, 10], [straight(99, 100)] * 3)
    _, state, _ = next_traffic(calm, None, TrafficConfig())
    two = traffic([10, 10], [straight(99, 100)] * 2, [[1, 9], [9, 1]])
    plan, _, why = next_traffic(two, state, TrafficConfig())
    assert "first" in why
    assert len(plan.shares) == 2
    _, state, why = next_traffic(replace(calm, names=("DE", "FR", "SE")), state, TrafficConfig())
    assert "first" in why
    _, same, _ = next_traffic(replace(calm, names=("DE", "FR", "SE")), state, TrafficConfig())
    assert same is state
    full = replace(calm, names=("DE", "FR", "SE"), curves=(straight(99, 100), straight(5, 100), straight(99, 100)))
    assert "FR would get 10" in next_traffic(full, state, TrafficConfig())[2]
