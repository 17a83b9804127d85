"""Plans in words."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from planning_cases import HOUR_S, T0, a_job, a_spec

from eco_ray.core.alternatives import Alternative
from eco_ray.core.explain import describe_plan, plan_message, why_this_one
from eco_ray.core.jobs import Plan, Reason, Segment, SuspendRule, Workers
from eco_ray.core.situation import NoPlan


def a_plan(*starts_h, node="fr-1", zone="FR", carbon_g=20.0, run_now_g=80.0, could_start_h=0.0, **changes):
    segments = tuple(Segment(node, zone, T0 + h * HOUR_S, T0 + (h + 1) * HOUR_S) for h in starts_h)
    could_start_s = None if could_start_h is None else T0 + could_start_h * HOUR_S
    return Plan(segments, carbon_g, run_now_g, T0, could_start_s, **changes)


UNKNOWN = {"length_s": HOUR_S, "length_from": "nothing is known of its length"}
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
            {"deadline_h": 10.0},
            a_plan(3, 5, 9),
            CLEANER,
            "starts 2026-07-05 15:00 UTC on fr-1 in FR, in 3 stretches; "
            "saves 60 g (75%) against running now in the home zone",
        ),
        (
            {"hours": None},
            a_plan(3, **UNKNOWN),
            CLEANER,
            "starts 2026-07-05 15:00 UTC on fr-1 in FR; saves 60 g (75%) against running now in the home zone; "
            "assumes 60 min of work (nothing is known of its length)",
        ),
        (
            {"hours": None},
            a_plan(0, **UNKNOWN),
            Reason.PENDING_EVALUATION,
            "starts now on fr-1 in FR; assumes 60 min of work (nothing is known of its length)",
        ),
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
    found = plan_message(a_job(a_spec(**spec)), plan, T0)
    assert found[0] is reason
    assert message is None or found[1] == message
    assert not re.search(r"-\d+ g|nan|inf\b", found[1])


def test_a_plan_as_plain_values():
    assert describe_plan(a_job(), a_plan(3, 5, added_g=10.0), T0, home_zone="DE") == {
        "reason": "WaitingForCleanerWindow",
        "message": "starts 2026-07-05 15:00 UTC on fr-1 in FR, in 2 stretches; "
        "saves 60 g (75%) against running now in the home zone",
        "why": "saves 60 g (75%) against running now in DE; none of the other plans that were tried is in time",
        "segments": [
            {
                "zone": "FR",
                "node": "fr-1",
                "start": "2026-07-05T15:00:00Z",
                "end": "2026-07-05T16:00:00Z",
                "workers": 1,
            },
            {
                "zone": "FR",
                "node": "fr-1",
                "start": "2026-07-05T17:00:00Z",
                "end": "2026-07-05T18:00:00Z",
                "workers": 1,
            },
        ],
        "carbon_g": 20.0,
        "added_g": 10.0,
        "run_now_g": 80.0,
        "saved_g": 60.0,
        "expected_duration_s": None,
        "expected_duration_from": "",
        "made": "2026-07-05T12:00:00Z",
        "nature": "modelled",
        "home_zone": "DE",
        "same_order": True,
        "alternatives": [],
    }


def test_a_runner_up_as_plain_values():
    later = Alternative("later", a_plan(4, carbon_g=23.0, added_g=12.0))
    document = describe_plan(a_job(), a_plan(3, added_g=10.0), T0, [later])
    assert document["alternatives"] == [
        {
            "what": "later",
            "segments": [
                {
                    "zone": "FR",
                    "node": "fr-1",
                    "start": "2026-07-05T16:00:00Z",
                    "end": "2026-07-05T17:00:00Z",
                    "workers": 1,
                }
            ],
            "carbon_g": 23.0,
            "added_g": 12.0,
            "more_g": 3.0,
            "more_added_g": 2.0,
        }
    ]


def test_no_plan_as_plain_values_says_what_would_help():
    now, tomorrow = (
        Alternative("every zone", a_plan(0, carbon_g=7.0)),
        Alternative("a deadline a day later", a_plan(24, carbon_g=None)),
    )
    document = describe_plan(a_job(), NoPlan(CAPACITY, "full"), T0, [now, tomorrow])
    rivals = document.pop("alternatives")
    assert document == {
        "reason": "WaitingForCapacity",
        "message": "full",
        "unblock": "it would have a plan with every zone (FR at once, 7 g) or with a deadline a day later (FR from "
        "2026-07-06 12:00 UTC)",
        "segments": [],
    }
    assert [(one["what"], one["carbon_g"], one["more_g"]) for one in rivals] == [
        ("every zone", 7.0, None),
        ("a deadline a day later", None, None),
    ]


def test_no_plan_where_nothing_that_was_tried_would_help():
    unblock = describe_plan(a_job(), NoPlan(CAPACITY, "full"), T0)["unblock"]
    assert unblock.startswith("neither more zones nor a deadline a day later would give it a place now; ask for less")


# -- why this plan -----------------------------------------------------------------------------------------------------


def why(plan, *others, spec=None):
    return why_this_one(a_job(spec), plan, others, T0, "DE")


CHOSEN = a_plan(3, added_g=10.0)


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (a_plan(14, carbon_g=23.1, added_g=11.5), "(FR from 2026-07-06 02:00 UTC), emits 3.1 g more"),
        (
            a_plan(0, 3, node="de-1", zone="DE", carbon_g=40.0, added_g=20.0),
            "(DE at once, 2 stretches), emits 20 g more",
        ),
        (a_plan(4, carbon_g=20.0, added_g=10.0), "(FR from 16:00 UTC), emits as much"),
        (a_plan(4, carbon_g=None, added_g=None), "(FR from 16:00 UTC), cannot be compared (no intensity)"),
        # what it adds decides: the other figure is told as well where it says otherwise
        (
            a_plan(4, carbon_g=12.0, added_g=11.0),
            "adds 1 g more to the nodes' emissions, which decides, while its own share is 8 g less",
        ),
        (
            a_plan(4, carbon_g=19.0, added_g=9.0),
            "emits 1 g less, but what a slot is worth to other jobs counts as well",
        ),
    ],
)
def test_what_the_runner_up_would_cost(other, text):
    """A job whose pauses are free and whose workers are fixed is planned exactly, but for what others want."""
    said = why(CHOSEN, Alternative("elsewhere", other))
    assert said.startswith("saves 60 g (75%) against running now in DE; the runner-up, elsewhere (")
    assert said.endswith(text)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"suspend": SuspendRule(True, 0.0, 60.0)}, "a pause takes time"),
        ({"workers": Workers(1, 2)}, "the number of workers may change"),
    ],
)
def test_where_the_search_is_not_exact_it_is_said(changes, where):
    cheaper = Alternative("in one piece", a_plan(4, carbon_g=19.0, added_g=9.0))
    expected = f"emits 1 g less, but the search is not exact where {where}; what a slot is worth to other jobs counts"
    assert expected in why(CHOSEN, cheaper, spec=a_spec(**changes))


def test_how_many_workers_a_runner_up_has():
    fast = replace(a_plan(3, carbon_g=22.0), segments=tuple(replace(s, workers=4) for s in a_plan(3).segments))
    assert "more workers (FR from 15:00 UTC, 4 workers), emits 2 g more" in why(
        CHOSEN, Alternative("more workers", fast)
    )
    mixed = replace(fast, segments=(*fast.segments, *a_plan(5).segments))
    assert "2 stretches, up to 4 workers" in why(CHOSEN, Alternative("more workers", mixed))


@pytest.mark.parametrize(
    ("plan", "spec", "text"),
    [
        (a_plan(0, carbon_g=80.0), {}, "emits as much as running now in DE; "),
        (a_plan(0, carbon_g=100.0), {}, "emits 20 g (25%) more than running now in DE; "),
        (a_plan(0, carbon_g=None), {}, "what it saves against running now in DE is unknown (no intensity); "),
        (a_plan(9), {}, "; it ends 2 h after its deadline: nothing is free in time"),
        (a_plan(0), {"policy": "run-now"}, "but the policy run-now does not ask for the fewest grams"),
        (a_plan(0), {"min_saving_pct": 20.0}, "but waiting has to save carbon.min_saving_pct, 20%"),
    ],
)
def test_what_a_plan_saves_and_why_not_the_greenest(plan, spec, text):
    said = why(plan, Alternative("later", a_plan(4, carbon_g=19.0)), spec=a_spec(**spec))
    assert text in said
    assert not re.search(r"-\d+ g|nan|inf\b|None", said)
