"""A job that may pause is in time wherever it can be, and its plan the least where that is promised."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_job_worlds import drawn, tight
from orchestrator_world import World
from plan_checks import Promises, check_plan
from planning_cases import CONFIG, HOUR_S, SLOT_S, T0, a_job, a_node, a_situation, a_spec, hourly

from eco_ray.core import planner, thorough
from eco_ray.core.cluster import Resources
from eco_ray.core.jobs import Plan, Segment, SuspendRule, Workers
from eco_ray.core.planner import plan_job

CPUS = 4
SLOTS = 8


def held(*cpus):
    """A node on which others hold so many CPUs in each slot, at a changing intensity."""
    situation = a_situation(hourly("DE", *[300, 100] * 40), nodes=[a_node(cpus=float(CPUS))])
    for slot, amount in enumerate(cpus):
        if amount:
            there = Segment("de-1", "DE", T0 + slot * SLOT_S, T0 + (slot + 1) * SLOT_S)
            situation.calendar.reserve(there, Resources(cpus=float(amount)))
    return situation


def planned(situation, work_s, resume_s, *, most=4, speeds=(), min_run_s=0.0, slots=SLOTS):
    workers = Workers(1, most, tuple(speeds)[:most])
    rule = SuspendRule(True, min_run_s, resume_s)
    spec = a_spec(hours=work_s / 3600, deadline_h=slots * SLOT_S / 3600, workers=workers, suspend=rule)
    plan = plan_job(a_job(spec), situation, CONFIG)
    assert isinstance(plan, Plan)
    return plan, plan.end_s <= spec.deadline_s + 1e-6


def test_it_takes_all_that_is_free_where_nothing_less_is_in_time():
    plan, in_time = planned(held(0, 2, 2, 4, 3, 3, 3, 3), (4 + 2 * 2 + 4) * SLOT_S - 3 * 60, resume_s=60)
    assert in_time
    assert [one.workers for one in plan.segments] == [4, 2, 1]


def test_it_keeps_its_number_where_a_change_costs_more_than_it_gives():
    """The fourth slot has room for a second worker, who would cost 10 of its 15 minutes."""
    plan, in_time = planned(held(3, 3, 3, 2, 3, 3, 3, 3), 8 * SLOT_S, resume_s=600)
    assert in_time
    assert [one.workers for one in plan.segments] == [1]


def test_a_run_shorter_than_its_minimum_is_none():
    """In time only if it ran for one slot before the pause, which it may not."""
    work_s = 2 * SLOT_S
    assert planned(held(3, 4, 3, 4, 4, 4, 4, 4), work_s, resume_s=0.0)[1]
    assert not planned(held(3, 4, 3, 4, 4, 4, 4, 4), work_s, resume_s=0.0, min_run_s=2 * SLOT_S)[1]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, CPUS), min_size=SLOTS, max_size=24),
    st.sampled_from([(1.0, 1.9, 2.7, 3.4), (1.0, 2.0, 3.0, 4.0), (1.0, 1.5, 1.8, 2.0)]),
    st.sampled_from([0.0, 60.0, 300.0]),
    st.sampled_from([1.0, 0.98, 0.9]),
)
def test_where_the_most_workers_in_each_slot_are_in_time_it_is_too(cpus, speeds, resume_s, share):
    work_s, before, begun = 0.0, 0, False
    for amount in cpus:
        count = CPUS - amount
        if count:
            work_s += max(0.0, SLOT_S - resume_s * (begun and count != before)) * speeds[count - 1]
            begun = True
        before = count
    if work_s * share > 60:
        assert planned(held(*cpus), work_s * share, resume_s, speeds=speeds, slots=len(cpus))[1]


def test_who_runs_goes_on_without_a_start():
    """With no second to lose: a restart would make it late."""
    world = World(hourly("DE", *[300, 100] * 20), nodes={"de-1": a_node(cpus=float(CPUS))})
    rule = SuspendRule(True, 0.0, 60.0)
    world.submit("j", hours=8, deadline_h=2, workers=Workers(1, 4), suspend=rule)
    world.started("j")
    world.tick(hours=0.5)
    job = world.core.book.plan(world.core.book.jobs["j"], world.now_s)
    (segment,) = job.plan.segments
    assert (segment.workers, segment.end_s) == (4, T0 + 2 * HOUR_S)


# -- beside all plans of small worlds ----------------------------------------------------------------------------------


def made(world):
    """What its job depends on, and the job's plan."""
    situation = world.situation()
    return situation, plan_job(world.job(), situation, CONFIG)


def the_least(world):
    """The least of all plans, whatever a quicker choice says."""
    situation, job = world.situation(), world.job()
    task = planner._task(job, situation, CONFIG, situation.fleet.places((), job.spec.demand))
    intensity = task.intensity(situation, world.slots)
    found = thorough.thorough_segments(task, situation, intensity, np.full(intensity.shape, True), None)
    return situation, found and Plan(found, None, None, situation.now_s)


@pytest.mark.parametrize("kind", [{}, {"min_run_s": 0.0}, {"min_run_s": 0.0, "resume_s": 0.0, "launch_s": 0.0}])
def test_wherever_a_plan_is_in_time_the_planner_finds_one(kind):
    """Also where runs have to last for some slots and starts take time."""
    for seed in range(250):
        world = tight(seed, **kind)
        if world is not None:
            situation, plan = made(world)
            promises = Promises(world.nodes)
            for node, held, first, end in world.held():
                promises.free[node.name][first:end, 0] -= held
            check_plan(world.job(), plan, situation, promises)
            assert plan.end_s <= T0 + world.deadline_s + 1e-3, (seed, world)


@pytest.mark.parametrize("kind", [{}, {"min_run_s": 0.0}])
def test_so_it_does_for_a_job_that_runs(kind):
    """Which goes on without a start, and pays one for any other number of workers."""
    for seed in range(150):
        world = tight(seed, runs=True, **kind)
        if world is not None:
            _, plan = made(world)
            assert plan.end_s <= T0 + world.deadline_s + 1e-3, (seed, world)


def test_the_orchestrator_keeps_to_it():
    """Slot by slot, as the others come and go."""
    for seed in range(60):
        world = tight(seed, launch_s=0.0)
        if world is not None:
            attempts = world.attempts()
            assert attempts, seed
            assert attempts[-1][1] <= world.deadline_s + 1e-3, seed
            for number, (start_s, end_s, _) in enumerate(attempts[:-1]):
                resume_s = world.resume_s if number else 0.0
                assert end_s - start_s - resume_s >= world.min_run_s - 1e-3, seed


@pytest.mark.parametrize("runs", [False, True])
@pytest.mark.parametrize("min_run_s", [0.0, 900.0, 2000.0])
def test_it_is_the_least_of_all_plans(min_run_s, runs):
    for seed in range(50):
        world = drawn(seed, min_run_s=min_run_s)
        world = replace(world, running=min(world.free[0][0], 2) if runs else 0)
        for share in (1.0, 0.7, 0.4):
            some = replace(world, work_s=world.most_work_s() * share - 0.5)
            if some.work_s > 60.0:
                situation, plan = the_least(some)
                assert situation.plan_g(plan.segments, some.spec())[1] == pytest.approx(some.least_g()), (seed, share)


def test_nothing_is_found_where_no_plan_is_in_time():
    for seed in range(100):
        world = drawn(seed)
        _, plan = the_least(replace(world, work_s=world.most_work_s() + 1.0))
        assert plan is None, seed


def test_below_a_limit_of_the_intensity_no_plan_is_less():
    """Where starts take time, and there is time enough below the limit."""
    for seed in range(150):
        chance = Random(seed)
        rule = {"resume_s": chance.choice([60.0, 300.0, 600.0]), "min_run_s": chance.choice([0.0, 900.0, 1800.0])}
        world = replace(drawn(seed, max_intensity=200.0, **rule), speeds=(1.0,))
        some = replace(world, work_s=world.most_work_s() * chance.choice([0.98, 0.8, 0.6, 0.4]) - 0.5)
        if some.work_s > 60.0:
            _, plan = made(some)
            assert plan.added_g == pytest.approx(some.least_g()), seed


def test_with_more_ways_than_are_kept_it_is_still_in_time(monkeypatch):
    """But not always the least, which shows that it matters."""
    monkeypatch.setattr(thorough, "_MOST", 2)
    monkeypatch.setattr(thorough, "_LEAST", 2)
    dearer = 0
    for seed in range(100):
        world = tight(seed)
        if world is not None:
            situation, plan = the_least(world)
            assert plan.end_s <= T0 + world.deadline_s + 1e-3, seed
            dearer += situation.plan_g(plan.segments, world.spec())[1] > world.least_g() * (1 + 1e-6)
    assert dearer > 0


def test_a_start_that_costs_grams_is_counted():
    """Two clean slots with a dirty one between: the node would have to be woken twice."""
    node = replace(a_node(), sleeps=True, wake_j=3.6e6)
    values = [300, 100, 200, 100, 300]
    spec = a_spec(0.49, 1.25, suspend=SuspendRule(True, 0.0, 10.0), max_intensity=250.0)
    situation = a_situation(hourly("DE", *values, *[300] * 400, step_s=SLOT_S), nodes=[node])
    plan = plan_job(a_job(spec), situation, CONFIG)
    assert len(plan.segments) == 1
