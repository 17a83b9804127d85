"""Plans of jobs whose length was told, where such lengths have turned out to be wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planning_cases import CONFIG, HOUR_S, T0, a_job, a_node, a_situation, a_spec, hourly, no_suspension, shape

from eco_ray.core.cluster import Resources
from eco_ray.core.durations import Durations
from eco_ray.core.jobs import Segment, SuspendRule
from eco_ray.core.market import Cleared
from eco_ray.core.planner import plan_job

#: an hour that is hardly cleaner than those before it, then dirty ones
EDGE = hourly("DE", 110, 110, 110, 100, *[900] * 20)


def taught(told_h, took_h, times=27):
    """27 lengths that were wrong, and three jobs' worth of trust: a doubt of 0.9."""
    durations = Durations(HOUR_S)
    for number in range(times):
        spec = a_spec(told_h, name=f"job-{number}")
        durations.succeeded(a_job(spec, productive_s=took_h * HOUR_S))
    return durations


def plan(spec, situation, **changes):
    return plan_job(a_job(spec, **changes), situation, CONFIG)


@pytest.mark.parametrize("suspend", [SuspendRule(), SuspendRule(True, 60.0, 10.0)])
def test_in_doubt_it_runs_where_running_on_is_clean(suspend):
    sure, doubtful = (a_situation(EDGE, durations=taught(1, took_h)) for took_h in (1.2, 1.3))
    spec = a_spec(1, suspend=suspend)
    assert shape(plan(spec, sure)) == [("de-1", 3, 4)]
    assert shape(plan(spec, doubtful)) == [("de-1", 0, 1)]
    assert shape(plan(spec, doubtful, progress=0.0)) == [("de-1", 3, 4)]  # it will say how far it is
    no_pauses = replace(spec, **no_suspension())
    assert shape(plan(no_pauses, doubtful)) == [("de-1", 3, 4)]


def test_in_doubt_the_first_work_gets_the_cleanest_hour():
    """Four hours of which the later ones are less likely needed: not 1, 2, 1, 2 but the dear ones last."""
    series = hourly("DE", 200, 300, 100, 100, 200, *[250] * 30)
    assert shape(plan(a_spec(3), a_situation(series))) == [("de-1", 0, 1), ("de-1", 2, 4)]
    assert shape(plan(a_spec(3), a_situation(series, durations=taught(1, 9)))) == [("de-1", 2, 5)]


def test_a_length_that_is_assumed_and_one_that_earlier_runs_had_are_other_lengths():
    series, unknown = EDGE, a_spec(None)
    told = a_situation(EDGE, durations=taught(1, 9))
    assumed = a_situation(EDGE, durations=taught(None, 9))
    assert shape(plan(unknown, assumed)) == [("de-1", 0, 1)]
    assert shape(plan(a_spec(1), assumed)) == [("de-1", 3, 4)]
    assert shape(plan(unknown, told)) == [("de-1", 3, 4)]
    for situation in (told, assumed):
        situation.durations.succeeded(a_job(unknown, productive_s=HOUR_S))
        found = plan(unknown, a_situation(series, durations=situation.durations))
        assert found.length_from.startswith("80% of its 1 earlier runs")
        assert shape(found) == [("de-1", 3, 4)]


def test_in_doubt_it_keeps_to_what_the_market_meant_for_it():
    edges_s = T0 + np.arange(25) * HOUR_S
    share_s = np.zeros((1, 24))
    share_s[0, 3] = HOUR_S
    market = Cleared(edges_s, np.zeros((1, 24, 4)), {"j": share_s})
    situation = a_situation(EDGE, durations=taught(1, 9))
    assert shape(plan(a_spec(1), situation)) == [("de-1", 0, 1)]
    assert shape(plan(a_spec(1), replace(situation, market=market))) == [("de-1", 3, 4)]


def test_in_doubt_what_it_keeps_clear_of_is_not_what_others_take_from_it():
    """Another job has dirty hours that nobody wants: there is nothing to be had from it."""
    situation = a_situation(EDGE, durations=taught(1, 9))
    situation.calendar.reserve(Segment("de-1", "DE", T0 + 6 * HOUR_S, T0 + 7 * HOUR_S), Resources(1.0))
    found = plan(a_spec(1), situation)
    assert shape(found) == [("de-1", 0, 1)]
    assert found.regret == pytest.approx(0.0, abs=1e-9)
    situation.calendar.reserve(Segment("de-1", "DE", T0, T0 + 3 * HOUR_S), Resources(1.0))
    assert plan(a_spec(1, 9), situation).regret == 0.0  # the cleanest hour, if not the wisest


@pytest.mark.parametrize(("wake_wh", "sure", "doubtful"), [(140, [0, 2], [0, 2]), (180, [0, 2], [0]), (210, [0], [0])])
def test_in_doubt_waking_a_node_again_is_as_likely_as_the_work_that_needs_it(wake_wh, sure, doubtful):
    """A pause in the dirty hour saves 20 g for a Wh x 0.1 g; in doubt about 11 g, for 65 % of that."""
    nodes = [replace(a_node(), sleeps=True, wake_j=wake_wh * 3600.0)]
    series = hourly("DE", 100, 300, *[100] * 30)
    for durations, starts in [(Durations(HOUR_S), sure), (taught(2, 9), doubtful)]:
        found = plan(a_spec(2, 3), a_situation(series, nodes=nodes, durations=durations))
        assert [start for _, start, _ in shape(found)] == starts
