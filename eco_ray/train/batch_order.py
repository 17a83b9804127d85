"""Which rows make which batch: a function of seed and step alone, so a resumed run sees what it would have seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eco_ray.errors import UsageError

Rows = NDArray[np.int64]


def shuffled(rows: int, seed: int, epoch: int) -> Rows:
    """All rows in the order of an epoch, which follows from seed and epoch alone."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


class BatchOrder:
    """The rows of each batch of a training set, shuffled anew in each epoch.

    Only the step has to be kept. Iterating gives the batches that are left of the present epoch and changes nothing, so
    that it also serves as `batch_sampler` of a DataLoader which reads ahead; `advance` says that a batch is done.

    The batch is that of all ranks together: rank r of W takes every W-th of its rows, from row r on. With another W at
    the next attempt the batches stay the same; where W divides the batch, so does the mean of the ranks' gradients.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 1 <= batch_size <= rows:
            raise UsageError(f"batch_size={batch_size} is not from 1 to the {rows} rows")
        least = batch_size if drop_last else rows % batch_size or batch_size
        if not 0 <= rank < world_size <= least:
            raise UsageError(
                f"rank {rank} of {world_size} has no rows of a batch of {least}; ranks are from 0, and no more of them "
                "than rows in the smallest batch"
            )
        self._facts = {"rows": rows, "batch_size": batch_size, "seed": seed, "shuffle": shuffle, "drop_last": drop_last}
        self._rank, self._world_size = rank, world_size
        #: batches done, over all epochs
        self.step = 0
        self._order: tuple[int, Rows] | None = None

    def __len__(self) -> int:
        """Batches of an epoch."""
        rows, size = int(self._facts["rows"]), int(self._facts["batch_size"])
        return rows // size if self._facts["drop_last"] else -(-rows // size)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.step // len(self)

    def rows(self, step: int | None = None) -> Rows:
        """The rows of this rank, of the batch at a step; None: at the present one."""
        epoch, number = divmod(self.step if step is None else step, len(self))
        size = int(self._facts["batch_size"])
        return self._order_of(epoch)[number * size : (number + 1) * size][self._rank :: self._world_size]

    def __iter__(self) -> Iterator[Rows]:
        return map(self.rows, range(self.step, (self.epoch + 1) * len(self)))

    def advance(self) -> None:
        """The present batch is done."""
        self.step += 1

    def _order_of(self, epoch: int) -> Rows:
        if self._order is None or self._order[0] != epoch:
            rows = int(self._facts["rows"])
            seed = int(self._facts["seed"])
            self._order = epoch, shuffled(rows, seed, epoch) if self._facts["shuffle"] else np.arange(rows)
        return self._order[1]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"step": self.step, **self._facts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on at the step of a checkpoint. Raises UsageError if it was of other batches."""
        other = [
            f"{name}={state.get(name)!r}, now {now!r}" for name, now in self._facts.items() if state.get(name) != now
        ]
        if other:
            raise UsageError(
                f"the checkpoint is of other batches: {'; '.join(other)}; a run goes on with what it began with, or "
                "begins anew in another checkpoint directory"
            )
        self.step = int(state["step"])
