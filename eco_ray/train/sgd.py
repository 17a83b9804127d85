"""Stochastic gradient descent, written out: batch, mini-batch or one row at a time, in one process.

    task = ...                                            # a Task: the loss of some rows, and its gradient
    order = BatchOrder(4_000, 64, drop_last=False)        # 4_000: gradient descent on all rows; 1: stochastic
    optimiser = SGD(LearningRate(0.1, 0.0))
    for done, loss in descend(task, parameters, optimiser, steps=10 * len(order)):
        run.progress((done, 10 * len(order)), loss=loss)

The same task and optimiser train on many workers: async_sgd.py. Parameters are arrays by name and are changed in place.
What a step computes follows from its number alone, so a run that goes on from (parameters, optimiser.state(), done)
makes the same numbers, bit for bit, as one that was never interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eco_ray.errors import EcoRayError, UsageError

#: parameters or a gradient: arrays of float32 or float64 by name
Tensors = dict[str, NDArray[Any]]


class DivergedError(EcoRayError):
    """A loss or a gradient is not finite: what would be learned from here on is worthless."""


class Task(Protocol):
    """What is trained: a loss, averaged over some rows, as a function of the parameters."""

    def gradient(self, parameters: Tensors, step: int) -> tuple[float, Tensors]:
        """Loss of the rows of a step, and its gradient with the parameters' names and shapes."""


@dataclass(frozen=True)
class LearningRate:
    """Falls (or stays) linearly from the first step to the last one."""

    first: float
    #: None: stays as it is. 0 lets stochastic steps converge, which a constant rate does not (Robbins and Monro, 1951)
    last: float | None = None

    def __post_init__(self) -> None:
        for value in (self.first, self.first if self.last is None else self.last):
            if not 0 <= value < float("inf"):
                raise UsageError(f"learning rate {value} is not a finite number from 0; give one such as 0.1")

    def at(self, share: float) -> float:
        """Where a share in [0, 1] of the work is done."""
        last = self.first if self.last is None else self.last
        return self.first + (last - self.first) * min(1.0, share)


class SGD:
    """w -= rate * v, v = momentum * v + gradient.

    Without momentum unless asked for: asynchrony acts as momentum by itself (Mitliagkas et al., "Asynchrony begets
    momentum", 2016), and both together overshoot.
    """

    def __init__(self, rate: LearningRate, momentum: float = 0.0) -> None:
        if not 0 <= momentum < 1:
            raise UsageError(f"momentum {momentum} is outside [0, 1); give 0, or for example 0.9")
        self.rate, self.momentum = rate, momentum
        self._velocity: Tensors = {}

    def update(
        self, parameters: Tensors, gradient: Mapping[str, NDArray[Any]], share: float, staleness: int = 0
    ) -> None:
        """One step, in place. `share` of all steps is done; `staleness`: updates since the gradient's parameters.

        A stale gradient counts less: rate / (1 + staleness), as in Zhang et al., "Staleness-aware async-SGD for
        distributed deep learning" (IJCAI 2016), who divide by the staleness where it is at least 1. With n workers the
        staleness is about n - 1, and an epoch moves as far as one of synchronous steps on n times the batch.
        """
        rate = self.rate.at(share) / (1 + staleness)
        for name, direction in gradient.items():
            if self.momentum:
                before = self._velocity.get(name, np.zeros_like(direction))
                direction = self._velocity[name] = self.momentum * before + direction  # noqa: PLW2901  # the formula
            parameters[name] -= parameters[name].dtype.type(rate) * direction

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"velocity": {name: v.copy() for name, v in self._velocity.items()}}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._velocity = {name: np.array(v) for name, v in state["velocity"].items()}


def descend(task: Task, parameters: Tensors, optimiser: SGD, steps: int, done: int = 0) -> Iterator[tuple[int, float]]:
    """Do the steps that are left, one at a time; yields (steps done, loss of the last one). Raises DivergedError."""
    for step in range(done, steps):
        loss, gradient = task.gradient(parameters, step)
        check_finite(loss, gradient, step)
        optimiser.update(parameters, gradient, step / steps)
        yield step + 1, loss


def check_finite(loss: float, gradient: Tensors, step: int) -> None:
    """Raise DivergedError where a step has gone wrong, before anything is learned from it."""
    if np.isfinite(loss) and all(np.isfinite(values).all() for values in gradient.values()):
        return
    raise DivergedError(
        f"step {step} has the loss {loss:g}, and it or its gradient is not finite: the training has diverged; lower "
        "the learning rate, the momentum or the staleness bound, and go on from an earlier checkpoint"
    )
