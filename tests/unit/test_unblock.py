"""Until when a job is where it is, and what would change that: from its record alone."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

import pytest
from orchestrator_world import CANCEL, DE, FR, RESUME, SUSPEND, World, launching, pausing, retrying, stopping, suspended
from planning_cases import HOUR_S, T0, a_job, a_spec, hourly, no_suspension

from eco_ray.core.cluster import Resources
from eco_ray.core.jobs import Attempt, AttemptState, JobState, Plan, Reason, Segment, Workers
from eco_ray.core.unblock import explain_job, prospect

CLEANER, CAPACITY, BUDGET = Reason.WAITING_FOR_CLEANER_WINDOW, Reason.WAITING_FOR_CAPACITY, Reason.EXCEEDS_BUDGET
PENDING, STALE = Reason.PENDING_EVALUATION, Reason.SIGNAL_STALE
ROOM = "1 CPUs, 0 GPUs, 0 GB memory must become free on one node"
OVER_G = "would emit 12.3 g at best before its deadline, above its budget of 10 g; it starts when"
OVER_J = "would use 0.3 kWh, above its budget of 0.25 kWh; raise"


def a_plan(*hours, node="fr-1", zone="FR", carbon_g=20.0, run_now_g=32.3, could_h=0.0, made_h=0.0, **changes):
    """Stretches as (start, end) or (start, end, workers), in hours after T0."""
    segments = tuple(
        Segment(node, zone, T0 + start * HOUR_S, T0 + end * HOUR_S, *workers) for start, end, *workers in hours
    )
    could_s = None if could_h is None else T0 + could_h * HOUR_S
    return Plan(segments, carbon_g, run_now_g, T0 + made_h * HOUR_S, could_s, **changes)


def an_attempt(state=AttemptState.RUNNING, workers=1):
    return Attempt(1, "j-a1", "fr-1", "FR", state, T0 - HOUR_S, started_s=T0 - HOUR_S, workers=workers)


def said(job, now_s=T0):
    """Until when [h after T0], and the sentence."""
    found = prospect(job, now_s)
    return None if found.until_s is None else (found.until_s - T0) / HOUR_S, found.unblock


def waits(reason, plan=None, message="", **spec):
    changes = {
        key: spec.pop(key) for key in ("retry_at_s", "attempts", "has_checkpoint", "state", "held") if key in spec
    }
    return a_job(a_spec(**spec), reason=reason, plan=plan, message=message, **changes)


SEVEN = a_plan((3, 4))


@pytest.mark.parametrize(
    ("job", "until_h", "unblock"),
    [
        # -- WaitingForCleanerWindow
        (
            waits(CLEANER, SEVEN),
            3,
            "it could start now, and running at once in the home zone would emit 12.3 g more (38%): cancel it and "
            "submit it again with --policy run-now, or an earlier deadline",
        ),
        (
            waits(CLEANER, a_plan((3, 4), could_h=2.0), max_intensity=250.0),
            3,
            "it could start at 14:00 UTC, and running at once in the home zone would emit 12.3 g more (38%): cancel "
            "it and submit it again with --policy run-now, or an earlier deadline or carbon.max_intensity above 250 "
            "g/kWh",
        ),
        (
            waits(
                CLEANER, a_plan((3, 4), made_h=-2.0), attempts=(an_attempt(AttemptState.PAUSED),), has_checkpoint=True
            ),
            3,
            "it could go on now, if what was free at 10:00 UTC still is, and running at once in the home zone would "
            "emit 12.3 g more (38%): cancel it and submit it again, which begins from the start, with --policy "
            "run-now, or an earlier deadline",
        ),
        (
            waits(CLEANER, a_plan((3, 4), carbon_g=None)),
            3,
            "it could start now, and what waiting saves is unknown (no intensity): cancel it and submit it again with "
            "--policy run-now, or an earlier deadline",
        ),
        (
            waits(CLEANER, a_plan((3, 4), run_now_g=15.0)),
            3,
            "it could start now, and running at once in the home zone would emit 5 g less (33%): cancel it and submit "
            "it again with --policy run-now, or an earlier deadline",
        ),
        (
            waits(CLEANER, a_plan((3, 4), could_h=None), zones=("FR", "DE")),
            3,
            f"{ROOM} in FR or DE, or such a node join, before 15:00 UTC; suspend a job that runs there, or cancel it "
            "and submit it again with more zones than FR, DE, a smaller demand or a priority above 500",
        ),
        # -- WaitingForCapacity
        (
            waits(CAPACITY, a_plan((14, 15)), deadline_h=20),
            14,
            f"{ROOM} in any zone, or such a node join, before 2026-07-06 02:00 UTC; suspend a job that runs there, or "
            "cancel it and submit it again with a smaller demand or a priority above 500",
        ),
        (
            waits(CAPACITY, a_plan((8, 9)), priority=1000),
            8,
            f"{ROOM} in any zone, or such a node join, before 20:00 UTC; suspend a job that runs there, or cancel it "
            "and submit it again with a smaller demand; by its plan it ends 1 h after its deadline",
        ),
        (
            waits(CAPACITY, zones=("FR",), demand=Resources(1, 1, 2), workers=Workers(2, 4)),
            None,
            "2 CPUs, 2 GPUs, 4 GB memory must become free on one node in FR, or such a node join, before its deadline; "
            "when that will be is unknown; suspend a job that runs there, or cancel it and submit it again with more "
            "zones than FR, a smaller demand, fewer workers than 2 or a priority above 500",
        ),
        # -- ExceedsBudget
        (
            waits(BUDGET, message=OVER_G, budget_g=10.0, zones=("DE",)),
            None,
            "cancel it and submit it again with carbon.budget.carbon_g of at least 12.4 g (2.4 g more), more "
            "zones than DE or a later deadline than 20:00 UTC; it starts by itself when a forecast allows less",
        ),
        (
            waits(BUDGET, message=OVER_J, budget_j=0.25 * 3.6e6, budget_g=10.0),
            None,
            "cancel it and submit it again with carbon.budget.energy_kwh of at least 0.301 kWh (0.051 kWh more) "
            "or a shorter job",
        ),
        (
            waits(BUDGET, message="of another version", budget_g=10.0),
            None,
            "cancel it and submit it again with a larger carbon.budget.carbon_g (how much it needs is not known) or a "
            "later deadline than 20:00 UTC; it starts by itself when a forecast allows less",
        ),
        # -- Suspended
        (waits(Reason.SUSPENDED, held=True), None, "`eco-ray job resume j` lets it go on when its time has come"),
        (
            waits(Reason.SUSPENDED, held=True, attempts=(an_attempt(AttemptState.PAUSED),), has_checkpoint=True),
            None,
            "`eco-ray job resume j` lets it go on from its checkpoint",
        ),
        (
            replace(
                waits(BUDGET, held=True, attempts=(an_attempt(AttemptState.PAUSED),), has_checkpoint=True),
                over_budget="has emitted 41 g",
            ),
            None,
            "`eco-ray job resume j` with a larger budget (--budget-g, --budget-kwh) lets it go on from its checkpoint",
        ),
        (
            waits(Reason.SUSPENDED, held=True, attempts=(an_attempt(AttemptState.STOPPED),)),
            None,
            "`eco-ray job resume j` lets it go on from the beginning, as it has no checkpoint",
        ),
        (
            waits(Reason.SUSPENDED, SEVEN, policy="wait-awhile", state=JobState.SUSPENDED),
            3,
            "nothing: it goes on by itself at 15:00 UTC on fr-1, as the policy wait-awhile decided",
        ),
        (
            waits(Reason.SUSPENDED, state=JobState.SUSPENDED),
            None,
            "nothing: it has left its node and goes on by itself; when is not planned yet",
        ),
        # -- PendingEvaluation
        (
            waits(PENDING),
            None,
            "nothing: it is about to be planned; if that lasts, `eco-ray status` says whether the controller answers "
            "and which nodes are there",
        ),
        (
            waits(PENDING, SEVEN, not_before_s=T0 + 3 * HOUR_S),
            3,
            "nothing before 15:00 UTC, as carbon.not_before says; cancel it and submit it again with an earlier one",
        ),
        (waits(PENDING, SEVEN), 3, "nothing: it starts by itself at 15:00 UTC on fr-1"),
        # -- SignalStale
        (
            waits(STALE, zones=("FR",)),
            None,
            "a new forecast for FR: when one arrives is unknown, `eco-ray grid now` shows what is known; --policy "
            "run-now does not ask for one",
        ),
        (
            waits(STALE, SEVEN),
            3,
            "a new forecast for the cluster's zones: when one arrives is unknown, `eco-ray grid now` shows what is "
            "known; --policy run-now does not ask for one; without one it starts at 15:00 UTC",
        ),
        # -- Misconfigured, DeadlineInfeasible
        (
            waits(Reason.MISCONFIGURED),
            None,
            "a node that could take it must join, then it starts by itself; or mend what the message names: cancel it "
            "with `eco-ray job cancel j` and submit it again",
        ),
        (
            waits(Reason.DEADLINE_INFEASIBLE, hours=9),
            None,
            "the job needs 9 h and its deadline leaves 8 h: submit it again with a later deadline, or a shorter job",
        ),
        (
            waits(Reason.DEADLINE_INFEASIBLE, hours=None, deadline_h=-1),
            None,
            "the job has an unknown length and its deadline passed 1 h ago: submit it again with a later deadline, or "
            "a shorter job",
        ),
        # -- Retrying
        (
            waits(
                Reason.RETRYING, a_plan((1, 2)), retry_at_s=T0 + HOUR_S / 2, attempts=(an_attempt(AttemptState.FAILED),)
            ),
            1,
            "nothing: attempt 2 follows by itself at 13:00 UTC; `eco-ray job logs j` shows how the last one ended",
        ),
        (
            waits(Reason.RETRYING, retry_at_s=T0 - 1, attempts=(an_attempt(AttemptState.FAILED),)),
            None,
            "nothing: attempt 2 follows by itself as soon as its place is free; `eco-ray job logs j` shows how the "
            "last one ended",
        ),
        # -- a record that says too little
        (
            waits(Reason.RUNNING),
            None,
            "unknown: it is queued with the reason Running and has neither an attempt nor a plan; it is looked at "
            "again at the controller's next tick, and `eco-ray status` says whether that answers",
        ),
        # -- what was due already
        (
            waits(CLEANER, a_plan((-1, 1))),
            None,
            "its start was due at 11:00 UTC: it starts as soon as fr-1 is there and has room; if that lasts, "
            "`eco-ray status` says whether controller and node answer",
        ),
        # -- ended
        (waits(Reason.SUCCEEDED, state=JobState.SUCCEEDED), None, "nothing: it is done"),
        (
            waits(Reason.FAILED, state=JobState.FAILED),
            None,
            "nothing starts it again: see `eco-ray job logs j`, mend the cause and submit it again",
        ),
        (
            waits(Reason.CANCELLED, state=JobState.CANCELLED),
            None,
            "nothing starts it again: submit it again to run it",
        ),
    ],
)
def test_until_when_and_what_would_change_that(job, until_h, unblock):
    assert said(job) == (until_h, unblock)


def runs(plan=None, state=AttemptState.RUNNING, spec=None, **changes):
    job = a_job(spec, reason=Reason.RUNNING, state=JobState.RUNNING, plan=plan, **changes)
    return replace(job, attempts=(an_attempt(state),))


GIVEN = {"length_s": HOUR_S, "length_from": "as its owner says"}


@pytest.mark.parametrize(
    ("job", "until_h", "unblock"),
    [
        (
            runs(a_plan((-1, 2), **GIVEN)),
            2,
            "nothing: it runs; by its plan it is done at 14:00 UTC, without a pause",
        ),
        (
            runs(a_plan((-1, 2), length_s=60.0, length_from="nothing is known of its length")),
            2,
            "nothing: it runs; by its plan (nothing is known of its length) it is done at 14:00 UTC, without a pause",
        ),
        (
            runs(a_plan((-1, 2), (4, 5))),
            2,
            "nothing: it runs until 14:00 UTC; it then pauses until 16:00 UTC and continues on fr-1 in FR, unless a "
            "plan made by then is better",
        ),
        (
            runs(a_plan((-1, 2), (4, 5)), spec=a_spec(policy="wait-awhile")),
            2,
            "nothing: it runs until 14:00 UTC; it then pauses until 16:00 UTC and continues on fr-1 in FR",
        ),
        # the same place without a gap is one stretch; another number of workers is not
        (
            runs(a_plan((-1, 2), (2, 4))),
            4,
            "nothing: it runs; by its plan it is done at 16:00 UTC, without a pause",
        ),
        (
            runs(a_plan((-1, 2), (2, 4, 3))),
            2,
            "nothing: it runs until 14:00 UTC; it then leaves with a checkpoint and continues at once on fr-1 in FR "
            "with 3 workers, unless a plan made by then is better",
        ),
        *(
            (
                job,
                None,
                "nothing: it runs on after 14:00 UTC, as it may not be paused; until when is unknown",
            )
            for job in (
                runs(a_plan((-1, 2), (4, 5)), spec=a_spec(**no_suspension())),
                runs(a_plan((-1, 2), (4, 5)), pausable=False),
            )
        ),
        (
            runs(a_plan((-1, 1), carbon_g=None, run_now_g=None)),
            1,
            "nothing: it runs longer than was expected, and how long it still takes is unknown; it keeps its node "
            "until 13:00 UTC and is then looked at again",
        ),
        (
            runs(a_plan((-1, 0))),
            None,
            "nothing: its stretch was over at 12:00 UTC; whether it goes on is decided in a moment",
        ),
        (runs(), None, "nothing: it runs; how long is unknown, as it has no plan at this moment"),
        (
            runs(a_plan((-1, 2)), AttemptState.LAUNCHING),
            None,
            "nothing: attempt 1 is being launched on fr-1; if that lasts, `eco-ray status` says whether the node "
            "answers",
        ),
        (
            runs(a_plan((3, 4)), AttemptState.PAUSING),
            3,
            "nothing: it leaves fr-1 as soon as it has written a checkpoint, and goes on by itself at 15:00 UTC",
        ),
        (
            runs(None, AttemptState.PAUSING),
            None,
            "nothing: it leaves fr-1 as soon as it has written a checkpoint, and goes on by itself as planned next",
        ),
        (
            runs(None, AttemptState.PAUSING, held=True),
            None,
            "it leaves fr-1 as soon as it has written a checkpoint; `eco-ray job resume j` lets it go on",
        ),
        (
            runs(None, AttemptState.STOPPING, held=True),
            None,
            "nothing until attempt 1 on fr-1 has stopped; `eco-ray job resume j` then lets it go on",
        ),
        (
            runs(None, AttemptState.STOPPING),
            None,
            "nothing until attempt 1 on fr-1 has stopped; it is then planned again",
        ),
        (
            runs(None, AttemptState.STOPPING, cancelling=True),
            None,
            "nothing: it is being cancelled, and has ended once its attempt has stopped",
        ),
    ],
)
def test_with_an_attempt(job, until_h, unblock):
    assert said(job) == (until_h, unblock)


PLANS = [
    None,
    a_plan((3, 4)),
    a_plan((-2, -1)),
    a_plan((-1, 2), (4, 5, 2)),
    a_plan((9, 10), carbon_g=None, could_h=None),
]


@pytest.mark.parametrize("reason", Reason)
def test_every_record_gets_a_sentence_and_no_time_that_has_passed(reason):
    """Whatever is in the record, also what should never be there together."""
    live = [None, *AttemptState]
    for state, attempt, plan, held, deadline_h in product(JobState, live, PLANS, (False, True), (-1.0, 8.0)):
        attempts = () if attempt is None else (an_attempt(attempt),)
        job = a_job(a_spec(deadline_h=deadline_h), state=state, reason=reason, plan=plan, attempts=attempts, held=held)
        until_h, unblock = said(job)
        assert until_h is None or until_h > 0
        assert unblock.strip()
        assert not re.search(r"\bNone\b|nan|\binf\b|  |;;|\{", unblock), unblock
        assert not (state.is_final and until_h), unblock


# -- on the records that the orchestrator writes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bring", "pattern"),
    [
        (launching, "nothing: attempt 1 is being launched on de-1"),
        (pausing, "it leaves de-1 as soon as it has written a checkpoint; `eco-ray job resume j`"),
        (stopping, "nothing until attempt 1 on de-1 has stopped; `eco-ray job resume j` then"),
        (suspended, "`eco-ray job resume j` lets it go on from its checkpoint"),
        (retrying, "nothing: attempt 2 follows by itself at 12:02 UTC"),
    ],
)
def test_on_the_way_through_a_real_orchestrator(bring, pattern):
    world = World(DE, FR)
    bring(world)
    assert said(world.job(), world.now_s)[1].startswith(pattern)


def test_resuming_and_cancelling_do_what_the_sentence_promises():
    world = World(DE, FR)
    world.running(hours=1, policy="run-now")
    world.do(SUSPEND)
    world.exited(75)
    assert "`eco-ray job resume j`" in said(world.job())[1]
    world.do(RESUME)
    assert "attempt 2 is being launched" in said(world.job())[1]
    assert world.said()[1] == "PendingEvaluation"
    world.do(CANCEL)
    assert "being cancelled" in said(world.job())[1]
    world.exited(outcome="stopped", number=2)
    assert said(world.job()) == (None, "nothing starts it again: submit it again to run it")


def test_a_job_that_is_launched_no_longer_waits_for_a_cleaner_window():
    world = World(DE, FR)
    world.submit(hours=1)
    assert world.said()[1] == "WaitingForCleanerWindow"
    assert said(world.job())[0] == 1
    world.tick(hours=1)
    assert world.said()[1:] == ("PendingEvaluation", "is being launched on de-1 in DE (attempt 1)")


def test_what_it_says_of_a_pause_comes_true():
    world = World(DE, FR)
    world.running(hours=2, not_before_s=T0 + HOUR_S)
    world.tick(hours=1)
    world.started()
    until_h, unblock = said(world.job(), world.now_s)
    assert (until_h, "it then pauses until 15:00 UTC" in unblock) == (2, True)
    assert world.tick(hours=1) == ["ask j-a1"]
    assert said(world.job(), world.now_s)[0] == 3


@pytest.mark.parametrize(
    ("change", "digits"), [({"budget_g": 5.0}, "10.1 g (5.1 g"), ({"budget_j": 9e4}, "0.101 kWh (0.076")]
)
def test_the_budget_that_is_asked_for_is_enough(change, digits):
    """It comes from the message of core/budget.py."""
    world = World(DE, FR)
    world.submit(hours=None, zones=("DE",), **change)
    unblock = said(world.job())[1]
    assert f"of at least {digits}" in unblock
    enough = float(re.search(r"at least ([\d.]+)", unblock)[1])
    key = next(iter(change))
    world.submit("k", hours=None, zones=("DE",), **{key: enough * (3.6e6 if key == "budget_j" else 1.0)})
    assert world.job("k").plan is not None


def test_a_length_that_progress_outran_is_unknown():
    world = World(hourly("DE", *[300] * 40))
    world.running(hours=1, policy="run-now")
    world.tick(hours=1.2)
    until_h, unblock = said(world.job(), world.now_s)
    assert until_h > 1.2
    assert "how long it still takes is unknown" in unblock


# -- as a document -----------------------------------------------------------------------------------------------------


def test_a_job_as_plain_values():
    job = waits(CLEANER, a_plan((3, 4), added_g=9.0, **GIVEN), "starts later")
    assert explain_job(job, T0) == {
        "id": "j",
        "state": "queued",
        "reason": "WaitingForCleanerWindow",
        "message": "starts later",
        "until": "2026-07-05T15:00:00Z",
        "unblock": said(job)[1],
        "plan": {
            "segments": [
                {
                    "zone": "FR",
                    "node": "fr-1",
                    "start": "2026-07-05T15:00:00Z",
                    "end": "2026-07-05T16:00:00Z",
                    "workers": 1,
                }
            ],
            "carbon_g": 20.0,
            "added_g": 9.0,
            "run_now_g": 32.3,
            "saved_g": pytest.approx(12.3),
            "expected_duration_s": HOUR_S,
            "expected_duration_from": "as its owner says",
            "made": "2026-07-05T12:00:00Z",
            "nature": "modelled",
        },
        "scaling": None,
    }
    ended = explain_job(waits(Reason.SUCCEEDED, state=JobState.SUCCEEDED), T0)
    assert (ended["until"], ended["plan"]) == (None, None)
