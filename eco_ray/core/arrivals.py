"""Requests per second, from counts that many tell again and again: each counts from its own start."""

from __future__ import annotations

import math
from collections.abc import Mapping

#: a change is believed to two thirds after so long [s]
_MEMORY_S = 20.0
#: who has told nothing for so long has ended [s]
_GONE_S = 60.0


class Arrivals:
    """How many requests come from where. Times are wall time [s]."""

    def __init__(self) -> None:
        #: by who counts: when it told last, and what
        self._told: dict[str, tuple[float, dict[str, int]]] = {}
        #: since the last look
        self._new: dict[str, int] = {}
        self._looked_s: float | None = None
        self._per_s: dict[str, float] = {}

    def note(self, who: str, counts: Mapping[str, int], now_s: float) -> None:
        """What `who` has counted since it began, by origin.

        What it tells first only says where it stands: nobody knows since when it has counted.
        """
        if self._looked_s is None:
            self._looked_s = now_s
        known = self._told.get(who)
        for origin, count in counts.items():
            new = max(0, count - known[1].get(origin, 0)) if known else 0
            self._new[origin] = self._new.get(origin, 0) + new
        self._told = {other: told for other, told in self._told.items() if now_s - told[0] < _GONE_S}
        self._told[who] = now_s, dict(counts)

    def per_s(self, now_s: float) -> dict[str, float]:
        """Requests per second of each origin that was ever told, smoothed."""
        if self._looked_s is not None and now_s > self._looked_s:
            passed_s = now_s - self._looked_s
            believed = 1 - math.exp(-passed_s / _MEMORY_S)
            for origin, count in self._new.items():
                seen, before = count / passed_s, self._per_s.get(origin)
                self._per_s[origin] = seen if before is None else before + believed * (seen - before)
            self._new = dict.fromkeys(self._new, 0)
            self._looked_s = now_s
        return {origin: self._per_s.get(origin, 0.0) for origin in self._new}
