"""What the ledger costs: appending as three agents at 1 Hz do, appending in bulk, verifying and summing.

    python benchmarks/ledger.py [--rows 100000] [--database URL]

Prints CPU time of this process and wall time; with PostgreSQL the server's work is in the wall time only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eco_ray.core.ledger import Interval, Sample, Share
from eco_ray.core.units import Nature
from eco_ray.store import open_store

T0_S = 1_763_800_000.0
SECONDS = 300
BATCH = 120


def interval(node: int, seq: int) -> Interval:
    start_s = T0_S + seq
    sample = Sample(
        f"node-{node}", "boot", seq, start_s, start_s + 1.0, 50_000 + seq % 977, 20_000, Nature.MEASURED, "rapl", 0.05
    )
    shares = (Share("job", f"job-{seq // 3600}", 1, 20_000), Share("model", "digits:3", 0, 5_000))
    return Interval(sample, "DE", 1.2, shares, 300.0 + seq % 53, "profile")


def timed(what: str, count: int, work: Callable[[], Any]) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"  {what:<44}{count:>8} rows  wall {wall:7.2f} s  CPU {cpu:7.2f} s  {count / wall:10.0f} rows/s")


def measure(url: str, rows: int) -> None:
    store = open_store(url)

    def live() -> None:
        for second in range(SECONDS):
            for node in range(3):
                store.add_intervals([interval(node, second)])

    def bulk() -> None:
        for first in range(0, rows, BATCH):
            store.add_intervals([interval(3, first + i) for i in range(BATCH)])

    timed("append, 3 nodes x 1 Hz, one row a call", 3 * SECONDS, live)
    timed(f"append, {BATCH} rows a call", rows, bulk)
    timed("sums of every row (check_ledger)", rows, store.check_ledger)
    if hasattr(store, "verify_chain"):
        timed("the whole chain (ledger verify)", rows, store.verify_chain)
    timed("sums by node", rows, store.node_energy)
    if hasattr(store, "hourly"):
        timed("hourly rows (ledger query)", rows, store.hourly)
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--database", help="a fresh database; default: SQLite, then a PostgreSQL of our own")
    given = parser.parse_args()
    if given.database:
        measure(given.database, given.rows)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        print("SQLite")
        measure(f"sqlite:///{path}", given.rows)
        print(f"  {path.stat().st_size / (given.rows + 3 * SECONDS):.0f} bytes a row with its two shares")
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from postgres_server import CannotStart, PostgresServer

    try:
        server = PostgresServer()
    except CannotStart as reason:
        print(f"no PostgreSQL: {reason}")
        return
    try:
        print("PostgreSQL (fsync off)")
        measure(server.new_database(), given.rows)
    finally:
        server.stop()


if __name__ == "__main__":
    main()
