"""The database of a soak, which can be made to go away for a while: an SQLite file, or a PostgreSQL server."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import ROOT

from eco_ray.store.failures import BUSY_TIMEOUT_S

#: how long it stays away, in busy timeouts of the store: calls that wait for it must fail
AWAY = (1.1, 1.6)
#: writers wait, readers do not
_LOCK = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
time.sleep(float(sys.argv[2]))
database.execute("ROLLBACK")
"""


class LockedFile:
    """SQLite: another process keeps the database locked."""

    #: of the store; None: the default, in the state directory
    url: str | None = None
    words = "locked by another process"

    def __init__(self) -> None:
        self._locker: subprocess.Popen[bytes] | None = None
        self.path = Path()

    def begin(self, state_dir: Path) -> None:
        """The cluster is up, and its database is there."""
        self.path = state_dir / "eco_ray.db"

    @property
    def is_away(self) -> bool:
        return self._locker is not None and self._locker.poll() is None

    def go_away(self, seconds: float) -> None:
        self._locker = subprocess.Popen([sys.executable, "-c", _LOCK, str(self.path), str(seconds)])

    def wait_back(self) -> None:
        if self._locker is not None:
            self._locker.wait()

    def rows(self, sql: str) -> list[Any]:
        """What a query finds, past the store."""
        with contextlib.closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as db:
            return db.execute(sql).fetchall()


class StoppedServer:
    """PostgreSQL: the server is shut down and started again."""

    words = "PostgreSQL, stopped and started again"

    def __init__(self, server: Any) -> None:
        self._server = server
        self.url: str | None = server.new_database()
        self._resume: threading.Thread | None = None

    def begin(self, state_dir: Path) -> None:
        """Nothing is in the state directory."""

    @property
    def is_away(self) -> bool:
        return self._resume is not None and self._resume.is_alive()

    def go_away(self, seconds: float) -> None:
        self._server.pause()
        self._resume = threading.Timer(seconds, self._server.resume)
        self._resume.start()

    def wait_back(self) -> None:
        if self._resume is not None:
            self._resume.join()

    def rows(self, sql: str) -> list[Any]:
        """What a query finds, past the store."""
        return self._server.execute(str(self.url).rpartition("/")[2], sql)


Database = LockedFile | StoppedServer


@contextlib.contextmanager
def database(postgres: bool) -> Iterator[Database]:
    """The database of one soak; of PostgreSQL a server of its own, ended at the end."""
    if not postgres:
        locked = LockedFile()
        yield locked
        locked.wait_back()
        return
    sys.path.insert(0, str(ROOT / "tests"))
    from postgres_server import PostgresServer

    server = PostgresServer()
    try:
        stopped = StoppedServer(server)
        yield stopped
        stopped.wait_back()
    finally:
        server.stop()


def away_s(dice: Any) -> float:
    """How long the database stays away this time [s]."""
    return float(dice.uniform(*AWAY)) * BUSY_TIMEOUT_S
