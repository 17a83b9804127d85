"""Many jobs planned in one go: the same promises as of plans made one by one, and about the same grams."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_checks import Promises, can_run_at_once, check_plan
from planning_cases import CONFIG, HOUR_S, SLOT_S, T0, a_job, a_node, a_situation, a_spec, hourly, no_suspension, shape

from eco_ray.core import joint
from eco_ray.core.cluster import Resources
from eco_ray.core.fleet import MAX_SINGLE
from eco_ray.core.jobs import Plan, Reason, Segment, SuspendRule, Workers
from eco_ray.core.joint import Grid
from eco_ray.core.market import Cleared
from eco_ray.core.offer import Offer
from eco_ray.core.planner import plan_job
from eco_ray.core.room import is_late

ZONES = ("DE", "FR")
FEW = [a_node("d2", cpus=4.0, watts=300.0), a_node("d1", cpus=2.0), a_node("f1", "FR", cpus=3.0, watts=200.0)]
MANY = [
    a_node(f"{zone[0].lower()}{size:.0f}-{number}", zone, cpus=size, watts=100 * size)
    for zone in ZONES
    for size in (1.0, 4.0)
    for number in range(MAX_SINGLE // 4 + 1)
]
FLEETS = {"few": FEW, "many": MANY}
WORKERS = [Workers(), Workers(), Workers(2, 2), Workers(1, 4), Workers(1, 3, (1.0, 1.8, 2.2)), Workers(2, 4)]
SUSPEND = [SuspendRule(), SuspendRule(False), SuspendRule(True, 600.0, 5.0), SuspendRule(True, 0.0, 8.0)]
STATES = [{}, {}, {"has_checkpoint": True, "productive_s": 100.0}, {"retry_at_s": T0 + 700.0}]


def some_jobs(chance, count, workers=WORKERS):
    """Jobs of all kinds that need no closer look."""
    found = []
    for number in range(count):
        hours = chance.choice([0.25, 0.5, 1.0, 2.0, chance.uniform(0.05, 4)])
        spec = a_spec(
            hours,
            chance.choice([4.0, 8.0, 12.0, hours + chance.uniform(0.5, 30)]),
            demand=chance.choice([Resources(0.5), Resources(1.0, 0.0, 1.0)]),
            workers=chance.choice(workers),
            suspend=chance.choice(SUSPEND),
            zones=chance.choice([(), (), ("DE",), ("FR",)]),
            not_before_s=chance.choice([0.0, 0.0, T0 + HOUR_S, T0 + 5000.0]),
        )
        found.append(a_job(spec, f"j{number}", **chance.choice(STATES)))
    return found


def some_forecast(chance, hours=40):
    return [hourly(zone, *(chance.choice([50.0, 100.0, 250.0, 400.0]) for _ in range(hours))) for zone in ZONES]


def planned(jobs, situation):
    """Their plans, made in one go."""
    grid = Grid(jobs, situation, CONFIG)
    return [grid.plan(job) for job in jobs]


def one_by_one(jobs, situation):
    """Their plans, each made by itself."""
    plans = []
    for job in jobs:
        plans.append(plan_job(job, situation, CONFIG))
        for segment in plans[-1].segments if isinstance(plans[-1], Plan) else ():
            situation.calendar.reserve(segment, job.spec.demand)
    return plans


# -- what holds for every plan -----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.randoms(use_true_random=False),
    st.sampled_from(sorted(FLEETS)),
    st.sampled_from([0.0, 400.0]),
    st.sampled_from([0.0, 10.0]),
    st.booleans(),
)
def test_no_plan_breaks_capacity_residency_workers_minimum_run_or_a_feasible_deadline(
    chance, fleet, passed_s, launch_s, others
):
    nodes = FLEETS[fleet]
    foreign = {nodes[1].name: Resources(1.0)} if others else {}
    situation = a_situation(
        *some_forecast(chance), nodes=nodes, now_s=T0 + passed_s, launch_s=launch_s, foreign=foreign
    )
    jobs, promises = some_jobs(chance, 20), Promises(nodes, foreign)
    grid = Grid(jobs, situation, CONFIG)
    for job in jobs:
        possible = can_run_at_once(job, situation, promises)
        looks, plan = len(CLOSER), grid.plan(job)
        if possible:
            assert isinstance(plan, Plan), plan
            assert plan.end_s <= job.spec.deadline_s + 1e-6, "it is late though it could have run at once"
        if len(CLOSER) > looks:  # what `plan_job` does has tests of its own
            for segment in plan.segments if isinstance(plan, Plan) else ():
                promises.hold(replace(plan, segments=(segment,)), job.spec.demand)
        else:
            check_plan(job, plan, situation, promises)
    for node in nodes:
        held = situation.calendar.held(node.name, int(T0 // SLOT_S), 200)
        free = promises.free[node.name][:200] + foreign.get(node.name, Resources()).amounts
        assert np.abs(node.capacity.amounts - held - free).max() < 1e-6, "what is reserved is not what was planned"


#: jobs that got a closer look
CLOSER: list[str] = []


@pytest.fixture(autouse=True)
def _closer_looks(monkeypatch):
    CLOSER.clear()

    def look(job, situation, config):
        CLOSER.append(job.id)
        return plan_job(job, situation, config)

    monkeypatch.setattr(joint, "plan_job", look)


# -- as good as one by one ---------------------------------------------------------------------------------------------


def in_time_g(jobs, plans):
    return [
        plan.added_g if isinstance(plan, Plan) and plan.end_s <= job.spec.deadline_s + 1e-6 else None
        for job, plan in zip(jobs, plans, strict=True)
    ]


@pytest.mark.parametrize("fleet", FLEETS)
@pytest.mark.parametrize("workers", [[Workers(), Workers(2, 2)], WORKERS], ids=["fixed", "elastic"])
def test_200_jobs_add_no_more_than_one_by_one(fleet, workers):
    """At most 1 % more; measured: -8 to +0.8 %, as a part of a slot counts as a part here."""
    both_g = np.zeros(2)
    for seed in range(7):
        chance = Random(seed)
        series, jobs = some_forecast(chance), some_jobs(chance, 30, workers)
        plans = [how(jobs, a_situation(*series, nodes=FLEETS[fleet])) for how in (planned, one_by_one)]
        in_time = [[not is_late(*one) for one in zip(jobs, some, strict=True)] for some in plans]
        assert sum(in_time[0]) >= sum(in_time[1]) - 1
        for plan, other, *both in zip(*plans, *in_time, strict=True):
            if all(both):
                both_g += plan.added_g, other.added_g
    assert both_g[0] <= both_g[1] * 1.01


@settings(max_examples=80, deadline=None)
@given(
    st.randoms(use_true_random=False), st.integers(1, 16), st.integers(0, 40), st.sampled_from([no_suspension(), {}])
)
def test_a_job_alone_gets_what_it_would_get_by_itself(chance, quarters, slack, rule):
    """Whole slots, which `plan_job` counts, too: the same grams."""
    job = a_job(a_spec(quarters / 4, (quarters + slack) / 4, **rule))
    series = some_forecast(chance)
    (mine,), (alone,) = (how([job], a_situation(*series, nodes=FEW)) for how in (planned, one_by_one))
    assert mine.added_g == pytest.approx(alone.added_g, rel=1e-6)
    assert mine.carbon_g == pytest.approx(alone.carbon_g, rel=1e-6)
    assert mine.run_now_g == pytest.approx(alone.run_now_g, rel=1e-6)
    assert (mine.could_start_s, mine.length_s, mine.regret) == (alone.could_start_s, alone.length_s, 0.0)


@settings(max_examples=80, deadline=None)
@given(st.randoms(use_true_random=False), st.floats(0.05, 4), st.floats(0, 8), st.sampled_from([0.0, 400.0]))
def test_whatever_its_length_a_job_in_one_piece_adds_no_more_than_by_itself(chance, hours, slack, passed_s):
    job, series = a_job(a_spec(hours, passed_s / HOUR_S + hours + slack, **no_suspension())), some_forecast(chance)
    situations = [a_situation(*series, nodes=FEW, now_s=T0 + passed_s) for _ in range(2)]
    (mine,), (alone,) = planned([job], situations[0]), one_by_one([job], situations[1])
    assert mine.added_g <= alone.added_g * (1 + 1e-6)


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(sorted(FLEETS)), st.sampled_from([0.0, 400.0]))
def test_what_a_plan_is_said_to_add_is_what_it_adds(chance, fleet, passed_s):
    """By the same figures as all other plans are compared, and again by `added_g`, once it is in the calendar."""
    situation = a_situation(*some_forecast(chance), nodes=FLEETS[fleet], now_s=T0 + passed_s)
    jobs = some_jobs(chance, 10)
    grid = Grid(jobs, situation, CONFIG)
    for job in jobs:
        plan = grid.plan(job)
        if isinstance(plan, Plan) and job.id not in CLOSER:
            assert (plan.carbon_g, plan.added_g) == pytest.approx(situation.plan_g(plan.segments, job.spec), rel=1e-6)
            assert grid.added_g(job, plan) == pytest.approx(plan.added_g, rel=1e-6)


# -- what there is -----------------------------------------------------------------------------------------------------


def answers(offer, situation, hours):
    """What an offer says of a few windows."""
    found = [offer.open_s, offer.is_free]
    for begin_s, end_s in ((0.0, 8 * HOUR_S), (400.0, 5 * HOUR_S - 100.0)):
        window = joint.Window.of(begin_s, end_s, SLOT_S)
        found += [offer.cheapest_run(window, hours * HOUR_S, 0.0)]
        found += [offer.cheapest_slots(window, hours * HOUR_S, joint.Starts(0.0, 5.0, 0.0))]
        found += [offer.least_g(window, hours * HOUR_S, in_one_piece=True)]
    return found


bookings = st.lists(
    st.tuples(st.integers(0, 27), st.integers(0, 40), st.integers(1, 20), st.booleans()), min_size=1, max_size=12
)


@settings(max_examples=40, deadline=None)
@given(
    st.randoms(use_true_random=False),
    st.sampled_from(sorted(FLEETS)),
    bookings,
    st.sampled_from(WORKERS),
    st.sampled_from([0.5, 1.0, 2.0]),
)
def test_an_offer_that_is_kept_up_to_date_is_like_a_new_one(chance, fleet, booked, workers, hours):
    situation, spec = a_situation(*some_forecast(chance), nodes=FLEETS[fleet]), a_spec(workers=workers)
    nodes, held = FLEETS[fleet], []
    grid = Grid([a_job(spec)], situation, CONFIG)

    def new():
        span = int(T0 // SLOT_S), 32
        return Offer(spec, situation, grid._places, span, grid._intensity[:, :32], None)

    kept = new()
    for number, start, count, gives_back in booked:
        if gives_back and held:
            situation.calendar.release(held.pop(), Resources(1.0))
        else:
            node = nodes[number % len(nodes)]
            held.append(Segment(node.name, node.zone, T0 + start * SLOT_S, T0 + (start + count) * SLOT_S))
            situation.calendar.reserve(held[-1], Resources(1.0))
        fresh = new()
        kept.refresh()
        fresh.refresh()
        assert answers(kept, situation, hours) == answers(fresh, situation, hours)


def priced(situation, by_hour):
    """What a CPU is worth on each pool of DE in each hour [g per hour]; the pools of FR are worth nothing."""
    pools = situation.fleet.pools
    price_g = np.zeros((len(pools), len(by_hour), 4))
    for pool, nodes in enumerate(pools):
        price_g[pool, :, 0] = np.array(by_hour) / 3600.0 if nodes[0].zone == "DE" else 0.0
    return replace(situation, market=Cleared(T0 + np.arange(len(by_hour) + 1) * HOUR_S, price_g, {}))


@pytest.mark.parametrize("rule", [{}, no_suspension()])
def test_a_slot_that_is_worth_more_to_others_is_left_to_them(rule):
    """An hour adds 5 g or 10 g here: what 9/10 of the price of the clean one make up for is taken instead."""
    series = hourly("DE", 200, 100, 200, 200, 200, 200, 200, 200)
    for price_g, start in ((4.0, 1), (5.4, 1), (5.7, 0), (50.0, 0)):
        situation = priced(a_situation(series), [0.0, price_g, 0, 0, 0, 0, 0, 0])
        (plan,) = planned([a_job(a_spec(1, 8, **rule))], situation)
        assert shape(plan) == [("de-1", start, start + 1)]
        assert plan.added_g == pytest.approx(5.0 if start else 10.0)  # prices are no grams


# -- pools and closer looks --------------------------------------------------------------------------------------------


def like_nodes(count=MAX_SINGLE + 1, cpus=1.0):
    return [a_node(f"d{number:02}", cpus=cpus, watts=100.0 + number / 100) for number in range(count)]


def test_jobs_of_a_pool_get_nodes_of_their_own():
    jobs = [a_job(a_spec(1, 1, **no_suspension()), f"j{number}") for number in range(MAX_SINGLE + 2)]
    plans = planned(jobs, a_situation(hourly("DE", *[300] * 8), nodes=like_nodes()))
    assert [plan.segments[0].node for plan in plans[:-1]] == [node.name for node in like_nodes()]
    assert plans[-1].start_s == T0 + HOUR_S  # there is one node less than jobs
    assert [jobs[-1].id] == CLOSER


@pytest.mark.parametrize("rule", [{}, no_suspension()])
def test_a_pool_with_room_on_no_single_node_is_looked_at_again_later(rule):
    """In the first two hours each node is free for one of them, so that all together they seem to have room."""
    situation = a_situation(hourly("DE", *[100] * 2, *[300] * 6), nodes=like_nodes())
    for number, node in enumerate(like_nodes()):
        begin_s = T0 + number % 2 * HOUR_S
        situation.calendar.reserve(Segment(node.name, "DE", begin_s, begin_s + HOUR_S), Resources(1.0))
        if number > 3:
            situation.calendar.reserve(Segment(node.name, "DE", T0, T0 + 2 * HOUR_S), Resources(0.5))
    promises = Promises(like_nodes())
    job = a_job(a_spec(2, 8, **rule))
    (plan,) = planned([job], situation)
    check_plan(job, plan, situation, promises)
    # in one piece it has to wait; in pieces it could change nodes, which takes a closer look
    assert plan.end_s <= T0 + 4 * HOUR_S


CLOSE = [
    {"max_intensity": 200.0},
    {"min_saving_pct": 10.0},
    {"budget_g": 1e6},
    {"budget_j": 1e9},
    {"suspend": SuspendRule(True, 0.0, 60.0)},
    {"suspend": SuspendRule(True, 1200.0)},
    {"suspend": SuspendRule(True, 896.0, 5.0)},
]


@pytest.mark.parametrize("wish", CLOSE)
def test_whoever_needs_a_closer_look_gets_what_it_would_get_by_itself(wish):
    chance, job = Random(3), a_job(a_spec(2, 8, **wish))
    series = some_forecast(chance)
    situation = a_situation(*series, nodes=FEW)
    plans = planned([job], situation)
    assert plans == one_by_one([job], a_situation(*series, nodes=FEW))
    assert CLOSER == ["j"]
    segment = plans[0].segments[0]
    assert situation.calendar.held(segment.node, situation.calendar.slot_of(segment.start_s), 1)[0, 0] == 1.0


def test_only_so_many_get_a_closer_look(monkeypatch):
    monkeypatch.setattr(joint, "_CLOSER_LOOKS", 2)
    jobs = [a_job(a_spec(1, 8, max_intensity=200.0), f"j{number}") for number in range(3)]
    plans = planned(jobs, a_situation(hourly("DE", *[300] * 8), nodes=like_nodes()))
    assert CLOSER == ["j0", "j1"]
    assert [getattr(plan, "reason", None) for plan in plans] == [None, None, Reason.WAITING_FOR_CAPACITY]


# -- exactly the work --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "hours", "wish", "world", "expected"),
    [
        # the dearest quarter is used in part where its run begins or ends with it
        ([9, 5, 1, 1, 9, 9, 9, 9], 0.6, {}, {}, [(0.4, 1)]),
        ([9, 1, 1, 5, 9, 9, 9, 9], 0.6, {}, {}, [(0.25, 0.85)]),
        # and where it is in the middle, an end is: the dearer one
        ([9, 2, 5, 1, 9, 9, 9, 9], 0.6, {}, {}, [(0.4, 1)]),
        ([9, 1, 5, 2, 9, 9, 9, 9], 0.6, {}, {}, [(0.25, 0.85)]),
        # alone it is used from its beginning
        ([1, 9, 9, 2, 9, 9, 9, 9], 0.4, {}, {}, [(0, 0.25), (0.75, 0.9)]),
        # a window that begins and ends within a slot
        ([1, 1, 9, 9, 9, 9, 1, 1], 0.5, {"deadline_h": 1.9}, {"now_s": T0 + 360}, [(0.1, 0.5), (1.5, 1.6)]),
        ([9, 9, 9, 9, 9, 9, 1, 1], 0.4, {"deadline_h": 1.9}, {}, [(1.5, 1.9)]),
        # what is left of the first slot is too short for a run
        ([1, 9, 9, 1, 1, 9, 9, 9], 0.5, {"suspend": SuspendRule(True, 720.0)}, {"now_s": T0 + 360}, [(0.75, 1.25)]),
        (
            [1, 9, 9, 1, 1, 9, 9, 9],
            0.6,
            {"suspend": SuspendRule(True, 360.0)},
            {"now_s": T0 + 360},
            [(0.1, 0.25), (0.75, 1.2)],
        ),
    ],
)
def test_the_last_part_of_the_work(values, hours, wish, world, expected):
    """By quarters of an hour."""
    situation = a_situation(hourly("DE", *values, step_s=SLOT_S), **world)
    (plan,) = planned([a_job(a_spec(hours, **{"deadline_h": 2, **wish}))], situation)
    assert [part for _, *part in shape(plan)] == [pytest.approx(part) for part in expected]


def test_a_run_that_is_not_needed_any_more_is_dropped_with_what_its_start_takes():
    """Ten seconds now make up for a resume, until the quarter between the two clean ones is taken, and none resumes."""
    situation = a_situation(hourly("DE", 2, 9, 1, 3, 1, 9, 9, 9, step_s=SLOT_S), now_s=T0 + 890.0)
    (plan,) = planned([a_job(a_spec(1795 / 3600, 2, suspend=SuspendRule(True, 0.0, 8.0)))], situation)
    assert [part for _, *part in shape(plan)] == [pytest.approx((0.5, 0.5 + 1795 / 3600))]


def test_not_even_a_moment_of_a_place_that_others_have():
    situation = a_situation(hourly("DE", 9, 1, 9, 9, 9, 9, 9, 9, step_s=SLOT_S))
    situation.calendar.reserve(Segment("de-1", "DE", T0 + 2 * SLOT_S, T0 + 3 * SLOT_S), Resources(1.0))
    (plan,) = planned([a_job(a_spec(900.01 / 3600, 2, **no_suspension()))], situation)
    assert shape(plan)[0][1] == 0


@pytest.mark.parametrize("launch_s", [0.0, 9.0])
@pytest.mark.parametrize("state", [{}, {"has_checkpoint": True, "productive_s": 600.0}])
def test_more_workers_lose_more_work_by_a_resume(launch_s, state):
    """Two workers at the two clean quarters; each start takes its time from both."""
    series = hourly("DE", 900, 100, 900, 900, 100, 900, 900, 900, step_s=SLOT_S)
    situation = a_situation(series, nodes=[a_node(cpus=2.0)], launch_s=launch_s)
    spec = a_spec(1, 2, workers=Workers(1, 2), suspend=SuspendRule(True, 0.0, 9.0))
    job = a_job(spec, **state)
    (plan,) = planned([job], situation)
    check_plan(job, plan, situation, Promises([a_node(cpus=2.0)]))
    assert CLOSER == []
    assert max(part.workers for part in plan.segments) == 2


def test_nodes_that_are_too_small_for_many_workers_do_not_tell_what_these_add():
    """The first hour is clean, yet four workers are not worth it: on a node of two CPUs they seem to be two."""
    nodes = [a_node("d1", cpus=2.0, watts=110.0), a_node("d2", cpus=4.0, watts=200.0)]
    spec = a_spec(2, 8, workers=Workers(1, 4, (1.0, 1.4, 1.5, 1.7)))
    series = hourly("DE", 100, *[400] * 7)
    plans = [planned([a_job(spec)], a_situation(series, nodes=some))[0] for some in (nodes, nodes[::-1])]
    assert plans[0].added_g == pytest.approx(plans[1].added_g)
