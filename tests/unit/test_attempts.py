"""The table of endings, and what of the work is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planning_cases import a_job, a_spec

from eco_ray.core.attempts import PAUSED_EXIT_CODE, exit_verdict, kept_work
from eco_ray.core.events import AttemptExited
from eco_ray.core.jobs import Attempt, AttemptState, JobState, Reason

S = AttemptState
#: it was asked to pause, and ran on when that took too long
RAN_ON = "ran on"


def attempt_in(state, **changes):
    asked_s = 50.0 if state in (S.PAUSING, RAN_ON) else None
    state = S.RUNNING if state == RAN_ON else state
    return replace(Attempt(1, "j-a1", "de-1", "DE", state, 0.0, started_s=0.0, pause_asked_s=asked_s), **changes)


def verdict(state, outcome="exited", code=None, *, job=None, max_losses=2, message="gone", **changes):
    attempt = attempt_in(state)
    job = job or a_job(a_spec(**changes), attempts=(attempt,))
    found = exit_verdict(job, attempt, AttemptExited("j", 1, outcome, code, message), max_losses)
    return found.attempt_state, found.job_state, found.reason, found.uses_retry, found.delayed


SUCCEEDED = (S.SUCCEEDED, JobState.SUCCEEDED, Reason.SUCCEEDED, False, False)
PAUSED = (S.PAUSED, JobState.SUSPENDED, Reason.SUSPENDED, False, False)
STOPPED = (S.STOPPED, JobState.SUSPENDED, Reason.SUSPENDED, False, False)
CANCELLED = (S.STOPPED, JobState.CANCELLED, Reason.CANCELLED, False, False)
LOST = (S.LOST, JobState.QUEUED, Reason.RETRYING, False, True)
FAILED = (S.FAILED, JobState.FAILED, Reason.FAILED, False, False)
RETRIED = (S.FAILED, JobState.QUEUED, Reason.RETRYING, True, True)


@pytest.mark.parametrize(
    ("state", "outcome", "code", "expected"),
    [
        (S.LAUNCHING, "exited", 0, SUCCEEDED),
        (S.RUNNING, "exited", 0, SUCCEEDED),
        (S.PAUSING, "exited", 0, SUCCEEDED),
        (S.STOPPING, "exited", 0, SUCCEEDED),
        (S.PAUSING, "exited", PAUSED_EXIT_CODE, PAUSED),
        (S.STOPPING, "exited", PAUSED_EXIT_CODE, PAUSED),
        (RAN_ON, "exited", PAUSED_EXIT_CODE, PAUSED),
        (S.RUNNING, "exited", PAUSED_EXIT_CODE, FAILED),
        (S.STOPPING, "exited", 143, STOPPED),
        (S.STOPPING, "stopped", None, STOPPED),
        (S.STOPPING, "lost", None, STOPPED),
        (S.STOPPING, "refused", None, STOPPED),
        (S.RUNNING, "stopped", None, CANCELLED),
        (S.PAUSING, "stopped", None, CANCELLED),
        (S.RUNNING, "lost", None, LOST),
        (S.PAUSING, "lost", None, LOST),
        (S.LAUNCHING, "refused", None, LOST),
        (S.RUNNING, "exited", 1, FAILED),
        (S.PAUSING, "exited", 1, FAILED),
        (S.RUNNING, "exited", None, FAILED),
    ],
)
def test_endings(state, outcome, code, expected):
    assert verdict(state, outcome, code) == expected


@pytest.mark.parametrize("state", [S.LAUNCHING, S.RUNNING, S.PAUSING, S.STOPPING])
@pytest.mark.parametrize(("outcome", "code"), [("exited", 1), ("exited", 75), ("stopped", None), ("lost", None)])
def test_a_job_that_is_being_cancelled_is_cancelled_however_it_ends(state, outcome, code):
    attempt = attempt_in(state)
    job = a_job(attempts=(attempt,), cancelling=True)
    assert verdict(state, outcome, code, job=job) == CANCELLED
    assert verdict(state, "exited", 0, job=job) == SUCCEEDED


@pytest.mark.parametrize(
    ("code", "used", "rule", "expected"),
    [
        (1, 0, {"max_retries": 1}, RETRIED),
        (1, 1, {"max_retries": 1}, FAILED),
        (33, 0, {"max_retries": 1, "retry_exit_codes": (33, 34)}, RETRIED),
        (1, 0, {"max_retries": 1, "retry_exit_codes": (33, 34)}, FAILED),
        (None, 0, {"max_retries": 1}, RETRIED),
        (None, 0, {"max_retries": 1, "retry_exit_codes": (33,)}, FAILED),
        (-9, 0, {"max_retries": 1}, RETRIED),
    ],
)
def test_retries(code, used, rule, expected):
    job = a_job(a_spec(**rule), attempts=(attempt_in(S.RUNNING),), retries=used)
    assert verdict(S.RUNNING, "exited", code, job=job) == expected


def test_losses_count_over_the_life_of_a_job():
    lost = [attempt_in(S.LOST, number=n) for n in (1, 2)]
    job = a_job(attempts=(*lost, attempt_in(S.RUNNING, number=3)))
    assert verdict(S.RUNNING, "lost", job=job, max_losses=3) == LOST
    assert verdict(S.RUNNING, "lost", job=job, max_losses=2) == (S.LOST, JobState.FAILED, Reason.FAILED, False, False)


@pytest.mark.parametrize(
    ("attempt", "kept"),
    [
        # state, when it was productive, last checkpoint -> productive time of the job [s] and progress
        ({"state": S.PAUSED}, (100.0 + 100.0, 0.8)),
        ({"state": S.PAUSED, "productive_s": 40.0}, (100.0 + 60.0, 0.8)),
        ({"state": S.SUCCEEDED, "checkpoint_s": 10.0}, (100.0 + 100.0, 1.0)),
        ({"state": S.LOST, "checkpoint_s": 60.0}, (100.0 + 60.0, 0.8 * 160 / 200)),
        ({"state": S.LOST, "productive_s": 40.0, "checkpoint_s": 60.0}, (100.0 + 20.0, 0.8 * 120 / 160)),
        ({"state": S.LOST}, (100.0, 0.8 * 100 / 200)),
        ({"state": S.LOST, "productive_s": 40.0, "checkpoint_s": 30.0}, (100.0, 0.8 * 100 / 160)),
        ({"state": S.FAILED, "checkpoint_s": 100.0}, (200.0, 0.8)),
        ({"state": S.STOPPED, "checkpoint_s": 130.0}, (200.0, 0.8)),  # a report that came late
        ({"state": S.LOST, "started_s": None}, (100.0, 0.8)),  # it never ran
        ({"state": S.LOST, "started_s": 100.0}, (100.0, 0.8)),
    ],
)
def test_what_no_checkpoint_holds_is_lost(attempt, kept):
    ended = replace(attempt_in(S.RUNNING), ended_s=100.0, **attempt)
    assert kept_work(a_job(productive_s=100.0, progress=0.8), ended) == (kept[0], pytest.approx(kept[1]))
    assert kept_work(a_job(productive_s=100.0), ended) == (kept[0], None)
