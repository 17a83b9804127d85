"""Plans for clusters of many like nodes, which are looked at together but promised one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orchestrator_world import World
from planning_cases import (
    CONFIG,
    HOUR_S,
    SLOT_S,
    T0,
    a_job,
    a_node,
    a_situation,
    a_spec,
    hourly,
    no_suspension,
    shape,
)

from eco_ray.core.cluster import Resources
from eco_ray.core.events import NodeJoined
from eco_ray.core.fleet import MAX_SINGLE
from eco_ray.core.jobs import Attempt, AttemptState, Plan, Reason, Segment, SuspendRule, Workers
from eco_ray.core.planner import plan_job

PER_ZONE = 15
NODES = [
    a_node(f"{zone.lower()}-{i:02}", zone, cpus=4.0, watts=400.0) for zone in ("DE", "FR") for i in range(PER_ZONE)
]
FLAT = hourly("DE", *[300] * 40)
DE = hourly("DE", 300, 100, 300, 300, *[300] * 20)
FR = hourly("FR", 400, 400, 400, 50, *[400] * 20)


def many(*series, nodes=NODES, **changes):
    situation = a_situation(*series, nodes=nodes, **changes)
    assert len(situation.fleet.pools) < len(nodes)
    return situation


def plan(spec, situation, **changes):
    return plan_job(a_job(spec, **changes), situation, CONFIG)


def put(situation, node, cpus, first_h, last_h):
    """Somebody holds so many CPUs of a node."""
    segment = Segment(node, "?", T0 + first_h * HOUR_S, T0 + last_h * HOUR_S)
    situation.calendar.reserve(segment, Resources(cpus))


def fill(situation, cpus, first_h=0.0, last_h=24.0, but=()):
    for name in situation.fleet.nodes:
        if name not in but:
            put(situation, name, cpus, first_h, last_h)


# -- which node --------------------------------------------------------------------------------------------------------


def test_plans_name_nodes_of_the_zone_that_is_clean():
    situation = many(DE, FR)
    assert shape(plan(a_spec(2), situation)) == [("de-00", 1, 2), ("fr-00", 3, 4)]
    assert shape(plan(a_spec(2, zones=("FR",)), situation))[0] == ("fr-00", 0, 1)
    for found in (plan(a_spec(2), situation), plan(a_spec(1, 3, **no_suspension()), situation)):
        assert all(situation.fleet.nodes[part.node].zone == part.zone for part in found.segments)


def test_the_grams_are_those_of_as_few_nodes_one_by_one():
    few = a_situation(DE, FR, nodes=[NODES[0], NODES[PER_ZONE]])
    for spec in (a_spec(2), a_spec(3, **no_suspension()), a_spec(2, policy="run-now"), a_spec(1, policy="wait-awhile")):
        one, other = plan(spec, many(DE, FR)), plan(spec, few)
        assert (one.carbon_g, one.added_g, one.run_now_g) == (other.carbon_g, other.added_g, other.run_now_g)


def test_jobs_fill_a_node_before_they_begin_another():
    situation = many(FLAT, nodes=[a_node(f"n{i:02}", cpus=4.0) for i in range(MAX_SINGLE + 1)])
    seen = []
    for _ in range(6):
        found = plan(a_spec(1, 1, demand=Resources(1.5)), situation)
        situation.calendar.reserve(found.segments[0], Resources(1.5))
        seen += [name for name, _, _ in shape(found)]
    assert seen == ["n00", "n00", "n01", "n01", "n02", "n02"]


def test_of_a_pool_the_most_frugal_node_with_room_is_taken():
    nodes = [a_node(f"n{i:02}", watts=102 - i / 10) for i in range(MAX_SINGLE + 1)]
    situation = many(FLAT, nodes=nodes)
    assert shape(plan(a_spec(), situation)) == [("n24", 0, 1)]
    put(situation, "n24", 1.0, 0.5, 24)
    found = plan(a_spec(1, 1), situation)
    assert shape(found) == [("n23", 0, 1)]
    assert found.added_g == pytest.approx((102 - 2.3) / 2 / 1000 * 300)


def test_the_next_job_goes_elsewhere_when_one_of_many_turns_out_to_draw_more():
    nodes = {node.name: node for node in NODES}
    world = World(hourly("DE", *[300] * 40), nodes=nodes)
    assert world.submit("one") == ["start one-a1 on de-00"]
    power = replace(nodes["de-00"].power, watts=(300.0, 600.0))
    world.do(NodeJoined(replace(nodes["de-00"], power=power)))  # beyond what is alike
    assert world.submit("two") == ["start two-a1 on de-01"]
    power = replace(power, watts=(201.0, 402.0))
    world.do(NodeJoined(replace(nodes["de-01"], power=power)))  # within
    assert world.submit("three") == ["start three-a1 on de-02"]


# -- room --------------------------------------------------------------------------------------------------------------


def test_where_only_all_nodes_together_have_room_another_time_is_found():
    situation = many(DE, FR)
    fill(situation, 3.0, 1, 2)
    fill(situation, 3.0, 3, 3.5)
    wide = a_spec(1, 8, demand=Resources(2.0), **no_suspension())
    assert situation.calendar.fits(situation.fleet.places((), wide.demand), wide.demand, int(T0 // SLOT_S), 32).all()
    assert shape(plan(wide, situation)) == [("fr-00", 3.5, 4.5)]
    assert shape(plan(replace(wide, demand=Resources(1.0)), situation)) == [("fr-00", 3, 4)]


def test_the_one_node_that_is_free_when_it_is_clean_is_found():
    situation = many(DE, FR)
    fill(situation, 3.0, but=("fr-11",))
    wide = a_spec(1, 8, demand=Resources(2.0))
    assert shape(plan(wide, situation)) == [("fr-11", 3, 4)]
    assert shape(plan(replace(wide, policy="run-now"), situation)) == [("fr-11", 0, 1)]


def test_a_job_that_may_pause_changes_nodes_where_none_is_free_all_the_time():
    situation = many(FLAT, FR)
    fill(situation, 4.0, but=("de-03", "de-07"))
    put(situation, "de-03", 4.0, 1, 24)
    put(situation, "de-07", 4.0, 0, 1)
    put(situation, "de-07", 4.0, 2, 24)
    assert shape(plan(a_spec(2), situation)) == [("de-03", 0, 1), ("de-07", 1, 2)]


def test_what_one_node_is_overbooked_by_is_not_missing_on_another():
    situation = many(FLAT, FR)
    fill(situation, 4.0, but=("de-03",))
    put(situation, "de-07", 4.0, 0, 24)  # a job that takes longer than anybody thought
    assert shape(plan(a_spec(2), situation)) == [("de-03", 0, 2)]


@pytest.mark.parametrize("gap", ["de-03", "de-09", "fr-14"])
@pytest.mark.parametrize("policy", ["eco", "run-now"])
def test_a_node_with_a_gap_is_found_behind_others_with_more_room_in_pieces(gap, policy):
    """Two hours are free on one node; on each of the others, three of four quarters, always other ones."""
    situation = many(FLAT, hourly("FR", *[300] * 40))
    for number, name in enumerate(situation.fleet.nodes):
        for hour in range(12) if name != gap else ():
            put(situation, name, 4.0, hour + number % 4 / 4, hour + (number % 4 + 1) / 4)
    put(situation, gap, 4.0, 0, 5)
    put(situation, gap, 4.0, 7, 40)
    found = plan(a_spec(2, 12, policy=policy, **no_suspension()), situation)
    assert shape(found) == [(gap, 5, 7)]
    for name in situation.fleet.nodes:  # the last quarter of an hour is free on none of them
        put(situation, name, 4.0, 6.75, 7)
    assert shape(plan(a_spec(2, 12, policy=policy, **no_suspension()), situation))[0][2] > 12  # it is late


def test_where_no_node_has_room_it_waits():
    situation = many(DE, FR)
    fill(situation, 3.0, 0, 96)
    found = plan(a_spec(1, 8, demand=Resources(2.0)), situation)
    assert found.reason is Reason.DEADLINE_INFEASIBLE
    assert found.message.startswith("needs 2 CPUs, 0 GPUs, 0 GB memory for 1 h; every allowed node is promised")


def test_an_elastic_job_takes_no_more_workers_than_a_node_has_room_for():
    situation = many(FLAT, nodes=NODES[:PER_ZONE] + [a_node(f"d{i:02}", cpus=2.0, watts=200.0) for i in range(15)])
    spec = a_spec(8, 2, workers=Workers(1, 8))
    found = plan(spec, situation)
    assert {part.workers for part in found.segments} == {4}
    assert situation.fleet.nodes[found.segments[0].node].capacity.cpus == 4.0
    assert found.end_s <= spec.deadline_s


# -- a job that runs ---------------------------------------------------------------------------------------------------


def running_on(node, zone="DE", started_s=T0):
    return (Attempt(1, "j-a1", node, zone, AttemptState.RUNNING, started_s, started_s=started_s),)


@pytest.mark.parametrize("rule", [{}, no_suspension(), {"suspend": SuspendRule(resume_cost_s=300.0)}])
@pytest.mark.parametrize("node", ["de-00", "de-07", "de-14"])
def test_a_job_on_one_of_many_like_nodes_runs_on_there(node, rule):
    situation = many(hourly("DE", *[300] * 24), now_s=T0 + HOUR_S)
    job = a_job(a_spec(3, **rule), attempts=running_on(node))
    assert shape(plan_job(job, situation, CONFIG)) == [(node, 1, 3)]
    for name in ("de-00", "de-01", "de-02"):  # beside others, and wherever these went
        put(situation, name, 3.0, 0, 24)
    assert shape(plan(a_spec(demand=Resources(2.0)), situation)) == [("de-03", 1, 2)]
    assert shape(plan_job(job, situation, CONFIG)) == [(node, 1, 3)]


def test_it_leaves_for_a_cleaner_zone_or_hour_as_any_other():
    job = a_job(a_spec(2, 9), attempts=running_on("de-07"))
    assert [name for name, _, _ in shape(plan_job(job, many(DE, FR), CONFIG))] == ["de-07", "fr-00"]
    clean = many(hourly("DE", 100, 300, 100, *[300] * 9), hourly("FR", *[900] * 12))
    (first, second) = shape(plan_job(job, clean, CONFIG))
    assert first == ("de-07", 0, 1)
    assert second[1:] == (2, 3)


@pytest.mark.parametrize("node", ["de-00", "de-07"])
def test_a_running_job_stays_though_others_were_promised_its_node_later(node):
    situation = many(hourly("DE", *[300] * 24))
    put(situation, node, 4.0, 1, 6)
    job = a_job(a_spec(2, 9, **no_suspension()), attempts=running_on(node))
    assert shape(plan_job(job, situation, CONFIG)) == [(node, 0, 2)]


def test_a_running_job_is_not_moved_to_a_node_that_draws_more():
    """All are alike enough to be one pool; those that draw less than its own are taken."""
    nodes = [a_node(f"de-{i:02}", watts=100 + i / 10) for i in range(30)]
    situation = many(hourly("DE", *[300] * 24), nodes=nodes)
    for i in range(25):
        put(situation, f"de-{i:02}", 1.0, 0, 24 if i < 10 else 0.25)
    assert shape(plan(a_spec(0.25, 0.25), situation)) == [("de-25", 0, 0.25)]
    later = replace(situation, now_s=T0 + HOUR_S)
    for rule in ({}, no_suspension(), {"suspend": SuspendRule(resume_cost_s=60.0)}):
        found = plan_job(a_job(a_spec(3, **rule), attempts=running_on("de-12")), later, CONFIG)
        assert all(situation.fleet.nodes[part.node].power.watts <= nodes[12].power.watts for part in found.segments)


# -- whatever the jobs -------------------------------------------------------------------------------------------------

KINDS = [(DE, FR), (hourly("DE", *[300, 100] * 12), hourly("FR", *[100, 300] * 12))]
a_wish = st.tuples(
    st.floats(0.1, 4),
    st.floats(4.1, 12),
    st.sampled_from([0.5, 1.0, 2.5, 4.0]),
    st.sampled_from([Workers(), Workers(), Workers(2, 2), Workers(1, 4), Workers(1, 8)]),
    st.sampled_from([SuspendRule(), SuspendRule(False), SuspendRule(True, 1800.0, 300.0)]),
    st.sampled_from(["eco", "eco", "run-now", "wait-awhile", "lowest-window"]),
)
taken = st.tuples(
    st.integers(0, len(NODES) - 1), st.sampled_from([1.0, 2.0, 4.0]), st.integers(0, 9), st.integers(1, 9)
)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(a_wish, min_size=1, max_size=8),
    st.sampled_from([0.0, 2.0, 3.0]),
    st.lists(taken, max_size=12),
    st.sampled_from(KINDS),
    st.sampled_from([0.0, 400.0]),
)
def test_no_node_is_promised_more_than_it_has(wishes, everywhere, others, series, passed_s):
    """Jobs planned one after the other; what each node holds in each slot is added up here."""
    situation, first = many(*series, now_s=T0 + passed_s), int(T0 // SLOT_S)
    held = {node.name: np.zeros(4 * 24) for node in NODES}
    fill(situation, everywhere, 0, 10)
    for cpus_held in held.values():
        cpus_held[:40] += everywhere
    for member, cpus, begin_h, hours in others:
        name = NODES[member].name
        most = 4.0 - held[name][4 * begin_h : 4 * (begin_h + hours)].max()
        put(situation, name, min(cpus, most), begin_h, begin_h + hours)
        held[name][4 * begin_h : 4 * (begin_h + hours)] += min(cpus, most)
    for hours, deadline_h, cpus, workers, rule, policy in wishes:
        if cpus * workers.min > 4.0:
            continue
        spec = a_spec(hours, deadline_h, demand=Resources(cpus), workers=workers, suspend=rule, policy=policy)
        found = plan(spec, situation)
        if not isinstance(found, Plan):
            continue
        done_s = -rule.resume_cost_s * (len(found.segments) - 1)
        for part in found.segments:
            situation.calendar.reserve(part, spec.demand)
            begin, end = int(part.start_s // SLOT_S) - first, int(-(-(part.end_s - 1e-6) // SLOT_S)) - first
            held[part.node][begin:end] += cpus * part.workers
            assert workers.min <= part.workers <= workers.max
            done_s += (part.end_s - part.start_s) * workers.speed(part.workers)
        assert done_s >= hours * HOUR_S - 1e-3
        assert found.start_s >= situation.now_s
    for name, cpus_held in held.items():
        assert cpus_held.max() <= 4.0 + 1e-6, f"{name} is overbooked"
