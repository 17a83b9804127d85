"""Promises of many like nodes, which the planner looks at together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco_ray.core.calendar import Calendar
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.fleet import Place
from eco_ray.core.jobs import Segment
from eco_ray.core.power import PowerCurve

SLOT_S = 900.0
CURVE = PowerCurve((0.0, 1.0), (10.0, 20.0), source="test")
SIZE = Resources(4.0, 2.0, 16.0, 80.0)
ONE = Resources(cpus=1.0)
MANY = 30
#: names sort like numbers, and so do the members of a pool of nodes that draw the same
NAMES = [f"n{i:03}" for i in range(MANY)]


def a_pool(count=MANY, first_slot=0):
    """A calendar of so many like nodes, and all of them as a place."""
    calendar = Calendar(SLOT_S, [Node(f"n{i:03}", "DE", SIZE, CURVE) for i in range(count)], first_slot)
    (pool,) = calendar.fleet.places((), ONE)
    assert pool == Place(0, None, calendar.fleet.nodes["n000"])
    return calendar, pool


def segment(first, last, node="n000", workers=1):
    return Segment(node, "DE", first * SLOT_S, last * SLOT_S, workers)


def found(calendar, demand=ONE, first=0.0, last=1.0):
    node = calendar.find(0, first * SLOT_S, last * SLOT_S, demand)
    return node.name if node else None


def test_a_pool_has_what_its_nodes_have_together():
    calendar, pool = a_pool()
    for name in NAMES:
        calendar.reserve(segment(0, 1, name), Resources(4.0 if name < "n029" else 3.0))
    assert calendar.fits([pool], ONE, 0, 2).tolist() == [[True, True]]
    assert calendar.most_workers([pool], ONE, 0, 2, 200).tolist() == [[1, 4 * MANY]]
    calendar.reserve(segment(0, 1, "n029"), ONE)
    assert calendar.fits([pool], ONE, 0, 2).tolist() == [[False, True]]
    calendar.release(segment(0, 1, "n007"), Resources(4.0))
    assert calendar.most_workers([pool], ONE, 0, 2, 200).tolist() == [[4, 4 * MANY]]


def test_the_nodes_of_a_pool_can_be_asked_one_by_one():
    calendar, pool = a_pool()
    calendar.reserve(segment(0, 1, "n005"), SIZE)
    places = [pool, Place(0, 5, calendar.fleet.nodes["n005"]), Place(0, 6, calendar.fleet.nodes["n006"])]
    assert calendar.fits(places, ONE, 0, 2).tolist() == [[True, True], [False, True], [True, True]]
    assert calendar.cpus_held(places[1], 0, 2).tolist() == [4, 0]
    assert calendar.cpus_held(pool, 0, 2) == pytest.approx([4 / MANY, 0])
    assert calendar.held("n005", 0, 1).tolist() == [list(SIZE.amounts)]
    assert not calendar.held("n006", 0, 1).any()


@pytest.mark.parametrize(
    ("demand", "first", "last", "expected"),
    [
        (ONE, 0.0, 1.0, "n001"),
        (ONE, 0.0, 3.0, "n001"),
        (ONE, 0.0, 3.1, "n002"),
        (ONE, 3.9, 9.0, "n002"),
        (ONE, 4.0, 9.0, "n001"),
        (ONE, 9.0, 12.0, "n000"),
        (Resources(0.5), 0.0, 9.0, "n000"),
        (Resources(), 0.0, 9.0, "n000"),
        (Resources(4.1), 0.0, 1.0, None),
    ],
)
def test_the_first_node_with_room_all_the_time_is_found(demand, first, last, expected):
    calendar, _ = a_pool()
    calendar.reserve(segment(0, 9, "n000"), Resources(3.5))
    calendar.reserve(segment(3, 4, "n001"), SIZE)
    assert found(calendar, demand, first, last) == expected


def test_the_first_node_that_has_room_is_found_whatever_was_asked_before():
    calendar, _ = a_pool()
    for name in NAMES[:5]:
        calendar.reserve(segment(0, 1, name), SIZE)
    assert found(calendar) == "n005"
    calendar.release(segment(0, 1, "n002"), SIZE)
    assert found(calendar) == "n002"


def test_a_pool_may_have_room_that_no_node_of_it_has():
    calendar, pool = a_pool()
    for name in NAMES:
        calendar.reserve(segment(0, 2, name), Resources(3.0))
    wide = Resources(2.0)
    assert calendar.fits([pool], wide, 0, 2).all()
    assert found(calendar, wide) is None
    # in every slot another node has room
    calendar.release(segment(0, 2, "n003"), Resources(3.0))
    calendar.reserve(segment(1, 2, "n003"), Resources(3.0))
    calendar.release(segment(0, 2, "n004"), Resources(3.0))
    calendar.reserve(segment(0, 1, "n004"), Resources(3.0))
    assert (found(calendar, wide), found(calendar, wide, 1.0, 2.0)) == ("n003", "n004")
    assert found(calendar, wide, 0.0, 2.0) is None
    assert found(calendar, wide, 0.0, 1.01) is None


@pytest.mark.parametrize("at", [0, 63, 64, 127, 128, 199])
def test_the_only_free_node_of_very_many_is_found(at):
    calendar, pool = a_pool(200)
    for i in range(200):
        if i != at:
            calendar.reserve(segment(0, 5, f"n{i:03}"), Resources(4.0))
    assert found(calendar, Resources(4.0), 0.0, 5.0) == f"n{at:03}"
    assert calendar.most_workers([pool], Resources(4.0), 0, 1, 9).tolist() == [[1]]
    calendar.reserve(segment(4, 5, f"n{at:03}"), Resources(0.5))
    assert found(calendar, Resources(4.0), 0.0, 5.0) is None


@pytest.mark.parametrize(
    "demand",
    [Resources(1.0, 2.0), Resources(1.0, 0.0, 16.0), Resources(1.0, 1.5, 0.0, 60.0), Resources(1.0, 1.5, 0.0, 41.0)],
)
def test_gpus_and_both_kinds_of_memory_count_node_by_node(demand):
    calendar, pool = a_pool()
    for name in NAMES[:-1]:
        calendar.reserve(segment(0, 1, name), Resources(1.0, 0.5, 8.0, 50.0))
    assert calendar.fits([pool], demand, 0, 1).all()
    assert found(calendar, demand) == "n029"
    calendar.reserve(segment(0, 1, "n029"), demand)
    assert found(calendar, demand) is None
    assert found(calendar, Resources(1.0, 1.0, 8.0, 30.0)) == "n000"
    assert calendar.roomiest(0, demand, 0, 2, 1)[0].node.name == "n000"  # from the next slot on, all are the same


def test_what_others_hold_counts_on_their_node_alone():
    calendar, pool = a_pool()
    calendar.set_foreign("n000", Resources(3.5))
    calendar.set_foreign("n001", Resources(99.0))  # more than there is
    assert found(calendar, Resources(0.5)) == "n000"
    assert found(calendar) == "n002"
    assert calendar.most_workers([pool], Resources(0.5), 0, 1, 999).tolist() == [[1 + 8 * (MANY - 2)]]
    assert calendar.free_mean(0, np.array([0.0, SLOT_S]))[0, 0] == pytest.approx(0.5 + 4 * (MANY - 2))
    assert calendar.cpus_held(pool, 0, 1) == pytest.approx([(3.5 + 4.0) / MANY])
    calendar.set_foreign("n001", Resources())
    calendar.reserve(segment(0, 1, "n002"), SIZE)
    assert found(calendar) == "n001"


def test_what_a_node_is_overbooked_by_is_not_missing_on_the_others():
    calendar, pool = a_pool()
    for name in NAMES:
        calendar.reserve(segment(0, 4, name), Resources(3.0))
    overrun = segment(0, 2, "n000", workers=5)
    calendar.reserve(overrun, ONE)
    assert calendar.most_workers([pool], ONE, 0, 3, 99).tolist() == [[MANY - 1, MANY - 1, MANY]]
    assert calendar.free_mean(0, np.array([0.0, SLOT_S]))[0, 0] == MANY - 1
    calendar.set_foreign("n001", Resources(3.0))  # and some of them have come there meanwhile
    assert calendar.most_workers([pool], ONE, 0, 3, 99).tolist() == [[MANY - 2, MANY - 2, MANY - 1]]
    calendar.set_foreign("n001", Resources())
    calendar.release(overrun, ONE)
    assert calendar.most_workers([pool], ONE, 0, 3, 99).tolist() == [[MANY] * 3]
    for name in NAMES:
        calendar.release(segment(0, 4, name), Resources(3.0))
    assert calendar.cpus_held(pool, 0, 4).tolist() == [0] * 4


def test_the_roomiest_nodes_are_those_with_most_slots_free():
    calendar, _ = a_pool()
    for i, name in enumerate(NAMES):
        calendar.reserve(segment(0, 40 - i, name), Resources(3.0))
    names = [place.node.name for place in calendar.roomiest(0, Resources(2.0), 0, 40, 3)]
    assert names == ["n029", "n028", "n027"]
    # seen from slot 39 on, all but the first node are free, and the first of these comes first
    places = calendar.roomiest(0, Resources(2.0), 39, 40, 3)
    assert [place.node.name for place in places] == ["n001", "n002", "n003"]
    assert places == [calendar.fleet.place_of(place.node.name) for place in places]
    assert len(calendar.roomiest(0, Resources(2.0), 0, 40, 99)) == MANY


def test_rounding_makes_no_node_less_roomy():
    calendar, _ = a_pool()
    for name in NAMES:
        for _ in range(37 if name == "n020" else 0):
            calendar.reserve(segment(0, 4, name), Resources(0.1))  # 3.7 and a little more together
        calendar.reserve(segment(0, 4, name), Resources(0.0 if name == "n020" else 3.8))
    assert calendar.held("n020", 0, 1)[0, 0] > 4.0 - 0.3
    assert calendar.roomiest(0, Resources(0.3), 0, 4, 1)[0].node.name == "n020"
    assert found(calendar, Resources(0.3)) == "n020"
    assert found(calendar, Resources(0.3)) == "n020"  # also when it is asked first


def test_a_pool_grows_and_forgets_like_a_node():
    calendar, pool = a_pool()
    calendar.reserve(segment(1100, 1200, "n001", workers=4), ONE)
    calendar.reserve(segment(90_000, 90_001, "n001"), ONE)
    calendar.forget_before(1150 * SLOT_S)
    assert calendar.most_workers([pool], ONE, 1199, 2, 999).tolist() == [[4 * MANY - 4, 4 * MANY]]
    calendar.release(segment(1100, 1200, "n001", workers=4), ONE)
    assert calendar.most_workers([pool], ONE, 1150, 51, 999).min() == 4 * MANY
    assert calendar.most_workers([pool], ONE, 89_999, 3, 999).tolist() == [[4 * MANY, 4 * MANY - 1, 4 * MANY]]
    with pytest.raises(ValueError, match="slot 1149 is before the calendar's first slot 1150"):
        calendar.fits([pool], ONE, 1149, 1)


# -- against a table of its own ----------------------------------------------------------------------------------------

FEW = 26
DEMANDS = [
    ONE,
    Resources(0.1),
    Resources(2.5, 0.0, 1.0),
    Resources(1.0, 1.0, 0.0, 40.0),
    Resources(4.0, 2.0, 16.0, 80.0),
]
promise = st.tuples(
    st.integers(0, FEW - 1), st.integers(0, 5), st.integers(1, 6), st.sampled_from(DEMANDS), st.integers(1, 2)
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(promise, max_size=60),
    st.lists(st.tuples(st.integers(0, FEW - 1), st.sampled_from(DEMANDS)), max_size=9),
    st.sampled_from(DEMANDS),
    st.integers(0, 5),
    st.integers(1, 6),
)
def test_a_pool_says_what_a_table_of_its_nodes_says(promises, foreign, demand, first, length):
    calendar, pool = a_pool(FEW)
    slots = 12
    free = np.tile(np.array(SIZE.amounts)[:, None], (FEW, 1, slots))
    for member, start, count, held, workers in promises:
        calendar.reserve(segment(start, start + count, f"n{member:03}", workers), held)
        free[member, :, start : start + count] -= np.array((held * workers).amounts)[:, None]
    for member, held in dict(foreign).items():
        calendar.set_foreign(f"n{member:03}", held)
        free[member] -= np.array(held.amounts)[:, None]
    wanted = np.array(demand.amounts)[:, None]
    room = (free >= wanted - 1e-6).all(axis=1, where=wanted > 0)
    together = (np.maximum(free, 0.0).sum(axis=0) >= wanted - 1e-6).all(axis=0, where=wanted > 0)
    assert calendar.fits([pool], demand, 0, slots)[0].tolist() == together.tolist()
    each = [place for name in calendar.fleet.nodes if (place := calendar.fleet.place_of(name))]
    assert calendar.fits(each, demand, 0, slots).tolist() == room.tolist()
    fitting = np.flatnonzero(room[:, first : first + length].all(axis=1))
    expected = f"n{fitting[0]:03}" if len(fitting) else None
    assert found(calendar, demand, float(first), float(first + length)) == expected
    slots_free = room[:, first : first + length].sum(axis=1)
    names = [place.member for place in calendar.roomiest(0, demand, first, length, 5)]
    assert names == sorted(range(FEW), key=lambda member: (-slots_free[member], member))[:5]


# -- what changes leave ------------------------------------------------------------------------------------------------

#: kind of change, first slot, how many, and what is taken, or reserved and given back
changes = st.lists(
    st.tuples(
        st.sampled_from(["takes"] * 12 + ["gives back"]),
        st.integers(0, 4),
        st.integers(1, 4),
        st.sampled_from([ONE, Resources(0.5), Resources(2.0), Resources(0.5, 1.0), Resources(1.0, 0.0, 6.0)]),
    ),
    max_size=12,
)
wants = st.sampled_from([ONE, Resources(1.5), Resources(3.0, 0.0, 2.0), Resources(0.0, 1.0), SIZE, Resources(9.0)])


@pytest.mark.parametrize("count", [1, MANY])
@settings(max_examples=200, deadline=None)
@given(changes, wants, st.data())
def test_what_changes_left_is_what_every_one_of_their_slots_had_free(count, many, want, data):
    """Beside a plain list of slots; all nodes but two are in use by others, so that room is scarce."""
    calendar, free = a_pool_with_two_free(count)
    needs, since = calendar.needs(0, want), data.draw(st.integers(0, len(many)))
    place = calendar.fleet.place_of("n000") if count == 1 else Place(0, None, calendar.fleet.nodes["n000"])
    held, had, enough, version = np.zeros((8, 4)), np.zeros(8, dtype=bool), True, 0
    for number, (kind, first, slots, demand) in enumerate(many):
        if number == since:
            version, had, enough = calendar.versions[0], (held + want.amounts <= free).all(axis=1), True
        if kind == "gives back":
            calendar.reserve(segment(first, first + slots), demand)
            calendar.release(segment(first, first + slots), demand)
            enough = False
        elif calendar.take(0, first * SLOT_S, (first + slots) * SLOT_S, calendar.needs(0, demand)) is not None:
            taken = np.array(demand.amounts) > 0
            held[first : first + slots] += demand.amounts
            left = (free - held[first : first + slots])[:, taken] >= np.array(want.amounts)[taken]
            enough &= bool(left.all()) and bool((np.array(want.amounts) <= free).all())
    if since == len(many):
        version, had, enough = calendar.versions[0], (held + want.amounts <= free).all(axis=1), True
    assert calendar.left(0, version, needs) is enough
    if enough:  # whoever wants no more finds as much as before
        assert calendar.has_room(place, needs, 0, 8).tolist() == had.tolist()


def a_pool_with_two_free(count):
    """A calendar of so many like nodes, of which others use all but two, and what is free in all of them."""
    calendar = Calendar(SLOT_S, [Node(f"n{i:03}", "DE", SIZE, CURVE) for i in range(count)])
    for name in NAMES[2:count]:
        calendar.set_foreign(name, SIZE)
    return calendar, np.array(SIZE.amounts) * min(count, 2)


def test_nobody_remembers_what_very_many_changes_left():
    calendar, _ = a_pool()
    for number in range(64):
        calendar.take(0, number * SLOT_S, (number + 1) * SLOT_S, calendar.needs(0, ONE))
    assert calendar.left(0, 0, calendar.needs(0, ONE))
    calendar.take(0, 0.0, SLOT_S, calendar.needs(0, ONE))
    assert not calendar.left(0, 0, calendar.needs(0, ONE))
    assert calendar.left(0, 1, calendar.needs(0, ONE))
