"""Which parts of an input speak for a class: integrated gradients (Sundararajan et al., arXiv:1703.01365) by captum.

    attribution_i = (x_i - x'_i) * mean over a in [0, 1] of d f(x' + a (x - x')) / d x_i,   x' = 0

f is the score of the class. Completeness: the attributions sum to f(x) - f(x'); what is missing of that is the
convergence delta, which more steps make smaller. Extra `explain`, imported lazily.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eco_ray.errors import EcoRayError, UsageError
from eco_ray.models.find_signature import architecture_of
from eco_ray.models.pt2 import load_program
from eco_ray.models.quantize import quantisation_of
from eco_ray.models.runtimes.device import CPU
from eco_ray.models.signature import FLOATS, Signature, TensorSpec
from eco_ray.models.weights import load_model

#: the result's name of x' = 0
BASELINE = "zeros"
#: of an input, as each step holds a copy of it and of all that the model makes of it
MAX_VALUES = 1 << 22
#: values of inputs that are in work at once
_VALUES_AT_ONCE = 1 << 20
#: shares of f(x) - f(x') and of all that spoke for and against, above which what is missing means too few steps: where
#: for and against are equal, the difference is next to nothing
_MISSING_OF_CHANGE, _MISSING_OF_ALL = 0.05, 0.01


@dataclass(frozen=True, slots=True)
class Explanation:
    """What spoke for a class, and how well it adds up."""

    #: the class of the highest score
    predicted: int
    score: float
    #: the class that is explained
    target: int
    target_score: float
    #: of the class that is explained, where all inputs are zero
    baseline_score: float
    steps: int
    #: per value of the input, in its shape
    attributions: NDArray[np.float32]
    #: sum of the attributions - (target_score - baseline_score)
    convergence_delta: float

    @property
    def is_complete(self) -> bool:
        """Whether the attributions add up: to 5 % of the change in score, and 1 % of all that spoke for and against."""
        change, together = (
            abs(self.target_score - self.baseline_score),
            float(np.abs(self.attributions).sum(dtype=float)),
        )
        return abs(self.convergence_delta) <= _MISSING_OF_CHANGE * change + _MISSING_OF_ALL * together


def explainable(signature: Signature | None, kind: str, reference: str) -> TensorSpec:
    """The input of a model that can be explained. Raises UsageError that says why another one cannot."""
    if kind == "onnx":
        raise UsageError(f"{reference} is ONNX, which has no gradients here; push the .pt2 of the same model")
    if kind not in ("pt2", "safetensors"):
        raise UsageError(f"{reference} is a {kind}, which runs code when it is loaded; push its .pt2 or safetensors")
    if signature is None:
        raise UsageError(f"{reference} has no signature; push it again with --signature FILE")
    if signature.kind in ("embedding", "text-generation"):
        raise UsageError(f"{reference} is for {signature.kind!r}; what is explained is one of several classes")
    for what, ends in (("inputs", signature.inputs), ("outputs", signature.outputs)):
        if len(ends) != 1:
            raise UsageError(f"{reference} has {len(ends)} {what}; integrated gradients are of one; push such a model")
    (given,), (answer,) = signature.inputs, signature.outputs
    if given.datatype not in FLOATS:
        raise UsageError(
            f"input {given.name!r} is {given.datatype}, which has no gradient; it takes {', '.join(FLOATS)}"
        )
    if not given.shape or -1 in given.shape[1:] or given.shape[0] not in (-1, 1):
        raise UsageError(
            f"input {given.name!r} has the shape {list(given.shape)}; it takes a batch of any size or 1, and fixed "
            "sizes behind: push it with such a --signature"
        )
    if (values := math.prod(given.shape[1:])) > MAX_VALUES:
        raise UsageError(f"input {given.name!r} has {values} values, limit {MAX_VALUES}; explain a smaller model")
    if len(answer.shape) != 2 or answer.datatype not in FLOATS:
        raise UsageError(
            f"output {answer.name!r} has the shape {list(answer.shape)} of {answer.datatype}; it takes a score per "
            "class, [-1, classes]"
        )
    return given


def class_of(text: str, signature: Signature) -> int:
    """The class of a label, or of a number. Raises UsageError."""
    found = [number for number, label in enumerate(signature.labels) if label == text]
    if len(found) > 1:
        raise UsageError(f"{text!r} is the label of classes {', '.join(map(str, found[:10]))}; give one of the numbers")
    if found:
        return found[0]
    classes = signature.outputs[0].shape[-1]
    if text.isascii() and text.isdigit() and len(text) <= 9 and (classes == -1 or int(text) < classes):
        return int(text)
    known = f", or a label such as {', '.join(dict.fromkeys(signature.labels[:10]))}" if signature.labels else ""
    limit = f"0 to {classes - 1}" if classes != -1 else "a number from 0 on"
    raise UsageError(f"there is no class {text[:80]!r}; give {limit}{known}")


def load_differentiable(path: Path, kind: str) -> nn.Module:
    """The model in a .pt2 file or a safetensors file of a known architecture, nothing of which is run on the way.

    Raises UsageError for one whose arithmetic rounds, and what pt2.py and weights.py raise.
    """
    if kind == "pt2":
        program = load_program(path)
        must_not_round((str(node.target) for node in program.graph.nodes if node.op == "call_function"), path.name)
        model: nn.Module = program.module()
    else:
        architecture_of(path)  # before the weights of another file are read
        model = load_model(path)[0]
        if rounds(model):
            raise _rounds("int8-dynamic")
    return model.requires_grad_(False)


def rounds(model: nn.Module) -> bool:
    """Whether a model of a known architecture rounds its inputs, so that it has no gradient."""
    return quantisation_of(model) == "int8-dynamic"


def must_not_round(calls: Iterable[str], what: str) -> None:
    """Raises UsageError where one of a program's operators rounds."""
    if rounding := sorted({"aten.round.default", "aten.floor.default", "aten.ceil.default"}.intersection(calls)):
        raise _rounds(f"{what} calls {', '.join(rounding)}: it")


def _rounds(what: str) -> UsageError:
    return UsageError(
        f"{what} rounds its inputs, which has no gradient; explain the version that it was made from, or one in "
        "int8-weight-only"
    )


def explain_rows(
    model: Callable[[Tensor], Any],
    inputs: NDArray[Any],
    target: int | None,
    given: TensorSpec | None = None,
    device: torch.device = CPU,
) -> NDArray[np.float32]:
    """The attributions of each row of a batch, by itself. Takes and raises what `explain` does."""
    rows = (inputs[row : row + 1] for row in range(len(inputs)))
    return np.concatenate([explain(model, row, target, given=given, device=device).attributions for row in rows])


def explain(
    model: Callable[[Tensor], Any],
    inputs: NDArray[Any],
    target: int | None = None,
    steps: int = 50,
    given: TensorSpec | None = None,
    device: torch.device = CPU,
) -> Explanation:
    """Integrated gradients of a class [the predicted one] at an input with its batch of one.

    `given`: the model's input, where it is BF16, which NumPy has not and which is made of float32, or takes a batch of
    one only. `device`: of the model.

    Raises EcoRayError without the extra `explain`, and for a model that has no gradient or no finite score per class.
    """
    need_captum()
    from captum.attr import IntegratedGradients

    x = torch.from_numpy(inputs).to(device)
    x = x.bfloat16() if given is not None and given.datatype == "BF16" else x
    scores, zero = (_one_row(_run(lambda y=y: model(y))) for y in (x, torch.zeros_like(x)))  # type: ignore[misc]
    predicted = int(scores.argmax())
    target = predicted if target is None else target
    if target >= len(scores):
        raise UsageError(f"there is no class {target}; the model has 0 to {len(scores) - 1}")
    gradients = IntegratedGradients(lambda rows: _tensor(model(rows)))
    at_once = 1 if given is not None and given.shape[0] == 1 else max(1, min(64, _VALUES_AT_ONCE // x.numel()))
    found: Tensor = _run(
        lambda: gradients.attribute(x, torch.zeros_like(x), target, n_steps=steps, internal_batch_size=at_once),
        grad=True,
    )
    attributions = found.detach().float().cpu().numpy()
    if not np.isfinite(attributions).all():
        raise EcoRayError("the gradients of the model are not finite; explain another input")
    score, baseline_score = float(scores[target]), float(zero[target])
    return Explanation(
        predicted=predicted,
        score=float(scores[predicted]),
        target=target,
        target_score=score,
        baseline_score=baseline_score,
        steps=steps,
        attributions=attributions,
        convergence_delta=float(attributions.sum(dtype=float)) - (score - baseline_score),
    )


def has_captum() -> bool:
    """Whether the extra `explain` is installed; it is not imported for that."""
    return find_spec("captum") is not None


def need_captum() -> None:
    """Raise EcoRayError with the cure where the extra `explain` is not installed."""
    try:
        import captum.attr  # noqa: F401
    except ImportError as error:
        raise EcoRayError(f"{error.name} is not installed; explanations need: pip install 'eco-ray[explain]'") from None


def _run(work: Callable[[], Any], *, grad: bool = False) -> Any:
    try:
        with torch.set_grad_enabled(grad):
            return work()
    except torch.OutOfMemoryError:
        raise  # it says nothing of the model
    except (RuntimeError, AssertionError, TypeError, ValueError, IndexError) as error:
        short = " ".join(str(error).split())[:160]
        if grad:
            raise EcoRayError(
                f"the model has no gradient at its input: {short}; push one of float arithmetic"
            ) from None
        raise EcoRayError(f"the model did not run: {short}; compare its signature with what it takes") from None


def _tensor(answer: Any) -> Tensor:
    only = answer[0] if isinstance(answer, tuple | list) and len(answer) == 1 else answer
    if not isinstance(only, Tensor):
        raise EcoRayError(f"the model answers with a {type(only).__name__}; it takes a tensor [1, classes]")
    return only


def _one_row(answer: Any) -> Tensor:
    scores = _tensor(answer)
    if scores.dim() != 2 or len(scores) != 1 or not scores.shape[1] or not scores.is_floating_point():
        raise EcoRayError(
            f"the model answers with {list(scores.shape)} of {str(scores.dtype).removeprefix('torch.')}; it takes a "
            "score per class, [1, classes]"
        )
    if not torch.isfinite(scores).all():
        raise EcoRayError("the scores of the model are not finite; explain another input")
    return scores[0].double()
