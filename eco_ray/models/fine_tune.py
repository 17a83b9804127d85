"""A short training that gives a pruned model its accuracy back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from eco_ray.models.datasets import LabelledImages

BATCH = 64


def fine_tune(
    model: nn.Module,
    data: LabelledImages,
    epochs: int,
    learning_rate: float,
    seed: int = 0,
    after_step: Callable[[float, float], None] = lambda done, rate: None,
) -> None:
    """Train in place on the training images with Adam; the rate falls linearly to zero. The same seed, the same model.

    `after_step(done, rate)` is called after each step with the share of the steps that are behind, in (0, 1], and the
    learning rate of that step: where masks are put on again, and weights shrunk. Images are shifted by up to two
    pixels, as in jobs/train_mnist.py.
    """
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    rows_count = len(data.train_labels)
    batches = max(1, rows_count // BATCH)  # few images are one small batch
    steps = epochs * batches
    for step in range(steps):
        epoch, batch = divmod(step, batches)
        # drawn from the step alone, as in jobs/train_mnist.py
        order = np.random.default_rng([seed, epoch]).permutation(rows_count)
        rows = torch.from_numpy(order[batch * BATCH : (batch + 1) * BATCH])
        shift = np.random.default_rng([seed, epoch, batch]).integers(-2, 3, size=2)
        rate = learning_rate * (1 - step / steps)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        shifted = data.train_pixels[rows].roll(shift.tolist(), dims=(2, 3))
        cross_entropy(model(shifted), data.train_labels[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        after_step((step + 1) / steps, rate)
    model.eval()
