"""What the checks of a report share: sums with unknown parts, and two values that should be the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eco_ray.core.units import Nature

#: relative gap that rounding of floats may make
REL_TOL = 1e-9


def total(values: Sequence[float | None]) -> float | None:
    """The sum, unknown where a part is unknown."""
    known = [value for value in values if value is not None]
    return sum(known, 0.0) if len(known) == len(values) else None


def same(name: str, key: str, told: float | None, redone: float | None) -> Iterable[str]:
    """The same up to rounding, or both unknown."""
    if told is None or redone is None:
        equal = told is redone
    else:
        equal = math.isclose(told, redone, rel_tol=REL_TOL, abs_tol=1e-9)
    if not equal:
        yield f"{name}: {key} is {told}, redone it is {redone}"


def same_word(name: str, key: str, told: Any, redone: Any) -> Iterable[str]:
    """Words, names and counts: exactly the same."""
    if told != redone:
        yield f"{name}: {key} is {told!r}, redone it is {redone!r}"


def weakest(words: Iterable[str | None]) -> str:
    """The weakest of natures, leaving out what has none."""
    return Nature.weakest([Nature(word) for word in words if word is not None]).value


def no_stronger(name: str, key: str, told: str, parts: Iterable[str | None]) -> Iterable[str]:
    """A nature is not better than that of the parts that are known."""
    of_parts = weakest([*parts, Nature.MEASURED.value])
    if weakest([told, of_parts]) != told:
        yield f"{name}: {key} is {told!r}, and a part of it is {of_parts!r}"


def not_finite(part: Any, path: str = "report") -> Iterable[str]:
    """Numbers that are none: JSON has no word for them, and no sum can be redone with them."""
    if isinstance(part, Mapping):
        for key, value in part.items():
            yield from not_finite(value, f"{path}.{key}")
    elif isinstance(part, (list, tuple)):
        for i, value in enumerate(part):
            yield from not_finite(value, f"{path}[{i}]")
    elif isinstance(part, float) and not math.isfinite(part):
        yield f"{path} is {part}: must be finite, or null where it is unknown"
