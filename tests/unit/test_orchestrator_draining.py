"""A node that is being emptied: nothing new goes there, who can pause leaves and goes on elsewhere, nobody is lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from orchestrator_world import DE, FLAT, FR, NODES, World
from planning_cases import T0, no_suspension

from eco_ray.core.events import NodeDraining, NodeJoined, NodeKept, NodeLost
from eco_ray.core.jobs import SuspendRule

EMPTIED = NodeDraining("de-1")


def test_a_running_job_pauses_and_goes_on_elsewhere():
    world = World(DE, FR)
    world.running(hours=2, policy="run-now")
    assert world.job().live_attempt.node == "de-1"
    world.progressed(0.4, productive_s=T0)
    assert world.do(EMPTIED, after_s=600.0) == ["ask j-a1"]
    assert world.said()[2] == "pauses: de-1 is being emptied, it goes on elsewhere"
    for _ in range(3):  # told at each look; asked once
        assert world.do(EMPTIED, after_s=1.0) == []
    assert world.exited(75) == ["clean j-a1", "start j-a2 on fr-1"]
    assert world.job().retries == 0


def test_nothing_new_goes_there_and_what_was_planned_there_gets_another_place():
    world = World(DE, FR)
    world.submit("waits", hours=1)
    assert world.job("waits").plan.segments[0].node == "de-1"
    world.do(EMPTIED)
    assert world.said("waits")[2] == "had its place on de-1, which is being emptied; it gets another one"
    assert world.tick() == ["start waits-a1 on fr-1"]
    assert world.submit("new", policy="run-now") == ["start new-a1 on fr-1"]


@pytest.mark.parametrize("spec", [no_suspension(), {"suspend": SuspendRule()}])
def test_a_job_that_cannot_leave_runs_on_to_its_end(spec):
    world = World(DE, FR)
    world.running(hours=2, policy="run-now", **spec)
    asked = world.do(EMPTIED)
    if spec["suspend"].allow:
        assert asked == ["ask j-a1"]
        world.tick(seconds=61)  # it ignores that
        assert not world.job().pausable
    else:
        assert asked == []
    for _ in range(12):
        assert world.do(EMPTIED, after_s=900.0) == []
        assert world.tick() == []
    assert world.exited(0) == ["clean j-a1 for good"]
    assert world.said()[0] == "succeeded"


@pytest.mark.parametrize("spec", [{}, no_suspension()])
@pytest.mark.parametrize("outcome", ["lost", "stopped", "refused"])
def test_a_job_that_is_being_launched_there_is_launched_elsewhere_at_once(spec, outcome):
    world = World(DE, FR)
    world.submit(policy="run-now", **spec)
    assert world.do(EMPTIED) == ["stop j-a1"]
    assert world.said()[2] == "is not launched on de-1, which is being emptied; it gets another place"
    assert world.do(EMPTIED, after_s=1.0) == []  # told at each look; taken back once
    if outcome == "stopped":
        world.started()  # Ray had begun it a moment before
    assert world.exited(outcome=outcome) == ["clean j-a1", "start j-a2 on fr-1"]
    assert (world.job().retries, world.job().productive_s) == (0, 0.0)


def test_a_launch_that_ends_well_before_it_is_taken_back_is_not_repeated():
    world = World(DE, FR)
    world.submit(policy="run-now")
    world.do(EMPTIED)
    assert world.exited(0) == ["clean j-a1 for good"]


def test_a_node_that_is_not_emptied_after_all_takes_jobs_again():
    world = World(FLAT, nodes={"de-1": NODES["de-1"]})
    world.submit(policy="run-now", not_before_s=T0 + 60.0)
    world.do(EMPTIED)
    assert world.tick(seconds=61) == []
    world.do(NodeKept("fr-1"))  # of which nobody said so
    assert world.tick() == []
    world.do(NodeKept("de-1"))
    assert world.tick() == ["start j-a1 on de-1"]


def test_a_node_that_comes_back_takes_jobs_again_and_one_that_is_measured_anew_does_not():
    node = replace(NODES["de-1"], ray_node_id="old")
    world = World(FLAT, nodes={"de-1": node})
    world.submit("a", policy="run-now", not_before_s=T0 + 60.0)
    world.do(EMPTIED)
    world.do(NodeJoined(replace(node, wake_j=1.0)))
    assert world.tick(seconds=61) == []
    world.do(NodeJoined(replace(node, ray_node_id="new")))
    assert world.tick() == ["start a-a1 on de-1"]
    world.exited(0, job_id="a")
    world.do(EMPTIED)
    world.do(NodeLost("de-1"))
    world.do(NodeJoined(node))
    assert world.submit("b", policy="run-now") == ["start b-a1 on de-1"]


def test_a_drain_of_a_node_that_nobody_knows_changes_nothing():
    world = World(DE, FR)
    assert world.do(NodeDraining("what")) == []
    assert world.core.book.closed == set()
