"""One job: when, where, with which suspensions; small worlds whose best plan can be seen."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from planning_cases import CONFIG, HOUR_S, SLOT_S, T0, a_job, a_node, a_situation, a_spec, hourly, no_suspension, shape

from eco_ray.core.cluster import Resources
from eco_ray.core.intensity import SignalKind
from eco_ray.core.jobs import Attempt, AttemptState, Plan, Reason, Segment, SuspendRule, Workers
from eco_ray.core.planner import plan_job
from eco_ray.core.situation import NoPlan
from eco_ray.errors import MixedKindsError

MINUTE_S = 60.0


def plan(spec=None, situation=None, **changes):
    return plan_job(a_job(spec or a_spec(), **changes), situation or a_situation(hourly("DE", *[300] * 24)), CONFIG)


# -- where and when --------------------------------------------------------------------------------------------------


def test_waits_for_the_cleanest_hour_before_the_deadline():
    situation = a_situation(hourly("DE", 300, 200, 400, 100, 300, 300, 300, 300, 50))
    assert shape(plan(a_spec(1, 8), situation)) == [("de-1", 3, 4)]
    assert shape(plan(a_spec(1, 9), situation)) == [("de-1", 8, 9)]


def test_runs_in_the_clean_hours_and_suspends_in_between():
    situation = a_situation(hourly("DE", 300, 100, 400, 100, 300, 300, 300, 300))
    assert shape(plan(a_spec(2), situation)) == [("de-1", 1, 2), ("de-1", 3, 4)]
    assert shape(plan(a_spec(2, **no_suspension()), situation)) == [("de-1", 0, 2)]
    assert shape(plan(a_spec(2, policy="lowest-window"), situation)) == [("de-1", 0, 2)]
    assert shape(plan(a_spec(2), situation, pausable=False)) == [("de-1", 0, 2)]


def test_moves_between_zones_and_names_them():
    situation = a_situation(hourly("DE", 100, 400, 400, 400), hourly("FR", 400, 100, 400, 400))
    found = plan(a_spec(2, 4), situation)
    assert shape(found) == [("de-1", 0, 1), ("fr-1", 1, 2)]
    assert [s.zone for s in found.segments] == ["DE", "FR"]


def test_data_residency_is_kept_whatever_it_costs():
    situation = a_situation(hourly("DE", *[400] * 8), hourly("FR", *[10] * 8))
    assert shape(plan(a_spec(), situation)) == [("fr-1", 0, 1)]
    assert shape(plan(a_spec(zones=("DE",)), situation)) == [("de-1", 0, 1)]
    nowhere = plan(a_spec(zones=("PL",)), situation)
    assert nowhere == NoPlan(
        Reason.MISCONFIGURED,
        "no node in PL is there with 1 CPUs, 0 GPUs, 0 GB memory; it starts when one joins",
    )


def test_a_node_that_draws_more_loses_the_job():
    series = hourly("DE", *[100] * 8), hourly("FR", *[90] * 8)
    same = [a_node("de-1", "DE"), a_node("fr-1", "FR")]
    assert shape(plan(None, a_situation(*series, nodes=same)))[0][0] == "fr-1"
    hungry = [a_node("de-1", "DE"), a_node("fr-1", "FR", watts=120)]
    assert shape(plan(None, a_situation(*series, nodes=hungry)))[0][0] == "de-1"
    hot = [a_node("de-1", "DE"), a_node("fr-1", "FR", pue=1.2)]
    assert shape(plan(None, a_situation(*series, nodes=hot)))[0][0] == "de-1"


def test_of_many_nodes_in_a_zone_the_frugal_one_and_never_a_full_one():
    nodes = [a_node(f"n{i}", "DE", watts=100 + i) for i in range(9)]
    situation = a_situation(hourly("DE", *[100] * 8), nodes=nodes[::-1])
    for i in range(9):
        found = plan(None, situation)
        assert shape(found) == [(f"n{i}", 0, 1)]
        situation.calendar.reserve(Segment(f"n{i}", "DE", T0, T0 + 8 * HOUR_S), Resources(1.0))
    assert shape(plan(None, situation)) == [("n8", 8, 9)]  # late


def test_not_before_and_after_a_failure_not_before_the_retry():
    assert shape(plan(a_spec(not_before_s=T0 + 2 * HOUR_S))) == [("de-1", 2, 3)]
    assert shape(plan(a_spec(policy="run-now", not_before_s=T0 + 600))) == [("de-1", 1 / 6, 7 / 6)]
    assert shape(plan(None, None, retry_at_s=T0 + 0.5 * HOUR_S)) == [("de-1", 0.5, 1.5)]


def test_constant_intensity_means_now_also_in_the_middle_of_a_slot():
    for minutes in (0, 1, 14.99):
        now_s = T0 + minutes * MINUTE_S
        found = plan(a_spec(1.1), a_situation(hourly("DE", *[300] * 24), now_s=now_s))
        assert shape(found) == [("de-1", pytest.approx(minutes / 60), pytest.approx(1.1 + minutes / 60))]


def test_what_is_left_of_a_slot_is_weighed_by_its_length():
    """One minute of this slot and fifteen of the next, or fifteen and one: by the grams of the minutes."""
    now_s = T0 + 14 * MINUTE_S
    for first, third, expected in [(900, 800, 0.25), (800, 900, 14 / 60), (900, 900, 14 / 60)]:
        values = [first, 100, third, *[2000] * 20]
        situation = a_situation(hourly("DE", *values, step_s=SLOT_S), now_s=now_s)
        for rule in ({}, no_suspension()):
            assert shape(plan(a_spec(16 / 60, 4, **rule), situation))[0][1] == pytest.approx(expected)
    # ten minutes of this slot and six of the next, or fifteen and one: 10 * 100 + 6 * 120 < 15 * 120 + 90
    now_s = T0 + 5 * MINUTE_S
    situation = a_situation(hourly("DE", 100, 120, 90, *[2000] * 20, step_s=SLOT_S), now_s=now_s)
    assert shape(plan(a_spec(16 / 60, 4, **no_suspension()), situation))[0][1] == pytest.approx(5 / 60)


# -- deadlines -------------------------------------------------------------------------------------------------------


def test_at_its_latest_start_it_runs_now_whatever_the_grid_says():
    situation = a_situation(hourly("DE", 900, 900, 1, 1))
    assert shape(plan(a_spec(2, 2), situation)) == [("de-1", 0, 2)]
    assert shape(plan(a_spec(2, 1.5), situation)) == [("de-1", 0, 2)]  # too late already: at least soon


def test_an_urgent_job_takes_the_earliest_place_and_of_these_the_cleanest():
    situation = a_situation(hourly("DE", *[400] * 9), hourly("FR", *[300] * 9), hourly("GB", *[10] * 9))
    situation.calendar.reserve(Segment("gb-1", "GB", T0, T0 + HOUR_S), Resources(1.0))
    assert shape(plan(a_spec(2, 2, **no_suspension()), situation)) == [("fr-1", 0, 2)]
    # with free moves it can even take the hour that comes
    assert shape(plan(a_spec(2, 2), situation)) == [("fr-1", 0, 1), ("gb-1", 1, 2)]


forecasts = st.lists(st.sampled_from([10.0, 50.0, 200.0, 210.0, 900.0]), min_size=30, max_size=30)


@settings(max_examples=150, deadline=None)
@given(
    de=forecasts,
    fr=forecasts,
    begin_min=st.sampled_from([0.0, 1.0, 7.5, 14.9]),
    work_min=st.floats(1, 300),
    slack_min=st.floats(0, 500),
    resume_min=st.sampled_from([0.0, 2.0, 15.0, 20.0]),
    min_run_min=st.sampled_from([0.0, 20.0]),
    has_checkpoint=st.booleans(),
    busy=st.lists(st.tuples(st.sampled_from(["de-1", "fr-1"]), st.integers(0, 30), st.integers(1, 6)), max_size=4),
)
@example(  # a start longer than what is left of the first slot
    de=[10.0] * 30,
    fr=[10.0] * 30,
    begin_min=14.9,
    work_min=26.0,
    slack_min=0.0,
    resume_min=20.0,
    min_run_min=0.0,
    has_checkpoint=True,
    busy=[("fr-1", 0, 1)],
)
def test_a_plan_gives_the_work_its_time_and_the_deadline_its_due(
    de, fr, begin_min, work_min, slack_min, resume_min, min_run_min, has_checkpoint, busy
):
    """Deadline held when a start at once would hold it; nobody else's slot used; the grams are the segments' grams."""
    now_s, resume_s = T0 + begin_min * MINUTE_S, resume_min * MINUTE_S
    run_s = work_min * MINUTE_S + (resume_s if has_checkpoint else 0.0)
    spec = replace(
        a_spec(work_min / 60),
        deadline_s=now_s + run_s + slack_min * MINUTE_S,
        suspend=SuspendRule(True, min_run_min * MINUTE_S, resume_s),
    )
    situation = a_situation(hourly("DE", *de), hourly("FR", *fr), now_s=now_s)
    for node, first, count in busy:
        start_s = T0 + first * SLOT_S
        situation.calendar.reserve(Segment(node, "", start_s, start_s + count * SLOT_S), Resources(0.1))
    job = a_job(spec, has_checkpoint=has_checkpoint)
    first = situation.calendar.slot_of(now_s)
    touched = math.ceil((now_s + run_s - first * SLOT_S) / SLOT_S - 1e-9)
    places = situation.fleet.places((), spec.demand)
    at_once = situation.calendar.fits(places, spec.demand, first, touched).all(axis=1).any()
    found = plan_job(job, situation, CONFIG)

    if not at_once and isinstance(found, NoPlan):
        return
    assert isinstance(found, Plan)
    if at_once:
        assert found.end_s <= spec.deadline_s + 1e-3
    ends = [s.end_s for s in found.segments]
    assert found.start_s >= now_s
    assert all(start.start_s >= end - 1e-6 for end, start in zip(ends, found.segments[1:], strict=False))
    resumes = len(found.segments) - (0 if has_checkpoint else 1)
    given_s = sum(s.end_s - s.start_s for s in found.segments)
    assert given_s == pytest.approx(work_min * MINUTE_S + resumes * resume_s, abs=1e-3)
    assert found.carbon_g == pytest.approx(grams_by_the_minute(found, {"DE": de, "FR": fr}), rel=1e-6)
    for segment in found.segments:
        situation.calendar.reserve(segment, spec.demand)
    held = np.concatenate([situation.calendar.held(name, int(T0 // SLOT_S), 400)[:, 0] for name in ("de-1", "fr-1")])
    assert held[held >= 1.0] == pytest.approx(1.0), "a slot of others is used"


def grams_by_the_minute(found, zones, watts=100.0, pue=1.0):
    """Independent of the planner: W x s x g/kWh, integrated hour by hour."""
    total_g = 0.0
    for segment in found.segments:
        for hour, value in enumerate(zones[segment.zone]):
            start_s, end_s = T0 + hour * HOUR_S, T0 + (hour + 1) * HOUR_S
            overlap_s = max(0.0, min(end_s, segment.end_s) - max(start_s, segment.start_s))
            total_g += watts * overlap_s / 3.6e6 * value * pue
    return total_g


@settings(max_examples=60, deadline=None)
@given(forecasts, st.floats(10, 300), st.floats(0, 300), st.floats(0, 300))
def test_more_slack_is_never_worse(values, work_min, slack_min, more_min):
    situation = a_situation(hourly("DE", *values))
    found = [
        plan(a_spec(work_min / 60, (work_min + slack) / 60), situation).carbon_g
        for slack in (slack_min, slack_min + more_min)
    ]
    assert found[1] <= found[0] * (1 + 1e-6)


def test_a_plan_is_the_same_each_time():
    rng = np.random.default_rng(1)
    series = [hourly(zone, *rng.uniform(50, 500, 48)) for zone in ("DE", "FR", "GB")]
    found = [plan(a_spec(5.3, 40), a_situation(*series, now_s=T0 + 1234.5)) for _ in range(2)]
    assert found[0] == found[1]
    assert len(found[0].segments) > 1


# -- what suspending costs -------------------------------------------------------------------------------------------


def test_a_resume_takes_its_time_and_its_grams():
    situation = a_situation(hourly("DE", 100, 400, 100, 400, 400))
    rule = SuspendRule(resume_cost_s=6 * MINUTE_S)
    found = plan(a_spec(1.5, 5, suspend=rule), situation)
    assert shape(found) == [("de-1", 0, 1), ("de-1", 2, pytest.approx(2.6))]
    assert found.carbon_g == pytest.approx(0.1 * 100 * 1.6)
    dear = SuspendRule(resume_cost_s=2 * HOUR_S)
    assert shape(plan(a_spec(1.5, 5, suspend=dear), situation)) == [("de-1", 0, 1.5)]


def test_a_minimum_run_is_kept():
    situation = a_situation(hourly("DE", *[400, 100] * 4))
    assert len(plan(a_spec(3), situation).segments) == 3
    found = shape(plan(a_spec(3, suspend=SuspendRule(min_run_s=2 * HOUR_S)), situation))
    assert all(end - start >= 2 for _, start, end in found[:-1])


@pytest.mark.parametrize("workers", [Workers(), Workers(1, 2, (1.0, 1.5))])
def test_a_pause_is_a_wait_as_well(workers):
    situation = a_situation(hourly("DE", 300, *[303] * 7, 300, *[303] * 3), nodes=[a_node(cpus=2.0)])
    spec = a_spec(2, 12, workers=workers, min_saving_pct=5)
    assert shape(plan(spec, situation)) == [("de-1", 0, 2)]
    assert shape(plan(replace(spec, min_saving_pct=0.1), situation))[-1][1:] == (8, 9)
    # nor does one that runs leave for less
    attempt = Attempt(1, "j-a1", "de-1", "DE", AttemptState.RUNNING, T0, started_s=T0)
    assert shape(plan_job(a_job(spec, attempts=(attempt,)), situation, CONFIG)) == [("de-1", 0, 2)]


def test_a_job_that_may_pause_could_start_in_what_is_free_though_nothing_is_free_for_long():
    situation = a_situation(hourly("DE", *[400] * 4, *[100] * 4, *[400] * 30))
    for number in range(16):
        start_s = T0 + (3 * number + 2) * SLOT_S
        situation.calendar.reserve(Segment("de-1", "DE", start_s, start_s + SLOT_S), Resources(1.0))
    assert plan(a_spec(1, 10), situation).could_start_s == T0
    assert plan(a_spec(1, 10, **no_suspension()), situation).could_start_s > T0 + 11 * HOUR_S


def test_a_saving_below_the_minimum_is_not_waited_for():
    situation = a_situation(hourly("DE", 100, 95, *[100] * 6))
    assert shape(plan(a_spec(1, min_saving_pct=5.1), situation)) == [("de-1", 0, 1)]
    assert shape(plan(a_spec(1, min_saving_pct=4.9), situation)) == [("de-1", 1, 2)]
    # where it cannot start at once there is nothing to compare with
    situation.calendar.reserve(Segment("de-1", "DE", T0, T0 + SLOT_S), Resources(1.0))
    assert shape(plan(a_spec(1, min_saving_pct=50), situation))[0][1] == 1


@pytest.mark.parametrize(
    ("hours", "workers", "saves_pct"),
    [
        (1, 1, 5.0),
        (6, 2, 3.39),  # one worker would be late
    ],
)
def test_an_elastic_job_does_not_wait_for_less_than_the_minimum_either(hours, workers, saves_pct):
    """After two hours it gets cleaner, for three: at once is an hour of these for two workers, and none for one."""
    situation = a_situation(hourly("DE", 100, 100, 95, 95, 95, *[500] * 20), nodes=[a_node(cpus=2.0)])
    spec = a_spec(hours, 5, workers=Workers(1, 2), **no_suspension())
    for saving_pct, start_h in [(saves_pct - 0.1, 2), (saves_pct + 0.1, 0)]:
        (part,) = plan(replace(spec, min_saving_pct=saving_pct), situation).segments
        assert (part.start_s - T0) / HOUR_S == start_h
        assert part.workers == workers


def test_above_the_greatest_intensity_it_runs_only_when_the_deadline_leaves_no_choice():
    situation = a_situation(hourly("DE", 260, 300, 240, 300, 300, 240, 300, 300))
    limited = a_spec(1.5, 8, max_intensity=250)
    assert shape(plan(limited, situation)) == [("de-1", 2, 3), ("de-1", 5, 5.5)]
    found = plan(a_spec(3, 8, max_intensity=250), situation)  # two hours are below the limit: the least carbon then
    assert shape(found) == [("de-1", 0, 1), ("de-1", 2, 3), ("de-1", 5, 6)]
    assert found.carbon_g == pytest.approx(0.1 * (260 + 240 + 240))
    urgent = plan(a_spec(1, 1, max_intensity=250), situation)
    assert shape(urgent) == [("de-1", 0, 1)]
    assert urgent.carbon_g == pytest.approx(26)


# -- missing signals: a job is never blocked --------------------------------------------------------------------------


@pytest.mark.parametrize("zone_series", [[], [hourly("DE", 100, start_s=T0 - HOUR_S)], [hourly("DE", 1, 1, 1)]])
def test_without_a_forecast_that_reaches_far_enough_it_runs_now(zone_series):
    situation = a_situation(*zone_series, nodes=[a_node("fr-1", "FR"), a_node("de-1", "DE")])
    found = plan(a_spec(5, 8), situation)
    assert shape(found) == [("de-1", 0, 5)]  # at home
    assert found.carbon_g is None
    assert found.run_now_g is None


def test_zones_without_a_forecast_are_left_out_as_long_as_another_can_take_the_job():
    nodes = [a_node("fr-1", "FR"), a_node("de-1", "DE")]
    situation = a_situation(hourly("DE", 300, 300, 100, 300, 300, 300, 300, 300), nodes=nodes)
    assert shape(plan(a_spec(), situation)) == [("de-1", 2, 3)]
    situation.calendar.reserve(Segment("de-1", "DE", T0, T0 + 8 * HOUR_S), Resources(1.0))
    found = plan(a_spec(), situation)
    assert shape(found) == [("fr-1", 0, 1)]
    assert found.carbon_g is None


def test_a_forecast_that_has_ended_does_not_stop_the_planning_of_others():
    situation = a_situation(hourly("DE", 300, 300, 100, 300), hourly("FR", 5, start_s=T0 - 9 * HOUR_S))
    assert shape(plan(a_spec(1, 4), situation)) == [("de-1", 2, 3)]


def test_a_forecast_that_ends_before_the_deadline_is_planned_with_as_far_as_it_goes():
    situation = a_situation(hourly("DE", 300, 200, 250), hourly("FR", 400, 400, 400, 150))
    assert shape(plan(a_spec(1, 3), situation)) == [("de-1", 1, 2)]
    assert shape(plan(a_spec(1, 90), situation)) == [("fr-1", 3, 4)]
    half = a_situation(hourly("DE", 300, 200, 250), now_s=T0 + 1.5 * HOUR_S)
    assert shape(plan(a_spec(1, 90), half)) == [("de-1", 1.5, 2.5)]


def test_a_forecast_that_begins_this_very_moment_is_used():
    now_s = T0 + 123.0
    situation = a_situation(hourly("DE", 300, 100, 300, start_s=now_s), now_s=now_s)
    assert plan(a_spec(0.5, 2), situation).carbon_g == pytest.approx(0.05 * 100)


def test_signals_of_different_kinds_are_not_planned_together():
    marginal = hourly("FR", *[1] * 8, kind=SignalKind.MARGINAL)
    with pytest.raises(MixedKindsError, match=r"DE is average-lifecycle .* and FR is marginal"):
        a_situation(hourly("DE", *[300] * 8), marginal)


# -- capacity --------------------------------------------------------------------------------------------------------


def test_full_nodes_mean_waiting_for_capacity_with_what_is_needed():
    situation = a_situation(hourly("DE", *[300] * 24))
    situation.calendar.reserve(Segment("de-1", "DE", T0, T0 + 95 * HOUR_S), Resources(0.5))
    assert plan(a_spec(1.5), situation) == NoPlan(
        Reason.DEADLINE_INFEASIBLE,
        "needs 1 CPUs, 0 GPUs, 0 GB memory for 1 h 30 min; every allowed node is promised or in use "
        "as far as it is planned ahead (96 h), so it starts when one becomes free, and that is after its deadline by "
        "what is known",
    )
    assert shape(plan(a_spec(demand=Resources(0.5)), situation)) == [("de-1", 0, 1)]
    taken = a_situation(hourly("DE", *[300] * 24), foreign={"de-1": Resources(0.5)})
    assert isinstance(plan(a_spec(), taken), NoPlan)


PIECES = [(0.5, 3), (3.5, 6), (6.5, 20)]


@pytest.mark.parametrize("now_h", [0.0, 10.0])
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [(3, 3.5), (6, 6.5)]),
        (no_suspension(), [(20, 21)]),
        ({"policy": "run-now"}, [(20, 21)]),
        ({"suspend": SuspendRule(True, 3600.0)}, [(20, 21)]),
        ({"suspend": SuspendRule(True, 0.0, 900.0)}, [(3, 3.5), (6, 6.5), (20, 20.5)]),
        ({"workers": Workers(1, 2)}, [(3, 3.5)]),
    ],
)
def test_a_job_for_which_nothing_is_free_in_time_has_the_earliest_end_whatever_the_grid_says(now_h, changes, expected):
    """Free are the halves of an hour at 0:00, 3:00 and 6:00, all of them after its deadline but the first."""
    situation = a_situation(
        hourly("DE", *[300] * 20, *[10] * 20, start_s=T0 + now_h * HOUR_S),
        nodes=[a_node("de-1", cpus=2.0)],
        now_s=T0 + (now_h + 1) * HOUR_S,
    )
    for begin_h, end_h in PIECES:
        busy = Segment("de-1", "DE", T0 + (now_h + begin_h) * HOUR_S, T0 + (now_h + end_h) * HOUR_S)
        situation.calendar.reserve(busy, Resources(2.0))
    found = plan_job(a_job(a_spec(1, now_h + 2, **changes)), situation, CONFIG)
    assert [(start - now_h, pytest.approx(end - now_h)) for _, start, end in shape(found)] == expected


def test_it_starts_no_run_that_reaches_into_a_slot_of_others():
    """A run that starts in the middle of a slot ends in the middle of one, too."""
    now_s = T0 + 14 * MINUTE_S
    situation = a_situation(hourly("DE", *[300] * 24), now_s=now_s)
    situation.calendar.reserve(Segment("de-1", "DE", T0 + SLOT_S, T0 + 2 * SLOT_S), Resources(1.0))
    suspendable = a_spec(0.25, suspend=SuspendRule(resume_cost_s=10.0))
    for spec in (suspendable, a_spec(0.25, policy="run-now"), a_spec(0.25, **no_suspension())):
        assert shape(plan(spec, situation)) == [("de-1", 0.5, 0.75)]


def test_when_it_could_have_started_is_kept_with_the_plan():
    situation = a_situation(hourly("DE", 300, 300, 300, 100, 300, 300, 300, 300))
    assert plan(None, situation).could_start_s == T0
    situation.calendar.reserve(Segment("de-1", "DE", T0, T0 + HOUR_S), Resources(1.0))
    found = plan(None, situation)
    assert (found.start_s, found.could_start_s) == (T0 + 3 * HOUR_S, T0 + HOUR_S)


# -- the counterfactual ----------------------------------------------------------------------------------------------


def test_run_now_goes_to_the_home_zone_first_then_anywhere():
    series = hourly("FR", *[1] * 24), hourly("DE", *[300] * 24)
    situation = a_situation(*series)
    assert shape(plan(a_spec(policy="run-now"), situation)) == [("de-1", 0, 1)]
    situation.calendar.reserve(Segment("de-1", "DE", T0, T0 + SLOT_S), Resources(1.0))
    assert shape(plan(a_spec(policy="run-now"), situation)) == [("fr-1", 0, 1)]


def test_the_grams_of_running_now_are_those_of_the_home_zone():
    situation = a_situation(hourly("DE", 300, 200, *[100] * 6), hourly("FR", *[10] * 8))
    found = plan(a_spec(1.5), situation)
    assert found.run_now_g == pytest.approx(0.1 * (300 + 0.5 * 200))
    assert found.carbon_g == pytest.approx(0.1 * 1.5 * 10)


def test_what_is_over_of_a_plan_is_not_counted_again():
    situation = a_situation(hourly("DE", 300, 200, 100), now_s=T0 + 0.5 * HOUR_S)
    segments = [Segment("de-1", "DE", T0 - HOUR_S, T0), Segment("de-1", "DE", T0, T0 + HOUR_S)]
    assert situation.plan_g(segments, a_spec())[0] == pytest.approx(0.1 * 0.5 * 300)
    assert situation.plan_g([Segment("gone", "DE", T0, T0 + HOUR_S)], a_spec())[0] is None
    assert situation.plan_g([Segment("de-1", "DE", T0, T0 + 4 * HOUR_S)], a_spec())[0] is None


@pytest.mark.parametrize("allow", [True, False])
def test_the_last_slot_before_the_deadline_counts_as_far_as_it_goes(allow):
    """The clean hour begins 10 min before the deadline: a job of 6 min fits in there, one of 11 min does not."""
    for minutes, start_h in ((6, 3.0), (11, 0.0)):
        spec = a_spec(hours=minutes / 60, deadline_h=3 + 1 / 6, suspend=SuspendRule(allow=allow, min_run_s=HOUR_S))
        found = plan_job(a_job(spec), a_situation(hourly("DE", 300, 300, 300, 100)), CONFIG)
        assert found.start_s == T0 + start_h * HOUR_S
        assert found.end_s <= spec.deadline_s
