"""Plans that change together: a full replan, all or none, and room for a job that found none in time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orchestrator_world import World
from planning_cases import CONFIG, HOUR_S, SLOT_S, T0, a_job, a_node, a_spec, hourly, no_suspension, shape

from eco_ray.core.calendar import Calendar
from eco_ray.core.cluster import Resources
from eco_ray.core.events import ForecastArrived, SuspendRequested
from eco_ray.core.jobs import Plan, SuspendRule, Workers
from eco_ray.core.joint import is_plain
from eco_ray.core.line import Line
from eco_ray.core.room import is_late, make_room
from eco_ray.core.rounds import _is_better, replan_all, waits
from eco_ray.core.situation import NoPlan

ONE = {"de-1": a_node("de-1")}
NODES = {
    node.name: node
    for node in (a_node("d1", cpus=3.0, watts=300.0), a_node("d2", cpus=1.0), a_node("f1", "FR", cpus=2.0, watts=200.0))
}
QUEUED = {"not_before_s": T0 + HOUR_S}


def plans_of(world):
    return {job.id: job.plan for job in world.core.book.jobs.values()}


def late_ones(world):
    return {job.id for job in world.core.book.jobs.values() if is_late(job, job.plan)}


def grams(world, plans, ids):
    """What the plans add, by what is known now."""
    book = world.core.book
    situation = replace(book.situation(world.now_s), calendar=Calendar(SLOT_S, NODES.values(), int(T0 // SLOT_S)))
    return sum(situation.plan_g(plans[one].segments, book.jobs[one].spec)[1] for one in ids)


def replanned(world, gain_pct=0.2):
    done = replan_all(world.core.book, world.now_s, gain_pct)
    world._save()
    world.check()  # the calendar is what the plans say
    assert_nothing_is_overbooked(world)
    return done


def assert_nothing_is_overbooked(world):
    book = world.core.book
    for name, node in book.nodes.items():
        held = book.calendar.held(name, int(world.now_s // SLOT_S), 400)
        assert (held <= np.array(node.capacity.amounts) + 1e-6).all(), f"{name} is overbooked"


def a_forecast(chance, hours=40):
    return [hourly(zone, *(chance.choice([50.0, 100.0, 250.0, 400.0]) for _ in range(hours))) for zone in ("DE", "FR")]


def a_wish(chance, **changes):
    """A job that is not due yet."""
    hours = chance.choice([0.25, 1.0, 2.0, chance.uniform(0.1, 3)])
    return {
        "hours": hours,
        "deadline_h": 1 + hours + chance.choice([0.1, 1.0, 4.0, 10.0]),
        "priority": chance.choice([100, 500]),
        "workers": chance.choice([Workers(), Workers(), Workers(1, 2)]),
        "suspend": chance.choice([SuspendRule(), SuspendRule(False), SuspendRule(True, 600.0, 300.0)]),
        "policy": chance.choice(["eco", "eco", "eco", "run-now"]),
        **QUEUED,
        **changes,
    }


# -- a full replan -----------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 14), st.sampled_from([0.0, 0.2, 5.0]))
def test_all_change_for_less_or_none_does(chance, count, gain_pct):
    world = World(*a_forecast(chance), nodes=NODES)
    for number in range(count):
        world.submit(f"j{number}", **a_wish(chance))
    world.do(SuspendRequested("j0"))
    world.do(ForecastArrived({series.zone: series for series in a_forecast(chance)}))
    before, late = plans_of(world), late_ones(world)
    jobs = dict(world.core.book.jobs)
    done, after = replanned(world, gain_pct), plans_of(world)
    if not done:
        assert jobs == world.core.book.jobs
        assert all(after[one] is before[one] for one in before)
        return
    assert len(late_ones(world)) <= len(late)
    if late_ones(world) == late:
        situation = world.core.book.situation(T0)
        both = [one for one, job in jobs.items() if one not in late and waits(job) and is_plain(job, situation, CONFIG)]
        assert grams(world, after, both) <= grams(world, before, both) * (1 - gain_pct / 100) * (1 + 1e-12)
    for one, job in jobs.items():
        if job.spec.policy != "eco" or job.held:
            assert after[one] is before[one]
        moved = before[one] and after[one] and before[one].segments != after[one].segments
        assert world.core.book.jobs[one].replans == job.replans + bool(moved)
    assert not replanned(world), "the same again is no better"


def shifted(share):
    """Two jobs in the first and the second hour from one on; then the third one is so much cleaner."""
    world = World(hourly("DE", 900, 100, 100, 900, 900, 900, 900, 900), nodes=ONE)
    for number in range(2):
        world.submit(f"j{number}", hours=1, deadline_h=8, **QUEUED, **no_suspension())
    after = [900, 100, 100, 100 * (1 - share), 900, 900, 900, 900]
    world.do(ForecastArrived({"DE": hourly("DE", *after)}))
    return world


def test_a_small_gain_changes_nothing():
    """Of both jobs together: a tenth less for one of them is a twentieth."""
    world = shifted(0.1)
    before = plans_of(world)
    assert not replanned(world, 5.01)
    assert plans_of(world) == before
    assert replanned(world, 4.99)
    assert sorted(shape(plan)[0][1] for plan in plans_of(world).values()) == [1, 3]
    assert "planned" in world.kinds("j0") + world.kinds("j1")


def test_where_the_forecast_ends_nobody_moves_to_and_fro():
    """What nobody knows the grams of is not less than anything."""
    world = World(hourly("DE", 300, 300), nodes=NODES)
    for number in range(6):
        world.submit(f"j{number}", hours=2, deadline_h=8, **QUEUED)
    before = plans_of(world)
    assert not replanned(world)
    assert plans_of(world) == before


JOBS = [a_job(a_spec(priority=priority), f"p{priority}") for priority in (1, 2, 3)]


@pytest.mark.parametrize(
    ("new_g", "old_g", "better"),
    [
        ({"p1": 5, "p2": 5}, {"p1": 5, "p2": 6}, True),
        ({"p1": 5, "p2": 5}, {"p1": 5, "p2": 5.05}, False),  # for less than a hundredth nobody moves
        ({"p1": 5, "p2": 5}, {"p1": 5}, True),
        ({"p1": 5}, {"p1": 9, "p2": 9}, False),
        ({"p1": 5}, {"p2": 9}, False),  # one instead of another
        ({"p2": 5}, {"p1": 9}, True),
        ({"p2": 5, "p3": 5}, {"p1": 9}, True),
        ({"p1": 5, "p2": 5}, {"p3": 9}, False),  # it is worth more than both
        ({"p1": 5, "p3": 5}, {"p3": 9, "p2": 9}, False),  # from the top: the second decides
        ({"p3": 5}, {"p1": 9, "p2": 9}, True),
        ({}, {}, False),
    ],
)
def test_what_is_better(new_g, old_g, better):
    """By the jobs that are in time, whose names say their priority, and what each of them adds."""
    assert _is_better(JOBS, new_g, old_g, 1.0) is better


@pytest.mark.parametrize(
    ("new_g", "old_g", "better"),
    [
        ({"a": 5, "b": 5}, {"a": 5, "b": 6}, True),
        ({"a": 5, "b": 5}, {"a": 5, "b": 5.005}, False),  # for so little nobody moves
        ({"a": 50, "b": 50}, {"a": 5}, True),  # fewer are late
        ({"a": 1}, {"a": 5, "b": 5}, False),
        ({"a": 1, "b": 1}, {"a": 1, "c": 50}, False),  # one instead of another: what they emit says nothing
        ({}, {}, False),
    ],
)
def test_what_is_better_on_the_market(new_g, old_g, better):
    line = Line(World(nodes={}).core.book, T0, 3, 2.0, 50)
    jobs = [a_job(a_spec(), name) for name in "abc"]
    assert line._is_better(jobs, new_g, old_g) is better


def test_two_of_low_priority_are_not_worth_one_of_a_high_one_on_the_market():
    line = Line(World(nodes={}).core.book, T0, 3, 2.0, 50)
    assert not line._is_better(JOBS, {"p1": 5, "p2": 5}, {"p3": 5})
    assert line._is_better(JOBS, {"p3": 5}, {"p1": 5, "p2": 5})


def test_a_full_replan_leaves_late_jobs_the_places_that_they_were_promised():
    """Others gain by the new forecast, but nobody loses a place for it."""
    nodes = {"de-1": a_node(cpus=4.0), "fr-1": a_node("fr-1", "FR")}
    french = hourly("FR", *[300] * 120)
    world = World(hourly("DE", *[300, 100, 200, 400] * 30), french, nodes=nodes)
    for number in range(20):
        world.submit(f"b{number}", hours=1, deadline_h=4, zones=("FR",), **QUEUED, **no_suspension())
    for number in range(4):
        world.submit(f"a{number}", hours=1, deadline_h=40, zones=("DE",), **QUEUED, **no_suspension())
    before, late = plans_of(world), late_ones(world)
    assert len(late) > 10
    world.do(ForecastArrived({"DE": hourly("DE", *[300, 400, 20, 100] * 30), "FR": french}))
    assert replanned(world)
    assert all(plans_of(world)[one] is before[one] for one in late)


# -- room for one that is late -----------------------------------------------------------------------------------------

#: two clean hours, so that whoever may choose is there
CLEAN = hourly("DE", *[300, 100, 100], *[300] * 9)


def test_a_tight_job_gets_its_place_from_one_with_slack():
    world = World(CLEAN, nodes=ONE)
    world.submit("loose", hours=1, deadline_h=8, **no_suspension(**QUEUED))
    world.submit("other", hours=1, deadline_h=8, **no_suspension(**QUEUED))
    before = plans_of(world)
    assert shape(before["loose"]) == [("de-1", 1, 2)]
    assert shape(before["other"]) == [("de-1", 2, 3)]
    world.submit("tight", hours=1, deadline_h=2, **no_suspension(**QUEUED))
    after = plans_of(world)
    assert shape(after["tight"]) == [("de-1", 1, 2)]
    assert after["other"] is before["other"]
    assert shape(after["loose"]) == [("de-1", 0, 1)] or shape(after["loose"])[0][1] >= 3
    assert late_ones(world) == set()
    assert_nothing_is_overbooked(world)


@pytest.mark.parametrize(
    "first",
    [
        {"deadline_h": 8, "priority": 600},
        {"deadline_h": 8, "policy": "lowest-window"},
        {"deadline_h": 2.9},  # it would be late itself
    ],
    ids=["higher priority", "another policy", "as tight"],
)
def test_who_must_not_be_displaced_keeps_its_place_and_nothing_is_different(first):
    world = World(hourly("DE", *[100] * 2, *[300] * 10), nodes=ONE)
    world.submit("first", hours=1.5, **no_suspension(**QUEUED), **first)
    world.submit("last", hours=1, deadline_h=12, **no_suspension(**QUEUED))
    before = dict(world.core.book.jobs)
    held = world.core.book.calendar.held("de-1", int(T0 // SLOT_S), 100).copy()
    world.submit("tight", hours=1, deadline_h=2.2, **no_suspension(**QUEUED))
    assert all(world.core.book.jobs[one] is job for one, job in before.items())
    tight = world.core.book.jobs["tight"]
    assert is_late(tight, tight.plan)
    for segment in tight.plan.segments if tight.plan else ():
        world.core.book.calendar.release(segment, tight.spec.demand)
    assert (world.core.book.calendar.held("de-1", int(T0 // SLOT_S), 100) == held).all()


@settings(max_examples=50, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(4, 16))
def test_nobody_is_late_for_another_and_who_is_not_in_the_way_stays(chance, count):
    world = World(*a_forecast(chance), nodes=NODES)
    for number in range(count):
        wish = a_wish(chance, demand=Resources(chance.choice([1.0, 2.0, 3.0])), workers=Workers())
        before, late = dict(world.core.book.jobs), late_ones(world)
        world.submit(f"j{number}", **wish)
        assert late_ones(world) - late <= {f"j{number}"}
        assert_nothing_is_overbooked(world)
        new = world.core.book.jobs[f"j{number}"]
        for one, job in before.items():
            now = world.core.book.jobs[one]
            if job.spec.policy != "eco" or job.spec.priority > new.spec.priority:
                assert now is job
            elif now is not job:
                assert not is_late(new, new.plan)
                assert in_the_way(job, new, [world.core.book.jobs[other] for other in before if other != one])


def in_the_way(job, new, others):
    """Whether its old place is not there any more, beside the new job and all others."""
    for segment in job.plan.segments:
        slots = np.arange(segment.start_s // SLOT_S, -(-segment.end_s // SLOT_S) - 1e-9)
        held = np.zeros(len(slots))
        for other in (job, new, *others):
            plan = job.plan if other is job else other.plan
            for part in plan.segments if plan else ():
                if part.node == segment.node:
                    first, end = int(part.start_s // SLOT_S), -(-(part.end_s - 1e-6) // SLOT_S)
                    held += ((slots >= first) & (slots < end)) * other.spec.demand.cpus * part.workers
        if held.max(initial=0.0) > NODES[segment.node].capacity.cpus + 1e-9:
            return True
    return False


# -- room among those that run -----------------------------------------------------------------------------------------

FLAT = hourly("DE", *[300] * 24)


def test_one_that_runs_and_may_pause_is_asked_to_and_goes_on_later():
    world = World(FLAT, nodes=ONE)
    world.running("long", hours=4, deadline_h=8)
    world.tick(hours=1)
    assert world.submit("tight", hours=1, deadline_h=2.1, **no_suspension()) == ["ask long-a1"]
    assert shape(world.core.book.jobs["tight"].plan) == [("de-1", 1, 2)]
    assert world.exited(75, "long") == ["clean long-a1", "start tight-a1 on de-1"]
    world.started("tight")
    world.now_s += HOUR_S
    assert "start long-a2 on de-1" in world.exited(0, "tight")
    assert late_ones(world) == set()


@pytest.mark.parametrize(
    "running",
    [
        {"deadline_h": 4.5},  # with an hour's pause it would be late
        {"deadline_h": 8, "priority": 501},
        {"deadline_h": 8, "suspend": SuspendRule(False)},
        {"deadline_h": 8, "suspend": SuspendRule(True, 2 * HOUR_S)},  # it has not run for long enough
    ],
    ids=["tight", "higher priority", "not to be suspended", "minimum run"],
)
def test_one_that_runs_is_left_alone(running):
    world = World(FLAT, nodes=ONE)
    world.running("long", hours=4, **running)
    world.tick(hours=1)
    before = world.core.book.jobs["long"]
    assert world.submit("tight", hours=1, deadline_h=2.1, **no_suspension()) == []
    assert world.core.book.jobs["long"] is before
    tight = world.core.book.jobs["tight"]
    assert is_late(tight, tight.plan)
    assert_nothing_is_overbooked(world)
    assert not make_room(world.core.book, tight, world.now_s)
    assert world.core.book.jobs["long"] is before
    assert isinstance(tight.plan, Plan | None)
    assert not isinstance(tight.plan, NoPlan)


def test_a_running_job_that_goes_on_elsewhere_than_planned_counts_as_changed():
    """Its second stretch moves to an hour that a new forecast makes cleaner; told the same again, it stays."""
    world = World(hourly("DE", 100, 900, 900, 110, 120, *[900] * 6), nodes=ONE)
    world.submit("j0", hours=2, deadline_h=8)
    world.started("j0")
    planned = world.core.book.jobs["j0"]
    assert (planned.plan.segments[-1].start_s, planned.replans) == (T0 + 3 * HOUR_S, 0)
    world.do(ForecastArrived({"DE": hourly("DE", 100, 900, 900, 130, 10, *[900] * 6)}))
    for _ in range(2):
        moved = world.core.book.plan(world.core.book.jobs["j0"], world.now_s)
        assert (moved.plan.segments[-1].start_s, moved.replans) == (T0 + 4 * HOUR_S, 1)
