"""What may be told of a training run: the share that is done, and its metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from eco_ray.errors import UsageError


def share(done: float | tuple[float, float]) -> float:
    """A share in [0, 1], or of (done, total). Raises UsageError."""
    part, total = done if isinstance(done, tuple) else (done, 1.0)
    # a sum of many small steps may end a rounding error above its total
    if total > 0 and 0 <= part <= total * (1 + 1e-6):
        return float(min(1.0, part / total))
    raise UsageError(
        f"progress {done!r} is outside [0, 1]; give a share such as 0.25, or (done, total) such as (3, 12)"
    )


def of_now(value: Any) -> Any:
    """A metric as it is now: of scalars of numpy and torch their value, of those on a GPU a copy, without a wait."""
    if getattr(value, "is_cuda", False):
        return value.detach().clone()
    if not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except (ValueError, RuntimeError):  # of more than one element: refused by who looks at it
        return value


def checked_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics as JSON holds them; scalars of numpy and torch are taken. Raises UsageError."""
    checked = {}
    for name, given in metrics.items():
        value = given.item() if getattr(given, "is_cuda", False) and given.numel() == 1 else of_now(given)
        if not isinstance(value, bool | int | float | str):
            raise UsageError(f"metric {name} is a {type(value).__name__}; a metric is a number, a string or a bool")
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"metric {name}={value} is not finite, and JSON has no such number; leave it out")
        checked[name] = value
    return checked
