"""What starts cost over a whole plan: moves of a checkpoint within it, wakes of the nodes of an elastic job."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orchestrator_world import World
from planning_cases import CONFIG, HOUR_S, T0, a_job, a_node, a_situation, a_spec, hourly

from eco_ray.core.alternatives import alternatives
from eco_ray.core.cluster import Resources
from eco_ray.core.dry_run import dry_run
from eco_ray.core.jobs import Attempt, AttemptState, Plan, SuspendRule, Workers
from eco_ray.core.joint import Grid
from eco_ray.core.planner import plan_job
from eco_ray.core.power import PowerCurve

#: clean in turn, by a tenth: what moves each hour emits least
DE, FR = hourly("DE", *[300, 330] * 18), hourly("FR", *[330, 300] * 18)
RULES = (SuspendRule(), SuspendRule(resume_cost_s=60.0), SuspendRule(min_run_s=1800.0))


def moves(plan):
    return sum(one.zone != other.zone for one, other in zip(plan.segments, plan.segments[1:], strict=False))


def plan(spec, situation, **changes):
    found = plan_job(a_job(spec, **changes), situation, CONFIG)
    assert isinstance(found, Plan), found
    return found


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("gb", "fewest"), [(0.0, 11), (10.0, 0), (1000.0, 0)])
def test_a_fresh_job_does_not_carry_its_checkpoint_around_for_less_than_that_takes(rule, gb, fewest):
    situation, spec = a_situation(DE, FR), a_spec(12, 13, suspend=rule, checkpoint_gb=gb)
    found = plan(spec, situation)
    assert moves(found) >= fewest
    assert moves(found) == 0 or fewest
    for zone in ("DE", "FR"):
        assert found.added_g <= plan(replace(spec, zones=(zone,)), situation).added_g + 1e-9
    assert found.added_g <= plan(replace(spec, suspend=replace(rule, allow=False)), situation).added_g + 1e-9


def test_a_move_that_is_worth_its_checkpoint_is_made():
    situation = a_situation(hourly("DE", 100, 900, 900, 900), hourly("FR", 900, 900, 100, 100))
    assert moves(plan(a_spec(3, 4, checkpoint_gb=10.0), situation)) == 1


def test_a_job_that_runs_does_not_set_out_on_moves_either():
    live = Attempt(1, "j-a1", "de-1", "DE", AttemptState.RUNNING, T0, started_s=T0)
    found = plan(a_spec(12, 13, checkpoint_gb=100.0), a_situation(DE, FR), attempts=(live,), has_checkpoint=True)
    assert (found.segments[0].node, moves(found)) == ("de-1", 0)


@pytest.mark.parametrize("rule", RULES[:2])
@pytest.mark.parametrize("wake_wh", [0.0, 20.0, 200.0, 2000.0])
def test_an_elastic_job_does_not_wake_its_node_for_less_than_that_takes(rule, wake_wh):
    node = replace(a_node("s", cpus=2.0), sleeps=True, wake_j=wake_wh * 3600)
    situation, spec = a_situation(DE, nodes=[node]), a_spec(12, 30, suspend=rule, workers=Workers(1, 2, (1.0, 1.5)))
    found = plan(spec, situation)
    assert (len(found.segments) > 1) == (wake_wh == 0)
    for other in (
        replace(spec, suspend=SuspendRule(allow=False)),
        replace(spec, workers=Workers()),
        replace(spec, suspend=SuspendRule(allow=False), workers=Workers()),
    ):
        assert found.added_g <= plan(other, situation).added_g + 1e-9


def test_an_elastic_job_stays_on_what_is_awake():
    asleep = replace(
        a_node("s", cpus=2.0, watts=90.0), sleeps=True, wake_j=2000 * 3600.0, power=a_node(watts=1.0).power
    )
    situation = a_situation(DE, nodes=[asleep, a_node("up", cpus=2.0)])
    found = plan(a_spec(2, 12, workers=Workers(1, 2)), situation)
    assert {segment.node for segment in found.segments} == {"up"}


def test_less_that_breaks_the_greatest_intensity_is_not_taken():
    situation = a_situation(DE, FR)
    found = plan(a_spec(12, 13, checkpoint_gb=100.0, max_intensity=310.0), situation)
    means = [(DE if one.zone == "DE" else FR).mean(one.start_s, one.end_s) for one in found.segments]
    assert max(means) <= 310


@pytest.mark.parametrize("rule", RULES)
def test_no_runner_up_adds_less(rule):
    world = World(DE, FR, nodes={"de-1": a_node("de-1", "DE"), "fr-1": a_node("fr-1", "FR")})
    shown = dry_run(a_spec(12, 13, checkpoint_gb=100.0, suspend=rule), world.core, world.now_s)
    assert shown["alternatives"]
    assert all(one["more_added_g"] >= 0 for one in shown["alternatives"])
    assert "less" not in shown["why"]
    node = replace(a_node("s", cpus=2.0), sleeps=True, wake_j=200 * 3600.0)
    situation = a_situation(DE, nodes=[node])
    job = a_job(a_spec(12, 30, suspend=rule, workers=Workers(1, 2, (1.0, 1.5))))
    found = plan_job(job, situation, CONFIG)
    assert all(one.more_added_g(found) >= -1e-9 for one in alternatives(job, found, situation, CONFIG))
    assert found.end_s <= T0 + 30 * HOUR_S


# -- many jobs in one go -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gb", [0.0, 100.0])
def test_jobs_that_are_planned_together_do_not_carry_checkpoints_around(gb):
    situation, job = a_situation(DE, FR), a_job(a_spec(12, 13, checkpoint_gb=gb))
    found = Grid([job], situation, CONFIG).plan(job)
    alone = plan_job(job, a_situation(DE, FR), CONFIG)
    assert isinstance(found, Plan)
    assert isinstance(alone, Plan)
    assert (moves(found) > 0) == (gb == 0)
    assert found.added_g == pytest.approx(alone.added_g)
    assert Grid([job], a_situation(DE, FR), CONFIG).added_g(job, found) == pytest.approx(found.added_g)


@pytest.mark.parametrize("workers", [Workers(), Workers(1, 2, (1.0, 1.5))])
def test_jobs_that_are_planned_together_do_not_wake_a_node_again_and_again(workers):
    node = replace(a_node("s", cpus=2.0), sleeps=True, wake_j=200 * 3600.0)
    job = a_job(a_spec(12, 30, workers=workers))
    found = Grid([job], a_situation(DE, nodes=[node]), CONFIG).plan(job)
    alone = plan_job(job, a_situation(DE, nodes=[node]), CONFIG)
    assert isinstance(found, Plan)
    assert isinstance(alone, Plan)
    assert len(found.segments) == 1
    assert found.added_g == pytest.approx(alone.added_g, rel=0.01)


def bent(name, *watts, **changes):
    curve = PowerCurve(tuple(np.linspace(0, 1, len(watts))), watts, "test")
    return replace(a_node(name, cpus=2.0), power=curve, **changes)


TWO = Workers(1, 2, (1.0, 1.6))


@pytest.mark.parametrize(
    ("nodes", "foreign"),
    [
        ([bent("a", 50.0, 95.0, 100.0), bent("b", 50.0, 55.0, 100.0)], {}),  # the ratio of one, the watts of the other
        ([replace(a_node("a", cpus=4.0), sleeps=True)], {"a": Resources(0.5)}),  # others keep it on
        ([bent("a", 50.0, 60.0, 100.0)], {}),
    ],
)
@pytest.mark.parametrize("rule", RULES)
def test_more_workers_are_not_taken_where_the_least_add_less(nodes, foreign, rule):
    situation, spec = a_situation(DE, nodes=nodes, foreign=foreign), a_spec(2, 24, suspend=rule, workers=TWO)
    found = plan(spec, situation)
    assert found.added_g <= plan(replace(spec, workers=Workers()), situation).added_g + 1e-9


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([55.0, 60.0, 75.0, 90.0, 99.0]), min_size=1, max_size=3),
    st.lists(st.sampled_from([100.0, 200.0, 400.0]), min_size=12, max_size=12),
    st.floats(0.2, 4),
    st.sampled_from(RULES),
    st.sampled_from([(), (1.0, 1.6, 2.0), (1.0, 1.9, 2.7)]),
)
def test_no_plan_with_fewer_workers_adds_less_whatever_bends(middles, values, hours, rule, throughput):
    nodes = [replace(bent(f"n{i}", 50.0, middle, 100.0), sleeps=i == 1) for i, middle in enumerate(middles)]
    nodes = [replace(node, capacity=Resources(4.0, 0.0, 8.0)) for node in nodes]
    situation, job = a_situation(hourly("DE", *values), nodes=nodes), a_job(a_spec(hours, 12, suspend=rule))
    spec = replace(job.spec, workers=Workers(1, 3, throughput))
    least = plan(job.spec, situation)
    assert plan(spec, situation).added_g <= least.added_g * (1 + 1e-9)


def test_jobs_that_are_planned_in_one_go_take_no_more_workers_where_the_least_add_less():
    nodes = [bent("a", 50.0, 95.0, 100.0), bent("b", 50.0, 55.0, 100.0)]
    found = [
        Grid([job], a_situation(DE, nodes=nodes), CONFIG).plan(job)
        for job in (a_job(a_spec(2, 24, workers=workers)) for workers in (TWO, Workers()))
    ]
    assert found[0].added_g == pytest.approx(found[1].added_g)
