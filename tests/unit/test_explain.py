"""Plans in words."""

from __future__ import annotations

import re

import pytest
from planning_cases import CONFIG, HOUR_S, T0, a_job, a_spec

from eco_ray.core.explain import describe_plan, plan_message
from eco_ray.core.jobs import Plan, Reason, Segment
from eco_ray.core.planner import NoPlan


def a_plan(*starts_h, node="fr-1", zone="FR", carbon_g=20.0, run_now_g=80.0, could_start_h=0.0):
    segments = tuple(Segment(node, zone, T0 + h * HOUR_S, T0 + (h + 1) * HOUR_S) for h in starts_h)
    return Plan(segments, carbon_g, run_now_g, T0, None if could_start_h is None else T0 + could_start_h * HOUR_S)


CLEANER, CAPACITY = Reason.WAITING_FOR_CLEANER_WINDOW, Reason.WAITING_FOR_CAPACITY


@pytest.mark.parametrize(
    ("spec", "plan", "reason", "message"),
    [
        ({}, a_plan(0), Reason.PENDING_EVALUATION, "starts now on fr-1 in FR"),
        (
            {},
            a_plan(3),
            CLEANER,
            "starts 2026-07-05 15:00 UTC on fr-1 in FR; saves 60 g (75%) against running now in the home zone",
        ),
        (
            {},
            a_plan(3, 5, 9),
            CLEANER,
            "starts 2026-07-05 15:00 UTC on fr-1 in FR, in 3 stretches; "
            "saves 60 g (75%) against running now in the home zone",
        ),
        (
            {"hours": None},
            a_plan(3),
            CLEANER,
            "starts 2026-07-05 15:00 UTC on fr-1 in FR; saves 60 g (75%) against running now in the home zone; "
            "assumes 60 min of work",
        ),
        ({"hours": None}, a_plan(0), Reason.PENDING_EVALUATION, "starts now on fr-1 in FR; assumes 60 min of work"),
        # it starts as soon as a node is free: the grid is not what it waits for
        (
            {},
            a_plan(3, could_start_h=3),
            CAPACITY,
            "starts 2026-07-05 15:00 UTC on fr-1 in FR, when a node is free; "
            "saves 60 g (75%) against running now in the home zone",
        ),
        (
            {},
            a_plan(3, could_start_h=3, carbon_g=100.0),
            CAPACITY,
            "starts 2026-07-05 15:00 UTC on fr-1 in FR, when a node is free; "
            "emits 20 g (25%) more than running now in the home zone",
        ),
        (
            {},
            a_plan(3, could_start_h=3, carbon_g=None),
            CAPACITY,
            "starts 2026-07-05 15:00 UTC on fr-1 in FR, when a node is free; the saving is unknown (no intensity)",
        ),
        ({}, a_plan(3, could_start_h=None), CAPACITY, None),
        ({}, a_plan(3, run_now_g=0.0), CLEANER, None),
        (
            {"policy": "run-now"},
            a_plan(3),
            CAPACITY,
            "starts 2026-07-05 15:00 UTC on fr-1 in FR, or as soon as a node is free",
        ),
        (
            {"not_before_s": T0 + 3 * HOUR_S},
            a_plan(3),
            Reason.PENDING_EVALUATION,
            "starts 2026-07-05 15:00 UTC on fr-1 in FR, not before, as it asks",
        ),
        ({"not_before_s": T0 + 2 * HOUR_S}, a_plan(3), CLEANER, None),
    ],
)
def test_why_until_when_and_for_how_much(spec, plan, reason, message):
    found = plan_message(a_job(a_spec(**spec)), plan, T0, CONFIG)
    assert found[0] is reason
    assert message is None or found[1] == message
    assert not re.search(r"-\d+ g|nan|inf\b", found[1])


def test_a_plan_as_plain_values():
    assert describe_plan(a_job(), a_plan(3, 5), T0, CONFIG) == {
        "reason": "WaitingForCleanerWindow",
        "message": "starts 2026-07-05 15:00 UTC on fr-1 in FR, in 2 stretches; "
        "saves 60 g (75%) against running now in the home zone",
        "segments": [
            {"zone": "FR", "node": "fr-1", "start": "2026-07-05T15:00:00Z", "end": "2026-07-05T16:00:00Z"},
            {"zone": "FR", "node": "fr-1", "start": "2026-07-05T17:00:00Z", "end": "2026-07-05T18:00:00Z"},
        ],
        "carbon_g": 20.0,
        "run_now_g": 80.0,
        "alternatives": [],
        "nature": "modelled",
    }


def test_no_plan_as_plain_values():
    assert describe_plan(a_job(), NoPlan(CAPACITY, "full"), T0, CONFIG) == {
        "reason": "WaitingForCapacity",
        "message": "full",
        "segments": [],
    }
