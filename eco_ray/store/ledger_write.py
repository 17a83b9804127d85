"""Appending to the ledger in a database: numbers, hashes and the head, within one writing transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from typing import Any

from sqlalchemy import Connection, Table, TextClause, bindparam, func, select, text, update

from eco_ray.errors import EcoRayError
from eco_ray.store import chain, lives, tables
from eco_ray.store.balance import Balance, Head, Key, unknown_interval
from eco_ray.store.rows import Row

_LOOKUP = 500
_I = tables.intervals.c
_KNOWN = select(_I.seq, _I.id).where(
    _I.node == bindparam("node"), _I.boot_id == bindparam("boot_id"), _I.seq.in_(bindparam("seqs", expanding=True))
)
#: bound to an interval of another life
OVERLAPPING = (
    select(_I.id)
    .where(_I.node == bindparam("node"), _I.end_s > bindparam("since_s"), _I.start_s < bindparam("until_s"))
    .where(_I.boot_id != bindparam("boot_id"))
    .limit(1)
)
_HEAD = select(tables.meta.c.value).where(tables.meta.c.key == tables.HEAD_KEY)
_SET_HEAD = update(tables.meta).where(tables.meta.c.key == tables.HEAD_KEY).values(value=bindparam("head"))


def read_head(connection: Connection) -> Head:
    """The kept head."""
    kept = connection.execute(_HEAD).scalar()
    try:
        entries, last, value = json.loads(kept or "")
        return Head(int(entries), int(last), str(value))
    except (ValueError, TypeError) as error:
        raise EcoRayError(
            f"the head of the ledger (meta {tables.HEAD_KEY!r}) is {kept!r:.80}, not [entries, id, hash]: somebody "
            "changed it; restore the database from a backup"
        ) from error


def add_intervals(connection: Connection, intervals: Iterable[tuple[Row, list[Row]]]) -> int:
    """Append those that are not there yet; returns how many."""
    given: dict[Key, tuple[Row, list[Row]]] = {}
    for row, shares in intervals:
        given.setdefault((row["node"], row["boot_id"], row["seq"]), (row, shares))
    known = known_ids(connection, given)
    new = [both for key, both in given.items() if key not in known]
    if not new:
        return 0

    def booked(node: str, boot_id: str, since_s: float, until_s: float) -> bool:
        asked = {"node": node, "boot_id": boot_id, "since_s": since_s, "until_s": until_s}
        return connection.execute(OVERLAPPING, asked).first() is not None

    lives.flag_overlaps([row for row, _ in new], booked)
    head = read_head(connection)
    for row, shares in new:
        head.append(chain.INTERVAL, row, shares)
        for share in shares:
            share["interval_id"] = row["id"]
    insert_rows(connection, tables.intervals, [row for row, _ in new])
    insert_rows(connection, tables.shares, [share for _, shares in new for share in shares])
    connection.execute(_SET_HEAD, {"head": head.text()})
    return len(new)


def add_corrections(connection: Connection, corrections: Iterable[tuple[Row, list[Row]]]) -> int:
    """Append corrections of intervals that are there."""
    given = list(corrections)
    keys = [(row["node"], row["boot_id"], row["seq"]) for row, _ in given]
    known = known_ids(connection, keys)
    head = read_head(connection)
    balances: dict[int, Balance] = {}
    for key, (row, shares) in zip(keys, given, strict=True):
        interval_id = known.get(key)
        if interval_id is None:
            raise unknown_interval(key)
        row["interval_id"] = interval_id
        if row["energy_mj"] or shares:
            if interval_id not in balances:
                balances[interval_id] = _balance(connection, interval_id)
            balances[interval_id].apply(row, shares)
        head.append(chain.CORRECTION, row, shares)
        for share in shares:
            share["correction_id"] = row["id"]
    insert_rows(connection, tables.corrections, [row for row, _ in given])
    insert_rows(connection, tables.correction_shares, [share for _, shares in given for share in shares])
    connection.execute(_SET_HEAD, {"head": head.text()})
    return len(given)


def _balance(connection: Connection, interval_id: int) -> Balance:
    c = tables.corrections.c
    s, d = tables.shares.c, tables.correction_shares.c
    of_all = select(func.coalesce(func.sum(c.unallocated_mj), 0)).where(c.interval_id == interval_id)
    own = select(_I.unallocated_mj).where(_I.id == interval_id)
    balance = Balance(int(connection.execute(own).scalar_one()) + int(connection.execute(of_all).scalar_one()))
    corrected = select(d.owner_kind, d.owner_id, d.attempt, d.tenant, d.part, d.energy_mj).join_from(
        tables.correction_shares, tables.corrections
    )
    own_shares = select(s.owner_kind, s.owner_id, s.attempt, s.tenant, s.part, s.energy_mj)
    charged = own_shares.where(s.interval_id == interval_id)
    for query in (charged, corrected.where(c.interval_id == interval_id)):
        for share in connection.execute(query).mappings():
            balance.add(dict(share))
    return balance


def known_ids(connection: Connection, keys: Iterable[Key]) -> dict[Key, int]:
    """The ids of those keys that are there."""
    seqs_of: dict[tuple[str, str], list[int]] = {}
    for node, boot_id, seq in keys:
        seqs_of.setdefault((node, boot_id), []).append(seq)
    found: dict[Key, int] = {}
    for (node, boot_id), seqs in seqs_of.items():
        for first in range(0, len(seqs), _LOOKUP):
            asked = {"node": node, "boot_id": boot_id, "seqs": seqs[first : first + _LOOKUP]}
            for seq, interval_id in connection.execute(_KNOWN, asked):
                found[(node, boot_id, seq)] = interval_id
    return found


def insert_rows(connection: Connection, table: Table, given: list[Row]) -> None:
    """Insert rows in one round trip: on PostgreSQL as one JSON value, a tenth of the time of so many parameters."""
    if not given:
        return
    if connection.dialect.name == "sqlite":
        connection.execute(_insert(table), given)
    else:
        connection.execute(_insert_json(table, tuple(given[0])), {"rows": json.dumps(given)})


@cache
def _insert(table: Table) -> Any:
    return table.insert()


@cache
def _insert_json(table: Table, columns: tuple[str, ...]) -> TextClause:
    from sqlalchemy.dialects import postgresql

    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # as SQLAlchemy has it
    names = ", ".join(columns)
    types = ", ".join(f"{name} {table.c[name].type.compile(dialect)}" for name in columns)
    # names of our own tables and columns
    return text(
        f"INSERT INTO {table.name} ({names}) SELECT {names} "  # noqa: S608
        f"FROM json_to_recordset(CAST(:rows AS json)) AS given({types})"
    )
