"""The log of requests: found again by their tenant, whoever is killed, and never in the way of a request."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from timing import quiet_seconds_of
from usage_cases import all_counted, counted, take_of

from eco_ray.core.footprint import Footprint, Signal
from eco_ray.core.requests import ServiceUse
from eco_ray.core.units import Nature
from eco_ray.core.usage import Found
from eco_ray.errors import EcoRayError
from eco_ray.on_ray import request_log
from eco_ray.on_ray.request_log import KEPT_S, LOG_NAME, RequestLog
from eco_ray.on_ray.served import Tally

NOW_S = time.time()
ESTIMATE = Footprint(1.5, 0.25, 0.1, 15.0, Signal("DE", 300.0, "test"), Nature.MODELLED)


def a_log(folder: Path) -> RequestLog:
    return RequestLog(folder / LOG_NAME)


def ids(log: RequestLog, *request_ids: str) -> list[bool]:
    return [log.find("vision", request_id) is not None for request_id in request_ids]


def test_a_request_is_found_by_its_tenant_alone_in_other_processes_too(tmp_path: Path) -> None:
    writer, reader = a_log(tmp_path), a_log(tmp_path)
    assert reader.find("vision", "id-1") is None
    assert not (tmp_path / LOG_NAME).exists()
    one = counted(counted_s=NOW_S)
    writer.add(one)
    assert writer.flush()
    assert reader.find("vision", "id-1") == Found(one, None, False)
    assert reader.find("text", "id-1") is reader.find("", "id-1") is reader.find("vision", "id-2") is None
    again = one._replace(ordinal=7, carbon_g=None, intensity_g_per_kwh=None)  # its client gave the id twice
    writer.add(again)
    writer.flush()
    assert reader.find("vision", "id-1") == Found(again, None, False)


def test_the_take_that_has_a_request_is_found_and_whether_it_was_passed(tmp_path: Path) -> None:
    log, requests = a_log(tmp_path), [one._replace(counted_s=NOW_S) for one in all_counted([1.0] * 9)]
    for one in requests:
        log.add(one)
    first, third = take_of(requests[:3]), take_of(requests[5:7], 1e9 + 2)
    log.note([first, third, take_of(requests)._replace(replica="r2"), take_of(requests)._replace(counted_as="text")])
    assert log.flush()
    found = {one.ordinal: log.find("vision", one.request_id) for one in requests}
    assert [found[n] for n in (1, 3)] == [Found(requests[n - 1], first, True) for n in (1, 3)]
    assert [found[n] for n in (4, 5)] == [Found(requests[n - 1], None, True) for n in (4, 5)]
    assert [found[n] for n in (6, 7)] == [Found(requests[n - 1], third, False) for n in (6, 7)]
    assert [found[n] for n in (8, 9)] == [Found(requests[n - 1], None, False) for n in (8, 9)]
    again = take_of(requests[5:8], 1e9 + 9)  # the sample of the one before was not kept
    log.note([again])
    log.flush()
    assert log.find("vision", "id-6") == Found(requests[5], again, False)


def test_old_rows_and_those_above_the_limit_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "MOST_ROWS", 50)
    log, requests = a_log(tmp_path), all_counted([1.0] * 200)
    for one in requests[:10]:
        log.add(one._replace(counted_s=NOW_S - KEPT_S - 60))
    log.add(requests[10]._replace(counted_s=NOW_S))
    log.flush()
    assert ids(log, "id-10", "id-11") == [False, True]
    file = sqlite3.connect(tmp_path / LOG_NAME)
    assert file.execute("select count(*) from requests").fetchone() == (1,)
    for one in requests[11:]:
        log.add(one._replace(counted_s=NOW_S))
        log.note([take_of([one])])
        log.flush()
    assert ids(log, "id-11", "id-150", "id-151", "id-200") == [False, False, True, True]
    assert file.execute("select count(*) from requests").fetchone() == (50,)
    assert file.execute("select count(*) from takes").fetchone() == (50,)
    file.close()


def test_threads_and_processes_write_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    logs = [a_log(tmp_path), a_log(tmp_path)]

    def write(name: int) -> None:
        for n in range(200):
            logs[name % 2].add(counted(n + 1, request_id=f"{name}-{n}", counted_s=NOW_S))
            if n % 10 == 9:
                logs[name % 2].flush()

    threads = [threading.Thread(target=write, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    deadline = time.monotonic() + 5
    while False in [log.flush() for log in logs] and time.monotonic() < deadline:  # one may have waited too long
        pass
    assert all(ids(logs[0], *(f"{name}-{n}" for name in range(6) for n in range(200))))


_CHILD = """
import itertools, sys
from pathlib import Path
from usage_cases import counted
from eco_ray.on_ray.request_log import RequestLog
import time
log = RequestLog(Path(sys.argv[1]))
for n in itertools.count(1):
    log.add(counted(n, n - 1.0, float(n), counted_s=time.time()))
    if n % 5 == 0 and log.flush():
        print(n, flush=True)
"""


def test_what_a_killed_replica_had_written_is_there_and_the_rest_unknown(tmp_path: Path) -> None:
    path = tmp_path / LOG_NAME
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    child = subprocess.Popen([sys.executable, "-c", _CHILD, str(path)], stdout=subprocess.PIPE, text=True, env=env)
    assert child.stdout is not None
    told = [int(child.stdout.readline()) for _ in range(50)]
    child.send_signal(signal.SIGKILL)
    child.wait()
    told += [int(line) for line in child.stdout.read().split("\n")[:-1]]
    child.stdout.close()
    log = RequestLog(path)
    for n in (1, told[-1]):
        found = log.find("vision", f"id-{n}")
        assert found is not None
        assert found.counted[5:8] == (n, n - 1.0, float(n))
    assert ids(log, f"id-{told[-1] + 6}") == [False]
    log.add(counted(1, request_id="new", counted_s=time.time()))
    assert log.flush()
    assert ids(log, "new", "id-1") == [True, True]
    file = sqlite3.connect(path)
    assert file.execute("pragma integrity_check").fetchone() == ("ok",)
    file.close()


def test_a_full_disk_raises_nothing_and_what_waits_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(request_log, "_MOST_WAITING", 100)
    log = a_log(tmp_path)
    log.flush()
    log.add(counted(request_id="before", counted_s=NOW_S))
    assert log.flush()
    assert log._file is not None
    pages = log._file.execute("pragma page_count").fetchone()[0]
    log._file.execute(f"pragma max_page_count = {pages}")  # as a disk without room
    with caplog.at_level(logging.WARNING):
        for n in range(1, 501):
            log.add(counted(n, counted_s=NOW_S))
            if n % 100 == 0:
                assert not log.flush()
    assert [record.getMessage().count("database or disk is full") for record in caplog.records] == [1]
    assert ids(log, "before", "id-500") == [True, False]
    log._file.execute("pragma max_page_count = 1000000")
    assert log.flush()
    assert ids(log, "before", "id-400", "id-401", "id-500") == [True, False, True, True]


@pytest.mark.parametrize("where", ["nowhere", "folder"])
def test_a_place_that_cannot_be_written_raises_nothing(tmp_path: Path, where: str) -> None:
    path = tmp_path / "no" / LOG_NAME if where == "nowhere" else tmp_path
    log = RequestLog(path)
    log.add(counted(counted_s=NOW_S))
    assert not log.flush()
    log.close()


@pytest.mark.parametrize("meets", ["reader", "writer"])
def test_a_damaged_file_is_begun_anew_by_everybody(tmp_path: Path, meets: str) -> None:
    one, other = a_log(tmp_path), a_log(tmp_path)
    for log, name in ((one, "a"), (other, "b")):
        log.add(counted(request_id=name, counted_s=NOW_S))
        assert log.flush()
    one.close()
    other.close()
    (tmp_path / LOG_NAME).write_bytes(b"no database " * 1000)
    one.add(counted(request_id="c", counted_s=NOW_S))
    if meets == "writer":
        assert not one.flush()
    else:
        with pytest.raises(EcoRayError, match="cannot be read now"):
            other.find("vision", "a")
    assert one.flush()
    assert ids(other, "a", "b", "c") == [False, False, True]
    (tmp_path / LOG_NAME).unlink()  # with the folder of a cluster that went down
    other.add(counted(request_id="d", counted_s=NOW_S))
    assert other.flush()
    assert ids(one, "c", "d") == [False, True]


def test_a_replica_logs_what_it_counts_as_it_counts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eco_ray.on_ray.served.MAX_TENANTS", 1)
    tally = Tally("app", "r1", 0.25, model="m:1")
    tally.add(ServiceUse("early", "vision", 0.5, estimate=ESTIMATE), 1)  # its disk is not known yet
    tally.keep_in(tmp_path)
    tally.add(ServiceUse("a", "vision", 2.0, 0.25, ESTIMATE), 1)
    tally.add(ServiceUse("b", "text", 1.0, estimate=ESTIMATE), 1)
    tally.add(ServiceUse("c", "vision", 1.0), 1)
    tally.write()
    log = a_log(tmp_path)
    a, b = log.find("vision", "a"), log.find("text", "b")
    assert a is not None
    assert b is not None
    assert a.counted[:-1] == (
        *("vision", "a", "m:1", "r1", "vision", 2, 0.5, 1.0),
        *(1.5, 0.25, "DE", 300.0, "modelled", "cpu-time"),
    )
    assert abs(a.counted.counted_s - time.time()) < 60
    assert b.counted[:8] == ("text", "b", "m:1", "r1", "", 1, 0.0, 1.0)
    assert ids(log, "early", "c") == [False, False]


def test_to_log_a_request_costs_microseconds(tmp_path: Path) -> None:
    logging_tally, plain = Tally("app", "r1", 0.25, model="m:1"), Tally("app", "r2", 0.25)
    logging_tally._log = a_log(tmp_path)
    uses = [ServiceUse(os.urandom(16).hex(), "vision", 0.001, estimate=ESTIMATE) for _ in range(1000)]

    def count(tally: Tally, times: int = 5) -> None:
        for _ in range(times):
            for use in uses:
                tally.add(use, 1)
            if tally._log is not None:
                assert tally._log.flush()

    costs_s = [
        quiet_seconds_of(lambda: count(logging_tally)) - quiet_seconds_of(lambda: count(plain)) for _ in range(5)
    ]
    assert min(costs_s) / 5000 < 15e-6
