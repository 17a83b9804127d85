"""One database: how it is opened, what a transaction is, and the schema check. SqlStore says what goes in."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, select
from sqlalchemy.exc import ArgumentError, DisconnectionError, SQLAlchemyError

from eco_ray.errors import EcoRayError, NotAllowedError, UnreachableError, UsageError
from eco_ray.store import tables, upgrade
from eco_ray.store.failures import BUSY_TIMEOUT_S, is_busy, translate

#: any number, the same in all versions: writers of one database queue on it, as they do on an SQLite file
ADVISORY_LOCK = 0xEC0_4A7
#: longest wait for the network [s]; above BUSY_TIMEOUT_S, so that a lock is reported as a lock
NETWORK_TIMEOUT_S = 30.0
_WRITE = "eco_ray_write"


class Database:
    """Connections to one database, made ready for use. Raises only errors of eco_ray.errors."""

    def __init__(self, url: str | URL, *, create: bool) -> None:
        parsed = _parse(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self._password = parsed.password
        if self.is_sqlite:
            path = Path(parsed.database or "").absolute()
            #: names the database in messages, without a password
            self.label = str(path)
            _prepare_file(path, create)
            self._engine = _sqlite_engine(path)
        else:
            self.label = URL.create(
                "postgresql", parsed.username, host=parsed.host, port=parsed.port, database=parsed.database
            ).render_as_string()
            self._engine = _postgres_engine(parsed)
        try:
            self._prepare_schema(create)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database and blocks nobody."""
        with self._failures(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """The only writing transaction of the moment, committed at the end of the block or not at all."""
        with self._failures(), self._engine.connect() as plain:
            connection = plain.execution_options(**{_WRITE: True})
            with connection.begin():
                yield connection

    def close(self) -> None:
        """Release connections."""
        self._engine.dispose()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise translate(error, self.label, self._password) from error

    def _prepare_schema(self, create: bool) -> None:
        with self._failures():
            if self.is_sqlite:
                _use_wal(self._engine, self.label)
        with self.reading() as connection:
            version = self._schema_version(connection)
        if version is None:
            if not create:
                raise UnreachableError(f"database {self.label} holds no eco-ray tables yet: start a cluster first")
            version = self._create_tables()
        if version < tables.SCHEMA_VERSION:
            version = self._upgrade()
        if version > tables.SCHEMA_VERSION:
            raise EcoRayError(
                f"database {self.label} has schema {version}, this eco-ray knows up to {tables.SCHEMA_VERSION}: "
                "upgrade eco-ray, or give another database"
            )

    def _create_tables(self) -> int:
        with self.writing() as connection:
            # another process may have been faster
            version = self._schema_version(connection)
            if version is None:
                tables.metadata.create_all(connection)
                version = tables.SCHEMA_VERSION
                connection.execute(tables.meta.insert(), {"key": tables.SCHEMA_KEY, "value": str(version)})
                upgrade.prepare_new(connection)
        return version

    def _upgrade(self) -> int:
        with self.writing() as connection:
            # another process may have been faster
            version = self._schema_version(connection) or 0
            return upgrade.upgrade(connection, version, self.label) if version < tables.SCHEMA_VERSION else version

    def _schema_version(self, connection: Connection) -> int | None:
        there = inspect(connection)
        if not there.has_table(tables.meta.name):
            return None
        columns = {column["name"] for column in there.get_columns(tables.meta.name)}
        if columns >= {"key", "value"}:
            query = select(tables.meta.c.value).where(tables.meta.c.key == tables.SCHEMA_KEY)
            text = connection.execute(query).scalar()
            if text is not None and text.isdecimal():
                return int(json.loads(text))
        raise EcoRayError(
            f"database {self.label} has a table {tables.meta.name!r} without eco-ray's schema version: it belongs to "
            "another program or is damaged; give another database"
        )


def _parse(url: str | URL) -> URL:
    """The URL's parts. An error shows none of them: with an unescaped @ or / the password lands in any part."""
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite" or not set("@/") & set(parsed.database or ""):
            return parsed
    except (ArgumentError, ValueError):
        pass
    raise UsageError(
        "the database URL cannot be read: give postgresql://USER:PASSWORD@HOST:PORT/DATABASE, and write special "
        "characters of the password as %XX"
    )


def _prepare_file(path: Path, create: bool) -> None:
    """Make the file (0600) and its folders (0700): the ledger says who ran what and when."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder: give the path of a database file, e.g. {path / 'eco-ray.db'}")
    if path.exists():
        return
    if not create:
        raise UnreachableError(f"no database at {path}: start a cluster first, or give the path of its database")
    try:
        for folder in reversed([parent for parent in path.parents if not parent.exists()]):
            folder.mkdir(mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except PermissionError as error:
        raise NotAllowedError(f"cannot make {path}: {error.strerror}; give a path that you may write") from error
    except OSError as error:
        raise EcoRayError(f"cannot make {path}: {error.strerror}; free the disk or give another path") from error


def _sqlite_engine(path: Path) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
        hide_parameters=True,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        # no implicit BEGIN of the sqlite3 module: `begin` below says when and how
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys=ON")
        # in WAL mode NORMAL loses no commit when a process dies, and stays consistent when the power goes
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # a writer takes its lock at once: a reader that turns writer may fail with SQLITE_BUSY without any waiting
        writes = connection.get_execution_options().get(_WRITE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _use_wal(engine: Engine, label: str) -> None:
    """Readers and a writer at the same time. The mode is kept in the file; the change needs the file for a moment."""
    give_up = time.monotonic() + BUSY_TIMEOUT_S
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        while True:
            try:
                mode = cursor.execute("PRAGMA journal_mode").fetchone()[0]
                if mode != "wal":
                    mode = cursor.execute("PRAGMA journal_mode=WAL").fetchone()[0]
                break
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() > give_up:
                    raise
                time.sleep(0.02)
    finally:
        connection.close()
    if mode != "wal":
        raise EcoRayError(
            f"database {label}: SQLite's journal is {mode!r} and cannot become 'wal' on this file system (a network "
            "disk?); keep the state folder on a local disk, or use PostgreSQL"
        )


def _postgres_engine(url: URL) -> Engine:
    query = dict(url.query)
    ssl_context = _ssl_context(query.pop("sslmode", "prefer"))
    if query:
        raise UsageError("the database URL has options besides sslmode, the only one that is known: leave them out")
    try:
        engine = create_engine(
            url.set(query={}),
            connect_args={"timeout": NETWORK_TIMEOUT_S, "ssl_context": ssl_context, "application_name": "eco-ray"},
            client_encoding="utf8",
            hide_parameters=True,
        )
    except ModuleNotFoundError as error:
        raise UsageError(
            f"a postgresql:// database needs {error.name}, which is not installed: pip install eco-ray[postgres]"
        ) from error
    driver_error = engine.dialect.loaded_dbapi.Error
    pool_log = logging.getLogger("sqlalchemy.pool")
    if pool_log.level == logging.NOTSET:
        # a lost connection that cannot say goodbye is no news: the call that needed it raises
        pool_log.setLevel(logging.CRITICAL)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"SET lock_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
        cursor.close()
        connection.commit()

    @event.listens_for(engine, "checkout")
    def check(connection: Any, record: Any, proxy: Any) -> None:
        # instead of pool_pre_ping, which takes no OSError for a lost connection; pg8000 raises it for a reset one
        try:
            # outside of a transaction, whose level is set by its first statement
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute("SELECT 1")
            cursor.close()
            connection.autocommit = False
        except (driver_error, OSError) as error:
            raise DisconnectionError(str(error)) from error

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get(_WRITE, False):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")
        else:
            # all statements of a reading transaction see one state, as they do on SQLite
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")

    return engine


def _ssl_context(mode: object) -> ssl.SSLContext | bool | None:
    """What pg8000 wants for libpq's words: None tries TLS first, True insists on it; neither checks a certificate."""
    if mode in ("verify-ca", "verify-full"):
        context = ssl.create_default_context()
        context.check_hostname = mode == "verify-full"
        return context
    modes = {"disable": False, "prefer": None, "require": True}
    if mode not in modes:
        raise UsageError(f"sslmode of the database URL is none of {', '.join(modes)}, verify-ca, verify-full")
    return modes[str(mode)]
