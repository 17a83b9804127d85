"""Planning jobs that run already, how much of them is left, and jobs that cannot be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planning_cases import CONFIG, HOUR_S, T0, a_job, a_node, a_situation, a_spec, hourly, no_suspension, shape

from eco_ray.core.cluster import Resources
from eco_ray.core.durations import Durations
from eco_ray.core.feasible import check_feasible
from eco_ray.core.fleet import MAX_SINGLE
from eco_ray.core.jobs import Attempt, AttemptState, Plan, SuspendRule, Workers
from eco_ray.core.planner import NoPlan, plan_job
from eco_ray.errors import InfeasibleError, NotFoundError

# -- a job that runs -------------------------------------------------------------------------------------------------


def running(node="de-1", zone="DE", started_s=T0, **changes):
    attempt = Attempt(1, "j-a1", node, zone, AttemptState.RUNNING, started_s, started_s=started_s)
    return replace(attempt, **changes)


def test_a_running_job_goes_on_or_pauses_by_what_is_left():
    situation = a_situation(hourly("DE", 300, 300, 100, 100, 300), now_s=T0 + HOUR_S)
    job = a_job(a_spec(2, 5), attempts=(running(),))
    assert shape(plan_job(job, situation, CONFIG)) == [("de-1", 2, 3)]
    costly = a_job(a_spec(2, 5, suspend=SuspendRule(resume_cost_s=3 * HOUR_S)), attempts=(running(),))
    assert shape(plan_job(costly, situation, CONFIG)) == [("de-1", 1, 2)]
    fixed = a_job(a_spec(2, 5, **no_suspension()), attempts=(running(),))
    assert shape(plan_job(fixed, situation, CONFIG)) == [("de-1", 1, 2)]


def test_a_running_job_whose_end_nobody_knows_is_left_alone():
    situation = a_situation(hourly("DE", 900, 900, 1, 1, 1), now_s=T0 + 1.1 * HOUR_S)
    overdue = a_job(a_spec(1, 5), attempts=(running(),))
    assert shape(plan_job(overdue, situation, CONFIG))[0][:2] == ("de-1", pytest.approx(1.1))
    at_the_end = a_job(a_spec(9, 5), attempts=(running(),), progress=1.0)
    assert shape(plan_job(at_the_end, situation, CONFIG))[0][:2] == ("de-1", pytest.approx(1.1))


def test_a_job_runs_on_where_the_signal_is_missing():
    situation = a_situation(
        hourly("DE", *[1] * 9), nodes=[a_node("de-1", "DE"), a_node("fr-1", "FR")], now_s=T0 + HOUR_S
    )
    job = a_job(a_spec(4, 9), attempts=(running("fr-1", "FR"),))
    assert shape(plan_job(job, situation, CONFIG)) == [("fr-1", 1, 4)]


@pytest.mark.parametrize(
    ("changes", "left_h"),
    [
        ({}, 2.0),
        ({"expected_duration_s": None}, 1.0),  # assumed
        ({"productive_s": HOUR_S}, 2.0),  # without a checkpoint the next attempt begins again
        ({"productive_s": HOUR_S, "has_checkpoint": True}, 1.0),
        ({"productive_s": 3 * HOUR_S, "has_checkpoint": True}, 1 / 3600),
        ({"productive_s": HOUR_S, "has_checkpoint": True, "progress": 0.25}, 3.0),  # what it reports counts more
        ({"productive_s": HOUR_S, "has_checkpoint": True, "progress": 0.01}, 1.0),  # too early to say
        ({"attempts": (running(started_s=T0 - 0.5 * HOUR_S),)}, 1.5),
        ({"attempts": (running(started_s=T0 - HOUR_S, productive_s=T0 - 0.5 * HOUR_S),)}, 1.5),
        ({"attempts": (running(started_s=T0 - HOUR_S),), "progress": 0.8}, 0.25),
        ({"attempts": (running(started_s=None, state=AttemptState.LAUNCHING),)}, 2.0),
        # it is restoring its checkpoint, half an hour of which costs no work
        (
            {
                "attempts": (running(), running(number=2, started_s=T0 - HOUR_S)),
                "has_checkpoint": True,
                "suspend": SuspendRule(resume_cost_s=0.5 * HOUR_S),
            },
            1.5,
        ),
    ],
)
def test_work_that_is_left(changes, left_h):
    of_spec = {key: changes[key] for key in changes if key in ("expected_duration_s", "suspend")}
    job = replace(a_job(replace(a_spec(2), **of_spec)), **{k: v for k, v in changes.items() if k not in of_spec})
    assert Durations(HOUR_S).left_s(job, T0) == pytest.approx(left_h * HOUR_S)


# -- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (
            a_spec(zones=("DE", "PL")),
            NotFoundError,
            "zone 'PL' of job 'train' is not in this cluster: its zones are DE, FR; "
            "correct carbon.zones or add a node there",
        ),
        (
            a_spec(demand=Resources(3.0, 1.0)),
            InfeasibleError,
            "job 'train' asks for 3 CPUs, 1 GPUs, 0 GB memory; the largest allowed node has 2 CPUs, 0 GPUs, "
            "8 GB memory; ask for less or allow more zones",
        ),
        (
            a_spec(3.5, 2),
            InfeasibleError,
            "job 'train' cannot finish by its deadline: it needs 3 h 30 min and the deadline leaves 2 h; "
            "move the deadline by at least 1 h 30 min or shorten the job",
        ),
        (
            a_spec(1, 8, not_before_s=T0 + 7.5 * HOUR_S + 1),
            InfeasibleError,
            "job 'train' cannot finish by its deadline: it needs 1 h and the deadline leaves 30 min; "
            "move the deadline by at least 31 min or shorten the job",
        ),
        (
            a_spec(None, -1),
            InfeasibleError,
            "job 'train' cannot finish by its deadline: its duration is unknown and the deadline leaves 0 s; "
            "move the deadline by at least 1 h",
        ),
    ],
)
def test_an_impossible_job_is_told_value_limit_and_cure(spec, error, message):
    nodes = [a_node("de-1", "DE"), a_node("fr-1", "FR", cpus=2)]
    with pytest.raises(error) as info:
        check_feasible(spec, T0, nodes)
    assert str(info.value) == message


def test_what_the_cure_says_is_enough():
    nodes = [a_node()]
    check_feasible(a_spec(2, 2), T0, nodes)
    check_feasible(a_spec(None, 0.01), T0, nodes)
    check_feasible(a_spec(1, 9, not_before_s=T0 + 7.5 * HOUR_S + 1), T0, nodes)


# -- GPU memory --------------------------------------------------------------------------------------------------------

#: four GPUs of 40 GB each
FOUR_OF_40 = replace(a_node("g", cpus=8.0), capacity=Resources(8.0, 4.0, 64.0, 160.0))
SAME_EVERYWHERE = hourly("DE", *[300] * 40)


@pytest.mark.parametrize(
    ("gpus", "gpu_memory_gb", "fits"),
    [(1, 40, True), (1, 80, False), (2, 80, True), (0.5, 40, True), (0.5, 41, False), (4, 160, True), (1.5, 80, True)],
)
def test_a_job_gets_no_more_memory_than_its_gpus_have(gpus, gpu_memory_gb, fits):
    spec = a_spec(1, 8, demand=Resources(1.0, gpus, 1.0, gpu_memory_gb))
    plan = plan_job(a_job(spec), a_situation(SAME_EVERYWHERE, nodes=[FOUR_OF_40]), CONFIG)
    assert isinstance(plan, Plan) is fits
    if fits:
        check_feasible(spec, T0, [FOUR_OF_40])
    else:
        with pytest.raises(InfeasibleError, match="GPU memory"):
            check_feasible(spec, T0, [FOUR_OF_40])


def test_the_memory_of_a_gpu_that_is_too_small_is_told_with_the_cure():
    with pytest.raises(InfeasibleError) as info:
        check_feasible(a_spec(demand=Resources(1.0, 1.0, 1.0, 80.0)), T0, [FOUR_OF_40, a_node()])
    assert str(info.value) == (
        "job 'train' asks for 80 GB GPU memory on 1 GPU; the GPUs of the allowed nodes have 40 GB each at most; "
        "ask for less GPU memory or for more GPUs, or allow more zones"
    )


def test_workers_that_share_a_gpu_share_its_memory():
    """Two workers of half a GPU are given one GPU: with 30 GB each they do not fit, with 20 GB they do."""
    for gpu_memory_gb, most in ((30.0, 1), (20.0, 2)):
        spec = a_spec(2, 2.5, demand=Resources(1.0, 0.5, 1.0, gpu_memory_gb), workers=Workers(1, 2))
        plan = plan_job(a_job(spec), a_situation(hourly("DE", 50, 900, 900), nodes=[FOUR_OF_40]), CONFIG)
        assert max(segment.workers for segment in plan.segments) == most


def test_many_nodes_of_small_gpus_are_no_place_either():
    nodes = [replace(FOUR_OF_40, name=f"g{number}") for number in range(MAX_SINGLE + 1)]
    spec = a_spec(1, 8, demand=Resources(1.0, 1.0, 1.0, 80.0))
    assert isinstance(plan_job(a_job(spec), a_situation(SAME_EVERYWHERE, nodes=nodes), CONFIG), NoPlan)
