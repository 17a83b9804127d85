"""What the benchmarks share: a cluster of their own, and what `printed` has."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from printed import ROOT, describe_run, median, quantile, run_tables, saved_output, table, verdict

from eco_ray.cluster_file import load_cluster_file
from eco_ray.config import load_settings
from eco_ray.on_ray import bootstrap
from eco_ray.on_ray.client import Client
from eco_ray.on_ray.local_cluster import ClusterRecord, _with_descendants, free_port, start_ticks

__all__ = ["ROOT", "cluster", "processes"]
__all__ += ["describe_run", "median", "quantile", "run_tables", "saved_output", "table", "verdict"]
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
