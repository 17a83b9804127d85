"""Several threads and processes on one store, and one of them killed."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from postgres_server import PostgresServer
from store_samples import BATCH, a_batch, a_job, an_interval

from eco_ray.core.jobs import JobState
from eco_ray.core.store_port import Store
from eco_ray.errors import EcoRayError, UnreachableError
from eco_ray.store import guards, open_store

WRITER = str(Path(__file__).parent / "store_samples.py")


def _start_writer(url: str, boot_id: str, batches: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, WRITER, url, boot_id, str(batches)], stdout=subprocess.PIPE, text=True)


def _kill(writer: subprocess.Popen[str]) -> str:
    """SIGKILL; returns what it had said and nobody had read."""
    writer.kill()
    assert writer.stdout is not None
    said = writer.stdout.read()  # `communicate` would leave out what `readline` has read ahead
    writer.wait(20)
    return said


def _count(store: Store) -> int:
    """Intervals in the store: each sample interval has one share of a job."""
    return len(store.owner_intervals("job"))


def test_threads_that_send_the_same_batches_count_each_interval_once(store_url: str) -> None:
    store = open_store(store_url)

    def send(number: int) -> int:
        store.save_jobs([a_job(f"j{number}"), a_job("shared")])
        # every batch is sent by three threads, in another order of rows
        batch = a_batch(number // 3, "boot")
        return store.add_intervals(batch[::-1] if number % 2 else batch)

    with ThreadPoolExecutor(8) as pool:
        new = sum(pool.map(send, range(30)))
    assert (new, _count(store), store.check_ledger().residual_mj) == (10 * BATCH, 10 * BATCH, 0)
    assert (store.verify_chain().entries, store.verify_chain().problems) == (10 * BATCH, ())
    assert len(store.list_jobs()) == 31
    store.close()


def test_what_a_report_reads_is_of_one_moment_while_another_process_writes(shared_url: str) -> None:
    store = open_store(shared_url)
    writer = _start_writer(shared_url, "boot", 200)
    try:
        assert writer.stdout is not None
        writer.stdout.readline()  # it writes
        for _ in range(15):
            nodes, hours, shares = store.ledger_at_once()
            total_mj = sum(row.energy_mj for row in nodes)
            assert sum(row.energy_mj for row in hours) == total_mj
            assert sum(row.energy_mj for row in shares) == sum(row.attributed_mj for row in nodes)
            time.sleep(0.02)  # a reader must not keep the writer out
    finally:
        _kill(writer)
        store.close()


def test_two_processes_that_send_the_same_batches_count_each_interval_once(shared_url: str) -> None:
    # no tables yet: both may make them at the same time
    writers = [_start_writer(shared_url, "boot", 12) for _ in range(2)]
    said = [writer.communicate(timeout=60)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    new = [int(text.splitlines()[-1].removeprefix("new ")) for text in said]
    store = open_store(shared_url)
    assert (sum(new), _count(store), store.check_ledger().residual_mj) == (12 * BATCH, 12 * BATCH, 0)
    assert (store.verify_chain().entries, store.verify_chain().problems) == (12 * BATCH, ())
    assert len(store.load_jobs()) == 12
    store.close()


def test_a_reader_sees_whole_batches_while_another_process_writes(shared_url: str) -> None:
    open_store(shared_url).close()
    # a free writer would outgrow the reader, whose every look takes as long as there are rows
    writer = subprocess.Popen(
        [sys.executable, WRITER, shared_url, "boot", "100000", "when-told"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    reader = open_store(shared_url, create=False)
    told, seen = 0, [0]
    try:
        assert writer.stdin is not None
        give_up = time.monotonic() + 60
        while len(set(seen)) < 20 and writer.poll() is None:
            assert time.monotonic() < give_up, f"readings did not grow: {seen[-20:]}"
            while told < seen[-1] // BATCH + 6:  # so that it writes while the lines below read
                writer.stdin.write("\n")
                told += 1
            writer.stdin.flush()
            (sums, parts) = (reader.node_energy(), reader.owner_intervals("job"))
            assert reader.check_ledger().residual_mj == 0
            assert reader.verify_chain().ok
            assert sum(node.energy_mj for node in sums) % (BATCH * 50_000) == 0
            assert len(parts) % BATCH == 0
            assert len(parts) >= seen[-1]
            seen.append(len(parts))
            reader.list_jobs()
        assert writer.poll() is None
    finally:
        _kill(writer)
        reader.close()


@pytest.mark.parametrize("wait_s", [0.0, 0.013, 0.031])
def test_a_killed_writer_loses_no_committed_batch_and_leaves_no_half(shared_url: str, wait_s: float) -> None:
    writer = _start_writer(shared_url, "boot", 100_000)
    assert writer.stdout is not None
    for _ in range(5):
        writer.stdout.readline()
    time.sleep(wait_s)
    committed = 5 + len(_kill(writer).splitlines())
    store = open_store(shared_url)
    count = _count(store)
    assert count % BATCH == 0
    # one more than it reported may have been committed before it could say so
    assert committed * BATCH <= count <= (committed + 1) * BATCH
    assert store.check_ledger().residual_mj == 0
    assert len(store.load_jobs([JobState.QUEUED])) in (committed, committed + 1)
    # and the store works on: what was sent before is known, the rest is taken
    assert store.add_intervals([*a_batch(0, "boot"), an_interval(0, boot_id="next")]) == 1
    assert store.verify_chain().ok
    store.close()


def test_a_reader_is_not_blocked_and_a_second_writer_waits_then_gives_up(
    shared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eco_ray.store.database.BUSY_TIMEOUT_S", 0.3)
    from eco_ray.store.database import Database

    holder = Database(_sql_url(shared_url), create=True)
    store = open_store(shared_url)
    with holder.writing():
        assert store.list_jobs() == []
        with pytest.raises(UnreachableError, match=r"another process has kept it locked for .* s: try again"):
            store.save_jobs([a_job()])
    store.save_jobs([a_job()])
    assert store.get_job("train-1") == a_job()
    store.close()
    holder.close()


def _sql_url(url: str) -> str:
    return url.replace("postgresql://", "postgresql+pg8000://")


def test_damage_of_the_ledger_shows_as_a_residual(shared_url: str) -> None:
    store = open_store(shared_url)
    store.add_intervals(a_batch(0, "boot"))
    from eco_ray.store.database import Database

    outside = Database(_sql_url(shared_url), create=False)
    with outside.writing() as connection:
        guards.take_down(connection)
        connection.exec_driver_sql("UPDATE shares SET energy_mj = energy_mj + 7 WHERE id IN (1, 3)")
        connection.exec_driver_sql("UPDATE intervals SET unallocated_mj = unallocated_mj - 1 WHERE seq = 9")
        connection.exec_driver_sql("DELETE FROM shares WHERE interval_id IN (SELECT id FROM intervals WHERE seq = 12)")
    assert store.check_ledger().residual_mj == 7 + 7 + 1 + 25_000
    outside.close()
    store.close()


def test_a_database_of_a_newer_schema_is_refused(shared_url: str) -> None:
    store = open_store(shared_url)
    from eco_ray.store.database import Database

    outside = Database(_sql_url(shared_url), create=False)
    with outside.writing() as connection:
        connection.exec_driver_sql("UPDATE meta SET value = '8' WHERE key = 'schema_version'")
    with pytest.raises(EcoRayError, match=r"has schema 8, this eco-ray knows up to 7: upgrade eco-ray, or give"):
        open_store(shared_url)
    with outside.writing() as connection:
        connection.exec_driver_sql("DELETE FROM meta")
    with pytest.raises(EcoRayError, match="table 'meta' without eco-ray's schema version: it belongs to another"):
        open_store(shared_url)
    outside.close()
    store.close()


def test_a_store_outlives_the_connections_that_its_server_ends(
    postgres_server: PostgresServer, capfd: pytest.CaptureFixture[str]
) -> None:
    store = open_store(postgres_server.new_database())
    store.save_jobs([a_job()])
    # what a restart of the server does to its clients
    end_all = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'eco-ray'"
    for number in range(5):
        postgres_server.execute("postgres", end_all)
        store.save_jobs([a_job(f"j{number}")])
    assert len(store.load_jobs()) == 6
    assert capfd.readouterr() == ("", "")
    store.close()


def test_a_server_that_stops_is_unreachable_and_keeps_what_was_committed(postgres_server: PostgresServer) -> None:
    store = open_store(postgres_server.new_database())
    store.add_intervals(a_batch(0, "boot"))
    postgres_server.pause()
    try:
        with pytest.raises(UnreachableError, match="check the address and that the server runs"):
            store.add_intervals(a_batch(1, "boot"))
    finally:
        postgres_server.resume()
    assert store.add_intervals([*a_batch(0, "boot"), *a_batch(1, "boot")]) == BATCH
    store.close()
