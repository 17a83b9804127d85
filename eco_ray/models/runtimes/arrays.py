"""Tensors as the V2 protocol names them, as NumPy has them, and as torch has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from eco_ray.core.tensors import Tensor
from eco_ray.errors import UsageError
from eco_ray.models.signature import TensorSpec

Array = np.ndarray[Any, Any]


def tensors_of(specs: Sequence[TensorSpec]) -> tuple[Tensor, ...]:
    """What a signature tells, for a service."""
    return tuple(Tensor(spec.name, spec.datatype, spec.shape) for spec in specs)


def agreed(told: Sequence[TensorSpec], own: Sequence[TensorSpec], what: str) -> tuple[TensorSpec, ...]:
    """What a manifest tells of a model's inputs or outputs, in the file's order, with the sizes that the file fixes.

    They belong together by name, or by position where none is named alike. Raises UsageError where they differ.
    """
    by_name = {spec.name: spec for spec in told}
    names = {spec.name for spec in own}
    if by_name.keys() == names:
        told = [by_name[spec.name] for spec in own]
    elif len(told) != len(own) or by_name.keys() & names:
        told_names, own_names = (", ".join(spec.name for spec in specs) for specs in (told, own))
        raise UsageError(
            f"the signature has the {what} {told_names}, the model {own_names}; name all of those, or none"
        )
    return tuple(_agreed(one, other) for one, other in zip(told, own, strict=True))


def _agreed(told: TensorSpec, own: TensorSpec) -> TensorSpec:
    sizes = list(zip(told.shape, own.shape, strict=False))
    differs = any(a != b and -1 not in (a, b) for a, b in sizes)
    if told.datatype != own.datatype or len(told.shape) != len(own.shape) or differs:
        raise UsageError(
            f"the signature has {told.name!r} as {told.datatype} {list(told.shape)}, the model as {own.datatype} "
            f"{list(own.shape)}; push it with a signature that fits, or with none"
        )
    return TensorSpec(name=told.name, datatype=told.datatype, shape=tuple(b if a == -1 else a for a, b in sizes))


def to_torch(array: Array, datatype: str) -> torch.Tensor:
    """A copy, as an input may be read-only and torch wants to be able to write."""
    tensor = torch.from_numpy(np.array(array, order="C"))
    return tensor.view(torch.bfloat16) if datatype == "BF16" else tensor


def floats_of(array: Array, datatype: str) -> Array:
    """A copy of an input of floats, where BF16 becomes float32."""
    if datatype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return np.array(array, order="C")


def to_numpy(tensor: torch.Tensor) -> Array:
    """On the CPU, BF16 as its bits."""
    tensor = tensor.detach().cpu()
    return np.asarray((tensor.contiguous().view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy())


def to_texts(array: Array, name: str) -> list[str]:
    """The elements of a BYTES tensor. Raises UsageError for what is no UTF-8."""
    try:
        return [bytes(value).decode() for value in array.reshape(-1)]
    except UnicodeDecodeError as error:
        raise UsageError(f"a text in {name!r} is not UTF-8 at byte {error.start}; send UTF-8") from None


def to_bytes(texts: Sequence[str]) -> Array:
    """A BYTES tensor of one dimension."""
    array = np.empty(len(texts), object)
    array[:] = [text.encode() for text in texts]
    return array
