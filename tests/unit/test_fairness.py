"""Nobody starves, and nobody is planned to and fro for ever: streams of jobs and forecasts that change every hour."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import numpy as np
import pytest
from orchestrator_world import World
from planning_cases import CONFIG, HOUR_S, SLOT_S, T0, a_job, a_node, a_spec, hourly, no_suspension, shape

from eco_ray.core.book import MAX_REPLANS, is_settled
from eco_ray.core.events import ForecastArrived, NodeLost
from eco_ray.core.jobs import AttemptState, Plan
from eco_ray.core.orchestrator import Orchestrator, OrchestratorConfig
from eco_ray.core.rounds import replan_all
from eco_ray.core.slots import cheapest_run
from eco_ray.sim.replay import Replay, Submission

HIGH, LOW = 900, 100
VALUES = [300, 100, 250, 150, 400, 50, 350, 200]


@dataclass
class Once:
    """One forecast that holds for all the time."""

    hours: int

    def times_s(self):
        return [T0]

    def at(self, _now_s):
        return ForecastArrived({"DE": hourly("DE", *(VALUES * (self.hours // len(VALUES) + 1))[: self.hours])})


def ends_h(submissions, hours=120, nodes=1):
    """When each job was done, in hours; jobs that were not are missing."""
    names = [a_node(f"de-{number}") for number in range(nodes)]
    core = Orchestrator("DE", T0, OrchestratorConfig(planner=CONFIG))
    replay = Replay(core, names, submissions, Once(hours), begin_s=T0, end_s=T0 + hours * HOUR_S, tick_s=SLOT_S)
    found = {}
    for number, _, _, end_s, _ in replay.run().rows:
        found[submissions[number].job_id] = max(end_s / HOUR_S, found.get(submissions[number].job_id, 0.0))
    return found


def a_submission(name, arrival_h, hours, deadline_h, **changes):
    spec = a_spec(hours, deadline_h, **changes)
    return Submission(name, T0 + arrival_h * HOUR_S, spec, hours * HOUR_S)


def stream(hours, every_h, slack_h, until_h, **changes):
    """Jobs of high priority, one after the other."""
    starts = [number * every_h for number in range(int(until_h / every_h))]
    return [
        a_submission(f"high-{number}", at_h, hours, at_h + hours + slack_h, priority=HIGH, **changes)
        for number, at_h in enumerate(starts)
    ]


# -- priorities --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [{}, no_suspension()], ids=["pausable", "in one piece"])
@pytest.mark.parametrize("high_rule", [{}, no_suspension()], ids=["among pausable", "among others"])
@pytest.mark.parametrize(("hours", "every_h", "slack_h"), [(2.25, 2.5, 6.0), (4.5, 5.0, 8.0)])
def test_a_job_of_low_priority_is_done_in_time_though_higher_ones_keep_coming(hours, every_h, slack_h, rule, high_rule):
    """The node is busy for 90 % of the time with them; what is left is enough for all."""
    jobs = stream(hours, every_h, slack_h, 60, **high_rule)
    low = a_submission("low", 4.1, 1.0, 24.1, priority=LOW, **rule)
    done = ends_h(sorted([*jobs, low], key=lambda one: one.arrival_s))
    assert done["low"] <= 24.1 + 1e-6
    assert len(done) == len(jobs) + 1


def test_what_the_market_means_for_a_job_in_one_piece_it_can_have():
    """Else it is said to start now on a node that is never free, until the stream ends."""
    low = a_submission("low", 4.1, 1.0, 24.1, priority=LOW, **no_suspension())
    assert cheapest_run(np.array([[np.inf, -1.0, -2.0]]), 1) == [(0, 2, 3)]
    done = ends_h(sorted([*stream(1.75, 2.0, 5.0, 60), low], key=lambda one: one.arrival_s))
    assert done["low"] <= 24.1 + 1e-6


@pytest.mark.parametrize("rule", [{}, no_suspension()], ids=["pausable", "in one piece"])
@pytest.mark.parametrize("high_rule", [{}, no_suspension()], ids=["among pausable", "among others"])
def test_who_lost_its_place_in_time_gets_one_while_the_stream_goes_on(rule, high_rule):
    """In whole slots the higher ones need all there is, so that the low one cannot be in time; it is not the last.

    It takes an hour that was promised to higher ones without slack. That may cost as many of them their deadline as
    are open at once, and no more: one comes every hour and has 5.9 hours, so six. With fewer it would not be safe: all
    of them may have waited for a clean hour up to their latest start, and each that begins later pushes the next one.
    """
    low = a_submission("low", 4.1, 1.0, 24.1, priority=LOW, **rule)
    jobs = stream(0.9, 1.0, 5.0, 60, **high_rule)
    done = ends_h(sorted([*jobs, low], key=lambda one: one.arrival_s))
    assert done["low"] <= 36
    late = [one.job_id for one in jobs if done[one.job_id] > (one.spec.deadline_s - T0) / HOUR_S + 1e-6]
    assert len(late) <= (0 if high_rule else math.ceil(0.9 + 5.0))


@pytest.mark.parametrize("rule", [{}, no_suspension()], ids=["pausable", "in one piece"])
def test_where_far_too_much_comes_the_low_ones_get_what_they_were_promised(rule):
    """Twice as much as the node can do comes for two days: everyone is late, and nobody is the last one for it."""
    low = [a_submission(f"low-{at_h}", at_h, 1.0, at_h + 6.0, priority=LOW, **rule) for at_h in (4.0, 9.0, 14.0)]
    jobs = sorted([*stream(2.0, 1.0, 3.0, 48, **rule), *low], key=lambda one: one.arrival_s)
    done = ends_h(jobs)
    assert done.keys() == {one.job_id for one in jobs}
    assert max(done[one.job_id] for one in low) <= 48


@pytest.mark.parametrize("rule", [{}, no_suspension()], ids=["pausable", "in one piece"])
def test_what_a_late_job_is_promised_is_never_put_off(rule):
    """Its latest start has passed: whoever comes, and whatever the forecasts say, it moves to an earlier end only."""
    world = World(hourly("DE", *(VALUES * 15)), nodes={"de-1": a_node()})
    world.running("first", hours=5, deadline_h=5, priority=LOW, **no_suspension())
    world.submit("low", hours=1, deadline_h=2, priority=LOW, **rule)
    promised_s = world.core.book.jobs["low"].plan.end_s
    assert promised_s == T0 + 6 * HOUR_S
    for number in range(19):
        world.submit(f"high-{number}", hours=0.5, deadline_h=3 + number, priority=HIGH, **rule)
        world.tick(seconds=SLOT_S)
        low = world.core.book.jobs["low"]
        assert low.plan is not None
        assert low.plan.end_s <= promised_s
        promised_s = low.plan.end_s


@pytest.mark.parametrize("priority", [LOW, HIGH])
def test_who_runs_and_is_in_time_does_not_put_off_who_has_waited_for_too_long(priority):
    """Its place stands firm: else one after the other could run on over it, each of them in time."""
    world = World(hourly("DE", *(VALUES * 15)), nodes={"de-1": a_node()})
    first = world.running("first", hours=5, deadline_h=9, priority=priority, policy="run-now")
    world.submit("low", hours=1, deadline_h=2, priority=LOW, **no_suspension())

    def held():
        firm = world.core.book.firm_calendar(first, T0 + 6 * HOUR_S, world.now_s)
        return firm.held("de-1", int(T0 // SLOT_S) + 20, 4)[:, 0].tolist()

    world.tick(hours=0.5)
    assert held() == [0, 0, 0, 0]  # until its latest start it may give way
    world.tick(hours=0.75)
    assert held() == [1, 1, 1, 1]


def test_a_late_job_moves_forward_as_soon_as_something_is_free():
    world = World(hourly("DE", *(VALUES * 15)), nodes={"de-1": a_node()})
    world.running("first", hours=5, deadline_h=5, **no_suspension())
    world.submit("late", hours=1, deadline_h=2, **no_suspension())
    world.tick(hours=1.5)
    assert world.core.book.jobs["late"].plan.start_s == T0 + 5 * HOUR_S
    world.exited(0, "first")
    world.tick()
    assert world.job("late").live_attempt is not None


@pytest.mark.parametrize("rule", [{}, no_suspension()], ids=["pausable", "in one piece"])
def test_when_the_stream_ends_everyone_has_run(rule):
    """Twice as much as the node can do comes for a day; low ones come in between."""
    low = [
        a_submission(f"low-{number}", number * 5.0, 1.0, number * 5.0 + 6.0, priority=LOW, **rule)
        for number in range(4)
    ]
    jobs = stream(2.0, 1.0, 3.0, 24, **rule) + low
    done = ends_h(sorted(jobs, key=lambda one: one.arrival_s))
    assert done.keys() == {one.job_id for one in jobs}
    assert max(done.values()) <= 24 * 2 + 4 + 6  # and nobody waits while the node is free


# -- changes -----------------------------------------------------------------------------------------------------------

QUEUED = {"not_before_s": T0 + 200 * HOUR_S, "deadline_h": 224.0}


def flipped(world, number):
    """What was clean is dirty and the other way round."""
    values = [100, 400] if number % 2 else [400, 100]
    series = hourly("DE", *([300] * 200 + values * 12))
    world.do(ForecastArrived({"DE": series}), HOUR_S)
    world.tick()


@pytest.mark.parametrize("count", [1, 3])
def test_a_forecast_that_flips_every_hour_changes_a_plan_so_often_and_no_more(count):
    world = World(nodes={"de-1": a_node()})
    flipped(world, 0)
    for number in range(count):
        world.submit(f"j{number}", hours=1, **QUEUED, **no_suspension())
    changes = dict.fromkeys(world.core.book.jobs, 0)
    for number in range(1, MAX_REPLANS + 40):
        before = {one: job.plan for one, job in world.core.book.jobs.items()}
        flipped(world, number)
        for one, job in world.core.book.jobs.items():
            changes[one] += job.plan.segments != before[one].segments
    for one, job in world.core.book.jobs.items():
        assert job.replans == changes[one] == MAX_REPLANS
        assert world.job(one).replans == MAX_REPLANS  # and the store has it
        assert world.kinds(one).count("planned") == 1 + MAX_REPLANS


def ahead_of(job, now_s):
    """What a job is still to do, where and when; a stretch that has begun only by its place."""
    plan = job.plan
    return [] if plan is None else [(s.node, max(s.start_s, now_s)) for s in plan.segments if s.end_s > now_s]


@pytest.mark.parametrize("seed", range(4))
def test_a_job_that_pauses_is_moved_so_often_and_no_more_whatever_each_hour_says(seed):
    """Each exit counts as well: what was planned for later is replaced there, too."""
    world, chance, moves = World(nodes={"de-1": a_node(), "de-2": a_node("de-2")}), Random(seed), 0
    world.do(ForecastArrived({"DE": hourly("DE", *[400, 400, 400, 50] * 100)}))
    world.submit(hours=100, deadline_h=380)
    for quarter in range(4 * 370):
        if quarter % 4 == 0:
            values = [chance.choice([50, 100, 200, 400, 800]) for _ in range(400)]
            world.do(ForecastArrived({"DE": hourly("DE", *values, start_s=world.now_s)}))
        before = ahead_of(world.core.book.jobs["j"], world.now_s)
        world.tick()
        attempt = world.core.book.jobs["j"].live_attempt
        if attempt and attempt.state is AttemptState.LAUNCHING:
            world.started(number=attempt.number)
            world.progressed(None, number=attempt.number, productive_s=world.now_s)
        elif attempt and attempt.state is AttemptState.PAUSING:
            world.exited(75, number=attempt.number)
        job = world.core.book.jobs["j"]
        moves += ahead_of(job, world.now_s) != before
        begun_s = job.live_attempt.started_s if job.live_attempt else None
        if begun_s is not None and job.productive_s + world.now_s + SLOT_S - begun_s >= 100 * HOUR_S:
            break
        world.now_s += SLOT_S
    assert len(job.attempts) > 20
    assert moves == job.replans <= MAX_REPLANS


def settled(world, job_id="j"):
    """A job whose plan was replaced often enough."""
    job = world.core.book.jobs[job_id]
    world.core.book.jobs[job_id] = job = a_job(job.spec, job_id, plan=job.plan, replans=MAX_REPLANS)
    return job


def test_who_was_planned_often_enough_keeps_its_plan_whoever_asks(monkeypatch):
    world = World(nodes={"de-1": a_node()})
    flipped(world, 0)
    world.submit(hours=1, **QUEUED, **no_suspension())
    job = settled(world)
    flipped(world, 1)
    assert not replan_all(world.core.book, world.now_s, 0.0)
    monkeypatch.setattr(world.core.book, "lift", pytest.fail)
    assert not world.core._line._hold_market(world.now_s)
    assert world.core.book.jobs["j"].plan is job.plan
    world.core.book.jobs["j"] = a_job(job.spec, plan=job.plan, replans=MAX_REPLANS - 1)
    assert replan_all(world.core.book, world.now_s, 0.0)
    assert world.core.book.jobs["j"].plan.segments != job.plan.segments


def test_without_its_node_it_gets_another_plan_all_the_same():
    world = World(nodes={name: a_node(name) for name in ("de-1", "de-2")})
    flipped(world, 0)
    world.submit(hours=1, **QUEUED)
    job = settled(world)
    world.do(NodeLost(job.plan.segments[0].node))
    world.tick(hours=1)
    (place,) = shape(world.core.book.jobs["j"].plan)
    assert place[0] != job.plan.segments[0].node


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"replans": MAX_REPLANS - 1}, False),
        ({"plan": None}, False),
        ({"spec": a_spec(1, 0.5)}, False),  # it is late
        ({"spec": a_spec(1, 8, policy="run-now")}, False),
    ],
)
def test_who_is_settled(changes, expected):
    world = World(hourly("DE", *[300] * 24), nodes={"de-1": a_node()})
    world.submit(hours=1, deadline_h=8, not_before_s=T0)
    plan = world.core.book.jobs["j"].plan
    assert isinstance(plan, Plan)
    job = a_job(**{"spec": a_spec(1, 8), "plan": plan, "replans": MAX_REPLANS, **changes})
    assert is_settled(job) is expected


# -- places of others --------------------------------------------------------------------------------------------------


def test_who_runs_leaves_for_one_of_a_higher_priority_that_cannot_wait():
    """The last one runs first, in pieces; nothing is left for it in time, and the second one has no slack at all."""
    asked = [(2.5, 0.5, 3.25, HIGH), (0.75, 1.0, 1.75, HIGH), (0.5, 1.25, 2.75, 1)]
    jobs = [
        a_submission(f"j{number}", 0, hours, deadline_h, priority=priority, not_before_s=T0 + begin_h * HOUR_S)
        for number, (begin_h, hours, deadline_h, priority) in enumerate(asked)
    ]
    done = ends_h(jobs, hours=24)
    assert done.keys() == {"j0", "j1", "j2"}
    assert done["j1"] <= 1.75
