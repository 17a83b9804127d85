"""What holds after any events in any order (see World.check), after a restart at any moment, and with 10,000 jobs."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orchestrator_world import DE, FR, NODES, World, with_config
from planning_cases import CONFIG, HOUR_S, T0, a_job, a_node, a_spec, hourly
from timing import quiet_seconds_of

from eco_ray.core.cluster import Resources
from eco_ray.core.events import (
    ForecastArrived,
    ForeignUse,
    JobAccounted,
    JobCancelled,
    JobSubmitted,
    NodeDraining,
    NodeJoined,
    NodeKept,
    NodeLost,
    ResumeRequested,
    SuspendRequested,
    Tick,
)
from eco_ray.core.jobs import Plan, Segment, SuspendRule
from eco_ray.core.orchestrator import Orchestrator
from eco_ray.core.planner import plan_job
from eco_ray.core.records import changed
from eco_ray.errors import EcoRayError

rules = st.builds(SuspendRule, st.booleans(), st.sampled_from([0.0, 1800.0]), st.sampled_from([0.0, 300.0, 1200.0]))
specs = st.fixed_dictionaries(
    {
        "hours": st.sampled_from([None, 0.1, 1.0, 2.0]),
        "deadline_h": st.sampled_from([3, 8, 20]),
        "policy": st.sampled_from(["eco", "eco", "run-now", "lowest-window"]),
        "demand": st.builds(Resources, st.sampled_from([0.5, 1.0, 2.0])),
        "priority": st.sampled_from([100, 500]),
        "zones": st.sampled_from([(), ("DE",), ("FR",)]),
        "suspend": rules,
        "max_retries": st.integers(0, 2),
        "min_saving_pct": st.sampled_from([0.0, 20.0]),
        "max_intensity": st.sampled_from([None, 200.0]),
        "budget_g": st.sampled_from([None, None, 1e6]),
    }
)
which = st.integers(0, 5)
moves = st.one_of(
    st.tuples(st.just("submit"), specs),
    st.tuples(st.just("tick"), st.sampled_from([0.0, 1.0, 61.0, 900.0, 3600.0, 9000.0])),
    st.tuples(st.sampled_from(["start", "start", "pause", "fail", "succeed", "lose", "refuse", "stop"]), which),
    st.tuples(st.just("progress"), st.tuples(which, st.floats(0, 1), st.booleans())),
    st.tuples(st.sampled_from(["cancel", "suspend", "resume"]), which),
    st.tuples(st.just("spent"), which),
    st.tuples(
        st.sampled_from(["node lost", "node joined", "node draining", "node kept"]), st.sampled_from(sorted(NODES))
    ),
    st.tuples(st.just("foreign"), st.tuples(st.sampled_from(sorted(NODES)), st.sampled_from([0.0, 0.5]))),
    st.tuples(st.just("forecast"), st.lists(st.sampled_from([20.0, 100.0, 300.0, 900.0]), min_size=1, max_size=30)),
)
ENDS = {"pause": ("exited", 75), "fail": ("exited", 1), "succeed": ("exited", 0), "lose": ("lost", None)}
ENDS |= {"refuse": ("refused", None), "stop": ("stopped", None)}
REQUESTS = {"cancel": JobCancelled, "suspend": SuspendRequested, "resume": ResumeRequested}


def make(world, move, argument):
    """One thing that can happen in the world."""
    if move == "submit":
        event = JobSubmitted(f"j{len(world.records)}", a_spec(**argument))
        event = replace(event, spec=replace(event.spec, deadline_s=event.spec.deadline_s + world.now_s - T0))
        attempt_it(world, event)
    elif move == "tick":
        world.tick(seconds=argument)
    elif move in REQUESTS:
        if argument < len(world.records):
            attempt_it(world, REQUESTS[move](f"j{argument}"))
    elif move == "spent":
        world.do(JobAccounted(f"j{argument}", 0.0, 2e6))
    elif move == "node lost":
        world.do(NodeLost(argument))
    elif move == "node draining":
        world.do(NodeDraining(argument))
    elif move == "node kept":
        world.do(NodeKept(argument))
    elif move == "node joined":
        world.do(NodeJoined(NODES[argument]))
    elif move == "foreign":
        world.do(ForeignUse(argument[0], Resources(argument[1])))
    elif move == "forecast":
        hour = (world.now_s - T0) // HOUR_S * HOUR_S
        world.do(ForecastArrived({"DE": hourly("DE", *argument, start_s=T0 + hour)}))
    else:
        make_report(world, move, argument)


def make_report(world, move, argument):
    """Something that an attempt does, of those that are launched."""
    number = argument[0] if move == "progress" else argument
    attempts = list(world.launched.values())
    if number >= len(attempts):
        return
    attempt = attempts[number]
    where = {"job_id": attempt.job_id, "number": attempt.number}
    if move == "start":
        world.started(**where)
    elif move == "progress":
        times = {"productive_s": world.now_s, "checkpoint_s": world.now_s if argument[2] else None}
        world.progressed(argument[1], **where, **times)
    elif not (move == "pause" and not attempt.asked):
        outcome, code = ENDS[move]
        world.exited(code, outcome=outcome, **where)


def attempt_it(world, event):
    """A request that may be refused, and then changes nothing."""
    before = dict(world.core.book.jobs)
    try:
        world.do(event)
    except EcoRayError:
        assert world.core.book.jobs == before
        assert world.core.take_changes() == ([], [])


@settings(max_examples=60, deadline=None)
@given(st.lists(moves, min_size=15, max_size=80), st.integers(0, 80))
def test_any_events_in_any_order(events, crash_at):
    world = World(DE, FR)
    restarted = None
    for i, (move, argument) in enumerate(events):
        if i == crash_at:
            restarted, _ = world.restored()
        make(world, move, argument)
    world.replayed()
    if restarted is None:
        restarted, _ = world.restored()
        assert restarted.drain() == world.drain()
        return
    for move, argument in events[crash_at:]:  # the restarted one may choose otherwise, never wrongly
        make(restarted, move, argument)
    for each in (world, restarted):
        assert set(each.drain().values()) <= {"succeeded", "failed", "cancelled"}
    assert set(restarted.records) == set(world.records)


def many_jobs(count, suspend):
    """Jobs of another life: half with a plan for the night, half without a place."""
    spec = a_spec(3.0, 90.0, suspend=suspend)
    plan = Plan((Segment("n-0", "DE", T0 + 50 * HOUR_S, T0 + 53 * HOUR_S),), 30.0, 60.0, T0)
    return [a_job(spec, f"job-{i}", plan=plan if i % 2 else None) for i in range(count)]


def crowded_core(count, cpus, suspend):
    zones = ("DE", "FR", "GB")
    core = Orchestrator("DE", T0, with_config(planner=CONFIG))
    for i, zone in enumerate(zones):
        core.handle(NodeJoined(a_node(f"n-{i}", zone, cpus=cpus)), T0)
    values = [200.0 + 150.0 * ((i * 7) % 11) / 11 for i in range(100)]
    series = {zone: hourly(zone, *values[i:], *values[:i]) for i, zone in enumerate(zones)}
    core.handle(ForecastArrived(series), T0)
    core.restore(many_jobs(count, suspend))
    return core


@pytest.fixture(scope="module")
def crowded():
    """Pauses that cost much are weighed one job at a time."""
    return crowded_core(10_000, 16.0, SuspendRule(True, 1200.0, 120.0))


def forecast_and_tick(core, now_s):
    core.handle(ForecastArrived(core.book.forecast), now_s)
    core.handle(Tick(), now_s)
    core.take_changes()


def test_with_2_000_jobs_a_full_replan_is_bearable():
    """The worst tick: all jobs are planned anew, at most once per slot. benchmarks/scale.py has it with 10,000 jobs."""
    core = crowded_core(2_000, 40.0, SuspendRule(True, 60.0, 10.0))
    alone, situation = changed(core.book.jobs["job-0"], plan=None), core.book.situation(T0)
    one_s = median(quiet_seconds_of(lambda: plan_job(alone, situation, CONFIG)) for _ in range(15))
    all_s = quiet_seconds_of(lambda: forecast_and_tick(core, T0))
    assert all_s < 2_000 * one_s / 10  # a fortieth is usual
    plans = [job.plan for job in core.book.jobs.values()]
    assert all(plan.end_s <= T0 + 90 * HOUR_S for plan in plans)
    assert len({plan.segments for plan in plans}) > 10


def test_with_10_000_jobs_any_other_tick_is_short(crowded):
    forecast_and_tick(crowded, T0)
    took_s = [quiet_seconds_of(lambda i=i: forecast_and_tick(crowded, T0 + i)) for i in range(1, 8)]
    assert median(took_s) < 0.2  # some jobs, whose turn it is, are planned again


def test_with_10_000_jobs_a_submission_is_short(crowded):
    now_s = T0 + 7200.0

    def submit(i):
        crowded.handle(JobSubmitted(f"new-{i}", a_spec(3.0, 24.0 + i)), now_s)
        crowded.take_changes()

    assert median(quiet_seconds_of(lambda i=i: submit(i)) for i in range(15)) < 0.1
