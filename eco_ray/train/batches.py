"""Which rows of a data set come next, and whose they are: by how many were consumed, whatever the number of workers.

Where `BatchOrder` counts batches of one size, this cuts an epoch's rows so that none is left out and every worker has
some at each step: the last batch of an epoch has half to one and a half times the size. Workers take equal parts of
each batch, so with another number of them the same rows make the same steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from eco_ray.errors import UsageError
from eco_ray.train.batch_order import Rows, shuffled


@dataclass(frozen=True, slots=True)
class Batch:
    """One step of all workers."""

    #: the rows of this worker, shape (its part,)
    rows: Rows
    #: by what the mean loss of these rows is multiplied, so that the mean over workers is that over the whole batch:
    #: 1, but where the parts are not equal
    weight: float
    #: rows consumed by all workers once it is done, in all epochs so far: from here the next attempt goes on
    consumed: int
    #: rows to consume in all
    total: int
    #: counts from 0
    epoch: int


def batches(
    rows: int, size: int, epochs: int, *, start: int = 0, rank: int = 0, workers: int = 1, seed: int = 0
) -> Iterator[Batch]:
    """The batches after `start` consumed rows, as one of the workers sees them.

    rows: of the data set. size: of a batch, of all workers together. Raises UsageError where a worker would have none.
    """
    least = min(rows, size - size // 2)
    if not (rows >= 1 and least >= workers and start >= 0 and epochs >= 0):
        raise UsageError(
            f"{rows} rows in batches of {size} for {workers} workers, from {start} on: the smallest batch of an epoch "
            f"({least}) must have a row for each worker; give a larger batch, or fewer workers (workers.max)"
        )
    total, order, of_epoch = epochs * rows, np.empty(0, np.int64), -1
    while start < total:
        epoch, first = divmod(start, rows)
        if of_epoch != epoch:
            order, of_epoch = shuffled(rows, seed, epoch), epoch
        left_after = rows - first - size
        some = order[first : first + size if left_after >= size - size // 2 else rows]
        mine = some[len(some) * rank // workers : len(some) * (rank + 1) // workers]
        yield Batch(mine, len(mine) * workers / len(some), start + len(some), total, epoch)
        start += len(some)
