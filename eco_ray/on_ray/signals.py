"""The carbon signal as the controller uses it: asked for once per grid hour, and never a reason to fail."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from typing import Any

from eco_ray.core.events import ForecastArrived
from eco_ray.core.policies import DAY_S
from eco_ray.core.ports import GridSource
from eco_ray.errors import EcoRayError

log = logging.getLogger("eco_ray.controller")

_HOUR_S = 3600.0
#: no forecast is asked for beyond so long: there is none, and a deadline may be years away [s]
_LONGEST_S = 14 * DAY_S


class Signals:
    """Forecasts of the zones of a cluster, from one source."""

    def __init__(self, grid: GridSource, horizon_s: float) -> None:
        self._grid = grid
        self._horizon_s = horizon_s
        #: until when forecasts are good for, and how far ahead they were asked for
        self._until_s = self._asked_s = 0.0

    def ask_again(self) -> None:
        """There is a new zone: do not wait for the next hour."""
        self._until_s = 0.0

    def news(self, zones: Iterable[str], now_s: float, last_deadline_s: float = 0.0) -> ForecastArrived | None:
        """Forecasts, once per grid hour; a zone whose source fails keeps the last one, until it has run out.

        They are to reach over the planner's horizon, and to the last deadline of a job.
        """
        wanted_s = min(last_deadline_s, now_s + _LONGEST_S)
        if now_s < self._until_s and wanted_s <= self._asked_s + _HOUR_S:
            return None
        hour_s = now_s // _HOUR_S * _HOUR_S
        self._until_s = hour_s + _HOUR_S
        end_s = now_s + self._horizon_s
        if wanted_s > end_s:  # a day more, so that each new deadline does not ask again
            end_s = min(wanted_s + DAY_S, now_s + _LONGEST_S)
        self._asked_s = end_s
        end_s += _HOUR_S
        series, past = {}, {}
        for zone in sorted(zones):
            try:
                series[zone] = self._grid.forecast(zone, now_s, end_s)
            except EcoRayError as error:
                log.warning("no forecast for zone %s: %s", zone, error)
            with contextlib.suppress(EcoRayError):  # only the policy `threshold` looks back; without a past it runs now
                past[zone] = self._grid.actual(zone, hour_s - DAY_S, hour_s)
        return ForecastArrived(series, past) if series else None

    def now(self, zone: str, now_s: float) -> dict[str, Any] | None:
        """The intensity of a zone now: value, source, kind, nature; None: unknown."""
        try:
            series = self._grid.actual(zone, now_s, now_s)
            value = series.at(now_s)
        except EcoRayError:
            return None
        return {
            "intensity_g_per_kwh": value,
            "source": series.source,
            "kind": str(series.kind),
            "nature": str(series.nature),
        }
