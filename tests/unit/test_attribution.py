"""Attribution is exact for any input, fair by hand-computed tables, and indifferent to order."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eco_ray.core.attribution import attribute
from eco_ray.core.ledger import GpuSample, GpuUse, Sample, Usage
from eco_ray.core.split import largest_remainder, split_by_use
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


def test_a_share_is_split_over_workers_by_their_cpu_time():
    assert split_by_use(100, {"w2": 3.0, "w1": 1.0}) == {"w1": 25, "w2": 75}
    assert split_by_use(10, {"w1": 0.0, "w2": 0.0, "w3": 0.0}) == {"w1": 4, "w2": 3, "w3": 3}  # nobody was seen at work
    assert split_by_use(0, {}) == {}
    with pytest.raises(EcoRayError, match="cannot split 5 over 0 weights"):
        split_by_use(5, {})
    with pytest.raises(EcoRayError, match="use -1"):
        split_by_use(5, {"w": -1.0})


@given(st.integers(0, 10**13), st.dictionaries(st.text(max_size=3), amount, min_size=1, max_size=6))
def test_workers_get_exactly_the_share_of_their_job(energy, use_of):
    parts = split_by_use(energy, use_of)
    assert sum(parts.values()) == energy
    assert min(parts.values()) >= 0
    assert parts == split_by_use(energy, dict(reversed(use_of.items())))


def on_gpu(owner_id: str, busy_s: float, reserved: float = 0.0, attempt: int = 1) -> GpuUse:
    return GpuUse("job", owner_id, attempt, busy_s, reserved)


def gpu(name: str, energy_mj: int, idle_mj: int, *uses: GpuUse, system_busy_s: float = 0.0) -> GpuSample:
    return GpuSample(name, energy_mj, idle_mj, uses, system_busy_s)


@pytest.mark.parametrize(
    ("energy", "idle", "usages", "gpus", "expected"),
    [
        # host 100 (idle 40): a 15 + 10, b 45 + 20. GPU 200 (idle 50): a all 150 dynamic, idle 25 for its half
        (
            300,
            90,
            [job("a", 1, 1), job("b", 3, 2)],
            [gpu("g0", 200, 50, on_gpu("a", 2.0, 0.5))],
            {"a": 25 + 175, "b": 65},
        ),
        # two processes on one GPU by their busy time; somebody else's kernels take their part with them
        (200, 50, [], [gpu("g0", 200, 50, on_gpu("a", 1), on_gpu("b", 1), system_busy_s=1.0)], {"a": 50, "b": 50}),
        # each GPU by itself: a never pays for the busy GPU of b
        (120, 0, [], [gpu("g0", 100, 0, on_gpu("b", 1)), gpu("g1", 20, 0, on_gpu("a", 9))], {"a": 20, "b": 100}),
        # reserved and left idle: the idle power is the holder's, the dynamic rest is nobody's
        (200, 50, [], [gpu("g0", 200, 50, on_gpu("a", 0, 1.0))], {"a": 50}),
        # reserved twice over (1.5 of 1): scaled down to the GPU
        (90, 90, [], [gpu("g0", 90, 90, on_gpu("a", 0, 1.0), on_gpu("b", 0, 0.5))], {"a": 60, "b": 30}),
        # listed more than once: one share
        (60, 0, [job("a", 1)], [gpu("g0", 50, 0, on_gpu("a", 1), on_gpu("a", 1), on_gpu("b", 2))], {"a": 35, "b": 25}),
        # a GPU nobody uses
        (200, 50, [job("a", 1, 1)], [gpu("g0", 200, 50)], {"a": 0}),
        # rounding by the meter: the node's idle energy may miss its GPUs' by a millijoule each
        (50, 48, [], [gpu("g0", 50, 50, on_gpu("a", 1, 1))], {"a": 50}),
    ],
)
def test_gpus_table(energy, idle, usages, gpus, expected):
    s = dataclasses.replace(sample(energy, idle, *usages), gpus=tuple(gpus))
    assert shares(s, 4) == expected


@pytest.mark.parametrize(
    ("gpus", "message"),
    [
        ([gpu("g0", 101, 0)], "its GPUs used 101 mJ, more than the 100 mJ of the whole node; the energy of a node is"),
        ([gpu("g0", 60, 0), gpu("g1", 60, 0)], "its GPUs used 120 mJ, more than the 100 mJ"),
        ([gpu("g0", 90, 0)], r"idle energy of the node without its GPUs is 40 mJ, outside \[0, 10\] mJ"),
        ([gpu("g0", 60, 60)], r"without its GPUs is -20 mJ, outside \[0, 40\] mJ"),
        ([gpu("g0", 10, 11)], r"GPU 'g0': idle energy 11 mJ is outside \[0, 10\] mJ, the energy of the GPU"),
        ([gpu("g0", -1, 0)], "GPU 'g0'"),
        ([gpu("g0", math.nan, 0)], "whole numbers"),
        ([gpu("g0", 10, 0), gpu("g0", 10, 0)], "GPU 'g0' is there twice; meter each GPU once"),
        ([gpu("g0", 10, 0, on_gpu("a", -1))], r"busy time \[s\] on GPU 'g0' -1"),
        ([gpu("g0", 10, 0, on_gpu("a", 1, math.nan))], "reserved part of GPU 'g0' nan"),
        ([gpu("g0", 10, 0, system_busy_s=math.inf)], "busy time"),
    ],
)
def test_malformed_gpus_are_refused(gpus, message):
    with pytest.raises(EcoRayError, match=message):
        attribute(dataclasses.replace(sample(100, 40, job("a", 1)), gpus=tuple(gpus)), 4)


gpu_uses_st = st.lists(
    st.builds(GpuUse, st.sampled_from(["job", "model"]), st.sampled_from("abc"), st.integers(0, 2), amount, amount),
    max_size=3,
)


@st.composite
def gpu_samples(draw):
    found = []
    for name in draw(st.lists(st.sampled_from("xyz"), unique=True, max_size=2)):
        energy = draw(st.integers(0, 10**13))
        found.append(GpuSample(name, energy, draw(st.integers(0, energy)), tuple(draw(gpu_uses_st)), draw(amount)))
    return found


# lists of lists take a while to draw where the machine is busy
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.data(), st.integers(0, 10**13), usages_st, gpu_samples(), amount, amount)
def test_with_gpus_it_conserves_too(data, host_mj, usages, gpus, system, capacity):
    idle_mj = data.draw(st.integers(0, host_mj)) + sum(g.idle_mj for g in gpus)
    whole = sample(host_mj + sum(g.energy_mj for g in gpus), idle_mj, *usages, system_cpu_s=system)
    s = dataclasses.replace(whole, gpus=tuple(gpus))
    result = attribute(s, capacity)
    assert all(share.energy_mj >= 0 for share in result)
    assert sum(share.energy_mj for share in result) <= s.energy_mj
    assert len({(r.owner_kind, r.owner_id, r.attempt) for r in result}) == len(result)
    shuffled = [dataclasses.replace(g, uses=tuple(data.draw(st.permutations(g.uses)))) for g in gpus]
    again = dataclasses.replace(
        s, gpus=tuple(data.draw(st.permutations(shuffled))), usages=tuple(data.draw(st.permutations(usages)))
    )
    assert attribute(again, capacity) == result
    # an owner is charged what it would be charged for each part by itself
    alone = dict[tuple, int]()
    for part in [dataclasses.replace(whole, energy_mj=host_mj, idle_mj=idle_mj - sum(g.idle_mj for g in gpus))] + [
        dataclasses.replace(sample(g.energy_mj, g.idle_mj), gpus=(g,)) for g in gpus
    ]:
        for r in attribute(part, capacity):
            key = (r.owner_kind, r.owner_id, r.attempt)
            alone[key] = alone.get(key, 0) + r.energy_mj
    assert alone == {(r.owner_kind, r.owner_id, r.attempt): r.energy_mj for r in result}
