"""Ten kinds of simple images that a small CNN learns in a second, and files of models that were tampered with."""

from __future__ import annotations

import json
import uuid
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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


class _Armed:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def armed(path: Path) -> object:
    """What touches a file where it is unpickled."""
    return _Armed(path)


def rewritten(
    path: Path,
    graph: Callable[[dict[str, Any]], object] = lambda _graph: None,
    contents: Mapping[str, bytes] | None = None,
) -> Path:
    """A copy of a .pt2 file whose graph was changed, and whose entries are others."""
    copy, left = path.with_name(f"changed-{uuid.uuid4().hex}.pt2"), dict(contents or {})
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            root, _, inner = name.partition("/")
            content = left.pop(inner, None)
            if content is None:
                content = old.read(name)
            if inner == "models/model.json":
                document = json.loads(content)
                graph(document)
                content = json.dumps(document).encode()
            new.writestr(name, content)
        for name, content in left.items():
            new.writestr(f"{root}/{name}", content)
    return copy
