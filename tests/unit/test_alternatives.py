"""The runners-up beside a plan, worked out by hand on two zones."""

from __future__ import annotations

import pytest
from planning_cases import CONFIG, a_job, a_situation, a_spec, hourly, no_suspension, shape

from eco_ray.core.alternatives import alternatives
from eco_ray.core.planner import plan_job

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
    _, found = plans(hourly("DE", 100, 300, 300), spec=a_spec(hours=2, deadline_h=2.5, **no_suspension()))
    assert found == {}
