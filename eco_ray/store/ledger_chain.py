"""The chain of the ledger in a database: entries in their order, exports, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, and_, case, cast, func, null, select, union_all

from eco_ray.core.ledger import ChainCheck, LedgerCheck
from eco_ray.errors import EcoRayError
from eco_ray.store import chain, tables
from eco_ray.store.kinds import wrong
from eco_ray.store.ledger_write import read_head

#: entries that are read at once
_CHUNK = 5_000

_I, _S = tables.intervals.c, tables.shares.c
_C, _D = tables.corrections.c, tables.correction_shares.c
_OWNER = (_S.owner_kind, _S.owner_id, _S.attempt, _S.tenant, _S.part)
_CORRECTED_OWNER = (_D.owner_kind, _D.owner_id, _D.attempt, _D.tenant, _D.part)
#: requests and items of a correction: it has none
_NO_COUNTS = (cast(null(), BigInteger), cast(null(), BigInteger))


def damaged(connection: Connection) -> EcoRayError:
    """The error for a ledger with a row that cannot be read: names the first one, and its column."""
    cure = (
        "somebody edited it; `eco-ray ledger verify` lists every such row, restore the database from a backup of before"
    )
    for entry in entries(connection, 1, None):
        found = chain.faults(entry)
        if found:
            return EcoRayError(f"{entry.name} (entry {entry.id}): {'; '.join(found)}: {cure}")
    return EcoRayError(f"the ledger has a row that cannot be read: {cure}")


def check_ledger(connection: Connection) -> LedgerCheck:
    """Add up every interval and correction again."""

    def whole(column: ColumnElement[Any]) -> ColumnElement[Any]:
        """What is no whole number counts as 0, so that it shows as a gap: `verify_chain` says what it is."""
        return case((wrong(connection, {"energy_mj": column}) == 0, column), else_=0)

    rows, residual_mj, names = 0, 0, []
    for table, parts, parent in (
        (tables.intervals, tables.shares, _S.interval_id),
        (tables.corrections, tables.correction_shares, _D.correction_id),
    ):
        charged = select(parent.label("of"), func.sum(whole(parts.c.energy_mj)).label("mj")).group_by(parent).subquery()
        gap_mj = func.abs(whole(table.c.energy_mj) - whole(table.c.unallocated_mj) - func.coalesce(charged.c.mj, 0))
        joined = table.outerjoin(charged, table.c.id == charged.c.of)
        count, gaps_mj = connection.execute(
            select(func.count(), func.coalesce(func.sum(gap_mj), 0)).select_from(joined)
        ).one()
        if table is tables.intervals:
            rows = int(count)
        residual_mj += int(gaps_mj)
        if gaps_mj:
            broken = select(table.c.node, table.c.boot_id, table.c.seq).select_from(joined).where(gap_mj != 0)
            found = connection.execute(broken.order_by(table.c.id).limit(chain.MOST))
            prefix = "" if table is tables.intervals else f"{chain.CORRECTION} "
            names += [f"{prefix}{node}/{boot_id}/{seq}" for node, boot_id, seq in found]
    return LedgerCheck(rows, residual_mj, tuple(names[: chain.MOST]))


def verify_chain(connection: Connection, expect_head: str | None) -> ChainCheck:
    """Make every hash again."""
    head = read_head(connection)
    verifier = chain.Verifier(expect_head=expect_head)
    parts = 0
    elsewhere = _misplaced(connection)
    for entry in entries(connection, 1, None):
        verifier.take(entry, elsewhere.get(entry.id, "") if entry.kind == chain.CORRECTION else "")
        parts += len(entry.shares)
    there = sum(
        int(connection.execute(select(func.count()).select_from(table)).scalar_one())
        for table in (tables.shares, tables.correction_shares)
    )
    if there != parts:
        verifier.problem(f"{there - parts} shares belong to no entry: they were put in, or their entries are gone")
    return verifier.finish(head.entries, head.hash)


def _misplaced(connection: Connection) -> dict[int, str]:
    """Corrections that sums add to another interval than the one they name: the name is hashed, interval_id is not."""
    named = and_(_I.id == _C.interval_id, _I.node == _C.node, _I.boot_id == _C.boot_id, _I.seq == _C.seq)
    query = select(_C.id, _C.interval_id, _C.node, _C.boot_id, _C.seq)
    found = connection.execute(
        query.select_from(tables.corrections.outerjoin(tables.intervals, named)).where(_I.id.is_(None))
    )
    return {
        correction_id: (
            f"stands at interval row {interval_id}, which is not {node}/{boot_id}/{seq}: its interval_id was edited"
        )
        for correction_id, interval_id, node, boot_id, seq in found
    }


def entries(connection: Connection, first: int, last: int | None) -> Iterator[chain.Entry]:
    """The entries from one id to another, both included."""
    end = max(int(connection.execute(select(func.coalesce(func.max(c), 0))).scalar_one()) for c in (_I.id, _C.id))
    last = end if last is None else min(last, end)
    intervals = [_I[name] for name in chain.COLUMNS[chain.INTERVAL]]
    corrections = [_C[name] for name in chain.COLUMNS[chain.CORRECTION]]
    start = first
    while start <= last:
        stop = min(last, start + _CHUNK - 1)
        shares: dict[int, list[tuple[Any, ...]]] = {}
        for parent, owner, energy_mj in (
            (_S.interval_id, (*_OWNER, _S.requests, _S["items"]), _S.energy_mj),
            (_D.correction_id, (*_CORRECTED_OWNER, *_NO_COUNTS), _D.energy_mj),
        ):
            query = select(parent, *owner, energy_mj).where(parent.between(start, stop))
            for parent_id, *share in connection.execute(query):
                shares.setdefault(parent_id, []).append(tuple(share))
        found = [
            chain.Entry(entry_id, kind, values, shares.get(entry_id, ()), kept)
            for kind, table, columns in (
                (chain.INTERVAL, tables.intervals, intervals),
                (chain.CORRECTION, tables.corrections, corrections),
            )
            for entry_id, kept, *values in connection.execute(
                select(table.c.id, table.c.hash, *columns).where(table.c.id.between(start, stop))
            )
        ]
        yield from sorted(found, key=lambda entry: entry.id)
        start = stop + 1


def exported(connection: Connection, since_s: float | None, until_s: float | None) -> Iterator[Mapping[str, Any]]:
    """The part of the chain that holds a span, with the hash before it."""
    first, last = 1, None
    if since_s is not None or until_s is not None:
        ids = select(_I.id)
        ids = ids if since_s is None else ids.where(_I.end_s > since_s)
        ids = ids if until_s is None else ids.where(_I.start_s < until_s)
        within = ids.subquery()
        low, high = connection.execute(select(func.min(within.c.id), func.max(within.c.id))).one()
        of_them = select(func.max(_C.id)).where(_C.interval_id.in_(select(within.c.id)))
        first, last = low or 1, max(high or 0, connection.execute(of_them).scalar() or 0)
    before = union_all(
        *(select(t.c.id, t.c.hash).where(t.c.id < first) for t in (tables.intervals, tables.corrections))
    ).subquery()
    previous = connection.execute(select(before.c.hash).order_by(before.c.id.desc()).limit(1)).scalar()
    yield {"previous": previous or chain.GENESIS}
    for entry in entries(connection, first, last):
        if chain.faults(entry):
            raise ValueError("a row cannot be read")  # damaged() says which
        yield entry.exported()
