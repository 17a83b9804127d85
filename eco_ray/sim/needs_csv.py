"""What served models need in a simulation, from a CSV file, plain or gzipped (NAME.csv.gz), its columns in any order.

    model,start_s,end_s,replicas,cpus,gpus,gpu_memory_gb,p95_ms,zones
    chat,28800,61200,3,4,0.5,20,200,DE FR

From start_s to end_s, which count from the simulation's start, the model needs so many replicas for which jobs leave
room; what each holds, its promised latency and its zones follow, all but cpus may be empty. Rows of a model do not
overlap. Every fault is a UsageError with file, line, value, limit and cure.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from eco_ray.core.cluster import Resources
from eco_ray.core.events import NeededReplica, ServingNeeds
from eco_ray.csv_file import csv_rows
from eco_ray.errors import UsageError
from eco_ray.schema import unknown

MAX_ROWS, MAX_REPLICAS = 100_000, 10_000
_NEEDED = ("model", "start_s", "end_s", "replicas", "cpus")
_COLUMNS = (*_NEEDED, "gpus", "gpu_memory_gb", "p95_ms", "zones")


class _Row(NamedTuple):
    """One peak."""

    model: str
    start_s: float
    end_s: float
    line: int
    replicas: tuple[NeededReplica, ...]
    slo_p95_s: float | None


def read_needs(
    path: Path, *, zones: Sequence[str], begin_s: float, time_unit_s: float = 1.0
) -> tuple[tuple[float, ServingNeeds], ...]:
    """The needs of a file in the order of their times [s since epoch].

    `begin_s`: the simulation's start [s since epoch]. `time_unit_s`: what 1 means in the columns of times.
    """
    rows = sorted(_rows(path, zones, time_unit_s), key=lambda row: (row.model, row.start_s))
    for one, two in itertools.pairwise(rows):
        if one.model == two.model and two.start_s < one.end_s:
            raise _fault(
                path, two.line, f"start_s is {two.start_s:g} s", f"line {one.line} needs {one.model} until then, too",
                "let each row of a model begin when the one before has ended",
            )  # fmt: skip
    told = [
        (begin_s + row.start_s, ServingNeeds(row.model, row.replicas, begin_s + row.end_s, row.slo_p95_s))
        for row in rows
    ]
    return tuple(sorted(told, key=lambda one: one[0]))


def _rows(path: Path, zones: Sequence[str], unit_s: float) -> list[_Row]:
    found: list[_Row] = []
    titles: list[str] | None = None
    for line, cells in csv_rows(path, "split the file"):
        if titles is None:
            titles = _header(path, [cell.strip() for cell in cells])
            continue
        if len(cells) != len(titles):
            limit = f"the header has {len(titles)}"
            raise _fault(path, line, f"{len(cells)} cells", limit, "add or remove the difference")
        if len(found) == MAX_ROWS:
            raise _fault(path, line, "one more row", f"the limit is {MAX_ROWS}", "split the file")
        found.append(_row(path, line, dict(zip(titles, (cell.strip() for cell in cells), strict=True)), zones, unit_s))
    if not found:
        raise _fault(path, 1, "no need", "a header and one row are needed", f"write {','.join(_NEEDED)} and a row each")
    return found


def _header(path: Path, titles: list[str]) -> list[str]:
    for number, title in enumerate(titles):
        if title not in _COLUMNS:
            words = unknown("column", title, _COLUMNS)
            raise UsageError(f"{path}, line 1: {words}; separate by commas and rename or remove the column")
        if title in titles[:number]:
            raise _fault(path, 1, f"column {title} is there twice", "each may be there once", "remove one")
    for title in _NEEDED:
        if title not in titles:
            limit = f"{', '.join(_NEEDED)} are needed"
            raise _fault(path, 1, f"no column {title} in {','.join(titles)}", limit, "add it")
    return titles


def _row(path: Path, line: int, cells: dict[str, str], zones: Sequence[str], unit_s: float) -> _Row:
    def number(name: str, least: float, most: float = math.inf, *, above: bool = False) -> float:
        """A cell; 0 where an optional one is empty."""
        cell = cells.get(name, "")
        if not cell and name not in _NEEDED:
            return 0.0
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not (least < value if above else least <= value) or not value <= most or math.isinf(value):
            more = "" if above else " or more" if math.isinf(most) else f" to {most:g}"
            limit = f"{'more than ' if above else ''}{least:g}{more} is possible"
            raise _fault(path, line, f"{name} is {cell[:40]!r}", limit, "correct it")
        return value

    if not cells["model"]:
        raise _fault(path, line, "model is empty", "a name is needed", "name the model")
    start_s = number("start_s", 0.0) * unit_s
    end_s = number("end_s", 0.0) * unit_s
    if end_s <= start_s:
        raise _fault(path, line, f"end_s is {end_s:g} s", f"start_s is {start_s:g} s", "let it end later")
    count = number("replicas", 1, MAX_REPLICAS)
    if count % 1:
        raise _fault(path, line, f"replicas is {count:g}", "whole replicas are possible", "correct it")
    names = tuple(name for name in re.split(r"[\s;|]+", cells.get("zones", "")) if name)
    for name in names:
        if name not in zones:
            raise UsageError(
                f"{path}, line {line}: {unknown('zone', name, zones)}; correct it or simulate that zone, too"
            )
    demand = Resources(number("cpus", 0.0, above=True), number("gpus", 0.0), 0.0, number("gpu_memory_gb", 0.0))
    if demand.gpu_memory_gb and not demand.gpus:
        raise _fault(path, line, f"gpu_memory_gb is {demand.gpu_memory_gb:g}", "gpus is 0", "give gpus a share, too")
    p95_ms = number("p95_ms", 0.0)
    replicas = (NeededReplica(demand, (), names),) * int(count)
    return _Row(cells["model"], start_s, end_s, line, replicas, p95_ms / 1000 if p95_ms else None)


def _fault(path: Path, line: int, value: str, limit: str, cure: str) -> UsageError:
    return UsageError(f"{path}, line {line}: {value}; {limit}; {cure}")
