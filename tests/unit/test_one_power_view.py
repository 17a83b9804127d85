"""Jobs and replicas are placed by the same grams: one power function of a node, one PUE, one intensity, both ways."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planning_cases import HOUR_S, SLOT_S, T0, a_situation, a_spec, hourly

from eco_ray.core.calendar import Calendar
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.jobs import Segment
from eco_ray.core.power import PowerCurve
from eco_ray.core.replica_places import Room, added_g_per_h

BENT = Node("n", "DE", Resources(8.0, 4.0, 64.0, 160.0), PowerCurve((0.0, 0.5, 1.0), (60.0, 90.0, 200.0), "test"))
SLEEPS = replace(BENT, sleeps=True, wake_j=36_000.0)

watts = st.lists(st.integers(0, 400).map(float), min_size=3, max_size=3).map(lambda w: tuple(sorted(w)))
nodes = st.builds(
    lambda watts, pue, sleeps, gpu_w: Node(
        "n",
        "DE",
        Resources(8.0, 4.0, 64.0),
        PowerCurve((0.0, 0.5, 1.0), watts, "test"),
        pue,
        gpu_idle_w=20.0,
        gpu_busy_w=20.0 + gpu_w,
        sleeps=sleeps,
    ),
    watts,
    st.sampled_from([1.0, 1.2, 1.8]),
    st.booleans(),
    st.sampled_from([0.0, 280.0]),
)
amounts = st.builds(Resources, st.sampled_from([0.0, 0.5, 1.0, 3.0]), st.sampled_from([0.0, 0.5, 1.0]))


def job_g_per_h(node, demand, *, replicas=Resources(), jobs=()):  # noqa: B008
    """What the planner counts for an hour of a job beside replicas and the plans of other jobs [g]."""
    situation = a_situation(hourly("DE", 400, 400), nodes=[node], foreign={node.name: replicas})
    for other in jobs:
        situation.calendar.reserve(Segment(node.name, "DE", T0, T0 + 2 * HOUR_S), other)
    spec = a_spec(demand=demand)
    return situation.plan_g([Segment(node.name, "DE", T0, T0 + HOUR_S)], spec)[1]


@given(nodes, amounts, amounts)
def test_a_job_beside_replicas_adds_what_a_replica_beside_jobs_adds(node, mine, others):
    as_replica = added_g_per_h(Room(node, others, 400.0), mine)
    assert job_g_per_h(node, mine, replicas=others) == pytest.approx(as_replica)
    assert job_g_per_h(node, mine, jobs=[others]) == pytest.approx(as_replica)


@pytest.mark.parametrize("held", [Resources(gpus=0.5), Resources(cpus=1.0), Resources(cpus=1.0, gpus=1.0)])
def test_a_node_that_replicas_keep_awake_wakes_for_no_job(held):
    """Whatever kind they hold: one with a part of a GPU and no CPU keeps its node on, too."""
    alone, beside = job_g_per_h(SLEEPS, Resources(1.0)), job_g_per_h(SLEEPS, Resources(1.0), replicas=held)
    assert alone - beside == pytest.approx(SLEEPS.idle_w * 0.4)
    calendar = Calendar(SLOT_S, [SLEEPS], int(T0 // SLOT_S))
    place = calendar.fleet.place_of("n")
    assert calendar.idle(place, int(T0 // SLOT_S), 2).all()
    calendar.set_foreign("n", held)
    assert not calendar.idle(place, int(T0 // SLOT_S), 2).any()


def test_the_node_that_is_on_is_taken_before_the_one_that_sleeps():
    """A job goes beside the replicas, and a replica beside the job."""
    first, second = replace(SLEEPS, name="a"), replace(SLEEPS, name="b")
    situation = a_situation(hourly("DE", 400, 400), nodes=[first, second], foreign={"b": Resources(gpus=1.0)})
    places = situation.fleet.places((), Resources(1.0))
    added = [float(np.mean(situation.added_w(place, Resources(1.0), int(T0 // SLOT_S), 4))) for place in places]
    assert added[1] < added[0]
    beside = added_g_per_h(Room(second, Resources(cpus=1.0), 400.0), Resources(gpus=1.0))
    assert beside < added_g_per_h(Room(first, Resources(), 400.0), Resources(gpus=1.0))


def test_on_a_curve_that_bends_down_company_is_cheaper_and_on_one_that_bends_up_dearer():
    down = replace(BENT, power=PowerCurve((0.0, 0.5, 1.0), (60.0, 150.0, 200.0), "test"))
    for node, sign in ((down, -1), (BENT, 1)):
        alone, beside = job_g_per_h(node, Resources(1.0)), job_g_per_h(node, Resources(1.0), replicas=Resources(4.0))
        assert (beside - alone) * sign > 0
