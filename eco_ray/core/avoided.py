"""Energy and carbon that caches of answers avoided: an estimate, as nobody can measure what was not computed.

So these are rows of their own, and no part of any node's or owner's sum, nor of the grams that jobs saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from eco_ray.core.units import Nature, grams


@dataclass(frozen=True, slots=True)
class Avoided:
    """What the hits of one replica's cache avoided for one tenant, in a span in which the intensity stayed the same."""

    #: replica and number of the row; one that is booked again is counted once
    id: str
    #: grid time [s since epoch], from which and before which
    start_s: float
    end_s: float
    node: str
    #: `name:version`
    model: str
    #: empty: nobody was named
    tenant: str
    hits: int
    #: IT energy of the first computations less that of the hits [mJ]
    energy_mj: int
    zone: str
    #: None: unknown
    intensity_g_per_kwh: float | None
    #: empty: unknown
    intensity_kind: str
    pue: float
    #: weakest of energy and intensity
    nature: Nature
    #: of energy and intensity, in words
    source: str

    @property
    def operational_g(self) -> float | None:
        """Carbon that was avoided [g]; None where the intensity is unknown."""
        intensity = self.intensity_g_per_kwh
        return None if intensity is None else grams(self.energy_mj, intensity, self.pue)


_KEYS: dict[str, Callable[[Avoided], str]] = {
    "tenant": lambda row: row.tenant,
    "model": lambda row: row.model,
    "zone": lambda row: row.zone,
}
#: what sums may be made by
AVOIDED_BY = tuple(_KEYS)


@dataclass(frozen=True, slots=True)
class AvoidedSum:
    """One line of `ledger avoided`."""

    key: str
    hits: int
    energy_mj: int
    #: None where an intensity was unknown, or several are of different kinds, which are never added
    operational_g: float | None
    #: weakest
    nature: Nature
    #: sorted
    intensity_kinds: tuple[str, ...]
    sources: tuple[str, ...]


def avoided_sums(rows: Iterable[Avoided], by: str) -> list[AvoidedSum]:
    """Sums by one of AVOIDED_BY, in order of keys."""
    groups: dict[str, list[Avoided]] = {}
    for row in rows:
        groups.setdefault(_KEYS[by](row), []).append(row)
    return [_sum(key, found) for key, found in sorted(groups.items())]


def _sum(key: str, rows: Sequence[Avoided]) -> AvoidedSum:
    known_g = [row.operational_g for row in rows if row.operational_g is not None]
    kinds = tuple(sorted({row.intensity_kind for row in rows if row.intensity_kind}))
    return AvoidedSum(
        key=key,
        hits=sum(row.hits for row in rows),
        energy_mj=sum(row.energy_mj for row in rows),
        operational_g=sum(known_g) if len(known_g) == len(rows) and len(kinds) <= 1 else None,
        nature=Nature.weakest([row.nature for row in rows]),
        intensity_kinds=kinds,
        sources=tuple(sorted({row.source for row in rows})),
    )
