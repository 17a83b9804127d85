"""A program of torch.export (.pt2) to be served: inputs and outputs as its signature names them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass
from torch.utils import _pytree as pytree

from eco_ray.core.ports import Arrays
from eco_ray.errors import EcoRayError, UsageError
from eco_ray.models.explain import explain_rows, explainable, has_captum, must_not_round
from eco_ray.models.find_signature import find_signature
from eco_ray.models.pt2 import load_program
from eco_ray.models.runtimes.arrays import agreed, floats_of, tensors_of, to_numpy, to_torch
from eco_ray.models.runtimes.device import CPU, gives_back
from eco_ray.models.runtimes.rows import Tried
from eco_ray.models.signature import Signature

_FLOATS = {"FP16": torch.float16, "BF16": torch.bfloat16, "FP32": torch.float32, "FP64": torch.float64}
#: what torch's checks of the inputs' sizes say
_SIZES = ("Expected input", "Guard failed")


def load(path: Path, name: str, version: int, told: Signature | None, device: torch.device = CPU) -> Program:
    """A program that implements `core.ports.Explains` where it can: floats in, and a score per class out of them.

    `told`: the signature that it was pushed with; None: what the file tells. Raises UsageError for a program that takes
    or gives what is no tensor, and what load_program raises.
    """
    found = find_signature(path, "pt2")
    if (own := found.signature) is None:
        raise UsageError(f"{name}:{version} cannot be served: {found.why}")
    told = told or own
    ends = {
        "inputs": agreed(told.inputs, own.inputs, "inputs"),
        "outputs": agreed(told.outputs, own.outputs, "outputs"),
    }
    what = _moved(load_program(path), device), told.model_copy(update=ends), name, version, device
    explained = ExplainedProgram(*what)
    return explained if explained.has_gradient() else Program(*what)


def _moved(program: ExportedProgram, device: torch.device) -> ExportedProgram:
    """Weights, constants, and what the graph makes by itself."""
    return program if device == CPU else move_to_device_pass(program, device)


class Program(Tried):
    """Implements `core.ports.Runtime`."""

    platform = "eco_ray_pytorch"
    metadata: Mapping[str, Any] = {}

    def __init__(
        self, program: ExportedProgram, signature: Signature, name: str, version: int, device: torch.device = CPU
    ) -> None:
        """`signature`: of the program, its tensors in the program's order. `device`: where the program is."""
        self.device = device
        self.name, self.version, self.kind = name, version, signature.kind
        self.inputs, self.outputs = tensors_of(signature.inputs), tensors_of(signature.outputs)
        self._signature = signature
        self._calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
        self.deterministic = not any(
            torch.Tag.nondeterministic_seeded in getattr(call, "tags", ()) for call in self._calls
        )
        spec = program.call_spec.in_spec
        if spec is None or spec.num_leaves != len(self.inputs):
            raise UsageError(
                f"{name}:{version} takes more than tensors; export it with all else as a part of the model"
            )
        self._in_spec = spec
        #: where another index would not only fail, but leave the GPU of no use to the process
        self._most = {} if device == CPU else _rows_of(program)
        self._module = program.module().requires_grad_(False)

    @gives_back
    def infer(self, inputs: Arrays) -> Arrays:
        """Raises UsageError for sizes that the program does not take, and for an index that it has not."""
        for place, rows in self._most.items():
            values = inputs[(name := self.inputs[place].name)]
            if values.size and not 0 <= (wrong := values.min() if values.min() < 0 else values.max()) < rows:
                raise UsageError(f"{name!r} has the index {wrong}; {self.name} has rows 0 to {rows - 1}: send those")
        given = [to_torch(inputs[tensor.name], tensor.datatype).to(self.device) for tensor in self.inputs]
        with torch.inference_mode():
            answers = pytree.tree_leaves(self._answer(*given))
        return {tensor.name: to_numpy(answer) for tensor, answer in zip(self.outputs, answers, strict=True)}

    def _answer(self, *given: torch.Tensor) -> Any:
        args, kwargs = pytree.tree_unflatten(given, self._in_spec)
        try:
            return self._module(*args, **kwargs)
        except IndexError as error:
            raise UsageError(f"{self.name} does not take these values: {error}; send indices that it has") from None
        except (RuntimeError, AssertionError) as error:
            if not str(error).startswith(_SIZES):
                raise
            short = " ".join(str(error).split())[:160]
            raise UsageError(f"{self.name} does not take these sizes: {short}; send what it was exported for") from None


def _rows_of(program: ExportedProgram) -> dict[int, int]:
    """Of inputs that are indices of an embedding as they are, by number: how many rows that has."""
    places = {name: place for place, name in enumerate(program.graph_signature.user_inputs)}
    found: dict[int, int] = {}
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.embedding.default and node.args[1].name in places:
            place = places[node.args[1].name]
            rows = node.args[0].meta["val"].shape[0]
            found[place] = min(rows, found.get(place, rows))
    return found


class ExplainedProgram(Program):
    """Implements `core.ports.Explains` as well."""

    @gives_back
    def explain(self, inputs: Arrays, target: int | None) -> Arrays:
        """Integrated gradients of a class, one row after the other."""
        (given,) = self._signature.inputs
        rows = floats_of(inputs[given.name], given.datatype)
        return {given.name: explain_rows(self._score, rows, target, given, self.device)}

    def has_gradient(self) -> bool:
        """Whether there is one at an input of zeros, and what it takes to follow it."""
        try:
            given = explainable(self._signature, "pt2", self.name)
            must_not_round(map(str, self._calls), self.name)
            sizes, datatype = (1, *given.shape[1:]), _FLOATS[given.datatype]
            x = torch.zeros(sizes, dtype=datatype, device=self.device, requires_grad=True)
            torch.autograd.grad(self._score(x).sum(), x)
        except (EcoRayError, RuntimeError):
            return False
        return has_captum()

    def _score(self, rows: torch.Tensor) -> torch.Tensor:
        (scores,) = pytree.tree_leaves(self._answer(rows))
        return scores  # type: ignore[no-any-return]
