"""Triggers that refuse changes to rows of the ledger and the audit log, and rows outside the chain: against mistakes.

Against intent there is the chain.
"""

from __future__ import annotations

from collections.abc import Container

from sqlalchemy import Connection

#: what of the ledger is only ever appended to
GUARDED = ("intervals", "shares", "corrections", "correction_shares", "transfers", "avoided")
_SAYS = "rows of the ledger are never changed or deleted: add a correction (eco-ray ledger correct)"
_FUNCTION = "eco_ray_append_only"
AUDIT = "audit"
_AUDIT_SAYS = "rows of the audit log are never changed or deleted"
_AUDIT_FUNCTION = "eco_ray_audit_append_only"
#: function on PostgreSQL and what it says, by table
_APPEND_ONLY = {**dict.fromkeys(GUARDED, (_FUNCTION, _SAYS)), AUDIT: (_AUDIT_FUNCTION, _AUDIT_SAYS)}
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
        append_only(connection, _APPEND_ONLY)
        return
    _make_function(connection, _HASH_FUNCTION, _NO_HASH)
    connection.exec_driver_sql(
        f"CREATE TRIGGER guard_{_HASHED}_insert BEFORE INSERT ON {_HASHED} "
        f"FOR EACH ROW WHEN (NEW.hash = '') EXECUTE FUNCTION {_HASH_FUNCTION}()"
    )
    append_only(connection, _APPEND_ONLY)


def append_only(connection: Connection, tables: Container[str]) -> None:
    """Make the triggers that refuse changes, of those of these tables that are only appended to."""
    for table, (function, says) in _APPEND_ONLY.items():
        if table not in tables:
            continue
        if connection.dialect.name == "sqlite":
            for event in ("update", "delete"):
                connection.exec_driver_sql(
                    f"CREATE TRIGGER IF NOT EXISTS guard_{table}_{event} BEFORE {event.upper()} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{says}'); END"
                )
        else:
            _make_function(connection, function, says)
            connection.exec_driver_sql(
                f"CREATE TRIGGER guard_{table} BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
                f"FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
            )


def _make_function(connection: Connection, name: str, says: str) -> None:
    connection.exec_driver_sql(
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{says}'; END $$"
    )


def take_down(connection: Connection) -> None:
    """Remove the triggers; the chain still tells what was changed."""
    on = "" if connection.dialect.name == "sqlite" else f" ON {_HASHED}"
    connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS guard_{_HASHED}_insert{on}")
    for table in _APPEND_ONLY:
        if connection.dialect.name == "sqlite":
            for event in ("update", "delete"):
                connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS guard_{table}_{event}")
        else:
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS guard_{table} ON {table}")
