"""`job plan`: what would happen, and nothing does."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orchestrator_world import DE, FLAT, FR, World
from planning_cases import HOUR_S, T0, a_node, a_spec, hourly, no_suspension

from eco_ray.core.cluster import Resources
from eco_ray.core.dry_run import dry_run
from eco_ray.core.events import ForecastArrived, ForeignUse, JobSubmitted, NodeJoined, NodeLost, SuspendRequested
from eco_ray.core.fleet import Fleet
from eco_ray.core.jobs import SuspendRule, Workers
from eco_ray.core.market import Cleared
from eco_ray.errors import InfeasibleError, NotFoundError

#: not looked into: they do not change, but for what they remember of their own answers
UNCHANGING = (Fleet, Cleared, Enum, type, str, int, float, bool)


def state_of(thing, seen=None):
    """All that an orchestrator holds, in order and to the last bit, as values that can be compared."""
    seen = set() if seen is None else seen
    if thing is None or isinstance(thing, UNCHANGING):
        return thing
    if isinstance(thing, np.ndarray):
        return thing.shape, thing.tobytes()
    if id(thing) in seen:
        return "again"
    if isinstance(thing, Mapping):
        seen.add(id(thing))
        return [(key, state_of(value, seen)) for key, value in thing.items()]
    if isinstance(thing, list | tuple | set | frozenset | deque):
        seen.add(id(thing))
        return [state_of(value, seen) for value in thing]
    names = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    names = [name for name in names if hasattr(thing, name)] or list(getattr(thing, "__dict__", ()))
    seen.add(id(thing))
    # attributes without any are functions and counters
    return {name: state_of(getattr(thing, name), seen) for name in names} or repr(thing)


def iso(time_s):
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def stretches(plan):
    return [(s.zone, s.node, iso(s.start_s), iso(s.end_s), s.workers) for s in plan.segments] if plan else []


def told(segments):
    return [tuple(segment.values()) for segment in segments]


def asked_and_done(world, job_id="asked", **spec):
    """What the dry run says; then the job is submitted, and both have to agree."""
    world.core.take_changes()
    core, asked, before = world.core, a_spec(**spec), state_of(world.core)
    jobs = dict(core.book.jobs)
    said = dry_run(asked, core, world.now_s)
    assert state_of(core) == before
    assert all(core.book.jobs[one] is job for one, job in jobs.items())
    world.do(JobSubmitted(job_id, asked))
    job = core.book.jobs[job_id]
    assert told(said["segments"]) == stretches(job.plan)
    if job.live_attempt is None:
        assert (said["reason"], said["message"]) == (str(job.reason), job.message)
    if job.plan is not None:
        figures = job.plan.carbon_g, job.plan.added_g, job.plan.run_now_g
        assert (said["carbon_g"], said["added_g"], said["run_now_g"]) == figures
    moved = {one: job for one, job in jobs.items() if core.book.jobs[one].plan is not job.plan}
    assert {one["id"] for one in said["gives_way"]} == set(moved)
    for one in said["gives_way"]:
        old, new = moved[one["id"]], core.book.jobs[one["id"]]
        assert (one["name"], one["state"]) == (old.spec.name, str(old.state))
        over = sum(segment.end_s <= world.now_s for segment in old.plan.segments) if old.plan else 0
        assert (told(one["from"]), told(one["to"])) == (stretches(old.plan)[over:], stretches(new.plan))
    return said


# -- where others have to give way -------------------------------------------------------------------------------------

ONE = {"de-1": a_node("de-1")}
QUEUED = {"not_before_s": T0 + HOUR_S}
#: two clean hours, so that whoever may choose is there
CLEAN = hourly("DE", *[300, 100, 100], *[300] * 9)
#: of a job that would be late without them, in the second hour
TIGHT = no_suspension(hours=1, deadline_h=2, **QUEUED)


def planned(world):
    world.submit("loose", hours=1, deadline_h=8, **no_suspension(**QUEUED))
    world.submit("other", hours=1, deadline_h=8, **no_suspension(**QUEUED))


def one_that_runs(priority=400, deadline_h=8, **spec):
    def make(world):
        world.running("long", hours=4, deadline_h=deadline_h, priority=priority, **spec)
        world.tick(hours=1)

    return make


def one_hour(start_h, end_h, zone="DE", node="de-1"):
    return (zone, node, iso(T0 + start_h * HOUR_S), iso(T0 + end_h * HOUR_S), 1)


@pytest.mark.parametrize(
    ("series", "others", "spec", "place", "way"),
    [
        (CLEAN, planned, TIGHT, one_hour(1, 2), {"loose": ([one_hour(1, 2)], [one_hour(3, 4)])}),
        (
            FLAT,
            one_that_runs(),
            no_suspension(hours=1, deadline_h=2.1),
            one_hour(1, 2),
            {"long": ([one_hour(0, 4)], [one_hour(2, 5)])},
        ),
    ],
    ids=["planned", "runs, of lower priority"],
)
def test_who_would_give_way_is_told_as_a_submission_would_have_it(series, others, spec, place, way):
    world = World(series, nodes=ONE)
    others(world)
    said = asked_and_done(world, **spec)
    assert told(said["segments"]) == [place]
    assert "unblock" not in said
    assert {one["id"]: (told(one["from"]), told(one["to"])) for one in said["gives_way"]} == way


@pytest.mark.parametrize(
    "others",
    [
        one_that_runs(priority=501),
        one_that_runs(deadline_h=4.5),  # with an hour's pause it would be late
        one_that_runs(suspend=SuspendRule(False)),
        one_that_runs(suspend=SuspendRule(True, 2 * HOUR_S)),  # it has not run for long enough
        one_that_runs(policy="lowest-window"),
    ],
    ids=["higher priority", "tight", "not to be suspended", "minimum run", "another policy"],
)
def test_where_nobody_can_give_way_it_is_told_to_be_late(others):
    world = World(FLAT, nodes=ONE)
    others(world)
    said = asked_and_done(world, **no_suspension(hours=1, deadline_h=2.1))
    assert said["gives_way"] == []
    assert said["message"].endswith("after its deadline: nothing is free in time")
    assert "unblock" in said


def test_the_runners_up_are_planned_beside_what_the_others_would_have():
    """Beside what they have now, none would be in time."""
    world = World(hourly("DE", 300, 10, 300, 100, 250, *[300] * 7), nodes=ONE)
    world.submit("loose", hours=2, deadline_h=8, **no_suspension(**QUEUED))
    said = asked_and_done(world, **no_suspension(hours=0.5, deadline_h=3, **QUEUED))
    assert told(said["segments"]) == [one_hour(1, 1.5)]
    assert [told(one["to"]) for one in said["gives_way"]] == [[one_hour(3, 5)]]
    assert {other["what"]: told(other["segments"]) for other in said["alternatives"]} == {"later": [one_hour(2, 2.5)]}


def test_nodes_that_have_just_come_are_only_looked_at_by_the_copy():
    """The calendar is made anew when it is asked for, and its prices are lost then."""
    world = World(CLEAN, nodes=ONE)
    planned(world)
    world.core.handle(NodeJoined(a_node("de-2")), T0)
    before = state_of(world.core)
    dry_run(a_spec(**TIGHT), world.core, T0)
    assert state_of(world.core) == before


def test_a_place_that_others_still_hold_is_not_promised():
    """An attempt that outlived its plan: the calendar knows nothing of it, a start would fail."""
    world = World(FLAT, nodes=ONE)
    world.running("long", hours=1, **no_suspension())
    world.now_s += 1.5 * HOUR_S
    said = asked_and_done(world, hours=1)
    assert said["segments"] == said["gives_way"] == []
    assert said["message"].endswith("on de-1, which others still hold")


# -- any world ---------------------------------------------------------------------------------------------------------

NODES = {
    node.name: node
    for node in (a_node("d1", cpus=2.0, watts=200.0), a_node("d2", cpus=1.0), a_node("f1", "FR", cpus=2.0, watts=200.0))
}


def a_wish(chance, now_s, slack_h=(0.1, 10.0, 20.0, 30.0)):
    hours = chance.choice([0.25, 1.0, 2.0, chance.uniform(0.1, 4)])
    passed_h = (now_s - T0) / HOUR_S
    return {
        "hours": hours,
        "deadline_h": passed_h + hours + chance.choice(slack_h),
        "priority": chance.choice([100, 500, 500]),
        "demand": Resources(chance.choice([0.3, 1.0, 1.0, 2.0])),
        "workers": chance.choice([Workers(), Workers(), Workers(1, 2)]),
        "suspend": chance.choice([SuspendRule(), SuspendRule(), SuspendRule(False), SuspendRule(True, 600.0, 300.0)]),
        "policy": chance.choice([*["eco"] * 6, "run-now", "lowest-window"]),
        "not_before_s": chance.choice([0.0, 0.0, now_s + 0.1 * HOUR_S]),
        "budget_g": chance.choice([None, None, None, 40.0]),
    }


def a_forecast(chance, now_s):
    """Some clean hours come soon, so that all want them."""
    start_s = now_s // HOUR_S * HOUR_S
    values = [[chance.choice([50.0, 100.0, 250.0]), *(chance.choice([50.0, 400.0]) for _ in range(40))] for _ in "ab"]
    return {zone: hourly(zone, *row, start_s=start_s) for zone, row in zip(("DE", "FR"), values, strict=True)}


def goes_on(world, chance):
    """Something that happens besides submissions."""
    attempts = list(world.launched.values())
    what = chance.choice(["tick", *["start"] * 4, "leave", "done", "news", "foreign", "hold", "node"])
    if what == "tick":
        world.tick(seconds=chance.choice([0.2, 900.0, 3600.0, 5000.0]))
    elif what == "start":
        for attempt in attempts:
            if not attempt.running:
                world.started(attempt.job_id, attempt.number)
    elif what == "leave":
        for attempt in [one for one in attempts if one.asked]:
            world.exited(75, attempt.job_id, attempt.number)
    elif what == "done" and attempts:
        attempt = chance.choice(attempts)
        world.exited(0, attempt.job_id, attempt.number)
    elif what == "news":
        world.do(ForecastArrived(a_forecast(chance, world.now_s)))
    elif what == "foreign":
        world.do(ForeignUse("d1", Resources(chance.choice([0.0, 1.0]))))
    elif what == "hold" and world.core.book.jobs:
        world.do(SuspendRequested(chance.choice(sorted(world.core.book.jobs))))
    elif what == "node":
        world.do(NodeLost("f1") if "f1" in world.core.book.nodes else NodeJoined(NODES["f1"]))


def contended(chance, count):
    world = World(*a_forecast(chance, T0).values(), nodes=NODES)
    for number in range(count):
        goes_on(world, chance)
        if chance.random() < 0.7:
            attempt = JobSubmitted(f"j{number}", a_spec(**a_wish(chance, world.now_s)))
            try:
                world.do(attempt)
            except InfeasibleError:
                assert attempt.job_id not in world.core.book.jobs
    return world


def in_the_way(world, chance):
    """A job that has to run where and when another one would, which waits or runs."""
    spec = {**a_wish(chance, world.now_s), "policy": "eco", "priority": chance.choice([100, 500, 900])}
    places = [(job, job.plan.segments[-1]) for job in world.core.book.jobs.values() if job.plan is not None]
    if places:
        job, place = chance.choice(places)
        begin_s = max(world.now_s, place.start_s)
        hours = chance.choice([0.25, max(0.1, (place.end_s - begin_s) / HOUR_S)])
        spec |= {"hours": hours, "not_before_s": begin_s, "zones": chance.choice([(), (place.zone,)])}
        spec |= {"deadline_h": (begin_s - T0) / HOUR_S + hours + chance.choice([0.1, 0.5]), "demand": job.spec.demand}
    return spec


def checked(chance, count):
    """What the dry run said of one more job in a random world that is full; None: it was refused, as on submission."""
    world = contended(chance, count)
    spec = chance.choice([in_the_way, in_the_way, lambda world, chance: a_wish(chance, world.now_s)])(world, chance)
    try:
        return asked_and_done(world, **spec)
    except (InfeasibleError, NotFoundError) as error:
        with pytest.raises(type(error)):
            world.submit("asked", **spec)
        return None


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(4, 30))
def test_a_dry_run_is_the_plan_after_the_submission_in_any_world(chance, count):
    checked(chance, count)


def test_such_worlds_are_contended():
    """Else the property would show little."""
    outcomes: Counter[str] = Counter()
    for seed in range(60):
        said = checked(random.Random(seed), 12)
        if said is not None:
            outcomes["way" if said["gives_way"] else "late" if "unblock" in said else "in time"] += 1
    assert min(outcomes["way"], outcomes["late"], outcomes["in time"]) >= 3, outcomes


# -- what is told ------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_submitting_would_do_and_changes_nothing():
    said = asked_and_done(World(DE, FR), hours=2)
    assert said["gives_way"] == []
    assert {other["what"] for other in said["alternatives"]} <= {"now", "elsewhere", "later", "in one piece"}
    assert said["why"].startswith("saves 20 g (50%) against running now in DE; the runner-up, ")
    assert all(other["carbon_g"] >= said["carbon_g"] - 1e-9 for other in said["alternatives"])


def test_what_cannot_be_done_is_refused_as_on_submission():
    world = World(DE, FR)
    before = state_of(world.core)
    with pytest.raises(InfeasibleError, match="cannot finish by its deadline"):
        dry_run(a_spec(hours=5, deadline_h=2), world.core, T0)
    assert state_of(world.core) == before


def test_an_elastic_job_is_told_what_more_workers_would_emit():
    said = dry_run(a_spec(hours=4, workers=Workers(1, 2, (1.0, 1.2))), World(DE, FR).core, T0)
    more = {other["what"]: other for other in said["alternatives"]}["more workers"]
    assert {segment["workers"] for segment in more["segments"]} == {2}
    assert more["more_g"] > 0


def test_what_is_above_its_budget_is_told_what_would_help():
    said = asked_and_done(World(DE, FR), hours=1, budget_g=5.0, zones=("DE",))
    assert (said["reason"], said["segments"]) == ("ExceedsBudget", [])
    assert said["unblock"] == "it would have a plan with a larger budget (DE from 13:00 UTC, 10 g)"
    assert [other["what"] for other in said["alternatives"]] == ["a larger budget"]
