"""Reading a CSV file of times and intensities, plain or gzipped.

Every fault is a UsageError with file, line, value, limit and cure. Only the columns and the rows that are asked for are
parsed and checked; of the other rows only the time is looked at.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eco_ray.csv_file import csv_rows
from eco_ray.errors import UsageError
from eco_ray.grid.asking import iso

_CUT = "cut it to the zones and years that you need"
#: no plant emits more over its life cycle per kWh; a larger mean is another unit (g/MWh, lbs/MWh)
MAX_MEAN_G_PER_KWH = 3000.0
#: one value may stand out, for example where nearly all of the electricity of an hour was imported
MAX_G_PER_KWH = 100_000.0
#: history that is read before the time asked for: a week for a weekly profile, and a day so that it is a whole one [s]
LOOK_BACK_S = 8 * 86_400.0

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV file as numbers, with what is needed to point at a row."""

    path: Path
    #: header of the value columns that were asked for
    names: list[str]
    #: line in the file of each row that was kept
    lines: array[int]
    times_s: Values
    #: times of every row of the file, kept or not, in its order [s since epoch]
    file_times_s: Values
    #: of the first row's time as written, 0 where it has none [s]
    utc_offset_s: float
    #: shape (rows, columns); NaN where a column has ended
    values: Values
    #: row at which each column ends early
    ends: list[int | None]


def wrong(table: Table, row: int, value: str, limit: str, cure: str) -> UsageError:
    """The error for a row: what it holds, what is allowed, what to do."""
    return UsageError(f"{table.path}, line {table.lines[row]}: {value}; {limit}; {cure}")


def read(
    path: Path,
    choose: Callable[[Path, list[str]], list[int]],
    start_s: float | None = None,
    end_s: float | None = None,
    look_back_s: float = LOOK_BACK_S,
) -> Table:
    """The file as numbers; times and values are still to be checked with `increasing` and `column`.

    `choose` checks the header and gives the columns to read. Kept are the rows of [start_s - look_back_s, end_s), and
    the row that holds `start_s` where it is older; None: no limit.
    """
    rows = csv_rows(path, _CUT)
    _, cells = next(rows, (1, []))
    header = [cell.strip() for cell in cells]
    if not header:
        raise UsageError(
            f"{path}, line 1: the file is empty; a header and two rows are needed; write time,ZONE,... first"
        )
    chosen = choose(path, header)
    span = (-math.inf if start_s is None else start_s, math.inf if end_s is None else end_s, look_back_s)
    return _numbers(path, header, chosen, rows, span)


def first_time_s(path: Path) -> float:
    """Time of the first row after the header [s since epoch], read alone."""
    rows = csv_rows(path, _CUT)
    next(rows, None)
    line, row = next(rows, (1, [""]))
    return _time_s(path, line, row[0])


def is_time(cell: str) -> bool:
    """Whether a cell reads as an ISO 8601 time."""
    try:
        datetime.fromisoformat(cell.strip())
    except ValueError:
        return False
    return True


def _numbers(
    path: Path,
    header: list[str],
    chosen: list[int],
    rows: Iterator[tuple[int, list[str]]],
    span: tuple[float, float, float],
) -> Table:
    names = [header[index] for index in chosen]
    times_s, file_times_s, numbers, lines = array("d"), array("d"), array("d"), array("q")
    ends: list[int | None] = [None] * len(names)
    utc_offset_s = 0.0
    for line, time_s, row in _needed(path, rows, file_times_s, *span):
        if len(row) != len(header):
            raise UsageError(
                f"{path}, line {line}: {len(row)} cells; the header has {len(header)}; add or remove the difference"
            )
        if not lines:
            utc_offset_s = _utc_offset_s(row[0])
        times_s.append(time_s)
        cells = [row[index] for index in chosen]
        try:
            numbers.extend([float(cell) for cell in cells])  # the whole row at once: the common case is the fast one
        except ValueError:
            numbers.extend(_slow_row(path, line, cells, names, ends, lines))
        else:
            for name, end in zip(names, ends, strict=True):
                if end is not None:
                    raise _gap(path, lines[end], name, line)
        lines.append(line)
    values = np.array(numbers).reshape(len(lines), len(names))
    return Table(path, names, lines, np.array(times_s), np.array(file_times_s), utc_offset_s, values, ends)


def _needed(
    path: Path,
    rows: Iterator[tuple[int, list[str]]],
    file_times_s: array[float],
    start_s: float,
    end_s: float,
    look_back_s: float,
) -> Iterator[tuple[int, float, list[str]]]:
    """Line, time and cells of the rows that [start_s, end_s) needs; `file_times_s` gets the time of every row."""
    older: tuple[int, float, list[str]] | None = None
    begun = ended = False
    for line, row in rows:
        if (ended or (not begun and start_s > -math.inf)) and not is_time(row[0]):
            continue  # outside the range nothing is checked
        time_s = _time_s(path, line, row[0])
        file_times_s.append(time_s)
        if time_s >= end_s:
            ended = True
            continue
        if time_s < start_s - look_back_s:
            older = line, time_s, row
            continue
        if older and not begun and time_s > start_s:  # the older row holds start_s
            yield older
        begun = True
        yield line, time_s, row
    if older and not begun:
        yield older


def _slow_row(
    path: Path, line: int, cells: list[str], names: list[str], ends: list[int | None], lines: array[int]
) -> list[float]:
    """A row in which some cell is no number: empty cells may end a column, anything else is refused."""
    numbers = []
    for index, (name, cell) in enumerate(zip(names, cells, strict=True)):
        text = cell.strip()
        end = ends[index]
        if not text:
            if not lines:
                raise UsageError(
                    f"{path}, line {line}: column {name} is empty; a column may end early but must "
                    "have a first value; fill it or remove the column"
                )
            ends[index] = len(lines) if end is None else end
            numbers.append(math.nan)
            continue
        if end is not None:
            raise _gap(path, lines[end], name, line)
        try:
            numbers.append(float(text))
        except ValueError:
            raise UsageError(
                f"{path}, line {line}: column {name} is {text[:40]!r}, not a number; gCO2e/kWh with a decimal "
                "point is needed; correct it"
            ) from None
    return numbers


def _gap(path: Path, empty_line: int, name: str, line: int) -> UsageError:
    return UsageError(
        f"{path}, line {empty_line}: column {name} is empty, and has a value again in line {line}; only the end of a "
        "column may be empty; fill the gap or cut the file"
    )


def _time_s(path: Path, line: int, cell: str) -> float:
    try:
        moment = datetime.fromisoformat(cell.strip())
    except ValueError:
        raise UsageError(
            f"{path}, line {line}: {cell[:40]!r} is not a time; ISO 8601 is needed; write it as 2025-06-01T00:00Z"
        ) from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.timestamp()


def _utc_offset_s(cell: str) -> float:
    offset = datetime.fromisoformat(cell.strip()).utcoffset()
    return offset.total_seconds() if offset else 0.0


def increasing(table: Table, what: str) -> None:
    """Refuse a table without rows, and times that repeat or go back."""
    if len(table.lines) == 0 and len(table.file_times_s):
        raise outside(table, what)
    if len(table.lines) == 0:
        raise UsageError(f"{table.path}, line 1: no row after the header; at least one {what} is needed; add it")
    for row in np.flatnonzero(np.diff(table.times_s) <= 0)[:1] + 1:
        now, before = table.times_s[row], table.times_s[row - 1]
        fault = "is there twice" if now == before else f"comes after {iso(before)}"
        raise wrong(
            table,
            row,
            f"{what} {iso(now)} {fault}",
            "times must increase",
            "sort the file, keep one of each, and write local times with their offset",
        )


def outside(table: Table, what: str) -> UsageError:
    """The error for a file none of whose rows lies in the span that was asked for."""
    return UsageError(
        f"{table.path}, line 1: no {what} in the span that was asked for; the file has {iso(table.file_times_s.min())} "
        f"to {iso(table.file_times_s.max())}; ask for a time in it or give a file that covers yours"
    )


def column(table: Table, index: int, lowest: float = 0.0) -> Values:
    """The values of a column up to its end, read-only, after checking each; see `plausible` for their mean."""
    values = np.ascontiguousarray(table.values[: table.ends[index], index])
    bad = np.flatnonzero(~((values >= lowest) & (values <= MAX_G_PER_KWH)))  # true for NaN, too
    if len(bad):
        raise wrong(
            table,
            int(bad[0]),
            f"column {table.names[index]} is {values[bad[0]]:g} gCO2e/kWh",
            f"{lowest:g} to {MAX_G_PER_KWH:g} is possible",
            "correct it; g/MWh are divided by 1000, lbs/MWh multiplied by 0.4536",
        )
    values.flags.writeable = False
    return values


def plausible(table: Table, name: str, values: Values) -> None:
    """Refuse values whose mean says that they are in another unit."""
    mean = float(values.mean())
    if mean > MAX_MEAN_G_PER_KWH:
        raise wrong(
            table,
            0,
            f"{name} has a mean of {mean:g} gCO2e/kWh from here on",
            f"{MAX_MEAN_G_PER_KWH:g} is the limit for a mean",
            "correct it; g/MWh are divided by 1000, lbs/MWh multiplied by 0.4536",
        )
