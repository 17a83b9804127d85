"""Which node is emptied: where it saves grams, everything fits elsewhere, and not to and fro."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.consolidation import Consolidation, Drain, Guest, Hosts, Move, next_drain
from eco_ray.core.power import PowerCurve
from eco_ray.core.replica_places import Room

#: at once, for tests of a single decision
AT_ONCE = Consolidation(hold_s=0.0, min_saving=0.0)
NODE = Node("", "", Resources(4.0, 0.0, 8.0), PowerCurve((0, 1), (50, 100), "test"), sleeps=True)


def hosts(rooms, guests, now_s=0.0):
    """`rooms`: name: intensity, or Node and intensity; the guests are what they hold."""
    made = []
    for name, told in rooms.items():
        node, intensity = told if isinstance(told, tuple) else (NODE, told)
        held = Resources()
        for guest in guests:
            held = held + guest.demand if guest.node == name else held
        made.append(Room(replace(node, name=name, zone=node.zone or name.upper()), held, intensity))
    return Hosts(now_s, tuple(made), tuple(guests))


def guest(name, node, cpus=1.0, **told):
    return Guest(name, node, Resources(cpus), **told)


def drained(found, config=AT_ONCE):
    return next_drain(found, None, config)[0]


def test_the_dirtiest_node_is_emptied_into_the_cleanest_that_has_room():
    found = hosts(
        {"dirty": 600.0, "green": 50.0, "middle": 300.0},
        [guest("r1", "dirty"), guest("r2", "green", 3.5), guest("r3", "middle")],
    )
    decided = drained(found)
    assert decided.node == "dirty"
    assert decided.moves == (Move("r1", "middle"),)
    # 62.5 W at 600 g/kWh, against 12.5 W at 300 g/kWh, for an hour
    assert decided.saved_g == pytest.approx(37.5 - 3.75)
    assert "37.5 g" in decided.why
    assert "r1 to middle" in decided.why


@pytest.mark.parametrize("wakes", [True, False])
def test_a_green_node_that_is_asleep_is_woken_for_who_wakes_it_and_pays_for_that(wakes):
    found = hosts({"dirty": 600.0, "green": 50.0}, [guest("r1", "dirty", wakes=wakes)])
    wake_j = 36_000.0
    rooms = tuple(
        replace(room, asleep=True, node=replace(room.node, wake_j=wake_j)) if room.node.name == "green" else room
        for room in found.rooms
    )
    decided = drained(replace(found, rooms=rooms))
    if not wakes:
        assert decided.node is None
        assert "r1 has no room elsewhere" in decided.why
        return
    assert (decided.node, decided.moves) == ("dirty", (Move("r1", "green"),))
    # 62.5 W for an hour at 600 and at 50 g/kWh, and 10 Wh at 50
    assert decided.saved_g == pytest.approx(37.5 - 3.125 - 0.5)


def test_the_green_node_is_not_emptied_however_little_is_on_it():
    found = hosts({"dirty": 600.0, "green": 50.0}, [guest("r1", "dirty", 3.0), guest("r2", "green")])
    assert drained(found).node == "dirty"
    stuck = hosts({"dirty": 600.0, "green": 50.0}, [guest("r1", "dirty", 3.0, stays=True), guest("r2", "green")])
    decided = drained(stuck)
    assert decided.node is None
    assert "dirty: r1 stays" in decided.why
    assert "green: would emit 4.38 g more" in decided.why


def test_a_half_empty_node_of_the_same_zone_is_released():
    found = hosts({"a": 300.0, "b": 300.0}, [guest("r1", "a", 2.0), guest("r2", "b")])
    assert drained(found) == Drain("b", (Move("r2", "a"),), pytest.approx(15.0), drained(found).why)
    # one that never sleeps saves nothing
    awake = {name: (replace(NODE, sleeps=False), 300.0) for name in "ab"}
    assert drained(hosts(awake, found.guests)).node is None


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"zones": ("DIRTY",)}, "r1 has no room"),
        ({"cpus": 4.0}, "r1 has no room"),
        ({"move_g": 99.0}, "more"),
        ({"stays": True}, "r1 stays"),
    ],
)
def test_what_keeps_a_node(told, why):
    decided = drained(hosts({"dirty": 600.0, "green": 50.0}, [guest("r1", "dirty", **told), guest("r2", "green")]))
    assert decided.node is None
    assert not decided.moves
    assert why in decided.why


def test_a_guest_goes_where_its_owner_puts_it_and_nowhere_else():
    rooms = {"dirty": 600.0, "green": 50.0, "middle": 300.0}
    guests = [guest("r1", "dirty", nodes=("dirty", "middle", "green"))]
    decided = drained(hosts(rooms, guests))
    assert decided.moves == (Move("r1", "middle"),)  # Serve asks no grams: the saving is of where it will be
    assert decided.saved_g == pytest.approx(37.5 - 18.75)
    full = [*guests, guest("r2", "middle", 4.0)]
    assert drained(hosts(rooms, full)).moves == (Move("r1", "green"),)
    alone = drained(hosts(rooms, [guest("r1", "dirty", nodes=("dirty",))]))
    assert alone.node is None
    assert "r1 has no room elsewhere" in alone.why


def test_a_node_that_is_kept_is_not_emptied_and_may_be_filled():
    found = hosts({"dirty": 600.0, "green": 50.0}, [guest("r1", "dirty"), guest("r2", "green")])
    decided = drained(replace(found, kept={"dirty": "nobody can bring it back"}))
    assert decided.node is None
    assert "dirty: nobody can bring it back" in decided.why
    assert drained(replace(found, kept={"green": "nobody can bring it back"})).moves == (Move("r1", "green"),)


def test_what_somebody_else_holds_keeps_a_node():
    found = hosts({"dirty": 600.0, "green": 50.0}, [guest("r1", "dirty")])
    held = replace(found.rooms[0], held=Resources(1.5))
    decided = drained(replace(found, rooms=(held, found.rooms[1])))
    assert decided.node is None
    assert "dirty: somebody else holds 0.5 CPUs" in decided.why


def test_an_unknown_intensity_is_neither_emptied_nor_filled():
    decided = drained(hosts({"what": None, "dirty": 600.0}, [guest("r1", "what"), guest("r2", "dirty")]))
    assert decided.node is None
    assert "what: its intensity is unknown" in decided.why
    assert "dirty: r2 has no room" in decided.why


def test_waking_another_node_counts():
    woken = replace(NODE, wake_j=3.6e6)  # 50 g in the green zone
    guests = [guest("r1", "dirty")]
    assert drained(hosts({"dirty": 600.0, "green": 50.0}, guests)).saved_g == pytest.approx(37.5 - 3.125)
    assert drained(hosts({"dirty": 600.0, "green": (woken, 50.0)}, guests)).node is None
    long = replace(AT_ONCE, horizon_s=7200.0)
    assert drained(hosts({"dirty": 600.0, "green": (woken, 50.0)}, guests), long).saved_g == pytest.approx(18.75)


def test_parts_of_gpus_and_their_memory_hold():
    gpu = replace(NODE, capacity=Resources(4.0, 1.0, 8.0, 16.0), gpu_idle_w=20.0, gpu_busy_w=200.0)
    half = Resources(0.1, 0.5, 0.0, 8.0)
    guests = [Guest("r1", "dirty", half), Guest("r2", "green", half)]
    assert drained(hosts({"dirty": (gpu, 600.0), "green": (gpu, 50.0)}, guests)).node == "dirty"
    third = Guest("r3", "green", half)
    assert drained(hosts({"dirty": (gpu, 600.0), "green": (gpu, 50.0)}, [*guests, third])).node is None
    # half of a smaller GPU has not the 8 GB; and of two parts of 0.6 each needs its own
    small = replace(gpu, capacity=Resources(4.0, 1.0, 8.0, 12.0))
    assert drained(hosts({"dirty": (gpu, 600.0), "green": (small, 50.0)}, guests[:1])).node is None
    four = replace(gpu, capacity=Resources(4.0, 4.0, 8.0, 64.0))
    eight = replace(gpu, capacity=four.capacity * 2)
    large = [Guest(f"r{i}", "dirty", Resources(0.1, 0.55)) for i in range(5)]
    assert drained(hosts({"dirty": (eight, 600.0), "green": (four, 50.0)}, large)).node is None
    assert drained(hosts({"dirty": (eight, 600.0), "green": (four, 50.0)}, large[:4])).node == "dirty"


def test_little_is_not_worth_it():
    guests = [guest("r1", "dirty", 2.0), guest("r2", "green", 1.0)]
    awake = {name: (replace(NODE, sleeps=False), value) for name, value in (("dirty", 100.0), ("green", 97.0))}
    assert drained(hosts(awake, guests)).node == "dirty"
    decided = drained(hosts(awake, guests), replace(AT_ONCE, min_saving=0.05))
    assert decided.node is None
    assert "saves 0.075 of 2.5 g" in decided.why


def test_it_has_to_be_worth_it_for_a_while():
    config, state = Consolidation(hold_s=300.0), None
    guests = [guest("r1", "dirty"), guest("r2", "green")]
    stuck = [replace(one, stays=True) for one in guests]
    seen = []
    for now_s, dirty, here in (
        (0, 600.0, guests),
        (200, 600.0, stuck),
        (301, 600.0, guests),
        (500, 20.0, guests),
        (602, 600.0, guests),
        (901, 600.0, guests),
        (902, 600.0, guests),
    ):
        found = hosts({"dirty": dirty, "green": 50.0 if dirty > 50 else 600.0}, here, now_s)
        decided, state = next_drain(found, state, config)
        seen.append(decided.node)
    assert seen == [None] * 6 + ["dirty"]
    assert "for another 300 s" in next_drain(hosts({"dirty": 600.0, "green": 50.0}, guests), None, config)[0].why


def test_one_after_the_other():
    config, state = Consolidation(hold_s=0.0, gap_s=900.0), None
    guests = [guest("r1", "a"), guest("r2", "b")]
    rooms = {"a": 600.0, "b": 500.0, "c": 50.0}
    decided, state = next_drain(hosts(rooms, guests), state, config)
    assert decided.node == "a"
    guests[0] = replace(guests[0], node="c")
    decided, state = next_drain(hosts(rooms, guests, 899.0), state, config)
    assert decided.node is None
    assert "another 1 s" in decided.why
    decided, state = next_drain(hosts(rooms, guests, 900.0), state, config)
    assert decided.node == "b"


def test_a_node_that_was_filled_rests_and_one_that_was_emptied_is_not_filled():
    config = Consolidation(hold_s=0.0, gap_s=0.0, rest_s=3600.0)
    guests = [guest("r1", "a")]
    _, state = next_drain(hosts({"a": 600.0, "b": 50.0}, guests), None, config)
    guests = [guest("r1", "b")]
    decided, state = next_drain(hosts({"a": 50.0, "b": 600.0}, guests, 100.0), state, config)
    assert decided.node is None
    assert "b: filled lately" in decided.why
    decided, _ = next_drain(hosts({"a": 50.0, "b": 600.0}, guests, 3600.0), state, config)
    assert decided.node == "b"
    guests += [guest("r2", "c"), guest("r3", "a")]
    decided, _ = next_drain(hosts({"a": 50.0, "b": 60.0, "c": 600.0}, guests, 100.0), state, config)
    assert decided.moves == (Move("r2", "b"),)


@st.composite
def clusters(draw):
    names = "abcd"[: draw(st.integers(2, 4))]
    guests, used = [], defaultdict(float)
    for index in range(draw(st.integers(0, 8))):
        node, cpus = draw(st.sampled_from(names)), draw(st.sampled_from([0.5, 1.0, 2.0]))
        if used[node] + cpus > 4:
            continue
        used[node] += cpus
        zones = draw(st.sampled_from([(), ("A", "B"), tuple(names.upper())]))
        if zones and node.upper() not in zones:
            zones = ()
        guests.append(guest(f"g{index}", node, cpus, zones=zones, move_g=draw(st.sampled_from([0.0, 0.5]))))
    return names, guests


intensities = st.lists(st.sampled_from([20.0, 100.0, 400.0, 800.0]), min_size=4, max_size=4)


@given(clusters(), st.lists(st.tuples(st.integers(1, 900), intensities), min_size=1, max_size=40))
def test_flapping_intensity_changes_little_and_all_limits_hold(cluster, flaps):
    names, guests = cluster
    config = Consolidation(hold_s=0.0, gap_s=600.0, rest_s=1800.0, min_saving=0.0)
    state, now_s, drains, moved = None, 0, [], defaultdict(list)
    for step_s, values in flaps:
        now_s += step_s
        found = hosts(dict(zip(names, values, strict=False)), guests, float(now_s))
        decided, state = next_drain(found, state, config)
        if decided.node is None:
            continue
        assert decided.saved_g > 0
        drains.append(now_s)
        assert {move.guest for move in decided.moves} == {one.name for one in guests if one.node == decided.node}
        to = {move.guest: move.to for move in decided.moves}
        assert decided.node not in to.values()
        for index, one in enumerate(guests):
            if one.name in to:
                moved[one.name].append(now_s)
                guests[index] = replace(one, node=to[one.name])
                assert not one.zones or to[one.name].upper() in one.zones
        used = defaultdict(float)
        for one in guests:
            used[one.node] += one.demand.cpus
        assert max(used.values()) <= 4 + 1e-9
    assert len(drains) <= 1 + now_s / config.gap_s
    for times in moved.values():
        assert all(later - earlier >= config.rest_s for earlier, later in pairwise(times))


unsure = st.lists(st.sampled_from([20.0, 400.0, 800.0, None]), min_size=4, max_size=4)


@given(clusters(), st.lists(st.tuples(st.integers(1, 100), unsure), min_size=1, max_size=60))
def test_what_is_emptied_was_worth_it_at_every_look_of_the_hold(cluster, flaps):
    """So intensity that flaps faster than the hold, or is lost once in it, moves nothing."""
    names, guests = cluster
    config, at_once = Consolidation(hold_s=120.0, gap_s=0.0), Consolidation(hold_s=0.0, gap_s=0.0)
    state, now_s, since_s = None, 0, {}
    for step_s, values in flaps:
        now_s += step_s
        found = hosts(dict(zip(names, values, strict=False)), guests, float(now_s))
        for name in names:
            alone = replace(found, kept={other: "not asked" for other in names if other != name})
            if next_drain(alone, None, at_once)[0].node is None:
                since_s.pop(name, None)
            else:
                since_s.setdefault(name, now_s)
        decided, state = next_drain(found, state, config)
        if decided.node is not None:
            assert now_s - since_s[decided.node] >= config.hold_s
            return


@given(clusters(), intensities, st.floats(60, 7200), st.floats(1, 5))
def test_what_is_worth_it_for_a_while_is_worth_it_for_longer(cluster, values, horizon_s, longer):
    names, guests = cluster
    found = hosts(dict(zip(names, values, strict=False)), guests)
    config = Consolidation(hold_s=0.0, horizon_s=horizon_s)
    short = drained(found, config)
    if short.node is not None:
        assert drained(found, replace(config, horizon_s=horizon_s * longer)).saved_g >= short.saved_g - 1e-9
