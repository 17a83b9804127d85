"""What one request cost: an estimate at once, and its part of the ledger's row in which it was counted.

A replica numbers its requests, by tenant as it counts them, and keeps the sum of their weights before and after each
(`Counted`). An agent takes the growth of these counts with a sample (`Take`), and the growth of a tenant is one row of
the ledger, of whose energy E the request with the weights up to w0 before and w1 after it has

    floor(E * (w1 - first) / (last - first)) - floor(E * (w0 - first) / (last - first))     first, last: of the take

Neighbours share a bound, so the parts of all requests of a row sum to E exactly, whoever asks for which of them, and
none of the others needs to be known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from fractions import Fraction
from math import floor
from typing import Any, NamedTuple

from eco_ray.core.ledger import OwnerInterval
from eco_ray.core.tenants import model_and_tenant
from eco_ray.core.units import J_PER_KWH, MJ_PER_J, grams, rounded

#: by how much sums of weights may differ that were added up in another order
_SUM_REL = 1e-9


class Counted(NamedTuple):
    """A request as its replica counted it."""

    #: who asked, and by which id: the answer's x-request-id
    tenant: str
    request_id: str
    #: `name:version`; empty: the replica does not say
    model: str
    replica: str
    #: whom it counts for (`tenants.counted_as`); without tenant: none, or one too many for the replica to tell apart
    counted_as: str
    #: 1 for the first request that the replica counted for it
    ordinal: int
    #: sum of the weights of those before it, and with it [s]
    weight_before_s: float
    weight_after_s: float
    #: what its answer told: IT energy [J], operational carbon [g] (None: unknown), and by what
    energy_j: float
    carbon_g: float | None
    zone: str
    intensity_g_per_kwh: float | None
    nature: str
    #: what the energy is made of, as `Footprint.method`
    method: str
    #: by the wall clock [s since epoch]
    counted_s: float


class Take(NamedTuple):
    """The growth of a replica's counts of a tenant that an agent took with a sample."""

    replica: str
    #: as in `Counted`
    counted_as: str
    requests_before: int
    requests_after: int
    #: sums of the weights of all requests up to then [s]
    weight_before_s: float
    weight_after_s: float
    #: of the sample, in grid time [s since epoch]
    start_s: float
    end_s: float


class Found(NamedTuple):
    """What a node knows of a request."""

    counted: Counted
    #: that has it; None: none does
    take: Take | None
    #: whether a later one was taken
    passed: bool


class State(StrEnum):
    """How far it is known what a request cost."""

    #: not yet in the ledger
    ESTIMATE = "estimate"
    SETTLED = "settled"
    #: it never will be
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Usage:
    """What one request cost."""

    counted: Counted
    state: State
    #: of the request [mJ], and the ledger's row that it is part of; None: not settled
    energy_mj: int | None = None
    row: OwnerInterval | None = None
    #: why it is unknown
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Numbers of its state, with 3 digits."""
        one, row = self.counted, self.row
        energy_j = carbon_g = nature = source = method = None
        zone, intensity = one.zone, one.intensity_g_per_kwh
        match self.state:
            case State.ESTIMATE:
                energy_j, carbon_g, nature = one.energy_j, one.carbon_g, one.nature
                source, method = "estimate of the replica", one.method
            case State.SETTLED:
                assert row is not None and self.energy_mj is not None  # noqa: S101, PT018
                zone, intensity = row.zone, row.intensity_g_per_kwh
                energy_j = self.energy_mj / MJ_PER_J
                carbon_g = None if intensity is None else grams(self.energy_mj, intensity, row.pue)
                nature, source, method = str(row.nature), row.source, "service-time"
            case State.UNKNOWN:
                intensity = None
        return {
            "request_id": one.request_id,
            "model": one.model,
            "state": str(self.state),
            "reason": self.reason,
            "energy_joules": rounded(energy_j),
            "energy_kwh": rounded(None if energy_j is None else energy_j / J_PER_KWH),
            "carbon_g_co2eq": rounded(carbon_g),
            "nature": nature,
            "source": source,
            "attribution_method": method,
            "boundary": "operational",
            "grid_zone": zone,
            "intensity_gco2e_per_kwh": intensity,
            "interval": {"start": _iso(row.start_s), "end": _iso(row.end_s)} if row else None,
            "estimate": {"energy_joules": rounded(one.energy_j), "carbon_g_co2eq": rounded(one.carbon_g)},
        }


def settle(found: Found, rows: Iterable[OwnerInterval]) -> Usage:
    """What a request cost by the ledger. `rows`: from the start of its take to some samples further."""
    counted, take, passed = found
    if take is None:
        if not passed:
            return Usage(counted, State.ESTIMATE)
        return _unknown(counted, "its count was lost with the agent or the disk of its node")
    if not _holds(take, counted):
        return _unknown(counted, "the counts of its replica contradict each other")
    seen = False
    model, tenant = model_and_tenant(take.counted_as)
    for row in rows:
        if row.part != take.replica or row.start_s < take.start_s:
            continue
        seen = True
        requests = take.requests_after - take.requests_before
        same = (row.start_s, row.end_s, row.tenant, row.requests) == (take.start_s, take.end_s, tenant, requests)
        if same and model in ("", row.owner_id):
            return Usage(counted, State.SETTLED, _part_mj(row.energy_mj, take, counted), row)
    if seen:  # samples come in order
        return _unknown(counted, "the ledger does not count it in its interval")
    return Usage(counted, State.ESTIMATE)


def _holds(take: Take, counted: Counted) -> bool:
    """Whether the weights of the request are within those of the take."""
    slack_s = _SUM_REL * take.weight_after_s
    return (
        take.requests_before < counted.ordinal <= take.requests_after
        and take.weight_before_s - slack_s <= counted.weight_before_s <= counted.weight_after_s
        and counted.weight_after_s <= take.weight_after_s + slack_s
    )


def _part_mj(energy_mj: int, take: Take, counted: Counted) -> int:
    """The request's part of the energy of its row [mJ]."""
    first, last = Fraction(take.weight_before_s), Fraction(take.weight_after_s)
    requests = take.requests_after - take.requests_before

    def up_to(ordinal: int, weight_s: float) -> int:
        done = ordinal - take.requests_before
        if done in (0, requests):
            return energy_mj if done else 0
        if last <= first:  # they used nothing: all alike
            return energy_mj * done // requests
        return floor(energy_mj * min(max((Fraction(weight_s) - first) / (last - first), Fraction(0)), Fraction(1)))

    before_mj = up_to(counted.ordinal - 1, counted.weight_before_s)
    return up_to(counted.ordinal, counted.weight_after_s) - before_mj


def _unknown(counted: Counted, reason: str) -> Usage:
    return Usage(counted, State.UNKNOWN, reason=reason)


def _iso(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds")
