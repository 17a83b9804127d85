"""The store on SQLite and PostgreSQL. Every method is one transaction; writers queue, readers never wait for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import URL, ColumnElement, Connection, Select, Table, case, func, select
from sqlalchemy.dialects import postgresql, sqlite

from eco_ray.core.intensity import IntensitySeries
from eco_ray.core.jobs import Job, JobState
from eco_ray.core.ledger import Interval, LedgerCheck, NodeEnergy, OwnerInterval
from eco_ray.core.ports import JobSummary, LogEntry
from eco_ray.core.units import MJ_PER_KWH, Nature
from eco_ray.errors import UsageError
from eco_ray.store import rows, tables
from eco_ray.store.codec import from_json, job_from_json, to_json
from eco_ray.store.database import Database
from eco_ray.store.rows import Row

Insert = sqlite.Insert | postgresql.Insert

# enum members by value: calling the enum for each of 10,000 rows takes longer than reading them
STATES = {state.value: state for state in JobState}
NATURES = {nature.value: nature for nature in Nature}


class SqlStore:
    """core.ports.Store in a database; threads and processes may share it."""

    def __init__(self, url: str | URL, *, create: bool = True) -> None:
        """Open `sqlite:///PATH` or `postgresql+pg8000://...`; `create=False` where a missing database is an error."""
        self._database = Database(url, create=create)

    def __repr__(self) -> str:
        return f"SqlStore({self._database.label!r})"

    def put_meta(self, key: str, value: Any) -> None:
        """Keep a JSON value under a key."""
        if key == tables.SCHEMA_KEY:
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

    def load_jobs(self, states: Sequence[JobState] | None = None) -> list[Job]:
        """Whole jobs, in order of submission; all states by default."""
        query = _in_states(select(tables.jobs.c.record), states).order_by(tables.jobs.c.seq)
        with self._database.reading() as connection:
            records = connection.execute(query).scalars().all()
        return [job_from_json(record) for record in records]

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
        given: dict[tuple[str, str, int], tuple[Row, list[Row]]] = {}
        for interval in intervals:
            row, shares = rows.interval_rows(interval)
            given.setdefault((row["node"], row["boot_id"], row["seq"]), (row, shares))
        if not given:
            return 0
        t = tables.intervals.c
        insert = self._insert(tables.intervals).on_conflict_do_nothing(index_elements=["node", "boot_id", "seq"])
        with self._database.writing() as connection:
            # only rows that were inserted come back: shares of the others are there already
            new = connection.execute(
                insert.returning(t.id, t.node, t.boot_id, t.seq), [row for row, _ in given.values()]
            ).all()
            new_shares = [
                {**share, "interval_id": interval_id} for interval_id, *key in new for share in given[tuple(key)][1]
            ]
            self._insert_many(connection, self._insert(tables.shares), new_shares, tables.shares.c.id)
        return len(new)

    def node_energy(self) -> list[NodeEnergy]:
        """Sums by node, in the order of node names; the zone is that of the node's latest interval."""
        t = tables.intervals.c

        def carbon_g(energy_mj: ColumnElement[int]) -> ColumnElement[float]:
            total = func.sum(energy_mj * t.intensity * t.pue) / float(MJ_PER_KWH)
            return case((func.count() == func.count(t.intensity), total))

        sums = select(
            t.node,
            func.sum(t.energy_mj),
            func.sum(t.energy_mj - t.unallocated_mj),
            carbon_g(t.energy_mj),
            carbon_g(t.unallocated_mj),
        ).group_by(t.node)
        last_s = func.max(t.end_s)
        zones = select(t.node, t.zone).group_by(t.node, t.zone).order_by(last_s, t.zone)
        natures: dict[str, list[Nature]] = {}
        with self._database.reading() as connection:
            totals = connection.execute(sums).all()
            zone_of: dict[str, str] = {node: zone for node, zone in connection.execute(zones)}  # noqa: C416 (Row)
            for node, nature in connection.execute(select(t.node, t.nature).distinct()):
                natures.setdefault(node, []).append(Nature(nature))
        # sorted here: databases sort text by their own rules
        return [
            NodeEnergy(node, zone_of[node], int(mj), int(attributed_mj), g, spare_g, Nature.weakest(natures[node]))
            for node, mj, attributed_mj, g, spare_g in sorted(totals, key=lambda row: row[0])
        ]

    def owner_intervals(self, owner_kind: str | None = None, owner_id: str | None = None) -> list[OwnerInterval]:
        """Shares with their interval, ordered by start, then node."""
        i, s = tables.intervals.c, tables.shares.c
        # in the order of OwnerInterval's fields
        owner = (s.owner_kind, s.owner_id, s.attempt)
        rest = (i.node, i.zone, i.start_s, i.end_s, s.energy_mj, i.intensity, i.pue, i.nature, i.source)
        query = select(*owner, *rest).join_from(tables.shares, tables.intervals)
        if owner_kind is not None:
            query = query.where(s.owner_kind == owner_kind)
        if owner_id is not None:
            query = query.where(s.owner_id == owner_id)
        with self._database.reading() as connection:
            found = connection.execute(query.order_by(i.id, s.id)).all()
        values = ([*first, NATURES[nature], source] for *first, nature, source in found)
        parts = [OwnerInterval(*row) for row in values]
        return sorted(parts, key=lambda part: (part.start_s, part.node))

    def check_ledger(self) -> LedgerCheck:
        """Add up every interval again, from the stored columns."""
        i, s = tables.intervals.c, tables.shares.c
        charged = select(s.interval_id, func.sum(s.energy_mj).label("mj")).group_by(s.interval_id).subquery()
        gap_mj = func.abs(i.energy_mj - i.unallocated_mj - func.coalesce(charged.c.mj, 0))
        joined = tables.intervals.outerjoin(charged, i.id == charged.c.interval_id)
        totals = select(func.count(), func.coalesce(func.sum(gap_mj), 0)).select_from(joined)
        broken = select(i.node, i.boot_id, i.seq).select_from(joined).where(gap_mj != 0).order_by(i.id).limit(100)
        with self._database.reading() as connection:
            count, residual = connection.execute(totals).one()
            names = [f"{node}/{boot}/{seq}" for node, boot, seq in connection.execute(broken)]
        return LedgerCheck(int(count), int(residual), tuple(names))

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

    def _insert(self, table: Table) -> Insert:
        return sqlite.insert(table) if self._database.is_sqlite else postgresql.insert(table)

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


def _in_states(query: Select[Any], states: Sequence[JobState] | None) -> Select[Any]:
    return query if states is None else query.where(tables.jobs.c.state.in_([state.value for state in states]))
