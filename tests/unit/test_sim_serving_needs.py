"""The same traffic and jobs in the simulator: what is given way to, for how long, and that nothing is lost by it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_cases import MONDAY_S, H, Job, ran, setup

from eco_ray.core.actions import AskToCheckpoint, StartAttempt
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.events import NeededReplica, ServingNeeds, Tick
from eco_ray.core.jobs import Workers
from eco_ray.core.orchestrator import Orchestrator
from eco_ray.core.power import PowerCurve
from eco_ray.errors import UsageError
from eco_ray.sim import simulate as simulator
from eco_ray.sim.replay import replay_log
from eco_ray.sim.simulate import simulate

TICK_S = 300


def a_need(cpus, count=1, begin_s=0, until_s=None, model="m", gpus=0.0):
    """So many replicas from one time to another, both since the beginning."""
    until_s = None if until_s is None else MONDAY_S + until_s
    replica = NeededReplica(Resources(cpus=float(cpus), gpus=gpus))
    return MONDAY_S + begin_s, ServingNeeds(model, (replica,) * count, until_s, 0.2)


def test_a_job_waits_for_the_peak_to_pass():
    """It runs from 0 to 1, gives way, and goes on at 3; a resume takes 15 min."""
    case = setup([Job(0, 3 * H, 5 * H)], [1] * 12, capacity=1, interruptible=True, resume_cost_s=900)
    done = simulate(replace(case, needs=(a_need(1, begin_s=H, until_s=3 * H),)), "eco")
    assert [row[2:4] for row in ran(done.schedule)] == [(0, H), (3 * H, 5.25 * H)]
    assert (done.outcome.resumes, done.outcome.missed_deadlines) == (1, 0)


def test_an_elastic_job_runs_on_beside_the_replica_and_grows_again():
    job = Job(0, 12 * H, 4 * H, scales=Workers(1, 4))
    case = setup([job], [1] * 4 + [9] * 30, capacity=4, interruptible=True)
    done = simulate(replace(case, needs=(a_need(1, begin_s=H, until_s=2 * H),)), "eco")
    assert [row[2:] for row in ran(done.schedule)][:3] == [(0, H, 4), (H, 2 * H, 3), (2 * H, 3.25 * H, 4)]


def test_a_job_without_time_to_wait_keeps_its_place():
    """With an hour to spare it does not wait for two, and does for the last one, when it has two thirds of its work."""
    for spare_s, expected in ((0, [(0, 3 * H)]), (H, [(0, 7500), (3 * H, 14100)])):
        case = setup([Job(0, 3 * H, spare_s)], [1] * 12, capacity=1, interruptible=True)
        done = simulate(replace(case, needs=(a_need(1, begin_s=H, until_s=3 * H),)), "eco")
        assert [row[2:4] for row in ran(done.schedule)] == expected


def test_a_cluster_without_limits_has_nothing_to_give_way_to():
    case = replace(setup([Job(0, H)], [1, 1]), needs=(a_need(1),))
    for policy, what in (("run-now", "no limit of capacity"), ("bound", "a bound")):
        with pytest.raises(UsageError, match=f"needs of served models with {what}: .* give a capacity"):
            simulate(case, policy)


# -- always ----------------------------------------------------------------------------------------------------------


@st.composite
def cases(draw, gpus=False):
    """Jobs that are in time, whatever else comes; then models that need room, again and again."""
    jobs = []
    for _ in range(draw(st.integers(1, 4))):
        least = draw(st.integers(1, 2))
        jobs.append(
            Job(
                arrival=0,
                length=draw(st.integers(1, 12)) * 900,
                wait=draw(st.integers(0, 60)) * 900,
                cpus=1,
                gpus=draw(st.sampled_from([0.25, 0.5, 0.6, 1.0])) if gpus else 0,
                scales=Workers(1, 1 if gpus else least + draw(st.integers(0, 1)) - (least == 2)),
            )
        )
    needs = []
    for number in range(draw(st.integers(1, 5))):
        begin_s = 300 + number * 5400 + draw(st.integers(0, 6)) * 600  # after all jobs were promised their places
        until_s = begin_s + draw(st.integers(1, 12)) * 900
        part = draw(st.sampled_from([0.25, 0.5, 0.6])) if gpus else 0.0
        model = draw(st.sampled_from("mn"))
        needs.append(a_need(draw(st.integers(1, 2)), draw(st.integers(1, 2)), begin_s, until_s, model, part))
        if draw(st.booleans()):
            needs.append((needs[-1][0] + 450, ServingNeeds(model)))
    values = draw(st.lists(st.integers(1, 9), min_size=40, max_size=40))
    return jobs, values, sorted(needs, key=lambda one: one[0]), draw(st.sampled_from([0, 300])), draw(st.booleans())


def play(case, policy="eco"):
    """What a simulation did, and its orchestrator."""
    kept = []

    class Kept(Orchestrator):
        def __init__(self, *args):
            super().__init__(*args)
            kept.append(self)

    real = simulator.Orchestrator
    simulator.Orchestrator = Kept
    try:
        done = simulate(case, policy)
    finally:
        simulator.Orchestrator = real
    return done, kept[0]


def late(jobs, done):
    """Numbers of the jobs that ended after their deadlines."""
    ends_s = {job: end_s for job, _, _, end_s, _ in ran(done.schedule)}
    return {job for job, end_s in ends_s.items() if end_s > jobs[job].length + jobs[job].wait + 1e-3}


def node(gpus=0.0):
    power = PowerCurve((0.0, 0.5, 1.0), (20.0, 60.0, 80.0), "test")
    return Node("A", "A", Resources(3.0, gpus, 64.0, 40.0 * gpus), power, 1.2)


@settings(max_examples=15, deadline=None)
@given(cases())
def test_nobody_is_made_late_nothing_is_lost_and_all_go_on(told):
    jobs, values, needs, resume_s, allowed = told
    case = setup(
        jobs, values, tick=TICK_S, nodes=(node(),), interruptible=allowed, resume_cost_s=resume_s, keep_log=True
    )
    before, after = simulate(case, "eco"), simulate(replace(case, needs=tuple(needs)), "eco")
    assert late(jobs, after) <= late(jobs, before)
    assert after.outcome.truncated == before.outcome.truncated
    for number, rows in itertools.groupby(ran(after.schedule), key=lambda row: row[0]):
        stretches = [row[2:] for row in rows]
        speed = [workers for _, _, workers in stretches]
        useful_s = sum(
            max(0.0, end - start - (resume_s if n else 0)) * speed[n] for n, (start, end, _) in enumerate(stretches)
        )
        assert useful_s == pytest.approx(jobs[number].length)
        assert all(one[1] <= two[0] for one, two in itertools.pairwise(stretches))
    if not allowed:
        asked = [a for _, _, actions in after.replayed.log for a in actions if isinstance(a, AskToCheckpoint)]
        assert asked == []


@settings(max_examples=15, deadline=None)
@given(cases(gpus=True))
def test_what_runs_and_what_is_granted_never_exceed_a_node(told):
    """CPUs and GPUs by parts that fit together; at each tick, whoever came or left: what ends then is seen to there."""
    jobs, values, needs, resume_s, allowed = told
    place = node(gpus=2.0)
    case = setup(jobs, values, tick=TICK_S, nodes=(place,), interruptible=allowed, resume_cost_s=resume_s)

    class Watched(Orchestrator):
        def handle(self, event, now_s):
            actions = super().handle(event, now_s)
            held = self.book.grants.kept(place) if isinstance(event, Tick) else Resources()
            for job, attempt in self.book.live():
                if attempt.state in ("running", "launching"):
                    held += (job.spec.demand * attempt.workers).reserved_on(place.capacity)
            assert held.fits_in(place.capacity), (event, held)
            return actions

    real = simulator.Orchestrator
    simulator.Orchestrator = Watched
    try:
        simulate(replace(case, needs=tuple(needs)), "eco")
    finally:
        simulator.Orchestrator = real


@settings(max_examples=10, deadline=None)
@given(cases())
def test_a_log_gives_the_same_actions_to_another_orchestrator(told):
    jobs, values, needs, resume_s, allowed = told
    case = setup(
        jobs, values, tick=TICK_S, nodes=(node(),), interruptible=allowed, resume_cost_s=resume_s, keep_log=True
    )
    done, core = play(replace(case, needs=tuple(needs)))
    log = done.replayed.log
    assert any(isinstance(event, ServingNeeds) for _, event, _ in log)
    fresh = Orchestrator(core.book.home_zone, MONDAY_S, core.config)
    assert replay_log(fresh, log) == [actions for _, _, actions in log]
    assert any(isinstance(action, StartAttempt) for _, _, actions in log for action in actions)
