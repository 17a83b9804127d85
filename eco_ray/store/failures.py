"""What a failure of the database means: errors of SQLite and PostgreSQL in the words of eco_ray.errors."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from eco_ray.errors import EcoRayError, NotAllowedError, UnreachableError

BUSY_TIMEOUT_S = 10.0

Meaning = tuple[type[EcoRayError], str]

BUSY: Meaning = (
    UnreachableError,
    f"another process has kept it locked for {BUSY_TIMEOUT_S:g} s: try again, or find and end that process",
)
FULL: Meaning = (EcoRayError, "its disk is full, nothing of this call was kept: free some space there and try again")
CORRUPT: Meaning = (EcoRayError, "it is damaged: restore it from a backup, or move it away to start afresh")

#: primary result code (https://www.sqlite.org/rescode.html)
SQLITE: dict[int, Meaning] = {
    sqlite3.SQLITE_FULL: FULL,
    sqlite3.SQLITE_BUSY: BUSY,
    sqlite3.SQLITE_LOCKED: BUSY,
    sqlite3.SQLITE_CORRUPT: CORRUPT,
    sqlite3.SQLITE_NOTADB: (
        EcoRayError,
        "it is not an SQLite database: give the path of another file, or move this one away",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        UnreachableError,
        "it cannot be opened: check that its folder is there and that you may read and write it",
    ),
    sqlite3.SQLITE_READONLY: (NotAllowedError, "it is read-only for you: change its owner or mode, or its disk's"),
    sqlite3.SQLITE_PERM: (NotAllowedError, "access is refused: change its owner or mode"),
    sqlite3.SQLITE_IOERR: (EcoRayError, "its disk gives errors: check the disk and its free space"),
}

#: SQLSTATE or its class (https://www.postgresql.org/docs/current/errcodes-appendix.html)
POSTGRES: dict[str, Meaning] = {
    "53100": FULL,
    "53": (UnreachableError, "the server is out of connections or memory: end other clients or raise its limits"),
    "55P03": BUSY,
    "57014": BUSY,
    "57": (UnreachableError, "the server is starting or stopping: try again when it is up"),
    "08": (UnreachableError, "the connection failed: check the address and that the server runs"),
    "28": (NotAllowedError, "the server refuses this user: check user, password and pg_hba.conf"),
    "3D": (UnreachableError, "there is no such database on the server: make it with `createdb`"),
    "42501": (NotAllowedError, "the user has no right to do this: GRANT it, or use the owner of the tables"),
    "25006": (NotAllowedError, "the server is read-only (a standby?): give the address of the primary"),
    "XX001": CORRUPT,
    "XX002": CORRUPT,
}

NO_ANSWER: Meaning = (UnreachableError, "no answer: check the address and that the server runs")
UNKNOWN: Meaning = (EcoRayError, "the call failed and nothing of it was kept: see the cause, and report it if it stays")


def translate(error: BaseException, label: str, password: str | None) -> EcoRayError:
    """The error to raise instead of one from SQLAlchemy, a driver or a socket."""
    origin = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    cls, cure = _meaning(origin)
    cause = _cause(origin)
    if password:
        cause = cause.replace(password, "***")
    return cls(f"database {label}: {cure} ({cause})")


def is_busy(error: BaseException) -> bool:
    """Whether SQLite only asks to try again."""
    origin = error.orig if isinstance(error, OperationalError) else error
    return isinstance(origin, sqlite3.Error) and _sqlite_code(origin) == sqlite3.SQLITE_BUSY


def is_out_of_range(error: DBAPIError) -> bool:
    """Whether a sum or a conversion overflowed: a value in a row cannot be."""
    origin = error.orig
    return str(origin) == "integer overflow" or _postgres_fields(origin or error).get("C") == "22003"


def _meaning(origin: BaseException) -> Meaning:
    if isinstance(origin, sqlite3.Error):
        return SQLITE.get(_sqlite_code(origin), UNKNOWN)
    if isinstance(origin, PoolTimeoutError):
        return BUSY
    state = _postgres_fields(origin).get("C", "")
    meaning = POSTGRES.get(state) or POSTGRES.get(state[:2])
    if meaning is None and not state and (isinstance(origin, OSError) or type(origin).__name__ == "InterfaceError"):
        # the network, or pg8000 about the network
        return NO_ANSWER
    return meaning or UNKNOWN


def _sqlite_code(origin: sqlite3.Error) -> int:
    # errors of the sqlite3 module itself (a closed connection, ...) carry no code
    code: int = getattr(origin, "sqlite_errorcode", -1)
    return code & 0xFF if code >= 0 else -1


def _postgres_fields(origin: BaseException) -> dict[str, str]:
    """What the server said: pg8000 passes on its fields, C is the SQLSTATE and M the message."""
    first = origin.args[0] if origin.args else None
    return first if isinstance(first, dict) else {}


def _cause(origin: BaseException) -> str:
    text = _postgres_fields(origin).get("M") or str(origin) or type(origin).__name__
    return f"{text}: {origin.__cause__}" if origin.__cause__ else text
