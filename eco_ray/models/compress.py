"""A model made smaller by a recipe, step by step, each step judged beside the model as it was."""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from eco_ray.core.ports import WorkEnergy, WorkMeter
from eco_ray.core.units import Nature
from eco_ray.errors import UsageError
from eco_ray.models import prune
from eco_ray.models.datasets import LabelledImages
from eco_ray.models.fine_tune import fine_tune
from eco_ray.models.packed import packed_size
from eco_ray.models.quantize import quantisation_of, quantize_model, zeros_of
from eco_ray.models.recipe import ONNXRUNTIME_INT8, Prune, Recipe
from eco_ray.models.weights import save_model

#: images at once while the accuracy is counted
_BATCH = 256
#: images answered one by one in a round of measuring, and rounds, of which the middle one counts
_SINGLES, _ROUNDS = 200, 5
#: share of the fine-tuning in which a gradual pruning reaches its end; the rest heals
_PRUNING_SHARE = 0.6


@dataclass(frozen=True)
class Variant:
    """A model to be judged: how it answers, and how it is written."""

    #: e.g. "fp32", "pruned", "int8-weight-only"
    name: str
    #: float32 pixels (n, 1, 28, 28) -> logits (n, 10)
    logits: Callable[[Tensor], Tensor]
    write: Callable[[Path], None]
    #: share of weights that are exactly zero
    sparsity: float
    #: the torch model; None: another runtime's
    model: nn.Module | None = None
    suffix: str = ".safetensors"


@dataclass(frozen=True)
class Figures:
    """What a variant costs and how well it answers."""

    variant: str
    #: share of the test images that are read right, and what was lost [percentage points]
    accuracy: float
    accuracy_drop_points: float
    sparsity: float
    #: of the file, of the file coded without loss, and what coded it
    size_bytes: int
    packed_bytes: int
    packed_by: str
    #: median of single images: wall and CPU time [ms], energy [J]
    latency_ms: float
    cpu_ms: float
    energy_j: float
    nature: Nature
    error_rel: float
    source: str

    def refusal(self, max_drop_points: float) -> str:
        """Why it is not accepted; empty: it is."""
        # a hair more than the limit, so that 0.5 points of 1,000 images are not refused for a float's last digit
        if self.accuracy_drop_points <= max_drop_points + 1e-9:
            return ""
        return (
            f"{self.variant} loses {self.accuracy_drop_points:.2f} points of accuracy, the limit is "
            f"{max_drop_points:g}; prune less, fine-tune longer, or raise --max-accuracy-drop"
        )


def variants(model: nn.Module, recipe: Recipe, data: LabelledImages, seed: int = 0) -> Iterator[Variant]:
    """The model as it is (`fp32`), then each step of the recipe on top of the one before; the last is the result.

    The model itself is not changed. Raises UsageError for a model that is quantised already.
    """
    if scheme := quantisation_of(model):
        raise UsageError(f"the model is quantised already ({scheme}); compress the one that it was made from")
    yield torch_variant("fp32", model)
    work = copy.deepcopy(model)
    if recipe.shrink or recipe.prune or recipe.fine_tune:
        sparsify(work, recipe, data, seed)
        yield torch_variant(
            "pruned" if recipe.prune else "shrunk" if recipe.shrink else "fine-tuned", copy.deepcopy(work)
        )
    if recipe.quantize is None:
        return
    scheme = recipe.quantize.scheme
    if scheme == ONNXRUNTIME_INT8:
        from eco_ray.models.onnx_backend import onnx_int8

        yield onnx_int8(work, data.test_pixels[:2], per_channel=recipe.quantize.per_channel)
    else:
        yield torch_variant(scheme, quantize_model(work, scheme, per_channel=recipe.quantize.per_channel))


def torch_variant(name: str, model: nn.Module) -> Variant:
    """A torch model as a variant."""
    model.eval()
    sparsity = prune.sparsity_of(model) if quantisation_of(model) is None else zeros_of(model)
    return Variant(name, model, lambda path: save_model(model, path, {}), sparsity, model)


def sparsify(model: nn.Module, recipe: Recipe, data: LabelledImages, seed: int = 0) -> None:
    """Shrink, prune and fine-tune in place; what is zero at the end of pruning stays zero."""
    shrink, how, tune = recipe.shrink, recipe.prune, recipe.fine_tune
    if shrink and shrink.when == "after":
        prune.shrink_model(model, shrink.lambda_, shrink.operator)
    if how and not how.gradual:
        prune.apply_masks(model, _masks(model, how))
    if tune is None:
        return
    start = masks = prune.zero_masks(model)
    ended = False

    def after_step(done: float, rate: float) -> None:
        nonlocal masks, ended
        if shrink and shrink.when == "training":
            prune.shrink_model(model, rate * shrink.lambda_, shrink.operator)
        if how and how.gradual and not ended:
            share = min(1.0, done / _PRUNING_SHARE)
            masks = {name: mask & start[name] for name, mask in _masks(model, how, share).items()}
            ended = share == 1
        prune.apply_masks(model, masks)

    fine_tune(model, data, tune.epochs, tune.learning_rate, seed, after_step)


def _masks(model: nn.Module, how: Prune, done: float = 1.0) -> prune.Masks:
    weights = prune.prunable(model)
    if how.sparsity is None:
        return {name: prune.two_of_four_mask(weight) for name, weight in weights.items()}
    return prune.magnitude_masks(weights, prune.gradual_sparsity(done, how.sparsity), how.scope)


def judge(candidates: Sequence[Variant], data: LabelledImages, meter: WorkMeter) -> list[Figures]:
    """Figures of each variant, against the first one; measured in turns, so that a busy machine is fair to all."""
    accuracies = [accuracy(variant, data) for variant in candidates]
    singles = list(torch.split(data.test_pixels[:_SINGLES], 1))
    rounds: list[list[_Round]] = [[] for _ in candidates]
    for _ in range(_ROUNDS):
        for variant, measured in zip(candidates, rounds, strict=True):
            measured.append(_round(variant, singles, meter))
    sizes = [_sizes(variant) for variant in candidates]
    return [
        _figures(variant, accuracies[0], found, size, measured)
        for variant, found, size, measured in zip(candidates, accuracies, sizes, rounds, strict=True)
    ]


@torch.inference_mode()
def accuracy(variant: Variant, data: LabelledImages) -> float:
    """Share of the test images that a variant reads right; answers that are not finite are wrong."""
    right = 0
    for pixels, labels in zip(
        torch.split(data.test_pixels, _BATCH), torch.split(data.test_labels, _BATCH), strict=True
    ):
        logits = variant.logits(pixels)
        right += int(((logits.argmax(dim=1) == labels) & torch.isfinite(logits).all(dim=1)).sum())
    return right / len(data.test_labels)


@dataclass(frozen=True)
class _Round:
    latency_s: float
    #: CPU time and energy of one image
    cpu_s: float
    energy_j: float
    whole: WorkEnergy


@torch.inference_mode()
def _round(variant: Variant, singles: Sequence[Tensor], meter: WorkMeter) -> _Round:
    latencies_s: list[float] = []

    def answer_all() -> None:
        for pixels in singles:
            began_s = time.perf_counter()
            variant.logits(pixels)
            latencies_s.append(time.perf_counter() - began_s)

    for pixels in singles[:10]:  # caches and lazy parts
        variant.logits(pixels)
    energy = meter.measure(answer_all)
    count = len(singles)
    return _Round(statistics.median(latencies_s), energy.cpu_s / count, energy.energy_j / count, energy)


def _figures(
    variant: Variant, accuracy_before: float, found: float, sizes: tuple[int, int, str], rounds: Sequence[_Round]
) -> Figures:
    return Figures(
        variant=variant.name,
        accuracy=found,
        accuracy_drop_points=100 * (accuracy_before - found),
        sparsity=variant.sparsity,
        size_bytes=sizes[0],
        packed_bytes=sizes[1],
        packed_by=sizes[2],
        latency_ms=1000 * statistics.median(r.latency_s for r in rounds),
        cpu_ms=1000 * statistics.median(r.cpu_s for r in rounds),
        energy_j=statistics.median(r.energy_j for r in rounds),
        nature=Nature.weakest([r.whole.nature for r in rounds]),
        error_rel=max(r.whole.error_rel for r in rounds),
        source=rounds[0].whole.source,
    )


def _sizes(variant: Variant) -> tuple[int, int, str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"variant{variant.suffix}"
        variant.write(path)
        return path.stat().st_size, *packed_size(path)
