"""Elastic jobs: more workers where they save, and clearly save where others want the place."""

from __future__ import annotations

import numpy as np
import pytest
from planning_cases import CONFIG, HOUR_S, SLOT_S, T0, a_job, a_node, a_situation, a_spec, hourly, no_suspension, shape

from eco_ray.core.cluster import KINDS
from eco_ray.core.durations import Length
from eco_ray.core.elastic import elastic_segments
from eco_ray.core.jobs import Segment, Workers
from eco_ray.core.market import Cleared
from eco_ray.core.planner import plan_job
from eco_ray.core.task import Task

#: two workers are 1.6 times as fast as one
SCALES = Workers(1, 2, (1.0, 1.6))
DE = hourly("DE", 300, 100, *[300] * 22)


def spec(hours=2.0, deadline_h=8.0, workers=SCALES, **changes):
    return a_spec(hours, deadline_h, workers=workers, **no_suspension(), **changes)


def alone(cpus=4.0, **changes):
    return a_situation(DE, nodes=[a_node(cpus=cpus, watts=100 * cpus)], **changes)


def others(situation, cpus, start_h, end_h):
    segment = Segment("de-1", "DE", T0 + start_h * HOUR_S, T0 + end_h * HOUR_S)
    situation.calendar.reserve(segment, a_spec().demand * cpus)


def chosen(found):
    return shape(found), {segment.workers for segment in found.segments}


def test_alone_it_takes_more_workers_for_any_saving():
    """Two for 1.25 h have 2 x (75 + 100) instead of 300 + 100."""
    assert chosen(plan_job(a_job(spec()), alone(), CONFIG)) == ([("de-1", 0.75, 2)], {2})


@pytest.mark.parametrize(("cpus", "expected"), [(0, {2}), (1, {2}), (2, {1})])
def test_among_others_it_has_to_save_more(cpus, expected):
    """It saves 12.5 %. Where others hold a quarter of 8 CPUs that is not enough, where they hold an eighth it is."""
    situation = alone(cpus=8.0)
    others(situation, cpus, 0, 24)
    assert chosen(plan_job(a_job(spec()), situation, CONFIG))[1] == expected


def test_others_count_only_where_it_would_run():
    situation = alone()
    others(situation, 2, 3, 24)
    assert chosen(plan_job(a_job(spec()), situation, CONFIG)) == ([("de-1", 0.75, 2)], {2})


def test_what_is_not_in_time_on_the_least_workers_has_more_whatever_others_hold():
    situation = alone()
    others(situation, 2, 0, 24)
    assert chosen(plan_job(a_job(spec(2, 1.5)), situation, CONFIG)) == ([("de-1", 0.25, 1.5)], {2})


@pytest.mark.parametrize("mine", [False, True])
def test_a_share_of_the_market_is_not_for_any_number_of_workers(mine):
    """The clean hour is worth 250 g/kWh to others: 2 x (350 + 75) at its price are more than 350 + 300."""
    price_g = np.zeros((1, 24, KINDS))
    price_g[0, 1, 0] = 250 * 50 / 3.6e6 / 0.9  # a CPU adds 50 W, and 90 % of a price count
    share_s = np.zeros((1, 24))
    share_s[0, 1] = HOUR_S
    market = Cleared(T0 + np.arange(25) * HOUR_S, price_g, {"j": share_s} if mine else {})
    found = plan_job(a_job(spec()), alone(market=market), CONFIG)
    assert {segment.workers for segment in found.segments} == {1}


def test_hundreds_of_workers():
    """Levels are counted in 8 bits: not more than 128 workers here, but those where they are best."""
    situation = alone(cpus=300.0)
    found = plan_job(a_job(spec(100, 8, Workers(1, 250))), situation, CONFIG)
    assert chosen(found) == ([("de-1", 1, 2)], {100})
    assert {one.workers for one in plan_job(a_job(spec(300, 8, Workers(1, 250))), situation, CONFIG).segments} == {128}


def test_what_a_closer_look_found_comes_back_where_more_workers_do_not_pay():
    """Whatever that cost: it may know more. What is not in time does not."""
    task = Task(
        a_job(spec()),
        alone().fleet.places((), a_spec().demand),
        1,
        a_spec().demand,
        Length(2 * HOUR_S, ""),
        2 * HOUR_S,
        T0,
        int(T0 // SLOT_S),
        SLOT_S,
        None,
        0.0,
    )
    narrow, late = ((Segment("de-1", "DE", T0 + start_h * HOUR_S, T0 + (start_h + 2) * HOUR_S),) for start_h in (5, 7))
    cost_g = np.full((1, 32), 1.0)
    at_once = (Segment("de-1", "DE", T0, T0 + 2 * HOUR_S),)
    assert elastic_segments(task, alone(), cost_g, narrow) == narrow
    assert elastic_segments(task, alone(), cost_g, late) == at_once
    assert elastic_segments(task, alone(), cost_g) == at_once
    cost_g[0, 4:9] = 0.1  # two workers pay
    assert {one.workers for one in elastic_segments(task, alone(), cost_g, narrow)} == {2}
