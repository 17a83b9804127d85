"""A window's energy goes to its requests exactly, and the fit finds what tokens cost."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco_ray.core.requests import (
    COLD_START,
    MIN_WINDOWS,
    WINDOWS,
    Coefficients,
    OnlineFit,
    ServiceUse,
    TokenUse,
    split_service,
    split_tokens,
)
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError

COSTS = Coefficients(40.0, 300.0, 0.1, 900.0, Nature.MODELLED)


@pytest.mark.parametrize(
    ("energy_mj", "uses", "expected"),
    [
        # a batch of 4 rows, 1 s: 3 rows of r1 and 1 of r2; then r3 alone for 1 s
        (
            80,
            [ServiceUse("r1", "x", 1, 0.75), ServiceUse("r2", "y", 1, 0.25), ServiceUse("r3", "x", 1)],
            {("x", "r1"): 30, ("x", "r3"): 40, ("y", "r2"): 10},
        ),
        (7, [ServiceUse("r1", "x", 5)], {("x", "r1"): 7}),
        # no service time was seen: evenly, the first gets the odd millijoule
        (5, [ServiceUse("b", "x", 0), ServiceUse("a", "x", 0)], {("x", "a"): 3, ("x", "b"): 2}),
        # a request that is listed for each of its batches gets one share
        (
            30,
            [ServiceUse("a", "x", 1), ServiceUse("a", "x", 1), ServiceUse("b", "x", 1)],
            {("x", "a"): 20, ("x", "b"): 10},
        ),
        # the same id of two tenants is two requests
        (30, [ServiceUse("a", "x", 1), ServiceUse("a", "y", 2)], {("x", "a"): 10, ("y", "a"): 20}),
        (0, [ServiceUse("a", "x", 1)], {("x", "a"): 0}),
    ],
)
def test_service_table(energy_mj, uses, expected):
    found = split_service(energy_mj, uses)
    assert dict(found.request_mj) == expected
    assert found.waiting_mj == 0
    assert split_service(energy_mj, uses[::-1]) == found


def test_tenants_are_sums_of_their_requests():
    uses = [ServiceUse("r1", "x", 1), ServiceUse("r2", "y", 2), ServiceUse("r3", "x", 1)]
    assert split_service(101, uses).tenant_mj == {"x": 50, "y": 51}


def test_a_window_without_requests_is_waiting():
    assert (split_service(9, []).request_mj, split_service(9, []).waiting_mj) == ({}, 9)
    assert split_tokens(9, []).waiting_mj == 9


def test_token_weights_by_hand():
    # 100 prefill, 10 decode, 1000 KV tokens, two in the batch: 4000 + 3000 + 100 + 450
    assert COSTS.weight(TokenUse("r", "x", 100, 10, 1000, 2)) == pytest.approx(7550)
    uses = [TokenUse("a", "x", 100, 10, 1000, 2), TokenUse("b", "y", 0, 50, 0, 1)]  # 7550 : 15900
    assert split_tokens(23_450, uses, COSTS).tenant_mj == {"x": 7550, "y": 15_900}


@pytest.mark.parametrize(
    ("uses", "expected"),
    [
        ([TokenUse("a", "x", 0, 0, 0), TokenUse("b", "x", 0, 0, 0)], {"a": 50, "b": 50}),  # nothing at all
        ([TokenUse("a", "x", 1, 0, 0), TokenUse("b", "x", 3, 0, 0)], {"a": 25, "b": 75}),
        ([TokenUse("a", "x", 8, 0, 0), TokenUse("b", "x", 0, 1, 0)], {"a": 50, "b": 50}),
    ],
)
def test_cold_start(uses, expected):
    found = split_tokens(100, uses, OnlineFit().coefficients)
    assert {request: mj for (_, request), mj in found.request_mj.items()} == expected
    assert OnlineFit().coefficients == COLD_START
    assert COLD_START.nature is Nature.ASSUMED


def traffic(rng, windows, costs=COSTS, noise=0.05):
    """Windows of a replica with noisy energy; a window's prompts are about equally long, short chats or long texts."""
    for _ in range(windows):
        batch, longest = int(rng.integers(1, 17)), 10 ** rng.uniform(1.5, 4)
        uses = []
        for i in range(batch * int(rng.integers(1, 4))):
            prompt, answer = int(rng.integers(10, longest)), int(rng.integers(1, 400))
            prefill = prompt if rng.random() < 0.5 else 0  # a window may hold a part of a request only
            uses.append(TokenUse(f"r{i}", "x", prefill, answer, answer * (prompt + answer // 2), batch))
        yield max(0, round(sum(map(costs.weight, uses)) * (1 + noise * rng.standard_normal()))), uses


@pytest.mark.parametrize("seed", range(6))
def test_the_fit_recovers_known_coefficients_within_ten_percent(seed):
    fit = OnlineFit()
    for energy_mj, uses in traffic(np.random.default_rng(seed), WINDOWS):
        fit.add(energy_mj, uses)
    found = fit.coefficients
    assert found.nature is Nature.MODELLED
    # the fixed cost of a batch is a thousandth of a window's energy here, far below its noise
    for name in ("prefill_mj", "decode_mj", "kv_mj"):
        assert getattr(found, name) == pytest.approx(getattr(COSTS, name), rel=0.10), name


def test_without_noise_all_four_are_exact_to_the_rounding_of_millijoules():
    fit = OnlineFit()
    for energy_mj, uses in traffic(np.random.default_rng(1), 40, noise=0.0):
        fit.add(energy_mj, uses)
    found = fit.coefficients
    assert (found.prefill_mj, found.decode_mj, found.kv_mj, found.batch_mj) == pytest.approx(
        (40.0, 300.0, 0.1, 900.0), rel=1e-3
    )


def chats(rng, windows, idle_mj=0):
    """Windows of which the fixed cost of a batch is a good part, with 1 % of noise."""
    for energy_mj, uses in traffic(rng, windows, Coefficients(40.0, 300.0, 0.1, 1e6, Nature.MODELLED), noise=0.01):
        yield energy_mj + idle_mj, uses


@pytest.mark.parametrize("seed", range(6))
def test_all_four_coefficients_within_ten_percent_of_dynamic_energy(seed):
    found = fitted(chats(np.random.default_rng(seed), WINDOWS))
    assert (found.prefill_mj, found.decode_mj, found.kv_mj, found.batch_mj) == pytest.approx(
        (40.0, 300.0, 0.1, 1e6), rel=0.10
    )


def test_idle_energy_would_be_taken_for_a_cost_of_requests():
    """Why `add` takes the dynamic part: 1 kJ of idle energy in each window ends up in the cost of a batch."""
    found = fitted(chats(np.random.default_rng(0), WINDOWS, idle_mj=1_000_000))
    assert found.batch_mj > 1.2e6
    with pytest.raises(TypeError, match="energy_mj"):
        OnlineFit().add(energy_mj=1, uses=[])


def test_the_fit_forgets_what_was_before_a_change():
    fit, rng = OnlineFit(), np.random.default_rng(2)
    for energy_mj, uses in traffic(rng, 200):
        fit.add(energy_mj, uses)
    capped = Coefficients(20.0, 100.0, 0.02, 900.0, Nature.MODELLED)
    for energy_mj, uses in traffic(rng, WINDOWS, capped):
        fit.add(energy_mj, uses)
    assert fit.coefficients.decode_mj == pytest.approx(100.0, rel=0.15)


def test_windows_fade_while_they_are_kept():
    """200 windows at 100 mJ a token, then 300 at 300 mJ: alike they give under 150, because errors are relative."""
    fit, rng = OnlineFit(), np.random.default_rng(3)
    before, after = (Coefficients(0.0, mj, 0.0, 0.0, Nature.MODELLED) for mj in (100.0, 300.0))
    for costs, count in ((before, 200), (after, 300)):
        for energy_mj, uses in traffic(rng, count, costs, noise=0.0):
            fit.add(energy_mj, uses)
    assert 160 < fit.coefficients.decode_mj < 300


def fitted(windows):
    fit = OnlineFit()
    for energy_mj, uses in windows:
        fit.add(energy_mj, uses)
    return fit.coefficients


@pytest.mark.parametrize(
    ("windows", "decode_mj"),
    [
        ([(100, [TokenUse("a", "x", 0, 10, 0, 1e9)])] * MIN_WINDOWS, 10.0),  # one request, again and again
        ([(0, [TokenUse("a", "x", 5, 5, 5)])] * 20, COLD_START.decode_mj),  # no energy
        ([(0, [TokenUse("a", "x", 0, 0, 0)])] * 20, COLD_START.decode_mj),  # nothing at all
        ([(50, [])] * 50, COLD_START.decode_mj),  # nobody there
        ([(100, [TokenUse("a", "x", 0, 10, 0, 1e9)])] * (MIN_WINDOWS - 1), COLD_START.decode_mj),  # too few
    ],
)
def test_degenerate_windows(windows, decode_mj):
    assert fitted(windows).decode_mj == pytest.approx(decode_mj)


def test_collinear_windows_still_predict_their_energy():
    # prefill, decode and KV tokens always in the same proportion: their costs cannot be told apart, their sum can
    windows = [(i * 1000, [TokenUse("a", "x", i * 10, i * 10, i * 10, 1e9)]) for i in range(1, 30)]
    found = fitted(windows)
    assert min(found.prefill_mj, found.decode_mj, found.kv_mj, found.batch_mj) >= 0
    assert found.weight(windows[3][1][0]) == pytest.approx(4000)


def test_what_was_never_seen_has_its_assumed_ratio():
    found = fitted([(100 * i, [TokenUse("a", "x", 0, i, 0, 1e9)]) for i in range(1, 20)])  # decode only: 100 mJ a token
    assert found.decode_mj == pytest.approx(100)
    assert found.prefill_mj == pytest.approx(12.5)


def test_energy_that_only_requests_explain_is_theirs():
    found = fitted([(7000, [TokenUse("a", "x", 0, 0, 0, 1)])] * 20)
    assert found.batch_mj == pytest.approx(7000)
    # such requests cost the same; what they did with tokens has no fitted cost
    uses = [TokenUse("a", "x", 1, 0, 0, 2), TokenUse("b", "x", 100, 0, 0, 2)]
    assert list(split_tokens(10, uses, found).request_mj.values()) == [5, 5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split_service(-1, [ServiceUse("a", "x", 1)]), "energy of a window is -1 mJ: must be >= 0"),
        (lambda: split_service(-1, []), "energy of a window is -1 mJ"),
        (lambda: split_service(10.5, [ServiceUse("a", "x", 1)]), "is 10.5 mJ: must be a whole number of millijoules"),
        (lambda: split_service(10.5, []), "whole number of millijoules; round it"),
        (lambda: split_tokens(math.nan, [TokenUse("a", "x", 1, 0, 0)]), "is nan mJ: must be a whole number"),
        (lambda: split_service(True, []), "is True mJ"),
        (lambda: split_service(10**400, []), r"is about 1e400 mJ: must be >= 0 and at most 1e\+18; mend its meter"),
        (lambda: split_service(1, [ServiceUse("a", "x", 10**400)]), r"service time \[s\] is about 1e400"),
        (lambda: split_service(1, [ServiceUse("a", "x", 1, 10**400)]), "share about 1e400 of its batch"),
        (lambda: split_tokens(1, [TokenUse("a", "x", 10**400, 0, 0)]), "prefill tokens is about 1e400"),
        (lambda: split_tokens(1, [TokenUse("a", "x", 0, 0, 0, 10**5000)]), "batch of about 1e5000 requests"),
        (lambda: split_service(1, [ServiceUse("a", "x", -1)]), r"request 'a': service time \[s\] is -1"),
        (lambda: split_service(1, [ServiceUse("a", "x", math.nan)]), "service time"),
        (lambda: split_service(1, [ServiceUse("a", "x", 1, 0)]), r"share 0 of its batch is outside \(0, 1\]"),
        (lambda: split_service(1, [ServiceUse("a", "x", 1, 1.5)]), "share 1.5"),
        (lambda: split_tokens(1, [TokenUse("a", "x", -1, 0, 0)]), "prefill tokens is -1"),
        (lambda: split_tokens(1, [TokenUse("a", "x", 0, 10**13, 0)]), r"decode tokens .* at most 1e\+12"),
        (lambda: split_tokens(1, [TokenUse("a", "x", 0, 0, 0, 0.5)]), "batch of 0.5 requests; it counts itself"),
        (lambda: OnlineFit().add(-1, []), "dynamic energy of a window is -1 mJ: must be >= 0"),
        (lambda: OnlineFit().add(math.nan, [TokenUse("a", "x", 1, 0, 0)]), "is nan mJ: must be a whole number"),
        (lambda: OnlineFit().add(math.inf, [TokenUse("a", "x", 1, 0, 0)]), "is inf mJ: must be a whole number"),
        (lambda: OnlineFit().add(1.5, [TokenUse("a", "x", 1, 0, 0)]), "is 1.5 mJ: must be a whole number"),
        (lambda: OnlineFit().add(10**400, [TokenUse("a", "x", 1, 0, 0)]), "is about 1e400 mJ"),
        (lambda: OnlineFit().add(-(10**5000), []), "is about -1e5000 mJ"),
        (lambda: OnlineFit().add(1, [TokenUse("a", "x", 0, 0, 0, math.nan)]), "batch of nan"),
    ],
)
def test_bad_windows_are_refused_with_value_and_cure(call, message):
    with pytest.raises(EcoRayError, match=message):
        call()


names = st.sampled_from("abc")
tokens = st.integers(0, 10**12)
service_st = st.builds(
    ServiceUse, names, names, st.floats(0, 1e300), st.floats(0, 1, exclude_min=True, allow_subnormal=False)
)
token_st = st.builds(TokenUse, names, names, tokens, tokens, tokens, st.floats(1, 1e6))
cost = st.floats(0, 1e9)
costs_st = st.builds(Coefficients, cost, cost, cost, cost, st.just(Nature.MODELLED))


def sound(found, again, energy_mj, uses):
    assert sum(found.request_mj.values()) + found.waiting_mj == energy_mj
    assert sum(found.tenant_mj.values()) + found.waiting_mj == energy_mj
    assert all(part >= 0 for part in found.request_mj.values())
    assert set(found.request_mj) == {(use.tenant, use.request) for use in uses}
    assert again == found


@given(st.data(), st.integers(0, 10**13), st.lists(service_st, max_size=6))
def test_service_conserves_in_any_order(data, energy_mj, uses):
    found = split_service(energy_mj, uses)
    sound(found, split_service(energy_mj, data.draw(st.permutations(uses))), energy_mj, uses)


@given(st.data(), st.integers(0, 10**13), st.lists(token_st, max_size=6), costs_st)
def test_tokens_conserve_in_any_order(data, energy_mj, uses, costs):
    found = split_tokens(energy_mj, uses, costs)
    sound(found, split_tokens(energy_mj, data.draw(st.permutations(uses)), costs), energy_mj, uses)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**13), st.lists(token_st, min_size=1, max_size=3)), min_size=8, max_size=12))
def test_any_fit_is_finite_not_negative_and_splits(windows):
    found = fitted(windows)
    values = (found.prefill_mj, found.decode_mj, found.kv_mj, found.batch_mj)
    assert all(math.isfinite(value) and value >= 0 for value in values)
    energy_mj, uses = windows[0]
    assert sum(split_tokens(energy_mj, uses, found).request_mj.values()) == energy_mj
