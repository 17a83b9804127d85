"""Nodes one by one, or like ones as pools."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_cases import a_node

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.fleet import MAX_SINGLE, Fleet, Place
from eco_ray.core.power import PowerCurve

ONE = Resources(cpus=1.0)
MANY = MAX_SINGLE + 1


def nodes_of(count, prefix="de", **kind):
    return [a_node(f"{prefix}-{i:03}", **kind) for i in range(count)]


def names(fleet):
    return [[node.name for node in pool] for pool in fleet.pools]


# -- pools -------------------------------------------------------------------------------------------------------------


def test_few_nodes_are_looked_at_one_by_one_in_their_order():
    nodes = nodes_of(MAX_SINGLE, watts=100)[::-1]
    fleet = Fleet(nodes)
    assert fleet.pools == [(node,) for node in nodes]
    assert fleet.places((), ONE) == tuple(Place(i, 0, node) for i, node in enumerate(nodes))


def test_with_one_more_like_nodes_are_a_pool():
    fleet = Fleet(nodes_of(MANY))
    assert names(fleet) == [[f"de-{i:03}" for i in range(MANY)]]
    assert fleet.places((), ONE) == (Place(0, None, fleet.nodes["de-000"]),)


@pytest.mark.parametrize(
    "other",
    [
        a_node("x", zone="FR"),
        a_node("x", cpus=2.0),
        a_node("x", pue=1.1),
        a_node("x", watts=120.0),
        replace(a_node("x"), capacity=Resources(1.0, 0.0, 8.0, 1.0)),
        replace(a_node("x"), sleeps=True),
        replace(a_node("x"), wake_j=5.0),
        replace(a_node("x"), capacity=Resources(1.0, 1.0, 8.0), gpu_idle_w=10.0, gpu_busy_w=300.0),
        # as many watts when it is full, but work adds less to it
        replace(a_node("x"), power=PowerCurve((0.0, 1.0), (80.0, 100.0), "test")),
        # as many watts in all, but not in proportion to the load
        replace(a_node("x"), power=PowerCurve((0.0, 0.5, 1.0), (50.0, 95.0, 100.0), "test")),
    ],
)
def test_nodes_that_differ_in_what_a_plan_depends_on_are_never_in_one_pool(other):
    many = nodes_of(MANY)
    assert Fleet([*many, other]).pools == [tuple(many), (other,)]
    assert Fleet([other, *many]).pools == [(other,), tuple(many)]
    assert Fleet([*many, replace(other, name="y"), other]).pools == [tuple(many), (other, replace(other, name="y"))]


def test_a_lone_node_beside_pools_is_a_place_of_its_own():
    many, lone = nodes_of(MANY), a_node("fr-1", "FR")
    assert Fleet([*many, lone]).places((), ONE) == (Place(0, None, many[0]), Place(1, 0, lone))


def test_power_that_was_measured_with_a_little_noise_makes_no_pools():
    nodes = [a_node(f"n{i:03}", watts=100 + i / 10) for i in range(MANY)]
    assert len(Fleet(nodes).pools) == 1


def test_the_most_frugal_of_a_pool_comes_first_and_stands_for_it():
    nodes = [a_node(f"n{i:03}", watts=102 - i / 10) for i in range(MANY)]
    fleet = Fleet(nodes)
    assert names(fleet) == [[node.name for node in nodes[::-1]]]
    assert fleet.places((), ONE)[0].node == nodes[-1]


def test_frugal_is_what_work_adds_the_least_to():
    """Idle power is drawn anyway: a node that draws more in all may be the better one."""
    nodes = nodes_of(MANY)
    better = replace(a_node("z"), power=PowerCurve((0.0, 1.0), (52.0, 101.0), "test"))  # 49 W against 50 W
    fleet = Fleet([*nodes, better])
    assert [pool[0] for pool in fleet.pools] == [better]


watts = st.sampled_from([80.0, 100.0, 101.0, 103.0, 250.0])
kinds = st.tuples(st.sampled_from(["DE", "FR"]), st.sampled_from([1.0, 4.0]), watts)


@settings(max_examples=80, deadline=None)
@given(st.lists(kinds, max_size=60))
def test_every_node_has_one_seat(of_kinds):
    nodes = [a_node(f"n{i}", zone, cpus, power) for i, (zone, cpus, power) in enumerate(of_kinds)]
    fleet = Fleet(nodes)
    assert sorted(node.name for pool in fleet.pools for node in pool) == sorted(node.name for node in nodes)
    for node in nodes:
        pool, member = fleet.seat[node.name]
        assert fleet.pools[pool][member] == node
        assert fleet.place_of(node.name) == Place(pool, member, node)
    for pool in fleet.pools:
        assert len({(node.zone, node.capacity) for node in pool}) == 1
        adds_w = [node.added_power_w(node.capacity, Resources()) for node in pool]
        assert adds_w == sorted(adds_w)
        assert adds_w[-1] < 1.11 * adds_w[0]
    if len(nodes) <= MAX_SINGLE:
        assert len(fleet.pools) == len(nodes)
    else:
        assert len(fleet.pools) <= 2 * 2 * 3  # zones, sizes, and powers of which three are alike


# -- places ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, MANY])
def test_places_are_in_the_zones_that_are_allowed_and_large_enough(count):
    kinds = {"small-de": ("DE", 1.0), "big-de": ("DE", 4.0), "small-fr": ("FR", 1.0), "big-pl": ("PL", 4.0)}
    fleet = Fleet(
        [node for name, (zone, cpus) in kinds.items() for node in nodes_of(count, name, zone=zone, cpus=cpus)]
    )

    def found(*zones, cpus=1.0):
        return [place.node.name.removesuffix("-000") for place in fleet.places(zones, Resources(cpus))]

    assert found() == list(kinds)
    assert found("DE") == ["small-de", "big-de"]
    assert found("PL", "FR") == ["small-fr", "big-pl"]
    assert found(cpus=4.0) == ["big-de", "big-pl"]
    assert found("FR", cpus=4.0) == []
    assert found("XX") == []
    assert found(cpus=1.0) == list(kinds)  # also when it was asked before
    assert fleet.places((), Resources(1.0, gpus=1.0)) == ()
    assert fleet.places((), Resources(1.0, gpu_memory_gb=1.0)) == ()
    assert fleet.zones == ["DE", "FR", "PL"]


def test_a_node_that_is_not_there_has_no_place():
    assert Fleet([a_node("de-1")]).place_of("de-2") is None
    nobody = Fleet([])
    assert (nobody.zones, nobody.pools, nobody.places((), ONE), nobody.first_in("DE")) == ([], [], (), None)


def test_the_first_node_with_cpus_stands_for_its_zone():
    without = replace(a_node("de-0"), capacity=Resources(0.0, 1.0))
    fleet = Fleet([without, a_node("de-2"), a_node("de-1"), a_node("fr-1", "FR")])
    assert fleet.first_in("DE") == fleet.nodes["de-2"]
    assert fleet.first_in("FR") == fleet.nodes["fr-1"]
    assert Fleet([without]).first_in("DE") is None


# -- power -------------------------------------------------------------------------------------------------------------

GPUS = Node(
    "gpu",
    "DE",
    Resources(4.0, 2.0),
    PowerCurve((0.0, 1.0), (40.0, 120.0), "test"),
    1.5,
    gpu_idle_w=20.0,
    gpu_busy_w=300.0,
)


@pytest.mark.parametrize(
    ("demand", "share_w", "adds_w"),
    [
        (Resources(1.0), 30.0, 20.0),  # a quarter of 80 W, and of 40 W idle
        (Resources(4.0), 120.0, 80.0),
        (Resources(1.0, 1.0), 330.0, 300.0),  # its GPU is idle without it
        (Resources(4.0, 2.0), 720.0, 640.0),
    ],
)
def test_power_of_a_job_with_the_facility_around_it(demand, share_w, adds_w):
    fleet = Fleet([GPUS])
    (place,) = fleet.places((), demand)
    for _ in range(2):  # the second time from memory
        assert fleet.attributed_w(place, demand) == pytest.approx(1.5 * share_w)
        assert fleet.added_w(place, demand) == pytest.approx(1.5 * adds_w)


def test_power_is_that_of_the_node_and_of_the_one_that_stands_for_a_pool():
    nodes = [replace(a_node(f"n{i:03}", watts=100 + i / 10), pue=1.2) for i in range(MANY)]
    fleet = Fleet(nodes)
    (pool,) = fleet.places((), ONE)
    last = fleet.place_of(nodes[-1].name)
    assert fleet.attributed_w(pool, ONE) == pytest.approx(1.2 * 100)
    assert fleet.attributed_w(last, ONE) == pytest.approx(1.2 * 102.4)
    assert fleet.added_w(pool, ONE) == pytest.approx(1.2 * 50)
    assert fleet.added_w(last, ONE) == pytest.approx(1.2 * 51.2)
