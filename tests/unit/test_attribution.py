"""Attribution is exact for any input, fair by hand-computed tables, and indifferent to order."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco_ray.core.attribution import attribute, largest_remainder
from eco_ray.core.ledger import Sample, Usage
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError


def job(owner_id: str, cpu_s: float, reserved: float = 0.0, attempt: int = 1) -> Usage:
    return Usage("job", owner_id, attempt, cpu_s, reserved)


def sample(energy_mj: int, idle_mj: int, *usages: Usage, system_cpu_s: float = 0.0) -> Sample:
    return Sample(
        node="n1",
        boot_id="b",
        seq=7,
        start_s=0.0,
        end_s=1.0,
        energy_mj=energy_mj,
        idle_mj=idle_mj,
        nature=Nature.MODELLED,
        source="test",
        error_rel=0.4,
        usages=usages,
        system_cpu_s=system_cpu_s,
    )


def shares(s: Sample, capacity: float) -> dict[str, int]:
    return {share.owner_id: share.energy_mj for share in attribute(s, capacity)}


@pytest.mark.parametrize(
    ("total", "weights", "parts"),
    [
        (10, [1, 1, 1], [4, 3, 3]),
        (11, [1, 1, 1], [4, 4, 3]),
        (100, [1, 2, 7], [10, 20, 70]),
        (7, [0.1, 0.2, 0.7], [1, 1, 5]),  # quotas 0.7, 1.4, 4.9
        (1, [0, 0, 5], [0, 0, 1]),
        (0, [0, 0], [0, 0]),
        (0, [], []),
        (3, [1e-300, 1e300], [0, 3]),
        (2, [5e-324, 5e-324], [1, 1]),
    ],
)
def test_largest_remainder_table(total, weights, parts):
    assert largest_remainder(total, weights) == parts


def test_ties_follow_the_keys_and_not_the_positions():
    assert largest_remainder(10, [1, 1, 1], keys=["c", "a", "b"]) == [3, 4, 3]


@pytest.mark.parametrize("weight", [-1.0, -1e-300, math.nan, math.inf])
def test_bad_weights_are_refused_with_value_and_cure(weight):
    with pytest.raises(EcoRayError, match=r"weight .* must be finite and >= 0; drop or mend"):
        largest_remainder(5, [1.0, weight])


@pytest.mark.parametrize(("total", "weights"), [(-1, [1.0]), (5, []), (5, [0.0, 0.0])])
def test_what_cannot_be_split_is_refused(total, weights):
    with pytest.raises(EcoRayError, match="cannot split"):
        largest_remainder(total, weights)


weights_st = st.lists(st.floats(min_value=0, allow_infinity=False, allow_nan=False), min_size=1, max_size=8).filter(any)


@given(st.integers(0, 10**15), weights_st)
def test_parts_sum_exactly_and_stay_within_one_of_the_quota(total, weights):
    parts = largest_remainder(total, weights)
    assert sum(parts) == total
    assert min(parts) >= 0
    assert all(part == 0 for part, weight in zip(parts, weights, strict=True) if weight == 0)
    ratios = [weight.as_integer_ratio() for weight in weights]
    common = math.lcm(*(d for _, d in ratios))
    exact = [n * (common // d) for n, d in ratios]
    for part, weight in zip(parts, exact, strict=True):
        assert abs(part * sum(exact) - total * weight) < sum(exact)


@given(st.data(), st.integers(0, 10**12), weights_st)
def test_order_of_weights_does_not_matter(data, total, weights):
    order = data.draw(st.permutations(range(len(weights))))
    straight = largest_remainder(total, weights, keys=range(len(weights)))
    shuffled = largest_remainder(total, [weights[i] for i in order], keys=order)
    assert [straight[i] for i in order] == shuffled


@pytest.mark.parametrize(
    ("energy", "idle", "usages", "system", "capacity", "expected"),
    [
        # dynamic 60 mJ by CPU time 1:2 (20, 40); idle 40 mJ by reservation 1/4 and 2/4 (10, 20); 10 unallocated
        (100, 40, [job("a", 1, 1), job("b", 2, 2)], 0, 4, {"a": 30, "b": 60}),
        # the system's CPU second takes a third of the dynamic energy with it
        (100, 40, [job("a", 2, 1)], 1, 4, {"a": 50}),
        # reserved but asleep: idle only; dynamic goes to the system
        (100, 40, [job("a", 0, 2)], 0.5, 4, {"a": 20}),
        # no CPU time seen at all: dynamic energy belongs to nobody
        (100, 40, [job("a", 0, 2)], 0, 4, {"a": 20}),
        # busy without a reservation (0-CPU driver): dynamic only
        (100, 40, [job("a", 1, 0)], 1, 4, {"a": 30}),
        # reserved 8 of 4 CPUs: scaled down to 4, nothing unallocated
        (100, 40, [job("a", 1, 6), job("b", 1, 2)], 0, 4, {"a": 60, "b": 40}),
        # the same owner twice is one share
        (100, 40, [job("a", 1, 1), job("a", 1, 1), job("b", 2, 0)], 0, 4, {"a": 50, "b": 30}),
        # idle node without jobs, and a node that offers no CPU
        (100, 40, [], 0, 4, {}),
        (100, 40, [job("a", 1, 0)], 1, 0, {"a": 30}),
        (0, 0, [job("a", 1, 1)], 0, 4, {"a": 0}),
    ],
)
def test_attribution_table(energy, idle, usages, system, capacity, expected):
    assert shares(sample(energy, idle, *usages, system_cpu_s=system), capacity) == expected


def test_jobs_models_and_attempts_are_different_owners():
    usages = (job("x", 1, attempt=1), job("x", 1, attempt=2), Usage("model", "x", 0, 2.0))
    result = attribute(sample(100, 0, *usages), 4)
    assert [(s.owner_kind, s.attempt, s.energy_mj) for s in result] == [
        ("job", 1, 25),
        ("job", 2, 25),
        ("model", 0, 50),
    ]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"idle_mj": 101}, r"sample 7 of node 'n1': idle energy 101 mJ is outside \[0, 100\] mJ"),
        ({"idle_mj": -1}, "outside"),
        ({"energy_mj": -5, "idle_mj": 0}, "outside"),
        ({"energy_mj": 1.5}, "whole numbers"),
        ({"energy_mj": math.nan}, "whole numbers"),
        ({"system_cpu_s": math.nan}, r"CPU time \[s\] nan must be finite"),
        ({"usages": (job("a", -0.1),)}, r"CPU time \[s\] -0.1"),
        ({"usages": (job("a", 1, math.inf),)}, "reserved or available CPUs inf"),
    ],
)
def test_malformed_samples_are_refused(bad, message):
    with pytest.raises(EcoRayError, match=message):
        attribute(dataclasses.replace(sample(100, 40, job("a", 1)), **bad), 4)


@pytest.mark.parametrize("capacity", [-1.0, math.nan, math.inf])
def test_malformed_capacity_is_refused(capacity):
    with pytest.raises(EcoRayError, match="CPUs"):
        attribute(sample(100, 40), capacity)


amount = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
usages_st = st.lists(
    st.builds(Usage, st.sampled_from(["job", "model"]), st.sampled_from("abc"), st.integers(0, 2), amount, amount),
    max_size=7,
)


@given(st.data(), st.integers(0, 10**13), usages_st, amount, amount)
def test_attribution_conserves_for_any_input_in_any_order(data, energy, usages, system, capacity):
    idle = data.draw(st.integers(0, energy))
    s = sample(energy, idle, *usages, system_cpu_s=system)
    result = attribute(s, capacity)
    given_mj = sum(share.energy_mj for share in result)
    assert all(share.energy_mj >= 0 for share in result)
    assert 0 <= given_mj <= energy
    assert len({(r.owner_kind, r.owner_id, r.attempt) for r in result}) == len(result)
    if not any(u.cpu_s or u.reserved_cpus for u in usages):
        assert given_mj == 0
    shuffled = dataclasses.replace(s, usages=tuple(data.draw(st.permutations(usages))))
    assert attribute(shuffled, capacity) == result
