"""What benchmarks print: tables, bars, on which machine; and a results file. No Ray, and nothing of eco_ray."""

from __future__ import annotations

import contextlib
import io
import os
import platform
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, TextIO

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@contextlib.contextmanager
def saved_output(name: str, *, save: bool = True) -> Iterator[None]:
    """Print as usual, and keep what was printed in benchmarks/results/NAME-DATE.txt."""
    kept = io.StringIO()
    with contextlib.redirect_stdout(_Both(sys.stdout, kept)):
        yield
    if save:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{name}-{datetime.now(UTC):%Y-%m-%d}.txt"
        path.write_text(kept.getvalue())
        print(f"\nsaved in {path.relative_to(ROOT)}")


def run_tables(
    name: str, title: str, tables: Mapping[str, Callable[[], bool]], only: str | None, *, save: bool = True
) -> int:
    """Print the tables that are wanted (names with commas; None: all) and keep them; 0 if every bar holds, else 1."""
    holds = True
    with saved_output(name, save=save):
        describe_run(title)
        for wanted in only.split(",") if only else tables:
            about = tables[wanted].__doc__
            print(f"\n== {wanted}{f': {about}' if about else ''}\n")
            holds &= tables[wanted]()
    return 0 if holds else 1


class _Both(io.TextIOBase):
    """A stream that writes to two."""

    def __init__(self, *streams: TextIO) -> None:
        self._streams = streams

    def write(self, text: str) -> int:
        for stream in self._streams:
            stream.write(text)
            stream.flush()
        return len(text)


def describe_run(title: str) -> None:
    """When and on what this ran; no names of hosts or people."""
    cores = len(os.sched_getaffinity(0))
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    print(title)
    print(
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {cores} cores ({_cpu_model()}), {memory_gb:.0f} GB; "
        f"Python {platform.python_version()}, Ray {version('ray')}; load average {os.getloadavg()[0]:.1f} at the start"
    )


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns: the first left-aligned, the others right-aligned."""
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, ["-" * width for width in widths], *rows]:
        first, *rest = (str(cell) for cell in row)
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]).rstrip())


def quantile(values: Sequence[float], q: float) -> float:
    """The value below which a share q of the values lies (nearest rank)."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def verdict(what: str, value: float, bar: float, unit: str = "") -> bool:
    """Print and return whether a value is at most its bar."""
    holds = value <= bar
    print(f"{'ok    ' if holds else 'MISSED'}  {what}: {value:.4g}{unit} (bar: <= {bar:g}{unit})")
    return holds


class Bar(NamedTuple):
    """What `verdict` printed, as texts."""

    what: str
    value: str
    limit: str
    holds: bool


_BAR = re.compile(r"^(ok|MISSED) +(.+): (\S+)(.*) \(bar: <= (\S+?)\4\)$", re.MULTILINE)


def bars(text: str) -> list[Bar]:
    """All bars of what was printed."""
    return [
        Bar(what, value + unit, f"<= {limit}{unit}", word == "ok")
        for word, what, value, unit, limit in _BAR.findall(text)
    ]
