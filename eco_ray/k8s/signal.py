"""Forecasts by zone from one grid source: asked for now and then, and kept until they have run out."""

from __future__ import annotations

import logging
import math

from eco_ray.core.intensity import IntensitySeries
from eco_ray.core.ports import GridSource, LiveGridSource
from eco_ray.errors import EcoRayError

log = logging.getLogger("eco_ray.suspend")

#: how often a zone is asked for again [s]
AGAIN_S = 300.0
#: no forecast is asked for beyond so long: there is none, and a deadline may be years away [s]
_LONGEST_S = 14 * 86_400.0
#: a little more than a job needs [s]
_MORE_S = 3_600.0


class Signal:
    """The forecast of each zone that jobs need; never raises, and may wait for the network."""

    def __init__(self, grid: GridSource, horizon_s: float) -> None:
        self._grid = grid
        self._horizon_s = horizon_s
        self._kept: dict[str, IntensitySeries] = {}
        #: by zone: when it was asked for, and up to when [s since epoch]
        self._asked: dict[str, tuple[float, float]] = {}

    def forecast(self, zone: str, now_s: float, until_s: float) -> IntensitySeries | None:
        """What is known of a zone now, over the planner's horizon and up to `until_s`; None: nothing current."""
        end_s = min(max(now_s + self._horizon_s, until_s), now_s + _LONGEST_S)
        asked_s, reach_s = self._asked.get(zone, (-math.inf, -math.inf))
        if not 0 <= now_s - asked_s < AGAIN_S or end_s > reach_s:
            self._asked[zone] = now_s, end_s + _MORE_S
            self._ask(zone, now_s, end_s + _MORE_S)
        series = self._kept.get(zone)
        return series if series is not None and series.end_s > now_s else None

    def _ask(self, zone: str, now_s: float, end_s: float) -> None:
        try:
            if isinstance(self._grid, LiveGridSource):
                self._grid.refresh(zone, now_s, end_s)
            self._kept[zone] = self._grid.forecast(zone, now_s, end_s)
        except EcoRayError as error:
            kept = "; the last one is used until it has run out" if zone in self._kept else ""
            log.warning("no forecast for zone %s: %s%s", zone, error, kept)
        except Exception:  # of a plug-in: no source may stop the controller
            log.exception("no forecast for zone %s", zone)
