"""`eco_ray.core.choices`: tables by hand, brute force on small cases, and what every choice must respect."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eco_ray.core import choice_parts
from eco_ray.core.choice_parts import Batch, Run
from eco_ray.core.choices import choose
from eco_ray.core.slots import Interruptible, SuspendCosts

INF = float("inf")


def one(
    rate,
    work_s,
    *,
    slot_s=10.0,
    begin_s=0.0,
    end_s=None,
    pausable=False,
    resume_s=0.0,
    paid=False,
    min_run_s=0.0,
    speed=(1.0,),
    power=(1.0,),
    most=None,
) -> Batch:
    """One job; `rate`: (R, T) or (T,)."""
    rate_g = np.atleast_2d(np.array(rate, dtype=float))[None]
    edges_s = np.arange(rate_g.shape[2] + 1) * slot_s
    room_s = np.minimum(edges_s[1:], edges_s[-1] if end_s is None else end_s) - np.maximum(edges_s[:-1], begin_s)
    return Batch(
        slot_s,
        rate_g,
        np.maximum(room_s, 0.0)[None],
        *(np.array([value]) for value in (begin_s, work_s, pausable, resume_s, paid, min_run_s, speed, power)),
        None if most is None else np.atleast_2d(np.array(most, dtype=np.int8))[None],
    )


def several(batches) -> Batch:
    """The jobs of several batches of one shape, in one."""
    columns = [[getattr(batch, field.name) for batch in batches] for field in fields(Batch)][1:]
    return Batch(batches[0].slot_s, *(None if column[0] is None else np.concatenate(column) for column in columns))


def random_batch(rng, jobs, rows, slots, *, slot_s=600.0, levels=3) -> Batch:
    """Jobs of all kinds: windows that begin and end in mid-slot, closed cells, ties, places without room."""
    edges_s = np.arange(slots + 1) * slot_s
    begin_s = np.where(rng.random(jobs) < 0.5, rng.uniform(0, slots * slot_s * 0.4, jobs), 0.0)
    work_s = rng.uniform(0.1, slots * 0.5, jobs) * slot_s
    end_s = np.minimum(begin_s + work_s * rng.uniform(0.9, 4, jobs), slots * slot_s)
    rate_g = np.where(
        rng.random((jobs, 1, 1)) < 0.5, rng.integers(1, 4, (jobs, rows, slots)), rng.random((jobs, rows, slots))
    )
    elastic = rng.random((jobs, 1)) < 0.4
    kind = rng.integers(0, 3, jobs)
    return Batch(
        slot_s,
        np.where(rng.random((jobs, rows, slots)) < 0.1, INF, rate_g),
        np.maximum(np.minimum(edges_s[1:], end_s[:, None]) - np.maximum(edges_s[:-1], begin_s[:, None]), 0.0),
        begin_s,
        work_s,
        kind > 0,
        np.where(kind == 2, rng.choice([0.0, 10.0, 300.0, 600.0, 900.0], jobs), 0.0),
        rng.random(jobs) < 0.3,
        np.where(kind == 2, rng.choice([0.0, 300.0, 1300.0], jobs), 0.0),
        np.where(elastic | (np.arange(levels) == 0), 1 + 0.7 * np.arange(levels), 0.0),
        np.tile(1 + 0.8 * np.arange(levels), (jobs, 1)),
        rng.integers(0, levels, (jobs, rows, slots)).astype(np.int8),
    )


def is_free(batch: Batch) -> np.ndarray:
    return batch.pausable & (batch.resume_s == 0) & (batch.min_run_s <= batch.slot_s)


def grams(batch: Batch, j: int, run: Run) -> float:
    """Exact grams of a run; inf where it may not run."""
    row, level, start_s, end_s = run
    total_g = 0.0
    for t in range(batch.rate_g.shape[2]):
        within_s = min(end_s, (t + 1) * batch.slot_s) - max(start_s, t * batch.slot_s)
        if within_s > 1e-6:
            fits = batch.most is None or batch.most[j, row, t] >= level
            total_g += within_s * batch.rate_g[j, row, t] * batch.power[j, level] if fits else INF
    return total_g


def window(batch: Batch, j: int) -> tuple[float, float]:
    last = int(np.flatnonzero(batch.room_s[j])[-1])
    return batch.begin_s[j], max(batch.begin_s[j], last * batch.slot_s) + batch.room_s[j, last]


def check(batch: Batch) -> choice_parts.Choices:
    """Choose, and hold what was chosen against all that it must respect."""
    found = choose(batch)
    free = is_free(batch)
    for j, runs in enumerate(found.runs):
        assert (runs is None) == np.isinf(found.carbon_g[j])
        if runs is None:
            continue
        assert batch.pausable[j] or len(runs) == 1
        before_s, deadline_s = window(batch, j)
        work_s = 0.0
        for i, (_, level, start_s, end_s) in enumerate(runs):
            assert before_s - 1e-6 <= start_s < end_s, "in order, within the window"
            before_s = end_s
            useful_s = end_s - start_s - batch.resume_s[j] * (i > 0 or batch.paid_start[j])
            if not free[j] and i < len(runs) - 1:
                assert useful_s >= batch.min_run_s[j] - 1e-5
            work_s += useful_s * batch.speed[j, level]
            assert batch.speed[j, level] > 0
        assert before_s <= deadline_s + 1e-5
        assert work_s == pytest.approx(batch.work_s[j], abs=1e-4)
        assert sum(grams(batch, j, run) for run in runs) == pytest.approx(found.carbon_g[j], rel=1e-8), "open and exact"
    return found


def runs_of(batch: Batch) -> list[Run] | None:
    return check(batch).runs[0]


# ---- tables by hand --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "expected", "expected_g"),
    [
        # 10 s at 1, 5 s at 1; ends in mid-slot
        (one([5, 1, 1, 4], 15), (0, 0, 10, 25), 15),
        # 3 s of the first slot are gone: 7 x 1 + 5 x 2 at once, or 10 x 2 + 2 x 3 later
        (one([1, 2, 3], 12, begin_s=3), (0, 0, 3, 15), 17),
        # begins and ends within one slot
        (one([9, 2, 9], 5, begin_s=12, end_s=18), (0, 0, 12, 17), 10),
        # the cheap end is beyond the deadline
        (one([3, 3, 1], 12, end_s=21), (0, 0, 0, 12), 36),
        (one([3, 3, 1], 12, end_s=22), (0, 0, 10, 22), 32),
        # equal: the earliest, then the first row
        (one([[2, 1, 1], [2, 1, 1]], 10), (0, 0, 10, 20), 10),
        (one([[2, 2, 1], [2, 1, 2]], 10), (1, 0, 10, 20), 10),
        # a difference by rounding decides nothing
        (one([[1, 1 - 1e-12], [1, 1]], 10), (0, 0, 0, 10), 10),
        # closed slots in between
        (one([[1, INF, 1, 9], [5, 5, 5, 5]], 20), (1, 0, 0, 20), 100),
        # continues from a checkpoint: 4 s more
        (one([1, 2, 9], 12, resume_s=4, paid=True), (0, 0, 0, 16), 22),
        # twice as fast at 1.5 times the power
        (one([1, 1, 1], 20, speed=[1, 2], power=[1, 1.5]), (0, 1, 0, 10), 15),
        # ... where it fits; level 0 in 20 s costs 20, level 1 in the dear row 10 x 1.6 x 1.5
        (one([[1, 1], [1.6, 1.6]], 20, speed=[1, 2], power=[1, 1.5], most=[[1, 0], [1, 1]]), (0, 1, 0, 10), 15),
        (one([[1, 1], [1.6, 1.6]], 20, speed=[1, 2], power=[1, 1.5], most=[[0, 0], [1, 1]]), (0, 0, 0, 20), 20),
        # 20 s at level 0 do not fit in the window, 8 at level 1 do
        (one([1, 9], 16, end_s=12, speed=[1, 2], power=[1, 9]), (0, 1, 0, 8), 72),
        # where a price makes a place preferred
        (one([[1, 1, 1], [1, -4, -4]], 20), (1, 0, 10, 30), -80),
    ],
)
def test_contiguous_by_hand(job, expected, expected_g):
    found = check(job)
    assert found.runs[0] == [pytest.approx(expected)]
    assert found.carbon_g[0] == pytest.approx(expected_g)


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        # the part of slot 2 goes to where the run goes on
        (one([3, 1, 2, 1], 25, pausable=True), [(0, 0, 10, 20), (0, 0, 25, 40)]),
        (one([3, 1, 2, 3], 15, pausable=True), [(0, 0, 10, 25)]),
        (one([3, 1, 3, 2], 15, pausable=True), [(0, 0, 10, 20), (0, 0, 30, 35)]),
        # equal slots: the earliest
        (one([1, 1, 1, 1], 20, pausable=True), [(0, 0, 0, 20)]),
        (one([1 + 1e-13, 1, 1 - 1e-13, 1], 10, pausable=True), [(0, 0, 0, 10)]),
        # the window begins and ends in mid-slot
        (one([1, 3, 1], 9, begin_s=6, end_s=24, pausable=True), [(0, 0, 6, 10), (0, 0, 19, 24)]),
        # each slot on its cheapest row; of equal rows the one that it is on
        (one([[1, 5, 1], [5, 1, 1]], 30, pausable=True), [(0, 0, 0, 10), (1, 0, 10, 30)]),
        (one([[1, 1, 1], [1, 5, 1]], 30, pausable=True), [(0, 0, 0, 30)]),
        # the preferred slot first
        (one([1, 2, -3, 0], 20, pausable=True), [(0, 0, 20, 40)]),
        (one([-1, -3, -2], 10, pausable=True), [(0, 0, 10, 20)]),
        (one([5, -1], 15, pausable=True, speed=[1, 2], power=[1, 3]), [(0, 1, 10, 15), (0, 0, 15, 20)]),
        # second worker at 2 x 1 per work in slot 1 is as good as slot 0 at 2, but later
        (one([2, 1], 15, pausable=True, speed=[1, 1.5], power=[1, 2]), [(0, 0, 5, 20)]),
        # ... and better than slot 0 at 5: 5 s of work at 0.5 per second more
        (one([5, 1], 15, pausable=True, speed=[1, 1.5], power=[1, 2]), [(0, 1, 10, 20)]),
        # half of the slot with the second worker
        (one([5, 1], 12.5, pausable=True, speed=[1, 1.5], power=[1, 2]), [(0, 1, 10, 15), (0, 0, 15, 20)]),
        # level 1 never pays: off, level 0 and level 2 do
        (one([1], 18, pausable=True, speed=[1, 1.1, 2], power=[1, 2, 3]), [(0, 2, 0, 8), (0, 0, 8, 10)]),
        # three workers for the power of one and a half: never fewer
        (one([1, 2], 15, pausable=True, speed=[1, 3], power=[1, 1.5]), [(0, 1, 0, 5)]),
        # levels that it does not have, or that do nothing
        (one([1, 2], 15, pausable=True, speed=[1, 1.2, 0], power=[1, 3, 0]), [(0, 0, 0, 15)]),
        (one([1, 2], 15, pausable=True, speed=[1, 1], power=[1, 0.9]), [(0, 1, 0, 15)]),
        (one([1, 2], 15, pausable=True, speed=[1, 1], power=[1, 2]), [(0, 0, 0, 15)]),
        # of two equal rows the one with room
        (one([[1, 9], [1, 9]], 20, pausable=True, speed=[1, 2], power=[1, 2], most=[[0, 1], [1, 1]]), [(1, 1, 0, 10)]),
        # only the dearer row has room for the second worker that the deadline asks for
        (one([[1, 1], [2, 2]], 40, pausable=True, speed=[1, 2], power=[1, 2], most=[[0, 0], [1, 1]]), [(1, 1, 0, 20)]),
    ],
)
def test_free_pauses_by_hand(job, expected):
    assert runs_of(job) == [pytest.approx(run) for run in expected]


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        # 10 s, then 2 s of resume and 18 s: 30 g instead of 9 x 2 more
        (one([1, 9, 1, 1], 28, pausable=True, resume_s=2), [(0, 0, 0, 10), (0, 0, 20, 40)]),
        # not for 1.1: the pause would save 1 g and cost 2
        (one([1, 1.1, 1, 9], 28, pausable=True, resume_s=2), [(0, 0, 0, 28)]),
        # the resume takes more than a slot
        (one([1, 1, 1, 9, 1, 1, 1], 45, pausable=True, resume_s=12), [(0, 0, 0, 30), (0, 0, 40, 67)]),
        # the first start is a resume, too
        (one([1, 9, 1, 1], 26, pausable=True, resume_s=2, paid=True), [(0, 0, 0, 10), (0, 0, 20, 40)]),
        # moving costs a resume
        (one([[1, 1, 9, 9], [9, 9, 1, 1]], 38, pausable=True, resume_s=2), [(0, 0, 0, 20), (1, 0, 20, 40)]),
        (one([[1, 1, 1.1], [9, 9, 1]], 28, pausable=True, resume_s=2), [(0, 0, 0, 28)]),
        # runs of 2 slots at least: slot 0 alone is too short
        (one([1, 9, 1, 1, 5], 30, pausable=True, min_run_s=20), [(0, 0, 20, 50)]),
        (one([1, 1, 9, 1, 5], 30, pausable=True, min_run_s=20), [(0, 0, 0, 20), (0, 0, 30, 40)]),
        # 5 of 10 s are lost in each cheap slot: rather where it is a little dearer for long
        (
            one([1, 9, 1, 9, 1, 9, *[1.3] * 5, 9, 1.3, 1.3], 65, pausable=True, resume_s=5),
            [(0, 0, 60, 110), (0, 0, 120, 140)],
        ),
        # what is left of the first slot is too short for a run, so it goes on until that is long enough
        (
            one([0, 3, INF, 1, 1], 24, begin_s=5, pausable=True, resume_s=1, min_run_s=9),
            [(0, 0, 5, 14), (0, 0, 30, 46)],
        ),
        (
            one([1, 3, INF, 1, 1], 21, begin_s=8, pausable=True, resume_s=1, min_run_s=9),
            [(0, 0, 8, 17), (0, 0, 30, 43)],
        ),
        # the faster level all the time
        (one([1, 9, 1], 36, pausable=True, resume_s=2, speed=[1, 2], power=[1, 1.5]), [(0, 1, 0, 10), (0, 1, 20, 30)]),
    ],
)
def test_costly_pauses_by_hand(job, expected):
    assert runs_of(job) == [pytest.approx(run) for run in expected]


@pytest.mark.parametrize("pausable", [False, True])
@pytest.mark.parametrize("resume_s", [0.0, 3.0])
@pytest.mark.parametrize(
    "job",
    [
        one([1, 1, 1], 31),
        one([1, INF, 1], 21),
        one([1, 1, 1], 11, begin_s=5, end_s=15),
        one([INF, INF, INF], 1),
        one([1, 1, 1], 1, begin_s=30),
        one([1, 1, 1], 61, speed=[1, 2], power=[1, 2]),
        one([1, 1, 1], 31, speed=[1, 2], power=[1, 2], most=[0, 0, 0]),
    ],
)
def test_nothing_is_possible(job, pausable, resume_s):
    job = replace(job, pausable=np.array([pausable]), resume_s=np.array([resume_s]))
    assert choose(job).runs == [None]
    assert np.isinf(choose(job).carbon_g).all()


# ---- brute force -----------------------------------------------------------------------------------------------------


def contiguous_g(batch: Batch, j: int) -> float:
    """Least grams of a contiguous run, by trying every one."""
    if not batch.room_s[j].any():
        return INF
    begin_s, end_s = window(batch, j)
    starts_s = [begin_s, *(t * batch.slot_s for t in range(batch.rate_g.shape[2]) if t * batch.slot_s > begin_s)]
    least_g = INF
    for level in np.flatnonzero(batch.speed[j] > 0):
        run_s = batch.work_s[j] / batch.speed[j, level] + batch.resume_s[j] * batch.paid_start[j]
        for start_s in starts_s:
            if start_s + run_s <= end_s + 1e-6:
                for row in range(batch.rate_g.shape[1]):
                    least_g = min(least_g, grams(batch, j, (row, int(level), start_s, start_s + run_s)))
    return least_g


def test_contiguous_is_the_least_of_all():
    rng = np.random.default_rng(3)
    found_any = 0
    for _ in range(6):
        batch = random_batch(rng, 40, 2, 8)
        batch = replace(batch, pausable=np.zeros(40, dtype=bool), resume_s=np.full(40, 200.0))
        expected_g = [contiguous_g(batch, j) for j in range(40)]
        assert check(batch).carbon_g == pytest.approx(expected_g)
        found_any += int(np.isfinite(expected_g).sum())
    assert found_any > 100


def test_free_pauses_take_the_cheapest_subset():
    rng = np.random.default_rng(4)
    for _ in range(40):
        slots = int(rng.integers(2, 8))
        rate = rng.integers(1, 6, (2, slots)).astype(float)
        rate[rng.random((2, slots)) < 0.2] = INF
        work = int(rng.integers(1, slots + 1))
        least = rate.min(axis=0)
        expected_g = min(10 * least[list(subset)].sum() for subset in combinations(range(slots), work))
        assert check(one(rate, 10 * work, pausable=True)).carbon_g[0] == pytest.approx(expected_g)


def test_free_pauses_with_levels_reach_the_dual_bound():
    """The least of a linear program is the greatest of its dual, at one of finitely many prices of work."""
    rng = np.random.default_rng(5)
    for _ in range(40):
        slots, levels = int(rng.integers(1, 7)), int(rng.integers(2, 5))
        rate, room_s = rng.uniform(1, 5, slots), np.full(slots, 10.0)
        speed = np.cumsum(np.append(1.0, rng.uniform(0.1, 1.5, levels - 1)))  # not always concave
        power = np.cumsum(np.append(1.0, rng.uniform(0.1, 1.5, levels - 1)))
        most = rng.integers(0, levels, slots)
        work_s = rng.uniform(0.05, 0.95) * float((room_s * speed[most]).sum())
        s, p = np.append(0.0, speed), np.append(0.0, power)
        high, low = np.triu_indices(levels + 1, 1)[::-1]
        prices = np.outer(rate, (p[high] - p[low]) / (s[high] - s[low])).ravel()
        worth = prices[:, None, None] * s - rate[:, None] * p
        worth[:, np.arange(levels + 1) > most[:, None] + 1] = 0.0
        expected_g = (prices * work_s - 10 * worth.max(axis=2).sum(axis=1)).max()
        found = check(one(rate, work_s, pausable=True, speed=speed, power=power, most=most))
        assert found.carbon_g[0] == pytest.approx(expected_g)


@pytest.mark.parametrize(("resume", "min_run"), [(0, 2), (1, 1), (1, 3), (2, 1)])
def test_costly_pauses_are_almost_the_best(resume, min_run):
    rng = np.random.default_rng(6)
    ratios = []
    for _ in range(3):
        rate = np.where(
            rng.random((10, 3, 36)) < 0.05, INF, rng.uniform(0.2, 1, (10, 1, 36)) * rng.uniform(1, 1.2, (10, 3, 1))
        )
        rate = (rate + np.roll(rate, 1, 2) + np.roll(rate, 2, 2)) / 3
        work = rng.integers(3, 16, 10)
        jobs = [
            one(rate[j], 10.0 * work[j], pausable=True, resume_s=10.0 * resume, min_run_s=10.0 * min_run + 0.0)
            for j in range(10)
        ]
        found = check(several(jobs))
        for j in range(10):
            exact = Interruptible(rate[j] * 10, int(work[j]), SuspendCosts(resume, 0.0, min_run)).runs(int(work[j]))
            exact_g = sum(10 * rate[j, row, start:end].sum() for row, start, end in exact)
            ratios.append(found.carbon_g[j] / exact_g)
    assert np.mean(ratios) < 1.02
    assert np.min(ratios) > 0.9  # parts of slots may make it a little better


# ---- what holds for all ----------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 16), st.sampled_from([0.0, 0.0, 1.0, 4.0]))
def test_every_choice_can_be_run(seed, rows, slots, preferred):
    batch = random_batch(np.random.default_rng(seed), 12, rows, slots)
    batch = replace(batch, rate_g=batch.rate_g - preferred)
    found = check(batch)
    whole = choose(replace(batch, pausable=np.zeros(12, dtype=bool)))
    assert not (np.isfinite(whole.carbon_g) & np.isinf(found.carbon_g)).any(), "possible in one run"
    comparable = ~is_free(batch) & np.isfinite(whole.carbon_g)
    least_g = np.where(comparable, whole.carbon_g, 0.0)
    assert (found.carbon_g <= least_g + 1e-8 * np.abs(least_g))[comparable].all(), "never worse than one run"


def test_jobs_do_not_depend_on_each_other(monkeypatch):
    rng = np.random.default_rng(8)
    batch = random_batch(rng, 60, 3, 20)
    together = check(batch)
    monkeypatch.setattr(choice_parts, "CELLS", 500)
    apart = choose(batch)
    assert apart.carbon_g == pytest.approx(together.carbon_g)
    for j in range(60):
        columns = [getattr(batch, field.name) for field in fields(Batch)][1:]
        alone = choose(Batch(batch.slot_s, *(column[j : j + 1] for column in columns)))
        assert (alone.runs[0] is None) == (together.runs[j] is None) == (apart.runs[j] is None)
        for run, same, other in zip(alone.runs[0] or [], together.runs[j] or [], apart.runs[j] or [], strict=True):
            assert run == pytest.approx(same)
            assert run == pytest.approx(other)


def test_a_place_without_room_for_any_worker_is_closed():
    job = one([[1, 1], [2, 2]], 10, most=[[-1, -1], [0, 0]])
    for pausable in (False, True):
        assert runs_of(replace(job, pausable=np.array([pausable]))) == [(1, 0, 0.0, 10.0)]


def test_no_jobs():
    none = several([one([1, 1], 10)])
    empty = Batch(10.0, *(getattr(none, field.name)[:0] for field in fields(Batch)[1:-1]))
    assert choose(empty).runs == []
