"""Elastic jobs in the simulator: energy, grams and time by hand; capacity and work always."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_cases import H, Job, ran, setup

from eco_ray.core.actions import StartAttempt
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.jobs import Workers
from eco_ray.core.orchestrator import Orchestrator
from eco_ray.core.power import PowerCurve
from eco_ray.core.units import Nature
from eco_ray.sim import simulate as simulator
from eco_ray.sim.bound import _scaled
from eco_ray.sim.replay import replay_log
from eco_ray.sim.simulate import simulate

PLENTY = 1000.0
#: two workers are 1.6 times as fast as one, three twice as fast
SCALES = Workers(1, 3, (1.0, 1.6, 2.0))


def gpu_node(zone, gpus=8.0, pue=1.0):
    """Its GPUs draw 200 W each with a job on them, the rest nothing."""
    power = PowerCurve((0.0, 1.0), (0.0, 0.0), "GPUs only", Nature.ASSUMED)
    return Node(zone, zone, Resources(cpus=gpus, gpus=gpus), power, pue, gpu_busy_w=200.0)


def in_hours(done):
    return [(job, zone, start / H, end / H, workers) for job, zone, start, end, workers in ran(done.schedule)]


# -- by hand ---------------------------------------------------------------------------------------------------------


def world(scales, gpus, **rest):
    """1.6 h of work that may end at 4:00; the second zone is clean from 1:00 to 2:00, and its PUE is 1.2."""
    job = Job(0, 1.6 * H, 2.4 * H, cpus=gpus, gpus=gpus, scales=scales)
    return setup(
        [job], [500, 500, 100, 500], [400, 50, 300, 400], nodes=(gpu_node("A"), gpu_node("B", pue=1.2)), **rest
    )


@pytest.mark.parametrize(
    ("scales", "gpus"), [(SCALES, 2), (Workers(2, 6, (1.0, 1.3, 1.6, 1.6, 2.0)), 1)], ids=["from 1 on", "from 2 on"]
)
def test_two_workers_where_it_is_clean_for_an_hour(scales, gpus):
    """As many GPUs as two workers of two have are as fast in both worlds."""
    done = simulate(world(scales, gpus), "eco")
    assert in_hours(done) == [(0, 1, 1, 2, 2 * scales.min)]
    # 4 GPUs for an hour at a PUE of 1.2: 0.96 kWh at 50 g/kWh
    assert done.schedule.power_kw.tolist() == pytest.approx([0.96])
    assert done.outcome.carbon_g == pytest.approx(48)
    # at once at home it would have had 2 GPUs for 1.6 h: 0.64 kWh at 500 g/kWh
    assert done.outcome.baseline_carbon_g == pytest.approx(320)
    assert done.outcome.mean_delay_h == pytest.approx(0.4)
    assert done.outcome.peak_cpus == 4
    assert (done.outcome.missed_deadlines, done.outcome.resumes) == (0, 0)


def test_all_but_eco_and_carbon_scaler_run_on_the_least_workers():
    case = world(Workers(2, 6, (1.0, 1.3, 1.6, 1.6, 2.0)), 1)
    for policy in ("run-now", "lowest-slot", "lowest-window", "carbon-time", "wait-awhile", "threshold"):
        done = simulate(case, policy)
        assert {row[4] for row in in_hours(done)} == {2}, policy
        assert done.outcome.peak_cpus == 2, policy
    assert simulate(case, "run-now").outcome.saved_pct == pytest.approx(0)


def test_a_job_takes_no_more_workers_than_there_is_room_for():
    """Another one holds 6 of 8 GPUs of the clean zone."""
    case = world(SCALES, 2)
    held = replace(case.workload, ids=["long", "a"])
    for name in ("arrival_s", "length_s", "expected_s", "cpus", "gpus", "max_wait_s", "max_workers"):
        both = {"arrival_s": (0, 0), "cpus": (6, 2), "gpus": (6, 2), "max_wait_s": (0, 2.4 * H), "max_workers": (1, 3)}
        values = both.get(name, (4 * H, 1.6 * H))
        held = replace(held, **{name: np.array(values, dtype=getattr(held, name).dtype)})
    held = replace(held, zones=[(1,), (1,)], workers=[Workers(), SCALES])
    done = simulate(replace(case, workload=held), "eco")
    assert in_hours(done) == [(0, 1, 0, 4, 1), (1, 1, 1, pytest.approx(2.6), 1)]


def test_pausing_and_scaling_with_a_cost_of_each_start():
    """Two clean hours: three workers in both do 4 h of work; what a start takes is worth it."""
    job = Job(0, 3.5 * H, 4 * H, scales=SCALES)
    done = simulate(setup([job], [9, 1, 99, 99, 1, 99, 99, 99], resume_cost_s=900, interruptible=True), "eco")
    # 2 h of work, a quarter of an hour to resume and 1.5 h with twice the speed
    assert in_hours(done) == [(0, 0, 1, 2, 3), (0, 0, 4, 5, 3)]
    assert done.outcome.resumes == 1
    assert done.outcome.carbon_g == pytest.approx(0.006)


def test_in_a_file_without_a_table_speed_grows_in_proportion():
    done = simulate(setup([Job(0, 4 * H, 2 * H, workers=4)], [9, 9, 1, 9, 9, 9], capacity=4), "eco")
    assert in_hours(done) == [(0, 0, 2, 3, 4)]


# -- carbon-scaler ---------------------------------------------------------------------------------------------------


def test_carbon_scaler_by_hand():
    """From 7:00 on three workers do 2 h of work, from 3:00 on two 1.6 h: the second one for 20 / 0.6 g of 90."""
    job = Job(0, 3.6 * H, 4.4 * H, scales=SCALES)
    values = [90, 90, 90, 20, 90, 90, 90, 1]
    for case in (setup([job], values), setup([job], values, capacity=3)):
        done = simulate(case, "carbon-scaler")
        assert in_hours(done) == [(0, 0, 3, 4, 2), (0, 0, 7, 8, 3)]


def test_carbon_scaler_with_a_capacity_asks_for_what_fits():
    """Two CPUs: where three workers would be wanted two have to do."""
    job = Job(0, 3.6 * H, 4 * H, scales=SCALES)
    done = simulate(setup([job], [90, 90, 90, 20, 90, 90, 90, 1], capacity=2), "carbon-scaler")
    assert max(row[4] for row in in_hours(done)) == 2
    assert done.outcome.peak_cpus == 2
    assert useful_s(done, [job], 0) == pytest.approx([3.6 * H])


def test_a_move_to_other_workers_costs_a_start_in_a_replay():
    """From 3:00 on two workers, from 4:00 on one for 0.9 h: what it takes to start is made up for at the end."""
    job = Job(0, 2.5 * H, 4 * H, scales=SCALES)
    case = setup([job], [90, 90, 90, 1, 2, 90, 90, 90], capacity=3, resume_cost_s=600)
    done = simulate(case, "carbon-scaler")
    assert in_hours(done) == [(0, 0, 3, 4, 2), (0, 0, 4, pytest.approx(4.9 + 1 / 6), 1)]
    assert done.outcome.resumes == 1


scales = st.sampled_from([SCALES, Workers(1, 2, (1.0, 1.5)), Workers(1, 3), Workers(2, 4, (1.0, 1.2, 1.5)), Workers()])


@st.composite
def elastic_jobs(draw, most=5, tick_s=900):
    jobs = [
        Job(
            arrival=draw(st.integers(0, 40)) * tick_s,
            length=draw(st.integers(1, 24)) * tick_s,
            wait=draw(st.integers(0, 40)) * tick_s,
            scales=draw(scales),
            gpus=draw(st.integers(0, 1)),
        )
        for _ in range(draw(st.integers(1, most)))
    ]
    return sorted(jobs, key=lambda job: job.arrival)


@settings(max_examples=12, deadline=None)
@given(elastic_jobs(), st.integers(0, 2**16))
def test_carbon_scaler_with_plenty_is_as_without_a_limit(jobs, seed):
    values = np.random.default_rng(seed).uniform(1, 100, (2, 40))
    case = setup(jobs, *values, tick=900)
    free, limited = (
        simulate(case, "carbon-scaler"),
        simulate(replace(case, capacity_cpus=(PLENTY,) * 2), "carbon-scaler"),
    )
    assert [row[:2] for row in in_hours(free)] == [row[:2] for row in in_hours(limited)]
    for one, two in zip(in_hours(free), in_hours(limited), strict=True):
        assert one == pytest.approx(two, abs=1e-6)
    assert free.outcome.carbon_g == pytest.approx(limited.outcome.carbon_g)


# -- always ----------------------------------------------------------------------------------------------------------


def useful_s(done, jobs, resume_s):
    """The work that was done for each job that ended, in terms of the least workers."""
    found = []
    for number, rows in itertools.groupby(ran(done.schedule), key=lambda row: row[0]):
        workers = jobs[number].scales or Workers()
        found.append(
            sum(
                max(0.0, end - start - (resume_s if attempt else 0)) * workers.speed(count)
                for attempt, (_, _, start, end, count) in enumerate(rows)
            )
        )
    return found


@settings(max_examples=12, deadline=None)
@given(elastic_jobs(), st.integers(0, 2**16), st.sampled_from([0, 300, 1800]), st.booleans())
def test_never_more_workers_than_there_is_room_for_and_no_work_is_lost(jobs, seed, resume_s, interruptible):
    """Four CPUs and three GPUs in each of two zones; every worker holds a CPU, some of them a GPU."""
    values = np.random.default_rng(seed).uniform(1, 100, (2, 60))
    nodes = tuple(replace(gpu_node(zone), capacity=Resources(cpus=4.0, gpus=3.0)) for zone in "AB")
    case = setup(jobs, *values, tick=900, nodes=nodes, resume_cost_s=resume_s, interruptible=interruptible)
    for policy in ("run-now", "lowest-window", "carbon-scaler", "eco"):
        done = simulate(case, policy)
        for zone, (amount, most) in itertools.product(range(2), ((case.workload.cpus, 4), (case.workload.gpus, 3))):
            assert done.schedule.held(amount, zone)[1].max(initial=0.0) <= most, policy
        ended = sorted(set(done.schedule.job.tolist()))
        lengths_s = [jobs[number].length for number in ended]
        assert useful_s(done, jobs, resume_s) == pytest.approx(lengths_s, rel=1e-6, abs=1e-3), policy
        for number, _, start_s, _, workers in ran(done.schedule):
            job = jobs[number]
            assert job.scales.min <= workers <= job.scales.max
            assert start_s >= job.arrival


@settings(max_examples=10, deadline=None)
@given(elastic_jobs(), st.integers(0, 2**16))
def test_no_schedule_emits_less_than_the_bound(jobs, seed):
    case = setup(jobs, *np.random.default_rng(seed).uniform(1, 100, (2, 60)), tick=900, interruptible=True)
    bound = simulate(case, "bound").outcome
    for policy in ("carbon-scaler", "eco"):
        done = simulate(case, policy).outcome
        if done.truncated == bound.truncated and not done.missed_deadlines:
            assert done.carbon_g >= bound.carbon_g * (1 - 1e-9), policy


def test_the_bound_knows_the_thriftiest_and_the_fastest():
    jobs = [Job(0, H, scales=one) for one in (SCALES, Workers(2, 4, (1.0, 1.8, 1.9)), Workers(1, 4))]
    speed, cpus = _scaled(setup(jobs, [1, 1]).workload)
    assert speed.tolist() == [2.0, 1.9, 4.0]
    # three of 1.8 times the speed of two: 3/1.8 CPUs per speed
    assert cpus.tolist() == pytest.approx([1.0, 3 / 1.8, 1.0])


def test_each_row_draws_what_its_own_job_does():
    """As many rows as jobs, but not one for each: the first job does not end inside, the second runs twice."""
    jobs = [Job(0, 9 * H, cpus=100), Job(0, 2 * H, 2 * H, cpus=3)]
    done = simulate(setup(jobs, [9, 1, 9, 1, 9], interruptible=True), "wait-awhile")
    assert in_hours(done) == [(1, 0, 1, 2, 1), (1, 0, 3, 4, 1)]
    assert done.schedule.power_kw.tolist() == pytest.approx([0.003, 0.003])
    assert done.outcome.carbon_g == pytest.approx(0.006)


@settings(max_examples=3, deadline=None)
@given(elastic_jobs(), st.integers(0, 2**16))
def test_the_log_of_events_gives_the_same_actions_in_a_fresh_orchestrator(jobs, seed):
    values = np.random.default_rng(seed).uniform(1, 100, (2, 60))
    case = setup(jobs, *values, tick=900, capacity=4, resume_cost_s=300, interruptible=True, keep_log=True)
    made = []

    class Remembering(Orchestrator):
        def __init__(self, *arguments):
            made.append(arguments)
            super().__init__(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulator, "Orchestrator", Remembering)
        for policy in ("carbon-scaler", "eco"):
            log = simulate(case, policy).replayed.log
            assert replay_log(Orchestrator(*made.pop()), log) == [actions for _, _, actions in log], policy
            assert any(isinstance(action, StartAttempt) for _, _, actions in log for action in actions)
