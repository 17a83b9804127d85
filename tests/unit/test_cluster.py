"""Amounts of resources, and the power that jobs are given and add."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco_ray.core.cluster import KINDS, Node, Resources
from eco_ray.core.power import PowerCurve

NOBODY = Resources()


def a_node(*watts, **changes):
    """Four CPUs, two GPUs; the curve has its points at even distances."""
    points = tuple(i / (len(watts) - 1) for i in range(len(watts)))
    node = Node("n", "DE", Resources(4.0, 2.0, 16.0, 80.0), PowerCurve(points, watts, "test"))
    return replace(node, **changes)


STRAIGHT = a_node(40.0, 120.0)
#: little is added beside others
FLAT = a_node(40.0, 100.0, 120.0)
#: much is added beside others
STEEP = a_node(40.0, 60.0, 120.0)
WITH_GPUS = a_node(40.0, 120.0, gpu_idle_w=20.0, gpu_busy_w=300.0)


# -- amounts -----------------------------------------------------------------------------------------------------------


def test_amounts_add_up_kind_by_kind():
    one, other = Resources(1.0, 2.0, 3.0, 4.0), Resources(0.5, 0.25, 8.0, 40.0)
    assert one + other == Resources(1.5, 2.25, 11.0, 44.0)
    assert other - one == Resources(-0.5, -1.75, 5.0, 36.0)
    assert one * 3 == Resources(3.0, 6.0, 9.0, 12.0)
    assert one * 1 == one
    assert one * 0 == NOBODY
    assert one.amounts == (1.0, 2.0, 3.0, 4.0)
    assert len(one.amounts) == KINDS


@pytest.mark.parametrize(
    ("demand", "fits"),
    [
        (Resources(4.0, 2.0, 16.0, 80.0), True),
        (Resources(), True),
        (Resources(4.1), False),
        (Resources(1.0, 2.1), False),
        (Resources(1.0, 0.0, 16.1), False),
        (Resources(1.0, 1.0, 1.0, 80.1), False),
    ],
)
def test_every_kind_has_to_fit(demand, fits):
    assert demand.fits_in(STRAIGHT.capacity) is fits


def test_sums_of_fractions_fit():
    assert (Resources(0.1, 0.1, 0.1, 0.1) * 3).fits_in(Resources(0.3, 0.3, 0.3, 0.3))
    assert not Resources(0.3 + 1e-6).fits_in(Resources(0.3))


def test_gpu_memory_is_told_only_of_those_who_ask_for_it():
    assert str(Resources(2.0, 1.0, 8.0)) == "2 CPUs, 1 GPUs, 8 GB memory"
    assert str(Resources(0.5, 1.0, 8.0, 24.0)) == "0.5 CPUs, 1 GPUs, 8 GB memory, 24 GB GPU memory"


@pytest.mark.parametrize(
    ("gpus", "memory_gb", "kept"),
    [
        (0.0, 0.0, 0.0),
        (0.5, 0.0, 1 / 2),
        (1 / 3, 0.0, 1 / 3),
        (0.33, 0.0, 1 / 3),
        (0.4, 0.0, 1 / 2),
        (0.6, 0.0, 1.0),  # no two of them share a GPU
        (0.2, 0.0, 1 / 4),  # fifths do not fit together with halves and thirds
        (0.1, 0.0, 1 / 8),
        (0.1, 25.0, 1.0),  # 25 of 40 GB
        (0.1, 20.0, 1 / 2),
        (0.1, 99.0, 1.0),  # more than a GPU has: another one tells
        (1.0, 40.0, 1.0),
        (2.0, 50.0, 2.0),
        (1.25, 0.0, 1.25),  # what others hold
    ],
)
def test_a_part_of_a_gpu_counts_as_one_that_always_fits_with_others(gpus, memory_gb, kept):
    demand = Resources(1.0, gpus, 2.0, memory_gb)
    assert demand.reserved_on(STRAIGHT.capacity).amounts == pytest.approx((1.0, kept, 2.0, memory_gb))
    assert replace(demand, gpu_memory_gb=0.0).reserved_on(Resources(4.0, 2.0)).gpus >= min(gpus, 2.0)


def can_be_put(parts, gpus):
    """Whether parts of (GPU, GB) have room on GPUs of 40 GB, each on one: by trying all."""
    if not parts:
        return True
    (share, memory_gb), *rest = parts
    for i, (free, free_gb) in enumerate(gpus):
        if share <= free + 1e-9 and memory_gb <= free_gb + 1e-9 and gpus[i] not in gpus[:i]:
            after = [*gpus[:i], (free - share, free_gb - memory_gb), *gpus[i + 1 :]]
            if can_be_put(rest, after):
                return True
    return False


gpu_share = st.one_of(st.sampled_from([1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6, 0.4, 0.3, 0.6, 1.0]), st.floats(0.02, 1.0))


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 3), st.lists(st.tuples(gpu_share, st.sampled_from([0.0, 0.0, 5.0, 13.0, 20.0, 25.0])), max_size=14)
)
def test_what_is_kept_can_be_put_on_single_gpus(count, asked):
    capacity, taken, parts = Resources(99.0, count, 99.0, 40.0 * count), 0.0, []
    for share, memory_gb in asked:
        kept = Resources(1.0, share, 0.0, memory_gb).reserved_on(capacity).gpus
        if taken + kept <= count + 1e-9:
            taken += kept
            parts.append((share, memory_gb))
    assert can_be_put(sorted(parts, reverse=True), [(1.0, 40.0)] * count)


amounts = st.builds(Resources, *[st.floats(0, 1e4)] * KINDS)


@given(amounts, amounts, st.integers(1, 9))
def test_workers_hold_as_much_as_that_many_jobs(demand, free, workers):
    together = sum([demand] * workers, Resources())
    assert (demand * workers).amounts == pytest.approx(together.amounts)
    assert ((free + demand) - demand).amounts == pytest.approx(free.amounts, abs=1e-8)
    if (demand * workers).fits_in(free):
        assert demand.fits_in(free)


# -- power that a job is given -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "demand", "watts"),
    [
        (STRAIGHT, Resources(1.0), 20.0 + 10.0),
        (STRAIGHT, Resources(4.0), 120.0),
        (STRAIGHT, Resources(8.0), 120.0),  # no more than the node has
        (STRAIGHT, Resources(0.0, 1.0), 0.0),
        (FLAT, Resources(1.0), 30.0 + 10.0),
        (STEEP, Resources(1.0), 10.0 + 10.0),
        (WITH_GPUS, Resources(1.0), 30.0),  # who holds no GPU pays for none
        (WITH_GPUS, Resources(1.0, 1.0), 330.0),
        (WITH_GPUS, Resources(1.0, 0.5), 180.0),
        (WITH_GPUS, Resources(4.0, 2.0), 720.0),
    ],
)
def test_a_job_is_given_what_it_makes_busy_and_the_idle_power_that_it_reserves(node, demand, watts):
    assert node.attributed_power_w(demand) == pytest.approx(watts)
    assert replace(node, pue=2.0).attributed_power_w(demand) == pytest.approx(watts)  # PUE is not its business
    assert replace(node, sleeps=True).attributed_power_w(demand) == pytest.approx(watts)


def test_jobs_that_fill_a_node_are_given_its_power():
    quarters = [Resources(1.0, 0.5)] * 4
    given_w = sum(WITH_GPUS.attributed_power_w(demand) for demand in quarters)
    assert given_w == pytest.approx(120.0 + 2 * 300.0)


# -- power that a job adds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [NOBODY, Resources(1.0), Resources(2.5, 1.0), Resources(3.0)])
def test_on_a_straight_curve_a_job_adds_the_same_beside_any_others(others):
    assert STRAIGHT.added_power_w(Resources(1.0), others) == pytest.approx(20.0)
    assert WITH_GPUS.added_power_w(Resources(1.0, 1.0), others) == pytest.approx(20.0 + 280.0)
    assert STRAIGHT.power.is_straight


@pytest.mark.parametrize(
    ("node", "others", "watts"),
    [
        (FLAT, NOBODY, 30.0),
        (FLAT, Resources(1.0), 30.0),
        (FLAT, Resources(1.5), 20.0),  # across the bend
        (FLAT, Resources(2.0), 10.0),
        (STEEP, NOBODY, 10.0),
        (STEEP, Resources(1.5), 20.0),
        (STEEP, Resources(3.0), 30.0),
        (STEEP, Resources(4.0), 0.0),  # a full node draws no more than that
    ],
)
def test_on_a_bent_curve_it_depends_on_the_others(node, others, watts):
    assert node.added_power_w(Resources(1.0), others) == pytest.approx(watts)
    assert not node.power.is_straight


def test_a_sleeping_node_adds_its_idle_power_for_the_first_alone():
    sleeps = replace(WITH_GPUS, sleeps=True, wake_j=1e6)
    assert sleeps.idle_w == 40.0 + 2 * 20.0
    assert sleeps.added_power_w(Resources(1.0), NOBODY) == pytest.approx(20.0 + 80.0)
    assert sleeps.added_power_w(Resources(1.0, 2.0), NOBODY) == pytest.approx(20.0 + 40.0 + 2 * 300.0)
    for others in (Resources(0.5), Resources(0.0, 1.0), Resources(0.0, 0.0, 1.0), Resources(0.0, 0.0, 0.0, 1.0)):
        assert sleeps.added_power_w(Resources(1.0), others) == pytest.approx(20.0)


def test_a_node_without_cpus_has_its_gpus_power_alone():
    box = replace(WITH_GPUS, capacity=Resources(0.0, 2.0))
    assert box.attributed_power_w(Resources(0.0, 1.0)) == pytest.approx(300.0)
    assert box.added_power_w(Resources(0.0, 1.0), NOBODY) == pytest.approx(280.0)


curves = st.lists(st.floats(0, 500), min_size=2, max_size=5).map(lambda watts: a_node(*sorted(watts)))


@given(curves, st.lists(st.integers(1, 16), min_size=1, max_size=8), st.booleans())
def test_what_jobs_add_one_after_the_other_is_what_the_node_draws(node, quarters, sleeps):
    """Whatever the curve: nothing is counted twice, and nothing is left out."""
    node, others, added_w = replace(node, sleeps=sleeps), NOBODY, 0.0
    for cpus in quarters:
        demand = Resources(cpus / 4)
        added_w += node.added_power_w(demand, others)
        others = others + demand
    drawn_w = node.power.power_w(min(1.0, others.cpus / 4.0))
    assert added_w == pytest.approx(drawn_w - (0.0 if sleeps else node.idle_w), abs=1e-6)
