"""What sources have told, on disk: a restart knows it at once, and a week of history outlives an outage.

One JSON file for each source, zone and kind, for its owner only: the terms of most services forbid to hand values on.
A file that is damaged, or of another version, is as good as none.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import numpy as np
from annotated_types import Ge, Gt, Le
from pydantic import Field, ValidationError, model_validator

from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.units import Nature
from eco_ray.grid.answers import Known
from eco_ray.grid.asking import EARLIEST_S, LATEST_S
from eco_ray.grid.csv_table import MAX_G_PER_KWH
from eco_ray.grid.history import MAX_LABELS, History
from eco_ray.json_file import read_json
from eco_ray.schema import Strict
from eco_ray.whole_file import write_whole

log = logging.getLogger("eco_ray.grid")

#: five weeks of 5-minute values are 100 kB
_LIMIT_BYTES = 4_000_000
_Time = Annotated[float, Ge(EARLIEST_S), Le(LATEST_S)]
_Values = list[Annotated[float, Ge(0), Le(MAX_G_PER_KWH)] | None]


class _SeriesFile(Strict):
    start_s: _Time
    step_s: Annotated[float, Gt(0), Le(86_400 * 366)]
    #: null: not published
    values: _Values
    source: str
    nature: Nature
    issued_s: _Time | None = None
    quantiles: dict[float, _Values] = Field(default_factory=dict)

    @classmethod
    def of(cls, series: IntensitySeries) -> _SeriesFile:
        return cls(
            start_s=series.start_s,
            step_s=series.step_s,
            values=_numbers(series.values_g_per_kwh),
            source=series.source,
            nature=series.nature,
            issued_s=series.issued_s,
            quantiles={level: _numbers(of) for level, of in series.quantiles_g_per_kwh.items()},
        )

    def to_series(self, zone: str, kind: SignalKind) -> IntensitySeries:
        return IntensitySeries(
            zone,
            self.start_s,
            self.step_s,
            _array(self.values),
            kind,
            self.source,
            self.nature,
            self.issued_s,
            {level: _array(of) for level, of in self.quantiles.items() if len(of) == len(self.values)},
        )


class _HistoryFile(Strict):
    series: _SeriesFile
    labels: list[tuple[str, Nature]] = Field(min_length=1, max_length=MAX_LABELS)
    #: which of the labels each value has
    label_of: list[Annotated[int, Ge(0), Le(MAX_LABELS - 1)]]

    @classmethod
    def of(cls, history: History) -> _HistoryFile:
        labels, numbers = list(history.labels), history.label_of.tolist()
        return cls(series=_SeriesFile.of(history.series), labels=labels, label_of=numbers)

    @model_validator(mode="after")
    def _fits(self) -> _HistoryFile:
        if len(self.label_of) != len(self.series.values) or self.series.values[-1:] in ([], [None]):
            raise ValueError("each value needs a label, and the last one must be known")
        if max(self.label_of) >= len(self.labels):
            raise ValueError("a label that is not there")
        return self

    def to_history(self, zone: str, kind: SignalKind) -> History:
        return History(self.series.to_series(zone, kind), tuple(self.labels), np.array(self.label_of, dtype=np.uint8))


class _KnownFile(Strict):
    format: Literal[1] = 1
    history: _HistoryFile | None = None
    forecast: _SeriesFile | None = None


class Cache:
    """A folder with what is known; without one nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def load(self, source: str, zone: str, kind: SignalKind) -> Known:
        """What was kept; nothing where that cannot be used."""
        if self._folder is None:
            return Known()
        path = _path(self._folder, source, zone, kind)
        try:
            kept = _KnownFile.model_validate(read_json(path, _LIMIT_BYTES))
        except FileNotFoundError:
            return Known()
        except (OSError, ValueError, ValidationError) as error:
            log.warning("%s is not used (%s); it will be written anew", path, str(error).splitlines()[0])
            return Known()
        history = kept.history.to_history(zone, kind) if kept.history else None
        forecast = kept.forecast.to_series(zone, kind) if kept.forecast and kept.forecast.values else None
        if forecast is not None and np.isnan(forecast.values_g_per_kwh).any():
            forecast = None
        return Known(history, forecast)

    def save(self, source: str, zone: str, kind: SignalKind, known: Known) -> None:
        """Keep it; a full or read-only disk is logged and costs the memory of a restart only."""
        if self._folder is None:
            return
        file = _KnownFile(
            history=_HistoryFile.of(known.history) if known.history else None,
            forecast=_SeriesFile.of(known.forecast) if known.forecast else None,
        )
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(_path(self._folder, source, zone, kind), json.dumps(file.model_dump(mode="json")), 0o600)
        except OSError as error:
            log.warning("the signal of %s is not kept on disk (%s): %s", zone, source, error.strerror)


def _path(folder: Path, source: str, zone: str, kind: SignalKind) -> Path:
    return folder / f"{quote(source, safe='')}--{quote(zone, safe='')}--{kind}.json"


def _numbers(values: Any) -> list[float | None]:
    return [None if math.isnan(value) else round(float(value), 3) for value in values]


def _array(values: list[float | None]) -> Any:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)
