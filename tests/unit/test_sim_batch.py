"""Jobs decided at their arrival: what they do with a plan, which of them count, and the figures, worked out by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_cases import MONDAY_S, H, Job, ran, setup, trace, workload

from eco_ray.core.decide import NAMES
from eco_ray.sim.batch import CALENDAR, Rules, run_batch
from eco_ray.sim.foresight import Known, persistence
from eco_ray.sim.schedule import Schedule, outcome, run_now_schedule
from eco_ray.sim.simulate import simulate

M = 60


def batch(policy, jobs, *zones, beliefs=None, span_h=None, **rules):
    """What ran, in hours: (job, zone, start, end, workers); and how many resumes."""
    traces = [trace(*values, zone=f"Z{number}") for number, values in enumerate(zones)]
    span_s = int(span_h * H) if span_h is not None else traces[0].end_s
    beliefs = beliefs or [Known(one) for one in traces]
    decided = run_batch(workload(*jobs), traces, beliefs, Rules(policy, span_s, **rules))
    rows = [(job, zone, start / H, end / H, workers) for job, zone, start, end, workers in ran(decided.schedule)]
    return rows, decided.resumes.tolist()


# -- following a plan ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length_h", "told_h", "wait_h", "resume_m", "expected"),
    [
        # wait-awhile plans two hours of [5, 1, 9, 2, 7, 7]: 1 to 2 and 3 to 4
        (2, 2, 2, 0, [(1, 2), (3, 4)]),
        (1.5, 2, 2, 0, [(1, 2), (3, 3.5)]),  # shorter than believed
        (1, 2, 2, 0, [(1, 2)]),  # done before the pause
        (0.5, 2, 2, 0, [(1, 1.5)]),
        (3, 2, 2, 0, [(1, 2), (3, 5)]),  # longer: it runs on
        # a start after a pause is earlier by what it takes to resume, so that 3 to 4 does work
        (2, 2, 2, 15, [(1, 2), (2.75, 4)]),
        (1.5, 2, 2, 15, [(1, 2), (2.75, 3.5)]),
        (3, 2, 2, 15, [(1, 2), (2.75, 5)]),
        (1, 2, 2, 15, [(1, 2)]),
        # a pause that is as long as the resume is none: it works on and is done at 3
        (2, 2, 2, 60, [(1, 3)]),
        # a shorter one: no time to make up for the resume, so it works through the pause
        (2, 2, 2, 90, [(1, 3)]),
        (2, 2, 3, 90, [(1, 3)]),
        # there is time until 6: resumes from 3 to 4.5 and works until 5.5
        (2, 2, 4, 90, [(1, 2), (3, 5.5)]),
        (1.5, 2, 4, 90, [(1, 2), (3, 5)]),
        (1, 2, 4, 90, [(1, 2)]),
    ],
)
def test_a_job_follows_its_plan_for_as_long_as_it_takes(length_h, told_h, wait_h, resume_m, expected):
    job = Job(0, length_h * H, wait_h * H, told=told_h * H)
    rows, resumes = batch("wait-awhile", [job], [5, 1, 9, 2, 7, 7], resume_cost_s=resume_m * M)
    assert [row[2:4] for row in rows] == [pytest.approx(span) for span in expected]
    assert resumes == [len(expected) - 1]


def test_a_resume_that_is_longer_than_its_stretch():
    """Resuming takes 75 min, pauses and stretches an hour at most."""
    values = [1, 9, 1, 9, 1, 9, 9, 9, 9]
    rows, resumes = batch("wait-awhile", [Job(0, 2.5 * H, 6 * H)], values, resume_cost_s=75 * M)
    # wait-awhile takes 0-1, 2-3 and half of 4-5, and there is time until 8.5 to make up for two resumes. From 2 to 3
    # nothing is done; from 4 it resumes until 5.25 and has 1.5 h left
    assert rows == [(0, 0, 0, 1, 1), (0, 0, 2, 3, 1), (0, 0, 4, 6.75, 1)]
    assert resumes == [2]


@pytest.mark.parametrize(
    ("length_h", "expected"),
    [
        # planned: 3 CPU-hours, two workers from 1 to 2 and one from 2 to 3
        (3, [(1, 2, 2), (2, 3, 1)]),
        (2.5, [(1, 2, 2), (2, 2.5, 1)]),
        (1.5, [(1, 1.75, 2)]),
        (4, [(1, 2, 2), (2, 4, 1)]),
    ],
)
def test_workers_share_the_work(length_h, expected):
    rows, resumes = batch("carbon-scaler", [Job(0, length_h * H, H, told=3 * H, workers=2)], [9, 1, 2, 9, 9, 9])
    assert [row[2:] for row in rows] == [(pytest.approx(start), pytest.approx(end), n) for start, end, n in expected]
    assert resumes == [0]  # another number of workers is no pause


def test_a_job_that_is_longer_than_planned_goes_on_with_one_worker():
    rows, _ = batch("carbon-scaler", [Job(0, 3 * H, 2 * H, told=2 * H, workers=2)], [9, 1, 5, 9, 9, 9])
    assert [row[2:] for row in rows] == [(1, 2, 2), (2, 3, 1)]


def test_two_workers_lose_twice_the_work_while_they_resume():
    """Planned: one worker for 5 min from 0 on and two from 1 to 2; resuming takes an hour, more than the pause."""
    jobs, values = [Job(0, 2 * H + 300, 3300, workers=2)], [2, 1, 2, 9, 9]
    # 1 to 2 would be lost, and one worker would make up for it until 4, after the latest end at 3: no pause
    assert batch("carbon-scaler", jobs, values)[0] == [(0, 0, 0, pytest.approx(1 / 12), 1), (0, 0, 1, 2, 2)]
    rows, resumes = batch("carbon-scaler", jobs, values, resume_cost_s=H)
    assert rows == [(0, 0, 0, pytest.approx(1 / 12), 1), (0, 0, pytest.approx(1 / 12), pytest.approx(1 + 1 / 12), 2)]
    assert resumes == [0]


def test_a_resume_goes_on_when_the_number_of_workers_changes():
    """Planned: 2 workers from 1 to 2 and from 3 to 4, one from 4 to 5. Resuming takes from 3 to 4.25."""
    rows, resumes = batch(
        "carbon-scaler", [Job(0, 5 * H, 4 * H, workers=2)], [9, 1, 9, 2, 3, 9, 9, 9, 9], resume_cost_s=75 * M
    )
    # 2 h of work until 2, and 3 h from 4.25 on
    assert rows == [(0, 0, 1, 2, 2), (0, 0, 3, 4, 2), (0, 0, 4, 7.25, 1)]
    assert resumes == [1]


def test_a_job_of_unknown_length_is_taken_for_an_hour():
    values = [5, 3, 1, 4, 9, 9]
    assert batch("lowest-window", [Job(0, 2 * H, 2 * H, told=0)], values)[0] == [(0, 0, 2, 4, 1)]
    assert batch("lowest-window", [Job(0, 2 * H, 2 * H, told=0)], values, assumed_length_s=2 * H)[0] == [
        (0, 0, 1, 3, 1)  # 4 beside 8 and 5
    ]


# -- where -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "zones", "expected"),
    [
        ("lowest-window", (), (1, 2, 3)),
        ("lowest-window", (0,), (0, 1, 2)),
        ("lowest-window", (0, 1), (1, 2, 3)),
        ("wait-awhile", (), (1, 2, 3)),
        ("run-now", (), (0, 0, 1)),
        ("run-now", (1,), (1, 0, 1)),
        ("threshold", (), (0, 0, 1)),  # without a past it runs at once
    ],
)
def test_the_zone_with_the_least_carbon_that_is_believed(policy, zones, expected):
    rows, _ = batch(policy, [Job(0, H, 2 * H, zones=zones)], [9, 4, 7], [9, 8, 3])
    assert rows == [(0, *expected, 1)]


def test_zones_that_are_equal_are_taken_in_their_order():
    assert batch("lowest-window", [Job(0, H, 2 * H)], [9, 4, 7], [4, 9, 9])[0] == [(0, 0, 1, 2, 1)]


def test_a_belief_chooses_and_where_there_is_none_a_job_runs_at_once_at_home():
    """Yesterday 5:00 was the cleanest hour; today it is 3:00."""
    values = np.full(48, 9.0)
    values[[5, 27]] = 1.0
    persistent = [persistence(trace(*values)), persistence(trace(*values))]
    jobs = [Job(H, 2 * H, 4 * H), Job(24 * H, H, 9 * H)]
    rows, _ = batch("lowest-window", jobs, values, values, beliefs=persistent)
    assert rows == [(0, 0, 1, 3, 1), (1, 0, 29, 30, 1)]


@pytest.mark.parametrize("policy", [name for name in NAMES if name != "threshold"])
def test_no_decision_reads_the_future_of_a_causal_belief(policy):
    """Threshold compares the intensity with its past as it comes."""
    rng = np.random.default_rng(4)
    past, futures = rng.integers(1, 99, 30), rng.integers(1, 99, (2, 40))
    jobs = [Job(30 * H + 600, 3 * H, 8 * H, workers=2)]
    found = []
    for future in futures:
        values = np.concatenate([past, future])
        found.append(batch(policy, jobs, values, beliefs=[persistence(trace(*values))], interruptible=True))
    assert found[0] == found[1]


# -- which jobs count ------------------------------------------------------------------------------------------------


def figures(policy, jobs, *zones, **rest):
    return simulate(setup(jobs, *zones, **rest), policy).outcome


def test_a_job_that_cannot_end_inside_is_truncated():
    jobs = [Job(0, H), Job(H, 2 * H), Job(2 * H, H + 300), Job(9 * H, H)]
    found = figures("run-now", jobs, [1, 2, 4])
    assert (found.jobs, found.truncated) == (4, 2)
    # 1 for the first and 2 + 4 for the second, at 1 W
    assert (found.carbon_g, found.baseline_carbon_g) == (pytest.approx(0.007), pytest.approx(0.007))


def test_a_job_that_waits_beyond_the_end_is_in_neither_figure():
    """It was told an hour, waits for 2 to 3 and takes two."""
    jobs = [Job(0, 2 * H, 2 * H, told=H), Job(0, H)]
    found = figures("lowest-window", jobs, [9, 5, 1])
    assert (found.truncated, found.carbon_g, found.baseline_carbon_g) == (1, pytest.approx(0.009), pytest.approx(0.009))
    assert found.mean_delay_h == 0


def test_without_any_job_inside():
    found = figures("lowest-window", [Job(0, 9 * H)], [1, 2])
    assert (found.jobs, found.truncated, found.carbon_g, found.saved_pct, found.peak_cpus) == (1, 1, 0, 0, 0)
    assert (found.mean_delay_h, found.p95_delay_h, found.missed_deadlines) == (None, None, 0)


def test_a_policy_does_not_look_beyond_the_end():
    """The window is cut at the end of the simulation: hour 3 would be cleaner."""
    assert batch("lowest-window", [Job(0, H, 9 * H)], [9, 5, 7, 1], span_h=3)[0] == [(0, 0, 1, 2, 1)]
    assert batch("wait-awhile", [Job(0, H, 9 * H)], [9, 5, 7, 1], span_h=3)[0] == [(0, 0, 1, 2, 1)]


def test_threshold_has_used_up_its_wait_when_the_end_comes():
    """The past is 1, 1, so it would wait; the latest start from which an hour still fits is 4."""
    values = [1, 1, 9, 9, 9]
    assert batch("threshold", [Job(2 * H, H, 9 * H)], values)[0] == [(0, 0, 4, 5, 1)]


def test_a_pause_does_not_push_a_job_beyond_the_end():
    """Resuming takes 90 min, which would fit before the latest end, 6, but not before the end, 5."""
    assert batch("wait-awhile", [Job(0, 2 * H, 4 * H)], [5, 1, 9, 2, 7, 7], resume_cost_s=90 * M, span_h=5)[0] == [
        (0, 0, 1, 3, 1)
    ]


def test_a_nightly_job_may_begin_early_but_not_before_the_simulation():
    jobs = [Job(H, 1800, 2 * H)]
    values = [3, 9, 9, 9, 9]
    monday = {"clock_s": float(MONDAY_S)}
    # the window is 23:00 to 3:00, and begins at 0:00 with the simulation
    assert batch("nightly", jobs, values, **monday)[0] == [(0, 0, 0, 0.5, 1)]
    assert batch("nightly", jobs, values, published_quirks=True, **monday)[0] == []  # left out, as published


def test_calendars_give_their_own_deadline():
    """Monday 16:00 + 2 h ends at 18:00, so until Tuesday 9:00; the job itself did not ask for a wait."""
    job = Job(16 * H, 2 * H, 0)
    values = [9.0] * 16 + [8, 8] + [9] * 6 + [7, 7] + [9] * 7 + [1, 1, 1]  # 1 from 9:00 on
    found = figures("next-workday", [job], values)
    assert (found.mean_delay_h, found.missed_deadlines, found.truncated) == (8, 0, 0)  # at midnight
    own = replace(setup([job], values), workload=workload(job, owns_wait=[True]))
    assert simulate(own, "next-workday").outcome.mean_delay_h == 0


def test_the_clock_of_the_file_is_read():
    """14:00 UTC + 2 h is 18:00 where the file was made: until 9:00 there, which is 7:00 UTC."""
    values = [9.0] * 30 + [1, 1, 1, 1]
    jobs = [Job(14 * H, 2 * H, 0)]
    here, there = setup(jobs, values), setup(jobs, values, utc_offset_s=2 * H)
    assert simulate(here, "next-workday").outcome.mean_delay_h == 0  # it ends at 16:00
    assert simulate(there, "next-workday").outcome.mean_delay_h == 15  # from 5:00 to 7:00 UTC


# -- figures ---------------------------------------------------------------------------------------------------------


def schedule(*rows):
    return Schedule.of(list(rows), np.full(len(rows), 1000.0))


def test_figures_by_hand():
    """Two zones; job a moves and pauses, b runs on two workers, c is late, d never runs."""
    jobs = workload(
        Job(0, 2 * H, 4 * H), Job(0, 2 * H, H, workers=2), Job(H, H, H, cpus=3), Job(0, H), Job(0, H, zones=(1,))
    )
    done = schedule((1, 0, 0, H, 2), (0, 1, 4 * H, 5 * H, 1), (0, 0, 0, H, 1), (2, 0, 3 * H, 4 * H, 1), (4, 1, 0, H, 1))
    zones = [trace(10, 20, 30, 40, 50, 60), trace(1, 2, 3, 4, 5, 6)]
    watts = np.array([1000.0, 1000, 1000, 1000, 1000])
    found, kept, counted = outcome(
        "test",
        jobs,
        done,
        zones,
        span_s=6 * H,
        home_watts=watts,
        latest_s=np.array([6, 3, 3, 1, 1]) * float(H),
        resumes=np.array([1, 0, 0, 0, 0, 0])[: len(jobs)],
        plan_changes=2,
    )
    assert counted.tolist() == [True, True, True, False, True]
    # a: 10 + 5, b: 2 * 10, c: 40, e: 1
    assert found.carbon_g == pytest.approx(76)
    assert kept.carbon_g(5, zones).tolist() == pytest.approx([15, 20, 40, 0, 1])
    # at once at home: a: 10 + 20, b the same, c: 20, e in its own zone: 1
    assert found.baseline_carbon_g == pytest.approx(81)
    assert found.saved_pct == pytest.approx(100 * 5 / 81)
    # ends at 5, 1, 4, 1 instead of 2, 2, 2, 1
    assert found.mean_delay_h == pytest.approx((3 - 1 + 2 + 0) / 4)
    # of -1, 0, 2, 3 at 0.95 * 3 = 2.85 steps
    assert found.p95_delay_h == pytest.approx(2.85)
    # from 0 to 1: a 1, b 2, e 1; from 3 to 4: c 3
    assert found.peak_cpus == 4
    assert (found.missed_deadlines, found.resumes, found.plan_changes_per_job) == (1, 1, 0.5)
    assert (found.jobs, found.truncated) == (5, 1)


def test_what_ends_makes_room_for_what_starts():
    jobs = workload(Job(0, H, cpus=3), Job(H, H, cpus=2), Job(H, H, cpus=2))
    done = schedule((0, 0, 0, H, 1), (1, 0, H, 2 * H, 1), (2, 0, H, 2 * H, 1))
    times_s, cpus = done.load(jobs)
    assert (times_s.tolist(), cpus.tolist()) == ([0, H, 2 * H], [3, 4, 0])


def test_a_deadline_is_met_to_the_second():
    jobs = workload(Job(0, H, H), Job(0, H, H))
    done = schedule((0, 0, H, 2 * H, 1), (1, 0, H + 1, 2 * H + 1, 1))
    found, _, _ = outcome(
        "test",
        jobs,
        done,
        [trace(1, 1, 1)],
        span_s=3 * H,
        home_watts=np.ones(2),
        latest_s=np.array([2.0, 2.0]) * H,
        resumes=np.zeros(len(jobs), dtype=np.int64),
    )
    assert found.missed_deadlines == 1


def test_a_job_that_ends_with_the_simulation_counts():
    jobs = workload(Job(0, H), Job(0, H))
    done = schedule((0, 0, 0, 2 * H, 1), (1, 0, H, 2 * H + 1, 1))
    _, kept, counted = outcome(
        "test",
        jobs,
        done,
        [trace(1, 1, 1)],
        span_s=2 * H,
        home_watts=np.ones(2),
        latest_s=np.full(2, np.inf),
        resumes=np.zeros(len(jobs), dtype=np.int64),
    )
    assert counted.tolist() == [True, False]
    assert ran(kept) == [(0, 0, 0, 2 * H, 1)]


def test_power():
    done = Schedule.of([(1, 0, 0, H, 3), (0, 0, 0, 2 * H, 1)], np.array([500.0, 100.0]))
    assert [row[0] for row in ran(done)] == [0, 1]
    # one entry per row: the first one drew 500 W for each of three workers
    assert done.power_kw.tolist() == pytest.approx([0.1, 1.5])
    assert run_now_schedule(workload(Job(H, 2 * H, cpus=4)), np.array([50.0])).power_kw.tolist() == [0.05]


# -- always ----------------------------------------------------------------------------------------------------------

BY_THE_WAIT = [name for name in NAMES if name not in CALENDAR]
intensities = st.lists(st.integers(1, 60), min_size=30, max_size=40)


def useful_s(stretches, resume_s):
    """Work that stretches (start, end, workers) do: each one after a pause begins with the resume."""
    useful, works_s, before = 0.0, 0.0, None
    for start_s, end_s, workers in stretches:
        works_s = start_s + resume_s if before is not None and start_s > before else max(start_s, works_s)
        useful += max(0.0, end_s - works_s) * workers
        before = end_s
    return useful


@st.composite
def workloads(draw, told=True, most=5):
    jobs = []
    for _ in range(draw(st.integers(1, most))):
        length_s = draw(st.integers(1, 60)) * 300
        jobs.append(
            Job(
                arrival=draw(st.integers(0, 30 * 12)) * 300,
                length=length_s,
                wait=draw(st.integers(0, 100)) * 300,
                told=draw(st.sampled_from([None, 0, 300, 3 * H, 5 * H + 300])) if told else None,
                workers=draw(st.integers(1, 3)),
            )
        )
    return sorted(jobs, key=lambda job: job.arrival)


@settings(max_examples=25, deadline=None)
@given(workloads(), intensities, st.sampled_from([0, 300, 2 * H]), st.booleans())
def test_work_is_conserved(jobs, values, resume_s, interruptible):
    """Every job that counts did all of its work, and nothing else."""
    case = setup(jobs, values, values[::-1], resume_cost_s=resume_s, interruptible=interruptible)
    for policy in NAMES:
        done = simulate(case, policy)
        assert done.outcome.jobs == len(jobs)
        for number, rows in itertools.groupby(ran(done.schedule), key=lambda row: row[0]):
            stretches = [row[2:] for row in rows]
            assert useful_s(stretches, resume_s) == pytest.approx(jobs[number].length), policy
            assert all(one[1] <= two[0] for one, two in itertools.pairwise(stretches)), policy
            assert all(start < end for start, end, _ in stretches), policy
            assert stretches[0][0] >= jobs[number].arrival or policy == "nightly"
            assert stretches[-1][1] <= case.span_s + 1e-6
        ids = set(done.schedule.job.tolist())
        assert done.outcome.truncated == len(jobs) - len(ids)


@settings(max_examples=25, deadline=None)
@given(workloads(told=False), intensities, st.sampled_from([0, 300, H]), st.booleans())
def test_no_job_ends_after_its_deadline(jobs, values, resume_s, interruptible):
    case = setup(jobs, values, resume_cost_s=resume_s, interruptible=interruptible)
    for policy in NAMES:
        assert simulate(case, policy).outcome.missed_deadlines == 0, policy


@settings(max_examples=20, deadline=None)
@given(workloads(), st.sampled_from([0.0, 0.1, 312.7]), st.booleans())
def test_constant_intensity_gives_run_now(jobs, value, interruptible):
    """But for nightly, which waits for the night, and for more workers, which are no delay."""
    jobs = [replace(job, workers=1) for job in jobs]
    case = setup(jobs, [value] * 50, interruptible=interruptible)
    now = ran(simulate(case, "run-now").schedule)
    for policy in NAMES:
        if policy != "nightly":
            assert ran(simulate(case, policy).schedule) == now, policy


@settings(max_examples=30, deadline=None)
@given(intensities, st.integers(0, 60), st.integers(1, 60), st.lists(st.integers(0, 9), min_size=2, max_size=5))
def test_more_slack_is_never_worse(values, arrival, length, waits):
    """In whole hours for lowest-window, which starts in whole hours from now; in any ticks for wait-awhile."""
    for policy, unit_s in (("lowest-window", H), ("wait-awhile", 500)):
        jobs = [Job(arrival * 300, length * 300, wait * unit_s) for wait in sorted(waits)]
        case = setup(jobs, values, tick=100)
        done = simulate(case, policy)
        if done.outcome.truncated:
            continue
        carbon_g = done.schedule.carbon_g(len(jobs), case.traces)
        assert (np.diff(carbon_g) <= 1e-12).all(), policy
        assert done.outcome.carbon_g <= done.outcome.baseline_carbon_g * (1 + 1e-9)


@settings(max_examples=5, deadline=None)
@given(workloads(), intensities)
def test_two_runs_are_the_same(jobs, values):
    for policy in NAMES:
        runs = [simulate(setup(jobs, values, values[::-1], interruptible=True), policy) for _ in range(2)]
        assert runs[0].outcome == runs[1].outcome
        assert ran(runs[0].schedule) == ran(runs[1].schedule)
