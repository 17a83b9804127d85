"""Suspending, cancelling, failing, losing: what becomes of a job by request or by accident."""

from __future__ import annotations

from dataclasses import replace

import pytest
from orchestrator_world import (
    CANCEL,
    DE,
    FLAT,
    FR,
    RESUME,
    SUSPEND,
    World,
    is_running,
    launching,
    pausing,
    retrying,
    stopping,
    suspended,
    waiting,
)
from planning_cases import HOUR_S, T0, a_node, hourly

from eco_ray.core.cluster import Resources
from eco_ray.core.events import AttemptStarted, NodeLost
from eco_ray.errors import NotFoundError, UsageError

# -- suspending by request -------------------------------------------------------------------------------------------


def test_suspend_and_resume_a_waiting_job():
    world = World(DE, FR)
    world.submit(hours=1)
    assert world.do(SUSPEND) == []
    assert world.said() == ("suspended", "Suspended", "is suspended by request; `eco-ray job resume` lets it go on")
    assert world.tick(hours=1.5) == []
    assert world.do(RESUME) == ["start j-a1 on de-1"]


def test_suspend_and_resume_a_running_job():
    world = World(FLAT)
    world.running()
    assert world.do(SUSPEND) == ["ask j-a1"]
    assert world.do(SUSPEND) == []  # once more: it is on its way out
    assert world.exited(75) == ["clean j-a1"]
    assert world.said() == ("suspended", "Suspended", "is suspended by request; `eco-ray job resume` lets it go on")
    assert world.tick(hours=2) == []
    assert world.do(RESUME) == ["start j-a2 on de-1"]


def test_suspend_while_launching_stops_the_launch():
    world = World(FLAT)
    world.submit()
    assert world.do(SUSPEND) == ["stop j-a1"]
    assert world.started() == []  # it had been on its way
    assert (world.job().attempts[0].started_s, world.said()[0]) == (T0, "running")
    assert world.exited(outcome="stopped") == ["clean j-a1"]
    assert world.said()[:2] == ("suspended", "Suspended")
    assert world.do(RESUME) == ["start j-a2 on de-1"]


def test_suspend_while_it_pauses_for_the_grid_does_not_stop_it_in_its_checkpoint():
    world = World(hourly("DE", *[100, 900] * 12))
    world.running(hours=3)
    assert world.tick(hours=1) == ["ask j-a1"]
    assert world.do(SUSPEND) == []
    assert world.exited(75) == ["clean j-a1"]
    assert world.said()[:2] == ("suspended", "Suspended")
    assert world.tick(hours=1) == []


def test_suspend_stops_a_script_that_ignores_the_pause():
    world = World(FLAT)
    world.running()
    assert world.do(SUSPEND) == ["ask j-a1"]
    assert world.tick(seconds=60) == ["stop j-a1"]
    assert world.tick(seconds=60) == []
    assert world.exited(1) == ["clean j-a1"]
    assert world.said()[:2] == ("suspended", "Suspended")


def test_resume_while_pausing_and_while_stopping():
    world = World(FLAT)
    world.running()
    world.do(SUSPEND)
    assert world.do(RESUME) == []
    assert world.exited(75) == ["clean j-a1", "start j-a2 on de-1"]
    world.started(number=2)
    world.do(SUSPEND)
    assert world.tick(seconds=60) == ["stop j-a2"]
    assert world.do(RESUME) == []
    assert world.exited(number=2, outcome="stopped") == ["clean j-a2", "start j-a3 on de-1"]


def test_resume_of_a_pause_that_is_ignored_lets_it_run_on():
    world = World(FLAT)
    world.running()
    world.do(SUSPEND)
    world.do(RESUME)
    assert world.tick(seconds=60) == []
    assert str(world.job().attempts[-1].state) == "running"


@pytest.mark.parametrize(("outcome", "code"), [("lost", None), ("exited", 1)])
def test_a_job_that_fails_while_it_is_held_stays_suspended(outcome, code):
    world = World(FLAT)
    world.running(max_retries=3)
    world.do(SUSPEND)
    assert world.exited(code, outcome=outcome) == ["clean j-a1"]
    assert world.said()[:2] == ("suspended", "Suspended")
    assert world.tick(hours=1) == []
    assert world.do(RESUME) == ["start j-a2 on de-1"]


def test_resume_of_a_job_that_nobody_suspended_is_an_error():
    world = World(FLAT)
    world.running()
    with pytest.raises(UsageError, match=r"job j is not held by a suspend request \(it is running\)"):
        world.do(RESUME)


# -- cancelling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [waiting, suspended, retrying])
def test_cancel_without_a_live_attempt_ends_it_at_once(state):
    world = World(DE, FR)
    state(world)
    assert world.do(CANCEL) == []
    assert world.said() == ("cancelled", "Cancelled", "was cancelled before it ran on")
    assert world.tick(hours=9) == []
    with pytest.raises(NotFoundError, match="no open job 'j'"):
        world.do(CANCEL)


@pytest.mark.parametrize("state", [launching, is_running, pausing, stopping])
@pytest.mark.parametrize(
    ("outcome", "code", "final"),
    [
        ("stopped", None, "cancelled"),
        ("exited", 1, "cancelled"),
        ("exited", 75, "cancelled"),
        ("lost", None, "cancelled"),
        ("refused", None, "cancelled"),
        ("exited", 0, "succeeded"),
    ],
)
def test_cancel_with_a_live_attempt_stops_it_first(state, outcome, code, final):
    world = World(DE, FR)
    state(world)
    assert world.do(CANCEL) == ["stop j-a1"]
    assert world.do(CANCEL) == []
    with pytest.raises(UsageError, match="job j is being cancelled"):
        world.do(SUSPEND)
    assert world.tick(hours=1) == []
    assert world.exited(code, outcome=outcome) == ["clean j-a1 for good"]
    assert world.said()[0] == final


def test_a_request_for_an_unknown_job_is_an_error():
    world = World(FLAT)
    for event in (CANCEL, SUSPEND, RESUME):
        with pytest.raises(NotFoundError, match="`eco-ray job list` shows the jobs"):
            world.do(event)


# -- failing, losing, stopping ---------------------------------------------------------------------------------------


def test_retries_only_on_the_exit_codes_that_are_named():
    world = World(FLAT)
    world.running(max_retries=2, retry_exit_codes=(33,))
    assert world.exited(33) == ["clean j-a1"]
    assert world.said() == ("queued", "Retrying", "exited with code 33; retry 1 of 2 follows")
    assert world.tick(seconds=119) == []
    assert world.tick(seconds=1) == ["start j-a2 on de-1"]
    world.started(number=2)
    assert world.exited(1, number=2) == ["clean j-a2 for good"]
    assert world.said() == (
        "failed",
        "Failed",
        "exited with code 1; 1 of 2 retries used, and retries.on_exit_codes is [33]. "
        "`eco-ray job logs j` shows its output; raise retries.max to repeat it",
    )


def test_retries_are_used_up():
    world = World(FLAT)
    world.running(max_retries=2)
    for number in (1, 2):
        world.exited(1, number=number)
        assert world.tick(seconds=120) == [f"start j-a{number + 1} on de-1"]
        world.started(number=number + 1)
    assert world.exited(1, number=3) == ["clean j-a3 for good"]


def test_a_lost_attempt_is_followed_by_the_next_one_elsewhere():
    world = World(FLAT, hourly("FR", *[400] * 40))
    world.running(hours=2)
    world.progressed(0.5, productive_s=T0, checkpoint_s=T0 + 0.25 * HOUR_S)
    world.tick(hours=0.5)
    assert world.do(NodeLost("de-1")) == []
    assert world.exited(outcome="lost", message="node died") == ["clean j-a1"]
    assert world.said() == (
        "queued",
        "Retrying",
        "lost attempt 1 on de-1 (node died); it goes on from its last checkpoint",
    )
    job = world.job()
    assert (job.productive_s, job.progress) == (0.25 * HOUR_S, 0.25)  # what came after the checkpoint is lost
    assert world.tick(seconds=119) == []
    assert world.tick(seconds=1) == ["start j-a2 on fr-1"]


def test_reports_of_an_older_attempt_change_nothing():
    world = World(FLAT)
    world.running()
    world.exited(outcome="lost")
    world.tick(seconds=120)
    before = dict(world.records)
    assert world.do(AttemptStarted("j", 1)) == []
    assert world.progressed(0.9, number=1) == []
    assert world.exited(0, number=1) == []
    assert world.exited(0, number=3) == []
    assert world.exited(0, job_id="nobody") == []
    assert world.records == before


def test_losses_have_a_limit():
    world = World(FLAT)
    world.submit()
    for number in (1, 2):
        world.started(number=number)
        world.exited(number=number, outcome="lost", message="node died")
        assert world.tick(seconds=120) == [f"start j-a{number + 1} on de-1"]
    assert world.exited(number=3, outcome="lost", message="node died") == ["clean j-a3 for good"]
    assert world.said() == (
        "failed",
        "Failed",
        "lost 3 attempts (limit 2), the last on de-1: node died; check the nodes, then submit it again",
    )


def test_a_refused_launch_is_tried_again():
    world = World(FLAT)
    world.submit()
    assert world.exited(outcome="refused", message="no") == ["clean j-a1"]
    assert world.tick(seconds=120) == ["start j-a2 on de-1"]


def test_a_job_stopped_through_ray_is_cancelled():
    world = World(FLAT)
    world.running()
    assert world.exited(outcome="stopped") == ["clean j-a1 for good"]
    assert world.said() == (
        "cancelled",
        "Cancelled",
        "was stopped through Ray's own job API (attempt j-a1)",
    )


@pytest.mark.parametrize("request_", [None, SUSPEND, CANCEL])
def test_an_attempt_that_is_over_before_it_was_seen_running(request_):
    world = World(FLAT)
    world.submit()
    if request_:
        world.do(request_)
    assert world.exited(0) == ["clean j-a1 for good"]
    assert world.said()[0] == "succeeded"
    assert world.job().attempts[0].started_s == T0


# -- lengths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hours", "code", "doubt"), [(1.0, 0, 0), (1.2, 0, 0), (0.5, 0, 1 / 4), (0.5, 1, 0)])
def test_a_job_that_is_done_teaches_whether_its_length_was_right(hours, code, doubt):
    world = World(FLAT)
    world.running()
    world.tick(hours=hours)
    world.exited(code)
    assert world.core.book.durations.expected(world.job().spec).doubt == doubt


# -- starts that nobody saw --------------------------------------------------------------------------------------------


def test_a_program_that_reports_has_started_whether_or_not_that_was_seen():
    world = World(FLAT)
    world.submit()
    world.now_s += 90.0
    world.progressed(0.1, productive_s=T0 + 60.0)
    attempt = world.job().attempts[0]
    assert (attempt.started_s, str(attempt.state), world.said()[0]) == (T0 + 60.0, "running", "running")
    world.started()  # seen at last: no news
    assert world.job().attempts[0].started_s == T0 + 60.0
    assert world.kinds().count("started") == 1


def launches_take(world, *lengths_s):
    for number, launch_s in enumerate(lengths_s):
        world.submit(f"earlier-{number}")
        world.now_s += launch_s
        world.started(f"earlier-{number}")
        world.exited(0, f"earlier-{number}")


@pytest.mark.parametrize(("ended_after_s", "began_after_s"), [(600.0, 60.0), (5.0, 5.0)])
def test_an_attempt_that_was_over_before_it_was_seen_began_when_launches_usually_do(ended_after_s, began_after_s):
    world = World(FLAT)
    launches_take(world, 40.0, 60.0, 80.0)
    world.submit()
    created_s = world.now_s
    world.now_s += ended_after_s
    world.exited(0)
    assert world.job().attempts[0].started_s == created_s + began_after_s


@pytest.mark.parametrize("demand", [Resources(1.0, 0.4, 1.0, 25.0), Resources(1.0, 0.6, 1.0)])
def test_no_more_jobs_with_a_part_of_a_gpu_run_than_there_are_gpus_for(demand):
    """Two of them cannot share one: the cluster would let the third wait for ever."""
    world = World(
        hourly("DE", *[300] * 30), nodes={"g": replace(a_node("g"), capacity=Resources(16.0, 2.0, 64.0, 80.0))}
    )
    for number in range(3):
        world.submit(f"j{number}", hours=1, demand=demand)
    assert len(world.launched) == 2
