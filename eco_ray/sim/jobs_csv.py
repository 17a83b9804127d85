"""Jobs of a simulation from a CSV file, plain or gzipped (NAME.csv.gz), its columns in any order.

    job_id,arrival_s,duration_s,cpus,gpus,deadline_s,max_delay_s,expected_duration_s,max_workers,zones
    train-7,120,5400,4,1,43200,,3600,8,DE FR

Only arrival_s, duration_s and cpus are needed, other cells may be empty; GAIA's arrival_time and length are read, too.
Arrival and deadline (latest finish) count from the simulation's start, a job without job_id is called by the number of
its row from 0, and zones are separated by blanks, semicolons or bars. Rows need not be sorted.

An elastic job has max_workers, and perhaps min_workers (1) and throughput: work per second with each number of workers
from the least to the most, separated in the same way, in any unit (310;600;850). CPUs and GPUs are per worker.

A job that arrives after the end is kept, to be counted as cut off, but only its arrival is checked.
Every fault is a UsageError with file, line, value, limit and cure.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eco_ray.core.jobs import Workers
from eco_ray.csv_file import csv_rows
from eco_ray.errors import UsageError
from eco_ray.schema import unknown
from eco_ray.sim.workload import Floats, Ints, Workload
from eco_ray.times import MAX_DURATION_S

MAX_JOBS = 2_000_000
MAX_WORKERS = 100_000
#: later is as good as never, and sums of a few such times are exact in 64 bits [s]
NEVER_S = 2.0**50

Bools = NDArray[np.bool_]
_NEEDED = ("arrival_s", "duration_s", "cpus")
_ELASTIC = ("max_workers", "min_workers", "throughput")
_COLUMNS = ("job_id", *_NEEDED, "gpus", "deadline_s", "max_delay_s", "expected_duration_s", *_ELASTIC, "zones")
_GAIA = {"arrival_time": "arrival_s", "length": "duration_s"}
_DURATION = f"more than 0 s and at most {MAX_DURATION_S:.0f} s is possible"
_UNIT = "correct it, or the unit of the file's times"
_MEND = "correct it or leave it empty"


def read_jobs(
    path: Path,
    *,
    resolution_s: int,
    zones: Sequence[str],
    span_s: int,
    time_unit_s: float = 1.0,
    short_max_s: int = 7_200,
    max_delay_short_s: int = 21_600,
    max_delay_long_s: int = 86_400,
    knows_duration: Literal["yes", "mean", "no"] = "yes",
    capacity_cpus: float | None = None,
    machines: Sequence[tuple[int, float, float]] = (),
) -> Workload:
    """The jobs of a file for a simulation of `span_s`, in order of arrival.

    `time_unit_s` is what 1 means in every column of times (3600: hours). Times are floored to ticks of `resolution_s`
    as GAIA does, int(seconds / tick), and a length is at least one tick. A job with neither max_delay_s nor deadline_s
    may wait for `max_delay_short_s` if it is shorter than `short_max_s`, else for `max_delay_long_s`; with both, the
    smaller wait counts. Where lengths are not known, a policy is told expected_duration_s, else the `mean` length of
    the job's queue (short or long), or nothing (`no`).
    """
    sheet = _Sheet(path, time_unit_s, resolution_s)
    arrival = sheet.seconds("arrival_s")
    sheet.check_from_here(~(np.isfinite(arrival) & (np.floor(arrival / resolution_s) * resolution_s >= span_s)))
    arrival = sheet.usable("arrival_s", arrival, arrival >= 0, "0 or more is needed", "count it from the start")
    length = sheet.seconds("duration_s")
    length = sheet.usable("duration_s", length, (length > 0) & (length <= MAX_DURATION_S), _DURATION, _UNIT)
    arrival_s, length_s = sheet.floor(arrival), np.maximum(sheet.floor(length), resolution_s)
    short = length_s < short_max_s
    queue_wait_s = np.where(short, max_delay_short_s, max_delay_long_s)
    gpus = sheet.numbers("gpus")
    gpus = sheet.usable("gpus", gpus, gpus >= 0, "0 or more is needed", _MEND)
    least, most = _workers(sheet)
    workers = _speeds(sheet, least, most)
    expected_s = _told_s(sheet)
    if knows_duration == "yes":
        expected_s = length_s
    elif knows_duration == "mean":
        expected_s = np.where(expected_s > 0, expected_s, _mean_s(length, length_s, short, short_max_s, resolution_s))
    ids, allowed = _ids(sheet), _zones(sheet, zones)
    _fit(sheet, sheet.numbers("cpus") * least, gpus * least, allowed, machines)
    own_s = _own_wait_s(sheet, arrival, length, arrival_s + length_s)
    order = np.argsort(arrival, kind="stable")
    return Workload(
        ids=[ids[row] for row in order],
        arrival_s=arrival_s[order],
        length_s=length_s[order],
        expected_s=expected_s[order],
        cpus=_cpus(sheet, least, capacity_cpus)[order],
        gpus=np.nan_to_num(gpus, nan=0.0)[order],
        max_wait_s=sheet.floor(np.where(np.isnan(own_s), queue_wait_s, own_s))[order],
        max_workers=most[order],
        zones=[allowed[row] for row in order],
        owns_wait=~np.isnan(own_s)[order],
        deadline_s=sheet.seconds("deadline_s")[order],
        workers=None if workers is None else [workers[row] for row in order],
    )


class _Sheet:
    """The cells of the file by column, which rows are checked, and how to point at one."""

    def __init__(self, path: Path, time_unit_s: float, tick_s: int) -> None:
        self.path = path
        self._unit_s, self.tick_s = time_unit_s, tick_s
        rows, self.lines = _rows(path)
        self._titles = _header(path, rows.pop(0))
        self.lines.pop(0)
        self._widths = {row: len(cells) for row, cells in enumerate(rows) if len(cells) != len(self._titles)}
        for row in self._widths:  # perhaps one that is not checked
            rows[row] = (rows[row] + [""] * len(self._titles))[: len(self._titles)]
        self.count = len(rows)
        self.cells = dict(zip(self._titles, zip(*rows, strict=True), strict=True))
        self.checked: Bools = np.ones(self.count, dtype=np.bool_)  # rows in which a fault is an error

    def numbers(self, name: str) -> Floats:
        """Shape (J,): a column as numbers; NaN for an empty cell, one that is no number, or no such column."""
        cells = self.cells.get(name)
        if cells is None:
            return np.full(self.count, np.nan)
        return np.fromiter(map(_number, cells), np.float64, self.count)

    def seconds(self, name: str) -> Floats:
        """Shape (J,): a column of times [s]."""
        values = self.numbers(name)
        if self._unit_s == 1.0:
            return values
        with np.errstate(over="ignore"):
            # to the microsecond: 115 s in hours, times 3600, is 114.99... s and would lose a tick
            return np.round(values * self._unit_s, 6)

    def usable(self, name: str, values: Floats, good: Bools, limit: str, cure: str) -> Floats:
        """The finite `good` values, NaN for the others; a checked row must be good or, in an optional column, empty."""
        if name not in self.cells:
            return values
        good = good & np.isfinite(values)
        for row in np.flatnonzero(self.checked & ~good):
            if name in _NEEDED or self.cells[name][row].strip():
                raise self.wrong(int(row), name, limit, cure)
        return np.where(good, values, np.nan)

    def floor(self, seconds: Floats) -> Ints:
        """Shape (J,): whole ticks [s]; 0 for NaN."""
        ticks = np.trunc(np.clip(np.nan_to_num(seconds), 0.0, NEVER_S) / self.tick_s)
        return ticks.astype(np.int64) * self.tick_s

    def wrong(self, row: int, name: str, limit: str, cure: str) -> UsageError:
        """The error for a cell: what it holds, what is allowed, what to do."""
        cell = self.cells[name][row].strip()
        value = repr(cell if len(cell) <= 40 else f"{cell[:37]}...") if cell else "empty"
        return _fault(self.path, self.lines[row], f"{self._titles[name]} is {value}", limit, cure)

    def check_from_here(self, checked: Bools) -> None:
        """Set which rows are checked, and refuse those that have more or fewer cells than the header."""
        self.checked = checked
        for row in [row for row in self._widths if checked[row]][:1]:
            value, limit = f"{self._widths[row]} cells", f"the header has {len(self._titles)}"
            raise _fault(self.path, self.lines[row], value, limit, "add or remove the difference")


def _rows(path: Path) -> tuple[list[list[str]], array[int]]:
    """Cells and line number of every row that is not blank, the header first."""
    rows: list[list[str]] = []
    lines = array("q")
    for line, row in csv_rows(path, "split the file"):
        if len(rows) <= MAX_JOBS + 1:
            rows.append(row)
            lines.append(line)
    if len(rows) < 2:
        raise _fault(
            path, 1, "no job", "a header and one row are needed", f"write {','.join(_NEEDED)} and a row per job"
        )
    if len(rows) > MAX_JOBS + 1:
        raise _fault(path, lines[-1], "one more job", f"the limit is {MAX_JOBS}", "split the file")
    return rows, lines


def _fault(path: Path, line: int, value: str, limit: str, cure: str) -> UsageError:
    return UsageError(f"{path}, line {line}: {value}; {limit}; {cure}")


def _header(path: Path, cells: list[str]) -> dict[str, str]:
    """Our name of each column -> what the file calls it, in the file's order."""
    titles: dict[str, str] = {}
    for title in (cell.strip() for cell in cells):
        name = _GAIA.get(title, title)
        if name not in _COLUMNS:
            words = unknown("column", title, (*_COLUMNS, *_GAIA))
            raise UsageError(f"{path}, line 1: {words}; separate by commas and rename or remove the column")
        if name in titles:
            raise _fault(path, 1, f"column {title} repeats {titles[name]}", "each may be there once", "remove one")
        titles[name] = title
    for name in [name for name in _NEEDED if name not in titles][:1]:
        value, limit = f"no column {name} in {','.join(titles.values())}", f"{', '.join(_NEEDED)} are needed"
        raise _fault(path, 1, value, limit, "add it")
    return titles


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan


def _ids(sheet: _Sheet) -> list[str]:
    """The job_id of each row, or its number from 0."""
    cells = sheet.cells.get("job_id", ("",) * sheet.count)
    ids = [cell.strip() or str(row) for row, cell in enumerate(cells)]
    first: dict[str, int] = {}
    for row in np.flatnonzero(sheet.checked).tolist():
        if first.setdefault(ids[row], row) != row:
            limit = f"line {sheet.lines[first[ids[row]]]} is called {ids[row][:40]!r}, too"
            raise sheet.wrong(row, "job_id", limit, "give each job its own id")
    return ids


def _workers(sheet: _Sheet) -> tuple[Ints, Ints]:
    """The least and the most workers of each row."""
    found = []
    for name in ("min_workers", "max_workers"):
        count = sheet.numbers(name)
        whole = (count >= 1) & (count <= MAX_WORKERS) & (count == np.floor(count))
        found.append(sheet.usable(name, count, whole, f"1 to {MAX_WORKERS}, whole, is possible", _MEND))
    least = np.nan_to_num(found[0], nan=1.0).astype(np.int64)
    most = np.where(np.isnan(found[1]), least, found[1]).astype(np.int64)
    for row in np.flatnonzero(sheet.checked & (most < least))[:1]:
        raise sheet.wrong(int(row), "max_workers", f"min_workers is {least[row]}", "lower that, or raise this")
    return least, np.maximum(least, most)


def _speeds(sheet: _Sheet, least: Ints, most: Ints) -> list[Workers] | None:
    """How fast each row is with each number of workers; None where speed always grows in proportion from one on."""
    if "min_workers" not in sheet.cells and "throughput" not in sheet.cells:
        return None
    known: dict[tuple[int, int, str], Workers] = {}  # most jobs scale alike
    found = []
    for row, cell in enumerate(sheet.cells.get("throughput", ("",) * sheet.count)):
        key = int(least[row]), int(most[row]), cell
        if key not in known:
            known[key] = Workers(*key[:2], _throughput(sheet, row, cell, key[1] - key[0] + 1))
        found.append(known[key])
    return found


def _throughput(sheet: _Sheet, row: int, cell: str, count: int) -> tuple[float, ...]:
    """A cell in terms of its first value; empty where it is, or where a row that is not checked makes no sense."""
    values = [_number(value) for value in re.split(r"[\s;|]+", cell) if value]
    if not values:
        return ()
    if len(values) == count and all(0 < value < np.inf for value in values) and values == sorted(values):
        return tuple(value / values[0] for value in values) if count > 1 else ()
    if sheet.checked[row]:
        limit = f"{count} numbers above 0 that do not fall are needed, one for each number of workers"
        raise sheet.wrong(row, "throughput", limit, _MEND)
    return ()


def _cpus(sheet: _Sheet, least: Ints, capacity: float | None) -> Floats:
    cpus = sheet.numbers("cpus")
    cpus = sheet.usable("cpus", cpus, cpus > 0, "more than 0 is needed", "correct it")
    if capacity is not None:
        for row in np.flatnonzero(sheet.checked & (cpus * least > capacity))[:1]:
            limit = f"a zone has {capacity:g}, so that the job can never run"
            raise sheet.wrong(int(row), "cpus", limit, "give the job fewer or the zones more")
    return np.nan_to_num(cpus, nan=1.0)


def _fit(
    sheet: _Sheet,
    cpus: Floats,
    gpus: Floats,
    allowed: Sequence[tuple[int, ...]],
    machines: Sequence[tuple[int, float, float]],
) -> None:
    """Refuse a job that fits on none of the machines (zone, CPUs, GPUs) that it may use."""
    known: dict[tuple[float, float, tuple[int, ...]], bool] = {}
    for row in range(sheet.count if machines else 0):
        wanted = (float(cpus[row]), float(np.nan_to_num(gpus[row])), allowed[row])
        if wanted not in known:
            known[wanted] = any(
                wanted[0] <= has_cpus and wanted[1] <= has_gpus and (not wanted[2] or zone in wanted[2])
                for zone, has_cpus, has_gpus in machines
            )
        if sheet.checked[row] and not known[wanted]:
            raise sheet.wrong(
                row,
                "cpus",
                f"with {wanted[1]:g} GPUs it fits on no node of the zones that it may use",
                "ask for less, or describe a larger node there",
            )


def _zones(sheet: _Sheet, zones: Sequence[str]) -> list[tuple[int, ...]]:
    """Indices of the zones that each row allows; empty: all."""
    number = {zone: index for index, zone in enumerate(zones)}
    known: dict[str, tuple[int, ...]] = {}  # most jobs allow the same
    for row, cell in enumerate(sheet.cells.get("zones", ())):
        if cell in known:
            continue
        names = [name for name in re.split(r"[\s;|]+", cell) if name]
        strange = [name for name in names if name not in number]
        if strange and sheet.checked[row]:
            words = f"{unknown('zone', strange[0], zones)}; correct it or simulate that zone, too"
            raise UsageError(f"{sheet.path}, line {sheet.lines[row]}: {words}")
        if not strange:
            known[cell] = tuple(sorted({number[name] for name in names}))
    return [known.get(cell, ()) for cell in sheet.cells.get("zones", ("",) * sheet.count)]


def _own_wait_s(sheet: _Sheet, arrival: Floats, length: Floats, earliest_s: Ints) -> Floats:
    """How late a row allows its job to be [s], NaN: it does not say; `earliest_s`: its end at once, in whole ticks."""
    delay, deadline = sheet.seconds("max_delay_s"), sheet.seconds("deadline_s")
    delay = sheet.usable("max_delay_s", delay, delay >= 0, "0 or more is needed", _MEND)
    deadline = sheet.usable("deadline_s", deadline, np.isfinite(deadline), "a number is needed", _MEND)
    spare = np.where(np.isnan(deadline), np.nan, sheet.floor(deadline) - earliest_s)
    # a job that is feasible to the second may miss by ticks, as its length is at least one; then it just cannot wait
    late = deadline < arrival + length - 1e-6
    for row in np.flatnonzero(sheet.checked & late & (spare < 0))[:1]:
        limit = f"at the earliest it ends at {arrival[row] + length[row]:.9g} s, after its {length[row]:.9g} s"
        raise sheet.wrong(int(row), "deadline_s", limit, "give a later deadline, a shorter job or an empty cell")
    own_s: Floats = np.fmin(delay, np.maximum(spare, 0.0))  # the smaller of those that are given
    return own_s


def _told_s(sheet: _Sheet) -> Ints:
    """What the file says that a policy expects of the length, at least a tick [s]; 0: nothing."""
    told = sheet.seconds("expected_duration_s")
    told = sheet.usable("expected_duration_s", told, (told > 0) & (told <= MAX_DURATION_S), _DURATION, _UNIT)
    return np.where(np.isnan(told), 0, np.maximum(sheet.floor(told), sheet.tick_s))


def _mean_s(length: Floats, length_s: Ints, short: Bools, short_max_s: int, tick_s: int) -> Ints:
    """The mean length of each job's queue [s]: of lengths before flooring, one of exactly the limit being in both."""
    mean_s = np.zeros_like(length_s)
    for queue, members in ((short, length <= short_max_s), (~short, length >= short_max_s)):
        pool = length[members] if members.any() else length_s[queue]
        if len(pool):
            mean_s[queue] = max(int(pool.mean() / tick_s), 1) * tick_s
    return mean_s
