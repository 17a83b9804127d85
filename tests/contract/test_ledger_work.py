"""What queries of the ledger cost in a database, counted in steps of SQLite's machine: the same on every computer."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from postgres_server import PostgresServer
from store_samples import an_interval

from eco_ray.core.ledger import Correction
from eco_ray.store.sql import SqlStore

#: steps between two counts
EVERY = 1000


def steps_of(store: SqlStore, function: Callable[[], Any]) -> int:
    """Steps of SQLite's machine in a call [thousands]."""
    counted = [0]

    def count() -> int:
        counted[0] += 1
        return 0

    pooled = store._database._engine.raw_connection()
    plain: Any = pooled.driver_connection
    pooled.close()
    plain.set_progress_handler(count, EVERY)
    function()
    plain.set_progress_handler(None, EVERY)
    return counted[0]


def fill(store: SqlStore, rows: int) -> None:
    """Intervals of one second."""
    store.add_intervals([an_interval(seq) for seq in range(rows)])


def correct(store: SqlStore, rows: int) -> None:
    """Give all of them another intensity."""
    of = {"reason": "late data", "author": "me", "made_s": 1e9, "intensity_source": "x"}
    store.add_corrections(
        Correction("n1", "boot", seq, intensity_g_per_kwh=312.0, intensity_kind="average-lifecycle", **of)
        for seq in range(rows)
    )


def query_steps(folder: Path, rows: int, corrected: bool) -> dict[str, int]:
    """Steps of each query of a ledger of so many rows."""
    store = SqlStore(f"sqlite:///{folder / f'{rows}-{corrected}.db'}")
    fill(store, rows)
    if corrected:
        correct(store, rows)
    queries = {"hourly": store.hourly, "node_energy": store.node_energy, "owner_intervals": store.owner_intervals}
    steps = {name: steps_of(store, function) for name, function in queries.items()}
    store.close()
    return steps


def test_queries_of_a_ledger_that_was_corrected_as_a_whole_cost_as_many_times_more_as_it_has_rows(
    tmp_path: Path,
) -> None:
    few, many = query_steps(tmp_path, 1000, True), query_steps(tmp_path, 4000, True)
    plain = query_steps(tmp_path, 4000, False)
    for name, steps in many.items():
        assert steps < 5 * few[name], name
        assert steps < 4 * plain[name], name


def test_postgresql_needs_no_statistics_for_it(postgres_server: PostgresServer) -> None:
    store = SqlStore(postgres_server.new_database().replace("postgresql://", "postgresql+pg8000://"))

    def seconds() -> float:
        began_s = time.perf_counter()
        store.hourly(), store.node_energy()
        return time.perf_counter() - began_s

    fill(store, 5000)
    plain_s = min(seconds() for _ in range(3))
    correct(store, 5000)
    # as a join of each with each it takes 100 times as long
    assert min(seconds() for _ in range(3)) < 10 * plain_s + 0.2
    store.close()
