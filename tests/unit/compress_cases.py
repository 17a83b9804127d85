"""Ten kinds of simple images that a small CNN learns in a second."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from eco_ray.models.cnn import SmallCNN
from eco_ray.models.datasets import LabelledImages
from eco_ray.models.fine_tune import fine_tune

torch.set_num_threads(1)  # two of them would wait for each other on a busy machine


def make_images(folder: Path, train: int = 640, test: int = 100) -> Path:
    """A data set file: class d has its bright square at the d-th of ten places, in noise."""
    made = {}
    generator = torch.Generator().manual_seed(1)
    for part, count in (("train", train), ("test", test)):
        labels = torch.arange(count) % 10
        pixels = torch.randint(0, 60, (count, 28, 28), generator=generator, dtype=torch.uint8)
        for image, label in zip(pixels, labels.tolist(), strict=True):
            row, column = 2 + 13 * (label // 5), 1 + 5 * (label % 5)
            image[row : row + 9, column : column + 5] = 250
        made |= {f"{part}_images": pixels, f"{part}_labels": labels}
    path = folder / "images.safetensors"
    save_file(made, path)
    return path


def train(data: LabelledImages) -> SmallCNN:
    """A model that knows them."""
    torch.manual_seed(0)
    model = SmallCNN()
    fine_tune(model, data, 3, 2e-3)
    return model
