"""Room by both: what jobs hold is not free to replicas, what replicas hold or were granted is not free to jobs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planning_cases import CONFIG, HOUR_S, T0, a_node, hourly

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.events import AttemptStarted, ForecastArrived, ForeignUse, JobSubmitted, NodeJoined, Tick
from eco_ray.core.grants import Grant, Grants, held_by_others
from eco_ray.core.jobs import JobSpec
from eco_ray.core.orchestrator import Orchestrator, OrchestratorConfig
from eco_ray.core.power import PowerCurve
from eco_ray.core.replica_places import plan_replicas
from eco_ray.on_ray.serving.rooms import rooms_of

GPU_NODE = Node("g", "DE", Resources(16.0, 2.0, 64.0, 80.0), PowerCurve((0.0, 1.0), (100.0, 300.0), "test"))


def core(*nodes, now_s=T0):
    made = Orchestrator("DE", now_s, OrchestratorConfig(CONFIG))
    for node in nodes:
        made.handle(NodeJoined(node), now_s)
    made.handle(ForecastArrived({"DE": hourly("DE", *[300] * 60)}), now_s)
    return made


def runs(made, job_id, demand):
    spec = JobSpec("train", "run", T0 + 20 * HOUR_S, demand, policy="run-now", expected_duration_s=HOUR_S)
    actions = made.handle(JobSubmitted(job_id, spec), T0)
    if actions:
        made.handle(AttemptStarted(job_id, 1), T0)
    return bool(actions)


def granted(demand, model="m", hours=2.0, node="g"):
    return Grant(model, node, "DE", demand, T0, T0 + hours * HOUR_S)


# -- replicas, then jobs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replicas", "job", "fits"),
    [
        ((Resources(1.0, 0.5),), Resources(1.0, 1.5), True),
        ((Resources(1.0, 0.5), Resources(1.0, 0.5)), Resources(1.0, 1.0), True),
        ((Resources(1.0, 0.6), Resources(1.0, 0.6)), Resources(1.0, 0.4), False),  # each has a GPU of its own
        ((Resources(1.0, 0.6),), Resources(1.0, 1.0), True),
        ((Resources(1.0, 0.25, 0.0, 30.0),), Resources(1.0, 0.25, 0.0, 30.0), True),  # on the other GPU
        ((Resources(1.0, 0.25, 0.0, 30.0), Resources(1.0, 0.25, 0.0, 30.0)), Resources(1.0, 0.25), False),
        ((Resources(1.0, 0.25, 0.0, 10.0), Resources(1.0, 0.25, 0.0, 10.0)), Resources(1.0, 0.5, 0.0, 20.0), True),
        ((Resources(15.5),), Resources(1.0), False),
    ],
)
def test_what_is_granted_to_replicas_is_not_free_to_jobs(replicas, job, fits):
    made = core(GPU_NODE)
    for demand in replicas:
        made.book.grant(granted(demand))
    assert runs(made, "j", job) is fits


@given(st.lists(st.sampled_from([0.25, 1 / 3, 0.5, 0.6, 1.0]), max_size=4), st.sampled_from([0.25, 0.5, 0.6, 1.0]))
def test_whether_a_replica_holds_its_grant_or_not_the_same_is_left(parts, job):
    """Before it starts the grant keeps the room, and afterwards Ray's own count does: never both."""
    before, after = core(GPU_NODE), core(GPU_NODE)
    for made in (before, after):
        for part in parts:
            made.book.grant(granted(Resources(1.0, part)))
    after.handle(ForeignUse("g", Resources(1.0 * len(parts), sum(parts))), T0)
    assert after.book.free(GPU_NODE) == before.book.free(GPU_NODE)
    assert runs(after, "j", Resources(1.0, job)) is runs(before, "j", Resources(1.0, job))


def test_a_part_that_shares_its_gpu_with_nobody_keeps_all_of_it():
    made = core(GPU_NODE)
    made.book.grant(granted(Resources(1.0, 0.6)))
    assert made.book.free(GPU_NODE).gpus == 1.0


def test_what_others_held_before_is_not_the_replicas():
    grants = Grants()
    grants.add(granted(Resources(2.0)), Resources(1.0))
    assert grants.taken(GPU_NODE, Resources(1.0)) == Resources()
    assert grants.taken(GPU_NODE, Resources(2.5)) == Resources(1.5)
    assert grants.others(GPU_NODE, Resources(5.0)) == Resources(3.0)  # one before, and two that came since
    grants.saw("g", Resources(0.5))
    assert grants.others(GPU_NODE, Resources(2.5)) == Resources(0.5)


def test_a_grant_that_is_over_leaves_what_the_replica_holds_to_others():
    made = core(a_node("n", "DE", 2.0))
    grant = granted(Resources(1.0), node="n")
    made.book.grant(grant)
    made.handle(ForeignUse("n", Resources(1.0)), T0)
    made.book.withdraw(grant)
    assert made.book.free(made.book.nodes["n"]).cpus == 1.0
    assert made.book.others(made.book.nodes["n"]) == Resources(1.0)


def test_grants_are_kept_as_plain_values():
    grants, again = Grants(), Grants()
    for demand in (Resources(2.0), Resources(1.0, 0.5, 0.0, 8.0)):
        grants.add(granted(demand), Resources(1.0))
    again.restore(json.loads(json.dumps(grants.to_json())))
    assert (list(again), again.to_json()) == (list(grants), grants.to_json())


# -- what others hold ------------------------------------------------------------------------------------------------

HALF = Resources(1.0, 0.5, 8.0, 20.0)


@pytest.mark.parametrize(
    ("given", "ours", "each", "held"),
    [
        (Resources(3.0, 1.0, 30.0), Resources(1.0, 1.0, 10.0, 40.0), [], Resources(2.0, 0.0, 20.0)),
        (Resources(2.0, 1.0, 16.0), Resources(), [HALF, HALF], HALF + HALF),
        (Resources(2.0, 1.2), Resources(), [Resources(1.0, 0.6)] * 2, Resources(2.0, 2.0)),  # a GPU each
        (Resources(2.0, 1.2), Resources(), [], Resources(2.0, 1.25)),  # nobody knows whose
        (Resources(3.0, 0.75), Resources(), [Resources(1.0, 0.25)] * 3, Resources(3.0, 0.75)),
        (Resources(1.0, 0.5, 8.0), Resources(), [HALF, HALF], HALF),  # one has just ended
        (Resources(2.0, 1.0), Resources(2.0, 1.0), [Resources(1.0, 1.0)], Resources()),  # of our attempt
        (Resources(1.0), Resources(2.0), [], Resources()),  # it is being launched
        (Resources(1.0, 0.25), Resources(), [Resources(1.0, 0.25, 0.0, 30.0)], Resources(1.0, 1.0, 0.0, 30.0)),
    ],
)
def test_what_others_hold_has_the_memory_and_the_parts_of_each(given, ours, each, held):
    assert held_by_others(given, ours, each, GPU_NODE.capacity) == held


@pytest.mark.parametrize(
    ("held", "job", "fits"),
    [
        (Resources(memory_gb=60.0), Resources(1.0, memory_gb=4.0), True),
        (Resources(memory_gb=60.0), Resources(1.0, memory_gb=4.1), False),
        (Resources(1.0, 1.0, 0.0, 40.0), Resources(1.0, 1.0, 0.0, 40.0), True),
        (Resources(1.0, 0.5, 0.0, 70.0), Resources(1.0, 0.0, 0.0, 20.0), False),
        (Resources(1.0, 2.0), Resources(1.0, 0.25), False),
    ],
)
def test_no_job_is_planned_on_what_replicas_hold(held, job, fits):
    made = core(GPU_NODE)
    made.handle(ForeignUse("g", held), T0)
    assert runs(made, "j", job) is fits
    if not fits:
        made.handle(ForeignUse("g", Resources()), T0)
        made.handle(Tick(), T0 + 1.0)
        assert made.book.jobs["j"].live_attempt is not None  # as soon as it is free


@given(st.lists(st.sampled_from([0.25, 1 / 3, 0.5, 0.6, 1.0]), max_size=4), st.sampled_from([0.25, 0.5, 0.6, 1.0]))
def test_a_job_has_room_beside_the_parts_of_others_on_whatever_gpus_these_are(parts, job):
    free = [1.0, 1.0]
    there = [part for part in parts if (at := _first(free, part)) is not None and _take(free, at, part)]
    each = [Resources(1.0, part) for part in there]
    made = core(GPU_NODE)
    held = held_by_others(sum(each, Resources()), Resources(), each, GPU_NODE.capacity)
    made.handle(ForeignUse("g", held), T0)
    if runs(made, "j", Resources(1.0, job)):
        assert _first(free, job) is not None


def _first(free, part):
    return next((at for at, left in enumerate(free) if left >= part - 1e-9), None)


def _take(free, at, part):
    free[at] -= part
    return True


# -- jobs, then replicas ---------------------------------------------------------------------------------------------


def rooms(made, held, model=""):
    return rooms_of(made.book, {"g": held}, {"DE": 300.0}.get, model)


def test_the_gpu_memory_of_a_job_is_not_free_to_replicas():
    """Ray counts the half that the job holds; it takes 30 of the 40 GB of that GPU."""
    made = core(GPU_NODE)
    assert runs(made, "j", Resources(1.0, 0.5, 0.0, 30.0))
    (room,) = rooms(made, Resources(1.0, 0.5))
    assert room.held == Resources(1.0, 1.0)
    assert (room.node, room.intensity_g_per_kwh) == (GPU_NODE, 300.0)
    assert len(plan_replicas([room], Resources(1.0, gpu_memory_gb=20.0), 0, 9).places) == 2
    # one without GPU memory leaves the other half
    made = core(GPU_NODE)
    assert runs(made, "j", Resources(1.0, 0.5))
    assert len(plan_replicas(rooms(made, Resources(1.0, 0.5)), Resources(1.0, gpu_memory_gb=20.0), 0, 9).places) == 3


def test_nodes_that_are_asleep_are_empty_and_as_clean_as_their_zone():
    made = core(GPU_NODE)
    told = [a_node("away", "FR", 2.0), GPU_NODE]  # the second has come since somebody looked
    there, away = rooms_of(made.book, {"g": Resources(1.0)}, {"DE": 300.0, "FR": 20.0}.get, asleep=told)
    assert (there.node.name, there.held, there.asleep) == ("g", Resources(1.0), False)
    assert (away.node.name, away.held, away.intensity_g_per_kwh, away.asleep) == ("away", Resources(), 20.0, True)


def test_room_that_is_granted_to_another_model_is_not_free():
    made = core(GPU_NODE)
    made.book.grant(granted(Resources(2.0, 1.0)))
    assert rooms(made, Resources(), "m")[0].held == Resources()
    assert rooms(made, Resources(), "other")[0].held == Resources(2.0, 1.0)
    made.handle(ForeignUse("g", Resources(2.0, 1.0)), T0)  # its replica is there
    assert rooms(made, Resources(2.0, 1.0), "other")[0].held == Resources(2.0, 1.0)
