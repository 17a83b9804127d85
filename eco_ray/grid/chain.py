"""Sources in order of preference, as one that never fails the planner and never makes it wait.

Two halves. `refresh` asks the sources over the network, where and when they may be asked, and keeps what they tell
(cache.py). `actual` and `forecast` answer from what is kept (answers.py) and touch no network, so that the thread that
plans jobs can call them.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.ports import GridSource, SignalUse
from eco_ray.errors import EcoRayError, NotFoundError
from eco_ray.grid.answers import Known, Rung, best_actual, best_forecast
from eco_ray.grid.asking import iso
from eco_ray.grid.cache import Cache
from eco_ray.grid.history import KEEP_S, History
from eco_ray.grid.http import Fault, SourceError

log = logging.getLogger("eco_ray.grid")

_HOUR_S, _DAY_S = 3600.0, 86_400.0
#: how often a source that answers is asked for new values, and for a forecast [s]
REFRESH_S = 300.0
FORECAST_S = 900.0
#: first and longest pause after a fault, doubled from time to time [s]; a REFUSED key may be mended by its owner
PAUSES_S: dict[Fault, tuple[float, float]] = {
    Fault.NO_KEY: (60.0, 600.0),
    Fault.REFUSED: (600.0, _HOUR_S),
    Fault.RATE_LIMITED: (60.0, _HOUR_S),
    Fault.UNREACHABLE: (30.0, 900.0),
    Fault.NO_DATA: (600.0, _HOUR_S),
    Fault.MALFORMED: (120.0, _HOUR_S),
}
#: faults of the server, not of one question: no zone is asked for until the pause is over
_OF_THE_SERVER = (Fault.NO_KEY, Fault.RATE_LIMITED, Fault.UNREACHABLE)
#: pauses are spread by so much, so that a thousand controllers do not come back at once
_SPREAD = 0.2


@dataclass(frozen=True, slots=True)
class _Pause:
    #: when the source may be asked again [monotonic s]
    until_s: float
    failures: int = 0
    error: str = ""


class Chain:
    """LiveGridSource over several sources of one kind."""

    def __init__(
        self,
        sources: Sequence[GridSource],
        kind: SignalKind,
        folder: Path | None = None,
        last_resorts: Sequence[GridSource] = (),
        chance: random.Random | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`folder` keeps what was told; `last_resorts` answer offline where nothing else does and must be of `kind`."""
        self.name = ", then ".join(source.name for source in sources)
        self.kind = kind
        self._sources = tuple(sources)
        self._last_resorts = tuple(last_resorts)
        self._cache = Cache(folder)
        self._known: dict[str, list[Known]] = {}
        #: by what is asked: (source,), or (source, zone, question)
        self._pauses: dict[tuple[object, ...], _Pause] = {}
        self._chance = chance or random.Random()  # noqa: S311  spreads requests, guards nothing
        self._monotonic_s = monotonic_s

    def zones(self) -> tuple[str, ...]:
        """Zones of all sources; some answer for more than they list."""
        return tuple(dict.fromkeys(zone for one in (*self._sources, *self._last_resorts) for zone in one.zones()))

    # -- asking --------------------------------------------------------------------------------------------------------

    def refresh(self, zone: str, now_s: float, end_s: float) -> bool:
        """Ask the sources that are due for a zone; returns whether anything new is known. Waits for the network.

        Never raises: what went wrong is in `use`.
        """
        known = self._of(zone)
        new = needs_values = needs_forecast = False
        for index, source in enumerate(self._sources):
            before = known[index]
            if index == 0 or needs_values:
                needs_values = not self._ask_values(index, zone, now_s)
            if index == 0 or needs_forecast:
                needs_forecast = not self._ask_forecast(index, zone, now_s, end_s)
            if known[index] is not before:
                self._cache.save(source.name, zone, self.kind, known[index])
                new = True
            if not (needs_values or needs_forecast):
                break
        return new

    def _ask_values(self, index: int, zone: str, now_s: float) -> bool:
        """Ask for what was published lately, and once for the weeks before. Returns whether values are fresh."""
        history = self._of(zone)[index].history
        recent_s = now_s - _DAY_S if history is None else max(now_s - _DAY_S, history.end_s - 2 * _HOUR_S)
        recent = min(recent_s, now_s - _HOUR_S)
        fresh = self._ask(index, zone, "values", REFRESH_S, lambda source: source.actual(zone, recent, now_s))
        history = self._of(zone)[index].history
        if fresh and history is not None and history.series.start_s > now_s - KEEP_S * 0.9:
            until_s = history.series.start_s
            self._ask(
                index,
                zone,
                "past",
                _DAY_S,
                lambda source: source.actual(zone, now_s - KEEP_S + _DAY_S, until_s),
                quiet=True,
            )
        return fresh

    def _ask_forecast(self, index: int, zone: str, now_s: float, end_s: float) -> bool:
        return self._ask(
            index, zone, "forecast", FORECAST_S, lambda source: source.forecast(zone, now_s, end_s), forecast=True
        )

    def _ask(
        self,
        index: int,
        zone: str,
        question: str,
        period_s: float,
        ask: Callable[[GridSource], IntensitySeries],
        *,
        forecast: bool = False,
        quiet: bool = False,
    ) -> bool:
        """Ask one question where that is due. Returns whether the last answer to it is good."""
        now, key = self._monotonic_s(), (index, zone, question)
        for pause in (self._pauses.get((index,)), self._pauses.get(key)):
            if pause is not None and now < pause.until_s:
                return not pause.error
        try:
            series = ask(self._sources[index])
            if series.kind is not self.kind:
                raise SourceError(f"{series.source} is {series.kind}, not {self.kind}", Fault.MALFORMED)
        except Exception as error:  # of plug-ins, too: no source may stop the planner
            self._failed(index, key, error, quiet)
            return False
        self._pauses.pop((index,), None)
        self._pauses[key] = _Pause(now + period_s * self._chance.uniform(1 - _SPREAD, 1))
        known = self._of(zone)
        if forecast:
            known[index] = replace(known[index], forecast=series)
        else:
            history = known[index].history
            known[index] = replace(known[index], history=history.with_(series) if history else History.of(series))
        return True

    def _failed(self, index: int, key: tuple[object, ...], error: Exception, quiet: bool) -> None:
        if isinstance(error, NotFoundError):  # this source does not know the zone
            self._pauses[key] = _Pause(self._monotonic_s() + _DAY_S, 0, str(error))
            return
        fault = error.fault if isinstance(error, SourceError) else Fault.MALFORMED
        text = str(error) if isinstance(error, EcoRayError) else f"{self._sources[index].name}: {type(error).__name__}"
        if fault in _OF_THE_SERVER:
            key = key[:1]
        failures = self._pauses[key].failures + 1 if key in self._pauses else 1
        first_s, longest_s = PAUSES_S[fault]
        pause_s = min(longest_s, first_s * 2.0 ** min(failures - 1, 20)) * self._chance.uniform(1, 1 + _SPREAD)
        asked_s = error.retry_after_s if isinstance(error, SourceError) else None
        pause_s = max(pause_s, asked_s or 0.0)
        self._pauses[key] = _Pause(self._monotonic_s() + pause_s, failures, text)
        if failures == 1 and not quiet:
            log.warning("%s; asked again in %.0f s", text, pause_s)

    # -- answering -----------------------------------------------------------------------------------------------------

    def actual(self, zone: str, start_s: float, end_s: float) -> IntensitySeries:
        """What is known of a span in the past; what is not published yet is forecast or carried on, and says so."""
        series = best_actual(self._of(zone), self._last_resorts, zone, start_s, end_s)
        if series is None:
            raise EcoRayError(
                f"the intensity of {zone} over {iso(start_s)}..{iso(end_s)} is not known ({self._why(zone)}); "
                "`eco-ray grid now` shows what the sources say"
            )
        return series

    def forecast(self, zone: str, now_s: float, end_s: float) -> IntensitySeries:
        """The best that is known at `now_s`."""
        _, series = best_forecast(self._of(zone), self._last_resorts, zone, now_s, end_s)
        if series is None:
            raise EcoRayError(
                f"nothing is known of the intensity of {zone} ({self._why(zone)}): its jobs run as if there were no "
                "signal; `eco-ray grid now` shows what the sources say"
            )

        return series

    def use(self, zone: str, now_s: float) -> SignalUse:
        """What answers for a zone now, and why nothing better does."""
        rung, series = best_forecast(self._of(zone), self._last_resorts, zone, now_s, now_s + _HOUR_S)
        if series is None:
            return SignalUse(zone, str(rung), "nothing: jobs run as if there were no signal", why=self._why(zone))
        return SignalUse(
            zone,
            str(rung),
            series.source,
            series.kind,
            series.nature,
            None if series.issued_s is None else max(0.0, now_s - series.issued_s),
            "" if rung is Rung.FORECAST else self._why(zone),
        )

    def _of(self, zone: str) -> list[Known]:
        if zone not in self._known:
            self._known[zone] = [self._cache.load(source.name, zone, self.kind) for source in self._sources]
        return self._known[zone]

    def _why(self, zone: str) -> str:
        """What the sources answered instead of what was asked."""
        said = []
        for index, source in enumerate(self._sources):
            keys = ((index,), (index, zone, "forecast"), (index, zone, "values"))
            errors = [pause.error for key in keys if (pause := self._pauses.get(key)) is not None and pause.error]
            asked = any((index, zone, question) in self._pauses for question in ("values", "forecast"))
            said += errors or ([] if asked else [f"{source.name} has not been asked yet"])
        return "; ".join(dict.fromkeys(said)) or "the sources answered, but not for this time"
