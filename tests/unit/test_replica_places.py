"""Where replicas go: the fewest added grams first, no device given twice, no memory promised that is not there."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.power import PowerCurve
from eco_ray.core.replica_places import Place, Room, changed_places, grams_by_count, plan_replicas, with_gpus
from eco_ray.errors import InfeasibleError


def room(name, cpus=4.0, gpus=0.0, gpu_gb=0.0, intensity=100.0, held=Resources(), watts=(50, 100)):  # noqa: B008
    curve = PowerCurve((0, 1), watts, "test")
    return Room(Node(name, name.upper(), Resources(cpus, gpus, 8.0, gpus * gpu_gb), curve), held, intensity)


def test_the_fewest_added_grams_come_first_and_the_unknown_last():
    rooms = [
        room("dirty", intensity=600.0),
        room("unknown", intensity=None),
        room("hungry", intensity=100.0, watts=(50, 300)),
        room("clean", intensity=100.0),
    ]
    plan = plan_replicas(rooms, Resources(2.0), 1, 3)
    assert plan.nodes == ("clean", "hungry", "dirty", "unknown")
    assert plan.places == (Place("clean", ()), Place("clean", ()), Place("hungry", ()))


def test_a_node_that_is_asleep_comes_back_for_what_no_other_has_room_for():
    rooms = [
        replace(room("asleep", intensity=20.0), asleep=True),
        replace(room("dirty asleep", intensity=900.0), asleep=True),
        room("awake", intensity=600.0),
    ]
    plan = plan_replicas(rooms, Resources(2.0), 1, 5)
    assert plan.nodes == ("awake", "asleep", "dirty asleep")
    assert [place.node for place in plan.places] == ["awake"] * 2 + ["asleep"] * 2 + ["dirty asleep"]
    assert plan_replicas(rooms[:2], Resources(2.0), 1, 1).places == (Place("asleep", ()),)
    assert [place.node for place in changed_places(rooms, Resources(4.0), (), 2)] == ["awake", "asleep"]
    with pytest.raises(InfeasibleError, match="there is room for 3 "):
        plan_replicas(rooms, Resources(4.0), 4, 4)


def test_parts_of_gpus_fill_a_device_before_the_next():
    plan = plan_replicas([room("a", gpus=2, gpu_gb=16)], Resources(0.1, gpu_memory_gb=6.0), 4, 9)
    assert plan.demand.gpus == 0.5
    assert [place.devices for place in plan.places] == [(0,), (0,), (1,), (1,)]


def test_whole_gpus_are_apart():
    plan = plan_replicas([room("a", gpus=4, gpu_gb=16)], Resources(0.1, gpus=2.0), 2, 2)
    assert [place.devices for place in plan.places] == [(0, 1), (2, 3)]


def test_beside_others_the_device_is_not_known():
    plan = plan_replicas([room("a", gpus=2, gpu_gb=16, held=Resources(gpus=0.5))], Resources(0.1, gpus=1.0), 1, 1)
    assert plan.places == (Place("a", None),)


@pytest.mark.parametrize(
    ("memory_gb", "sizes_gb", "gpus"),
    [
        (6, (16,), 1 / 2),
        (5, (24, 16), 1 / 3),
        (20, (24, 16), 1.0),
        (1, (80,), 1 / 48),
        (16, (16,), 1.0),
        (40, (16,), 3.0),
        (40, (24, 16), 2.0),
    ],
)
def test_memory_takes_the_part_that_it_is_of_the_smallest_gpu_it_fits_on(memory_gb, sizes_gb, gpus):
    nodes = [room(f"n{size}", gpus=2, gpu_gb=size).node for size in sizes_gb]
    assert with_gpus(Resources(gpu_memory_gb=memory_gb), nodes).gpus == pytest.approx(gpus)


def test_what_has_no_room_is_told_with_what_is_free():
    with pytest.raises(InfeasibleError, match=r"3 replicas with 2 CPUs.* room for 2 \(free: a 4 CPUs"):
        plan_replicas([room("a")], Resources(2.0), 3, 3)
    with pytest.raises(InfeasibleError, match="no node has a GPU whose memory is known"):
        plan_replicas([room("a")], Resources(gpu_memory_gb=6.0), 1, 1)
    with pytest.raises(InfeasibleError, match="room for 0"):  # a tenth of a GPU has no 6 of its 16 GB
        plan_replicas([room("a", gpus=1, gpu_gb=16)], Resources(gpus=0.1, gpu_memory_gb=6.0), 1, 1)


@given(
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from([8, 16, 24, 80]), st.integers(1, 8)), min_size=1, max_size=4),
    st.floats(0.5, 100.0),
    st.integers(1, 20),
)
def test_no_device_is_promised_more_than_it_has(nodes, memory_gb, most):
    rooms = [room(f"n{i}", cpus, gpus, size) for i, (gpus, size, cpus) in enumerate(nodes)]
    try:
        plan = plan_replicas(rooms, Resources(0.5, gpu_memory_gb=memory_gb), 0, most)
    except InfeasibleError:
        return
    sizes = {one.node.name: one.node.capacity.gb_per_gpu for one in rooms}
    held, parts, cpus = defaultdict(float), defaultdict(float), defaultdict(float)
    for place in plan.places:
        cpus[place.node] += 0.5
        for device in place.devices:
            held[place.node, device] += memory_gb / len(place.devices)
            parts[place.node, device] += min(1.0, plan.demand.gpus)
    assert all(parts[key] <= 1 + 1e-6 for key in parts)
    assert all(held[name, device] <= sizes[name] * (1 + 1e-6) for name, device in held)
    assert all(
        used <= next(one for one in rooms if one.node.name == name).node.capacity.cpus for name, used in cpus.items()
    )


def test_one_more_goes_where_it_adds_least_and_one_less_where_it_takes_most():
    rooms = [room("dirty", intensity=600.0, held=Resources(2.0)), room("clean", intensity=100.0, held=Resources(3.0))]
    places = (Place("dirty", ()), Place("clean", ()))
    assert changed_places(rooms, Resources(1.0), places, 3) == (*places, Place("clean", ()))
    assert changed_places(rooms, Resources(1.0), places, 4) == (*places, Place("clean", ()), Place("dirty", ()))
    assert changed_places(rooms, Resources(1.0), places, 99)[2:] == (Place("clean", ()), *2 * (Place("dirty", ()),))
    assert changed_places(rooms, Resources(1.0), places, 1) == (Place("clean", ()),)
    assert changed_places(rooms, Resources(1.0), places, 0) == ()
    assert changed_places(rooms, Resources(1.0), places, 2) == places


def test_the_last_replica_of_a_node_that_would_sleep_takes_its_idle_power_along():
    def sleeper(name, replicas, intensity):
        awake = room(name, held=Resources(float(replicas)), intensity=intensity)
        return replace(awake, node=replace(awake.node, sleeps=True))

    rooms = [sleeper("two", 2, 110.0), sleeper("one", 1, 100.0)]
    places = (Place("two", ()), Place("two", ()), Place("one", ()))
    assert changed_places(rooms, Resources(1.0), places, 2) == places[:2]


def test_what_went_counts_for_the_next_to_go():
    """The first of "a" takes 20 W along, the second one 5 W."""
    bent = PowerCurve((0, 0.5, 1), (50, 60, 100), "test")
    rooms = [room("a", held=Resources(3.0), intensity=200.0), room("b", held=Resources(4.0), intensity=100.0)]
    rooms = [replace(one, node=replace(one.node, power=bent)) for one in rooms]
    places = (*3 * (Place("a", ()),), *4 * (Place("b", ()),))
    assert changed_places(rooms, Resources(1.0), places, 5) == (*2 * (Place("a", ()),), *3 * (Place("b", ()),))


def test_an_unknown_intensity_is_the_first_to_go():
    rooms = [room("unknown", intensity=None, held=Resources(1.0)), room("dirty", intensity=900.0, held=Resources(1.0))]
    assert changed_places(rooms, Resources(1.0), (Place("unknown", ()), Place("dirty", ())), 1) == (Place("dirty", ()),)


def test_grams_of_each_number_of_replicas():
    rooms = [room("dirty", intensity=600.0), room("clean", cpus=1.0, intensity=100.0)]
    assert grams_by_count(rooms, Resources(1.0), 3) == pytest.approx((0.0, 5.0, 12.5, 20.0))
    assert grams_by_count(rooms, Resources(1.0), 99) == pytest.approx((0.0, 5.0, 12.5, 20.0, 27.5, 35.0))
