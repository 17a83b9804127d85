"""A trained classifier of 28 x 28 grey digits to be served: input `image`, outputs `label` and `probabilities`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eco_ray.core.ports import Arrays
from eco_ray.core.tensors import Tensor
from eco_ray.errors import UsageError
from eco_ray.models.weights import load_model


class Digits:
    """Implements `core.ports.Runtime` for SmallCNN."""

    kind = "image-classifier"
    platform = "eco_ray_pytorch"
    inputs = (Tensor("image", "FP32", (-1, 28, 28), ("UINT8",), ((-1, 1, 28, 28),)),)
    outputs = (Tensor("label", "INT64", (-1,)), Tensor("probabilities", "FP32", (-1, 10)))
    deterministic = True

    def __init__(self, path: str | Path, name: str, version: int) -> None:
        """Load the model's file. Raises as `load_model` does."""
        torch.set_num_threads(1)  # CPU time of the request's own thread is then the request's CPU time
        self.name, self.version = name, version
        self.model, metadata = load_model(path)
        self.metadata: Mapping[str, Any] = {"pixels": "ink bright, 0 to 1 (FP32) or 0 to 255 (UINT8)", **metadata}

    def infer(self, inputs: Arrays) -> Arrays:
        """Labels, and probabilities to six decimals. Raises UsageError for pixels out of range."""
        image = inputs["image"]
        if image.dtype == np.uint8:
            image = image / np.float32(255)
        elif (low := image.min()) < 0 or image.max() > 1:
            detail = f"pixels of 'image' from {low:g} to {image.max():g}; FP32 pixels are 0 to 1"
            raise UsageError(f"{detail}: scale them, or send grey values as UINT8")
        pixels = np.array(image, np.float32).reshape(-1, 1, 28, 28)  # a copy: torch wants to be able to write
        with torch.inference_mode():
            probabilities = torch.softmax(self.model(torch.from_numpy(pixels)), dim=1)
        # in float64, six decimals are six decimals also in JSON
        rounded = np.round(probabilities.numpy().astype(np.float64), 6)
        return {"label": probabilities.argmax(dim=1).numpy(), "probabilities": rounded}
