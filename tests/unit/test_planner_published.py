"""Published policies as the live planner asks them: on nodes that others use too, with workers and resumes."""

from __future__ import annotations

import pytest
from planning_cases import CONFIG, HOUR_S, SLOT_S, T0, a_job, a_node, a_situation, a_spec, hourly, shape

from eco_ray.core.cluster import Resources
from eco_ray.core.jobs import Segment, SuspendRule, Workers
from eco_ray.core.planner import plan_job

MINUTE_S = 60.0


def plan(spec, situation):
    return plan_job(a_job(spec), situation, CONFIG)


@pytest.mark.parametrize(
    ("least", "others", "expected"),
    [
        (1, 0.0, [(0, 1, 4), (1, 2, 1)]),  # five hours of one worker: four in the clean hour
        (1, 2.0, [(0, 2, 2), (2, 3, 1)]),
        (1, 3.0, [(0, 5, 1)]),
        (2, 0.0, [(0, 2, 4), (2, 3, 2)]),  # five hours of two
        (2, 2.0, [(0, 5, 2)]),
    ],
)
def test_carbon_scaler_takes_no_more_workers_than_fit_and_no_fewer_than_the_least(least, others, expected):
    situation = a_situation(hourly("DE", *[100 + 50 * hour for hour in range(24)]), nodes=[a_node(cpus=4.0)])
    situation.calendar.reserve(Segment("de-1", "DE", T0, T0 + 24 * HOUR_S), Resources(others))
    found = plan(a_spec(5, 8, policy="carbon-scaler", workers=Workers(least, 4)), situation)
    assert [(start, end, part.workers) for (_, start, end), part in zip(shape(found), found.segments, strict=True)] == [
        (start, end, workers) for start, end, workers in expected
    ]


def test_a_published_policy_has_the_time_to_resume_after_a_pause_that_is_too_short_for_it():
    """Clean quarters with a dirty one between them, in which 20 minutes of resuming do not fit."""
    series = hourly("DE", 100, 900, 100, *[900] * 40, step_s=SLOT_S)
    spec = a_spec(0.5, 4, policy="wait-awhile", suspend=SuspendRule(resume_cost_s=20 * MINUTE_S))
    situation = a_situation(series)
    assert shape(plan(spec, situation)) == [("de-1", 0, 0.25), ("de-1", 0.5, pytest.approx(0.75 + 1 / 3))]
    # somebody else has the quarter that it takes longer: it goes on without a pause
    situation.calendar.reserve(Segment("de-1", "DE", T0 + HOUR_S, T0 + 1.25 * HOUR_S), Resources(1.0))
    assert shape(plan(spec, situation)) == [("de-1", 0, 0.5)]
