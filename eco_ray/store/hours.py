"""Hourly rows from intervals: who used what in which hour, the same for every adapter."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, cast

from eco_ray.core.attribution import largest_remainder
from eco_ray.core.ledger import MAX_LENGTH_S, HourlyEnergy
from eco_ray.core.units import Nature, grams

HOUR_S = 3600.0
#: owner_kind, owner_id, attempt, tenant, part
Owner = tuple[str, str, int, str, str]
#: what belongs to nobody
NOBODY: Owner = ("", "", 0, "", "")
#: owner, energy [mJ], requests (None: unknown)
Part = tuple[Owner, int, int | None]


class Whole(NamedTuple):
    """An interval, with the intensity that holds after corrections."""

    start_s: float
    end_s: float
    node: str
    zone: str
    nature: str
    source: str
    error_rel: float
    pue: float
    intensity: float | None
    intensity_kind: str
    intensity_nature: str
    intensity_age_s: float | None


class Hours:
    """Sums by hour and owner of [since_s, until_s)."""

    def __init__(self, since_s: float | None = None, until_s: float | None = None) -> None:
        self.since_s = -math.inf if since_s is None else since_s
        self.until_s = math.inf if until_s is None else until_s
        #: key -> [mJ, g, error mJ, age, rows with unknown age, requests, first instant, last instant]
        self._sums: dict[tuple[Any, ...], list[Any]] = {}
        #: key -> (start, end) [s since epoch] of intervals over the turn of the hour
        self._reach: dict[tuple[Any, ...], tuple[float, float]] = {}

    def add(
        self,
        key: tuple[Any, ...],
        mj: int,
        g: float,
        error_mj: float,
        age_s: float,
        no_age: int,
        requests: int | None,
        reach: tuple[float, float],
    ) -> None:
        """Add sums, with the first and last instant of what they are of.

        The key: hour, node, zone, *owner, nature, source, kind and nature of the intensity, PUE, is it unknown.
        """
        sums = self._sums.setdefault(key, [0, 0.0, 0.0, 0.0, 0, None, *reach])
        sums[0] += mj
        sums[1] += g
        sums[2] += error_mj
        sums[3] = max(sums[3], age_s)
        sums[4] += no_age
        if requests is not None:
            sums[5] = requests + (sums[5] or 0)
        sums[6], sums[7] = min(sums[6], reach[0]), max(sums[7], reach[1])

    def spread(self, whole: Whole, parts: Iterable[Part], nature: str | None = None) -> None:
        """Add the parts of an interval, split by time; `nature` where it is not the interval's."""
        pieces = list(self._pieces(whole.start_s, whole.end_s))
        lengths = [stop_s - at_s for _, at_s, stop_s in pieces]
        for owner, mj, requests in parts:
            if mj == 0 and owner == NOBODY:
                continue
            counts = [None] * len(pieces) if requests is None else _split(requests, lengths)
            for (hour, *reach), part, count in zip(pieces, _split(mj, lengths), counts, strict=True):
                if hour is None:
                    continue
                key = (
                    *(hour, whole.node, whole.zone, *owner, nature or whole.nature, whole.source),
                    *(whole.intensity_kind, whole.intensity_nature, whole.pue, whole.intensity is None),
                )
                g = 0.0 if whole.intensity is None else grams(part, whole.intensity, whole.pue)
                age_s = whole.intensity_age_s
                error_mj = part * whole.error_rel
                if part:
                    from_s, to_s = self._reach.get(key, (whole.start_s, whole.end_s))
                    self._reach[key] = min(from_s, whole.start_s), max(to_s, whole.end_s)
                self.add(key, part, g, error_mj, age_s or 0.0, age_s is None, count, (reach[0], reach[1]))

    def rows(self) -> list[HourlyEnergy]:
        """The sums, in order of time, then node, then owner."""
        return [
            HourlyEnergy(
                hour_s=hour * HOUR_S,
                node=node,
                zone=zone,
                owner_kind=cast(Literal["job", "model", ""], kind),
                owner_id=owner_id,
                attempt=attempt,
                tenant=tenant,
                part=part,
                nature=Nature(nature),
                source=source,
                intensity_kind=signal,
                intensity_nature=Nature(signal_nature) if signal_nature else None,
                pue=pue,
                energy_mj=mj,
                operational_g=None if unknown else g,
                error_mj=error_mj,
                requests=requests,
                intensity_age_s=None if no_age else age_s,
                from_s=min(hour * HOUR_S, self._reach.get(key, (math.inf, 0.0))[0]),
                to_s=max((hour + 1) * HOUR_S, self._reach.get(key, (0.0, -math.inf))[1]),
                first_s=first_s,
                last_s=last_s,
            )
            for key, (mj, g, error_mj, age_s, no_age, requests, first_s, last_s) in sorted(
                self._sums.items(), key=lambda item: item[0]
            )
            for hour, node, zone, kind, owner_id, attempt, tenant, part, *rest in (key,)
            for nature, source, signal, signal_nature, pue, unknown in (rest,)
        ]

    def _pieces(self, start_s: float, end_s: float) -> Iterator[tuple[int | None, float, float]]:
        """(number of the hour or None outside the span, start, end [s since epoch]) of an interval's pieces."""
        at_s, hour = start_s, math.floor(start_s / HOUR_S)
        if end_s - start_s > MAX_LENGTH_S:  # of a row from before there was a limit: whole, in the hour of its start
            yield (hour if self.since_s <= start_s < self.until_s else None), start_s, end_s
            return
        while at_s < end_s:
            stop_s = min(end_s, (hour + 1) * HOUR_S)
            for edge_s in (self.since_s, self.until_s):
                if at_s < edge_s < stop_s:
                    stop_s = edge_s
            yield (hour if self.since_s <= at_s < self.until_s else None), at_s, stop_s
            at_s = stop_s
            if at_s >= (hour + 1) * HOUR_S:
                hour += 1


def _split(mj: int, lengths: Sequence[float]) -> list[int]:
    """In proportion to the lengths, exactly; a difference may be negative."""
    if len(lengths) == 1:
        return [mj]
    parts = largest_remainder(abs(mj), lengths)
    return parts if mj >= 0 else [-part for part in parts]
