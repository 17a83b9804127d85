"""What attempts show of the speed with each number of workers, and what plans make of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from orchestrator_world import Launched, World
from planning_cases import T0, a_job, a_node, a_spec, hourly

from eco_ray.core.jobs import Attempt, AttemptState, JobState, Pace, Workers
from eco_ray.core.scaling import as_asked, in_words, observed, paces, put_right, reported

rates = st.floats(1e-6, 1e-2)


@st.composite
def asked_and_measured(draw):
    least = draw(st.integers(1, 4))
    most = least + draw(st.integers(1, 6))
    steps = draw(st.lists(st.floats(0.0, 1.0), min_size=most - least, max_size=most - least))
    throughput = [1.0]
    for step in steps:
        throughput.append(throughput[-1] + step)
    asked = Workers(least, most, draw(st.sampled_from([(), tuple(throughput)])))
    counts = draw(st.sets(st.integers(least, most), max_size=most - least + 1))
    return asked, {count: draw(rates) for count in counts}


# -- the curve ---------------------------------------------------------------------------------------------------------


@given(asked_and_measured())
def test_speeds_begin_with_one_and_never_fall(case):
    asked, measured = case
    found = put_right(asked, measured)
    assert (found.min, found.max) == (asked.min, asked.max)
    assert found.speeds[0] == 1.0
    assert all(after >= before for before, after in zip(found.speeds, found.speeds[1:], strict=False))
    assert as_asked(found) == asked


@given(asked_and_measured(), st.floats(0.01, 100.0))
def test_the_unit_of_work_does_not_matter(case, factor):
    asked, measured = case
    scaled = {count: rate * factor for count, rate in measured.items()}
    assert put_right(asked, scaled).speeds == pytest.approx(put_right(asked, measured).speeds)


@given(asked_and_measured())
def test_one_measured_number_says_nothing_of_others(case):
    asked, measured = case
    assert put_right(asked, dict(list(measured.items())[:1])) == asked


@given(asked_and_measured(), rates)
def test_what_was_said_rightly_stays(case, rate):
    asked, measured = case
    right = {count: rate * asked.speed(count) for count in measured}
    assert put_right(asked, right).speeds == pytest.approx(asked.speeds)


@given(st.lists(rates, min_size=2, max_size=6))
def test_where_all_were_measured_nothing_of_what_was_said_is_left(found):
    found.sort()
    measured = dict(enumerate(found, 1))
    for throughput in ((), tuple(float(n * n) for n in measured)):
        speeds = put_right(Workers(1, len(found), throughput), measured).speeds
        assert speeds == pytest.approx([rate / found[0] for rate in found])


def test_between_measured_numbers_the_factor_is_interpolated():
    """Four are 2.4 times as fast as one and not 4 times: three, 0.733 of the 3 times that they were taken for."""
    assert put_right(Workers(1, 5), {1: 0.01, 4: 0.024}).speeds == pytest.approx((1, 1.73333, 2.2, 2.4, 3.0), rel=1e-4)


def test_more_workers_that_are_slower_are_as_fast_as_fewer():
    assert put_right(Workers(1, 3), {1: 0.01, 2: 0.02, 3: 0.012}).speeds == pytest.approx((1, 2, 2))


# -- the pace of an attempt --------------------------------------------------------------------------------------------


def pace_of(*reports):
    pace = None
    for done, at_s in reports:
        pace = observed(pace, done, at_s)
    return pace


def test_start_and_first_step_do_not_count():
    """A tenth in the first 60 s, then a tenth in 10 s each."""
    pace = pace_of((0.0, 0), (0.0, 30), (0.1, 60), (0.2, 70), (0.2, 75), (0.3, 80))
    assert (pace.share, pace.over_s, pace.reports) == (pytest.approx(0.2), 20, 3)


def test_a_jump_to_the_end_does_not_count():
    assert pace_of((0.1, 0), (0.2, 10), (0.3, 20), (1.0, 21)).to_done == 0.3


def test_measuring_begins_anew_where_work_was_lost():
    pace = pace_of((0.1, 0), (0.2, 10), (0.3, 20), (0.15, 90), (0.25, 100), (0.35, 110))
    assert (pace.from_done, pace.from_s, pace.to_done, pace.to_s) == (0.25, 100, 0.35, 110)


def test_a_report_that_comes_late_changes_nothing():
    assert pace_of((0.1, 0), (0.2, 10), (0.3, 20)) == pace_of((0.1, 0), (0.2, 10), (0.3, 20), (0.31, 15))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1e6)), max_size=30))
def test_a_pace_is_never_negative(reports):
    pace = pace_of(*reports)
    assert pace is None or (pace.share >= 0 and pace.over_s >= 0 and pace.reports <= len(reports))


# -- the job -----------------------------------------------------------------------------------------------------------


def attempt(number, workers, share, over_s, reports=9, **changes):
    pace = Pace(0.1, T0, 0.1 + share, T0 + over_s, reports)
    return Attempt(number, f"j-a{number}", "de-1", "DE", AttemptState.PAUSED, T0, workers=workers, pace=pace, **changes)


def test_attempts_with_as_many_workers_count_together_and_short_ones_not_at_all():
    attempts = (
        attempt(1, 1, 0.1, 100), attempt(2, 2, 0.3, 150), attempt(3, 1, 0.2, 100),
        attempt(4, 3, 0.2, 10, reports=3), attempt(5, 3, 0.005, 10), replace(attempt(6, 3, 1, 1), pace=None),
    )  # fmt: skip
    assert paces(a_job(attempts=attempts)) == pytest.approx({1: 0.0015, 2: 0.002})


def elastic_job(**changes):
    """One worker did a tenth in 100 s; two are at work."""
    now = replace(attempt(2, 2, 0, 0, 0), state=AttemptState.RUNNING, pace=None)
    return a_job(a_spec(3.0, workers=Workers(1, 2)), attempts=(attempt(1, 1, 0.1, 100, kept_s=150.0), now), **changes)


def after(job, *reports):
    for done, at_s in reports:
        job = reported(job, done, T0 + at_s)
    return job


STEADY = ((0.2, 200), (0.21, 210), (0.225, 220), (0.24, 230), (0.255, 240))


def test_a_running_attempt_puts_the_curve_right():
    """0.0015 a second with two, 0.001 with one."""
    job = after(elastic_job(), *STEADY)
    assert job.spec.workers == Workers(1, 2, (1.0, pytest.approx(1.5)), asked=())
    assert in_words(job) == "1: 1, 2: 1.5 times that of 1; measured with 1 and 2 workers, the rest follows from them"


def test_it_says_nothing_before_its_fourth_report():
    job = after(elastic_job(), *STEADY[:4])
    assert job.spec.workers == Workers(1, 2)
    assert in_words(job) == (
        "1: 1, 2: 2 times that of 1, taken to grow in proportion; measured so far with 1, which says nothing of "
        "another number"
    )


def test_what_was_done_counts_by_the_speeds_that_are_known_now():
    """150 s of one worker and 100 s of two were 350 s of one, and turn out to be 300 s."""
    job = elastic_job(productive_s=350.0)
    attempts = (*job.attempts[:1], attempt(2, 2, 0, 0, 0, kept_s=100.0), replace(job.attempts[1], number=3))
    assert after(replace(job, attempts=attempts), *STEADY).productive_s == pytest.approx(300.0)
    old = replace(job, attempts=(replace(job.attempts[0], kept_s=None), job.attempts[1]))
    assert after(old, *STEADY).productive_s == 350.0


def test_a_job_whose_number_of_workers_is_fixed_is_not_measured():
    job = a_job(attempts=(replace(attempt(1, 1, 0, 0), state=AttemptState.RUNNING, pace=None),))
    assert after(job, *STEADY) is job
    assert in_words(job) is None


# -- plans -------------------------------------------------------------------------------------------------------------


def test_the_next_plan_takes_what_was_measured():
    """It runs with two workers, taken to be twice as fast as one, and they are not: it goes on with one."""
    world = World(hourly("DE", 100, *[300] * 40), nodes={"de-1": a_node(cpus=2.0, watts=200.0)})
    job = elastic_job(state=JobState.RUNNING, has_checkpoint=True, productive_s=150.0)
    world.launched["j-a2"] = Launched("j", 2, "de-1", running=True)
    world.core.restore([replace(job, attempts=(job.attempts[0], replace(job.attempts[1], started_s=T0)))])
    world.tick()
    assert world.core.book.jobs["j"].plan.segments[0].workers == 2
    for done, at_s in ((0.2, 10), (0.21, 20), (0.22, 30), (0.23, 40), (0.24, 50)):  # as fast as one
        world.progressed(done, number=2, productive_s=T0, at_s=T0 + at_s)
    assert world.job().spec.workers.speeds == pytest.approx((1.0, 1.0))
    assert world.kinds() == ["scaling"]
    asked = [action for _ in range(8) for action in world.tick(hours=0.25)]
    assert asked == ["ask j-a2"]
    world.exited(75, number=2)
    assert {segment.workers for segment in world.job().plan.segments} == {1}
