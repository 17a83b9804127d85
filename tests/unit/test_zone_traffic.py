"""Shares of a model between its zones: what is not known, what does not answer, and how often they change."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco_ray.core.arrivals import Arrivals
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.power import PowerCurve
from eco_ray.core.replica_places import Room
from eco_ray.core.serving import TrafficConfig
from eco_ray.core.zone_routes import Routes
from eco_ray.core.zone_traffic import ModelNow, ZoneNow, plan_zones
from eco_ray.on_ray.serving.sound_rooms import sound

CONFIG = TrafficConfig(hold_s=300.0)
WAYS = {"AA": {"BB": 20.0, "CC": 90.0}, "BB": {"AA": 20.0, "CC": 30.0}, "CC": {"AA": 90.0, "BB": 30.0}}
CURVE = PowerCurve((0, 1), (50, 100), "test")


def zone(name: str, intensity: float | None, **how) -> ZoneNow:
    return ZoneNow(name, (Room(Node(f"{name}-1", name, Resources(4.0), CURVE), Resources(), intensity),), **how)


def model(aa=300.0, bb=100.0, cc=200.0, *, asked=None, now_s=0.0, **how) -> ModelNow:
    zones = zone("AA", aa), zone("BB", bb), zone("CC", cc)
    return ModelNow(now_s, "AA", asked or {"AA": 10.0}, zones, Resources(1.0), 2, 0.01, **how)


def plan(now, ways=WAYS, before=None, state=None):
    return plan_zones(now, ways, before, state, CONFIG)


def shares(told, origin="AA"):
    return dict(zip(told.routes.zones, told.routes.shares[told.routes.origins.index(origin)], strict=True))


def test_requests_go_where_they_emit_least_and_the_plan_says_what_that_saves():
    told, _ = plan(model())
    assert shares(told) == {"AA": 0, "BB": 1, "CC": 0}
    assert told.capacity_per_s[0] == pytest.approx(2 * 0.85 / 0.011)
    assert told.home_grams_per_h == pytest.approx(3 * told.grams_per_h)
    assert told.routes.ways_ms == ((0.0, 20.0, 90.0),)


def test_what_is_promised_leaves_so_much_for_the_way():
    clean_is_far = model(300, 300, 50, slo_p95_s=0.095)  # 85 ms of it for the way
    assert shares(plan(clean_is_far)[0])["CC"] == 0
    assert shares(plan(replace(clean_is_far, slo_p95_s=0.2))[0])["CC"] == 1
    assert shares(plan(replace(clean_is_far, slo_p95_s=None))[0])["CC"] == 1


def test_a_way_that_nobody_told_is_beyond_any_promise_and_within_none():
    promised, _ = plan(model(slo_p95_s=1.0), ways={})
    assert shares(promised) == {"AA": 1, "BB": 0, "CC": 0}
    assert "AA to BB, CC: rtt_ms of the cluster file tells no way" in promised.why
    assert shares(plan(model(), ways={})[0])["BB"] == 1
    # beyond the promise rather than refused
    crowded, _ = plan(model(slo_p95_s=1.0, asked={"AA": 200.0}), ways={})
    assert shares(crowded)["AA"] == pytest.approx(crowded.capacity_per_s[0] / 200)


def test_a_zone_of_unknown_intensity_is_filled_last_and_its_grams_are_not_told():
    told, _ = plan(model(bb=None))
    assert shares(told) == {"AA": 0, "BB": 0, "CC": 1}
    assert "the intensity of BB is unknown" in told.why
    assert told.grams_per_h is not None
    crowded, _ = plan(model(bb=None, asked={"AA": 400.0}))
    assert shares(crowded)["BB"] > 0
    assert crowded.grams_per_h is None
    assert plan(model(aa=None))[0].home_grams_per_h is None


def test_where_no_intensity_is_known_shares_stay_or_go_to_the_nearest():
    first, state = plan(model())
    lost, state = plan(model(None, None, None, now_s=1000.0), before=first.routes, state=state)
    assert (lost.routes.shares, lost.grams_per_h) == (first.routes.shares, None)
    assert lost.why.startswith("kept")
    again, _ = plan(model(now_s=1010.0), before=lost.routes, state=state)
    assert again.routes.shares == first.routes.shares
    nearest, state = plan(model(None, None, None))
    assert shares(nearest) == {"AA": 1, "BB": 0, "CC": 0}
    known, _ = plan(model(now_s=10.0), before=nearest.routes, state=state)
    assert shares(known)["BB"] == 1  # at once: the nearest was no choice


def test_a_zone_that_does_not_answer_or_has_no_node_gets_nothing_at_once():
    first, state = plan(model())
    for gone in (zone("BB", 100.0, away=True), ZoneNow("BB", ())):
        now = replace(model(now_s=10.0), zones=(zone("AA", 300.0), gone, zone("CC", 200.0)))
        told, _ = plan(now, before=first.routes, state=state)
        assert shares(told) == {"AA": 0, "BB": 0, "CC": 1}
        assert "BB would get" in told.why
    dead = replace(now, zones=tuple(replace(one, away=True) for one in now.zones))
    kept, _ = plan(dead, before=first.routes, state=state)
    assert kept.routes.shares == first.routes.shares
    assert plan(dead)[0].routes.shares == ((1 / 3,) * 3,)


def awake(name: str, intensity: float | None, wake_j=0.0) -> ZoneNow:
    """Its node is on for this model alone."""
    there = zone(name, intensity)
    node = replace(there.rooms[0].node, sleeps=True, wake_j=wake_j)
    return replace(there, rooms=(replace(there.rooms[0], node=node),))


def asleep(name: str, intensity: float | None, wake_j=0.0) -> ZoneNow:
    """Its node has been released."""
    there = awake(name, intensity, wake_j)
    return replace(there, rooms=(replace(there.rooms[0], asleep=True),), runs=False)


def test_a_clean_zone_that_is_asleep_is_woken_and_gets_its_share_once_it_is_up():
    dirty = awake("AA", 600.0)
    now = ModelNow(0.0, "AA", {"AA": 10.0}, (dirty, asleep("BB", 20.0)), Resources(1.0), 2, 0.01)
    meanwhile, state = plan(now)
    assert shares(meanwhile) == {"AA": 1, "BB": 0}
    assert meanwhile.wakes == ("BB",)
    assert meanwhile.why.endswith("BB would get some, and is woken")
    assert meanwhile.capacity_per_s[1] > 0
    up = replace(now, now_s=400.0, zones=(dirty, awake("BB", 20.0)))
    told, state = plan(up, before=meanwhile.routes, state=state)
    assert (shares(told), told.wakes) == ({"AA": 0, "BB": 1}, ())
    # its last replica ends for a while: it keeps its share, and the next request wakes it
    slept, _ = plan(replace(now, now_s=500.0), before=told.routes, state=state)
    assert (shares(slept), slept.wakes) == ({"AA": 0, "BB": 1}, ())


def test_a_zone_is_woken_only_where_that_saves_what_it_takes():
    for wake_j, wakes in ((0.0, ("BB",)), (7.2e6, ())):  # 2 kWh at 20 g/kWh, against 50 W at 600
        zones = awake("AA", 600.0), asleep("BB", 20.0, wake_j)
        now = ModelNow(0.0, "AA", {"AA": 10.0}, zones, Resources(1.0), 2, 0.01)
        assert plan(now)[0].wakes == wakes
    few = replace(now, zones=(zones[0], asleep("BB", 20.0)), requests_per_s={"AA": 0.01})
    assert (plan(few)[0].wakes, shares(plan(few)[0])) == ((), {"AA": 1, "BB": 0})
    assert "is left asleep for so few" in plan(few)[0].why


def test_where_no_zone_is_up_or_those_that_are_have_no_room_requests_wait_for_those_that_wake():
    zones = asleep("AA", 600.0), asleep("BB", 20.0)
    now = ModelNow(0.0, "AA", {"AA": 0.0}, zones, Resources(1.0), 2, 0.01)
    told, state = plan(now)
    assert (shares(told), told.wakes, told.routes.asleep) == ({"AA": 0, "BB": 1}, (), ("AA", "BB"))
    assert Routes.from_json(told.routes.to_json()) == told.routes
    # all were idle, and it is clean elsewhere now
    turned = replace(now, now_s=400.0, zones=(asleep("AA", 20.0), asleep("BB", 600.0)))
    assert shares(plan(turned, before=told.routes, state=state)[0]) == {"AA": 1, "BB": 0}
    crowded = replace(now, zones=(awake("AA", 600.0), zones[1]), requests_per_s={"AA": 200.0})
    assert shares(plan(crowded)[0])["BB"] > 0


def test_of_two_zones_that_are_asleep_none_gets_what_the_other_is_to_have():
    zones = awake("AA", 600.0), asleep("BB", 20.0), asleep("CC", 30.0)
    told, _ = plan(ModelNow(0.0, "AA", {"AA": 10.0}, zones, Resources(1.0), 2, 0.01))
    assert (shares(told), told.wakes) == ({"AA": 1, "BB": 0, "CC": 0}, ("BB",))


def test_capacity_is_as_measured_there_else_as_elsewhere_else_as_assumed():
    measured = replace(zone("AA", 100.0), work_s=0.05)
    now = ModelNow(0.0, "AA", {"AA": 10.0}, (measured, zone("BB", 100.0)), Resources(1.0), 2, 0.01)
    assert [one.nature for one in now.zones] == ["measured", "assumed"]
    assert plan(now)[0].capacity_per_s == pytest.approx((2 * 0.85 / 0.05,) * 2)  # BB is not better for not being known
    both = replace(now, zones=(measured, replace(now.zones[1], work_s=0.02)))
    assert plan(both)[0].capacity_per_s == pytest.approx((2 * 0.85 / 0.05, 2 * 0.85 / 0.02))
    neither = replace(now, zones=(zone("AA", 100.0), zone("BB", 100.0)))
    assert plan(neither)[0].capacity_per_s == pytest.approx((2 * 0.85 / 0.011,) * 2)


def test_more_than_all_can_answer_leaves_the_shares_or_spreads_by_capacity():
    first, state = plan(model())
    kept, _ = plan(model(asked={"AA": 1000.0}), before=first.routes, state=state)
    assert kept.routes.shares == first.routes.shares
    assert "do not fit" in kept.why
    assert set(shares(plan(model(asked={"AA": 1000.0}))[0]).values()) == {1 / 3}


def test_without_requests_the_first_ones_find_clean_shares():
    told, state = plan(model(asked={"AA": 0.0, "DD": 0.0}))
    assert (shares(told)["BB"], shares(told, "DD")["BB"]) == (1, 1)  # DD has no replicas, its requests some
    assert (told.load_per_s, told.grams_per_h, told.home_grams_per_h) == ((0, 0, 0), 0, 0)
    grown, _ = plan(model(asked={"AA": 5.0, "DD": 5.0}, now_s=10.0), before=told.routes, state=state)
    assert grown.routes.shares == told.routes.shares


def test_flapping_intensity_and_outages_change_shares_a_bounded_number_of_times():
    """An hour, looked at every 10 s, in which everything flaps."""
    chance, routes, state, changes = random.Random(1), None, None, 0
    for step in range(360):
        bb = chance.choice([50.0, 500.0, None])
        asked = {"AA": chance.uniform(0.0, 60.0)}
        told, state = plan(model(300.0, bb, 200.0, asked=asked, now_s=10.0 * step), before=routes, state=state)
        changes += routes is not None and told.routes.shares != routes.shares
        routes = told.routes
    assert 2 <= changes <= 12  # 3600 s / 300 s


values = st.sampled_from([20.0, 200.0, 900.0, None])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(values, values, values), min_size=2, max_size=25),
    st.integers(1, 400),
    st.sampled_from([0.0, 5.0, 30.0]),
)
def test_whatever_intensities_do_shares_change_once_in_the_hold_at_most(steps, every_s, asked):
    """With the same requests and zones; None is what is not known."""
    routes, state, changes = None, None, 0
    for step, known in enumerate(steps):
        now = model(*known, asked={"AA": asked}, now_s=float(every_s * step))
        told, state = plan(now, before=routes, state=state)
        changes += routes is not None and told.routes.shares != routes.shares
        routes = told.routes
    # the first of them may be for the nearest, until one zone is known
    assert changes <= 1 + (len(steps) - 1) * every_s / TrafficConfig().hold_s


@given(st.sampled_from([math.nan, -5.0, math.inf]), st.sampled_from(["intensity", "power", "pue"]))
def test_a_zone_of_which_something_cannot_be_true_is_filled_last_and_keeps_its_capacity(wrong, what):
    right, whole = model(300.0, 50.0, 200.0), model(300.0, 50.0, 200.0)
    (room,) = right.zones[1].rooms
    curve = object.__new__(PowerCurve)  # no curve can be made so
    for name in PowerCurve.__slots__:
        object.__setattr__(curve, name, (wrong, wrong) if name == "watts" else getattr(room.node.power, name))
    spoiled = {
        "intensity": replace(room, intensity_g_per_kwh=wrong),
        "power": replace(room, node=replace(room.node, power=curve)),
        "pue": replace(room, node=replace(room.node, pue=wrong)),
    }[what]
    zones = list(right.zones)
    zones[1] = replace(zones[1], rooms=(sound(spoiled)[0],))
    told, _ = plan(replace(right, zones=tuple(zones)))
    assert shares(told) == {"AA": 0, "BB": 0, "CC": 1}
    assert told.capacity_per_s == pytest.approx(plan(whole)[0].capacity_per_s)
    assert "BB is unknown" in told.why


def test_arrivals_are_smoothed_and_counted_once():
    arrivals = Arrivals()
    arrivals.note("r1", {"AA": 5000}, 0.0)  # since when, nobody knows
    assert arrivals.per_s(0.0) == {"AA": 0.0}
    arrivals.note("r1", {"AA": 5100}, 5.0)
    arrivals.note("r1", {"AA": 5100}, 6.0)  # asked again
    arrivals.note("r2", {"AA": 0, "BB": 0}, 6.0)
    arrivals.note("r2", {"AA": 100, "BB": 20}, 9.0)
    assert arrivals.per_s(10.0) == {"AA": 20.0, "BB": 2.0}
    arrivals.note("r2", {"AA": 0, "BB": 0}, 12.0)  # began anew under its old name
    calm = arrivals.per_s(20.0)
    assert 0 < calm["AA"] < 20.0
    assert arrivals.per_s(20.0) == calm
    assert arrivals.per_s(1000.0)["AA"] < 1e-6
