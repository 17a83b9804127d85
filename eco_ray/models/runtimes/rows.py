"""Whether the rows of an inference depend on each other: where they do, requests must not be computed together.

A first dimension that is open is mostly a batch. It may also be time, or words of one text: then what one tenant sends
would be in the answer of another one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from eco_ray.core.ports import Arrays, Runtime
from eco_ray.core.tensors import Tensor
from eco_ray.models.runtimes.arrays import floats_of

#: rows that are tried together, and those of them alone; fewer where a model does not take so many
_TRIED = ((17, (0, 8, 16)), (2, (0, 1)))
#: answers alone and together differ by so much of the largest at most: int8 of dynamic range rounds by the whole batch
_ROUNDED = 0.05
_NUMPY = {"BOOL": "?", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"} | {
    f"{kind}INT{bits}": f"<{letter}{bits // 8}" for kind, letter in (("", "i"), ("U", "u")) for bits in (8, 16, 32, 64)
}


class Tried:
    """A runtime of models that people bring: what their first dimension is, nobody says."""

    #: as `rows_apart` found it
    rows_apart = False


def rows_apart(runtime: Runtime) -> bool:
    """Whether rows have the answers that they have alone; where that cannot be tried, they have not."""
    tensors = (*runtime.inputs, *runtime.outputs)
    if any(shape[:1] != (-1,) for tensor in tensors for shape in tensor.shapes):
        return False
    for count, places in _TRIED:
        inputs = {tensor.name: _random(tensor, count) for tensor in runtime.inputs}
        try:
            together = runtime.infer(inputs)
            alone = [runtime.infer({name: rows[at : at + 1] for name, rows in inputs.items()}) for at in places]
        except Exception:  # noqa: S112  # whatever a model raises for what it does not take
            continue
        return all(
            _same(tensor, together, answer, at)
            for tensor in runtime.outputs
            for answer, at in zip(alone, places, strict=True)
        )
    return False


def _same(tensor: Tensor, together: Arrays, alone: Arrays, at: int) -> bool:
    whole, part = together[tensor.name], alone[tensor.name]
    if whole.shape[:1] <= (at,) or part.shape != (1, *whole.shape[1:]):
        return False
    if tensor.datatype == "BYTES" or (whole.dtype.kind != "f" and tensor.datatype != "BF16"):
        return bool((whole[at] == part[0]).all())
    whole, part = floats_of(whole, tensor.datatype), floats_of(part, tensor.datatype)
    return bool(np.abs(whole[at] - part[0]).max(initial=0.0) <= _ROUNDED * np.abs(whole).max(initial=0.0))


def _random(tensor: Tensor, rows: int) -> np.ndarray[Any, Any]:
    """Rows that differ; whole numbers are 0 and 1, which are indices of every embedding."""
    dice, shape = np.random.default_rng(0), (rows, *(1 if size == -1 else size for size in tensor.shape[1:]))
    if tensor.datatype == "BYTES":
        words = np.empty(shape, object)
        words.reshape(-1)[:] = [b"word %d" % number for number in range(words.size)]
        return words
    if tensor.datatype.startswith(("FP", "BF")):
        floats = dice.standard_normal(shape).astype(np.float32)
        if tensor.datatype == "BF16":
            return (floats.view(np.uint32) >> 16).astype(np.uint16)
        return floats.astype(_NUMPY[tensor.datatype])
    return dice.integers(0, 2, shape).astype(_NUMPY[tensor.datatype])
