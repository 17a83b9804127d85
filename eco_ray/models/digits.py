"""A trained classifier of 28 x 28 grey digits to be served: input `image`, outputs `label` and `probabilities`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eco_ray.core.ports import Arrays
from eco_ray.core.tensors import Tensor
from eco_ray.errors import UsageError
from eco_ray.models.explain import explain_rows
from eco_ray.models.runtimes.device import CPU, gives_back
from eco_ray.models.weights import load_model


class Digits:
    """Implements `core.ports.Runtime` for SmallCNN."""

    kind = "image-classifier"
    platform = "eco_ray_pytorch"
    inputs = (Tensor("image", "FP32", (-1, 28, 28), ("UINT8",), ((-1, 1, 28, 28),)),)
    outputs = (Tensor("label", "INT64", (-1,)), Tensor("probabilities", "FP32", (-1, 10)))
    deterministic = True

    def __init__(self, path: str | Path, name: str, version: int, device: torch.device = CPU) -> None:
        """Load the model's file. Raises as `load_model` does."""
        torch.set_num_threads(1)  # CPU time of the request's own thread is then the request's CPU time
        self.name, self.version = name, version
        self.device = device
        model, metadata = load_model(path)
        self.model = model.to(device)
        self.metadata: Mapping[str, Any] = {"pixels": "ink bright, 0 to 1 (FP32) or 0 to 255 (UINT8)", **metadata}

    @gives_back
    def infer(self, inputs: Arrays) -> Arrays:
        """Labels, and probabilities to six decimals. Raises UsageError for pixels out of range."""
        with torch.inference_mode():
            pixels = torch.from_numpy(self._pixels(inputs["image"])).to(self.device)
            probabilities = torch.softmax(self.model(pixels), dim=1).cpu()
        # in float64, six decimals are six decimals also in JSON
        rounded = np.round(probabilities.numpy().astype(np.float64), 6)
        return {"label": probabilities.argmax(dim=1).numpy(), "probabilities": rounded}

    @staticmethod
    def _pixels(image: NDArray[Any]) -> NDArray[np.float32]:
        """A copy: torch wants to be able to write."""
        if image.dtype == np.uint8:
            image = image / np.float32(255)
        elif (low := image.min()) < 0 or image.max() > 1:
            detail = f"pixels of 'image' from {low:g} to {image.max():g}; FP32 pixels are 0 to 1"
            raise UsageError(f"{detail}: scale them, or send grey values as UINT8")
        return np.array(image, np.float32).reshape(-1, 1, 28, 28)


class ExplainedDigits(Digits):
    """Implements `core.ports.Explains` as well; of a model that does not round (explain.py)."""

    @gives_back
    def explain(self, inputs: Arrays, target: int | None) -> Arrays:
        """Integrated gradients of a digit's score before the softmax, one image after the other."""
        image = inputs["image"]
        found = explain_rows(self.model, self._pixels(image), target, device=self.device)
        return {"image": found.reshape(image.shape)}
