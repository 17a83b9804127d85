"""Weights made zero: magnitude, 2:4, gradual schedule, and L1 shrinkage.

A mask is a bool tensor of the weight's shape: True keeps. Masks change no tensor's size; what a pruned model saves is
bytes in a file whose coder sees the zeros (docs/compression.md). Biases are never pruned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from eco_ray.errors import EcoRayError, UsageError

Masks = dict[str, Tensor]
Scope = Literal["global", "layer"]
ShrinkOperator = Literal["soft", "sign"]


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of the model's Linear and Conv2d layers by name, in the model's order. Embeddings stay dense.

    Raises UsageError for a layer whose weight is computed anew at each call: what is written there is lost.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and is_parametrized(layer, "weight"):
            raise UsageError(
                f"the weight of layer {name or type(layer).__name__} is parametrised (weight_norm or the like); first: "
                "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')"
            )
    return {
        f"{name}.weight" if name else "weight": cast(nn.Parameter, layer.weight)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }


def magnitude_masks(weights: Mapping[str, Tensor], sparsity: float, scope: Scope = "global") -> Masks:
    """Masks that drop the smallest absolute values: exactly round(sparsity * n) of them, ties by position.

    `global` ranks all weights together (n: of all), `layer` each tensor by itself. Raises UsageError for a sparsity
    outside [0, 1), EcoRayError for weights that are not finite. Source: Han et al., arXiv:1506.02626.
    """
    if not 0 <= sparsity < 1:
        raise UsageError(f"sparsity {sparsity:g} is outside [0, 1); give the share of weights to drop, such as 0.8")
    for name, weight in weights.items():
        must_be_finite(name, weight)
    if scope == "layer":
        return {name: _keep_largest(weight.detach().abs(), sparsity) for name, weight in weights.items()}
    if not weights:
        return {}
    # of different types, the widest: in a narrower one large weights would be equal, and small ones zero
    kept = _keep_largest(torch.cat([weight.detach().abs().reshape(-1) for weight in weights.values()]), sparsity)
    parts = torch.split(kept, [weight.numel() for weight in weights.values()])
    return {name: part.view(weight.shape) for (name, weight), part in zip(weights.items(), parts, strict=True)}


def two_of_four_mask(weight: Tensor) -> Tensor:
    """Mask that keeps the two largest of each four neighbours along the flattened inputs of an output.

    `weight`: (outputs, inputs...). Inputs left over after the last four are kept. Source: Mishra et al.,
    arXiv:2104.08378. Raises EcoRayError for weights that are not finite.
    """
    must_be_finite("weight", weight)
    flat = weight.detach().abs().reshape(len(weight), -1)
    whole = flat.shape[1] // 4 * 4
    fours = flat[:, :whole].reshape(len(flat), -1, 4)
    order = fours.argsort(dim=2, descending=True, stable=True)
    kept = torch.zeros_like(fours, dtype=torch.bool).scatter_(2, order[..., :2], value=True)
    rest = torch.ones_like(flat[:, whole:], dtype=torch.bool)
    return torch.cat([kept.reshape(len(flat), whole), rest], dim=1).view(weight.shape)


def gradual_sparsity(done: float, final: float, initial: float = 0.0) -> float:
    """Sparsity when a share `done` of the pruning steps is behind: s_f + (s_i - s_f) (1 - done)^3.

    Fast while much is redundant, slow at the end. `done` is cut to [0, 1]. Source: Zhu and Gupta, arXiv:1710.01878.
    """
    return final + (initial - final) * (1 - min(1.0, max(0.0, done))) ** 3


def shrink(weight: Tensor, lambda_: float, operator: ShrinkOperator = "soft") -> Tensor:
    """One step of L1 shrinkage by `lambda_` >= 0, in the unit of the weights.

    `soft`: sign(w) max(|w| - lambda, 0), the proximal operator of the L1 norm (ISTA): values within lambda become
    exactly 0. `sign`: w - lambda sign(w), a step along the subgradient, as it is often written: values within lambda
    jump across zero, and none but an exact |w| = lambda becomes 0. Raises UsageError for another lambda or operator.
    """
    if not 0 <= lambda_ < float("inf"):
        raise UsageError(f"lambda {lambda_:g} is not a finite number of at least 0; give one such as 0.005")
    if operator == "soft":
        return weight.sign() * (weight.abs() - lambda_).clamp(min=0) + 0.0  # -0.0 is another number to a coder
    if operator == "sign":
        return weight - lambda_ * weight.sign()
    raise UsageError(f"unknown shrinkage {operator!r}; give soft or sign")


@torch.no_grad()
def shrink_model(model: nn.Module, lambda_: float, operator: ShrinkOperator = "soft") -> None:
    """Shrink every prunable weight in place: once after training, or after each optimiser step with lr * lambda."""
    for weight in prunable(model).values():
        weight.copy_(shrink(weight, lambda_, operator))


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Make what the masks drop exactly zero, in place; after each optimiser step while fine-tuning.

    Raises UsageError for a mask of a weight that the model lacks.
    """
    weights = prunable(model)
    for name, mask in masks.items():
        if name not in weights:
            raise UsageError(f"the model has no prunable weight {name!r}; it has {', '.join(weights)}")
        weights[name].masked_fill_(~mask, 0.0)


def zero_masks(model: nn.Module) -> Masks:
    """Masks that keep what is not zero now, so that fine-tuning leaves zeros alone."""
    return {name: weight.detach() != 0 for name, weight in prunable(model).items()}


def sparsity_of(model: nn.Module) -> float:
    """Share of the prunable weights that are exactly zero; 0 for a model without any."""
    weights = prunable(model).values()
    count = sum(weight.numel() for weight in weights)
    return sum(int((weight == 0).sum()) for weight in weights) / count if count else 0.0


def _keep_largest(size: Tensor, sparsity: float) -> Tensor:
    dropped = round(sparsity * size.numel())
    kept = torch.ones(size.numel(), dtype=torch.bool, device=size.device)
    kept[size.reshape(-1).argsort(stable=True)[:dropped]] = False
    return kept.view(size.shape)


def must_be_finite(name: str, weight: Tensor) -> None:
    """Raise EcoRayError that names a tensor which is not."""
    if not torch.isfinite(weight).all():
        raise EcoRayError(f"{name} holds values that are not finite; train the model again before it is compressed")
