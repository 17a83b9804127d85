"""Budgets of energy and carbon: a job that would use too much is not started, and is told by how much."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orchestrator_world import World
from planning_cases import CONFIG, HOUR_S, T0, a_job, a_node, a_situation, a_spec, hourly, no_suspension, shape

from eco_ray.core.cluster import Resources
from eco_ray.core.events import ForecastArrived, JobAccounted, ResumeRequested
from eco_ray.core.feasible import check_feasible
from eco_ray.core.jobs import Attempt, AttemptState, Plan, Reason, Segment, SuspendRule, Workers
from eco_ray.core.planner import plan_job
from eco_ray.core.power import PowerCurve
from eco_ray.core.situation import NoPlan
from eco_ray.errors import InfeasibleError, UsageError

KWH = 3.6e6
#: an hour of a whole node of 100 W: 0.1 kWh, 30 g
DE = hourly("DE", *[300] * 24)


def plan(spec, situation=None, **changes):
    return plan_job(a_job(spec, **changes), situation or a_situation(DE), CONFIG)


def attempt(state=AttemptState.RUNNING, started_s=T0 - HOUR_S):
    return Attempt(1, "j-a1", "de-1", "DE", state, started_s, started_s=started_s)


# -- a plan that is too much -------------------------------------------------------------------------------------------


def test_above_its_energy_budget_a_job_is_held_and_told_value_limit_and_cure():
    assert plan(a_spec(3, budget_j=0.25 * KWH)) == NoPlan(
        Reason.EXCEEDS_BUDGET,
        "would use 0.3 kWh at best, above its budget of 0.25 kWh; "
        "raise carbon.budget.energy_kwh, or submit a shorter job",
        pytest.approx(0.3 * KWH),
    )


def test_above_its_carbon_budget_a_job_is_held_and_told_value_limit_and_cure():
    assert plan(a_spec(3, budget_g=80.0)) == NoPlan(
        Reason.EXCEEDS_BUDGET,
        "would emit 90 g at best before its deadline, above its budget of 80 g; it starts when a forecast allows less. "
        "Raise carbon.budget.carbon_g, allow more zones or a later deadline",
        pytest.approx(90.0),
    )


@pytest.mark.parametrize(
    ("budgets", "held"),
    [
        ({}, False),
        ({"budget_j": 0.1 * KWH}, False),
        ({"budget_j": 0.09999 * KWH}, True),
        ({"budget_g": 30.0}, False),
        ({"budget_g": 29.999}, True),
        ({"budget_j": 0.1 * KWH, "budget_g": 30.0}, False),
        ({"budget_j": 0.1 * KWH, "budget_g": 29.9}, True),
        ({"budget_j": 0.09 * KWH, "budget_g": 1000.0}, True),
        ({"budget_j": 0.0}, True),
        ({"budget_g": 0.0}, True),
    ],
)
def test_what_just_fits_is_planned_as_without_a_budget(budgets, held):
    found = plan(a_spec(1, **budgets))
    if held:
        assert isinstance(found, NoPlan)
        assert found.reason is Reason.EXCEEDS_BUDGET
    else:
        assert found == plan(a_spec(1))


def test_a_third_of_an_hour_fits_whatever_rounding_does_to_it():
    for thirds in range(1, 20):
        energy_j = 100.0 * thirds / 3 * HOUR_S
        spec = a_spec(thirds / 3, budget_j=energy_j, budget_g=energy_j / KWH * 300)
        assert isinstance(plan(spec), Plan), thirds


def test_where_it_is_cleaner_it_fits():
    spec = a_spec(1, budget_g=20.0)
    assert isinstance(plan(spec), NoPlan)
    later = a_situation(hourly("DE", 300, 300, 150, 300, 300, 300, 300, 300))
    assert shape(plan(spec, later)) == [("de-1", 2, 3)]
    elsewhere = a_situation(DE, hourly("FR", *[50] * 24))
    assert shape(plan(spec, elsewhere)) == [("fr-1", 0, 1)]
    assert isinstance(plan(replace(spec, zones=("DE",)), elsewhere), NoPlan)
    assert isinstance(plan(replace(spec, deadline_s=T0 + 2 * HOUR_S), later), NoPlan)


def test_energy_is_that_of_the_node_and_grams_are_those_of_the_facility():
    hot = a_situation(DE, nodes=[a_node(pue=1.5)])
    assert isinstance(plan(a_spec(1, budget_j=0.1 * KWH), hot), Plan)
    assert isinstance(plan(a_spec(1, budget_g=45.0), hot), Plan)
    assert isinstance(plan(a_spec(1, budget_g=44.0), hot), NoPlan)


def test_all_workers_and_gpus_count():
    node = replace(a_node(cpus=4.0, watts=400.0), capacity=Resources(4.0, 4.0, 64.0), gpu_busy_w=300.0)
    situation = a_situation(DE, nodes=[node])
    two = a_spec(1, demand=Resources(1.0, 1.0), workers=Workers(2, 2))
    for spare, kind in ((1.0, Plan), (0.999, NoPlan)):  # 200 W of CPUs, 600 W of GPUs
        assert isinstance(plan(replace(two, budget_j=0.8 * KWH * spare), situation), kind)
        assert isinstance(plan(replace(two, budget_g=240.0 * spare), situation), kind)


# -- another place than the greenest -----------------------------------------------------------------------------------

#: an hour on the clean one is 0.2 kWh and 10 g, on the other one 0.1 kWh and 30 g
HUNGRY = [a_node("de-1"), a_node("fr-1", "FR", watts=200.0)]
CLEAN_FR = hourly("FR", *[50] * 24)


@pytest.mark.parametrize("policy", ["eco", "run-now", "lowest-window", "wait-awhile"])
@pytest.mark.parametrize("more", [{}, no_suspension(), {"suspend": SuspendRule(resume_cost_s=60.0)}])
def test_a_clean_node_that_draws_too_much_leaves_the_job_to_a_frugal_one(policy, more):
    situation = a_situation(DE, CLEAN_FR, nodes=HUNGRY)
    home = "FR" if policy == "run-now" else "DE"
    situation = replace(situation, home_zone=home)
    spec = a_spec(1, policy=policy, **more)
    assert shape(plan(spec, situation)) == [("fr-1", 0, 1)]
    assert shape(plan(replace(spec, budget_j=0.12 * KWH), situation)) == [("de-1", 0, 1)]
    assert shape(plan(replace(spec, budget_j=0.2 * KWH), situation)) == [("fr-1", 0, 1)]
    held = plan(replace(spec, budget_j=0.09 * KWH), situation)
    assert held.message.startswith("would use 0.1 kWh at best, above its budget of 0.09 kWh; ")
    assert held.needs == pytest.approx(0.1 * KWH)


def test_of_all_plans_within_its_energy_it_gets_the_greenest():
    """The most frugal node is the dirtiest one."""
    nodes = [a_node("de-1", watts=80.0), a_node("fr-1", "FR", watts=200.0), a_node("gb-1", "GB", watts=100.0)]
    situation = a_situation(hourly("DE", *[900] * 24), CLEAN_FR, hourly("GB", *[300, 100, *[300] * 22]), nodes=nodes)
    assert shape(plan(a_spec(1, budget_j=0.12 * KWH), situation)) == [("gb-1", 1, 2)]
    assert shape(plan(a_spec(1, budget_j=0.09 * KWH), situation)) == [("de-1", 0, 1)]


def test_grams_are_those_of_its_share_though_plans_are_compared_by_what_they_add():
    """FR adds little beside its high idle power, but the job's share of that is large."""
    nodes = [a_node("de-1"), replace(a_node("fr-1", "FR"), power=PowerCurve((0.0, 1.0), (180.0, 200.0), "test"))]
    series = hourly("DE", *[300] * 4, 250, *[300] * 19), hourly("FR", *[200] * 24)
    situation = a_situation(*series, nodes=nodes)
    assert shape(plan(a_spec(1), situation)) == [("fr-1", 0, 1)]  # 4 g against 12.5 g, of 40 g and 25 g
    assert shape(plan(a_spec(1, budget_g=40.0), situation)) == [("fr-1", 0, 1)]
    for rule in ({}, no_suspension(), {"suspend": SuspendRule(resume_cost_s=60.0)}):
        found = plan(a_spec(1, budget_g=25.0, **rule), situation)
        assert shape(found) == [("de-1", 4, 5)]
        assert found.carbon_g == pytest.approx(25.0)
    held = plan(a_spec(1, budget_g=24.0), situation)
    assert held.message.startswith("would emit 25 g at best before its deadline, above its budget of 24 g; ")
    assert held.needs == pytest.approx(25.0)


def test_a_minimum_saving_does_not_keep_a_job_from_its_budget():
    series = hourly("DE", 300, 290, *[300] * 20)
    assert shape(plan(a_spec(1, min_saving_pct=20.0), a_situation(series))) == [("de-1", 0, 1)]
    assert shape(plan(a_spec(1, min_saving_pct=20.0, budget_g=29.0), a_situation(series))) == [("de-1", 1, 2)]


def test_an_elastic_job_takes_as_many_workers_as_its_energy_allows():
    """Two workers add 5 W more than one, but hold twice the share of 180 W idle; two are 1.2 times as fast."""
    node = replace(a_node(cpus=2.0), power=PowerCurve((0.0, 1.0), (180.0, 190.0), "test"), sleeps=True)
    situation = a_situation(hourly("DE", *[300] * 24), nodes=[node])
    spec = a_spec(6, 12, workers=Workers(1, 2, (1.0, 1.2)), **no_suspension())
    assert [part.workers for part in plan(spec, situation).segments] == [2]  # it is kept from sleep for less long
    assert [part.workers for part in plan(replace(spec, budget_j=0.6 * KWH), situation).segments] == [1]
    held = plan(replace(spec, budget_j=0.5 * KWH), situation)
    assert held.needs == pytest.approx(95.0 * 6 * HOUR_S)


def test_both_budgets_are_kept_or_it_is_said_which_is_not():
    situation = a_situation(DE, CLEAN_FR, nodes=HUNGRY)
    assert shape(plan(a_spec(1, budget_j=0.2 * KWH, budget_g=10.0), situation)) == [("fr-1", 0, 1)]
    assert shape(plan(a_spec(1, budget_j=0.1 * KWH, budget_g=30.0), situation)) == [("de-1", 0, 1)]
    half = plan(a_spec(1, budget_j=0.15 * KWH, budget_g=20.0), situation)  # half an hour on each
    assert sorted(segment.zone for segment in half.segments) == ["DE", "FR"]
    assert half.carbon_g == pytest.approx(20.0)
    held = plan(a_spec(1, budget_j=0.15 * KWH, budget_g=19.0), situation)
    assert held.reason is Reason.EXCEEDS_BUDGET
    assert held.message == (
        "would emit 20 g at best within its budget of energy, above its budget of 19 g; it starts when a forecast "
        "allows less. Raise carbon.budget.carbon_g, allow more zones or a later deadline, or raise "
        "carbon.budget.energy_kwh"
    )
    assert held.needs == pytest.approx(20.0)


def test_nobody_goes_where_the_intensity_is_unknown_to_keep_a_budget_of_grams():
    dark = a_situation(DE, nodes=[a_node(), a_node("fr-1", "FR")])
    held = plan(a_spec(1, budget_g=20.0), dark)
    assert held.message.startswith("would emit 30 g at best")
    frugal = a_situation(DE, nodes=[a_node(), a_node("fr-1", "FR", watts=60.0)])
    assert shape(plan(a_spec(1, budget_j=0.07 * KWH), frugal)) == [("fr-1", 0, 1)]  # energy is known without it


def test_nobody_is_late_to_keep_a_budget():
    """The frugal node is taken until after the deadline."""
    situation = a_situation(DE, CLEAN_FR, nodes=HUNGRY)
    situation.calendar.reserve(Segment("de-1", "DE", T0, T0 + 7.5 * HOUR_S), Resources(1.0))
    spec = a_spec(1, 8, budget_j=0.12 * KWH)
    assert plan(replace(spec, **no_suspension()), situation).message.startswith("would use 0.2 kWh at best")
    assert plan(spec, situation).message.startswith("would use 0.15 kWh at best")  # half an hour on each
    assert shape(plan(a_spec(1, 9, budget_j=0.12 * KWH), situation)) == [("de-1", 7.5, 8.5)]


# -- what was used before ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        ({"used_j": 0.1 * KWH, "emitted_g": 30.0}, False),
        ({"used_j": 0.11 * KWH}, True),
        ({"emitted_g": 31.0}, True),
    ],
)
def test_what_earlier_attempts_used_counts(changes, held):
    spec = a_spec(2, budget_j=0.2 * KWH, budget_g=60.0)
    paused = {"attempts": (attempt(AttemptState.PAUSED),), "has_checkpoint": True, "productive_s": HOUR_S}
    assert isinstance(plan(spec, **paused, **changes), NoPlan if held else Plan)


def test_what_earlier_attempts_used_is_in_the_figures():
    used = {"used_j": 0.4 * KWH, "emitted_g": 70.0}
    energy, carbon = plan(a_spec(1, budget_j=0.45 * KWH), **used), plan(a_spec(1, budget_g=90.0), **used)
    assert energy.message.startswith("would use 0.5 kWh at best, above its budget of 0.45 kWh; ")
    assert carbon.message.startswith("would emit 100 g at best before its deadline, above its budget of 90 g; ")


def test_a_job_that_runs_is_never_held():
    spec = a_spec(3, budget_j=1.0, budget_g=1.0, **no_suspension())
    for state in (AttemptState.LAUNCHING, AttemptState.RUNNING, AttemptState.PAUSING):
        found = plan(spec, attempts=(attempt(state, T0),), used_j=9 * KWH, emitted_g=900.0)
        assert shape(found) == [("de-1", 0, 3)]
    assert isinstance(plan(spec, attempts=(attempt(AttemptState.PAUSED, T0),)), NoPlan)


def test_an_unknown_intensity_forbids_nothing():
    spec = a_spec(2, 2, budget_g=1.0)
    dark = a_situation(DE, nodes=[a_node("fr-1", "FR")])
    assert shape(plan(spec, dark)) == [("fr-1", 0, 2)]
    assert shape(plan(spec, dark, emitted_g=500.0)) == [("fr-1", 0, 2)]
    short = a_situation(hourly("DE", 300))  # known for the first half of it
    assert shape(plan(spec, short)) == [("de-1", 0, 2)]
    assert isinstance(plan(replace(spec, budget_j=0.1 * KWH), dark), NoPlan)  # energy is known without it


@pytest.mark.parametrize("policy", ["eco", "run-now", "lowest-window", "wait-awhile"])
def test_every_policy_keeps_to_its_budget(policy):
    assert isinstance(plan(a_spec(1, policy=policy, budget_g=30.0, budget_j=0.1 * KWH)), Plan)
    assert isinstance(plan(a_spec(1, policy=policy, budget_g=29.0)), NoPlan)
    assert isinstance(plan(a_spec(1, policy=policy, budget_j=0.09 * KWH)), NoPlan)


def test_what_keeps_to_both_budgets_is_found_among_plans_that_mix_places():
    """By hand: of the slots of two nodes the fewest grams for each number of slots on the hungry one."""
    chance, slots = Random(3), 12
    for _ in range(40):
        work, watts = chance.randint(1, 6), (chance.choice([100.0, 200.0]), chance.choice([150.0, 300.0]))
        grid = [[chance.choice([50, 100, 200, 300, 400]) for _ in range(slots)] for _ in watts]
        least = {(0, 0): 0.0}
        for slot in range(slots):
            for (done, second), grams in list(least.items()):
                for node in (0, 1) if done < work else ():
                    key, more_g = (done + 1, second + node), grid[node][slot] * watts[node] / 4000
                    least[key] = min(least.get(key, math.inf), grams + more_g)
        second, grams = chance.choice([(key[1], grams) for key, grams in least.items() if key[0] == work])
        budget_j = ((work - second) * watts[0] + second * watts[1]) * 900 * 1.0001
        series = [hourly(zone, *values, step_s=900.0) for zone, values in zip(("DE", "FR"), grid, strict=True)]
        nodes = [a_node(zone.lower(), zone, watts=each) for zone, each in zip(("DE", "FR"), watts, strict=True)]
        found = plan(
            a_spec(work / 4, slots / 4, budget_g=grams * 1.0001, budget_j=budget_j), a_situation(*series, nodes=nodes)
        )
        assert isinstance(found, Plan), (grid, watts, work, second)


intensities = st.lists(st.sampled_from([0.0, 20.0, 100.0, 300.0, 900.0]), min_size=10, max_size=10)


@settings(max_examples=100, deadline=None)
@given(intensities, intensities, st.floats(0.1, 6), st.floats(0, 800), st.floats(0, 300), st.booleans())
def test_no_plan_is_above_its_budget_and_none_that_fits_is_refused(de, fr, length_h, budget_g, emitted_g, whole):
    situation = a_situation(hourly("DE", *de), hourly("FR", *fr))
    spec = a_spec(length_h, **(no_suspension() if whole else {}))
    free = plan(spec, situation)
    found = plan(replace(spec, budget_g=budget_g), situation, emitted_g=emitted_g)
    if isinstance(found, NoPlan):
        assert free.carbon_g + emitted_g > budget_g
    else:
        assert found == free or free.carbon_g + emitted_g > budget_g
        assert found.carbon_g + emitted_g <= budget_g * (1 + 1e-6)


# -- through the orchestrator ------------------------------------------------------------------------------------------


def test_a_held_job_starts_when_a_forecast_allows_less():
    world = World(hourly("DE", *[300] * 40))
    assert world.submit(hours=1, budget_g=20.0, zones=("DE",)) == []
    state, reason, message = world.said()
    assert (state, reason) == ("queued", "ExceedsBudget")
    assert message.startswith("would emit 30 g at best")
    assert world.tick(hours=1) == []
    world.do(ForecastArrived({"DE": hourly("DE", *[300, 190] * 20)}))
    assert world.tick(hours=0.01) == ["start j-a1 on de-1"]


def test_the_grams_of_a_paused_attempt_are_gone():
    world = World(hourly("DE", 300, 900, 300, *[900] * 40))
    world.submit(hours=2, zones=("DE",), budget_g=61.0)  # an hour now, and one after the next
    world.started()
    assert world.tick(hours=1) == ["ask j-a1"]
    world.do(ForecastArrived({"DE": hourly("DE", 300, 900, 320, *[900] * 40)}))  # two grams more
    world.tick(seconds=1)
    world.exited(75)
    assert world.job().emitted_g == pytest.approx(30.0, rel=0.05)
    assert world.job().used_j == pytest.approx(0.1 * KWH, rel=0.01)
    assert world.said()[1] == "ExceedsBudget"
    world.do(ForecastArrived({"DE": hourly("DE", 300, 900, 300, *[900] * 40)}))
    world.tick(hours=0.1)
    assert world.said()[1] == "WaitingForCleanerWindow"


def accounted(world, kwh=0.0, g=None):
    return world.do(JobAccounted("j", kwh * KWH, g), 1.0)


@pytest.mark.parametrize(
    ("budgets", "used", "stopped"),
    [
        ({"budget_g": 40.0}, {"g": 40.0}, False),
        ({"budget_g": 40.0}, {"g": 40.1}, True),
        ({"budget_g": 40.0}, {"g": None, "kwh": 99.0}, False),  # unknown grams stop nothing
        ({"budget_g": 40.0}, {"g": math.nan, "kwh": 99.0}, False),
        ({"budget_j": 0.15 * KWH}, {"kwh": 0.15, "g": 999.0}, False),
        ({"budget_j": 0.15 * KWH}, {"kwh": 0.151}, True),
        ({}, {"kwh": 99.0, "g": 999.0}, False),
    ],
)
def test_a_running_job_is_stopped_when_the_ledger_has_it_above_a_budget(budgets, used, stopped):
    world = World(hourly("DE", *[300] * 40))
    world.running(hours=1, zones=("DE",), **budgets)
    assert accounted(world, **used) == (["ask j-a1"] if stopped else [])


def test_a_job_that_has_spent_its_budget_pauses_with_a_checkpoint_until_it_gets_a_larger_one():
    world = World(hourly("DE", *[300] * 40))
    world.running(hours=1, zones=("DE",), budget_g=40.0)
    assert accounted(world, g=41.0) == ["ask j-a1"]
    assert world.said()[2] == "pauses: it has emitted 41 g of its budget of 40 g, by the ledger"
    assert accounted(world, g=42.0) == []  # it is asked once
    world.exited(75)
    assert world.said() == (
        "suspended",
        "ExceedsBudget",
        "has emitted 41 g of its budget of 40 g, by the ledger; its checkpoint is kept. `eco-ray job resume j` with a "
        "larger budget lets it go on",
    )
    assert world.tick(hours=2) == []  # no forecast lets it start
    with pytest.raises(UsageError, match=r"job j has emitted 41 g of its budget of 40 g"):
        world.do(ResumeRequested("j"))
    with pytest.raises(UsageError, match="is not above 0"):
        world.do(ResumeRequested("j", budget_g=math.nan))
    assert world.do(ResumeRequested("j", budget_g=90.0)) == ["start j-a2 on de-1"]
    assert (world.job().spec.budget_g, world.job().held, world.job().over_budget) == (90.0, False, "")


def test_one_that_does_not_pause_is_stopped():
    world = World(hourly("DE", *[300] * 40))
    world.running(hours=1, zones=("DE",), budget_g=40.0)
    accounted(world, g=41.0)
    assert world.tick(seconds=61) == ["stop j-a1"]
    world.exited(outcome="stopped")
    assert world.said()[:2] == ("suspended", "ExceedsBudget")


def test_a_job_that_has_ended_or_is_on_its_way_is_not_asked():
    world = World(hourly("DE", *[300] * 40))
    world.submit(hours=1, zones=("DE",), budget_g=40.0)
    assert accounted(world, g=41.0) == []  # it is being launched
    world.started()
    world.exited(0)
    assert accounted(world, g=41.0) == []


# -- what cannot be ----------------------------------------------------------------------------------------------------


def test_an_energy_budget_that_no_node_could_keep_is_refused_with_value_limit_and_cure():
    with pytest.raises(InfeasibleError) as info:
        check_feasible(a_spec(3, budget_j=0.25 * KWH), T0, [a_node(), a_node("fr-1", "FR", watts=120.0)])
    assert str(info.value) == (
        "job 'train' needs 0.3 kWh on the most frugal node, above its energy budget of 0.25 kWh; "
        "raise carbon.budget.energy_kwh or shorten the job"
    )


@pytest.mark.parametrize(
    ("changes", "nodes", "least_kwh"),
    [
        ({}, [a_node()], 0.3),
        ({}, [a_node(), a_node("fr-1", "FR", watts=60.0)], 0.18),
        ({"zones": ("DE",)}, [a_node(), a_node("fr-1", "FR", watts=60.0)], 0.3),
        # the frugal one is too small
        ({"demand": Resources(2.0)}, [a_node(watts=10.0), a_node("fr-1", "FR", cpus=2.0, watts=200.0)], 0.6),
        ({}, [a_node(pue=2.0)], 0.3),
        # four workers are four times as fast, and take as much
        ({"workers": Workers(1, 4)}, [a_node(cpus=4.0, watts=400.0)], 0.3),
        # three are the best, but a node with one CPU cannot hold them
        ({"workers": Workers(1, 4, (1.0, 2.5, 4.0, 4.2))}, [a_node(cpus=4.0, watts=400.0)], 0.225),
        ({"workers": Workers(1, 4, (1.0, 2.5, 4.0, 4.2))}, [a_node(cpus=2.0, watts=200.0)], 0.24),
        ({"workers": Workers(1, 4, (1.0, 2.5, 4.0, 4.2))}, [a_node()], 0.3),
        ({"workers": Workers(2, 4)}, [a_node(cpus=2.0, watts=200.0)], 0.6),
    ],
)
def test_the_least_that_a_job_could_need_just_fits(changes, nodes, least_kwh):
    check_feasible(a_spec(3, budget_j=least_kwh * KWH, **changes), T0, nodes)
    with pytest.raises(InfeasibleError, match=f"needs {least_kwh:.3g} kWh"):
        check_feasible(a_spec(3, budget_j=least_kwh * KWH * 0.99, **changes), T0, nodes)


def test_a_job_of_unknown_length_and_one_with_grams_to_spare_later_are_let_in():
    check_feasible(a_spec(None, budget_j=1.0), T0, [a_node()])
    check_feasible(a_spec(3, budget_g=0.001), T0, [a_node()])  # nobody knows tomorrow's intensity
    check_feasible(a_spec(3), T0, [a_node()])


def test_only_workers_that_fit_on_a_node_make_a_job_fast_enough():
    spec = a_spec(4, 2, workers=Workers(1, 4))
    check_feasible(spec, T0, [a_node(), a_node("fr-1", "FR", cpus=2.0)])
    with pytest.raises(InfeasibleError, match="it needs 4 h and the deadline leaves 2 h"):
        check_feasible(spec, T0, [a_node()])
    with pytest.raises(InfeasibleError, match="it needs 4 h and the deadline leaves 2 h"):
        check_feasible(replace(spec, zones=("DE",)), T0, [a_node(), a_node("fr-1", "FR", cpus=2.0)])
