"""The smoke request: whether a version answers at all, before anybody depends on it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from eco_ray.core.ports import Arrays, Runtime
from eco_ray.core.tensors import Tensor
from eco_ray.errors import EcoRayError
from eco_ray.service.batches import is_open
from eco_ray.service.values import DTYPES, all_finite

#: of a dimension of any size
_SIZE = 1
#: rows of each request, where rows of several may be computed as one: the last answer is timed, the first one warms up
_ROWS = (2, 1)


def smoke(runtime: Runtime) -> float:
    """Ask for zeros, or a word, in two rows and in one, and look at the answers; how long the last one took [s].

    Raises EcoRayError where it fails, or is not what the signature says.
    """
    name = f"{runtime.name}:{runtime.version}"
    took_s = 0.0
    for rows in _ROWS:
        inputs = {tensor.name: _zeros(tensor, rows if is_open(runtime) else _SIZE) for tensor in runtime.inputs}
        began_s = time.perf_counter()
        try:
            outputs = runtime.infer(inputs)
        except Exception as error:  # whatever a model raises
            raise EcoRayError(f"{name} failed its smoke request: {type(error).__name__}: {error}"[:1000]) from error
        took_s = time.perf_counter() - began_s
        for tensor in runtime.outputs:
            if why := _wrong(tensor, outputs, rows if is_open(runtime) else None):
                raise EcoRayError(f"{name} failed its smoke request: {why}")
    return took_s


def _wrong(tensor: Tensor, outputs: Arrays, rows: int | None) -> str:
    """What is wrong with an output; empty: nothing. `rows`: that it has to have; None: as many as it likes."""
    found = outputs.get(tensor.name)
    if found is None:
        return f"it has no output {tensor.name!r}"
    what, shape = f"output {tensor.name!r}", list(found.shape)
    fits = len(shape) == len(tensor.shape) and all(
        wanted in (-1, size) for size, wanted in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        return f"{what} has the shape {shape}, and its signature says {list(tensor.shape)}"
    if rows is not None and shape[0] != rows:
        return f"{what} has {shape[0]} rows, and {rows} were asked for"
    wanted = DTYPES[tensor.datatype]
    # floats of another width are rounded when they are sent; BF16 is its bits
    if found.dtype.kind != wanted.kind or (wanted.kind != "f" and not np.can_cast(found.dtype, wanted)):
        return f"{what} is {found.dtype}, and its signature says {tensor.datatype}"
    return "" if all_finite(tensor.datatype, found) else f"{what} is not finite for zeros"


def _zeros(tensor: Tensor, rows: int) -> np.ndarray[Any, Any]:
    shape = [(rows if at == 0 else _SIZE) if size == -1 else size for at, size in enumerate(tensor.shape)]
    if tensor.datatype == "BYTES":
        words = np.empty(shape, object)
        words.fill(b"smoke")
        return words
    return np.zeros(shape, DTYPES[tensor.datatype])
