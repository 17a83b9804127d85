"""Carbon intensity from CSV files: a trace of what was and, where there are any, the forecasts that were issued.

Trace: the first column is the time (any name; ISO 8601, UTC where it has no offset), then one column per zone in
gCO2e/kWh, at any regular step of whole seconds. A column may end early (empty cells at its end), never start late.

    time,DE,FR                          issue_utc,h0,h1,h2
    2025-06-01T00:00Z,310.2,41.0        2025-06-01T00:00,312.0,305.5,299.1
    2025-06-01T01:00Z,305.9,40.2        2025-06-02T00:00,280.4,277.0,270.9

Forecast of one zone (on the right): the time of issue, then the hourly values from that time on. `forecast` reads only
the newest row that had been issued by `now`. After the values there may be quantiles of them, for each level all hours
(h0,h1,p10_h0,p10_h1,p90_h0,p90_h1): they are shown, and nothing is decided by them. Without a forecast file the trace
itself is returned and its source says "perfect foresight": fine for a demonstration, flattering in an evaluation.

Either file may be gzipped (NAME.csv.gz). With a span, `start_s` to `end_s`, rows that it does not need are not checked.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError, UsageError
from eco_ray.grid.asking import MAX_NAMES, check_span, iso, nearest, unknown_zone
from eco_ray.grid.csv_table import (
    LOOK_BACK_S,
    Table,
    Values,
    column,
    increasing,
    is_time,
    outside,
    plausible,
    read,
    wrong,
)
from eco_ray.grid.live import refuse
from eco_ray.grid.sources import SourceOptions

#: step of a forecast [s]
FORECAST_STEP_S = 3600.0
#: a forecast from a model without bounds undershoots zero where the grid is nearly clean; down to here it is read as 0
LOWEST_FORECAST_G_PER_KWH = -50.0


def open_source(options: SourceOptions) -> CsvTrace:
    """The trace of `options.file`, of kind average-lifecycle unless said. Raises UsageError."""
    if options.file is None:
        raise UsageError("grid source 'trace' has no file; one is needed; give the path of its CSV")
    refuse("trace", options, "url")
    kind = options.kind or SignalKind.AVERAGE_LIFECYCLE
    return CsvTrace(options.file, options.forecasts, kind, columns=options.zones or None)


class CsvTrace:
    """GridSource that reads a trace, and optionally one file of real forecasts per zone, once, when it is made."""

    def __init__(
        self,
        path: Path,
        forecasts: Mapping[str, Path] | None = None,
        kind: SignalKind = SignalKind.AVERAGE_LIFECYCLE,
        name: str | None = None,
        nature: Nature = Nature.MODELLED,
        *,
        columns: Mapping[str, str] | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
        look_back_s: float = LOOK_BACK_S,
    ) -> None:
        """Read and check the files. Trace and forecasts must be of the same `kind`: no file says which it is.

        `columns` maps each zone that is wanted to the name of its column; None: every column is a zone. With `start_s`
        and `end_s` [s since epoch] only the rows of [start_s - look_back_s, end_s) are read and checked.
        `nature` is `modelled` by default, for no meter counts grams: a published series is generation times factors.
        """
        self.name = name or f"trace {path.name}"
        self.kind = kind
        self._nature = nature
        self._file = path.name
        table = read(path, lambda file, header: _trace_header(file, header, columns), start_s, end_s, look_back_s)
        self._start_s, self._step_s = _regular(table)
        if start_s is not None and table.times_s[-1] + self._step_s <= start_s:
            raise outside(table, "time")
        self._utc_offset_s = table.utc_offset_s
        self._values = {}
        for index, zone in enumerate(columns or table.names):
            self._values[zone] = column(table, index)
            plausible(table, f"column {table.names[index]}", self._values[zone])
        self._forecasts = {}
        for zone, file in (forecasts or {}).items():
            if zone not in self._values:
                raise UsageError(
                    f"{path}: no column for zone {zone!r}, for which the forecast {file} was given; the columns are "
                    f"{', '.join(self._values)}; add the column or leave the forecast out"
                )
            self._forecasts[zone] = ForecastFile.read(file, start_s, end_s)

    def zones(self) -> tuple[str, ...]:
        """The zones, in the order of the file, or of `columns` where they were given."""
        return tuple(self._values)

    @property
    def start_s(self) -> float:
        """Start of the first row that was read [s since epoch]."""
        return self._start_s

    @property
    def step_s(self) -> float:
        """Time from each row to the next [s]."""
        return self._step_s

    @property
    def utc_offset_s(self) -> float:
        """What the file's own clock is ahead of UTC, as written in the first row that was read; 0 if not said [s]."""
        return self._utc_offset_s

    def end_s(self, zone: str) -> float:
        """End of the last row that has a value for the zone [s since epoch]."""
        return self._start_s + self._step_s * len(self._known(zone, self._start_s, self._start_s))

    def rows(self, zone: str, start_s: float, end_s: float) -> IntensitySeries:
        """What the trace knows of [start_s, end_s], which may be less than all of it; `actual` asks for all of it."""
        values = self._known(zone, start_s, end_s)
        begin_s, finish_s = self._start_s, self._start_s + self._step_s * len(values)
        if end_s <= begin_s or start_s >= finish_s:
            raise self._uncovered(zone, start_s, end_s)
        return self._slice(zone, max(start_s, begin_s), min(end_s, finish_s), self._file, None)

    def actual(self, zone: str, start_s: float, end_s: float) -> IntensitySeries:
        """The rows of the trace that cover [start_s, end_s]."""
        values = self._known(zone, start_s, end_s)
        begin_s, finish_s = self._start_s, self._start_s + self._step_s * len(values)
        if start_s < begin_s or end_s > finish_s or start_s == finish_s:
            raise self._uncovered(zone, start_s, end_s)
        return self._slice(zone, start_s, end_s, self._file, None)

    def forecast(self, zone: str, now_s: float, end_s: float) -> IntensitySeries:
        """The newest forecast issued by `now_s`; without a forecast file the trace itself, which its source admits."""
        values = self._known(zone, now_s, end_s)
        if zone in self._forecasts:
            return self._issued(zone, now_s, end_s)
        finish_s = self._start_s + self._step_s * len(values)
        if not self._start_s <= now_s < finish_s:
            raise EcoRayError(
                f"{self._file}: no forecast for zone {zone} at {iso(now_s)}: the trace that stands in for one covers "
                f"{iso(self._start_s)} to {iso(finish_s)}; start inside it or load a longer trace"
            )
        return self._slice(zone, now_s, min(end_s, finish_s), f"{self._file}, perfect foresight of the trace", now_s)

    def _known(self, zone: str, start_s: float, end_s: float) -> Values:
        if zone not in self._values:
            raise unknown_zone(zone, self._values, self._file, "use one of these or add a column for it")
        check_span(zone, start_s, end_s)
        return self._values[zone]

    def _uncovered(self, zone: str, start_s: float, end_s: float) -> EcoRayError:
        return EcoRayError(
            f"{self._file}: zone {zone} is not known over {iso(start_s)}..{iso(end_s)}: the trace covers "
            f"{iso(self._start_s)} to {iso(self.end_s(zone))}; ask for a time in it or load a longer trace"
        )

    def _slice(self, zone: str, start_s: float, end_s: float, source: str, issued_s: float | None) -> IntensitySeries:
        first, last = _steps(start_s - self._start_s, end_s - self._start_s, self._step_s)
        return IntensitySeries(
            zone=zone,
            start_s=self._start_s + first * self._step_s,
            step_s=self._step_s,
            values_g_per_kwh=self._values[zone][first:last],
            kind=self.kind,
            source=source,
            nature=self._nature,
            issued_s=issued_s,
        )

    def _issued(self, zone: str, now_s: float, end_s: float) -> IntensitySeries:
        forecast = self._forecasts[zone]
        row = int(np.searchsorted(forecast.issues_s, now_s, side="right")) - 1
        if row < 0:
            raise EcoRayError(
                f"{forecast.file}: no forecast for zone {zone} had been issued by {iso(now_s)}: the first is of "
                f"{iso(forecast.issues_s[0])}; start later or load a file with earlier issues"
            )
        issue_s = float(forecast.issues_s[row])
        values = forecast.values[row]
        until_s = issue_s + FORECAST_STEP_S * len(values)
        if now_s >= until_s:
            raise EcoRayError(
                f"{forecast.file}: no forecast for zone {zone} reaches {iso(now_s)}: the newest by then is of "
                f"{iso(issue_s)} and ends at {iso(until_s)}; load a file with later issues"
            )
        first, last = _steps(now_s - issue_s, end_s - issue_s, FORECAST_STEP_S)
        return IntensitySeries(
            zone=zone,
            start_s=issue_s + first * FORECAST_STEP_S,
            step_s=FORECAST_STEP_S,
            values_g_per_kwh=values[first:last],  # a slice ends where the forecast does
            kind=self.kind,
            source=f"{forecast.file}, forecast issued {iso(issue_s)}{forecast.remark}",
            nature=Nature.MODELLED,
            issued_s=issue_s,
            quantiles_g_per_kwh={level: of[row][first:last] for level, of in forecast.quantiles.items()},
        )


def _steps(from_s: float, to_s: float, step_s: float) -> tuple[int, int]:
    """First step that holds `from_s` and the one after the last before `to_s`; at least one step."""
    first = int(from_s // step_s)
    return first, max(first + 1, math.ceil(to_s / step_s))


@dataclass(frozen=True, slots=True)
class ForecastFile:
    """The forecasts of one zone, oldest first; value h of an issue holds for an hour from issue + h hours on."""

    file: str
    #: times of issue [s], increasing
    issues_s: Values
    #: shape (issues, hours), g/kWh, not negative
    values: Values
    #: how many values of the file were below zero
    negatives: int
    #: level in (0, 1) -> shape (issues, hours), g/kWh, not negative
    quantiles: Mapping[float, Values] = field(default_factory=dict)

    @property
    def remark(self) -> str:
        """What was done to the values, for the source text."""
        return f" ({self.negatives} values below 0 in the file are read as 0)" if self.negatives else ""

    @classmethod
    def read(cls, path: Path, start_s: float | None = None, end_s: float | None = None) -> ForecastFile:
        """The issues of [start_s - 8 days, end_s), and the one in force at `start_s` where that is older."""
        table = read(path, _forecast_header, start_s, end_s)
        increasing(table, "issue")
        for index, name in enumerate(table.names):
            if (end := table.ends[index]) is not None:
                raise wrong(table, end, f"column {name} is empty", "every issue needs a value for each hour", "fill it")
            column(table, index, LOWEST_FORECAST_G_PER_KWH)
        plausible(table, "the forecast", table.values)
        values = np.maximum(table.values, 0.0)
        values.flags.writeable = False
        levels = [0.0, *dict.fromkeys(_level(name) for name in table.names if not name.startswith("h"))]
        central, *others = np.split(values, len(levels), axis=1)
        quantiles = dict(zip(levels[1:], others, strict=True))
        for low, high in itertools.pairwise(sorted(quantiles)):
            for row, hour in np.argwhere(quantiles[low] > quantiles[high])[:1].tolist():
                raise wrong(
                    table,
                    row,
                    f"quantile {low:g} of hour {hour}, {quantiles[low][row, hour]:g}, is above quantile {high:g}, "
                    f"{quantiles[high][row, hour]:g}",
                    "a higher level has no lower value",
                    "exchange or correct the columns",
                )
        return cls(path.name, table.times_s, central, int((table.values < 0).sum()), quantiles)


def _trace_header(path: Path, header: list[str], columns: Mapping[str, str] | None) -> list[int]:
    """Index of the column of each zone, in the order of `columns`, or of the file."""
    if len(header) < 2:
        raise UsageError(
            f"{path}, line 1: no zone column in {','.join(header)[:80]!r}; at least one is needed after the time; "
            f"write time,ZONE,... separated by commas"
        )
    if is_time(header[0]):
        raise UsageError(
            f"{path}, line 1: {header[0]!r} is a time, not a header; write time,ZONE,... as the first line"
        )
    if columns is not None:
        for zone, name in columns.items():
            if name not in header[1:]:
                raise _unknown_column(path, zone, name, header[1:])
    wanted = header[1:] if columns is None else columns.values()
    where: dict[str, int] = {}
    for index, name in enumerate(header[1:], start=1):
        if (not name or name in where) and name in wanted:
            what = "is there twice" if name else "is empty"
            raise UsageError(f"{path}, line 1: column {index + 1} {name!r} {what}; each zone has one column; rename it")
        where[name] = index
    return [where[name] for name in wanted]


def _unknown_column(path: Path, zone: str, name: str, known: list[str]) -> UsageError:
    near = nearest(name, known)
    hint = f"; nearest name: {near}" if near else ""
    more = f" and {len(known) - MAX_NAMES} more" if len(known) > MAX_NAMES else ""
    return UsageError(
        f"{path}, line 1: no column {name!r} for zone {zone}{hint}; the columns are {', '.join(known[:MAX_NAMES])}"
        f"{more}; give a zone that has a column, or the name of its column as {zone}=COLUMN"
    )


#: a column with a quantile of an hour: p10_h0
_QUANTILE = re.compile(r"p(\d{1,2}(?:\.\d{1,3})?)_h\d{1,5}")


def _level(name: str) -> float:
    """Level of the quantile in a column."""
    found = _QUANTILE.fullmatch(name)
    return float(found[1]) / 100 if found else 0.0


def _forecast_header(path: Path, header: list[str]) -> list[int]:
    hours = next((i for i, name in enumerate(header[1:]) if _level(name) > 0), len(header) - 1)
    levels = list(dict.fromkeys(name.partition("_")[0] for name in header[1 + hours :] if _level(name) > 0))
    prefixes = ["", *(f"{level}_" for level in levels)]
    wanted = ["issue_utc", *(f"{level}h{hour}" for level in prefixes for hour in range(max(1, hours)))]
    if header != wanted:
        both = zip(header, wanted, strict=False)
        number = next((i for i, (a, b) in enumerate(both) if a != b), min(len(header), len(wanted)))
        needed = wanted[number] if number < len(wanted) else "nothing"
        got = repr(header[number]) if number < len(header) else "nothing"
        raise UsageError(
            f"{path}, line 1: column {number + 1} of the header is {got}; {needed} is needed; "
            "write issue_utc,h0,h1,... with one column per hour, and after them as many of each quantile (p10_h0,...)"
        )
    return list(range(1, len(header)))


def _regular(table: Table) -> tuple[float, float]:
    """Start and step [s] of a trace, after checking that its rows are in order and evenly spaced."""
    increasing(table, "time")
    gaps = np.diff(table.times_s)
    every = gaps if len(gaps) > 1 else np.diff(table.file_times_s)  # too few were kept: all rows tell the usual step
    every = every[every > 0]
    if len(every) == 0:
        raise wrong(table, 0, "the only row", "two are needed to know the step", "add the next one")
    sizes, counts = np.unique(every, return_counts=True)
    step_s = float(sizes[np.argmax(counts)])  # the usual step, so that an odd one is found even at the start
    if step_s % 1:
        raise wrong(
            table,
            min(1, len(gaps)),
            f"the step is {step_s:g} s",
            "it must be in whole seconds",
            "give a trace with times on full seconds",
        )
    for row in np.flatnonzero(gaps != step_s)[:1]:
        fault = "a gap" if gaps[row] > step_s else "an extra row"
        raise wrong(
            table,
            row + 1,
            f"{fault}: {iso(table.times_s[row + 1])} follows {iso(table.times_s[row])}",
            f"the step is {step_s:g} s",
            "add the missing rows or remove the extra ones",
        )
    return float(table.times_s[0]), step_s
