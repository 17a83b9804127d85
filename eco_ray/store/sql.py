"""The store on SQLite and PostgreSQL. Every method is one transaction; writers queue, readers never wait for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, ColumnElement, Connection, Select, Table, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from eco_ray.core.audit import AuditEntry
from eco_ray.core.avoided import Avoided
from eco_ray.core.intensity import IntensitySeries
from eco_ray.core.jobs import Job, JobState
from eco_ray.core.keys import ApiKey
from eco_ray.core.ledger import (
    ChainCheck,
    Correction,
    HourlyEnergy,
    Interval,
    LedgerCheck,
    NodeEnergy,
    Overlap,
    OwnerInterval,
)
from eco_ray.core.store_port import JobSummary, LogEntry
from eco_ray.core.transfers import Transfer
from eco_ray.errors import UsageError
from eco_ray.store import key_rows, ledger_chain, ledger_read, ledger_write, rows, tables
from eco_ray.store.codec import from_json, job_from_json, to_json
from eco_ray.store.database import Database
from eco_ray.store.failures import is_out_of_range
from eco_ray.store.rows import Row

Insert = sqlite.Insert | postgresql.Insert

# members by value: calling the enum for each of 10,000 rows takes longer than reading them
STATES = {state.value: state for state in JobState}


class SqlStore:
    """core.store_port.Store in a database; threads and processes may share it."""

    def __init__(self, url: str | URL, *, create: bool = True) -> None:
        """Open `sqlite:///PATH` or `postgresql+pg8000://...`; `create=False` where a missing database is an error."""
        self._database = Database(url, create=create)

    def __repr__(self) -> str:
        return f"SqlStore({self._database.label!r})"

    def put_meta(self, key: str, value: Any) -> None:
        """Keep a JSON value under a key."""
        if key in tables.OWN_KEYS:
            raise UsageError(f"meta key {key!r} is the store's own: use another key")
        row = {"key": rows.key(key, "meta key"), "value": to_json(value, f"meta {key}")}
        insert = self._insert(tables.meta)
        insert = insert.on_conflict_do_update(index_elements=["key"], set_={"value": insert.excluded.value})
        with self._database.writing() as connection:
            connection.execute(insert, row)

    def get_meta(self, key: str) -> Any | None:
        """The JSON value under a key, or None."""
        query = select(tables.meta.c.value).where(tables.meta.c.key == key)
        with self._database.reading() as connection:
            text = connection.execute(query).scalar()
        return None if text is None else from_json(text, f"meta {key}")

    def save_jobs(self, jobs: Iterable[Job], log: Iterable[LogEntry] = ()) -> None:
        """Insert or replace jobs (with attempts and plan), and append to the log."""
        # one row per id: PostgreSQL refuses to update a row twice in one statement. The last one wins, in first place
        job_rows: dict[str, Row] = {}
        for job in jobs:
            job_rows[job.id] = rows.job_row(job)
        log_rows = [rows.log_row(entry) for entry in log]
        insert = self._insert(tables.jobs)
        replaced = {c.name: insert.excluded[c.name] for c in tables.jobs.c if c.name not in ("seq", "id")}
        insert = insert.on_conflict_do_update(index_elements=["id"], set_=replaced)
        with self._database.writing() as connection:
            self._insert_many(connection, insert, list(job_rows.values()), tables.jobs.c.seq)
            self._insert_many(connection, self._insert(tables.job_log), log_rows, tables.job_log.c.seq)

    def get_job(self, job_id: str) -> Job | None:
        """The whole job, or None."""
        query = select(tables.jobs.c.record).where(tables.jobs.c.id == job_id)
        with self._database.reading() as connection:
            text = connection.execute(query).scalar()
        return None if text is None else job_from_json(text)

    def load_jobs(self, states: Sequence[JobState] | None = None, limit: int | None = None) -> list[Job]:
        """Whole jobs, in order of submission; all states by default. `limit`: at most so many, the newest."""
        query = _in_states(select(tables.jobs.c.record), states).order_by(tables.jobs.c.seq.desc())
        query = query.limit(rows.check_limit(limit))
        with self._database.reading() as connection:
            records = connection.execute(query).scalars().all()
        return [job_from_json(record) for record in reversed(records)]

    def list_jobs(self, states: Sequence[JobState] | None = None, limit: int | None = None) -> list[JobSummary]:
        """Lines for a list, newest first. Reads columns only: no record is decoded."""
        t = tables.jobs.c
        # in the order of JobSummary's fields
        columns = (t.id, t.name, t.tenant, t.state, t.reason, t.message, t.submitted_s, t.deadline_s)
        query = _in_states(select(*columns, t.attempts, t.progress), states).order_by(t.seq.desc())
        query = query.limit(rows.check_limit(limit))
        with self._database.reading() as connection:
            found = connection.execute(query).all()
        return [JobSummary(job_id, name, tenant, STATES[state], *rest) for job_id, name, tenant, state, *rest in found]

    def job_log(self, job_id: str) -> list[LogEntry]:
        """The log of one job, oldest first."""
        t = tables.job_log.c
        query = select(t.time_s, t.job_id, t.kind, t.message).where(t.job_id == job_id).order_by(t.time_s, t.seq)
        with self._database.reading() as connection:
            return [LogEntry(*row) for row in connection.execute(query)]

    def add_intervals(self, intervals: Iterable[Interval]) -> int:
        """Append ledger rows; (node, boot_id, seq) that are already there are left out. Returns how many were new."""
        given = [rows.interval_rows(interval) for interval in intervals]
        if not given:
            return 0
        with self._database.writing() as connection:
            return ledger_write.add_intervals(connection, given)

    def add_corrections(self, corrections: Iterable[Correction]) -> int:
        """Append corrections of intervals that are there. Raises NotFoundError for another; returns how many."""
        given = [rows.correction_rows(correction) for correction in corrections]
        if not given:
            return 0
        with self._database.writing() as connection:
            return ledger_write.add_corrections(connection, given)

    def corrections(self) -> list[Correction]:
        """All corrections, oldest first."""
        with self._ledger() as connection:
            return ledger_read.corrections(connection)

    def intervals_of(self, zone: str, start_s: float, end_s: float) -> list[tuple[str, str, int]]:
        """(node, boot_id, seq) of a zone's intervals that lie within [start_s, end_s] as a whole, oldest first."""
        with self._ledger() as connection:
            return ledger_read.intervals_of(connection, zone, start_s, end_s)

    def node_energy(self) -> list[NodeEnergy]:
        """Sums by node, in the order of node names; the zone is that of the node's latest interval."""
        with self._ledger() as connection:
            return ledger_read.node_energy(connection)

    def ledger_at_once(self) -> tuple[list[NodeEnergy], list[HourlyEnergy], list[OwnerInterval]]:
        """Sums by node and hour and all shares, as of one moment: a live cluster writes on between two readings."""
        with self._ledger() as connection:
            if not self._database.is_sqlite:  # there a transaction sees one moment anyway
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            return (
                ledger_read.node_energy(connection),
                ledger_read.hourly(connection, None, None),
                ledger_read.owner_intervals(connection, None, None, None, None),
            )

    def owner_intervals(
        self,
        owner_kind: str | None = None,
        owner_id: str | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
    ) -> list[OwnerInterval]:
        """Shares with their interval and corrections, ordered by start, then node, then owner."""
        with self._ledger() as connection:
            return ledger_read.owner_intervals(connection, owner_kind, owner_id, start_s, end_s)

    def hourly(self, start_s: float | None = None, end_s: float | None = None) -> list[HourlyEnergy]:
        """Who used what in each hour, and what nobody used, with corrections; of [start_s, end_s) or of all."""
        with self._ledger() as connection:
            return ledger_read.hourly(connection, start_s, end_s)

    def ledger_entries(self, start_s: float | None = None, end_s: float | None = None) -> Iterator[Mapping[str, Any]]:
        """Rows as they were written, with their hashes; the first item is the hash before them."""
        with self._ledger() as connection:
            yield from ledger_chain.exported(connection, start_s, end_s)

    def check_ledger(self) -> LedgerCheck:
        """Add up every interval and correction again, from the stored columns."""
        with self._ledger() as connection:
            return ledger_chain.check_ledger(connection)

    def verify_chain(self, expect_head: str | None = None) -> ChainCheck:
        """Make every hash again; `expect_head`: a hash that was noted down earlier must be among them."""
        with self._ledger() as connection:
            return ledger_chain.verify_chain(connection, expect_head)

    def overlaps(self) -> tuple[Overlap, ...]:
        """Lives of a node's agent that overlap in time, at most a hundred pairs."""
        with self._ledger() as connection:
            return ledger_read.overlaps(connection)

    def add_transfers(self, transfers: Iterable[Transfer]) -> int:
        """Append what was moved; ids that are already there are left out. Returns how many were new."""
        return self._append(tables.transfers, {one.id: rows.transfer_row(one) for one in transfers})

    def transfers(self, start_s: float | None = None, end_s: float | None = None) -> list[Transfer]:
        """What was moved in [start_s, end_s), oldest first."""
        t = tables.transfers.c
        query = _in_span(select(tables.transfers), t.time_s, start_s, end_s).order_by(t.time_s, t.id)
        with self._database.reading() as connection:
            return [rows.transfer_of(dict(row)) for row in connection.execute(query).mappings()]

    def add_avoided(self, rows_: Iterable[Avoided]) -> int:
        """Append what caches avoided; ids that are already there are left out. Returns how many were new."""
        return self._append(tables.avoided, {one.id: rows.avoided_row(one) for one in rows_})

    def avoided(self, start_s: float | None = None, end_s: float | None = None) -> list[Avoided]:
        """What caches avoided, of rows that start in [start_s, end_s), oldest first."""
        t = tables.avoided.c
        query = _in_span(select(tables.avoided), t.start_s, start_s, end_s).order_by(t.start_s, t.id)
        with self._database.reading() as connection:
            return [rows.avoided_of(dict(row)) for row in connection.execute(query).mappings()]

    def save_keys(
        self, keys: Iterable[ApiKey], *, was: Iterable[ApiKey] = (), audit: Iterable[AuditEntry] = ()
    ) -> None:
        """Insert or replace API keys that are as in `was`, and append to the audit log: all of it, or none."""
        given = {key.id: key_rows.key_row(key) for key in keys}
        expected = {key.id: key_rows.key_row(key) for key in was}
        entries = [key_rows.audit_row(entry) for entry in audit]
        insert = self._insert(tables.api_keys)
        replaced = {c.name: insert.excluded[c.name] for c in tables.api_keys.c if c.name != "id"}
        insert = insert.on_conflict_do_update(index_elements=["id"], set_=replaced)
        query = select(tables.api_keys).where(tables.api_keys.c.id.in_(given))
        with self._database.writing() as connection:
            there = {row["id"]: dict(row) for row in connection.execute(query).mappings()}
            key_rows.check_unchanged(given, expected, there)
            self._insert_many(connection, insert, list(given.values()), tables.api_keys.c.id)
            self._insert_many(connection, self._insert(tables.audit), entries, tables.audit.c.id)

    def get_key(self, key_id: str) -> ApiKey | None:
        """The API key with an id, or None."""
        query = select(tables.api_keys).where(tables.api_keys.c.id == key_id)
        with self._database.reading() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else key_rows.key_of(dict(row))

    def list_keys(self, tenant: str | None = None) -> list[ApiKey]:
        """API keys of a tenant or of all, in the order in which they were made."""
        t = tables.api_keys.c
        query = select(tables.api_keys).order_by(t.created_s, t.id)
        if tenant is not None:
            query = query.where(t.tenant == tenant)
        with self._database.reading() as connection:
            return [key_rows.key_of(dict(row)) for row in connection.execute(query).mappings()]

    def add_audit(self, entries: Iterable[AuditEntry]) -> None:
        """Append to the audit log."""
        self.save_keys((), audit=entries)

    def audit(
        self, start_s: float | None = None, end_s: float | None = None, limit: int | None = None
    ) -> list[AuditEntry]:
        """What was done in [start_s, end_s), in the order of the log. `limit`: at most so many, the newest."""
        t = tables.audit.c
        query = _in_span(select(tables.audit), t.time_s, start_s, end_s).order_by(t.id.desc())
        query = query.limit(rows.check_limit(limit))
        with self._database.reading() as connection:
            found = connection.execute(query).mappings().all()
        return [key_rows.entry_of(dict(row)) for row in reversed(found)]

    def add_series(self, series: IntensitySeries) -> None:
        """Keep the actual intensity used for accounting; steps already there for zone and time stay as they are."""
        given = rows.series_rows(series)
        t = tables.series.c
        kept_kind = select(t.kind).where(t.zone == series.zone).limit(1)
        insert = self._insert(tables.series).on_conflict_do_nothing(index_elements=["zone", "time_s"])
        with self._database.writing() as connection:
            kind = connection.execute(kept_kind).scalar()
            if kind is not None:
                rows.check_same_kind(series.zone, kind, series.kind.value)
            self._insert_many(connection, insert, given, t.time_s)

    def series(self, zone: str) -> list[tuple[float, float]]:
        """Kept (time [s], intensity [g/kWh]) of a zone, ordered by time."""
        t = tables.series.c
        query = select(t.time_s, t.g_per_kwh).where(t.zone == zone).order_by(t.time_s)
        with self._database.reading() as connection:
            return [(time_s, value) for time_s, value in connection.execute(query)]

    def signal_sources(self) -> list[Mapping[str, Any]]:
        """One row per zone: zone, source, kind, nature, step_s, updated_s (end of the newest kept step)."""
        t = tables.series.c
        newest = select(t.zone, func.max(t.time_s).label("time_s")).group_by(t.zone).subquery()
        query = select(t.zone, t.source, t.kind, t.nature, t.step_s, (t.time_s + t.step_s).label("updated_s")).join(
            newest, (t.zone == newest.c.zone) & (t.time_s == newest.c.time_s)
        )
        with self._database.reading() as connection:
            found = [dict(row) for row in connection.execute(query).mappings()]
        return sorted(found, key=lambda row: row["zone"])

    def close(self) -> None:
        """Release connections."""
        self._database.close()

    @contextmanager
    def _ledger(self) -> Iterator[Connection]:
        """Reading the ledger: what somebody wrote into a row past the store is told by row and column."""
        with self._database.reading() as connection:
            try:
                yield connection
            except (TypeError, ValueError, LookupError, ArithmeticError) as error:
                raise ledger_chain.damaged(connection) from error
            except DBAPIError as error:
                if not is_out_of_range(error):
                    raise
                with self._database.reading() as again:  # PostgreSQL answers nothing more in this transaction
                    raise ledger_chain.damaged(again) from error

    def _insert(self, table: Table) -> Insert:
        return sqlite.insert(table) if self._database.is_sqlite else postgresql.insert(table)

    def _append(self, table: Table, given: dict[str, Row]) -> int:
        """Rows by id, without those that are there; how many were new."""
        if not given:
            return 0
        insert = self._insert(table).on_conflict_do_nothing(index_elements=["id"])
        with self._database.writing() as connection:
            there = set(connection.execute(select(table.c.id).where(table.c.id.in_(given))).scalars())
            new = [row for row in given.values() if row["id"] not in there]
            self._insert_many(connection, insert, new, table.c.id)
        return len(new)

    def _insert_many(
        self, connection: Connection, insert: Insert, given: list[Row], column: ColumnElement[Any]
    ) -> None:
        """Insert rows in few round trips: with RETURNING, SQLAlchemy sends up to 1,000 rows in one statement."""
        if not given:
            return
        if self._database.is_sqlite:
            connection.execute(insert, given)
        else:
            connection.execute(insert.returning(column), given).all()


def _in_span(
    query: Select[Any], time_s: ColumnElement[float], start_s: float | None, end_s: float | None
) -> Select[Any]:
    """Of [start_s, end_s); None: without end."""
    if start_s is not None:
        query = query.where(time_s >= start_s)
    return query if end_s is None else query.where(time_s < end_s)


def _in_states(query: Select[Any], states: Sequence[JobState] | None) -> Select[Any]:
    return query if states is None else query.where(tables.jobs.c.state.in_([state.value for state in states]))
