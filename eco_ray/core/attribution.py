"""Who is charged for the energy of a node: exact to the millijoule, and nothing is made up.

    E_owner = E_dynamic * cpu_owner / sum(cpu)  +  E_idle * reserved_owner / capacity

`sum(cpu)` includes the CPU time that belongs to nobody (raylet, agents). What no owner used or reserved is unallocated.
All arithmetic is on integers (a float is an exact ratio), so the parts sum to the whole for any input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from eco_ray.core.ledger import OwnerKind, Sample, Share
from eco_ray.errors import EcoRayError

_Key = tuple[OwnerKind, str, int]


def largest_remainder(total: int, weights: Sequence[float], keys: Sequence[Any] | None = None) -> list[int]:
    """Split a whole into integer parts in proportion to weights; the parts sum to `total` exactly.

    The units left after rounding down go to the largest remainders; equal remainders in the order of `keys` (of
    position without keys), so that with distinct keys the order of the weights does not matter. A weight of 0 gets 0.
    """
    return _split(total, _integers(weights, "weight"), keys)


def attribute(sample: Sample, capacity_cpus: float) -> tuple[Share, ...]:
    """The energy of each owner of a sample, ordered by owner; what is missing to `sample.energy_mj` is unallocated.

    An owner that is listed more than once gets one share. Reservations above the capacity are scaled down to it.
    Dynamic energy of an interval in which no CPU time was seen is unallocated.
    """
    _check(sample)
    owners: list[_Key] = [(usage.owner_kind, usage.owner_id, usage.attempt) for usage in sample.usages]
    *cpu, system = _integers([*(usage.cpu_s for usage in sample.usages), sample.system_cpu_s], "CPU time [s]")
    *reserved, capacity = _integers(
        [*(usage.reserved_cpus for usage in sample.usages), capacity_cpus], "reserved or available CPUs"
    )
    capacity = max(capacity, sum(reserved))
    # a denominator of 0 is replaced by one unit that belongs to nobody
    if sum(cpu) + system == 0:
        system = 1
    capacity = capacity or 1
    cpu_sum = sum(cpu) + system
    dynamic_mj = sample.energy_mj - sample.idle_mj

    # both terms over the common denominator cpu_sum * capacity
    weight_of: dict[_Key, int] = {}
    for owner, used, held in zip(owners, cpu, reserved, strict=True):
        weight = dynamic_mj * used * capacity + sample.idle_mj * held * cpu_sum
        weight_of[owner] = weight_of.get(owner, 0) + weight
    unallocated = dynamic_mj * system * capacity + sample.idle_mj * (capacity - sum(reserved)) * cpu_sum

    keys = sorted(weight_of)
    weights = [*(weight_of[key] for key in keys), unallocated]
    parts = _split(sample.energy_mj, weights)  # ties go in the order of the owners, last to the unallocated rest
    return tuple(Share(*key, energy_mj=part) for key, part in zip(keys, parts, strict=False))


def _split(total: int, weights: Sequence[int], keys: Sequence[Any] | None = None) -> list[int]:
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


def _check(sample: Sample) -> None:
    where = f"sample {sample.seq} of node '{sample.node}'"
    if not isinstance(sample.energy_mj, int) or not isinstance(sample.idle_mj, int):
        raise EcoRayError(f"{where}: energy {sample.energy_mj!r} mJ, idle {sample.idle_mj!r} mJ must be whole numbers")
    if not 0 <= sample.idle_mj <= sample.energy_mj:
        raise EcoRayError(
            f"{where}: idle energy {sample.idle_mj} mJ is outside [0, {sample.energy_mj}] mJ, the energy of the node; "
            "clip it where the meter is read"
        )


def _integers(values: Sequence[float], what: str) -> list[int]:
    """The values over their common denominator: exact, and sums do not depend on the order."""
    for value in values:
        if not math.isfinite(value) or value < 0:
            raise EcoRayError(f"{what} {value} must be finite and >= 0; drop or mend the reading that gave it")
    ratios = [value.as_integer_ratio() for value in values]
    common = math.lcm(*(denominator for _, denominator in ratios))
    return [numerator * (common // denominator) for numerator, denominator in ratios]
