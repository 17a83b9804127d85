"""The carbon signal as the controller uses it: asked for once per grid hour, and never a reason to fail.

Of a source that learns from a network (`LiveGridSource`) a thread of its own asks for news, so that the thread that
plans jobs never waits for it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

from eco_ray.core.events import ForecastArrived
from eco_ray.core.policies import DAY_S
from eco_ray.core.ports import GridSource, LiveGridSource, SignalUse
from eco_ray.errors import EcoRayError
from eco_ray.grid import ModelledProfile

log = logging.getLogger("eco_ray.controller")

_HOUR_S = 3600.0
#: no forecast is asked for beyond so long: there is none, and a deadline may be years away [s]
_LONGEST_S = 14 * DAY_S
#: how often a live source is asked whether it is due to be asked [wall s]
_FOLLOW_S = 5.0


#: gets a zone and what `Signals.now` says of it
ShowSignal = Callable[[str, Mapping[str, Any]], None]


class Signals:
    """Forecasts of the zones of a cluster, from one source."""

    def __init__(self, grid: GridSource, horizon_s: float, show: ShowSignal | None = None) -> None:
        self._grid = grid
        self._show = show
        self._horizon_s = horizon_s
        #: until when forecasts are good for, and how far ahead they were asked for
        self._until_s = self._asked_s = 0.0
        self._stopped = threading.Event()
        #: nothing is known of the kind of the source, and the modelled profile is planned with everywhere
        self._all_modelled = False

    def follow(self, zones: Callable[[], Collection[str]], now_s: Callable[[], float]) -> None:
        """Ask a live source for news in a thread, until `stop`; other sources know all at once."""
        if isinstance(self._grid, LiveGridSource):
            threading.Thread(target=self._follow, args=(self._grid, zones, now_s), name="grid", daemon=True).start()

    def show(self, zones: Collection[str], now_s: float) -> None:
        """Tell whoever exports it what is known of the zones; a failure there is logged and costs nothing else."""
        if self._show is None:
            return
        for zone in sorted(zones):
            try:
                self._show(zone, self.now(zone, now_s) or {})
            except Exception as error:
                log.warning("metrics of zone %s: %s", zone, error)

    def stop(self) -> None:
        """End the thread of `follow`."""
        self._stopped.set()

    def _follow(self, grid: LiveGridSource, zones: Callable[[], Collection[str]], now_s: Callable[[], float]) -> None:
        used: dict[str, SignalUse] = {}
        first = 0
        while not self._stopped.is_set():
            asked = sorted(zones())
            first += 1  # so that after a pause it is not always the same zone that is asked first
            for zone in [*asked[first % max(1, len(asked)) :], *asked[: first % max(1, len(asked))]]:
                try:
                    if grid.refresh(zone, now_s(), max(now_s() + self._horizon_s, self._asked_s) + _HOUR_S):
                        self.ask_again()
                    use = grid.use(zone, now_s())
                except Exception:  # of a plug-in: the others go on being asked
                    log.exception("zone %s could not be asked for", zone)
                    continue
                before = used.get(zone)
                if before is None or before.rung != use.rung:
                    log.info("zone %s is planned with: %s%s", zone, use.source, f" ({use.why})" if use.why else "")
                used[zone] = use
            self._stopped.wait(_FOLLOW_S)

    def ask_again(self) -> None:
        """There is a new zone, or news: do not wait for the next hour."""
        self._until_s = 0.0

    def news(self, zones: Collection[str], now_s: float, last_deadline_s: float = 0.0) -> ForecastArrived | None:
        """Forecasts, once per grid hour; a zone whose source fails keeps the last one, until it has run out.

        They are to reach over the planner's horizon, and to the last deadline of a job. Where a live source knows
        nothing of any zone, all are planned on the modelled profile, which may be of another kind.
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
        self._all_modelled = not series and isinstance(self._grid, LiveGridSource)
        if self._all_modelled:
            return ForecastArrived(_modelled(zones, now_s, end_s))
        return ForecastArrived(series, past) if series else None

    def now(self, zone: str, now_s: float) -> dict[str, Any] | None:
        """The intensity of a zone now: value, source, kind, nature, and why no better; None: unknown."""
        facts: dict[str, Any] = {}
        if isinstance(self._grid, LiveGridSource):
            use = self._grid.use(zone, now_s)
            facts = {"planned_with": use.source, "rung": use.rung, "age_s": use.age_s, "why": use.why}
            if self._all_modelled and use.kind is None and (model := _modelled([zone], now_s, now_s)):
                source = f"{model[zone].source}, of kind {model[zone].kind}, as nothing is known of any zone"
                facts |= {"planned_with": source, "rung": "modelled"}
        try:
            series = self._grid.actual(zone, now_s, now_s)
            value = series.at(now_s)
        except EcoRayError:
            unknown = {"intensity_g_per_kwh": None, "source": "unknown", "kind": None, "nature": None}
            return {**unknown, **facts} if facts else None
        return {
            "intensity_g_per_kwh": value,
            "source": series.source,
            "kind": str(series.kind),
            "nature": str(series.nature),
            **facts,
        }


def _modelled(zones: Collection[str], now_s: float, end_s: float) -> dict[str, Any]:
    """The modelled forecast of the zones that the model has."""
    profile = ModelledProfile()
    return {zone: profile.forecast(zone, now_s, end_s) for zone in sorted(set(zones) & set(profile.zones()))}
