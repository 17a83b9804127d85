"""Jobs leave room to replicas that a latency objective needs, and take it back: whom, when, in which words."""

from __future__ import annotations

import pytest
from orchestrator_world import World, with_config
from planning_cases import HOUR_S, T0, a_node, hourly, no_suspension

from eco_ray.core.cluster import Resources
from eco_ray.core.events import ForeignUse, NeededReplica, NodeJoined, NodeLost, ServingNeeds
from eco_ray.core.jobs import JobState, SuspendRule, Workers
from eco_ray.core.needs import NeedsConfig
from eco_ray.core.unblock import prospect

FLAT = hourly("DE", *[300] * 60)
ONE, TWO = NeededReplica(Resources(1.0)), NeededReplica(Resources(2.0))
#: an elastic job takes as many workers as it can, while power is clean
CLEAN_NOW = hourly("DE", *[100] * 4, *[300] * 40)
#: nothing lingers, so that a test sees the end of a need at once
AT_ONCE = NeedsConfig(linger_s=0.0)
#: on one worker at once, to be done in ten hours
JOB = {"hours": 2, "deadline_h": 10, "policy": "run-now"}
ELASTIC = {**JOB, "workers": Workers(1, 4), "policy": "eco", "hours": 8, "deadline_h": 20}


def world(*names, cpus=4.0, needs=AT_ONCE, series=FLAT, **config):
    nodes = {name: a_node(name, "DE", cpus) for name in names or ("n",)}
    return World(series, nodes=nodes, config=with_config(needs=needs, **config))


def need(*replicas, model="m", hours=2.0, slo=0.2):
    until_s = None if hours is None else T0 + hours * HOUR_S
    return ServingNeeds(model, replicas, until_s, slo)


def where(world, model="m"):
    return [one["node"] for one in world.core.needs.facts(model, world.now_s)["granted"]]


def why_not(world, model="m"):
    facts = world.core.needs.facts(model, world.now_s)
    return facts["reason"], facts["message"]


# -- whom ------------------------------------------------------------------------------------------------------------


def test_where_there_is_room_nobody_is_touched_and_no_job_takes_it():
    w = world(cpus=2)
    w.running("a", **JOB)
    assert w.do(need(ONE)) == []
    assert where(w) == ["n"]
    assert w.submit("b", **JOB) == []  # one CPU is free, and kept
    assert w.job("b").plan.start_s == T0 + 2 * HOUR_S


def test_an_elastic_job_runs_on_with_fewer_workers_and_grows_again_at_the_end():
    w = world(series=CLEAN_NOW)
    w.running("a", **{**ELASTIC, "hours": 12})  # 3 h on four
    assert w.job("a").live_attempt.workers == 4
    assert w.do(need(ONE, hours=1)) == ["ask a-a1"]
    assert "gives way to model m, which promised p95 200 ms" in w.said("a")[2]
    assert w.exited(75, "a") == ["clean a-a1", "start a-a2 on n"]
    assert w.job("a").live_attempt.workers == 3
    assert w.started("a", 2) == []
    assert w.said("a") == (
        "running",
        "Running",
        "runs on n in DE (attempt 2); with 3 of 4 workers, as it gives way to model m, which promised p95 200 ms",
    )
    assert w.tick(hours=1) == ["ask a-a2"]  # the need is over: it goes back to four
    assert w.exited(75, "a", 2) == ["clean a-a2", "start a-a3 on n"]
    w.started("a", 3)
    assert w.job("a").live_attempt.workers == 4
    assert "gives way" not in w.said("a")[2]


def test_an_elastic_job_gives_way_before_one_that_must_be_suspended_whatever_their_priorities():
    w = world(series=CLEAN_NOW)
    w.running("rigid", **{**JOB, "demand": Resources(2.0), "priority": 1})
    w.running("elastic", **{**ELASTIC, "workers": Workers(1, 2), "priority": 900})
    assert w.job("elastic").live_attempt.workers == 2
    assert w.do(need(ONE)) == ["ask elastic-a1"]


def test_the_lowest_priority_gives_way_then_what_adds_the_fewest_grams():
    w = world(cpus=3)
    for name, priority, hours in (("a", 500, 2), ("b", 100, 2), ("c", 500, 2)):
        w.running(name, **{**JOB, "priority": priority, "hours": hours})
    assert w.do(need(ONE)) == ["ask b-a1"]


def test_as_many_give_way_as_it_takes_and_no_more():
    w = world(cpus=3)
    for name in "abc":
        w.running(name, **JOB)
    assert len(w.do(need(TWO))) == 2


def test_a_job_that_waits_makes_room_before_one_that_runs():
    """The place that it was promised for cleaner hours is another one then, and nobody pauses."""
    w = world(cpus=2, series=hourly("DE", 300, 100, 110, 120, 130, *[300] * 40))
    w.running("a", **JOB)
    w.submit("b", hours=1, deadline_h=20)
    assert w.job("b").plan.start_s == T0 + HOUR_S
    assert w.do(need(ONE, hours=4)) == []
    assert where(w) == ["n"]
    assert w.job("b").plan.start_s == T0 + 2 * HOUR_S


# -- never -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (no_suspension(), "it may not be suspended (carbon.suspend.allow: false)"),
        ({"deadline_h": 3.5}, "would end after its deadline"),
        ({"suspend": SuspendRule(min_run_s=1800.0)}, "for at least 30 min after each start"),
    ],
)
def test_who_may_not_be_suspended_keeps_its_place_and_that_is_said(spec, why):
    w = world(cpus=1)
    w.running("a", **{**JOB, **spec})
    assert w.do(need(ONE)) == []
    reason, message = why_not(w)
    assert reason == "WaitingForCapacity"
    assert message.startswith("a replica of m has no room for 1 CPUs")
    assert why in message
    assert where(w) == []


def test_a_replica_that_fits_on_no_node_is_told_so():
    w = world(cpus=1)
    w.do(need(NeededReplica(Resources(2.0))))
    assert why_not(w)[1].endswith("no node that it may be on is large enough")
    w.do(need(NeededReplica(Resources(1.0), zones=("FR",))))
    assert why_not(w)[1].endswith("no node that it may be on is large enough")


def test_who_ignores_a_pause_request_keeps_its_place_and_the_next_one_gives_way():
    w = world(cpus=2)
    w.running("a", **{**JOB, "priority": 1})
    w.running("b", **JOB)
    assert w.do(need(ONE)) == ["ask a-a1"]
    assert w.tick(seconds=61) == []  # it runs on
    assert "ask b-a1" in w.tick(hours=0.25)


def test_what_could_not_be_met_is_tried_again_when_something_becomes_free():
    w = world(cpus=1)
    w.running("a", **{**JOB, **no_suspension()})
    w.do(need(ONE, hours=8))
    assert w.tick(seconds=1) == []
    assert where(w) == []
    w.exited(0, "a")
    w.tick(seconds=1)  # within the same slot
    assert (where(w), why_not(w)) == (["n"], ("", ""))


def test_an_elastic_job_does_not_shrink_into_its_deadline():
    """Three hours on four workers, to be done in three and a quarter; on three it takes four."""
    w = world(series=CLEAN_NOW)
    w.running("a", **{**ELASTIC, "hours": 12, "deadline_h": 3.25})
    assert w.job("a").live_attempt.workers == 4
    assert w.do(need(ONE, hours=3)) == []
    assert "job a would end after its deadline" in why_not(w)[1]


def test_who_is_late_keeps_its_place():
    w = world(cpus=1)
    w.running("first", **JOB, **no_suspension())
    w.submit("a", **{**JOB, "deadline_h": 3})
    w.tick(hours=1.9)
    w.exited(0, "first")
    w.tick(seconds=1)
    w.started("a")
    w.tick(hours=0.5)
    assert w.job("a").plan.end_s > T0 + 3 * HOUR_S
    assert w.do(need(ONE, hours=8)) == []
    assert "job a on n keeps its place: it is late" in why_not(w)[1]


def test_who_runs_longer_than_it_said_keeps_its_place():
    w = world(cpus=1)
    w.running("a", **{**JOB, "deadline_h": 40})
    for _ in range(10):
        w.tick(hours=0.25)
    assert w.do(need(ONE, hours=8)) == []
    assert "how long it still takes is unknown" in why_not(w)[1]


# -- afterwards ------------------------------------------------------------------------------------------------------


def suspended(w, hours=2.0):
    w.running("a", **JOB)
    assert w.do(need(ONE, hours=hours)) == ["ask a-a1"]
    w.exited(75, "a")


def test_it_shrinks_also_where_leaving_takes_a_while():
    """The plan began before it has left; what it wants then is still fewer workers at once."""
    w = world(series=CLEAN_NOW)
    w.running("a", **{**ELASTIC, "hours": 12})
    w.do(need(ONE, hours=1))
    w.now_s += 20.0
    assert w.exited(75, "a") == ["clean a-a1", "start a-a2 on n"]
    job = w.job("a")
    assert job.live_attempt.workers == 3
    first = job.plan.segments[0]
    assert (first.workers, first.end_s) == (3, T0 + HOUR_S)


def test_it_grows_again_when_the_need_ends_before_its_time():
    w = world(series=CLEAN_NOW)
    w.running("a", **{**ELASTIC, "hours": 12})
    w.do(need(ONE, hours=3))
    w.exited(75, "a")
    w.started("a", 2)
    assert w.job("a").live_attempt.workers == 3
    w.tick(hours=0.5)
    w.do(ServingNeeds("m"))
    assert w.tick() == ["ask a-a2"]
    w.exited(75, "a", 2)
    assert w.job("a").live_attempt.workers == 4


def test_a_suspended_job_says_why_and_until_when():
    w = world(cpus=1)
    suspended(w)
    state, reason, message = w.said("a")
    assert (state, reason) == ("suspended", "Suspended")
    assert message.startswith("gives way to model m, which promised p95 200 ms; starts 2026-07-05 14:00 UTC on n in DE")
    assert prospect(w.job("a"), w.now_s).unblock == (
        "it goes on by itself at 14:00 UTC on n, or as soon as the model gives its room back"
    )


def test_it_goes_on_when_the_need_is_over():
    w = world(cpus=1)
    suspended(w)
    assert w.tick(hours=0.5) == []
    w.do(ServingNeeds("m"))
    assert w.tick() == ["start a-a2 on n"]
    w.started("a", 2)
    assert w.said("a")[2] == "runs on n in DE (attempt 2)"


def test_it_goes_on_when_the_time_is_over_that_was_asked_for():
    w = world(cpus=1)
    suspended(w)
    assert w.tick(hours=1.9) == []
    assert w.tick(hours=0.1) == ["start a-a2 on n"]


def test_a_replica_in_its_room_is_not_counted_twice():
    w = world(cpus=2)
    w.running("a", **JOB)
    w.running("b", **JOB)
    (asked,) = w.do(need(ONE))
    w.exited(75, asked[4])
    w.do(ForeignUse("n", Resources(1.0)))
    other = "b" if asked[4] == "a" else "a"
    assert w.tick() == []
    assert w.job(other).state is JobState.RUNNING
    # the need is over, and the replica runs on: nothing to go on with
    w.do(ServingNeeds("m"))
    assert w.tick() == []
    w.do(ForeignUse("n", Resources()))
    assert w.tick(seconds=1) == [f"start {asked[4]}-a2 on n"]


def test_a_need_without_an_end_lasts_as_long_as_the_job_can_wait():
    """An hour at a time; then the job must go on, and the model is told until when it has the room."""
    w = world(cpus=1, needs=NeedsConfig(assumed_s=HOUR_S, linger_s=0.0))
    w.running("a", **{**JOB, "deadline_h": 6})
    w.do(need(ONE, hours=None))
    w.exited(75, "a")
    started_s = None
    for _ in range(40):
        if "start a-a2 on n" in w.tick(hours=0.25):
            started_s = w.now_s
            break
    assert started_s is not None
    assert 3 * HOUR_S <= started_s - T0 <= 4 * HOUR_S
    w.started("a", 2)
    assert w.job("a").plan.end_s <= T0 + 6 * HOUR_S


def test_needs_that_flap_suspend_a_job_once():
    w = world(cpus=1, needs=NeedsConfig(linger_s=900.0))
    suspended(w, hours=6)
    for _ in range(5):
        assert w.do(ServingNeeds("m")) == []
        assert w.tick(seconds=300) == []
        assert w.do(need(ONE, hours=6)) == []
        assert w.tick(seconds=60) == []
    assert len(w.job("a").attempts) == 1


def test_who_came_back_runs_until_that_has_paid():
    w = world(cpus=1)
    w.running("a", **{**JOB, "suspend": SuspendRule(resume_cost_s=60.0)})
    w.do(need(ONE, hours=0.5))
    w.exited(75, "a")
    assert w.tick(hours=0.5) == ["start a-a2 on n"]
    w.started("a", 2)
    assert w.do(need(ONE, hours=4)) == []
    assert "for at least 10 min after each start" in why_not(w)[1]
    assert w.tick(seconds=540) == []
    assert "ask a-a2" in w.tick(seconds=360)


def test_the_same_need_again_and_again_changes_nothing():
    w = world(cpus=1)
    suspended(w)
    before = len(w.log)
    for _ in range(3):
        assert w.do(need(ONE)) == []
    assert len(w.log) == before


def test_fewer_replicas_give_the_others_room_back():
    w = world(cpus=2)
    w.running("a", **JOB)
    w.running("b", **JOB)
    assert len(w.do(need(ONE, ONE))) == 2
    for name in "ab":
        w.exited(75, name)
    w.do(need(ONE))
    assert len(w.tick()) == 1


def test_a_node_that_goes_takes_its_grants_along_and_others_are_found():
    w = world("n", "o", cpus=1)
    w.running("a", **{**JOB, "priority": 900})
    w.running("b", **JOB)
    w.do(need(ONE))
    (node,) = where(w)
    w.exited(75, "b", outcome="exited")
    w.do(NodeLost(node))
    w.do(NodeJoined(a_node("p", "DE", 1.0)))
    w.tick(seconds=1)
    assert where(w) == ["p"]


def test_a_controller_that_starts_again_knows_what_was_granted():
    w = world(cpus=1)
    suspended(w)
    kept = w.core.needs.take_news()
    other, actions = w.restored(kept)
    assert "start a-a2 on n" not in actions
    assert where(other) == ["n"]
    assert other.tick(hours=0.5) == []
    assert other.do(need(ONE)) == []
    other.do(ServingNeeds("m"))
    assert other.tick() == ["start a-a2 on n"]


def test_the_same_events_give_the_same_actions_again():
    w = world("n", "o", cpus=2)
    for name in "abcd":
        w.running(name, **{**JOB, "priority": ord(name)})
    w.do(need(ONE, TWO, hours=3))
    for name in "abcd":
        if f"{name}-a1" in w.launched and w.launched[f"{name}-a1"].asked:
            w.exited(75, name)
    w.do(ForeignUse("n", Resources(1.0)))
    for _ in range(14):
        w.tick(hours=0.25)
    w.do(ServingNeeds("m"))
    w.tick(hours=0.25)
    w.replayed()
