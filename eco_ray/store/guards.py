"""Triggers that refuse changes to rows of the ledger, and rows outside its chain: against mistakes.

Against intent there is the chain.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection

#: what is only ever appended to
GUARDED = ("intervals", "shares", "corrections", "correction_shares", "transfers")
_SAYS = "rows of the ledger are never changed or deleted: add a correction (eco-ray ledger correct)"
_FUNCTION = "eco_ray_append_only"
#: its column has a default, for the rows of an upgrade: an older eco-ray that still runs would write past the chain
_HASHED = "intervals"
_NO_HASH = (
    "this row of the ledger has no hash: an older eco-ray still writes to a database that a newer one has upgraded; "
    "stop the old controller (eco-ray down) and start the new one (eco-ray up)"
)
_HASH_FUNCTION = "eco_ray_has_hash"


def put_up(connection: Connection) -> None:
    """Make the triggers."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(
            f"CREATE TRIGGER IF NOT EXISTS guard_{_HASHED}_insert BEFORE INSERT ON {_HASHED} WHEN NEW.hash = '' "
            f"BEGIN SELECT RAISE(ABORT, '{_NO_HASH}'); END"
        )
        append_only(connection, GUARDED)
        return
    for name, says in ((_FUNCTION, _SAYS), (_HASH_FUNCTION, _NO_HASH)):
        connection.exec_driver_sql(
            f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{says}'; END $$"
        )
    connection.exec_driver_sql(
        f"CREATE TRIGGER guard_{_HASHED}_insert BEFORE INSERT ON {_HASHED} "
        f"FOR EACH ROW WHEN (NEW.hash = '') EXECUTE FUNCTION {_HASH_FUNCTION}()"
    )
    append_only(connection, GUARDED)


def append_only(connection: Connection, tables: Iterable[str]) -> None:
    """Make the triggers of some tables that refuse changes."""
    for table in tables:
        if connection.dialect.name == "sqlite":
            for event in ("update", "delete"):
                connection.exec_driver_sql(
                    f"CREATE TRIGGER IF NOT EXISTS guard_{table}_{event} BEFORE {event.upper()} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{_SAYS}'); END"
                )
        else:
            connection.exec_driver_sql(
                f"CREATE TRIGGER guard_{table} BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
                f"FOR EACH STATEMENT EXECUTE FUNCTION {_FUNCTION}()"
            )


def take_down(connection: Connection) -> None:
    """Remove the triggers; the chain still tells what was changed."""
    on = "" if connection.dialect.name == "sqlite" else f" ON {_HASHED}"
    connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS guard_{_HASHED}_insert{on}")
    for table in GUARDED:
        if connection.dialect.name == "sqlite":
            for event in ("update", "delete"):
                connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS guard_{table}_{event}")
        else:
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS guard_{table} ON {table}")
