"""Requests for a smaller variant: only where allowed, while the grid is dirty, within the accuracy floor."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco_ray.core.variants import Mixing, Variant, is_small, next_mix
from eco_ray.errors import UsageError

LARGE, SMALL = Variant("bert:3", 0.92, 10.0), Variant("bert-int8:1", 0.90, 3.0)
MIXING = Mixing(max_share=0.8, accuracy_floor=0.91, above_g_per_kwh=400.0, hold_s=600.0)


def mix(intensity, state=None, now_s=0.0, large=LARGE, small=SMALL, mixing=MIXING, pue=1.0):
    return next_mix(now_s, intensity, large, small, mixing, state, pue)


def test_a_clean_grid_has_the_large_one():
    decided, _ = mix(399.0)
    assert decided.small_share == 0.0
    assert decided.accuracy == 0.92
    assert "399 g/kWh" in decided.why
    assert "400" in decided.why


@pytest.mark.parametrize(
    ("changed", "share", "why"),
    [
        ({}, 0.5, "accuracy floor"),
        ({"accuracy_floor": 0.8}, 0.8, "80 % at most"),
        ({"accuracy_floor": 0.92}, 0.0, "no room above the accuracy floor"),
        ({"accuracy_floor": 0.95}, 0.0, "no room above the accuracy floor"),
        ({"max_share": 0.0}, 0.0, "not allowed"),
        ({"max_share": 0.3}, 0.3, "30 % at most"),
    ],
)
def test_shares_on_a_dirty_grid(changed, share, why):
    decided, _ = mix(500.0, mixing=replace(MIXING, **changed))
    assert decided.small_share == pytest.approx(share)
    assert why in decided.why


def test_what_is_saved_is_told():
    decided, _ = mix(500.0, pue=1.2)
    assert decided.accuracy == pytest.approx(0.91)
    assert decided.saved_g_per_request == pytest.approx(0.5 * 7 / 3.6e6 * 500 * 1.2)


def test_a_small_one_that_is_as_accurate_has_all_that_is_allowed():
    decided, _ = mix(500.0, small=replace(SMALL, accuracy=0.93), mixing=replace(MIXING, max_share=1.0))
    assert decided.small_share == 1.0


def test_a_small_one_that_takes_more_energy_has_none():
    decided, _ = mix(500.0, small=replace(SMALL, j_per_request=11.0))
    assert decided.small_share == 0.0
    assert "does not take less" in decided.why


def test_unknown_is_the_large_one():
    decided, _ = mix(None)
    assert decided.small_share == 0.0
    assert "unknown" in decided.why


def test_it_flaps_with_a_gap_and_a_hold():
    _, state = mix(500.0)
    decided, state = mix(361.0, state, 700.0)
    assert decided.small_share == 0.5
    decided, state = mix(359.0, state, 800.0)
    assert decided.small_share == 0.0
    decided, same = mix(500.0, state, 1399.0)
    assert decided.small_share == 0.0
    assert same == state
    assert "for another 1 s" in decided.why
    assert mix(500.0, state, 1400.0)[0].small_share == 0.5
    # a rule that changes holds at once
    assert mix(500.0, mix(500.0)[1], 1.0, mixing=replace(MIXING, max_share=0.0))[0].small_share == 0.0


@pytest.mark.parametrize(
    "changed", [{"max_share": 1.1}, {"max_share": -0.1}, {"accuracy_floor": math.nan}, {"above_g_per_kwh": math.nan}]
)
def test_no_rule(changed):
    with pytest.raises(UsageError, match="must"):
        replace(MIXING, **changed)


parts = st.floats(0, 1)


@given(parts, parts, parts, parts, st.floats(0, 50), st.floats(0, 50), parts)
def test_floor_and_share_hold_and_less_of_either_never_saves_more(large, small, floor, most, joules, fewer, slack):
    one, other = Variant("l:1", large, joules), Variant("s:1", small, fewer)
    mixing = Mixing(most, floor, 400.0)
    decided, _ = mix(500.0, large=one, small=other, mixing=mixing)
    assert 0 <= decided.small_share <= most
    assert decided.accuracy >= min(floor, large) - 1e-9
    assert decided.saved_g_per_request >= 0
    looser, _ = mix(500.0, large=one, small=other, mixing=Mixing(max(most, slack), min(floor, slack), 400.0))
    assert looser.saved_g_per_request >= decided.saved_g_per_request - 1e-15
    # nothing within both saves more: the next share above breaks one of them, or saves nothing
    more = decided.small_share + 1e-6
    if fewer < joules and more <= most and small < large:
        assert (1 - more) * large + more * small < floor


@given(st.lists(st.sampled_from([100.0, 380.0, 500.0, None]), min_size=2, max_size=50), st.integers(1, 1000))
def test_flapping_intensity_changes_the_mix_once_in_the_hold_at_most(values, every_s):
    state, shares = None, []
    for step, intensity in enumerate(values):
        decided, state = mix(intensity, state, step * float(every_s))
        shares.append(decided.small_share)
    changes = sum(earlier != later for earlier, later in pairwise(shares))
    assert changes <= (len(values) - 1) * every_s / MIXING.hold_s


readings = st.sampled_from([0.0, 1.0, 3.0, 10.0, 30.0, 100.0, -3.0, math.nan, math.inf])


@given(
    st.lists(st.tuples(st.sampled_from([100.0, 500.0, None]), readings, readings), min_size=2, max_size=60),
    st.integers(1, 300),
)
def test_flapping_intensity_and_wrong_readings_of_power_change_the_mix_a_bounded_number_of_times(values, every_s):
    state, shares = None, []
    for step, (intensity, large_j, small_j) in enumerate(values):
        large, small = replace(LARGE, j_per_request=large_j), replace(SMALL, j_per_request=small_j)
        decided, state = mix(intensity, state, step * float(every_s), large=large, small=small)
        shares.append(decided.small_share)
    changes = sum(earlier != later for earlier, later in pairwise(shares))
    assert changes <= 2 * (1 + (len(values) - 1) * every_s / MIXING.hold_s)


def test_a_variant_that_takes_more_loses_its_share_and_gets_it_back_after_the_hold():
    more, shares, state = replace(SMALL, j_per_request=2 * LARGE.j_per_request), [], None
    for at_s, small in ((0, SMALL), (10, more), (20, SMALL), (600, SMALL), (620, SMALL), (630, more), (1300, more)):
        decided, state = mix(500.0, state, float(at_s), small=small)
        shares.append(decided.small_share > 0)
    assert shares == [True, False, False, False, True, True, False]


@given(parts, st.integers(1, 500))
def test_after_any_number_of_requests_the_small_one_had_its_share_and_no_more(share, count):
    small = sum(is_small(number, share) for number in range(count))
    assert share * count - 1 - 1e-6 < small <= share * count + 1e-6
