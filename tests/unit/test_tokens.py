"""Tokens that say more than that a job waits, from an orchestrator that came to them by itself."""

from __future__ import annotations

import pytest
from orchestrator_world import FLAT, World
from planning_cases import HOUR_S, T0, a_node, a_spec, hourly, no_suspension

from eco_ray.core.cluster import Resources
from eco_ray.core.dry_run import dry_run
from eco_ray.core.events import ForecastArrived, NodeJoined, NodeLost
from eco_ray.core.unblock import explain_job


def one_node(*series):
    return World(*series, nodes={"de-1": a_node()})


def explained(world, job_id="j"):
    return explain_job(world.job(job_id), world.now_s)


# -- SignalStale -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("series", [(), (hourly("DE", 300, 100),)], ids=["no forecast", "an expired one"])
def test_a_job_that_waits_and_was_planned_without_a_signal_says_so(series):
    world = one_node(*series)
    world.tick(hours=3)
    world.running("a", hours=2, deadline_h=20)
    assert world.said("a")[2] == (
        "runs on de-1 in DE (attempt 1); no forecast for DE is current, so it did not wait for cleaner power"
    )
    world.submit("b", hours=1, deadline_h=12)
    assert world.said("b") == (
        "queued",
        "SignalStale",
        "starts 2026-07-05 17:00 UTC on de-1 in DE, when a node is free; no forecast for DE is current, so it takes "
        "the earliest place",
    )
    assert explained(world, "b")["unblock"] == (
        "a new forecast for the cluster's zones: when one arrives is unknown, `eco-ray grid now` shows what is known; "
        "--policy run-now does not ask for one; without one it starts at 17:00 UTC"
    )
    clean = hourly("DE", *[300] * 3, 100, *[300] * 20, start_s=world.now_s)
    world.do(ForecastArrived({"DE": clean}))
    world.tick(hours=0.3)
    assert world.said("b")[1] == "WaitingForCleanerWindow"


def test_a_signal_for_one_of_its_zones_will_do():
    world = World(FLAT)  # nothing is known of FR
    world.running("a", hours=2, deadline_h=20, demand=Resources(1.0), zones=("DE",))
    world.submit("b", hours=1, deadline_h=20, zones=("DE", "FR"))
    assert "forecast" not in world.said("b")[2]
    world.running("f", hours=1, deadline_h=20, zones=("FR",))
    assert "no forecast for FR is current" in world.said("f")[2]


def test_a_forecast_that_ends_before_a_place_is_free_is_not_stale():
    world = one_node(hourly("DE", *[300] * 4))
    world.running("a", hours=6, deadline_h=20, **no_suspension())
    world.submit("b", hours=1, deadline_h=30)
    assert world.said("b")[1] == "WaitingForCapacity"


def test_who_asks_for_no_signal_misses_none():
    world = one_node()
    world.running("a", hours=2, deadline_h=20, policy="run-now")
    world.submit("b", hours=1, deadline_h=20, policy="run-now")
    assert world.said("b")[1] == "WaitingForCapacity"
    assert not any("forecast" in world.said(one)[2] for one in "ab")


# -- DeadlineInfeasible ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["eco", "run-now"])
def test_a_job_that_will_be_late_says_by_how_much_and_what_would_help(policy):
    world = one_node(FLAT)
    world.running("a", hours=7, deadline_h=8.2, **no_suspension())
    world.submit("b", hours=4, deadline_h=5, policy=policy)
    assert world.said("b")[1] == "DeadlineInfeasible"
    assert world.said("b")[2].endswith("; it ends 6 h after its deadline: nothing is free in time")
    assert explained(world, "b")["until"] == "2026-07-05T19:00:00Z"
    assert explained(world, "b")["unblock"] == (
        "1 CPUs, 0 GPUs, 0 GB memory must become free on one node in any zone, or such a node join, in time for its "
        "deadline; suspend a job that runs there, or cancel it and submit it again with a later deadline, a smaller "
        "demand or a priority above 500; by its plan it ends 6 h after its deadline"
    )
    assert dry_run(a_spec(4, 5), world.core, world.now_s)["reason"] == "DeadlineInfeasible"
    world.do(NodeJoined(a_node("de-2")))
    world.tick()
    world.started("b")
    assert world.said("b")[:2] == ("running", "Running")


def test_a_job_that_starts_late_says_so():
    world = one_node(FLAT)
    world.running("a", hours=7, deadline_h=8.2, **no_suspension())
    world.submit("b", hours=4, deadline_h=5)
    world.tick(hours=6)
    unblock = explained(world, "b")["unblock"]
    assert unblock.startswith(
        "the job needs 4 h and its deadline passed 1 h ago: submit it again with a later deadline"
    )


def test_without_any_place_up_to_the_deadline_no_plan_can_hold_it():
    world = one_node(FLAT)
    world.running("a", hours=200, deadline_h=201, **no_suspension())
    world.submit("b", hours=1, deadline_h=20)
    state, reason, message = world.said("b")
    assert (state, reason) == ("queued", "DeadlineInfeasible")
    assert message.endswith("so it starts when one becomes free, and that is after its deadline by what is known")
    assert "in time for its deadline" in explained(world, "b")["unblock"]
    world.submit("c", hours=1, deadline_h=150)  # nobody looked so far ahead
    assert world.said("c")[1] == "WaitingForCapacity"


# -- Misconfigured -----------------------------------------------------------------------------------------------------

LARGE = a_node("de-2", cpus=4.0)


@pytest.mark.parametrize(
    ("lost", "wish", "wanted"),
    [
        (LARGE, {"demand": Resources(3.0)}, "no node, even an empty one, has 3 CPUs, 0 GPUs, 0 GB memory"),
        (a_node("fr-1", "FR"), {"zones": ("FR",)}, "no node in FR is there"),
    ],
)
def test_a_job_that_no_node_could_take_any_more_says_so(lost, wish, wanted):
    world = World(FLAT, nodes={"de-1": a_node(), lost.name: lost})
    world.submit(hours=1, not_before_s=T0 + HOUR_S, **wish)
    world.do(NodeLost(lost.name))
    world.tick(hours=0.3)
    state, reason, message = world.said()
    assert (state, reason) == ("queued", "Misconfigured")
    assert message.startswith(wanted)
    assert explained(world)["unblock"] == (
        "a node that could take it must join, then it starts by itself; or mend what the message names: cancel it with "
        "`eco-ray job cancel j` and submit it again"
    )
    world.do(NodeJoined(lost))
    world.tick(hours=0.3)
    assert world.said()[1] != "Misconfigured"


def test_while_no_node_is_there_at_all_it_waits_for_one():
    world = one_node(FLAT)
    world.submit(hours=1, not_before_s=T0 + HOUR_S)
    world.do(NodeLost("de-1"))
    world.tick(hours=0.3)
    assert world.said()[1:] == (
        "WaitingForCapacity",
        "no node is there; it needs 1 CPUs, 0 GPUs, 0 GB memory and starts when one joins",
    )
