"""The requests that a node's replicas counted, and what its agent took of them: one SQLite file beside the counts.

Replicas and agent write to it in batches, out of the way of requests and samples. It may be lost, or lack what a killed
process or a full disk kept from it: of such a request nothing is known, and nothing wrong is told.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from eco_ray.core.usage import Counted, Found, Take
from eco_ray.errors import EcoRayError

log = logging.getLogger("eco_ray.serving")

#: beside the counts; the number changes with the columns
LOG_NAME = "requests-2.db"
#: rows of each kind that a node keeps, and for how long [s]; there is no take without a request
MOST_ROWS = 200_000
KEPT_S = 86_400.0
#: rows that wait for a disk; beyond them the oldest are lost
_MOST_WAITING = 10_000
#: rows that are too old and go with one batch
_PRUNED = 100
#: rows whose ids lie together in the index: new ones and those that go are in few of its blocks then, as random ids
#: over all rows are not, which cost three times as much
_PAGE = 1_000
#: for the batch of another process [s]
_WAIT_S = 0.1

#: of a file that is no database any more
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

_TABLES = f"""
create table if not exists requests (id integer primary key, page, {", ".join(Counted._fields)});
create index if not exists requests_by_id on requests (page, request_id, tenant);
create table if not exists takes (id integer primary key, {", ".join(Take._fields)}, noted_s,
                                  unique (replica, counted_as, requests_before));
"""
_COUNTED, _TAKE = ", ".join(Counted._fields), ", ".join(Take._fields)
_NEXT = "select coalesce(max(id), 0) + 1 from requests"
_ADD = f"insert into requests (id, page, {_COUNTED}) values (?, ?, {', '.join('?' * len(Counted._fields))})"  # noqa: S608
#: an agent may take twice what it could not keep
_NOTE = f"insert or replace into takes ({_TAKE}, noted_s) values ({', '.join('?' * len(Take._fields))}, ?)"  # noqa: S608
#: the newest, as a client may give an id twice
_FIND = f"""with recursive pages (n) as (
    select max(id) / {_PAGE} from requests
    union all select n - 1 from pages where n > (select min(id) / {_PAGE} from requests)
)
select {_COUNTED} from pages cross join requests on page = n and request_id = ? and tenant = ?
where counted_s >= ? order by id desc limit 1"""  # noqa: S608
#: the take that can have a request, and whether there is one after it
_BEFORE = f"""select {_TAKE} from takes where replica = ? and counted_as = ? and requests_before < ?
order by requests_before desc limit 1"""  # noqa: S608
_AFTER = "select exists (select 1 from takes where replica = ? and counted_as = ? and requests_before >= ?)"


class RequestLog:
    """The log of one node, opened by one process. Threads may share it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._requests: deque[Counted] = deque(maxlen=_MOST_WAITING)
        self._takes: deque[tuple[Any, ...]] = deque(maxlen=_MOST_WAITING)
        self._batch: tuple[list[Any], list[Any]] = [], []
        self._file: sqlite3.Connection | None = None
        self._inode = 0
        self._lock = threading.Lock()
        self._failing = False

    def add(self, counted: Counted) -> None:
        """Remember a request; `flush` writes it."""
        self._requests.append(counted)

    def note(self, takes: Iterable[Take]) -> None:
        """Remember what is taken with a sample, before the sample is kept; `flush` writes it."""
        now_s = time.time()
        self._takes.extend((*take, now_s) for take in takes)

    def flush(self) -> bool:
        """Write what is new; False where that fails: it waits, and comes with the next one. Raises nothing."""
        with self._lock:
            requests, takes = self._batch
            _move(self._requests, requests)
            _move(self._takes, takes)
            if not requests and not takes:
                return True
            try:
                self._write(requests, takes)
            except (sqlite3.Error, OSError) as error:
                if not self._failing:
                    log.warning("requests cannot be logged in %s: %s", self._path, error)
                self._failing = True
                self._renew_if_damaged(error)
                return False
            requests.clear()
            takes.clear()
            self._failing = False
            return True

    def find(self, tenant: str, request_id: str) -> Found | None:
        """The newest request of a tenant by its id; None: none is known here. Raises EcoRayError."""
        with self._lock:
            try:
                return self._find(tenant, request_id)
            except (sqlite3.Error, OSError) as error:
                self._renew_if_damaged(error)
                raise EcoRayError(f"the log of requests {self._path} cannot be read now: {error}") from error

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None

    def _find(self, tenant: str, request_id: str) -> Found | None:
        if self._file is None and not self._path.exists():
            return None
        file = self._opened()
        row = file.execute(_FIND, (request_id, tenant, time.time() - KEPT_S)).fetchone()
        if row is None:
            return None
        counted = Counted(*row)
        place = counted.replica, counted.counted_as, counted.ordinal
        # in this order: one that has it is there before a later one is
        (passed,) = file.execute(_AFTER, place).fetchone()
        taken = file.execute(_BEFORE, place).fetchone()
        take = Take(*taken) if taken else None
        return Found(counted, take if take and counted.ordinal <= take.requests_after else None, bool(passed))

    def _write(self, requests: Sequence[Counted], takes: Sequence[tuple[Any, ...]]) -> None:
        file = self._opened()
        try:
            file.execute("begin immediate")
            (first,) = file.execute(_NEXT).fetchone()
            file.executemany(_ADD, ((n, n // _PAGE, *one) for n, one in enumerate(requests, first)))
            file.executemany(_NOTE, takes)
            for table, time_s, written in (("requests", "counted_s", requests), ("takes", "noted_s", takes)):
                if written:
                    _prune(file, table, time_s)
            file.execute("commit")
        except sqlite3.Error:
            with suppress(sqlite3.Error):  # some errors have done so
                file.execute("rollback")
            raise

    def _opened(self) -> sqlite3.Connection:
        """The file; opened anew where another one lies in its place."""
        try:
            inode = self._path.stat().st_ino
        except FileNotFoundError:
            inode = 0
        if self._file is not None:
            if inode == self._inode:
                return self._file
            self._file.close()
            self._file = None
        file = sqlite3.connect(self._path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
        try:
            file.execute("pragma journal_mode = wal")
            file.execute("pragma synchronous = normal")
            file.executescript(_TABLES)
            self._inode = self._path.stat().st_ino
        except BaseException:
            file.close()
            raise
        self._file = file
        return file

    def _renew_if_damaged(self, error: Exception) -> None:
        """Begin a new file where the old one is none."""
        # extended codes have the plain one in their last byte
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DAMAGED:
            return
        if self._file is not None:
            self._file.close()
            self._file = None
        for suffix in ("-wal", "-shm", ""):  # the journal of another file would be read as that of the new one
            with suppress(OSError):
                self._path.with_name(self._path.name + suffix).unlink()


def _move(waiting: deque[Any], batch: list[Any]) -> None:
    for _ in range(len(waiting)):
        batch.append(waiting.popleft())
    del batch[:-_MOST_WAITING]


def _prune(file: sqlite3.Connection, table: str, time_s: str) -> None:
    """Drop the oldest rows: those above the limit, and some of those that are too old."""
    file.execute(f"delete from {table} where id <= (select max(id) from {table}) - ?", (MOST_ROWS,))  # noqa: S608
    oldest = f"select id from {table} order by id limit {_PRUNED}"  # noqa: S608
    file.execute(f"delete from {table} where {time_s} < ? and id in ({oldest})", (time.time() - KEPT_S,))  # noqa: S608
