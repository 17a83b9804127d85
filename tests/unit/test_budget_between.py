"""Budgets that the greenest plan does not keep to: the greenest of those that do, and nobody is held without need."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_cases import CONFIG, T0, a_job, a_node, a_situation, a_spec, hourly, shape

from eco_ray.core.jobs import Plan, Segment, SuspendRule
from eco_ray.core.planner import plan_job
from eco_ray.core.power import PowerCurve

KWH = 3.6e6


def plan(spec, situation):
    return plan_job(a_job(spec), situation, CONFIG)


#: what a job has of the first is little, and all that it adds; of the second much, and most of it is drawn anyway
FRUGAL = replace(a_node("de-1"), power=PowerCurve((0.0, 1.0), (12.0, 60.0), "test"))
IDLER = replace(a_node("fr-1", "FR"), power=PowerCurve((0.0, 1.0), (90.0, 100.0), "test"))


@pytest.mark.parametrize(
    ("by_zone", "budgets", "on_idler"),
    [
        # the share is 18 g an hour, or 30, 25 and 20 g; 14.4 g are added, or 3, 2.5 and 2 g
        (([300, 300, 300], [300, 250, 200]), {"budget_g": 54.5}, []),
        (([300, 300, 300], [300, 250, 200]), {"budget_g": 57.0}, [2]),
        (([300, 300, 300], [300, 250, 200]), {"budget_g": 64.0}, [1, 2]),
        (([300, 300, 300], [300, 250, 200]), {"budget_g": 76.0}, [0, 1, 2]),
        # an hour there takes 40 Wh more, and saves the most where it is worst
        (([100, 500, 300], [100, 500, 300]), {"budget_j": 0.225 * KWH}, [1]),
        (([100, 500, 300], [100, 500, 300]), {"budget_j": 0.265 * KWH}, [1, 2]),
        (([300, 300, 300], [300, 250, 200]), {"budget_g": 64.0, "budget_j": 0.225 * KWH}, [2]),
    ],
)
def test_of_the_plans_within_its_budget_a_job_gets_the_greenest(by_zone, budgets, on_idler):
    situation = a_situation(*(hourly(z, *g) for z, g in zip(("DE", "FR"), by_zone, strict=True)), nodes=[FRUGAL, IDLER])
    found = plan(a_spec(3, 3, **budgets), situation)
    hours = [hour for node, start, end in shape(found) for hour in range(3) if node == "fr-1" and start <= hour < end]
    assert hours == on_idler


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.lists(st.sampled_from([100.0, 150.0, 300.0, 600.0]), min_size=7, max_size=7)] * 2),
    st.tuples(*[st.tuples(st.sampled_from([60.0, 100.0, 150.0]), st.sampled_from([0.2, 0.5, 0.9]))] * 2),
    st.integers(1, 3),
    st.sampled_from([SuspendRule(True, 60.0), SuspendRule(True, 300.0), SuspendRule(True, 0.0, 1800.0)]),
    st.data(),
)
def test_no_job_is_held_that_keeps_its_budgets_in_one_piece(by_zone, powers, slots, rule, data):
    series = [hourly(z, *g, step_s=900.0) for z, g in zip(("DE", "FR"), by_zone, strict=True)]
    nodes = [
        replace(a_node(f"{one.zone.lower()}-1", one.zone), power=PowerCurve((0.0, 1.0), (full * idle, full), "test"))
        for one, (full, idle) in zip(series, powers, strict=True)
    ]
    situation, spec = a_situation(*series, nodes=nodes), a_spec(slots / 4, 7 / 4, suspend=rule)
    node, start = data.draw(st.sampled_from(nodes)), data.draw(st.integers(0, 7 - slots))
    piece = Segment(node.name, node.zone, T0 + start * 900.0, T0 + (start + slots) * 900.0)
    share_g, _ = situation.plan_g([piece], spec)
    found = plan(replace(spec, budget_g=share_g, budget_j=situation.energy_j([piece], spec)), situation)
    assert isinstance(found, Plan)
    assert found.carbon_g <= share_g * (1 + 1e-6)
