"""Which rows come next: the same ones with any number of workers, each once an epoch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco_ray.errors import UsageError
from eco_ray.train.batches import batches

cases = st.tuples(st.integers(1, 60), st.integers(1, 20), st.integers(0, 3), st.integers(0, 5))


def most_workers(rows, size):
    return min(rows, size - size // 2)


@given(cases, st.data())
def test_all_workers_together_see_each_row_once_an_epoch(case, data):
    rows, size, epochs, seed = case
    workers = data.draw(st.integers(1, most_workers(rows, size)))
    parts = [list(batches(rows, size, epochs, rank=rank, workers=workers, seed=seed)) for rank in range(workers)]
    seen: dict[int, list[int]] = {}
    for step in zip(*parts, strict=True):
        assert len({(one.consumed, one.total, one.epoch) for one in step}) == 1
        assert all(len(one.rows) for one in step)
        assert sum(one.weight for one in step) == pytest.approx(workers)
        seen.setdefault(step[0].epoch, []).extend(row for one in step for row in one.rows)
    assert sorted(seen) == list(range(epochs))
    assert all(sorted(found) == list(range(rows)) for found in seen.values())


@given(cases, st.data())
def test_the_rows_of_a_step_are_the_same_with_other_workers_after_a_resume(case, data):
    rows, size, epochs, seed = case
    alone = list(batches(rows, size, epochs, seed=seed))
    at = data.draw(st.integers(0, len(alone)))
    workers = data.draw(st.integers(1, most_workers(rows, size)))
    start = alone[at - 1].consumed if at else 0
    after = [
        list(batches(rows, size, epochs, start=start, rank=rank, workers=workers, seed=seed)) for rank in range(workers)
    ]
    assert [one.consumed for one in after[0]] == [one.consumed for one in alone[at:]]
    for expected, step in zip(alone[at:], zip(*after, strict=True), strict=True):
        assert np.concatenate([one.rows for one in step]).tolist() == expected.rows.tolist()


@given(cases)
def test_no_batch_is_much_smaller_or_larger(case):
    rows, size, epochs, seed = case
    for one in batches(rows, size, epochs, seed=seed):
        assert min(rows, size - size // 2) <= len(one.rows) < size + size - size // 2 + 1


def test_weights_make_the_mean_over_workers_that_over_the_batch():
    values = np.arange(10.0) ** 2
    parts = [next(batches(10, 10, 1, rank=rank, workers=3)) for rank in range(3)]
    mean = np.mean([values[one.rows].mean() * one.weight for one in parts])
    assert mean == pytest.approx(values.mean())


@pytest.mark.parametrize(("rows", "size", "workers"), [(0, 4, 1), (10, 4, 3), (2, 10, 3), (10, 0, 1)])
def test_a_worker_without_a_row_is_refused(rows, size, workers):
    with pytest.raises(UsageError, match="must have a row for each worker; give a larger batch, or fewer workers"):
        next(batches(rows, size, 1, workers=workers))
