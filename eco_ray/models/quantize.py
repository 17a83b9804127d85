"""Weights in fewer bits: int8 (weight-only, dynamic), int4 by groups, bf16. Plain torch; see also `onnx_backend.py`.

`quantize_model` puts layers in place of Linear and Conv2d whose `state_dict` holds the small tensors, so a quantised
model is saved, loaded and hashed like any other. A scheme is a name of SCHEMES.

torch.ao.quantization is deprecated and torchao is a large dependency, so neither is used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from eco_ray.errors import EcoRayError, UsageError
from eco_ray.models.prune import must_be_finite, prunable

#: smallest scale: an all-zero channel has none of its own, and 0 / 0 would be NaN in every answer
MIN_SCALE = torch.finfo(torch.float32).tiny
_FLOAT32_MAX = torch.finfo(torch.float32).max
INT8_MAX = 127
#: symmetric range of int4, -7 to 7
INT4_MAX = 7
#: weights that share a scale in int4
INT4_GROUP = 32
#: up to so many products of int8 the sum is exact in a float's 24 bits: 127 * 127 * n < 2^24
_EXACT_IN_FLOAT32 = 1040


def scales_of(values: Tensor, highest: int, dim: int) -> Tensor:
    """Symmetric scales max|v| / highest over `dim`, which stays as size 1; float32, never below MIN_SCALE."""
    return (values.detach().float().abs().amax(dim, keepdim=True) / highest).clamp(min=MIN_SCALE)


def _weight_scales(values: Tensor, highest: int, dim: int) -> Tensor:
    # 127 x (max / 127) rounds to infinity for the largest floats
    return scales_of(values, highest, dim).clamp(max=_FLOAT32_MAX / highest * (1 - 2**-23))


def quantize_int8(weight: Tensor, *, per_channel: bool = True) -> tuple[Tensor, Tensor]:
    """int8 values of the weight's shape (outputs, inputs...), and scales (outputs, 1), float32.

    value * scale is within scale / 2 of the weight. Without `per_channel` all scales are the layer's own. Raises
    EcoRayError for a weight that is not finite.
    """
    flat = _flat(weight)
    scale = _weight_scales(flat if per_channel else flat.reshape(1, -1), INT8_MAX, 1).repeat(
        1 if per_channel else len(flat), 1
    )
    return _rounded(flat, scale, INT8_MAX).view(weight.shape), scale


def dequantize_int8(values: Tensor, scale: Tensor) -> Tensor:
    """float32 of the values' shape."""
    return (values.flatten(1) * scale).view(values.shape)


def quantize_int4(weight: Tensor, group: int = INT4_GROUP) -> tuple[Tensor, Tensor]:
    """Two values per uint8, (outputs, ceil(inputs / group) * group / 2), and scales (outputs, groups), float32.

    The low half of a byte holds the earlier value, plus 8. Inputs are flattened and padded with zeros to whole groups.
    Raises UsageError for an odd group, EcoRayError for a weight that is not finite.
    """
    if group < 2 or group % 2:
        raise UsageError(f"a group of {group} weights; give an even number of at least 2, such as {INT4_GROUP}")
    flat = _flat(weight)
    flat = functional.pad(flat, (0, -flat.shape[1] % group))
    groups = flat.view(len(flat), -1, group)
    scale = _weight_scales(groups, INT4_MAX, 2)
    raised = (_rounded(groups, scale, INT4_MAX) + 8).to(torch.uint8).view(len(flat), -1)
    return raised[:, 0::2] | raised[:, 1::2] << 4, scale.squeeze(2)


def dequantize_int4(packed: Tensor, scale: Tensor, shape: torch.Size) -> Tensor:
    """float32 of `shape`, the weight's own."""
    values = torch.stack([packed & 15, packed >> 4], dim=2).view(len(packed), scale.shape[1], -1).float() - 8
    flat = (values * scale[..., None]).view(len(packed), -1)
    return flat[:, : shape[1:].numel()].reshape(shape)


def _flat(weight: Tensor) -> Tensor:
    flat = weight.detach().float().reshape(len(weight), -1)
    if not torch.isfinite(flat).all():
        raise EcoRayError("the weights to quantise are not all finite; train the model again before it is compressed")
    return flat


def _rounded(values: Tensor, scale: Tensor, highest: int) -> Tensor:
    return (values / scale).round().clamp(-highest, highest).to(torch.int8)


class _SmallLayer(nn.Module, ABC):
    """What stands in for a Linear or a Conv2d: its weight in fewer bits, its bias in float32."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, **_options: Any) -> None:
        super().__init__()
        self.shape = layer.weight.shape
        bias = layer.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().float().clone(), requires_grad=False)
        self._run: Callable[[Tensor, Tensor, Tensor | None], Tensor] = _runner(layer)

    @abstractmethod
    def weight_float(self) -> Tensor:
        """The weight in the type that is computed in."""

    def forward(self, x: Tensor) -> Tensor:
        """As the layer that it stands for, in the type of the input."""
        return self._run(x.float(), self.weight_float(), self.bias).to(x.dtype)


class Int8Layer(_SmallLayer):
    """int8 per output channel; float32 arithmetic. Buffers: weight, scale."""

    weight: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear | nn.Conv2d, *, per_channel: bool = True) -> None:
        super().__init__(layer)
        weight, scale = quantize_int8(layer.weight, per_channel=per_channel)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    def weight_float(self) -> Tensor:
        """float32."""
        return dequantize_int8(self.weight, self.scale)


class DynamicInt8Linear(Int8Layer):
    """Inputs are quantised too, one scale per row, at each call; whole-number products, summed exactly.

    A row with a value that is not finite gets an answer that is not finite.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        rows = x.reshape(-1, x.shape[-1]).float()
        row_scale = scales_of(rows, INT8_MAX, 1)
        total = _products(_rounded(rows, row_scale, INT8_MAX), self.weight)
        answer = total * row_scale * self.scale.squeeze(1)
        return (answer if self.bias is None else answer + self.bias).view(*x.shape[:-1], len(self.weight)).to(x.dtype)


class Int4Layer(_SmallLayer):
    """int4 by groups of weights; float32 arithmetic. Buffers: weight, scale."""

    weight: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear | nn.Conv2d, **_options: Any) -> None:
        super().__init__(layer)
        weight, scale = quantize_int4(layer.weight)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    def weight_float(self) -> Tensor:
        """float32."""
        return dequantize_int4(self.weight, self.scale, self.shape)


class Bf16Layer(_SmallLayer):
    """Weight and arithmetic in bfloat16; inputs and outputs keep their type. Buffer: weight."""

    weight: Tensor

    def __init__(self, layer: nn.Linear | nn.Conv2d, **_options: Any) -> None:
        super().__init__(layer)
        self.register_buffer("weight", _flat(layer.weight).view(self.shape).to(torch.bfloat16))

    def weight_float(self) -> Tensor:
        """bfloat16."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        """As the layer that it stands for."""
        bias = None if self.bias is None else self.bias.to(torch.bfloat16)
        return self._run(x.to(torch.bfloat16), self.weight, bias).to(x.dtype)


def _runner(layer: nn.Linear | nn.Conv2d) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    if isinstance(layer, nn.Linear):
        return functional.linear
    if layer.padding_mode != "zeros":
        raise UsageError(f"a Conv2d with padding mode {layer.padding_mode!r} cannot be quantised; only 'zeros' can")
    options = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}
    return lambda x, weight, bias: functional.conv2d(x, weight, bias, **options)  # type: ignore[arg-type]


def _products(rows: Tensor, weight: Tensor) -> Tensor:
    """Product rows @ weight^T of int8 matrices, as float32; exact.

    Without the CPU's whole-number dot products (VNNI) torch's int8 product is many times slower than its float one; on
    a GPU it refuses 16 rows and fewer.
    """
    if rows.device.type == "cpu" and torch.cpu._is_vnni_supported():
        return torch._int_mm(rows, weight.t()).float()
    wide = torch.float32 if weight.shape[1] <= _EXACT_IN_FLOAT32 else torch.float64
    return (rows.to(wide) @ weight.to(wide).t()).float()


_Make = Callable[..., nn.Module]
#: scheme -> what stands in for a Linear, and for a Conv2d
SCHEMES: dict[str, tuple[_Make, _Make]] = {
    "int8-weight-only": (Int8Layer, Int8Layer),
    "int8-dynamic": (DynamicInt8Linear, Int8Layer),
    "int4-weight-only": (Int4Layer, Int4Layer),
    "bf16": (Bf16Layer, Bf16Layer),
}


def quantize_model(model: nn.Module, scheme: str, *, per_channel: bool = True) -> nn.Module:
    """Put small layers in place of every Linear and Conv2d, in place; returns the model, ready to infer.

    `per_channel` (of int8): a scale per output instead of one per layer. Raises UsageError for a scheme that is not in
    SCHEMES and for a model without such layers, EcoRayError for weights and biases that are not finite, or would not be
    in the scheme's arithmetic.
    """
    if scheme not in SCHEMES:
        raise UsageError(f"unknown quantisation {scheme!r}; give one of {', '.join(SCHEMES)}")
    linear, conv = SCHEMES[scheme]
    modules = list(model.named_modules(remove_duplicate=False))  # a layer may stand in several places
    # attention reads the weight of its last layer itself; torch has a class of its own to mark that
    kept = nn.modules.linear.NonDynamicallyQuantizableLinear
    found = [(n, m) for n, m in modules if isinstance(m, nn.Linear | nn.Conv2d) and not isinstance(m, kept)]
    if not found or isinstance(model, nn.Linear | nn.Conv2d):
        raise UsageError(f"a {type(model).__name__} holds no Linear or Conv2d layers to quantise")
    prunable(model)  # refuses weights that are computed at each call
    for name, layer in found:
        if type(layer).forward not in (nn.Linear.forward, nn.Conv2d.forward):
            raise UsageError(
                f"layer {name} is a {type(layer).__name__} with a forward of its own, which a quantised layer would "
                "lose; let it hold a plain Linear or Conv2d"
            )
        _check_range(name, layer, scheme)
    small = {
        layer: (linear if isinstance(layer, nn.Linear) else conv)(layer, per_channel=per_channel) for _, layer in found
    }
    for name, layer in found:
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, small[layer])
    for _, module in modules:
        if isinstance(module, nn.TransformerEncoder):
            module.enable_nested_tensor = module.use_nested_tensor = False  # its own kind of batch, for float weights
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # else a fused kernel, which wants float weights, goes past our layers
    model.quantisation = scheme  # type: ignore[assignment]  # a plain word, read by quantisation_of
    return model.eval()


def _check_range(name: str, layer: nn.Module, scheme: str) -> None:
    kept = torch.bfloat16 if scheme == "bf16" else torch.float32
    for part, values in layer.named_parameters():
        must_be_finite(f"{name}.{part}", values)
        if not torch.isfinite(values.to(kept)).all():
            raise EcoRayError(
                f"{name}.{part} reaches {values.abs().max():g}, and {scheme} holds up to {torch.finfo(kept).max:g}; "
                "train the model with smaller weights, or take a scheme that holds it"
            )


def quantisation_of(model: nn.Module) -> str | None:
    """The scheme that `quantize_model` gave the model; None: none."""
    return getattr(model, "quantisation", None)


def zeros_of(model: nn.Module) -> float:
    """Share of a quantised model's weights that are exactly zero."""
    weights = [layer.weight_float() for layer in model.modules() if isinstance(layer, _SmallLayer)]
    count = sum(weight.numel() for weight in weights)
    return sum(int((weight == 0).sum()) for weight in weights) / count if count else 0.0
