"""Jobs that run in one piece share out hours that are equally clean, instead of starting all at the same moment."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orchestrator_world import World
from planning_cases import CONFIG, HOUR_S, SLOT_S, T0, a_job, a_node, a_situation, a_spec, hourly, no_suspension, shape

from eco_ray.core.calendar import Calendar
from eco_ray.core.cluster import Resources
from eco_ray.core.jobs import Plan, Segment
from eco_ray.core.planner import plan_job
from eco_ray.core.power import PowerCurve
from eco_ray.core.spread import Choice, Stretch, shifts

ONE = Resources(1.0)
BIG = [a_node("de-1", cpus=8.0, watts=800.0)]
#: four hours are clean
PLATEAU = hourly("DE", 300, 300, *[100] * 4, *[300] * 6)


def in_one_piece(hours=1.0, deadline_h=10.0, **changes):
    return a_spec(hours, deadline_h, **no_suspension(**changes))


def planned(count, situation, spec=None):
    """Plans of so many like jobs, one after the other, each of which holds its place."""
    plans = []
    for _ in range(count):
        found = plan_job(a_job(spec or in_one_piece()), situation, CONFIG)
        assert isinstance(found, Plan), found
        situation.calendar.reserve(found.segments[0], (spec or in_one_piece()).demand)
        plans.append(found)
    return plans


def starts_h(plans):
    return [(found.start_s - T0) / HOUR_S for found in plans]


def running_at_once(plans):
    """The most jobs that run in one slot."""
    slots = np.arange(0, 24, 0.25) * HOUR_S + T0
    return max(sum(found.start_s <= slot_s < found.end_s for found in plans) for slot_s in slots)


# -- over the plateau --------------------------------------------------------------------------------------------------


def test_jobs_start_one_after_the_other_while_it_is_clean():
    assert starts_h(planned(4, a_situation(PLATEAU, nodes=BIG))) == [2, 3, 4, 5]


@pytest.mark.parametrize(("jobs", "at_once"), [(4, 1), (8, 2), (12, 3), (32, 8)])
def test_as_few_as_possible_run_at_once(jobs, at_once):
    plans = planned(jobs, a_situation(PLATEAU, nodes=BIG))
    assert running_at_once(plans) == at_once
    assert {found.added_g for found in plans} == {plans[0].added_g}


def test_short_jobs_fill_every_slot_of_it():
    plans = planned(16, a_situation(PLATEAU, nodes=BIG), in_one_piece(0.25))
    assert sorted(starts_h(plans)) == [2 + i / 4 for i in range(16)]
    assert running_at_once(plans) == 1


def test_a_job_as_long_as_the_plateau_has_no_choice():
    assert starts_h(planned(3, a_situation(PLATEAU, nodes=BIG), in_one_piece(4))) == [2, 2, 2]


def test_wide_jobs_count_for_more_than_narrow_ones():
    situation = a_situation(PLATEAU, nodes=BIG)
    wide = planned(1, situation, in_one_piece(demand=Resources(4.0)))
    narrow = planned(8, situation)
    assert starts_h(wide) == [2]
    assert sorted(starts_h(narrow)) == [3, 3, 3, 4, 4, 4, 5, 5]


def test_two_plateaus_are_one():
    series = hourly("DE", 300, 100, 300, 300, 100, 300, 300, 100, 300, 300)
    assert starts_h(planned(4, a_situation(series, nodes=BIG))) == [1, 4, 7, 1]


def test_through_the_orchestrator_as_well():
    world = World(PLATEAU, nodes={"de-1": BIG[0]})
    for i in range(4):
        world.submit(f"j{i}", hours=1, deadline_h=10, **no_suspension())
    assert sorted(starts_h([world.job(f"j{i}").plan for i in range(4)])) == [2, 3, 4, 5]
    for _ in range(7):  # an hour may be given back and taken again, but nobody loses by it
        world.tick(hours=0.25)
    plans = [world.job(f"j{i}").plan for i in range(4)]
    assert running_at_once(plans) == 1
    assert {found.added_g for found in plans} == {15.0 / 3}


# -- never at a price --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[300] * 12, [100, 100, 100, 300, 300, 100, 100, 300, 300, 300, 300, 300]])
def test_nobody_waits_when_now_is_as_clean(values):
    plans = planned(8, a_situation(hourly("DE", *values), nodes=BIG))
    assert starts_h(plans) == [0] * 8


def test_nobody_waits_in_the_middle_of_a_slot():
    now_s = T0 + 400.0
    plans = planned(3, a_situation(hourly("DE", *[300] * 12), nodes=BIG, now_s=now_s))
    assert [found.start_s for found in plans] == [now_s] * 3


def test_in_the_middle_of_a_slot_the_cleanest_window_is_found_all_the_same():
    """To begin now takes a part of three slots; later, two are enough."""
    values = [50, 100, 900, 900, 50, 200, 900, 900, 200, 300, 200, *[900] * 13]
    situation = a_situation(hourly("DE", *values, step_s=SLOT_S), now_s=T0 + SLOT_S / 2)
    assert shape(plan_job(a_job(in_one_piece(0.5, 5)), situation, CONFIG)) == [("de-1", 1, 1.5)]


def test_when_now_is_full_the_next_ones_wait_and_share_out_the_rest():
    situation = a_situation(hourly("DE", *[300] * 12), nodes=[a_node("de-1", cpus=2.0)])
    assert starts_h(planned(6, situation)) == [0, 0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        (hourly("DE", 300, 100, 100.001, 100, 300, 300, 300, 300), [1, 3, 1, 3]),
        (hourly("DE", 300, 100, 99.999, 100, 300, 300, 300, 300), [2, 2, 2, 2]),
    ],
)
def test_the_least_dirtier_hour_is_no_choice(series, expected):
    assert starts_h(planned(4, a_situation(series, nodes=BIG), in_one_piece(1, 8))) == expected


@pytest.mark.parametrize(("deadline_h", "starts"), [(3.0, {2}), (4.0, {2, 3}), (5.0, {2, 3, 4}), (6.0, {2, 3, 4, 5})])
def test_the_deadline_is_the_end_of_the_plateau(deadline_h, starts):
    assert set(starts_h(planned(8, a_situation(PLATEAU, nodes=BIG), in_one_piece(1, deadline_h)))) == starts
    plans = planned(8, a_situation(PLATEAU, nodes=BIG), in_one_piece(1, deadline_h + 0.1))
    assert all(found.end_s <= T0 + (deadline_h + 0.1) * HOUR_S for found in plans)


def test_a_place_elsewhere_that_is_clean_now_is_better_than_one_later():
    situation = a_situation(PLATEAU, hourly("FR", *[100] * 12), nodes=[*BIG, a_node("fr-1", "FR")])
    plans = planned(3, situation)
    assert [shape(found)[0][:2] for found in plans] == [("fr-1", 0), ("fr-1", 1), ("de-1", 2)]


def test_nobody_wakes_a_node_to_be_alone_on_it():
    """Beside or right after others it is awake; a start of its own would cost 5 Wh."""
    asleep = [replace(BIG[0], sleeps=True, wake_j=5 * 3600.0)]
    situation = a_situation(PLATEAU, nodes=asleep)
    situation.calendar.reserve(Segment("de-1", "DE", T0 + 3 * HOUR_S, T0 + 4 * HOUR_S), ONE)
    (found,) = planned(1, situation)
    assert starts_h([found]) == [3]
    situation = a_situation(PLATEAU, nodes=BIG)
    situation.calendar.reserve(Segment("de-1", "DE", T0 + 3 * HOUR_S, T0 + 4 * HOUR_S), ONE)
    assert starts_h(planned(1, situation)) == [2]


def test_what_waking_a_node_takes_is_no_equal_start():
    """It draws nothing when idle, so that only waking counts: not while others are on it, nor right after them."""
    asleep = [replace(BIG[0], power=PowerCurve((0.0, 1.0), (0.0, 800.0), "test"), sleeps=True, wake_j=5 * 3600.0)]
    situation = a_situation(PLATEAU, nodes=asleep)
    situation.calendar.reserve(Segment("de-1", "DE", T0 + 3 * HOUR_S, T0 + 4 * HOUR_S), ONE)
    assert starts_h(planned(1, situation)) == [4]


grams = st.lists(st.sampled_from([50.0, 100.0, 300.0]), min_size=12, max_size=12)
booking = st.tuples(st.integers(0, 47), st.integers(1, 16), st.sampled_from([1.0, 2.0, 3.0]))


@settings(max_examples=150, deadline=None)
@given(grams, st.lists(booking, max_size=6), st.floats(0.1, 4), st.floats(4, 12), st.sampled_from([1.0, 2.0]))
def test_a_start_is_never_moved_to_more_grams_a_full_node_or_past_the_deadline(
    values, bookings, hours, deadline_h, cpus
):
    situation = a_situation(hourly("DE", *values), nodes=[a_node("de-1", cpus=3.0, watts=300.0)])
    held = np.zeros(48)
    for start, count, amount in bookings:
        most = min(amount, 3.0 - held[start : start + count].max())
        situation.calendar.reserve(
            Segment("de-1", "DE", T0 + start * SLOT_S, T0 + (start + count) * SLOT_S), Resources(most)
        )
        held[start : start + count] += most
    work, spec = math.ceil(hours * 4 - 1e-9), in_one_piece(hours, deadline_h, demand=Resources(cpus))
    slot_g = np.repeat(values, 4)
    possible = {
        start: slot_g[start : start + work].sum() - (work - hours * 4) * slot_g[start + work - 1]
        for start in range(48 - work + 1)
        if held[start : start + work].max() <= 3.0 - cpus + 1e-9 and start / 4 + hours <= deadline_h + 1e-9
    }
    found = plan_job(a_job(spec), situation, CONFIG)
    if not possible:
        return  # it comes late, or finds no place: not what this is about
    assert isinstance(found, Plan)
    ((_, start_h, end_h),) = shape(found)
    assert end_h - start_h == pytest.approx(hours)
    least = min(possible.values())
    assert possible[round(start_h * 4)] <= least * (1 + 1e-9)
    if possible.get(0, math.inf) <= least * (1 + 1e-9):
        assert start_h == 0


# -- the choice itself -------------------------------------------------------------------------------------------------


def moved_to(cost_g, load, work, start, start_g=None):
    """Where a run of so many slots goes that would start in a slot."""
    row_g, held = np.array(cost_g, float), np.array(load, float)
    starts_g = None if start_g is None else np.array([start_g], float)
    choice = Choice(lambda row, workers: row_g, lambda row: held, starts_g)
    return start + shifts([Stretch.of(0, 1, start, start + work)], choice, len(cost_g))[0]


@pytest.mark.parametrize(
    ("cost_g", "load", "work", "start", "expected"),
    [
        ([3, 1, 1, 1, 3], [0, 2, 1, 0, 0], 1, 1, 3),
        ([3, 1, 1, 1, 3], [0, 1, 1, 1, 0], 1, 2, 2),  # among equals it stays
        ([3, 1, 1, 1, 3], [0, 2, 1, 1, 0], 1, 1, 2),  # then the earliest
        ([1, 1, 1, 1, 3], [0, 2, 2, 1, 0], 1, 1, 3),  # never now: who could start now does
        ([3, 1, 1, 1, 3], [0, 2, 1, 0, 0], 2, 1, 2),
        ([3, 1, 1, 2, 0], [0, 5, 4, 0, 0], 2, 1, 3),
        ([3, 1, math.inf, 1, 3], [0, 2, 0, 1, 0], 1, 1, 3),
        ([3, 1, 1 + 1e-12, 3, 3], [0, 2, 1, 0, 0], 1, 1, 2),
        ([3, 1, 1 + 1e-6, 3, 3], [0, 2, 1, 0, 0], 1, 1, 1),
    ],
)
def test_the_least_loaded_of_equal_starts(cost_g, load, work, start, expected):
    assert moved_to(cost_g, load, work, start) == expected


def test_what_a_start_adds_makes_starts_unequal():
    cost_g, load = [3, 1, 1, 1], [0, 2, 0, 1]
    assert moved_to(cost_g, load, 1, 1) == 2
    assert moved_to(cost_g, load, 1, 1, [0.0, 0.0, 0.5, 0.0]) == 3


def test_the_load_is_what_everybody_holds_there():
    """Also of others, whom we know nothing of but that they are there."""
    calendar = Calendar(SLOT_S, BIG, 0)
    calendar.set_foreign("de-1", ONE)
    (place,) = calendar.fleet.places((), ONE)
    assert calendar.cpus_held(place, 0, 2).tolist() == [1, 1]
