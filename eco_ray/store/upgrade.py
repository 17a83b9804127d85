"""From an older schema to this one, within one writing transaction: all of it is kept, or none."""

from __future__ import annotations

import json
import logging

from sqlalchemy import Connection, Table, bindparam, text, update
from sqlalchemy.schema import CreateColumn, CreateIndex

from eco_ray.errors import EcoRayError
from eco_ray.store import chain, guards, tables
from eco_ray.store.balance import Head
from eco_ray.store.ledger_chain import entries

log = logging.getLogger("eco_ray.store")

#: by the schema that they were not yet in; what schema 1 had no table for is made whole
_NEW_COLUMNS: dict[int, dict[Table, tuple[str, ...]]] = {
    1: {
        tables.intervals: ("gpu_mj", "intensity_kind", "intensity_nature", "intensity_age_s", "hash"),
        tables.shares: ("tenant", "part", "requests", "items"),
    },
    2: {tables.shares: ("part", "requests", "items"), tables.correction_shares: ("part",)},
}
#: by the schema that they came with
_NEW_TABLES: dict[int, tuple[Table, ...]] = {
    5: (tables.transfers,),
    6: (tables.api_keys, tables.audit),
    7: (tables.avoided,),
}
#: rows whose hashes are written at once
_BATCH = 5_000


def prepare_new(connection: Connection) -> None:
    """What a fresh database has beside its tables."""
    connection.execute(tables.meta.insert(), {"key": tables.HEAD_KEY, "value": Head().text()})
    guards.put_up(connection)


def upgrade(connection: Connection, version: int, label: str) -> int:
    """Bring the tables from `version` to SCHEMA_VERSION; returns that."""
    log.info("database %s is upgraded from schema %d to %d", label, version, tables.SCHEMA_VERSION)
    for table, names in _NEW_COLUMNS.get(version, {}).items():
        for name in names:
            column = CreateColumn(table.c[name]).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column}")
    if version == 1:
        _chain_the_ledger(connection, label)
    else:
        new = [table for schema, made in _NEW_TABLES.items() if schema > version for table in made]
        for table in new:
            table.create(connection)
        guards.append_only(connection, {table.name for table in new})
    for index in tables.intervals.indexes:
        connection.execute(CreateIndex(index, if_not_exists=True))
    connection.execute(
        update(tables.meta).where(tables.meta.c.key == tables.SCHEMA_KEY), {"value": str(tables.SCHEMA_VERSION)}
    )
    return tables.SCHEMA_VERSION


def _chain_the_ledger(connection: Connection, label: str) -> None:
    """From schema 1: corrections, and the rows that are there chained in the order in which they were written."""
    tables.metadata.create_all(connection)
    head = Head()
    batch: list[tuple[int, str]] = []
    for entry in entries(connection, 1, None):
        found = chain.faults(entry)
        if found:
            raise EcoRayError(
                f"database {label} cannot be upgraded: {entry.name} (row {entry.id} of intervals): {'; '.join(found)}: "
                "nothing was changed; restore it from a backup, or mend that row with an SQL client and open it again"
            )
        head = Head(head.entries + 1, entry.id, chain.next_hash(head.hash, entry))
        batch.append((entry.id, head.hash))
        if len(batch) == _BATCH:
            _write_hashes(connection, batch)
            batch = []
    _write_hashes(connection, batch)
    connection.execute(tables.meta.insert(), {"key": tables.HEAD_KEY, "value": head.text()})
    guards.put_up(connection)


def _write_hashes(connection: Connection, batch: list[tuple[int, str]]) -> None:
    if not batch:
        return
    if connection.dialect.name == "sqlite":
        statement = (
            update(tables.intervals).where(tables.intervals.c.id == bindparam("of")).values(hash=bindparam("to"))
        )
        connection.execute(statement, [{"of": entry_id, "to": value} for entry_id, value in batch])
        return
    connection.execute(
        text(
            "UPDATE intervals SET hash = given.hash FROM json_to_recordset(CAST(:rows AS json)) "
            "AS given(id bigint, hash text) WHERE intervals.id = given.id"
        ),
        {"rows": json.dumps([{"id": entry_id, "hash": value} for entry_id, value in batch])},
    )
