"""Recipes: how a model is made smaller, as a YAML file.

    description: a fifth of the weights, in int8
    prune: {method: magnitude, sparsity: 0.8, scope: global, gradual: true}   # or {method: 2:4}
    shrink: {lambda: 0.005, operator: soft, when: after}                      # or while fine-tuning: training
    fine_tune: {epochs: 3, learning_rate: 0.001}
    quantize: {scheme: int8-weight-only, per_channel: true}

They happen in this order: shrink (after), prune and fine_tune together, quantize. Each key may be left out, but one
of shrink, prune and quantize is needed. The packaged ones stand in `recipes/`; docs/compression.md describes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from eco_ray import schema
from eco_ray.errors import UsageError
from eco_ray.schema import Amount, Strict, Whole
from eco_ray.yaml_file import load_yaml

_HOME = Path(__file__).parent / "recipes"
#: the scheme that onnxruntime carries out; the others are those of quantize.SCHEMES
ONNXRUNTIME_INT8 = "onnxruntime-int8"


class Prune(Strict):
    """Which weights are dropped."""

    method: Literal["magnitude", "2:4"] = "magnitude"
    #: share of the weights; 2:4 has its own, a half
    sparsity: Amount | None = Field(default=None, gt=0, lt=1)
    scope: Literal["global", "layer"] = "global"
    #: in steps along the cubic schedule while fine-tuning, instead of all at once before it
    gradual: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Prune:
        if self.method == "magnitude" and self.sparsity is None:
            raise ValueError("magnitude needs sparsity, the share of weights to drop, such as 0.8")
        if self.method == "2:4" and (self.sparsity is not None or self.gradual):
            raise ValueError("2:4 drops two of each four weights at once; leave sparsity and gradual out")
        return self


class Shrink(Strict):
    """L1 shrinkage of every weight."""

    #: threshold in the unit of the weights (after), or times the learning rate (training: 0.1 to 1 has an effect)
    lambda_: Amount = Field(alias="lambda", gt=0, le=1e6)
    #: soft-thresholding, or w - lambda sign(w)
    operator: Literal["soft", "sign"] = "soft"
    #: once on the trained weights, or after each step of fine_tune
    when: Literal["after", "training"] = "after"


class FineTune(Strict):
    """A short training on the data set's training images."""

    epochs: Whole = Field(ge=1, le=1000)
    learning_rate: Amount = Field(default=1e-3, gt=0, le=1)


class Quantize(Strict):
    """In how many bits the weights are kept."""

    scheme: Literal["int8-weight-only", "int8-dynamic", "int4-weight-only", "bf16", "onnxruntime-int8"]
    #: a scale per output channel instead of one per layer (int8)
    per_channel: bool = True


class Recipe(Strict):
    """A whole recipe, checked."""

    description: str = Field(default="", max_length=500)
    shrink: Shrink | None = None
    prune: Prune | None = None
    fine_tune: FineTune | None = None
    quantize: Quantize | None = None

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        if self.shrink is None and self.prune is None and self.quantize is None:
            raise ValueError("nothing to compress; add one of shrink, prune and quantize")
        if self.fine_tune is None and self.prune is not None and self.prune.gradual:
            raise ValueError("gradual pruning happens while fine-tuning; add fine_tune, or leave gradual out")
        if self.fine_tune is None and self.shrink is not None and self.shrink.when == "training":
            raise ValueError("shrinking in training happens while fine-tuning; add fine_tune, or set when: after")
        return self

    def steps(self) -> dict[str, Any]:
        """What it does, as plain values, with the defaults that it leaves out; `Recipe` takes them back."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"description"})


def recipe_names() -> list[str]:
    """The packaged recipes."""
    return sorted(path.stem for path in _HOME.glob("*.yaml"))


def load_recipe(name: str) -> Recipe:
    """A packaged recipe by its name, or one from a file (a path with a slash, or that ends in .yaml or .yml).

    Raises UsageError with file, line and cure.
    """
    is_file = "/" in name or name.endswith((".yaml", ".yml"))
    if not is_file and name not in recipe_names():
        raise UsageError(f"{schema.unknown('recipe', name, recipe_names())}; or give the path of a YAML file")
    document = load_yaml(Path(name) if is_file else _HOME / f"{name}.yaml", "recipe")
    return schema.check(Recipe, document.value, document.where, document.line_of)
