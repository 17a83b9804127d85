"""Sums of hourly rows: energy, grams, and how well they are known, by whatever is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from eco_ray.core.ledger import HourlyEnergy
from eco_ray.core.units import Nature

#: what sums may be made by; of these four the energy that belongs to nobody is a part, of owners it is none
PLACES = ("zone", "day", "node", "kind")
BY = ("tenant", "model", "replica", "job", *PLACES)
#: of what kind the owners are that are summed by
_KINDS = {"job": "job", "model": "model", "replica": "model"}

_KEYS: dict[str, Callable[[HourlyEnergy], str]] = {
    "tenant": lambda row: row.tenant,
    "model": lambda row: row.owner_id,
    "replica": lambda row: f"{row.owner_id}/{row.part}" if row.part else row.owner_id,
    "job": lambda row: row.owner_id,
    "zone": lambda row: row.zone,
    "day": lambda row: datetime.fromtimestamp(row.hour_s, UTC).strftime("%Y-%m-%d"),
    "node": lambda row: row.node,
    "kind": lambda row: row.intensity_kind or "unknown",
}


@dataclass(frozen=True, slots=True)
class LedgerSum:
    """One line of `ledger query`."""

    key: str
    #: whether it is what belongs to nobody
    unallocated: bool
    energy_mj: int
    #: location-based; None where an intensity was unknown, or several are of different kinds, which are never added
    operational_g: float | None
    #: weakest of the energies
    nature: Nature
    #: weakest of energies and intensities
    carbon_nature: Nature
    #: half-width of the energy's error band, weighed by energy
    error_rel: float
    #: sorted; more than one: sum by `kind` to see the grams of each
    intensity_kinds: tuple[str, ...]
    #: meters and models of the energy, sorted
    sources: tuple[str, ...]
    #: oldest intensity in it [s]; None: one is unknown
    intensity_age_s: float | None
    #: that models answered, as far as they are known; None: none is
    requests: int | None


def ledger_sums(
    rows: Iterable[HourlyEnergy], by: str, *, tenant: str | None = None, zone: str | None = None
) -> list[LedgerSum]:
    """Sums by one of BY, in order of keys, the unallocated part after the attributed one."""
    groups: dict[tuple[str, bool], list[HourlyEnergy]] = {}
    for row in rows:
        nobody = row.owner_kind == ""
        if (
            (zone is not None and row.zone != zone)
            or (tenant is not None and (nobody or row.tenant != tenant))
            or row.owner_kind != _KINDS.get(by, row.owner_kind)
            or (by == "tenant" and nobody)
        ):
            continue
        groups.setdefault((_KEYS[by](row), nobody), []).append(row)
    return [_sum(key, nobody, found) for (key, nobody), found in sorted(groups.items(), key=lambda item: item[0])]


def intensity_natures(rows: Iterable[HourlyEnergy]) -> list[Nature]:
    """How the intensities behind known grams are known: one that does not say so is assumed, never left out."""
    found = []
    for row in rows:
        if row.intensity_nature is not None:
            found.append(row.intensity_nature)
        elif row.operational_g is not None:
            found.append(Nature.ASSUMED)
    return found


def _sum(key: str, unallocated: bool, rows: Sequence[HourlyEnergy]) -> LedgerSum:
    energy_mj = sum(row.energy_mj for row in rows)
    grams = [row.operational_g for row in rows if row.operational_g is not None]
    requests = [row.requests for row in rows if row.requests is not None]
    ages = [row.intensity_age_s for row in rows if row.intensity_age_s is not None]
    nature = Nature.weakest([row.nature for row in rows])
    signals = intensity_natures(rows)
    error_mj = sum(abs(row.error_mj) for row in rows)
    kinds = tuple(sorted({row.intensity_kind for row in rows if row.intensity_kind}))
    return LedgerSum(
        key=key,
        unallocated=unallocated,
        energy_mj=energy_mj,
        operational_g=sum(grams) if len(grams) == len(rows) and len(kinds) <= 1 else None,
        nature=nature,
        carbon_nature=Nature.weakest([nature, *signals]),
        error_rel=error_mj / energy_mj if energy_mj else 0.0,
        intensity_kinds=kinds,
        sources=tuple(sorted({row.source for row in rows})),
        intensity_age_s=max(ages) if len(ages) == len(rows) and ages else None,
        requests=sum(requests) if requests else None,
    )
