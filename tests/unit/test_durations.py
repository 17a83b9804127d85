"""How long a job is expected to take, and by whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_cases import HOUR_S, T0, a_job, a_spec

from eco_ray.core.attempts import kept_work
from eco_ray.core.durations import AS_GIVEN, Durations, done_so_far_s
from eco_ray.core.jobs import Attempt, AttemptState, SuspendRule, Workers

UNKNOWN = a_spec(None)


def learned(*hours, spec=UNKNOWN, assumed_h=7.0):
    """Durations that have seen runs of so many hours."""
    durations = Durations(assumed_h * HOUR_S)
    for length_h in hours:
        durations.succeeded(a_job(spec, productive_s=length_h * HOUR_S))
    return durations


def expected_h(durations, spec=UNKNOWN, done_h=0.0, progress=None):
    return durations.expected(spec, done_h * HOUR_S, progress).seconds / HOUR_S


def running(started_h=-1.0, **changes):
    """An attempt that was seen running so many hours after T0."""
    attempt = Attempt(1, "j-a1", "de-1", "DE", AttemptState.RUNNING, T0 - HOUR_S, started_s=T0 + started_h * HOUR_S)
    return replace(attempt, **changes)


# -- where it comes from -----------------------------------------------------------------------------------------------


def test_progress_counts_more_than_the_owner_who_counts_more_than_earlier_runs():
    durations, spec = learned(2, 2, 2), a_spec(4)
    by_progress = durations.expected(spec, HOUR_S, 0.2)
    assert (by_progress.seconds, by_progress.source) == (5 * HOUR_S, "by its progress, 20%")
    by_owner = durations.expected(spec, HOUR_S)
    assert (by_owner.seconds, by_owner.source) == (4 * HOUR_S, AS_GIVEN)
    by_runs = durations.expected(UNKNOWN, HOUR_S)
    assert (by_runs.seconds, by_runs.source) == (2 * HOUR_S, "80% of its 3 earlier runs took no longer")
    by_nobody = Durations(HOUR_S).expected(UNKNOWN, HOUR_S)
    assert (by_nobody.seconds, by_nobody.source) == (HOUR_S, "nothing is known of its length")


@pytest.mark.parametrize(
    ("done_h", "progress", "expected"),
    [
        (1.0, 0.049, 4.0),  # too early to say
        (1.0, 0.05, 20.0),
        (0.0, 0.5, 4.0),  # half of it was there without any work
        (3.0, 1.0, 3.0),
        (3.0, 1.5, 3.0),  # more than all of it: no shorter than what it took
        (1.0, 0.0, 4.0),
        (1.0, None, 4.0),
    ],
)
def test_progress_counts_once_there_is_enough_of_it(done_h, progress, expected):
    assert expected_h(Durations(HOUR_S), a_spec(4), done_h, progress) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([3], 3),
        ([1, 2], 2),
        ([1, 2, 3, 4, 5], 4),  # four of five
        ([1, 2, 3, 4], 4),
        ([1, 2, 3, 4, 5, 6], 5),
        ([6, 5, 4, 3, 2, 1], 5),
        ([1] * 9 + [50], 1),
        ([1] * 8 + [50] * 3, 50),
        (range(1, 21), 16),
    ],
)
def test_most_of_the_earlier_runs_took_no_longer(runs, expected):
    assert expected_h(learned(*runs)) == expected


@pytest.mark.parametrize(
    ("done_h", "expected"),
    [(0.0, 16), (0.9, 16), (1.0, 17), (5.5, 17), (10.0, 18), (15.0, 19), (18.5, 20), (20.0, 20), (30.0, 20)],
)
def test_a_run_that_takes_longer_than_most_is_one_of_the_long_ones(done_h, expected):
    assert expected_h(learned(*range(1, 21)), done_h=done_h) == expected


# -- what is remembered ------------------------------------------------------------------------------------------------


def test_the_last_twenty_runs_are_remembered():
    durations = learned(*[9] * 20)
    for run in range(20):
        assert expected_h(durations) == 9 if run < 16 else 2
        durations.succeeded(a_job(UNKNOWN, productive_s=2 * HOUR_S))
    assert expected_h(durations) == 2
    assert durations.expected(UNKNOWN).source == "80% of its 20 earlier runs took no longer"
    assert expected_h(durations, done_h=2.0) == 2  # nobody remembers those of nine hours


def test_runs_are_remembered_by_tenant_and_name():
    durations = learned(2)
    assert expected_h(durations, replace(UNKNOWN, name="other")) == 7
    assert expected_h(durations, replace(UNKNOWN, tenant="other")) == 7
    assert expected_h(durations, replace(UNKNOWN, run="python other.py", priority=1)) == 2


def test_runs_of_several_workers_are_learned_as_those_of_the_least():
    spec = a_spec(None, workers=Workers(1, 4, (1.0, 1.8, 2.4, 2.8)))
    job = a_job(spec, attempts=(running(workers=4),))
    productive_s, _ = kept_work(job, replace(job.attempts[0], state=AttemptState.SUCCEEDED, ended_s=T0 + HOUR_S))
    assert productive_s == 2 * 2.8 * HOUR_S  # two hours on four
    durations = Durations(HOUR_S)
    durations.succeeded(replace(job, productive_s=productive_s))
    assert expected_h(durations, spec) == pytest.approx(5.6)
    assert expected_h(durations, replace(spec, workers=Workers(1, 2))) == pytest.approx(5.6)
    assert expected_h(durations, replace(spec, workers=Workers(2, 4))) == 1  # another least: nobody knows


def test_what_owners_say_is_doubted_once_it_was_wrong():
    durations, spec = Durations(HOUR_S), a_spec(2, name="told")
    assert durations.expected(spec).doubt == 0
    for name, told_h, took_h in [("a", 2, 2.4), ("b", 4, 1), ("c", 1, 1.3), ("d", 2, 1.6)]:
        durations.succeeded(a_job(a_spec(told_h, name=name), productive_s=took_h * HOUR_S))
    assert durations.expected(spec).doubt == pytest.approx(2 / 7)  # two of four, and three jobs' worth of trust
    assert durations.expected(spec, HOUR_S, 0.5).doubt == 0  # its progress says more
    assert durations.expected(replace(UNKNOWN, name="x")).doubt == 0
    assert durations.expected(replace(UNKNOWN, name="a")).doubt == 0  # an earlier run, not a mean


def test_what_is_assumed_is_doubted_by_first_runs_alone():
    durations = learned(7, 9, 9, 9, assumed_h=7)
    assert durations.expected(replace(UNKNOWN, name="x")).doubt == 0
    durations.succeeded(a_job(replace(UNKNOWN, name="y"), productive_s=HOUR_S))
    assert durations.expected(replace(UNKNOWN, name="x")).doubt == pytest.approx(1 / 5)
    assert durations.expected(a_spec(2)).doubt == 0


def test_a_run_of_no_length_teaches_nothing():
    assert expected_h(learned(0, -1)) == 7
    assert expected_h(learned(0, 2, 0)) == 2


def test_of_very_many_names_the_one_that_ran_longest_ago_is_forgotten():
    durations, job = Durations(HOUR_S), a_job(UNKNOWN, productive_s=2 * HOUR_S)
    specs = [replace(UNKNOWN, name=f"job-{i}") for i in range(10_001)]
    for spec in specs[:-1]:
        durations.succeeded(replace(job, spec=spec))
    assert [expected_h(durations, spec) for spec in (specs[0], specs[1], specs[-2])] == [2, 2, 2]
    durations.succeeded(replace(job, spec=specs[0]))  # it ran again
    durations.succeeded(replace(job, spec=specs[-1]))
    assert [expected_h(durations, spec) for spec in (specs[0], specs[1], specs[2], specs[-1])] == [2, 1, 2, 2]


hours = st.lists(st.floats(0.01, 100), min_size=1, max_size=40)


@settings(max_examples=200)
@given(hours, st.floats(0, 120))
def test_what_history_says_is_always_one_of_the_runs_and_longer_than_what_ran_where_any_was(runs, done_h):
    durations = learned(*runs)
    known, found = [run_h * HOUR_S for run_h in runs[-20:]], durations.expected(UNKNOWN, done_h * HOUR_S).seconds
    assert found in known
    assert found > done_h * HOUR_S or found == max(known)
    longer = [run_s for run_s in known if run_s > done_h * HOUR_S] or [max(known)]
    # the shortest that 80 % did not exceed
    assert sum(run_s <= found for run_s in longer) >= 0.8 * len(longer) > sum(run_s < found for run_s in longer)


@settings(max_examples=100)
@given(hours, st.lists(st.floats(0, 120), min_size=2, max_size=9))
def test_the_longer_it_runs_the_longer_it_is_expected_to_take(runs, done_h):
    durations = learned(*runs)
    expected = [expected_h(durations, done_h=h) for h in sorted(done_h)]
    assert expected == sorted(expected)


# -- what is done, and what is left ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "done_h"),
    [
        ({}, 0.0),
        ({"productive_s": HOUR_S}, 0.0),  # without a checkpoint it starts again
        ({"productive_s": HOUR_S, "has_checkpoint": True}, 1.0),
        ({"attempts": (running(),)}, 1.0),
        ({"attempts": (running(started_s=None),)}, 0.0),
        ({"attempts": (running(), running(number=2, state=AttemptState.LAUNCHING, started_s=None))}, 0.0),
        ({"attempts": (running(productive_s=T0 - 0.25 * HOUR_S),)}, 0.25),
        ({"attempts": (running(productive_s=T0 + HOUR_S),)}, 0.0),  # clocks differ
        ({"attempts": (running(state=AttemptState.PAUSED),), "productive_s": HOUR_S, "has_checkpoint": True}, 1.0),
        ({"attempts": (running(number=2),), "productive_s": HOUR_S, "has_checkpoint": True}, 1.5),  # it restores
        ({"attempts": (running(number=2),), "productive_s": HOUR_S}, 2.0),
        ({"attempts": (running(workers=4),)}, 2.0),
        ({"attempts": (running(workers=8),)}, 3.0),
        ({"attempts": (running(workers=4),), "productive_s": HOUR_S, "has_checkpoint": True}, 3.0),
    ],
)
def test_work_that_is_done_is_counted_at_the_speed_of_its_workers(changes, done_h):
    workers = Workers(2, 8, (1.0, 1.5, 2.0, 2.2, 2.4, 2.6, 3.0))
    attempts = tuple(replace(one, workers=max(one.workers, 2)) for one in changes.pop("attempts", ()))
    spec = a_spec(8, workers=workers, suspend=SuspendRule(resume_cost_s=0.5 * HOUR_S))
    assert done_so_far_s(a_job(spec, attempts=attempts, **changes), T0) == pytest.approx(done_h * HOUR_S)


def test_work_grows_in_proportion_to_the_workers_unless_their_owner_says_how():
    job = a_job(a_spec(8, workers=Workers(2, 8)), attempts=(running(workers=6),))
    assert done_so_far_s(job, T0) == pytest.approx(3 * HOUR_S)
    assert Durations(HOUR_S).left_s(job, T0) == pytest.approx(5 * HOUR_S)
    assert Durations(HOUR_S).left_s(job, T0 + HOUR_S) == pytest.approx(2 * HOUR_S)


def test_what_takes_longer_than_expected_has_a_second_left():
    job = a_job(a_spec(1), attempts=(running(),))
    assert Durations(HOUR_S).left_s(job, T0 - 0.5) == 1.0
    for late_h in (0, 1, 100):
        assert Durations(HOUR_S).left_s(job, T0 + late_h * HOUR_S) == 1.0
    assert Durations(HOUR_S).left_s(replace(job, progress=1.0), T0) == 1.0


def test_a_run_of_unknown_length_is_planned_by_what_others_took():
    job = a_job(UNKNOWN, attempts=(running(),))
    assert learned(3).left_s(job, T0) == 2 * HOUR_S
    assert learned(0.5, 3).left_s(job, T0) == 2 * HOUR_S
    assert learned(0.5).left_s(job, T0) == 1.0
    assert learned(0.5).left_s(replace(job, progress=0.25), T0) == 3 * HOUR_S


def test_without_a_checkpoint_nothing_of_it_is_left_to_save():
    lost = running(state=AttemptState.LOST)
    job = a_job(UNKNOWN, attempts=(lost,), productive_s=0.5 * HOUR_S)
    assert learned(3).left_s(job, T0) == 3 * HOUR_S
    assert learned(3).left_s(replace(job, has_checkpoint=True), T0) == 2.5 * HOUR_S
