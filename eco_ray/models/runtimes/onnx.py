"""An ONNX model to be served, in onnxruntime. Extra `onnx`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eco_ray.core.ports import Arrays
from eco_ray.errors import UsageError
from eco_ray.models.find_signature import MAX_ONNX_BYTES, find_signature
from eco_ray.models.onnx_backend import OnnxModel
from eco_ray.models.runtimes.arrays import agreed, tensors_of, to_bytes, to_texts
from eco_ray.models.runtimes.device import CPU
from eco_ray.models.runtimes.rows import Tried
from eco_ray.models.signature import Signature

#: operators with chance in them; Dropout has where it is told to train
_CHANCE = frozenset(
    ("Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)


class Onnx(Tried):
    """Implements `core.ports.Runtime`."""

    platform = "onnxruntime_onnx"
    metadata: Mapping[str, Any] = {}

    def __init__(
        self,
        path: Path,
        name: str,
        version: int,
        told: Signature | None,
        threads: int = 1,
        device: torch.device = CPU,
        memory_bytes: int | None = None,
    ) -> None:
        """`told`: the signature that it was pushed with; None: what the file tells. The others: as of OnnxModel.

        Raises UsageError without any signature, and what OnnxModel raises.
        """
        found = find_signature(path, "onnx")
        told, own = told or found.signature, found.signature
        if told is None:
            raise UsageError(f"{name}:{version} cannot be served: {found.why}")
        self.name, self.version, self.kind = name, version, told.kind
        self._model = OnnxModel(path, threads, device, memory_bytes)
        inputs, outputs = told.inputs, told.outputs
        if own is not None:
            inputs, outputs = agreed(inputs, own.inputs, "inputs"), agreed(outputs, own.outputs, "outputs")
            self._fed, self._given = ([spec.name for spec in specs] for specs in (own.inputs, own.outputs))
        else:
            self._fed, self._given = ([spec.name for spec in specs] for specs in (inputs, outputs))
        for what, names, known in (
            ("inputs", self._fed, self._model.inputs),
            ("outputs", self._given, self._model.outputs),
        ):
            if set(names) != set(known):
                raise UsageError(f"the signature has the {what} {', '.join(names)}, the model {', '.join(known)}")
        if bf16 := [spec.name for spec in (*inputs, *outputs) if spec.datatype == "BF16"]:
            raise UsageError(f"{bf16[0]!r} is BF16, which NumPy has not for onnxruntime; export the model in float32")
        self.inputs, self.outputs = tensors_of(inputs), tensors_of(outputs)
        self.deterministic = path.stat().st_size <= MAX_ONNX_BYTES and not _CHANCE.intersection(_operators(path))

    def infer(self, inputs: Arrays) -> Arrays:
        """Raises UsageError for sizes that the model does not take, and texts that are no UTF-8."""
        feeds = {}
        for fed, tensor in zip(self._fed, self.inputs, strict=True):
            array = inputs[tensor.name]
            if tensor.datatype == "BYTES":
                array = np.array(to_texts(array, tensor.name), object).reshape(array.shape)
            feeds[fed] = array
        answers = self._model.run(feeds)
        return {
            tensor.name: _bytes_of(answers[given]) if tensor.datatype == "BYTES" else answers[given]
            for given, tensor in zip(self._given, self.outputs, strict=True)
        }


def _bytes_of(array: Any) -> Any:
    return to_bytes(array.reshape(-1).tolist()).reshape(array.shape)


def _operators(path: Path) -> Iterator[str]:
    """All of a model's, in its functions and in the branches and bodies of others, too."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    waiting: list[Any] = [model.graph, *model.functions]
    while waiting:
        for node in waiting.pop().node:
            yield node.op_type
            for attribute in node.attribute:
                waiting += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
