"""Reading a CSV file of times and intensities; every fault is a UsageError with file, line, value, limit and cure."""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eco_ray.errors import UsageError
from eco_ray.grid.asking import iso

MAX_BYTES = 200_000_000
#: no plant emits more over its life cycle per kWh; a larger value is another unit (g/MWh, lbs/MWh)
MAX_G_PER_KWH = 3000.0

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV file as numbers, with what is needed to point at a row."""

    path: Path
    #: header of the value columns
    names: list[str]
    #: line in the file of each row
    lines: array[int]
    times_s: Values
    #: shape (rows, columns); NaN where a column has ended
    values: Values
    #: row at which each column ends early
    ends: list[int | None]


def wrong(table: Table, row: int, value: str, limit: str, cure: str) -> UsageError:
    """The error for a row: what it holds, what is allowed, what to do."""
    return UsageError(f"{table.path}, line {table.lines[row]}: {value}; {limit}; {cure}")


def read(path: Path, check_header: Callable[[Path, list[str]], None]) -> Table:
    """The file as numbers; times and values are still to be checked with `increasing` and `column`."""
    rows = _rows(path)
    _, cells = next(rows, (1, []))
    header = [cell.strip() for cell in cells]
    if not header:
        raise UsageError(
            f"{path}, line 1: the file is empty; a header and two rows are needed; write time,ZONE,... first"
        )
    check_header(path, header)
    return _numbers(path, header[1:], rows)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every row that is not blank."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UsageError(
                f"{path}, line 1: {size} bytes; the limit is {MAX_BYTES}; cut it to the zones and years that you need"
            )
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); give the path of a CSV file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start} is not UTF-8; save the file as plain CSV in UTF-8") from error
    except csv.Error as error:
        raise UsageError(
            f"{path}, line {reader.line_num}: {error}; save the file as plain comma-separated text"
        ) from error


def is_time(cell: str) -> bool:
    """Whether a cell reads as an ISO 8601 time."""
    try:
        datetime.fromisoformat(cell.strip())
    except ValueError:
        return False
    return True


def _numbers(path: Path, names: list[str], rows: Iterator[tuple[int, list[str]]]) -> Table:
    times_s, numbers, lines = array("d"), array("d"), array("q")
    ends: list[int | None] = [None] * len(names)
    for line, row in rows:
        if len(row) != len(names) + 1:
            raise UsageError(
                f"{path}, line {line}: {len(row)} cells; the header has {len(names) + 1}; add or remove the difference"
            )
        times_s.append(_time_s(path, line, row[0]))
        try:
            numbers.extend([float(cell) for cell in row[1:]])  # the whole row at once: the common case is the fast one
        except ValueError:
            numbers.extend(_slow_row(path, line, row[1:], names, ends, lines))
        else:
            for name, end in zip(names, ends, strict=True):
                if end is not None:
                    raise _gap(path, lines[end], name, line)
        lines.append(line)
    shape = (len(lines), len(names))
    return Table(path, names, lines, np.array(times_s), np.array(numbers).reshape(shape), ends)


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


def increasing(table: Table, what: str) -> None:
    """Refuse a table without rows, and times that repeat or go back."""
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


def column(table: Table, index: int, lowest: float = 0.0) -> Values:
    """The values of a column up to its end, read-only, after checking each."""
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
