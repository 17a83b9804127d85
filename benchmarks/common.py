"""What the benchmarks share: a cluster of their own, statistics, tables, and a results file."""

from __future__ import annotations

import contextlib
import io
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

from eco_ray.cluster_file import load_cluster_file
from eco_ray.config import load_settings
from eco_ray.on_ray import bootstrap
from eco_ray.on_ray.client import Client
from eco_ray.on_ray.local_cluster import ClusterRecord, _with_descendants, free_port, start_ticks

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
#: what was killed is gone within [s]; on a busy machine it takes some
_GONE_S = 20.0


@contextlib.contextmanager
def cluster(
    num_cpus: float | None = None,
    speed: float = 1.0,
    store_url: str | None = None,
    file: Path = ROOT / "cluster" / "laptop.yaml",
) -> Iterator[Client]:
    """The cluster of a cluster file in a state directory of its own; ended and checked to be gone.

    `num_cpus` are the CPUs that each node offers, instead of those of the file; `speed`: grid seconds per wall second;
    `store_url`: of the database, if it is not to be in the state directory. Served models have a port that was free.
    """
    state_dir = Path(tempfile.mkdtemp(prefix="eco-bench-"))
    settings = load_settings({"state_dir": str(state_dir), **({"store_url": store_url} if store_url else {})})
    described = load_cluster_file(file, settings)
    described = described.model_copy(update={"serve": described.serve.model_copy(update={"port": free_port()})})
    if num_cpus is not None:
        nodes = [node.model_copy(update={"num_cpus": num_cpus}) for node in described.nodes]
        described = described.model_copy(update={"nodes": nodes})
    record: ClusterRecord | None = None
    try:
        record = bootstrap.up(described, settings, lambda: described.clock.to_clock(time.time(), speed))
        yield Client(settings)
    finally:
        import ray

        ray.shutdown()
        bootstrap.down(settings)
        shutil.rmtree(state_dir, ignore_errors=True)
    until_s = time.monotonic() + _GONE_S
    while left := [pid for pid, ticks in record.processes if start_ticks(pid) == ticks]:
        if time.monotonic() < until_s:
            time.sleep(0.2)
            continue
        raise RuntimeError(f"processes {left} of the benchmark's cluster are still there; end them by hand")


def processes(client: Client, title: str) -> list[int]:
    """Processes of the cluster whose title, as Ray gives it, begins so."""
    roots = [pid for pid, ticks in client.record.processes if start_ticks(pid) == ticks]
    return [pid for pid, _ in sorted(_with_descendants(roots)) if _title(pid).startswith(title)]


def _title(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    return ""


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
