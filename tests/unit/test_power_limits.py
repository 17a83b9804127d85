"""The choice of a power limit: by tables, and against all choices that there are."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco_ray.core.power_limits import MaxSlowdown, Stretch, Trial, ZeusCost, choose, choose_ahead, fastest
from eco_ray.errors import UsageError

# of a GPU: each limit is slower, and the lowest one wastes what the rest of the machine draws
TRIALS = (
    Trial(100, power_w=100, throughput_per_s=20),  # 5.00 J a sample
    Trial(200, power_w=180, throughput_per_s=45),  # 4.00
    Trial(300, power_w=280, throughput_per_s=60),  # 4.67
    Trial(400, power_w=360, throughput_per_s=66),  # 5.45
)
NAN = math.nan


@pytest.mark.parametrize(
    ("goal", "setting"),
    [
        (ZeusCost(1.0), 200),  # energy alone
        (ZeusCost(0.0), 400),  # time alone
        (ZeusCost(0.5), 300),  # (280 + 360) / 2 / 60 = 5.33 against 5.45 and 6.00
        (ZeusCost(0.5, max_power_w=1000), 400),  # time costs more where power could be higher
        (MaxSlowdown(1.0), 400),
        (MaxSlowdown(1.1), 300),
        (MaxSlowdown(1.5), 200),
        (MaxSlowdown(9.0), 200),  # slower still would take more energy
    ],
)
def test_a_goal_chooses(goal, setting):
    assert choose(TRIALS, goal).setting == setting
    assert choose(reversed(TRIALS), goal).setting == setting


@pytest.mark.parametrize("unknown", [Trial(50, NAN, 80), Trial(50, 90, NAN), Trial(50, 90, 0), Trial(50, 0, 90)])
def test_what_is_unknown_of_a_setting_leaves_it_out(unknown):
    assert choose([unknown, *TRIALS], ZeusCost(1.0)).setting == 200
    assert choose([unknown], ZeusCost(1.0)) is None
    assert fastest([unknown], ZeusCost()) is None
    assert choose_ahead([unknown], ZeusCost(), [Stretch(1, 1)], 1) is None


@pytest.mark.parametrize(
    "make", [lambda: ZeusCost(1.1), lambda: ZeusCost(NAN), lambda: MaxSlowdown(0.9), lambda: MaxSlowdown(NAN)]
)
def test_a_goal_that_means_nothing_is_refused(make):
    with pytest.raises(UsageError):
        make()


def settings(plan):
    return None if plan is None else [trial.setting for trial in plan]


@pytest.mark.parametrize(
    ("intensities", "samples", "expected"),
    [
        ([300, 300, 300], 45 * 300, [200, 200, 200]),  # the most frugal one is just in time
        ([300, 300, 300], 45 * 300 + 1, [300, 200, 200]),  # it is not: faster as early as possible
        ([500, 400, 500], 45 * 300 + 1, [200, 300, 200]),  # faster while it is clean
        ([500, 100, 500], 45 * 300 + 1, [200, 400, 200]),  # and more so, to be done sooner
        ([500, 100, 500], 45 * 300 + 15 * 100 + 6 * 100 + 1, [300, 400, 200]),  # the clean hour is full
        ([500, 100, 500], 66 * 300, [400, 400, 400]),  # the deadline allows nothing else
        ([500, 100, 500], 66 * 300 + 1, None),
        ([100, 900], 6600, [400, 300]),  # done before it gets dirty; the rest does not matter
        ([NAN, NAN], 45 * 200, [200, 200]),
        ([400, NAN, 500], 45 * 300 + 1, [300, 200, 200]),
    ],
)
def test_a_dirty_hour_has_a_lower_limit_where_the_deadline_allows(intensities, samples, expected):
    ahead = [Stretch(100, intensity) for intensity in intensities]
    found = settings(choose_ahead(TRIALS, ZeusCost(), ahead, samples))
    if intensities == [100, 900]:
        assert found[0] == expected[0]
    else:
        assert found == expected


def test_the_owners_slowdown_holds_in_a_dirty_hour_too():
    ahead = [Stretch(100, 900), Stretch(100, 10)]
    assert settings(choose_ahead(TRIALS, MaxSlowdown(1.1), ahead, 100)) == [300, 300]
    assert fastest(TRIALS, MaxSlowdown(1.1)).setting == 400


def test_a_dirty_hour_is_passed_slowly_even_where_that_is_not_frugal():
    # 100 W for the dirty hour emit less than 180 W, though a sample takes more
    ahead = [Stretch(100, 1000), Stretch(100, 1)]
    assert settings(choose_ahead(TRIALS, ZeusCost(), ahead, 6000)) == [100, 200]


def test_a_setting_that_no_mix_of_others_would_use_is_found():
    # between the two others less frugal than both together, and still the best alone
    trials = [Trial(1, 100, 20), Trial(2, 260, 40), Trial(3, 400, 60)]
    assert settings(choose_ahead(trials, ZeusCost(), [Stretch(100, 300)], 3900)) == [2]


def emits(plan, ahead, samples):
    """Written once more, by the second."""
    total = 0.0
    for trial, stretch in zip(plan, ahead, strict=True):
        seconds = min(stretch.length_s, samples / trial.throughput_per_s)
        total += seconds * trial.power_w * stretch.intensity_g_per_kwh / 3.6e6
        samples -= seconds * trial.throughput_per_s
    return total if samples < 1e-6 else None


trial = st.builds(Trial, st.integers(1, 9), st.floats(10, 500), st.floats(1, 100))
stretch = st.builds(Stretch, st.floats(1, 100), st.floats(0, 1000))


@given(st.lists(trial, min_size=1, max_size=4), st.lists(stretch, min_size=1, max_size=4), st.floats(0.01, 1.2))
def test_it_is_in_time_whenever_it_can_be_and_nearly_as_clean_as_the_best(trials, ahead, part):
    most = max(one.throughput_per_s for one in trials) * sum(one.length_s for one in ahead)
    samples = part * most
    found = choose_ahead(trials, ZeusCost(), ahead, samples)
    every = [emits(plan, ahead, samples) for plan in itertools.product(trials, repeat=len(ahead))]
    in_time = [one for one in every if one is not None]
    if found is None:
        assert part > 1 - 1e-6
        return
    ours = emits(found, ahead, samples * (1 - 1e-9))
    assert ours is not None
    best = min(in_time, default=ours)
    assert ours >= best * (1 - 1e-6) - 1e-12
    # what is whole instead of shared is one step of one stretch
    widest = max((a.power_w - b.power_w for a in trials for b in trials), default=0)
    step = max(widest * one.length_s * one.intensity_g_per_kwh / 3.6e6 for one in ahead)
    assert ours <= best + step * (1 + 1e-6) + 1e-9
    for one in trials:  # and never worse than any single setting
        alone = emits([one] * len(ahead), ahead, samples)
        assert alone is None or ours <= alone * (1 + 1e-6) + 1e-12


@given(st.lists(trial, min_size=1, max_size=6), st.floats(0, 1), st.floats(1, 3))
def test_no_trial_is_better_than_the_chosen_one(trials, eta, factor):
    highest = max(one.power_w for one in trials)
    chosen = choose(trials, ZeusCost(eta))
    costs = [(eta * one.power_w + (1 - eta) * highest) / one.throughput_per_s for one in trials]
    assert (eta * chosen.power_w + (1 - eta) * highest) / chosen.throughput_per_s <= min(costs) * (1 + 1e-12)
    slow = choose(trials, MaxSlowdown(factor))
    fast = max(one.throughput_per_s for one in trials)
    enough = [one for one in trials if one.throughput_per_s * factor >= fast * (1 - 1e-9)]
    assert slow in enough
    assert slow.j_per_sample == min(one.j_per_sample for one in enough)
