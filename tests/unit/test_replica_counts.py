"""How many replicas: up at once, down after a hold, to none where that pays, never against the latency objective."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from queue_cases import played

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.power import PowerCurve
from eco_ray.core.replica_counts import ColdStart, ReplicaLoad, Scaling, cold_start, next_replicas
from eco_ray.core.replica_places import Room

#: one request takes 50 ms, so that a replica may hold two of them within half of 200 ms
SCALING = Scaling(min_replicas=1, max_replicas=10, slo_p95_s=0.2, down_hold_s=60.0, up_gap_s=5.0)
LOAD = ReplicaLoad(now_s=0.0, ongoing=0.0, requests=0, replicas=1, running=1, service_s=0.05)
COLD = ColdStart(start_s=3.0, start_j=3000.0, idle_w=10.0, intensity_g_per_kwh=300.0, pue=1.2)
EAGER = replace(SCALING, min_replicas=0, slo_p95_s=None, cold=COLD)


def run(loads, scaling=SCALING, **told):
    """The decisions on a list of (time, ongoing); replicas start at once, and every step has one more request."""
    state, replicas, seen = None, told.pop("replicas", 1), []
    for step, (now_s, ongoing) in enumerate(loads):
        requests = told.get("requests", step)
        load = replace(
            LOAD,
            **{
                **told,
                "now_s": now_s,
                "ongoing": ongoing,
                "replicas": replicas,
                "running": replicas,
                "requests": requests,
            },
        )
        decided, state = next_replicas(load, state, scaling)
        replicas = decided.replicas
        seen.append(decided)
    return seen


@pytest.mark.parametrize(
    ("ongoing", "replicas", "told", "why"),
    [
        (0.0, 1, {}, "1 replica"),
        (2.0, 1, {}, "2 requests at a time, 2 of them for each replica"),
        (2.5, 2, {}, "2.5 requests at a time"),
        (7.0, 4, {}, "7 requests"),
        # so many at once at most
        (90.0, 4, {}, "at most 4 at once"),
        (90.0, 10, {"replicas": 6, "running": 6}, "10 at most"),
        # without an objective, and without a measured time: two for each
        (4.0, 2, {"service_s": 0.0}, "2 of them"),
        # slower than promised, although by the count it is enough
        (2.0, 2, {"p95_s": 0.3}, "p95 of 300 ms is above 200 ms"),
    ],
)
def test_first_decisions(ongoing, replicas, told, why):
    decided, _ = next_replicas(replace(LOAD, **told, ongoing=ongoing), None, SCALING)
    assert decided.replicas == replicas
    assert why in decided.why


def test_up_within_seconds_but_not_for_one_glance():
    seen = run([(0, 0), (1, 4), (2, 4), (3, 4), (4, 4)])
    assert [one.replicas for one in seen] == [1, 1, 2, 2, 2]


def test_up_again_only_after_a_gap():
    seen = run([(0, 0), (10, 90), (12, 90), (14, 90), (15.1, 90)])
    assert [one.replicas for one in seen] == [1, 4, 4, 4, 8]
    assert "for 3 s" in seen[2].why


def test_a_clock_that_is_set_back_holds_nothing_up():
    steps = [(5000.0, 40.0), (1000.0, 40.0), (1005.0, 40.0)]
    assert [one.replicas for one in run(steps)] == [4, 4, 8]
    quiet = [(5000.0, 9.0), (1000.0, 0.0), *((1000.0 + s, 0.0) for s in range(10, 200, 10))]
    assert run(quiet)[-1].replicas == 1


def test_down_after_the_hold_and_by_half_at_most():
    seen = run([(0, 0), *((at, 0) for at in range(30, 300, 30))], replicas=8)
    assert [one.replicas for one in seen] == [8, 8, 4, 4, 2, 2, 1, 1, 1, 1]
    assert "for 30 s yet" in seen[1].why


def test_a_higher_load_ends_the_hold():
    seen = run([(0, 0), (50, 0), (59, 14), (80, 0), (110, 0), (131, 0), (191, 0)], replicas=8)
    assert [one.replicas for one in seen][:6] == [8, 8, 8, 8, 8, 8]
    assert seen[-1].replicas == 4


def test_a_peak_that_may_not_be_answered_yet_ends_the_hold_too():
    loads = [(0, 8), (1, 0), (2, 90), (3, 0), (62, 0), (64, 0)]
    assert [one.replicas for one in run(loads, replace(SCALING, fall_s=0.1))] == [4, 4, 4, 4, 4, 2]


def test_none_is_removed_where_the_others_would_be_too_slow():
    seen = run([(0, 2.5), (61, 2.5), (122, 2.5)], replicas=3, p95_s=0.18)
    assert [one.replicas for one in seen] == [3, 3, 3]
    assert "would be about 245 ms" in seen[-1].why
    assert run([(0, 2.5), (61, 2.5)], replicas=3, p95_s=0.12)[-1].replicas == 2
    # four would be too slow, six are not
    assert run([(0, 2.5), (61, 2.5)], replicas=8, p95_s=0.15)[-1].replicas == 6


def test_none_is_removed_where_the_others_would_be_busy_all_the_time():
    """60 requests a second of 50 ms keep three replicas busy, and four with something to spare."""

    def ends_with(work_s):
        state, count = None, 6
        for now_s in range(200):
            load = replace(LOAD, now_s=float(now_s), ongoing=4.0, requests=60 * now_s, replicas=count, running=count)
            decided, state = next_replicas(replace(load, work_s=work_s), state, SCALING)
            count = decided.replicas
        return count

    assert ends_with(0.05) == 4
    assert ends_with(None) == 3
    assert ends_with(0.01) == 3  # five at a time


def test_a_queue_asks_for_no_more_than_it_takes_to_work_it_off():
    """20 requests a second of 50 ms are 1.2 replicas with something to spare; 100 that wait, 2.5 for two seconds."""
    _, state = next_replicas(replace(LOAD, work_s=0.05, ongoing=100.0), None, SCALING)
    load = replace(LOAD, now_s=60.0, requests=1200, ongoing=100.0, replicas=3, running=3, work_s=0.05)
    decided, _ = next_replicas(load, state, SCALING)
    assert decided.replicas == 4
    assert "20 requests/s of 50 ms, 100 at a time" in decided.why
    assert next_replicas(replace(load, work_s=None), state, SCALING)[0].replicas == 6


def test_those_that_were_asked_for_stay():
    seen = run([(0, 1), (100, 1)], replace(SCALING, min_replicas=2), replicas=2)
    assert [one.replicas for one in seen] == [2, 2]
    assert "at least" not in seen[-1].why
    assert run([(0, 1)], replace(SCALING, min_replicas=3), replicas=2)[0].replicas == 3
    assert "10 at most" in run([(0, 99)], SCALING, replicas=9)[0].why


def test_slow_answers_add_one_at_a_time_and_see_what_it_does():
    seen = run([(0, 2), (5, 2), (10, 2), (31, 2)], p95_s=0.3)
    assert [one.replicas for one in seen] == [2, 2, 2, 3]


def test_where_requests_do_not_wait_another_replica_does_not_help():
    """A request alone takes longer than was promised."""
    seen = run([(at, 0.4) for at in range(0, 300, 31)], p95_s=0.3)
    assert [one.replicas for one in seen] == [2] * len(seen)
    assert run([(0, 0.4), (61, 0.4), (122, 0.4)], p95_s=0.3, replicas=4)[-1].replicas == 2


def test_to_none_where_a_cold_start_costs_less_than_waiting():
    """3000 J against 10 W: 300 s."""
    seen = run([(0, 1), (10, 0), (250, 0), (309, 0), (311, 0)], EAGER, requests=1)
    assert [one.replicas for one in seen] == [1, 1, 1, 1, 0]
    assert "0.3 g" in seen[-1].why
    assert "3.6 g/h" in seen[-1].why
    assert "300 s" in seen[-1].why


def test_what_starts_is_not_idle_yet():
    """Else one that took long to start would go before its first request comes."""
    state, replicas, gone_s = None, 1, None
    for now_s in range(0, 1000, 10):
        load = replace(LOAD, now_s=float(now_s), replicas=replicas, running=int(now_s >= 250))
        decided, state = next_replicas(load, state, EAGER)
        if not decided.replicas:
            gone_s = now_s
            break
    assert gone_s == 250 + 300


def test_one_that_never_starts_goes_too():
    decided = run([(0.0, 0.0), (299.0, 0.0), (300.0, 0.0)], EAGER, requests=0)
    assert [one.replicas for one in decided] == [1, 1, 0]
    state = None
    for now_s in (0.0, 299.0, 300.0):
        decided, state = next_replicas(replace(LOAD, now_s=now_s, running=0), state, EAGER)
    assert not decided.replicas


def test_where_waiting_costs_nothing_a_replica_stays():
    for cold in (None, replace(COLD, idle_w=0.0)):
        assert run([(0, 1), (10, 0), (1e6, 0)], replace(EAGER, cold=cold), requests=1)[-1].replicas == 1


def test_never_none_while_somebody_waits_and_one_at_once():
    decided, _ = next_replicas(replace(LOAD, replicas=0, running=0, ongoing=1.0), None, EAGER)
    assert decided.replicas == 1
    assert "3 s" in decided.why
    quiet, _ = next_replicas(replace(LOAD, replicas=0, running=0), None, EAGER)
    assert quiet.replicas == 0
    burst, _ = next_replicas(replace(LOAD, replicas=0, running=0, ongoing=90.0), None, EAGER)
    assert burst.replicas == 4


def test_a_request_between_two_looks_is_seen_by_its_number():
    state = None
    for now_s, requests in ((0.0, 1), (290.0, 2), (400.0, 2)):
        decided, state = next_replicas(replace(LOAD, now_s=now_s, requests=requests), state, EAGER)
        assert decided.replicas == 1
    decided, _ = next_replicas(replace(LOAD, now_s=591.0, requests=2), state, EAGER)
    assert decided.replicas == 0


def test_with_a_promise_one_in_twenty_may_wait_for_a_cold_start():
    scaling, state = replace(EAGER, slo_p95_s=0.2), None
    # two wait for the start, 37 come after it: one too few
    for now_s, running, ongoing, requests in (
        (0, 0, 0, 0),
        (1, 0, 2, 2),
        (4, 1, 0, 2),
        (5, 1, 0, 39),
        (1000, 1, 0, 39),
    ):
        load = replace(
            LOAD, now_s=float(now_s), replicas=min(1, now_s), running=running, ongoing=float(ongoing), requests=requests
        )
        decided, state = next_replicas(load, state, scaling)
    assert decided.replicas == 1
    assert "2 of the 39 requests" in decided.why
    _, state = next_replicas(replace(load, now_s=1001.0, requests=40), state, scaling)
    decided, _ = next_replicas(replace(load, now_s=2000.0, requests=40), state, scaling)
    assert decided.replicas == 0
    # a start that is within the promise hurts nobody
    quick, state = replace(scaling, cold=replace(COLD, start_s=0.1)), None
    for now_s in (0.0, 1000.0):
        decided, state = next_replicas(replace(LOAD, now_s=now_s), state, quick)
    assert decided.replicas == 0


def room(held=Resources(), sleeps=True):  # noqa: B008
    node = Node("a", "DE", Resources(4.0), PowerCurve((0, 1), (50, 100), "test"), 1.2, sleeps=sleeps, wake_j=1000.0)
    return Room(node, held, 300.0)


def test_what_a_cold_start_costs():
    alone = cold_start(room(), Resources(1.0), 4.0, idle_w=2.0)
    assert alone == ColdStart(4.0, 1000.0 + 4 * 62.5, 52.0, 300.0, 1.2)
    assert alone.pays_after_s == pytest.approx(1250 / 52)
    assert alone.start_g == pytest.approx(1250 / 3.6e6 * 300 * 1.2)
    beside = cold_start(room(Resources(1.0)), Resources(1.0), 4.0)
    assert beside == ColdStart(4.0, 4 * 12.5, 0.0, 300.0, 1.2)
    assert beside.pays_after_s == math.inf
    assert cold_start(room(sleeps=False), Resources(1.0), 4.0, start_j=70.0).start_j == 70.0
    assert replace(beside, intensity_g_per_kwh=None).start_g is None


@given(
    st.lists(st.tuples(st.floats(0.5, 40), st.floats(0, 60)), min_size=1, max_size=80),
    st.integers(0, 2),
    st.integers(2, 12),
)
def test_bounds_hold_and_changes_are_few(steps, least, most):
    scaling = replace(EAGER, min_replicas=least, max_replicas=most, slo_p95_s=0.2)
    state, replicas, now_s, downs, ups, requests = None, least, 0.0, 0, [], 0
    for step_s, ongoing in steps:
        now_s += step_s
        requests += round(ongoing)
        load = replace(LOAD, now_s=now_s, ongoing=ongoing, replicas=replicas, running=replicas, requests=requests)
        decided, state = next_replicas(load, state, scaling)
        assert least <= decided.replicas <= most
        assert decided.replicas > 0 or ongoing == 0
        assert decided.replicas <= max(4, 2 * replicas)
        assert decided.why
        downs += decided.replicas < replicas
        if decided.replicas > replicas:
            ups.append(now_s)
        replicas = decided.replicas
    assert downs <= now_s / scaling.down_hold_s
    assert all(later - earlier >= scaling.up_gap_s for earlier, later in pairwise(ups))


figures = st.sampled_from([0.0, 1.0, 10.0, 1e5, -5.0, math.nan, math.inf])
colds = st.none() | st.builds(ColdStart, st.just(4.0), figures, figures, figures | st.none())


@given(st.lists(st.tuples(st.floats(0.5, 40), st.sampled_from([0.0, 0.0, 1.0, 9.0]), colds), min_size=1, max_size=80))
def test_whatever_is_said_of_power_and_intensity_few_are_removed_and_none_while_somebody_waits(steps):
    """Also where it flaps between known and unknown, as it does where the deployer or the grid's source is away."""
    state, replicas, now_s, fewer, none, requests = None, 1, 0.0, 0, 0, 0
    for step_s, ongoing, cold in steps:
        now_s += step_s
        requests += round(ongoing)
        load = replace(LOAD, now_s=now_s, ongoing=ongoing, replicas=replicas, running=replicas, requests=requests)
        scaling = replace(EAGER, min_replicas=0, max_replicas=6, cold=cold)
        decided, state = next_replicas(load, state, scaling)
        assert decided.replicas > 0 or ongoing == 0
        if cold is None or not (cold.start_j >= 0 and cold.idle_w > 0):
            assert decided.replicas > 0 or replicas == 0  # what nobody knows, or cannot be, drops no last replica
        fewer += 0 < decided.replicas < replicas
        none += decided.replicas == 0 < replicas
        replicas = decided.replicas
    assert (
        max(fewer, none) <= now_s / EAGER.down_hold_s
    )  # the last goes after a time without requests, whatever went before


@given(st.lists(st.tuples(st.floats(0.5, 40), st.floats(0, 60)), min_size=1, max_size=40), st.data())
def test_the_intensity_has_no_say_in_how_many_there_are(steps, data):
    states, replicas, now_s, requests = [None, None], 1, 0.0, 0
    for step_s, ongoing in steps:
        now_s += step_s
        requests += round(ongoing)
        load = replace(LOAD, now_s=now_s, ongoing=ongoing, replicas=replicas, running=replicas, requests=requests)
        counts = []
        for one, intensity in enumerate((50.0, data.draw(figures | st.none()))):
            scaling = replace(EAGER, min_replicas=0, max_replicas=6, cold=ColdStart(4.0, 60.0, 5.0, intensity))
            decided, states[one] = next_replicas(load, states[one], scaling)
            counts.append(decided.replicas)
        assert counts[0] == counts[1]
        replicas = counts[0]


@given(st.floats(0, 80), st.floats(0, 80), st.integers(1, 10), st.floats(0.05, 1), st.floats(0.05, 1))
def test_more_requests_or_a_tighter_promise_never_mean_fewer(one, other, replicas, slo_s, another_s):
    def decide(ongoing, slo_p95_s):
        load = replace(LOAD, ongoing=ongoing, replicas=replicas, running=replicas)
        return next_replicas(load, None, replace(SCALING, slo_p95_s=slo_p95_s))[0].replicas

    assert decide(min(one, other), slo_s) <= decide(max(one, other), slo_s)
    assert decide(one, max(slo_s, another_s)) <= decide(one, min(slo_s, another_s))


@given(st.floats(10, 100), st.integers(1, 40))
def test_flapping_load_is_answered_by_its_peaks(every_s, flaps):
    """Between peaks that are closer than the hold nothing is removed."""
    loads = [(step * every_s, 14.0 * (step % 2)) for step in range(2 * flaps)]
    seen = [one.replicas for one in run(loads, replicas=7)]
    changes = sum(later != earlier for earlier, later in zip([7, *seen], seen, strict=False))
    assert changes <= 1 + 2 * loads[-1][0] / SCALING.down_hold_s
    if every_s <= 30:
        assert changes == 0


def test_a_queue_keeps_its_promise_with_fewer_than_its_peak_takes():
    """Ten minutes of few requests and ten of many, in turn; a replica answers 20 a second."""
    rng, arrivals, now_s = random.Random(1), [], 0.0
    while now_s < 2400:
        now_s += rng.expovariate(60.0 if now_s % 1200 > 600 else 4.0)
        arrivals.append(now_s)
    scaling, state = Scaling(1, 20, slo_p95_s=0.3), None

    def decide(now_s, ongoing, requests, replicas, running, p95_s):
        nonlocal state
        load = ReplicaLoad(now_s, ongoing, requests, replicas, running, 0.05, 0.05, p95_s)
        decided, state = next_replicas(load, state, scaling)
        return decided.replicas

    latencies, replica_s, decided = played(arrivals, decide, 0.05)
    assert len(latencies) == len(arrivals)
    assert sorted(latencies)[int(0.95 * len(latencies))] <= 0.3
    assert replica_s <= 4 * now_s  # four all the time would do, if one knew
    assert max(decided) <= 10
    assert sum(one != other for one, other in pairwise(decided)) <= 30


def test_a_queue_without_replicas_wakes_and_loses_nothing():
    arrivals = [at + part for at in (10.0, 700.0, 1500.0) for part in (0.0, 0.1, 0.5)]
    state = None

    def decide(now_s, ongoing, requests, replicas, running, p95_s):
        nonlocal state
        load = ReplicaLoad(now_s, ongoing, requests, replicas, running, 0.05, 0.05, p95_s)
        decided, state = next_replicas(load, state, EAGER)
        return decided.replicas

    latencies, replica_s, decided = played(arrivals, decide, 0.05)
    assert len(latencies) == 9
    assert max(latencies) <= 3 + 2
    # 300 s each time, which is what a cold start is worth
    assert replica_s <= 3 * 310
    assert sum(one == 0 and other > 0 for one, other in pairwise(decided)) == 2
