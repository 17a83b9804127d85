"""Many like jobs of any kind share out equal hours, one by one or together, at no cost in grams or pauses."""

from __future__ import annotations

from collections import Counter

import pytest
from orchestrator_world import World
from planning_cases import CONFIG, HOUR_S, T0, a_job, a_node, a_situation, a_spec, hourly

from eco_ray.core.jobs import Plan, SuspendRule, Workers
from eco_ray.core.planner import plan_job
from eco_ray.core.rounds import replan_all

JOBS, CLEAN_H, CLEAN, DIRTY = 80, 10, 100.0, 300.0
DEADLINE_H = 20.0
KINDS = {
    "in one piece": {"suspend": SuspendRule(allow=False)},
    "default": {},
    "pauses at a cost": {"suspend": SuspendRule(resume_cost_s=10.0, min_run_s=60.0)},
    "elastic": {"workers": Workers(1, 4, (1.0, 1.9, 2.7, 3.4))},
    "elastic, as fast as it is wide": {"workers": Workers(1, 2)},
    "elastic, in one piece": {"workers": Workers(1, 4, (1.0, 1.9, 2.7, 3.4)), "suspend": SuspendRule(allow=False)},
}
ONE_ZONE = [a_node("de-1", cpus=400.0, watts=40_000.0)]
TWO_NODES = [a_node(f"de-{i}", cpus=200.0, watts=20_000.0) for i in (1, 2)]
TWO_ZONES = [a_node("de-1", cpus=200.0, watts=20_000.0), a_node("fr-1", "FR", cpus=200.0, watts=20_000.0)]
NODES = {"one node": ONE_ZONE, "two nodes": TWO_NODES, "two zones": TWO_ZONES}
#: the clean hours follow each other, or every other one is clean
HOURS = {
    "a plateau": [DIRTY] * 3 + [CLEAN] * CLEAN_H + [DIRTY] * 11,
    "every other hour": [DIRTY] * 2 + [CLEAN, DIRTY] * CLEAN_H + [DIRTY] * 2,
}
#: 50 W for each CPU
LEAST_G = JOBS * 50.0 * CLEAN / 1000


def series(values):
    return [hourly(zone, *values) for zone in ("DE", "FR")]


def one_by_one(values, nodes, **wish):
    situation = a_situation(*series(values), nodes=nodes)
    spec, plans = a_spec(1.0, DEADLINE_H + 4, **wish), []
    for _ in range(JOBS):
        found = plan_job(a_job(spec), situation, CONFIG)
        assert isinstance(found, Plan), found
        for segment in found.segments:
            situation.calendar.reserve(segment, spec.demand)
        plans.append(found)
    return plans


def together(values, nodes, **wish):
    """All have a plan for a dirty hour; then the forecast changes."""
    world = World(*series([DIRTY] * 24), nodes={node.name: node for node in nodes})
    for number in range(JOBS):
        world.submit(f"j{number}", hours=1.0, deadline_h=DEADLINE_H + 4, not_before_s=T0 + HOUR_S / 2, **wish)
    world.core.book.forecast_arrived({one.zone: one for one in series(values)}, {})
    assert replan_all(world.core.book, T0, 0.2)
    return [job.plan for job in world.core.book.jobs.values()]


WAYS = {"one by one": one_by_one, "together": together}


def hour(time_s):
    return int((time_s - T0) / HOUR_S + 1e-9)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("nodes", NODES)
@pytest.mark.parametrize("hours", HOURS)
@pytest.mark.parametrize("kind", KINDS)
def test_equal_hours_are_shared_out(kind, hours, nodes, way):
    plans = WAYS[way](HOURS[hours], NODES[nodes], **KINDS[kind])
    starts = Counter(hour(plan.segments[0].start_s) for plan in plans)
    assert max(starts.values()) <= 2 * JOBS / CLEAN_H, starts
    assert sum(plan.added_g for plan in plans) == pytest.approx(LEAST_G, rel=1e-6)
    assert all(len(plan.segments) == 1 and plan.end_s <= T0 + (DEADLINE_H + 4) * HOUR_S for plan in plans)
