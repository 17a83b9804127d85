"""A deadline that can be kept with fewer moves is kept, whatever the grid says."""

from __future__ import annotations

from random import Random

import pytest
from planning_cases import CONFIG, HOUR_S, SLOT_S, T0, a_job, a_node, a_situation, a_spec, hourly

from eco_ray.core.cluster import Resources
from eco_ray.core.jobs import Plan, Segment, SuspendRule, Workers
from eco_ray.core.planner import plan_job

#: CPUs that are free in each slot: one of 78 minutes that may pause fits in before 90 with a move or two, not with more
FREE = {"d": (0, 2, 0, 1, 1, 0), "f": (2, 0, 2, 1, 1, 2)}


def world(by_node, intensities):
    """Nodes of two CPUs, of which others hold what is not free; intensities by node and slot."""
    nodes = [a_node(name, zone, cpus=2.0) for name, zone in zip(by_node, ("DE", "FR"), strict=False)]
    series = [hourly(n.zone, *values, step_s=SLOT_S) for n, values in zip(nodes, intensities, strict=True)]
    situation = a_situation(*series, nodes=nodes)
    for node in nodes:
        for slot, free in enumerate(by_node[node.name]):
            if free < 2:
                start_s = T0 + slot * SLOT_S
                situation.calendar.reserve(
                    Segment(node.name, node.zone, start_s, start_s + SLOT_S), Resources(2.0 - free)
                )
    return situation


@pytest.mark.parametrize("resume_s", [10.0, 60.0, 300.0])
def test_the_cheapest_slots_that_leave_no_time_for_resumes_are_left(resume_s):
    chance = Random(0)
    for _ in range(40):
        grid = [[chance.choice([50, 100, 300]) for _ in range(6)] for _ in FREE]
        spec = a_spec(4300 / 3600, 1.5, suspend=SuspendRule(True, 0.0, resume_s))
        found = plan_job(a_job(spec), world(FREE, grid), CONFIG)
        assert isinstance(found, Plan)
        assert found.end_s <= spec.deadline_s + 1e-3, grid


@pytest.mark.parametrize("slack_s", [0.0, 60.0, 600.0])
def test_a_deadline_within_a_slot_is_kept_with_the_part_of_it_that_is_left(slack_s):
    """30 minutes and one resume fit in before the deadline only if it begins in the first slot."""
    spec = a_spec(0.5, (3 * SLOT_S + 60.0 + slack_s) / HOUR_S, suspend=SuspendRule(True, 0.0, 60.0))
    found = plan_job(a_job(spec), world({"d": (2, 0, 2, 2, 2, 2)}, [[100] * 6]), CONFIG)
    assert found.start_s == T0
    assert found.end_s <= spec.deadline_s + 1e-3


def test_an_elastic_job_with_a_minimum_run_keeps_its_workers_where_changing_them_takes_too_long():
    free = {"d": (1, 0, 2, 2, 1, 0, 2, 0)}
    rule = SuspendRule(True, 1700.0, 300.0)
    spec = a_spec(4300 / 3600, 2.0, suspend=rule, workers=Workers(1, 2, (1.0, 1.8)))
    late = 0
    for values in ([100] * 8, [50, 100, 300, 50, 100, 300, 50, 100], [300, 50, 50, 300, 300, 50, 100, 100]):
        found = plan_job(a_job(spec), world(free, [values]), CONFIG)
        late += found.end_s > T0 + 2 * HOUR_S + 1e-3
    assert late == 0
