"""Requests as a replica counts them, what an agent takes of them, and rows of the ledger, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from eco_ray.core.ledger import OwnerInterval
from eco_ray.core.tenants import model_and_tenant
from eco_ray.core.units import Nature
from eco_ray.core.usage import Counted, Take

T0_S = 1_763_798_400.0


def counted(ordinal: int = 1, before_s: float = 0.0, after_s: float = 1.0, **changes: Any) -> Counted:
    base = Counted(
        *("vision", f"id-{ordinal}", "m:1", "r1", "vision", ordinal, before_s, after_s),
        *(1.23456, 0.0123456, "DE", 300.0, "modelled", "cpu-time", T0_S),
    )
    return base._replace(**changes)


def all_counted(weights_s: Sequence[float]) -> list[Counted]:
    sums_s = [0.0, *accumulate(weights_s)]
    return [counted(n, sums_s[n - 1], sums_s[n]) for n in range(1, len(sums_s))]


def take_of(requests: Sequence[Counted], start_s: float = T0_S) -> Take:
    """Of all that they are, in one sample of a second."""
    first, last = requests[0], requests[-1]
    place = first.replica, first.counted_as, first.ordinal - 1, last.ordinal
    return Take(*place, first.weight_before_s, last.weight_after_s, start_s, start_s + 1)


def row_of(take: Take, energy_mj: int = 7_777, **changes: Any) -> OwnerInterval:
    """The row that counts a take."""
    values: dict[str, Any] = {
        **{"owner_kind": "model", "owner_id": "m:1", "attempt": 0, "node": "n1", "zone": "DE", "energy_mj": energy_mj},
        **{"start_s": take.start_s, "end_s": take.end_s, "intensity_g_per_kwh": 400.0, "pue": 1.5},
        **{
            "nature": Nature.MEASURED,
            "source": "rapl",
            "tenant": model_and_tenant(take.counted_as)[1],
            "part": take.replica,
        },
        **{"requests": take.requests_after - take.requests_before, "items": 1},
    }
    return OwnerInterval(**(values | changes))
