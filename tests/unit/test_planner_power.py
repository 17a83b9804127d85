"""What nodes draw decides where jobs go: measured watts, bent curves, sleeping nodes, checkpoints to be moved."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orchestrator_world import World
from planning_cases import CONFIG, HOUR_S, T0, a_job, a_node, a_situation, a_spec, hourly, no_suspension, shape

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.events import ForeignUse, NodeJoined
from eco_ray.core.jobs import Attempt, AttemptState, Segment, SuspendRule, Workers
from eco_ray.core.planner import plan_job
from eco_ray.core.power import PowerCurve
from eco_ray.core.units import Nature

FLAT = hourly("DE", *[300] * 40)
TWO = Resources(2.0)


def curved(name, *watts, **changes):
    """Four CPUs; the curve has its points at even distances."""
    points = tuple(i / (len(watts) - 1) for i in range(len(watts)))
    return replace(Node(name, "DE", Resources(4.0, 0.0, 8.0), PowerCurve(points, watts, "test")), **changes)


def plan(spec, situation, **changes):
    return plan_job(a_job(spec, **changes), situation, CONFIG)


def put(situation, node, hours, demand=TWO, since_h=0.0):
    """Somebody holds so much of a node."""
    since_s = T0 + since_h * HOUR_S
    situation.calendar.reserve(Segment(node, "DE", since_s, since_s + hours * HOUR_S), demand)


def where(found):
    (name,) = {name for name, _, _ in shape(found)}
    return name


# -- measured watts ----------------------------------------------------------------------------------------------------


def measured(node, watts):
    """The same node, once its power has been measured."""
    return replace(node, power=PowerCurve((0.0, 1.0), (watts / 2, watts), "measured", Nature.MEASURED, 0.1))


def test_the_next_job_goes_elsewhere_when_one_node_turns_out_to_draw_more():
    nodes = {name: a_node(name, cpus=4.0) for name in ("a", "b")}
    world = World(FLAT, nodes=nodes)
    assert world.submit("one") == ["start one-a1 on a"]
    world.do(NodeJoined(measured(nodes["a"], 101.0)))
    assert world.submit("two") == ["start two-a1 on b"]
    world.do(NodeJoined(measured(nodes["b"], 103.0)))
    assert world.submit("three") == ["start three-a1 on a"]
    world.do(NodeJoined(measured(nodes["a"], 103.0)))  # now they are the same again
    assert world.submit("four") == ["start four-a1 on a"]
    assert [world.job(name).plan.added_g for name in ("one", "two", "three")] == pytest.approx(
        [50 / 4 * 0.3, 50 / 4 * 0.3, 50.5 / 4 * 0.3]
    )


def test_a_zone_that_is_a_little_cleaner_does_not_make_up_for_many_watts():
    nodes = {"de-1": a_node("de-1", cpus=4.0), "fr-1": a_node("fr-1", "FR", cpus=4.0)}
    world = World(FLAT, hourly("FR", *[270] * 40), nodes=nodes)
    assert world.submit("one") == ["start one-a1 on fr-1"]
    world.do(NodeJoined(measured(nodes["fr-1"], 110.0)))
    assert world.submit("two") == ["start two-a1 on fr-1"]  # 110 % of 270 is still less
    world.do(NodeJoined(measured(nodes["fr-1"], 112.0)))
    assert world.submit("three") == ["start three-a1 on de-1"]


def test_a_job_that_waits_leaves_a_node_that_turns_out_to_draw_more():
    clean_later = hourly("DE", 300, 300, 100, *[300] * 30)
    nodes = {name: a_node(name, cpus=4.0) for name in ("a", "b")}
    world = World(clean_later, nodes=nodes)
    world.submit(hours=1)
    assert shape(world.job().plan) == [("a", 2, 3)]
    world.do(NodeJoined(measured(nodes["a"], 150.0)))
    world.tick(seconds=1)
    assert shape(world.job().plan) == [("b", 2, 3)]


def test_watts_are_compared_with_the_facility_around_them():
    nodes = [a_node("a", watts=100.0, pue=1.3), a_node("b", watts=120.0, pue=1.05)]
    assert where(plan(a_spec(), a_situation(FLAT, nodes=nodes))) == "b"
    assert where(plan(a_spec(), a_situation(FLAT, nodes=[replace(nodes[0], pue=1.2), nodes[1]]))) == "a"


@pytest.mark.parametrize("bent", [False, True])
def test_the_watts_of_gpus_count_for_those_who_hold_them_alone(bent):
    capacity = Resources(4.0, 2.0, 8.0, 80.0)
    old = replace(a_node("old", watts=100.0), capacity=capacity, gpu_idle_w=30.0, gpu_busy_w=250.0)
    new = replace(a_node("new", watts=120.0), capacity=capacity, gpu_idle_w=60.0, gpu_busy_w=260.0)
    if bent:
        old = replace(old, power=PowerCurve((0.0, 0.5, 1.0), (50.0, 90.0, 100.0), "test"))
        new = replace(new, power=PowerCurve((0.0, 0.5, 1.0), (60.0, 110.0, 120.0), "test"))
    situation = a_situation(FLAT, nodes=[old, new])
    assert where(plan(a_spec(), situation)) == "old"
    # it draws more when busy, but less than that more than when it is idle
    assert where(plan(a_spec(demand=Resources(1.0, 1.0)), situation)) == "new"


# -- bent curves -------------------------------------------------------------------------------------------------------

#: two of its CPUs add 60 W on an empty node, 20 W beside two others
FALLS = (40.0, 100.0, 120.0)
#: the other way round
RISES = (40.0, 60.0, 120.0)


@pytest.mark.parametrize(("watts", "chosen"), [(FALLS, "busy"), (RISES, "empty"), ((40.0, 120.0), "empty")])
def test_a_job_joins_others_where_it_adds_less_there(watts, chosen):
    situation = a_situation(FLAT, nodes=[curved("empty", *watts), curved("busy", *watts)])
    put(situation, "busy", 8)
    found = plan(a_spec(2, demand=TWO), situation)
    assert where(found) == chosen
    added_w = {"busy": 20.0, "empty": 20.0 if watts == RISES else 40.0}[chosen]
    assert found.added_g == pytest.approx(added_w * 2 / 1000 * 300)


def test_what_others_than_our_jobs_run_is_a_load_as_well():
    nodes = [curved("empty", *FALLS), curved("busy", *FALLS)]
    assert where(plan(a_spec(demand=TWO), a_situation(FLAT, nodes=nodes))) == "empty"
    assert where(plan(a_spec(demand=TWO), a_situation(FLAT, nodes=nodes, foreign={"busy": TWO}))) == "busy"


def test_what_a_job_adds_is_weighed_slot_by_slot():
    """The others leave after an hour: a job of five hours adds 20 W and 4 x 60 W there, or 5 x 55 W elsewhere."""
    nodes = [curved("busy", *FALLS), curved("other", 40.0, 95.0, 150.0)]
    for others_h, hours, chosen in [(1, 5, "busy"), (1, 12, "other"), (4, 12, "busy"), (0, 2, "other")]:
        situation = a_situation(FLAT, nodes=nodes)
        put(situation, "busy", others_h)
        spec = a_spec(hours, hours, demand=TWO, **no_suspension())
        found = plan(spec, situation)
        assert where(found) == chosen, (others_h, hours)
        added_wh = 20 * others_h + 60 * (hours - others_h) if chosen == "busy" else 55 * hours
        assert found.added_g == pytest.approx(added_wh / 1000 * 300)


def test_it_follows_the_others_where_moving_is_free():
    nodes = [curved("a", *FALLS), curved("b", *FALLS)]
    situation = a_situation(FLAT, nodes=nodes)
    put(situation, "b", 1)
    put(situation, "a", 1, since_h=1)
    assert shape(plan(a_spec(2, 2, demand=TWO), situation)) == [("b", 0, 1), ("a", 1, 2)]
    moving = a_spec(2, 2, demand=TWO, **no_suspension())
    assert shape(plan(moving, situation)) == [("a", 0, 2)]


def test_a_job_may_wait_for_others_to_run_beside():
    situation = a_situation(FLAT, nodes=[curved("a", *FALLS)])
    put(situation, "a", 2, since_h=3)
    assert shape(plan(a_spec(1, demand=TWO), situation)) == [("a", 3, 4)]
    straight = a_situation(FLAT, nodes=[curved("a", 40.0, 120.0)])
    put(straight, "a", 2, since_h=3)
    assert shape(plan(a_spec(1, demand=TWO), straight)) == [("a", 0, 1)]


# -- sleeping nodes ----------------------------------------------------------------------------------------------------


def sleeping(name, wake_wh=0.0, *watts):
    return curved(name, *(watts or (40.0, 120.0)), sleeps=True, wake_j=wake_wh * 3600.0)


def test_a_job_goes_to_the_node_that_is_on_rather_than_wake_another():
    situation = a_situation(FLAT, nodes=[sleeping("asleep"), sleeping("on")])
    assert where(plan(a_spec(), situation)) == "asleep"  # nobody is on: the first one
    put(situation, "on", 8)
    found = plan(a_spec(), situation)
    assert where(found) == "on"
    assert found.added_g == pytest.approx(20 / 1000 * 300)
    # even though one that is always on adds as little
    assert where(plan(a_spec(), a_situation(FLAT, nodes=[sleeping("asleep"), curved("always-on", 40.0, 120.0)]))) == (
        "always-on"
    )


def test_a_sleeping_node_is_woken_where_that_is_cheaper_all_the_same():
    """It adds its idle power as well, 10 W and 20 W, but the other one adds 50 W."""
    nodes = [curved("on", 40.0, 240.0), sleeping("asleep", 0.0, 10.0, 90.0)]
    assert where(plan(a_spec(), a_situation(FLAT, nodes=nodes))) == "asleep"
    assert where(plan(a_spec(), a_situation(FLAT, nodes=[nodes[0], sleeping("asleep", 0.0, 40.0, 120.0)]))) == "on"


def test_what_waking_takes_decides_between_like_nodes():
    nodes = [sleeping("slow", 2.0), sleeping("fast", 1.0)]
    for rule in ({}, no_suspension(), {"suspend": SuspendRule(resume_cost_s=60.0)}):
        assert where(plan(a_spec(**rule), a_situation(FLAT, nodes=nodes))) == "fast"
        assert where(plan(a_spec(**rule), a_situation(FLAT, nodes=nodes[::-1]))) == "fast"
        situation = a_situation(FLAT, nodes=nodes)
        put(situation, "slow", 8, Resources(1.0))  # it is awake
        put(situation, "fast", 8, Resources(0.0, 0.0, 1.0))
        assert where(plan(a_spec(**rule), situation)) == "slow"


@pytest.mark.parametrize(("wake_wh", "starts"), [(0.0, [0, 2]), (9.0, [0, 2]), (11.0, [0])])
def test_a_pause_is_worth_it_when_it_saves_more_than_waking_again(wake_wh, starts):
    """A pause in the dirty hour saves 60 W x 150 g/kWh = 9 g; waking at 900 g/kWh costs nearly 1 g per Wh."""
    series = hourly("DE", 900, 1050, 900, *[2000] * 20)
    spec = a_spec(2, 5, suspend=SuspendRule(resume_cost_s=0.0))
    found = plan(spec, a_situation(series, nodes=[sleeping("a", wake_wh)]))
    assert [start for _, start, _ in shape(found)] == starts


def test_nobody_pays_for_waking_a_node_that_is_awake():
    """Others are on it, or were until now: 20 W there against 25 W on a node that is always on."""
    nodes = [curved("always-on", 40.0, 140.0), sleeping("asleep", 100.0, 0.0, 80.0)]
    for others_h, clean_h, chosen in [(9, 0, "asleep"), (2, 2, "asleep"), (2, 3, "always-on")]:
        situation = a_situation(hourly("DE", *[900] * clean_h, 300, *[900] * 9), nodes=nodes)
        put(situation, "asleep", others_h)
        found = plan(a_spec(**no_suspension()), situation)
        assert shape(found) == [(chosen, clean_h, clean_h + 1)]


@pytest.mark.parametrize(("now_h", "chosen"), [(0.0, "asleep"), (0.9, "asleep"), (1.0, "asleep"), (1.1, "always-on")])
def test_a_node_that_others_leave_at_the_start_is_awake(now_h, chosen):
    """20 W less, but 100 Wh to wake it: they leave after an hour, when the job may start. Then it goes to sleep."""
    nodes = [curved("always-on", 40.0, 140.0), sleeping("asleep", 100.0, 0.0, 80.0)]
    situation = a_situation(FLAT, nodes=nodes, now_s=T0 + now_h * HOUR_S)
    put(situation, "asleep", 1, Resources(4.0))
    for rule in ({}, no_suspension(), {"suspend": SuspendRule(resume_cost_s=60.0)}):
        found = plan(a_spec(1, 3, not_before_s=T0 + HOUR_S, **rule), situation)
        assert shape(found) == [(chosen, max(now_h, 1.0), max(now_h, 1.0) + 1)]


def test_what_is_not_written_down_any_more_was_asleep():
    nodes = [curved("always-on", 40.0, 140.0), sleeping("asleep", 100.0, 0.0, 80.0)]
    situation = a_situation(FLAT, nodes=nodes)
    assert where(plan(a_spec(), situation)) == "always-on"


@pytest.mark.parametrize(("wake_wh", "saving_pct", "start"), [(0.0, 11, 0), (0.0, 9, 1), (100.0, 11, 1)])
def test_waking_counts_in_what_waiting_saves(wake_wh, saving_pct, start):
    """Waiting for an hour saves 2 of 20 g, and waking a node, which others are going to use."""
    node = sleeping("a", wake_wh, 0.0, 80.0)
    situation = a_situation(hourly("DE", 1000, *[900] * 9), nodes=[node])
    put(situation, "a", 3, since_h=1)
    for rule in ({}, no_suspension()):
        found = plan(a_spec(1, 3, min_saving_pct=saving_pct, **rule), situation)
        assert shape(found) == [("a", start, start + 1)]


def test_a_node_that_others_use_is_awake():
    nodes = [sleeping("asleep", 5.0), sleeping("used", 5.0)]
    situation = a_situation(FLAT, nodes=nodes, foreign={"used": Resources(1.0)})
    assert where(plan(a_spec(), situation)) == "used"


def test_a_plan_counts_what_its_starts_take():
    """60 W and 20 W of idle for two hours, and 5 Wh for each time that it is woken."""
    nodes = [sleeping("a", 5.0)]
    for rule, series, wakes in [
        ({}, FLAT, 1),
        ({}, hourly("DE", 300, 3000, 300, *[3000] * 20), 2),
        (no_suspension(not_before_s=T0 + 1800.0), FLAT, 1),
    ]:
        found = plan(a_spec(2, 5, **rule), a_situation(series, nodes=nodes))
        assert found.added_g == pytest.approx((2 * 60 + 5 * wakes) / 1000 * 300)
    situation = a_situation(FLAT, nodes=nodes)
    put(situation, "a", 8, Resources(1.0))
    assert plan(a_spec(2, 5), situation).added_g == pytest.approx(2 * 20 / 1000 * 300)  # it is on


@pytest.mark.parametrize(("wake_wh", "where_it_goes"), [(0.0, "asleep"), (50.0, "always-on")])
def test_a_plan_that_would_have_to_wake_its_node_now_is_changed_for_one_that_need_not(wake_wh, where_it_goes):
    """20 W there against 25 W elsewhere, while others keep the node awake; then they are gone."""
    nodes = {n.name: n for n in (curved("always-on", 40.0, 140.0), sleeping("asleep", wake_wh, 0.0, 80.0))}
    world = World(hourly("DE", *[900] * 6, 300, *[900] * 9), nodes=nodes)
    world.do(ForeignUse("asleep", Resources(1.0)))
    world.submit(hours=1, deadline_h=8, **no_suspension())
    assert world.core.book.jobs["j"].plan.segments[0].node == "asleep"
    world.do(ForeignUse("asleep", Resources()))
    world.tick(hours=0.25)
    assert world.core.book.jobs["j"].plan.segments[0].node == where_it_goes


# -- moving a checkpoint -----------------------------------------------------------------------------------------------


def suspended(gb, zone="DE", **changes):
    """It ran for an hour, wrote a checkpoint of so many GB and left."""
    attempt = Attempt(1, "j-a1", f"{zone.lower()}-1", zone, AttemptState.PAUSED, T0 - HOUR_S, started_s=T0 - HOUR_S)
    return {"attempts": (attempt,), "has_checkpoint": True, "checkpoint_gb": gb, **changes}


#: for an hour of 50 W that a job adds, 15 g or 10 g
DE_OR_FR = (FLAT, hourly("FR", *[200] * 40))


@pytest.mark.parametrize("rule", [{}, no_suspension(), {"suspend": SuspendRule(resume_cost_s=60.0)}])
@pytest.mark.parametrize(
    ("gb", "zone"), [(None, "fr-1"), (0.0, "fr-1"), (20.0, "fr-1"), (35.0, "de-1"), (900.0, "de-1")]
)
def test_a_suspended_job_moves_where_that_saves_more_than_its_checkpoint_takes(gb, zone, rule):
    """A Wh per GB, at the 200 g/kWh of where it goes: 25 GB are the 5 g that moving saves."""
    situation = a_situation(*DE_OR_FR)
    assert where(plan(a_spec(1, **rule), situation, **suspended(gb))) == zone
    assert where(plan(a_spec(1, **rule), situation, **suspended(gb, "FR"))) == "fr-1"  # it is there already


def test_a_longer_job_moves_with_more():
    for hours, gb, zone in [(1, 24, "fr-1"), (1, 27, "de-1"), (4, 98, "fr-1"), (4, 104, "de-1")]:
        spec = a_spec(hours + 1)  # an hour is done
        found = plan(spec, a_situation(*DE_OR_FR), **suspended(gb, productive_s=HOUR_S))
        assert where(found) == zone, (hours, gb)


def test_the_size_in_the_job_file_counts_until_its_session_reports_one():
    spec = a_spec(1, checkpoint_gb=100.0)
    situation = a_situation(*DE_OR_FR)
    assert where(plan(spec, situation, **suspended(None))) == "de-1"
    assert where(plan(spec, situation, **suspended(1.0))) == "fr-1"


def test_what_has_no_checkpoint_has_nothing_to_move():
    spec = a_spec(1, checkpoint_gb=900.0)
    assert where(plan(spec, a_situation(*DE_OR_FR))) == "fr-1"
    assert where(plan(spec, a_situation(*DE_OR_FR), **suspended(900.0, has_checkpoint=False))) == "fr-1"


def test_a_running_job_is_moved_only_where_that_pays_for_its_checkpoint():
    running = replace(suspended(1.0)["attempts"][0], state=AttemptState.RUNNING, started_s=T0)
    for gb, zone in [(1.0, "fr-1"), (20.0, "fr-1"), (30.0, "de-1")]:
        found = plan(a_spec(1), a_situation(*DE_OR_FR), attempts=(running,), checkpoint_gb=gb)
        assert where(found) == zone


def test_moving_at_a_dirty_moment_costs_more():
    """FR is clean in the second hour; moving is paid at what is then."""
    series = hourly("DE", *[300] * 9), hourly("FR", 900, 100, *[900] * 7)
    for gb, expected in [(1.0, "fr-1"), (99.0, "fr-1"), (101.0, "de-1")]:
        assert where(plan(a_spec(1, **no_suspension()), a_situation(*series), **suspended(gb))) == expected, gb


@pytest.mark.parametrize(("gb", "chosen"), [(0.0, "fr-1"), (7.0, "de-1")])
def test_moving_counts_when_the_rest_of_a_slot_is_left_out(gb, chosen):
    """Five minutes are left of a clean slot: at once in DE is 19.6 g, an hour in FR 17.5 g and 2.45 g for 7 GB."""
    de, fr = hourly("DE", 300, *[400] * 40, step_s=900.0), hourly("FR", *[350] * 40, step_s=900.0)
    situation = a_situation(de, fr, now_s=T0 + 600)
    assert where(plan(a_spec(1, 1.5, **no_suspension()), situation, **suspended(gb))) == chosen


powers = st.tuples(*[st.sampled_from([80.0, 100.0, 101.0, 200.0])] * 3)


@settings(max_examples=60, deadline=None)
@given(powers, st.permutations(["DE", "FR", "GB"]), st.lists(st.integers(20, 900), min_size=3, max_size=3))
def test_one_piece_goes_where_watts_times_grams_are_least(watts, zones, g_per_kwh):
    series = [hourly(zone, *[g] * 9) for zone, g in zip(("DE", "FR", "GB"), g_per_kwh, strict=True)]
    nodes = [a_node(f"n{i}", zone, watts=w) for i, (zone, w) in enumerate(zip(zones, watts, strict=True))]
    known = {one.zone: float(one.values_g_per_kwh[0]) for one in series}
    found = plan(a_spec(1), a_situation(*series, nodes=nodes))
    assert found.start_s == T0
    assert found.added_g == pytest.approx(min(node.power.idle_w / 1000 * known[node.zone] for node in nodes))


@pytest.mark.parametrize("known_h", [20, 60])
@pytest.mark.parametrize("pauses", [True, False])
def test_hours_that_nobody_knows_are_no_reason_to_wake_a_node_now(known_h, pauses):
    """The start's grams are unknown there; compared as a number that is none, they would be the least."""
    node = replace(a_node(), sleeps=True, wake_j=200_000.0)
    series = hourly("DE", *[900] * 3, *[100] * 4, *[500] * (known_h - 7))
    found = plan_job(a_job(a_spec(1, 40, suspend=SuspendRule(pauses))), a_situation(series, nodes=[node]), CONFIG)
    assert shape(found) == [("de-1", 3.0, 4.0)]


def test_equal_hours_of_an_elastic_job_are_equal_on_the_power_curve_too():
    """On a steep-then-flat curve more workers add less where others run; such hours look equal to idle ones."""
    curve = PowerCurve((0.0, 0.5, 1.0), (200.0, 360.0, 400.0), "measured")
    node = replace(a_node(cpus=4.0), power=curve)
    situation = a_situation(hourly("DE", *[300] * 3, *[100] * 4, *[300] * 30), nodes=[node])
    situation.calendar.reserve(Segment("de-1", "DE", T0 + 3 * HOUR_S, T0 + 4 * HOUR_S), Resources(cpus=1.0))
    spec = a_spec(1.5, 7, not_before_s=T0 + 2 * HOUR_S, workers=Workers(1, 3, (1.0, 2.0, 2.9)))
    found = plan_job(a_job(spec), situation, CONFIG)
    assert [(one.start_s, one.workers) for one in found.segments] == [(T0 + 3 * HOUR_S, 3)]
