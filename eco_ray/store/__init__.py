"""Jobs, ledger and settings of a cluster in a database: SQLite by default, PostgreSQL by URL, memory for tests.

Importing this package is cheap: SQLAlchemy is imported when a SQL database is opened, pg8000 when it is PostgreSQL.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from eco_ray.errors import UsageError
from eco_ray.store.chain import verify_export

if TYPE_CHECKING:
    from eco_ray.core.store_port import Store

__all__ = ["open_store", "verify_export"]

#: what people write for PostgreSQL; all of it goes through pg8000, the one driver that the contract tests run on
POSTGRES_SCHEMES = ("postgresql", "postgres", "postgresql+pg8000")
ACCEPTED = "a path, sqlite:///PATH, postgresql://USER@HOST/DATABASE or memory://"


def open_store(url_or_path: str, *, create: bool = True) -> Store:
    """Open the store at a URL or at the path of an SQLite file, and make its tables if they are not there.

    `create=False` is for commands that only look: where nothing is, they get UnreachableError and leave nothing behind.
    """
    scheme, separator, rest = url_or_path.partition("://")
    if not separator:
        if not url_or_path or url_or_path == ":memory:":
            raise UsageError(f"no database at {url_or_path!r}: give {ACCEPTED}")
        return _open_sqlite(Path(url_or_path).expanduser(), create)
    if scheme == "memory":
        from eco_ray.store.memory import MemoryStore

        return MemoryStore()
    if scheme == "sqlite":
        # as in SQLAlchemy: sqlite:///relative.db and sqlite:////absolute.db
        if not rest.startswith("/") or rest in ("/", "/:memory:") or "?" in rest:
            raise UsageError(f"no plain path in {url_or_path!r}: give {ACCEPTED}")
        return _open_sqlite(Path(rest[1:]).expanduser(), create)
    if scheme in POSTGRES_SCHEMES:
        from eco_ray.store.sql import SqlStore

        return SqlStore(f"postgresql+pg8000://{rest}", create=create)
    raise UsageError(f"no store for {scheme}:// URLs: give {ACCEPTED}")


def _open_sqlite(path: Path, create: bool) -> Store:
    from sqlalchemy import URL

    from eco_ray.store.sql import SqlStore

    return SqlStore(URL.create("sqlite", database=str(path)), create=create)
