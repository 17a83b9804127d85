"""Splitting a whole number into whole parts that sum to it, exactly, for any weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from eco_ray.errors import EcoRayError

K = TypeVar("K")


def largest_remainder(total: int, weights: Sequence[float], keys: Sequence[Any] | None = None) -> list[int]:
    """Split a whole into integer parts in proportion to weights; the parts sum to `total` exactly.

    The units left after rounding down go to the largest remainders; equal remainders in the order of `keys` (of
    position without keys), so that with distinct keys the order of the weights does not matter. A weight of 0 gets 0.
    """
    return split_exact(total, integers(weights, "weight"), keys)


def split_by_use(energy_mj: int, use_of: Mapping[K, float]) -> dict[K, int]:
    """Energy [mJ] over those who used it, in the order of their names; evenly where none of them used anything.

    It serves a job's share over its workers and processes (use: CPU time [s]) and a model's share over its replicas.
    """
    keys = sorted(use_of, key=str)
    weights = integers([use_of[key] for key in keys], "use")
    parts = split_exact(energy_mj, weights if any(weights) else [1] * len(weights))
    return dict(zip(keys, parts, strict=True))


def split_exact(total: int, weights: Sequence[int], keys: Sequence[Any] | None = None) -> list[int]:
    """`largest_remainder` of weights that are integers >= 0."""
    if total < 0:
        raise EcoRayError(f"cannot split {total}: the whole must be >= 0; mend the meter that gave it")
    if total == 0:
        return [0] * len(weights)
    weight_sum = sum(weights)
    if weight_sum == 0:
        raise EcoRayError(
            f"cannot split {total} over {len(weights)} weights whose sum is 0: give one weight > 0, "
            "for example that of the unallocated rest"
        )
    quotients = [divmod(total * weight, weight_sum) for weight in weights]
    parts = [part for part, _ in quotients]
    tie_break = range(len(parts)) if keys is None else keys
    by_remainder = sorted(range(len(parts)), key=lambda i: (-quotients[i][1], tie_break[i]))
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


def integers(values: Sequence[float], what: str) -> list[int]:
    """The values over their common denominator: exact, and sums do not depend on the order."""
    for value in values:
        if not math.isfinite(value) or value < 0:
            raise EcoRayError(f"{what} {value} must be finite and >= 0; drop or mend the reading that gave it")
    ratios = [value.as_integer_ratio() for value in values]
    common = math.lcm(*(denominator for _, denominator in ratios))
    return [numerator * (common // denominator) for numerator, denominator in ratios]
