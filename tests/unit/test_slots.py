"""Policies for one job: tables worked out by hand, and the exact optimum by trying everything."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco_ray.core.slots import (
    Interruptible,
    Odds,
    SuspendCosts,
    cheapest_interruptible,
    cheapest_run,
    cheapest_slots,
    earliest_run,
    runs_g,
    window_costs,
)

X = np.inf


def costs(*rows):
    return np.array(rows, dtype=float)


def test_window_costs_are_sums_and_blocked_windows_are_infinite():
    assert window_costs(costs([1, 2, 4, X, 8, 16]), 2).tolist() == [[3, 6, X, X, 24]]


@pytest.mark.parametrize(
    ("rows", "work", "expected"),
    [
        ([[5, 1, 1]], 2, [(0, 0, 2)]),  # at once, whatever it costs
        ([[5, 5, 5], [4, 4, 4]], 2, [(1, 0, 2)]),  # on the cheapest node that is free
        ([[9, 9, 9], [4, X, 4]], 2, [(0, 0, 2)]),  # where it can run to its end
        ([[X, 5, 5], [X, X, 4]], 1, [(0, 1, 2)]),  # the earliest start, not the cheapest
        ([[5, 5], [5, 5]], 2, [(0, 0, 2)]),
        ([[1, X, 1]], 2, None),
        ([[1, 1]], 3, None),
        ([[X, X]], 1, None),
    ],
)
def test_run_now(rows, work, expected):
    assert earliest_run(costs(*rows), work) == expected


@pytest.mark.parametrize(
    ("rows", "work", "expected"),
    [
        ([[5, 1, 2, 9]], 2, [(0, 1, 3)]),
        ([[5, 1, 9, 1]], 2, [(0, 0, 2)]),  # contiguous: 5+1 < 9+1 = 1+9
        ([[3, 3, 3], [3, 2, 3]], 2, [(1, 0, 2)]),
        ([[3, 3, 3], [2, 2, 2]], 3, [(1, 0, 3)]),
        ([[2, 2, 2], [2, 2, 2]], 1, [(0, 0, 1)]),  # equal: the earliest, then the first node
        ([[4, X, 1, 1]], 2, [(0, 2, 4)]),
        ([[1, X, 1]], 2, None),
        ([[1, 1]], 3, None),
    ],
)
def test_lowest_window(rows, work, expected):
    assert cheapest_run(costs(*rows), work) == expected


@pytest.mark.parametrize(
    ("row", "length", "passed", "end", "expected"),
    [
        ([4, 4, 4, 2, 9], 1.1, 0.0, X, [(0, 3, 5)]),  # a tenth of the dear slot
        ([4, 4, 4, 2, 9], 1.9, 0.0, X, [(0, 2, 4)]),  # whole slots would be the same
        ([4, 4, 4, 2, 9], 1.1, 0.0, 4.0, [(0, 2, 4)]),  # over by the end of slot 3
        ([4, 4, 4, 4, 4], 1.1, 0.5, X, [(0, 1, 3)]),  # 2 of the half slot, 2.4 of the next: 4.4 as anywhere, but later
        ([1, 2, 9, 9, 9], 1.2, 0.5, X, [(0, 0, 2)]),  # 1 of the half slot, 0.7 of the next
        ([1, 4, 9, 9, 9], 0.25, 0.5, X, [(0, 0, 1)]),  # half of the half slot
        ([1, 9], 1.6, 0.5, X, None),
        ([1, 9], 1.6, 0.0, X, [(0, 0, 2)]),
    ],
)
def test_lowest_window_of_a_part_of_slots(row, length, passed, end, expected):
    assert cheapest_run(costs(row), length, None, passed, end) == expected


@pytest.mark.parametrize(
    ("rows", "work", "rule", "expected"),
    [
        # the two cheapest slots
        ([[5, 1, 9, 2]], 2, {}, [(0, 1, 2), (0, 3, 4)]),
        # moving is free without resume costs
        ([[1, 9, 9], [9, 1, 9]], 2, {}, [(0, 0, 1), (1, 1, 2)]),
        # a resume of one slot is paid at the place of the new start: 1+1 + (1)+1 beside 1+1+9
        ([[1, 1, 9, 1, 1]], 3, {"resume": 1}, [(0, 0, 2), (0, 3, 5)]),
        # not worth it: 1+3 beside 1+(2+2)
        ([[1, 3, 2, 2]], 2, {"resume": 1}, [(0, 0, 2)]),
        # the first start is free, whenever it is
        ([[1, 9, 1, 1]], 2, {"resume": 1}, [(0, 2, 4)]),
        # the grams of a resume within a slot: 1 + 2*1.5 = 4 beside 1+5
        ([[1, 5, 2]], 2, {"resume_rest": 0.5}, [(0, 0, 1), (0, 2, 3)]),
        # 1 + 4*1.5 = 7 beside 1+5
        ([[1, 5, 4]], 2, {"resume_rest": 0.5}, [(0, 0, 2)]),
        # a run lasts two slots, so not 1 + 1
        ([[1, 9, 1, 9, 1, 9]], 2, {"min_run": 2}, [(0, 0, 2)]),
        # what is left may be less than a minimum run
        ([[1, 1, 9, 1]], 3, {"min_run": 2}, [(0, 0, 2), (0, 3, 4)]),
        # it runs on node 1: going on is free, a move pays one slot
        ([[1, 1, 3], [2, 2, 9]], 2, {"running_on": 1, "fresh": False, "resume": 1}, [(1, 0, 2)]),
        ([[1, 1, 1], [2, 9, 9]], 2, {"running_on": 1, "fresh": False, "resume": 1}, [(0, 0, 3)]),
        # it runs, and leaves at once for a cleaner slot
        ([[9, 1, 1]], 2, {"running_on": 0, "fresh": False}, [(0, 1, 3)]),
        # it has a checkpoint: the first start pays too
        ([[1, 1, 1]], 2, {"fresh": False, "resume": 1}, [(0, 0, 3)]),
        ([[1, 1]], 2, {"fresh": False, "resume": 1}, None),
        ([[1, 1]], 2, {"resume": 1}, [(0, 0, 2)]),
        # slots that may not be used
        ([[X, 1, X, 2, 3]], 2, {}, [(0, 1, 2), (0, 3, 4)]),
        ([[X, 1, X, 2, 3]], 2, {"min_run": 2}, [(0, 3, 5)]),
        ([[X, 1, X, 2, X]], 2, {"min_run": 2}, None),
        ([[1, X, 1]], 3, {}, None),
        ([[1, 1]], 3, {}, None),
        ([[2, 2, 2, 2], [2, 2, 2, 2]], 2, {"resume": 1}, [(0, 0, 2)]),
    ],
)
def test_lowest_interruptible(rows, work, rule, expected):
    assert cheapest_interruptible(costs(*rows), work, SuspendCosts(**rule)) == expected


# -- against trying everything ---------------------------------------------------------------------------------------


def schedules(cost_g, work, rule):
    """Grams of every allowed schedule: a node or nothing (None) for each slot, with its runs marked by their start."""
    nodes, slots = cost_g.shape

    def go(t, left, runs):
        """Every way to end from slot t, while off."""
        if not left:
            yield runs
            return
        if t >= slots:
            return
        yield from go(t + 1, left, runs)
        for node in range(nodes):
            goes_on = t == 0 and node == rule.running_on
            free = goes_on or (rule.fresh and left == work)
            idle = 0 if free else rule.resume
            rest_g = 0.0 if free else rule.resume_rest * cost_g[node, t] if rule.resume_rest else 0.0
            shortest = 1 if goes_on else min(max(1, rule.min_run), left)
            for useful in range(shortest, left + 1):
                end = t + idle + useful
                if end <= slots and np.isfinite(cost_g[node, t:end]).all():
                    yield from go(end, left - useful, [*runs, (node, t, end, rest_g)])

    return go(0, work, [])


def least_by_trying(cost_g, work, rule):
    every = [
        sum(cost_g[node, t:end].sum() + rest_g for node, t, end, rest_g in runs)
        for runs in schedules(cost_g, work, rule)
    ]
    return min(every, default=None)


def paid_g(cost_g, runs, work, rule):
    """Grams and useful slots of a choice, by the rules in the docstring of SuspendCosts."""
    total_g, left = 0.0, work
    for i, (node, start, end) in enumerate(runs):
        goes_on = i == 0 and start == 0 and node == rule.running_on
        free = goes_on or (rule.fresh and left == work)
        total_g += cost_g[node, start:end].sum()
        if not free and rule.resume_rest:
            total_g += rule.resume_rest * cost_g[node, start]
        left -= end - start - (0 if free else rule.resume)
    return total_g, left


grams = st.sampled_from([0.0, 0.1, 0.3, 1.0, 2.0, 2.5, 7.0, math.inf])


@st.composite
def problems(draw):
    nodes, slots = draw(st.integers(1, 2)), draw(st.integers(1, 7))
    cost_g = np.array(draw(st.lists(grams, min_size=nodes * slots, max_size=nodes * slots))).reshape(nodes, slots)
    running_on = draw(st.none() | st.integers(0, nodes - 1))
    rule = SuspendCosts(
        resume=draw(st.integers(0, 2)),
        resume_rest=draw(st.sampled_from([0.0, 0.25, 0.5])),
        min_run=draw(st.integers(0, 2)),
        running_on=running_on,
        fresh=running_on is None and draw(st.booleans()),
    )
    return cost_g, draw(st.integers(1, 4)), rule


@settings(max_examples=400, deadline=None)
@given(problems())
def test_lowest_interruptible_is_the_least_of_all_schedules(problem):
    cost_g, work, rule = problem
    least_g = least_by_trying(cost_g, work, rule)
    runs = cheapest_interruptible(cost_g, work, rule)
    if least_g is None:
        assert runs is None
        return
    assert runs is not None
    total_g, left = paid_g(cost_g, runs, work, rule)
    assert left == 0, "does not do exactly its work"
    assert total_g == pytest.approx(least_g, rel=1e-6, abs=1e-12)
    for (_, _, end), (_, start, _) in itertools.pairwise(runs):
        assert start >= end
    for (node, _, end), (other, start, _) in itertools.pairwise(runs):
        assert (node, end) != (other, start), "two runs that are one"
    assert all(np.isfinite(cost_g[node, start:end]).all() for node, start, end in runs)


row = st.lists(st.floats(0, 1e6), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(row, st.data())
def test_with_free_suspension_on_one_node_it_is_the_cheapest_slots(values, data):
    work = data.draw(st.integers(1, len(values)))
    runs = cheapest_interruptible(costs(values), work)
    assert runs is not None
    assert sum(end - start for _, start, end in runs) == work
    assert runs_g(costs(values), runs) == pytest.approx(sum(sorted(values)[:work]), rel=1e-6, abs=1e-6)


@st.composite
def uncertain(draw):
    """Costs, work, and how likely it is needed: less and less, and something may come after it."""
    cost_g, work, _ = draw(problems())
    likely = np.cumprod([1.0, *draw(st.lists(st.sampled_from([1.0, 0.5, 0.9]), min_size=work - 1, max_size=work - 1))])
    slots = cost_g.shape[1]
    run_on_g = draw(st.lists(st.sampled_from([0.0, 0.5, 2.0, 9.0]), min_size=slots + 1, max_size=slots + 1))
    return cost_g, work, Odds(np.array([likely[-1], *likely[::-1]]), np.array(run_on_g))


def expected_g(cost_g, runs, work, odds):
    slots = [(node, slot) for node, start, end in runs for slot in range(start, end)]
    each = [odds.needed[work - i] * cost_g[node, slot] for i, (node, slot) in enumerate(slots)]
    return sum(each) + odds.run_on_g[slots[-1][1] + 1]


@settings(max_examples=400, deadline=None)
@given(uncertain())
def test_work_that_may_end_early_or_last_longer_gets_the_least_expected_grams(problem):
    cost_g, work, odds = problem
    least = cost_g.min(axis=0)
    every = [
        sum(odds.needed[work - i] * least[slot] for i, slot in enumerate(chosen)) + odds.run_on_g[chosen[-1] + 1]
        for chosen in itertools.combinations(range(len(least)), work)
    ]
    least_g = min(every, default=math.inf)
    for runs in (
        cheapest_slots(cost_g, work, odds=odds),
        Interruptible(cost_g, work, SuspendCosts(), odds).runs(work),
    ):
        if not math.isfinite(least_g):
            assert runs is None
            continue
        assert runs is not None
        assert sum(end - start for _, start, end in runs) == work
        assert expected_g(cost_g, runs, work, odds) == pytest.approx(least_g, rel=1e-6, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(problems())
def test_odds_of_one_and_nothing_after_change_nothing(problem):
    cost_g, work, rule = problem
    surely = Odds(np.ones(work + 1), np.zeros(cost_g.shape[1] + 1))
    assert Interruptible(cost_g, work, rule, surely).runs(work) == cheapest_interruptible(cost_g, work, rule)
    certain, runs = cheapest_slots(cost_g, work), cheapest_slots(cost_g, work, odds=surely)
    assert (certain is None) == (runs is None)
    assert certain is None or runs_g(cost_g, runs) == pytest.approx(runs_g(cost_g, certain))


@pytest.mark.parametrize("policy", [earliest_run, cheapest_run, cheapest_interruptible])
@given(value=st.floats(0.001, 1e6), nodes=st.integers(1, 4), slots=st.integers(1, 200), data=st.data())
@settings(max_examples=30, deadline=None)
def test_constant_costs_give_run_now(policy, value, nodes, slots, data):
    """Also where rounding makes sums of equal slots differ."""
    work = data.draw(st.integers(1, min(slots, 30)))
    assert policy(np.full((nodes, slots), value), work) == [(0, 0, work)]


@settings(max_examples=100, deadline=None)
@given(problems(), st.lists(grams, min_size=2, max_size=2))
def test_more_time_is_never_worse(problem, more):
    cost_g, work, rule = problem
    longer = np.hstack([cost_g, np.array(more)[: len(cost_g), None]])
    before = cheapest_interruptible(cost_g, work, rule)
    after = cheapest_interruptible(longer, work, rule)
    if before is not None:
        assert after is not None
        assert paid_g(longer, after, work, rule)[0] <= paid_g(cost_g, before, work, rule)[0] * (1 + 1e-6)
    window, later = cheapest_run(cost_g, work), cheapest_run(longer, work)
    if window is not None:
        assert later is not None
        assert runs_g(longer, later) <= runs_g(cost_g, window) * (1 + 1e-6)
