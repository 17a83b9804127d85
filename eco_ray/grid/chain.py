"""Sources in order of preference, as one that never fails the planner and never makes it wait.

Two halves. `refresh` asks the sources over the network, where and when they may be asked (pauses.py), and keeps what
they tell (cache.py). `actual` and `forecast` answer from what is kept (answers.py) and touch no network, so that the
thread that plans jobs can call them.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.ports import GridSource, SignalUse
from eco_ray.errors import EcoRayError, NotFoundError
from eco_ray.grid.answers import Known, Rung, best_actual, best_forecast, has_fresh_forecast, has_fresh_values
from eco_ray.grid.asking import EARLIEST_S, LATEST_S, iso
from eco_ray.grid.cache import Cache
from eco_ray.grid.csv_table import MAX_G_PER_KWH
from eco_ray.grid.history import KEEP_S, History
from eco_ray.grid.http import Fault, SourceError
from eco_ray.grid.pauses import Pauses

log = logging.getLogger("eco_ray.grid")

_HOUR_S, _DAY_S = 3600.0, 86_400.0
#: how often a source that answers is asked for new values, for a forecast, and for what is missing of weeks before [s]
VALUES_S, FORECAST_S, PAST_S = 300.0, 900.0, 6 * _HOUR_S
#: how much of what is known is asked for again, for it may have been estimated: each time, and once an hour [s]
_AGAIN_S, _ALL_AGAIN_S = 2 * _HOUR_S, _DAY_S


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
        self._monotonic_s = monotonic_s
        chance = chance or random.Random()  # noqa: S311  spreads requests, guards nothing
        self._pauses = [Pauses(chance, monotonic_s) for _ in sources]
        self._known: dict[str, list[Known]] = {}
        #: by source and zone: when all of the last day was asked for [monotonic s]
        self._all_again: dict[tuple[int, str], float] = {}
        #: by zone: what it was made from, what `use` said, and when
        self._used: dict[str, tuple[object, SignalUse, float]] = {}

    def zones(self) -> tuple[str, ...]:
        """Zones of all sources; some answer for more than they list."""
        return tuple(dict.fromkeys(zone for one in (*self._sources, *self._last_resorts) for zone in one.zones()))

    # -- asking --------------------------------------------------------------------------------------------------------

    def refresh(self, zone: str, now_s: float, end_s: float) -> bool:
        """Ask the sources that are due for a zone; returns whether anything new is known. Waits for the network.

        Never raises: what went wrong is in `use`.
        """
        known = self._of(zone)
        new, wants_values, wants_forecast = False, True, True
        for index, source in enumerate(self._sources):
            before = known[index]
            if wants_values:
                self._ask_values(index, zone, now_s)
                wants_values = not has_fresh_values(known[index], now_s)
            if wants_forecast:
                self._ask(index, zone, "forecast", FORECAST_S, lambda one: one.forecast(zone, now_s, end_s))
                wants_forecast = not has_fresh_forecast(known[index], now_s)
            if known[index] is not before:
                self._cache.save(source.name, zone, self.kind, known[index])
                new = True
            if not (wants_values or wants_forecast):
                break
        return new

    def _ask_values(self, index: int, zone: str, now_s: float) -> None:
        """Ask for what was published lately, and for what is missing of the weeks before."""
        known, now = self._of(zone), self._monotonic_s()
        history = known[index].history
        again_s = _AGAIN_S
        if now - self._all_again.get((index, zone), -math.inf) >= _HOUR_S:
            again_s = _ALL_AGAIN_S
        recent_s = now_s - _DAY_S if history is None else max(now_s - _DAY_S, history.end_s - again_s)
        recent_s = min(recent_s, now_s - _HOUR_S)
        if not self._ask(index, zone, "values", VALUES_S, lambda one: one.actual(zone, recent_s, now_s)):
            return
        if again_s == _ALL_AGAIN_S:
            self._all_again[index, zone] = now
        history = known[index].history
        missing = history and (history.first_gap or (now_s - KEEP_S + _DAY_S, history.series.start_s))
        if missing and missing[1] - missing[0] >= _DAY_S / 24:
            self._ask(index, zone, "past", PAST_S, lambda one: one.actual(zone, *missing))

    def _ask(
        self, index: int, zone: str, question: str, period_s: float, ask: Callable[[GridSource], IntensitySeries]
    ) -> bool:
        """Ask one question, if it is due. Returns whether it was answered now."""
        pauses, source, known = self._pauses[index], self._sources[index], self._of(zone)
        if pauses.paused(zone, question) is not None:
            return False
        try:
            series = ask(source)
            _check(series, zone, self.kind)
            if question == "forecast":
                known[index] = replace(known[index], forecast=series)
            else:
                history = known[index].history
                known[index] = replace(known[index], history=history.with_(series) if history else History.of(series))
        except NotFoundError as error:
            pauses.unknown(zone, question, str(error))
        except Exception as error:  # of plug-ins, too: no source may stop the planner
            text = str(error) if isinstance(error, EcoRayError) else f"{source.name}: {type(error).__name__}"
            fault, retry_s = Fault.MALFORMED, None
            if isinstance(error, SourceError):
                fault, retry_s = error.fault, error.retry_after_s
            pause_s = pauses.failed(zone, question, text, fault, retry_s)
            if pause_s is not None and question != "past":
                log.warning("%s; asked again in %.0f s", text, pause_s)
        else:
            pauses.answered(zone, question, period_s)
            return True
        return False

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
        """What answers for a zone now, and what a source answered instead of what was asked."""
        made_from = (tuple(map(id, self._of(zone))), now_s // 60, self._why(zone))
        kept = self._used.get(zone)
        if kept is not None and kept[0] == made_from:  # our own forecast takes milliseconds
            use, then_s = kept[1:]
            return use if use.age_s is None else replace(use, age_s=max(0.0, use.age_s + now_s - then_s))
        rung, series = best_forecast(self._of(zone), self._last_resorts, zone, now_s, now_s + _HOUR_S)
        if series is None:
            use = SignalUse(zone, str(rung), "nothing: jobs run as if there were no signal", why=self._why(zone))
        else:
            age_s = None if series.issued_s is None else max(0.0, now_s - series.issued_s)
            why = self._why(zone) if rung is not Rung.FORECAST or self._errors(zone) else ""
            use = SignalUse(zone, str(rung), series.source, series.kind, series.nature, age_s, why)
        self._used[zone] = made_from, use, now_s
        return use

    def _of(self, zone: str) -> list[Known]:
        if zone not in self._known:
            self._known[zone] = [self._cache.load(source.name, zone, self.kind) for source in self._sources]
        return self._known[zone]

    def _errors(self, zone: str) -> list[str]:
        return [error for pauses in self._pauses for error in pauses.errors(zone)]

    def _why(self, zone: str) -> str:
        """What the sources answered instead of what was asked."""
        said = []
        for source, pauses in zip(self._sources, self._pauses, strict=True):
            asked = pauses.was_asked(zone)
            said += pauses.errors(zone) or ([] if asked else [f"{source.name} has not been asked yet"])
        return "; ".join(dict.fromkeys(said)) or "the sources answered, but not for this time"


def _check(series: IntensitySeries, zone: str, kind: SignalKind) -> None:
    """Raises SourceError for a series that no source may give, whoever wrote it."""

    def bad(what: str) -> SourceError:
        return SourceError(f"{str(series.source)[:100]}: {what}; it is not used", Fault.MALFORMED)

    values = series.values_g_per_kwh
    if series.zone != zone:
        raise bad(f"an answer for {series.zone[:60]!r}, asked was {zone!r}")
    if series.kind is not kind:
        raise bad(f"it is {series.kind}, not {kind}")
    if not (math.isfinite(series.step_s) and 1.0 <= series.step_s <= 366 * _DAY_S):
        raise bad(f"a step of {series.step_s:g} s, outside 1 s to a year")
    if not (len(values) and series.start_s >= EARLIEST_S and series.end_s <= LATEST_S):
        raise bad(f"{len(values)} values from {iso(series.start_s)} on, which can only be a mistake")
    for name, of in {"values": values, **{f"quantile {q}": of for q, of in series.quantiles_g_per_kwh.items()}}.items():
        if len(of) != len(values) or not np.all((of >= 0) & (of <= MAX_G_PER_KWH)):  # false for NaN, too
            raise bad(f"{name} outside 0 to {MAX_G_PER_KWH:g} gCO2e/kWh, or not one for each step")
