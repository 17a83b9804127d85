"""The smoke request: whether a version answers at all, before anybody depends on it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from eco_ray.core.ports import Runtime
from eco_ray.core.tensors import Tensor
from eco_ray.errors import EcoRayError
from eco_ray.service.values import DTYPES

#: of a dimension of any size
_SIZE = 1
#: the second answer is timed: the first one warms up
_TIMES = 2


def smoke(runtime: Runtime) -> float:
    """Ask for one row of zeros, or of a word, and look at the answer; how long it took [s].

    Raises EcoRayError where it fails, or is not what the signature says.
    """
    name = f"{runtime.name}:{runtime.version}"
    inputs = {tensor.name: _zeros(tensor) for tensor in runtime.inputs}
    took_s = 0.0
    for _ in range(_TIMES):
        began_s = time.perf_counter()
        try:
            outputs = runtime.infer(inputs)
        except Exception as error:  # whatever a model raises
            raise EcoRayError(f"{name} failed its smoke request: {type(error).__name__}: {error}"[:1000]) from error
        took_s = time.perf_counter() - began_s
    for tensor in runtime.outputs:
        found = outputs.get(tensor.name)
        if found is None:
            raise EcoRayError(f"{name} failed its smoke request: it has no output {tensor.name!r}")
        if len(found.shape) != len(tensor.shape) or any(
            wanted not in (-1, size) for size, wanted in zip(found.shape, tensor.shape, strict=True)
        ):
            raise EcoRayError(
                f"{name} failed its smoke request: output {tensor.name!r} has the shape {list(found.shape)}, and its "
                f"signature says {list(tensor.shape)}"
            )
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            raise EcoRayError(f"{name} failed its smoke request: output {tensor.name!r} is not finite for zeros")
    return took_s


def _zeros(tensor: Tensor) -> np.ndarray[Any, Any]:
    shape = [_SIZE if size == -1 else size for size in tensor.shape]
    if tensor.datatype == "BYTES":
        words = np.empty(shape, object)
        words.fill(b"smoke")
        return words
    return np.zeros(shape, DTYPES[tensor.datatype])
