"""An image beside what spoke for a class in it, as a PNG. Extra `explain`, imported lazily."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eco_ray.errors import EcoRayError
from eco_ray.whole_file import whole_binary_file

#: inches and dots: 1,200 pixels wide
_SIZE_IN, _DOTS_PER_IN = (8.0, 4.4), 150
#: share of the pixels whose colours differ; the few above it would make all others pale
_STRONGEST = 0.995
_INK, _QUIET = "#1a1a1a", "#666666"


def write_picture(
    path: Path, image: NDArray[Any], attributions: NDArray[Any], label: str, title: str, note: str
) -> None:
    """Write image and attributions, both [1, channels, height, width], side by side; the whole file appears, or none.

    Red spoke for the class `label` and blue against it; the two can be told apart with any kind of colour blindness.
    Raises EcoRayError for a place that cannot be written, or without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError:
        raise EcoRayError("pictures need: pip install 'eco-ray[explain]'") from None
    heat = attributions[0].sum(axis=0)
    most = float(np.abs(heat).max())
    limit = float(np.quantile(np.abs(heat), _STRONGEST)) or most or 1.0
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure(figsize=_SIZE_IN, dpi=_DOTS_PER_IN, layout=layout, facecolor="white")
    figure.suptitle(_short(title), fontsize=13, fontweight="bold", color=_INK, parse_math=False)
    left, right = figure.subplots(1, 2)
    left.imshow(_shown(image[0]), cmap="gray", interpolation="nearest")
    left.set_title("input", fontsize=10, color=_QUIET)
    drawn = right.imshow(heat, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    right.set_title(f"red spoke for {_short(label, 30)}, blue against it", fontsize=10, color=_QUIET, parse_math=False)
    for axes in (left, right):
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("#cccccc")
    bar = figure.colorbar(drawn, ax=right, shrink=0.85, extend="both" if most > limit else "neither")
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=_QUIET)
    figure.supxlabel(_short(note), fontsize=8, color=_QUIET, parse_math=False)
    try:
        with warnings.catch_warnings(), whole_binary_file(path) as (file, _):
            warnings.simplefilter("ignore")  # of a letter that the font does not have
            figure.savefig(file, format="png")
    except OSError as error:
        raise EcoRayError(f"{path} could not be written: {error}; free space or give another path") from None


def _shown(image: NDArray[Any]) -> NDArray[Any]:
    """[height, width] or [height, width, 3] in 0 to 1, whatever the range of the input."""
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 1:
        image = (image - low) / (high - low)
    shown: NDArray[Any] = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    return np.clip(shown.astype(np.float64), 0, 1)


def _short(text: str, limit: int = 100) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
