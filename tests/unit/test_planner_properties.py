"""What no plan breaks, whatever the jobs, the nodes and the forecasts: jobs planned one after the other."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_checks import Promises, can_run_at_once, check_plan, check_work
from planning_cases import CONFIG, HOUR_S, SLOT_S, T0, a_job, a_node, a_situation, a_spec, hourly, no_suspension

from eco_ray.core.cluster import Resources
from eco_ray.core.fleet import MAX_SINGLE
from eco_ray.core.jobs import Plan, Segment, SuspendRule, Workers
from eco_ray.core.planner import plan_job

ZONES = ("DE", "FR")
#: few nodes, and many like ones in four pools
FEW = [a_node("d2", cpus=4.0, watts=300.0), a_node("d1", cpus=2.0), a_node("f1", "FR", cpus=3.0, watts=200.0)]
MANY = [
    a_node(f"{zone[0].lower()}{number:02}", zone, cpus=size, watts=100 * size)
    for zone in ZONES
    for size in (1.0, 4.0)
    for number in range(MAX_SINGLE // 4 + 1)
]
#: some of them with GPUs, whose memory counts as well
GPUS = [
    replace(a_node("g1", cpus=4.0), capacity=Resources(4.0, 2.0, 8.0, 80.0), gpu_idle_w=20.0, gpu_busy_w=200.0),
    replace(a_node("g2", "FR", cpus=4.0), capacity=Resources(4.0, 1.0, 8.0, 24.0), gpu_idle_w=10.0, gpu_busy_w=90.0),
    replace(a_node("f1", "FR", cpus=3.0, watts=200.0), sleeps=True, wake_j=36_000.0),
]
FLEETS = {"few": FEW, "many": MANY, "gpus": GPUS}

grams = st.lists(st.sampled_from([50.0, 100.0, 250.0, 400.0]), min_size=36, max_size=36)
wishes = st.fixed_dictionaries(
    {
        "hours": st.one_of(st.sampled_from([0.25, 0.5, 1.0, 2.0]), st.floats(0.05, 4)),
        "deadline_h": st.one_of(st.sampled_from([4.0, 8.0, 12.0]), st.floats(1, 30)),
        "demand": st.sampled_from(
            [Resources(0.5), Resources(1.0, 0.0, 1.0), Resources(2.0), Resources(1.0, 1.0, 0.0, 20.0)]
        ),
        "workers": st.sampled_from(
            [Workers(), Workers(), Workers(2, 2), Workers(1, 4), Workers(1, 3, (1.0, 1.8, 2.2)), Workers(2, 4)]
        ),
        "suspend": st.sampled_from(
            [
                SuspendRule(),
                SuspendRule(False),
                SuspendRule(True, 0.0, 300.0),
                SuspendRule(True, 1800.0),
                SuspendRule(True, 2000.0, 1000.0),
            ]
        ),
        "zones": st.sampled_from([(), (), ("DE",), ("FR",)]),
        "priority": st.sampled_from([100, 500]),
        "policy": st.sampled_from(["eco", "eco", "eco", "run-now"]),
        "not_before_s": st.sampled_from([0.0, 0.0, T0 + HOUR_S, T0 + 5000.0]),
        "min_saving_pct": st.sampled_from([0.0, 0.0, 20.0]),
        "max_intensity": st.sampled_from([None, None, 200.0]),
    }
)
states = st.sampled_from([{}, {}, {"has_checkpoint": True, "productive_s": 100.0}, {"retry_at_s": T0 + 700.0}])


# -- what holds for every plan -----------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(FLEETS)),
    st.tuples(grams, grams),
    st.lists(st.tuples(wishes, states), min_size=1, max_size=10),
    st.sampled_from([0.0, 400.0]),
    st.sampled_from([0.0, 40.0]),
    st.booleans(),
)
def test_no_plan_breaks_capacity_residency_workers_minimum_run_or_a_feasible_deadline(
    fleet, by_zone, jobs, passed_s, launch_s, others
):
    nodes = FLEETS[fleet]
    foreign = {nodes[1].name: Resources(1.0)} if others else {}
    series = [hourly(zone, *values) for zone, values in zip(ZONES, by_zone, strict=True)]
    situation = a_situation(*series, nodes=nodes, now_s=T0 + passed_s, launch_s=launch_s, foreign=foreign)
    promises = Promises(nodes, foreign)
    for number, (wish, state) in enumerate(jobs):
        job = a_job(a_spec(**wish), f"j{number}", **state)
        possible = can_run_at_once(job, situation, promises)
        plan = plan_job(job, situation, CONFIG)
        if possible:
            assert isinstance(plan, Plan), plan
            assert plan.end_s <= job.spec.deadline_s + 1e-6, "it is late though it could have run at once"
        if isinstance(plan, Plan):
            check_plan(job, plan, situation, promises)
            for segment in plan.segments:
                situation.calendar.reserve(segment, job.spec.demand)


#: what is scarce in each world: a node with room for many jobs by all kinds but one, and for one job by that
PLENTY, WISH = Resources(30.0, 30.0, 30.0, 300.0), Resources(1.0, 1.0, 1.0, 10.0)
SCARCE = {
    "CPUs": replace(PLENTY, cpus=1.5),
    "GPUs": replace(PLENTY, gpus=1.0, gpu_memory_gb=300.0),
    "RAM": replace(PLENTY, memory_gb=1.5),
    "GPU memory": replace(PLENTY, gpus=1.0, gpu_memory_gb=15.0),
}


@pytest.mark.parametrize("kind", SCARCE)
@settings(max_examples=10, deadline=None)
@given(grams, st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=2, max_size=6))
def test_whatever_is_scarce_is_not_promised_twice(kind, values, jobs):
    demand = replace(WISH, gpus=0.5) if kind == "GPU memory" else WISH
    nodes = [replace(a_node("g1"), capacity=SCARCE[kind])]
    situation, promises = a_situation(hourly("DE", *values), nodes=nodes), Promises(nodes)
    for number, (quarters, pauses) in enumerate(jobs):
        job = a_job(a_spec(quarters / 4, 16, demand=demand, suspend=SuspendRule(pauses)), f"j{number}")
        plan = plan_job(job, situation, CONFIG)
        assert isinstance(plan, Plan), plan
        check_plan(job, plan, situation, promises)
        for segment in plan.segments:
            situation.calendar.reserve(segment, demand)


def test_an_elastic_job_has_time_for_its_launch():
    situation = a_situation(hourly("DE", *[300] * 12), launch_s=400.0)
    (segment,) = plan_job(a_job(a_spec(1, 8, workers=Workers(1, 2))), situation, CONFIG).segments
    assert segment.end_s - segment.start_s == pytest.approx(HOUR_S + 400.0)


@pytest.mark.parametrize("world", [{"now_s": T0 + 600.0}, {"launch_s": 300.0}])
def test_a_run_lasts_as_long_as_it_should(world):
    """The first quarter of an hour is clean, but only a part of it is there to work in."""
    values = [50, 900, 900, 50, 50, 50, 50, *[900] * 30]
    situation = a_situation(hourly("DE", *values, step_s=SLOT_S), **world)
    job = a_job(a_spec(1, 4, suspend=SuspendRule(True, 900.0)))
    check_work(job, plan_job(job, situation, CONFIG), situation)


# -- more is never worse -----------------------------------------------------------------------------------------------

QUARTERS = st.integers(1, 16)
#: whose choice is exact: in one piece, also with a number of workers that stays, and in pieces that cost nothing
EXACT = {
    "in one piece": no_suspension(),
    "in one piece, with more workers": no_suspension(workers=Workers(1, 3, (1.0, 1.8, 2.2))),
    "in pieces": {},
}
#: sums of the same grams in another order (relative)
ROUNDING = 1e-9
bookings = st.lists(st.tuples(st.sampled_from(["d1", "d2", "f1"]), st.integers(0, 60), st.integers(1, 20)), max_size=8)


def added_g(spec, series, nodes, booked):
    """What its plan adds; infinite where it is late or has no place. Each booking takes a CPU where one is free."""
    situation = a_situation(*series, nodes=nodes)
    promises = Promises(nodes)
    for name, start, count in booked:
        one = Segment(name, promises.nodes[name].zone, T0 + start * SLOT_S, T0 + (start + count) * SLOT_S)
        if promises.has_room(name, one.start_s, one.end_s, Resources(1.0)):
            promises.hold(Plan((one,), None, None, T0), Resources(1.0))
            situation.calendar.reserve(one, Resources(1.0))
    plan = plan_job(a_job(spec), situation, CONFIG)
    return plan.added_g if isinstance(plan, Plan) and plan.end_s <= spec.deadline_s else math.inf


@pytest.mark.parametrize("kind", EXACT)
@settings(max_examples=30, deadline=None)
@given(st.tuples(grams, grams), QUARTERS, QUARTERS, st.integers(0, 30), bookings)
def test_more_slack_never_means_more_grams(kind, by_zone, quarters, slack, more, booked):
    series = [hourly(zone, *values) for zone, values in zip(ZONES, by_zone, strict=True)]
    tight = a_spec(quarters / 4, (quarters + slack) / 4, **EXACT[kind])
    loose = replace(tight, deadline_s=tight.deadline_s + more * SLOT_S)
    booked = booked if tight.workers.max == 1 else ()  # beside others more workers are left out though they save
    tight_g, loose_g = (added_g(spec, series, FEW, booked) for spec in (tight, loose))
    assert loose_g <= tight_g * (1 + ROUNDING)


@pytest.mark.parametrize("kind", EXACT)
@settings(max_examples=30, deadline=None)
@given(st.tuples(grams, grams), QUARTERS, QUARTERS, bookings, st.integers(0, 8), st.booleans())
def test_more_capacity_never_means_more_grams(kind, by_zone, quarters, slack, booked, fewer, another):
    """Another node, or less that others hold."""
    series = [hourly(zone, *values) for zone, values in zip(ZONES, by_zone, strict=True)]
    spec = a_spec(quarters / 4, (quarters + slack) / 4, **EXACT[kind])
    booked = booked if spec.workers.max == 1 else ()
    node = a_node("f2", "FR", cpus=1.0, watts=50.0)
    scarce_g = added_g(spec, series, FEW, booked)
    plenty_g = added_g(spec, series, [*FEW, node] if another else FEW, booked[: len(booked) - fewer])
    assert plenty_g <= scarce_g * (1 + ROUNDING)


def test_what_many_workers_add_is_not_told_by_a_node_that_is_too_small_for_them():
    """The first hour is clean, yet four workers are not worth it: on a node of two CPUs they seem to be two."""
    nodes = [a_node("d1", cpus=2.0), a_node("d2", cpus=4.0, watts=200.0)]
    spec = a_spec(2, 8, workers=Workers(1, 4, (1.0, 1.4, 1.5, 1.7)), **no_suspension())
    series = hourly("DE", 100, *[400] * 7)
    assert added_g(spec, [series], nodes, ()) == pytest.approx(added_g(spec, [series], nodes[::-1], ()))


@settings(max_examples=40, deadline=None)
@given(st.tuples(grams, grams), st.floats(0.1, 4), st.floats(0, 4), st.floats(0, 8), st.booleans())
def test_parts_of_slots_make_no_difference_but_of_one_slot(by_zone, hours, slack, more, pauses):
    """Work is counted in slots. Whatever a job's length and deadline, more slack costs no more than a slot can."""
    series = [hourly(zone, *values) for zone, values in zip(ZONES, by_zone, strict=True)]
    tight = a_spec(hours, hours + slack, suspend=SuspendRule(pauses))
    loose = replace(tight, deadline_s=tight.deadline_s + more * HOUR_S)
    tight_g, loose_g = (added_g(spec, series, FEW, ()) for spec in (tight, loose))
    slot_g = (400 - 50) * max(node.added_power_w(Resources(1.0), Resources()) for node in FEW) * SLOT_S / 3.6e6
    assert loose_g <= tight_g + slot_g


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(grams, grams),
    st.floats(0.1, 4),
    st.floats(0, 4),
    st.floats(0, 3000),
    st.sampled_from([{}, {"launch": 40}]),
)
def test_in_one_piece_no_start_at_a_slot_edge_nor_at_once_is_better(by_zone, hours, slack, passed_s, costs):
    """The last slot counts as far as it is used."""
    series = [hourly(zone, *values) for zone, values in zip(ZONES, by_zone, strict=True)]
    now_s, launch_s = T0 + passed_s, float(costs.get("launch", 0))
    run_s = hours * HOUR_S + launch_s
    spec = a_spec(hours, 0.0, **no_suspension(deadline_s=min(now_s + run_s + slack * HOUR_S, T0 + 8 * HOUR_S)))
    situation = a_situation(*series, nodes=FEW, now_s=now_s, launch_s=launch_s)
    starts_s = [now_s, *(T0 + slot * SLOT_S for slot in range(32) if T0 + slot * SLOT_S > now_s)]
    every_g = [
        situation.plan_g([Segment(node.name, node.zone, start_s, start_s + run_s)], spec)[1]
        for node in FEW
        for start_s in starts_s
        if start_s + run_s <= spec.deadline_s
    ]
    if not every_g:
        return  # it comes late
    found = plan_job(a_job(spec, now_s=now_s), situation, CONFIG)
    assert isinstance(found, Plan)
    assert found.added_g == pytest.approx(min(every_g), rel=1e-6)
