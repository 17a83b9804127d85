"""The runners-up beside a plan, worked out by hand on two zones."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planning_cases import CONFIG, HOUR_S, T0, a_job, a_node, a_situation, a_spec, hourly, no_suspension, shape

from eco_ray.core.alternatives import Alternative, alternatives, ordered_alike, remedies, runner_up
from eco_ray.core.jobs import Attempt, AttemptState, Plan, Reason, Segment, Workers
from eco_ray.core.planner import plan_job
from eco_ray.core.situation import NoPlan

#: W: 0.1 kW for an hour at 100 g/kWh is 10 g
DE = hourly("DE", 300, 300, 100, 200, 300, 300, 300, 300)
FR = hourly("FR", 250, 250, 250, 150, 250, 250, 250, 250)


def plans(*series, spec=None, home="DE"):
    job, situation = a_job(spec or a_spec(hours=1, **no_suspension())), a_situation(*series, home=home)
    chosen = plan_job(job, situation, CONFIG)
    found = alternatives(job, chosen, situation, CONFIG)
    return chosen, {one.what: (shape(one.plan), one.more_g(chosen)) for one in found}


def test_now_elsewhere_and_later_with_their_grams():
    chosen, found = plans(DE, FR)
    assert (shape(chosen), chosen.carbon_g) == ([("de-1", 2, 3)], pytest.approx(10))
    assert found["now"] == ([("fr-1", 0, 1)], pytest.approx(15))  # 25 g: the cleaner of the two at once
    assert found["elsewhere"] == ([("fr-1", 3, 4)], pytest.approx(5))
    assert set(found) == {"now", "elsewhere"}  # the best later plan is the one elsewhere, told once


def test_later_is_at_least_an_hour_after_the_plan():
    _, found = plans(DE)
    assert found["later"] == ([("de-1", 3, 4)], pytest.approx(10))


def test_in_one_piece_where_the_plan_pauses():
    chosen, found = plans(hourly("DE", 100, 300, 100, 300, 300), spec=a_spec(hours=2, deadline_h=5))
    assert shape(chosen) == [("de-1", 0, 1), ("de-1", 2, 3)]
    assert found["in one piece"] == ([("de-1", 0, 2)], pytest.approx(20))
    assert "now" not in found  # it starts now anyway


def test_nothing_else_is_possible_for_a_job_without_slack():
    _, found = plans(DE, spec=a_spec(hours=1, deadline_h=1))
    assert found == {}


def test_a_late_plan_is_no_alternative():
    _, found = plans(hourly("DE", 100, 300, 300), spec=a_spec(hours=2, deadline_h=2.2, **no_suspension()))
    assert found == {}


def test_where_an_hour_later_is_too_late_a_slot_later_is_the_alternative():
    _, found = plans(hourly("DE", 100, 300, 300), spec=a_spec(hours=2, deadline_h=2.5, **no_suspension()))
    assert [start for _, start, _ in found["later"][0]] == [0.25]


def test_now_is_at_once_even_where_a_quarter_of_an_hour_would_be_cleaner():
    series = hourly("DE", *[300, 200, *[100] * 6])
    job, situation = a_job(a_spec(hours=1, **no_suspension())), a_situation(series, now_s=T0 + 0.9 * HOUR_S)
    found = alternatives(job, plan_job(job, situation, CONFIG), situation, CONFIG)
    assert found[0].what == "now"
    assert shape(found[0].plan) == [("de-1", pytest.approx(0.9), pytest.approx(1.9))]


# -- elastic jobs: workers of one CPU on a node of four and 100 W: one worker has 25 W ---------------------------------

LESS_AND_LESS = Workers(1, 4, (1.0, 1.8, 2.4, 2.8))


def elastic(workers, *series, hours=4.0, deadline_h=8.0, **changes):
    job = a_job(a_spec(hours, deadline_h, workers=workers, **changes))
    situation = a_situation(*series, nodes=[a_node("de-1", "DE", cpus=4.0)])
    chosen = plan_job(job, situation, CONFIG)
    return chosen, {one.what: one for one in alternatives(job, chosen, situation, CONFIG)}


def workers_of(plan):
    return {segment.workers for segment in plan.segments}


def work_s(plan, workers):
    return sum((s.end_s - s.start_s) * workers.speed(s.workers) for s in plan.segments)


def test_more_workers_have_at_least_one_more_than_the_plan_ever_uses():
    chosen, found = elastic(LESS_AND_LESS, hourly("DE", *[100] * 12))
    assert workers_of(chosen) == {1}  # each further one does less for its watts
    more = found["more workers"]
    assert min(workers_of(more.plan)) >= 2
    assert work_s(more.plan, LESS_AND_LESS) == pytest.approx(4 * HOUR_S)  # the same work
    # two workers take 1 / 1.8 of the time at twice the power: 10 g become 11.11 g
    assert more.more_g(chosen) == pytest.approx(10 * (2 / 1.8 - 1))
    assert "fewer workers" not in found


def test_fewer_workers_are_exactly_the_least():
    clean = hourly("DE", 300, 50, 50, 300, 300, 300, 300, 300)
    chosen, found = elastic(LESS_AND_LESS, clean)
    assert max(workers_of(chosen)) > 1
    fewer = found["fewer workers"]
    assert workers_of(fewer.plan) == {1}
    assert work_s(fewer.plan, LESS_AND_LESS) == pytest.approx(4 * HOUR_S)
    assert fewer.more_g(chosen) > 0


def test_with_as_many_workers_as_it_may_have_there_is_no_more():
    chosen, found = elastic(Workers(2, 4, (1.0, 1.5, 2.0)), hourly("DE", 300, 50, 300, 300), hours=2, deadline_h=3)
    assert max(workers_of(chosen)) == 4
    assert "more workers" not in found
    assert workers_of(found["fewer workers"].plan) == {2}


def test_more_workers_than_any_node_has_room_for_are_left_out():
    chosen, found = elastic(Workers(4, 8, (1.0, 1.1, 1.2, 1.3, 1.4)), hourly("DE", *[100] * 12))
    assert workers_of(chosen) == {4}
    assert not {"more workers", "fewer workers"} & set(found)


def test_a_length_that_progress_shows_is_the_same_work_with_more_workers():
    job = a_job(a_spec(4.0, workers=LESS_AND_LESS), productive_s=HOUR_S, progress=0.5, has_checkpoint=True)
    situation = a_situation(hourly("DE", *[100] * 12), nodes=[a_node("de-1", "DE", cpus=4.0)])
    chosen = plan_job(job, situation, CONFIG)
    assert work_s(chosen, LESS_AND_LESS) == pytest.approx(HOUR_S)  # half is done, in an hour
    more = {one.what: one.plan for one in alternatives(job, chosen, situation, CONFIG)}["more workers"]
    assert work_s(more, LESS_AND_LESS) == pytest.approx(HOUR_S)


def test_a_running_job_has_the_workers_that_it_has():
    attempt = Attempt(1, "j-a1", "de-1", "DE", AttemptState.RUNNING, T0, started_s=T0)
    job = a_job(a_spec(4.0, workers=LESS_AND_LESS), attempts=(attempt,))
    situation = a_situation(hourly("DE", *[100] * 12), nodes=[a_node("de-1", "DE", cpus=4.0)])
    found = alternatives(job, plan_job(job, situation, CONFIG), situation, CONFIG)
    assert not {"more workers", "fewer workers"} & {one.what for one in found}


# -- by what they are compared -----------------------------------------------------------------------------------------


def a_plan(carbon_g, added_g):
    return Plan((Segment("de-1", "DE", T0, T0 + HOUR_S),), carbon_g, 30.0, T0, added_g=added_g)


@pytest.mark.parametrize(
    ("rivals", "first"),
    [
        ([(12.0, 9.0), (15.0, 8.0)], 1),  # what it adds decides, where it is known
        ([(12.0, None), (11.0, None)], 1),
        ([(None, None), (15.0, 8.0)], 1),  # unknown grams come last
        ([(None, None), (None, None)], 0),
    ],
)
def test_the_runner_up_is_behind_by_the_least(rivals, first):
    others = [Alternative("later", a_plan(*grams)) for grams in rivals]
    assert runner_up(a_plan(10.0, 5.0), others) is others[first]
    assert runner_up(a_plan(10.0, 5.0), []) is None


@pytest.mark.parametrize(
    ("rival", "alike"),
    [((12.0, 9.0), True), ((8.0, 9.0), False), ((8.0, None), True), ((10.0, 9.0), True), ((10.001, 4.9), True)],
)
def test_whether_both_figures_put_plans_in_the_same_order(rival, alike):
    assert ordered_alike(a_plan(10.0, 5.0), [Alternative("later", a_plan(*rival))]) is alike


# -- what would give a job a plan --------------------------------------------------------------------------------------


def ways(spec, *series):
    job, situation = a_job(spec), a_situation(*series)
    why = plan_job(job, situation, CONFIG)
    assert isinstance(why, NoPlan)
    return why.reason, {one.what: (shape(one.plan), one.plan.carbon_g) for one in remedies(job, why, situation, CONFIG)}


def test_above_its_budget_a_larger_one_other_zones_or_a_later_deadline_would_help():
    clean_tomorrow = hourly("DE", *[300] * 10, *[40] * 26)
    spec = a_spec(1, 4, budget_g=8.0, zones=("DE",), **no_suspension())
    reason, found = ways(spec, clean_tomorrow, hourly("FR", *[60] * 36))
    assert reason is Reason.EXCEEDS_BUDGET
    assert found == {
        "a larger budget": ([("de-1", 0, 1)], pytest.approx(30)),
        "every zone": ([("fr-1", 0, 1)], pytest.approx(6)),
        "a deadline a day later": ([("de-1", 10, 11)], pytest.approx(4)),
    }


def test_what_keeps_the_budget_only_because_nobody_knows_is_no_help():
    spec = a_spec(1, 4, budget_g=8.0, zones=("DE",), **no_suspension())
    _, found = ways(spec, hourly("DE", *[300] * 36), replace(hourly("FR", 60.0), start_s=T0 + 100 * HOUR_S))
    assert set(found) == {"a larger budget"}


def test_a_full_cluster_has_room_elsewhere_and_tomorrow():
    job, situation = (
        a_job(a_spec(1, 4, zones=("DE",))),
        a_situation(hourly("DE", *[300] * 36), hourly("FR", *[60] * 36)),
    )
    situation.calendar.reserve(Segment("de-1", "DE", T0, T0 + 6 * HOUR_S), job.spec.demand)
    why = plan_job(job, situation, CONFIG)
    assert shape(why) == [("de-1", 6, 7)]  # late
    found = {one.what: shape(one.plan)[0][0] for one in remedies(job, why, situation, CONFIG)}
    assert found == {"every zone": "fr-1", "a deadline a day later": "de-1"}
