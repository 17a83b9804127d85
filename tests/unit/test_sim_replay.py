"""The orchestrator in virtual time: capacity holds, nothing is lost, and without a limit it decides like the batch."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_cases import H, Job, ran, setup

from eco_ray.core.actions import AskToCheckpoint, StartAttempt
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.orchestrator import Orchestrator
from eco_ray.core.power import PowerCurve
from eco_ray.core.units import Nature
from eco_ray.errors import UsageError
from eco_ray.sim import simulate as simulator
from eco_ray.sim.foresight import issued, persistence
from eco_ray.sim.replay import replay_log
from eco_ray.sim.simulate import simulate
from eco_ray.sim.trace import Trace

#: policies that a replay runs and that look at nothing but the job's own wait
POLICIES = ("run-now", "lowest-slot", "lowest-window", "carbon-time", "wait-awhile", "threshold", "eco")
#: more CPUs than any case has
PLENTY = 1000


def in_hours(done):
    return [(job, zone, start / H, end / H) for job, zone, start, end, _ in ran(done.schedule)]


# -- by hand ---------------------------------------------------------------------------------------------------------


def test_one_after_the_other_where_there_is_room_for_one():
    jobs = [Job(0, 2 * H), Job(0, H), Job(1800, H)]
    done = simulate(setup(jobs, [1] * 6, capacity=1), "run-now")
    assert in_hours(done) == [(0, 0, 0, 2), (1, 0, 2, 3), (2, 0, 3, 4)]
    assert done.outcome.mean_delay_h == pytest.approx((0 + 2 + 2.5) / 3)
    assert (done.outcome.missed_deadlines, done.outcome.peak_cpus) == (2, 1)


def test_the_cleanest_place_that_is_left():
    """The first job takes 3 to 5, the second the best of what is left that ends by 6."""
    jobs = [Job(0, 2 * H, 4 * H), Job(0, H, 5 * H)]
    assert in_hours(simulate(setup(jobs, [9, 5, 6, 1, 2, 7, 9], capacity=1), "lowest-window")) == [
        (0, 0, 3, 5),
        (1, 0, 1, 2),
    ]


def test_zones_have_a_capacity_each():
    jobs = [Job(0, H, cpus=2), Job(0, H, cpus=2), Job(0, H, cpus=2)]
    done = simulate(setup(jobs, [9, 9, 9], [1, 1, 1], capacity=2), "lowest-window")
    assert sorted(row[1:] for row in in_hours(done)) == [(0, 0, 1), (1, 0, 1), (1, 1, 2)]


def test_a_pause_is_kept_and_paid_for():
    jobs = [Job(0, 2 * H, 3 * H)]
    done = simulate(setup(jobs, [9, 1, 9, 2, 9, 9], capacity=1, resume_cost_s=900), "wait-awhile")
    assert in_hours(done) == [(0, 0, 1, 2), (0, 0, 2.75, 4)]
    # 1 + 9/4 + 2
    assert (done.outcome.resumes, done.outcome.carbon_g) == (1, pytest.approx(0.00525))


def test_a_job_without_an_end_inside_holds_its_place_and_counts_as_truncated():
    """Told an hour, it takes five; the other one waits for its place."""
    jobs = [Job(0, 5 * H, told=H), Job(H, H)]
    done = simulate(setup(jobs, [1] * 6, capacity=1), "run-now")
    assert in_hours(done) == [(0, 0, 0, 5), (1, 0, 5, 6)]
    done = simulate(setup(jobs, [1] * 5, capacity=1), "run-now")
    assert (in_hours(done), done.outcome.truncated) == ([(0, 0, 0, 5)], 1)


def test_a_job_that_waits_for_its_second_half_when_the_end_comes_is_truncated():
    """It runs from 0 to 1 and would from 2 to 3; another one, longer than it was told, holds the place until 5."""
    jobs = [Job(0, 2 * H, H), Job(H, 4 * H, told=H)]
    done = simulate(setup(jobs, [1, 9, 1, 9, 9], capacity=1), "wait-awhile")
    assert in_hours(done) == [(1, 0, 1, 5)]
    assert (done.outcome.truncated, done.outcome.carbon_g) == (1, pytest.approx(0.028))
    assert done.outcome.baseline_carbon_g == done.outcome.carbon_g


def test_a_job_that_is_shorter_than_told_makes_room():
    jobs = [Job(0, H, told=3 * H), Job(H, H)]
    done = simulate(setup(jobs, [1] * 6, capacity=1), "run-now")
    assert in_hours(done) == [(0, 0, 0, 1), (1, 0, 1, 2)]


def test_eco_keeps_deadlines_where_there_is_room_for_all():
    """Four jobs of 2 h fill 8 of 14 h on one CPU."""
    jobs = [Job(0, 2 * H, 12 * H) for _ in range(4)]
    done = simulate(setup(jobs, [9, 9, 1, 1, 1, 1, 9, 9, 9, 2, 2, 2, 2, 9], capacity=1), "eco")
    assert (done.outcome.missed_deadlines, done.outcome.truncated, done.outcome.peak_cpus) == (0, 0, 1)
    assert done.outcome.baseline_carbon_g == pytest.approx(4 * 0.018)
    assert done.outcome.carbon_g < done.outcome.baseline_carbon_g


def test_eco_pauses_where_it_may():
    jobs = [Job(0, 2 * H, 3 * H)]
    values = [9, 1, 9, 2, 9, 9]
    for interruptible, expected in ((True, [(0, 0, 1, 2), (0, 0, 3, 4)]), (False, [(0, 0, 0, 2)])):
        done = simulate(setup(jobs, values, interruptible=interruptible), "eco")
        assert in_hours(done) == expected


def test_causal_beliefs_are_told_step_by_step():
    """Persistence: on the second day 5:00 is taken for the cleanest hour, as it was on the first."""
    values = np.full(48, 9.0)
    values[[5, 27]] = 1.0
    jobs = [Job(H, 2 * H, 4 * H), Job(24 * H, H, 9 * H)]
    case = setup(jobs, values, capacity=PLENTY)
    case = replace(case, beliefs=[persistence(case.traces[0])])
    assert in_hours(simulate(case, "lowest-window")) == [(0, 0, 1, 3), (1, 0, 29, 30)]


def test_what_a_replay_cannot_do():
    case = setup([Job(0, H)], [1, 1], capacity=1)
    for policy in ("carbon-scaler", "eco"):
        with pytest.raises(UsageError, match=f"{policy}: job a runs on 1 to 1001 workers; at most 1000 .* lower max"):
            simulate(replace(case, workload=replace(case.workload, max_workers=np.array([1001]))), policy)
    with pytest.raises(UsageError, match="published quirks with a fixed capacity"):
        simulate(replace(case, published_quirks=True), "wait-awhile")
    with pytest.raises(UsageError, match="policy 'greenest' is not known; choose one of run-now, "):
        simulate(case, "greenest")


def test_nodes_draw_what_their_curve_says():
    """4 of 8 CPUs for an hour: half of 100 W idle and half of what is above it, 300 W, at a PUE of 1.5."""
    power = PowerCurve((0.0, 1.0), (100.0, 400.0), "test", Nature.ASSUMED)
    node = Node("n", "A", Resources(cpus=8.0, gpus=0.0), power, 1.5)
    case = setup([Job(0, H, H, cpus=4)], [500, 200, 100], nodes=(node,))
    done = simulate(case, "lowest-window")
    assert done.outcome.carbon_g == pytest.approx((50 + 150) * 1.5 / 1000 * 200)
    assert done.outcome.baseline_carbon_g == pytest.approx((50 + 150) * 1.5 / 1000 * 500)


# -- with a capacity -------------------------------------------------------------------------------------------------


@st.composite
def workloads(draw, most=6, ticks=3, told=True):
    """Jobs in ticks of 300 * `ticks` s that may be much longer or shorter than they say."""
    tick_s = 300 * ticks
    jobs = []
    for _ in range(draw(st.integers(1, most))):
        length_s = draw(st.integers(1, 24)) * tick_s
        jobs.append(
            Job(
                arrival=draw(st.integers(0, 50)) * tick_s,
                length=length_s,
                wait=draw(st.integers(0, 40)) * tick_s,
                told=draw(st.sampled_from([None, None, 0, tick_s, 10 * tick_s, 30 * tick_s])) if told else None,
                cpus=draw(st.integers(1, 3)),
            )
        )
    return sorted(jobs, key=lambda job: job.arrival)


small = st.lists(st.integers(1, 9), min_size=30, max_size=40)


def highest_load(case, done, zone):
    """What ends makes room for what starts."""
    change = []
    for job, where, start_s, end_s, _ in ran(done.schedule):
        if where == zone:
            change += [(start_s, case.workload.cpus[job]), (end_s, -case.workload.cpus[job])]
    return max(itertools.accumulate(cpus for _, cpus in sorted(change)), default=0.0)


@settings(max_examples=8, deadline=None)
@given(workloads(), small, st.integers(1, 2), st.sampled_from([0, 300, 1800]), st.booleans())
def test_never_more_than_the_capacity_and_no_work_is_lost(jobs, values, zones, resume_s, interruptible):
    case = setup(
        jobs,
        *[values, values[::-1]][:zones],
        tick=900,
        capacity=3,
        resume_cost_s=resume_s,
        interruptible=interruptible,
        keep_log=True,
    )
    for policy in POLICIES:
        done = simulate(case, policy)
        for zone in range(zones):
            assert highest_load(case, done, zone) <= 3, policy
        starts = [
            action for _, _, actions in done.replayed.log for action in actions if isinstance(action, StartAttempt)
        ]
        for number, rows in itertools.groupby(ran(done.schedule), key=lambda row: row[0]):
            stretches = [row[2:] for row in rows]
            pauses = len(stretches) - 1
            # each attempt after the first one begins with the resume, also where it only moved to another zone
            useful_s = [max(0.0, end - start - (resume_s if n else 0)) for n, (start, end, _) in enumerate(stretches)]
            assert sum(useful_s) == pytest.approx(jobs[number].length), policy
            assert stretches[0][0] >= jobs[number].arrival
            assert all(one[1] <= two[0] for one, two in itertools.pairwise(stretches)), policy
            assert pauses == sum(action.job.id == case.workload.ids[number] for action in starts) - 1, policy
        assert done.outcome.truncated == len(jobs) - len(set(done.schedule.job.tolist()))


@settings(max_examples=4, deadline=None)
@given(workloads(most=5), small, st.booleans())
def test_all_jobs_are_done_in_the_end(jobs, values, interruptible):
    """Five jobs of at most 6 h on one CPU, the last of which comes before 13:00, are done after two days."""
    jobs = [replace(job, cpus=1) for job in jobs]
    case = setup(jobs, [*values, *values], tick=900, capacity=1, interruptible=interruptible)
    for policy in POLICIES:
        assert simulate(case, policy).outcome.truncated == 0, policy


# -- as the batch decides --------------------------------------------------------------------------------------------


def assert_same(case, policies):
    """Without a limit that matters, the orchestrator's schedule is that of the batch."""
    for policy in policies:
        batch = simulate(case, policy)
        replayed = simulate(replace(case, capacity_cpus=(float(PLENTY),) * len(case.traces)), policy)
        one, two = ran(batch.schedule), ran(replayed.schedule)
        assert [row[:2] for row in one] == [row[:2] for row in two], policy
        assert [row[2:4] for row in one] == [pytest.approx(row[2:4], abs=1e-3) for row in two], policy
        figures = (batch.outcome.carbon_g, batch.outcome.missed_deadlines, batch.outcome.resumes)
        assert figures == (
            pytest.approx(replayed.outcome.carbon_g),
            replayed.outcome.missed_deadlines,
            replayed.outcome.resumes,
        ), policy


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from([1, 3]).flatmap(lambda ticks: workloads(ticks=ticks)), small, st.sampled_from([0, 100, 900, 5400])
)
def test_steps_with_true_ties_are_chosen_as_in_the_batch(jobs, values, resume_s):
    assert_same(setup(jobs, values, resume_cost_s=resume_s), ("run-now", "lowest-slot", "wait-awhile"))


@settings(max_examples=10, deadline=None)
@given(workloads(), small, st.booleans(), st.sampled_from([0, 900]))
def test_threshold_reads_the_same_past_and_present(jobs, values, interruptible, resume_s):
    """And stays at home, as it does there."""
    rest = {"tick": 900, "interruptible": interruptible, "resume_cost_s": resume_s}
    assert_same(setup(jobs, values, values[::-1], **rest), ("threshold",))


@settings(max_examples=8, deadline=None)
@given(workloads(ticks=12), small)
def test_windows_with_true_ties_are_chosen_as_in_the_batch(jobs, values):
    """In whole hours, where sums are exact."""
    assert_same(setup(jobs, values, tick=900), ("lowest-window", "carbon-time"))


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from([1, 3]).flatmap(lambda ticks: workloads(ticks=ticks)),
    st.integers(0, 2**16),
    st.integers(1, 2),
    st.sampled_from([0, 100, 5400]),
)
def test_windows_without_ties_are_chosen_as_in_the_batch(jobs, seed, zones, resume_s):
    """In any ticks, also over two zones; no two sums of these intensities are equal but for rounding."""
    values = np.random.default_rng(seed).uniform(1, 100, (zones, 40))
    case = setup(jobs, *values, resume_cost_s=resume_s)
    assert_same(case, ("run-now", "lowest-slot", "lowest-window", "carbon-time", "wait-awhile"))


@settings(max_examples=4, deadline=None)
@given(workloads(), st.integers(0, 2**16), st.booleans())
def test_causal_beliefs_are_read_as_in_the_batch(jobs, seed, within):
    """Also where the simulation begins in the middle of a step."""
    later = [replace(job, arrival=job.arrival + 24 * H) for job in jobs]
    case = setup(later, np.random.default_rng(seed).uniform(1, 100, 64))
    truth = case.traces[0]
    if within:
        truth = Trace("A", -1800, H, truth.g_per_kwh)
    news_of_hours = np.random.default_rng(seed + 1).uniform(1, 100, (9, 30))
    for belief in (persistence(truth), issued(np.arange(9) * 7.0 * H + truth.start_s, news_of_hours, truth)):
        known = replace(case, traces=[truth], beliefs=[belief], span_s=truth.end_s)
        assert_same(known, ("lowest-slot", "lowest-window", "wait-awhile", "threshold"))


# -- again -----------------------------------------------------------------------------------------------------------


@settings(max_examples=3, deadline=None)
@given(workloads(), small, st.sampled_from([0, 300]))
def test_the_log_of_events_gives_the_same_actions_in_a_fresh_orchestrator(jobs, values, resume_s):
    made = []

    class Remembering(Orchestrator):
        def __init__(self, *arguments):
            made.append(arguments)
            super().__init__(*arguments)

    case = setup(
        jobs, values, values[::-1], tick=900, capacity=3, resume_cost_s=resume_s, interruptible=True, keep_log=True
    )
    case = replace(case, beliefs=[persistence(trace) for trace in case.traces])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulator, "Orchestrator", Remembering)
        for policy in POLICIES:
            log = simulate(case, policy).replayed.log
            assert replay_log(Orchestrator(*made.pop()), log) == [actions for _, _, actions in log], policy
            kinds = {type(action) for _, _, actions in log for action in actions}
            assert StartAttempt in kinds or not any(job.arrival + job.length <= case.span_s for job in jobs)


def test_a_log_with_pauses():
    """So that the test above is about more than starts."""
    case = setup([Job(0, 2 * H, 3 * H)], [9, 1, 9, 2, 9, 9], capacity=1, keep_log=True)
    log = simulate(case, "wait-awhile").replayed.log
    kinds = [type(action) for _, _, actions in log for action in actions]
    assert kinds.count(StartAttempt) == 2
    assert kinds.count(AskToCheckpoint) == 1
    assert simulate(replace(case, keep_log=False), "wait-awhile").replayed is None


@settings(max_examples=3, deadline=None)
@given(workloads(), small)
def test_two_runs_are_the_same(jobs, values):
    case = setup(jobs, values, values[::-1], tick=900, capacity=3, interruptible=True, keep_log=True)
    for policy in POLICIES:
        runs = [simulate(case, policy) for _ in range(2)]
        assert runs[0].outcome == runs[1].outcome
        assert ran(runs[0].schedule) == ran(runs[1].schedule)
        assert [(time_s, actions) for time_s, _, actions in runs[0].replayed.log] == [
            (time_s, actions) for time_s, _, actions in runs[1].replayed.log
        ]
