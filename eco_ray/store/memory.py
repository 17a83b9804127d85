"""A store in memory: for tests, dry runs and the simulator. It keeps rows, as the SQL store does, and dies with you."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eco_ray.core.audit import AuditEntry
from eco_ray.core.avoided import Avoided
from eco_ray.core.intensity import IntensitySeries
from eco_ray.core.jobs import Job, JobState
from eco_ray.core.keys import ApiKey
from eco_ray.core.store_port import JobSummary, LogEntry
from eco_ray.core.transfers import Transfer
from eco_ray.store import key_rows, rows
from eco_ray.store.codec import from_json, job_from_json, to_json
from eco_ray.store.memory_ledger import MemoryLedger
from eco_ray.store.rows import Row


class MemoryStore(MemoryLedger):
    """core.store_port.Store in dictionaries. Values go in and come out as copies; threads may share it."""

    def __init__(self) -> None:
        super().__init__()
        self._meta: dict[str, str] = {}
        #: by id; a dictionary keeps the place of a key that is set again, so this is the order of insertion
        self._jobs: dict[str, Row] = {}
        self._log: dict[str, list[LogEntry]] = {}
        #: by id
        self._transfers: dict[str, Row] = {}
        self._avoided: dict[str, Row] = {}
        #: by id
        self._keys: dict[str, Row] = {}
        self._audit: list[Row] = []
        #: by zone and time
        self._series: dict[str, dict[float, Row]] = {}

    def __repr__(self) -> str:
        return "MemoryStore()"

    def put_meta(self, key: str, value: Any) -> None:
        """Keep a JSON value under a key."""
        text = to_json(value, f"meta {key}")
        with self._lock:
            self._meta[rows.key(key, "meta key")] = text

    def get_meta(self, key: str) -> Any | None:
        """The JSON value under a key, or None."""
        with self._lock:
            text = self._meta.get(key)
        return None if text is None else from_json(text, f"meta {key}")

    def save_jobs(self, jobs: Iterable[Job], log: Iterable[LogEntry] = ()) -> None:
        """Insert or replace jobs (with attempts and plan), and append to the log."""
        job_rows = [rows.job_row(job) for job in jobs]
        entries = [LogEntry(**_log_fields(rows.log_row(entry))) for entry in log]
        with self._lock:
            self._jobs.update((row["id"], row) for row in job_rows)
            for entry in entries:
                self._log.setdefault(entry.job_id, []).append(entry)

    def get_job(self, job_id: str) -> Job | None:
        """The whole job, or None."""
        with self._lock:
            row = self._jobs.get(job_id)
        return None if row is None else job_from_json(row["record"])

    def load_jobs(self, states: Sequence[JobState] | None = None, limit: int | None = None) -> list[Job]:
        """Whole jobs, in order of submission; all states by default. `limit`: at most so many, the newest."""
        limit = rows.check_limit(limit)
        newest_first = self._job_rows(states)[::-1][:limit]
        return [job_from_json(row["record"]) for row in reversed(newest_first)]

    def list_jobs(self, states: Sequence[JobState] | None = None, limit: int | None = None) -> list[JobSummary]:
        """Lines for a list, newest first."""
        limit = rows.check_limit(limit)
        newest_first = self._job_rows(states)[::-1][:limit]
        return [
            JobSummary(
                id=row["id"],
                name=row["name"],
                tenant=row["tenant"],
                state=JobState(row["state"]),
                reason=row["reason"],
                message=row["message"],
                submitted_s=row["submitted_s"],
                deadline_s=row["deadline_s"],
                attempts=row["attempts"],
                progress=row["progress"],
            )
            for row in newest_first
        ]

    def job_log(self, job_id: str) -> list[LogEntry]:
        """The log of one job, oldest first."""
        with self._lock:
            entries = list(self._log.get(job_id, ()))
        return sorted(entries, key=lambda entry: entry.time_s)

    def add_transfers(self, transfers: Iterable[Transfer]) -> int:
        """Append what was moved; ids that are already there are left out. Returns how many were new."""
        given = {transfer.id: rows.transfer_row(transfer) for transfer in transfers}
        with self._lock:
            new = {key: row for key, row in given.items() if key not in self._transfers}
            self._transfers.update(new)
        return len(new)

    def transfers(self, start_s: float | None = None, end_s: float | None = None) -> list[Transfer]:
        """What was moved in [start_s, end_s), oldest first."""
        with self._lock:
            found = [rows.transfer_of(row) for row in self._transfers.values()]
        after, before = -math.inf if start_s is None else start_s, math.inf if end_s is None else end_s
        return sorted((one for one in found if after <= one.time_s < before), key=lambda one: (one.time_s, one.id))

    def add_avoided(self, rows_: Iterable[Avoided]) -> int:
        """Append what caches avoided; ids that are already there are left out. Returns how many were new."""
        given = {one.id: rows.avoided_row(one) for one in rows_}
        with self._lock:
            new = {key: row for key, row in given.items() if key not in self._avoided}
            self._avoided.update(new)
        return len(new)

    def avoided(self, start_s: float | None = None, end_s: float | None = None) -> list[Avoided]:
        """What caches avoided, of rows that start in [start_s, end_s), oldest first."""
        with self._lock:
            found = [rows.avoided_of(row) for row in self._avoided.values()]
        after, before = -math.inf if start_s is None else start_s, math.inf if end_s is None else end_s
        return sorted((one for one in found if after <= one.start_s < before), key=lambda one: (one.start_s, one.id))

    def save_keys(
        self, keys: Iterable[ApiKey], *, was: Iterable[ApiKey] = (), audit: Iterable[AuditEntry] = ()
    ) -> None:
        """Insert or replace API keys that are as in `was`, and append to the audit log: all of it, or none."""
        given = {key.id: key_rows.key_row(key) for key in keys}
        expected = {key.id: key_rows.key_row(key) for key in was}
        entries = [key_rows.audit_row(entry) for entry in audit]
        with self._lock:
            key_rows.check_unchanged(given, expected, self._keys)
            self._keys.update(given)
            self._audit += [{**row, "id": len(self._audit) + number} for number, row in enumerate(entries, 1)]

    def get_key(self, key_id: str) -> ApiKey | None:
        """The API key with an id, or None."""
        with self._lock:
            row = self._keys.get(key_id)
        return None if row is None else key_rows.key_of(row)

    def list_keys(self, tenant: str | None = None) -> list[ApiKey]:
        """API keys of a tenant or of all, in the order in which they were made."""
        with self._lock:
            found = [row for row in self._keys.values() if tenant in (None, row["tenant"])]
        return [key_rows.key_of(row) for row in sorted(found, key=lambda row: (row["created_s"], row["id"]))]

    def add_audit(self, entries: Iterable[AuditEntry]) -> None:
        """Append to the audit log."""
        self.save_keys((), audit=entries)

    def audit(
        self, start_s: float | None = None, end_s: float | None = None, limit: int | None = None
    ) -> list[AuditEntry]:
        """What was done in [start_s, end_s), in the order of the log. `limit`: at most so many, the newest."""
        limit = rows.check_limit(limit)
        after, before = -math.inf if start_s is None else start_s, math.inf if end_s is None else end_s
        with self._lock:
            found = [row for row in self._audit if after <= row["time_s"] < before]
        return [key_rows.entry_of(row) for row in reversed(found[::-1][:limit])]

    def add_series(self, series: IntensitySeries) -> None:
        """Keep the actual intensity used for accounting; steps already there for zone and time stay as they are."""
        given = rows.series_rows(series)
        with self._lock:
            kept = self._series.setdefault(series.zone, {})
            for row in list(kept.values())[:1]:
                rows.check_same_kind(series.zone, row["kind"], series.kind.value)
            for row in given:
                kept.setdefault(row["time_s"], row)

    def series(self, zone: str) -> list[tuple[float, float]]:
        """Kept (time [s], intensity [g/kWh]) of a zone, ordered by time."""
        with self._lock:
            return sorted((row["time_s"], row["g_per_kwh"]) for row in self._series.get(zone, {}).values())

    def signal_sources(self) -> list[Mapping[str, Any]]:
        """One row per zone: zone, source, kind, nature, step_s, updated_s (end of the newest kept step)."""
        with self._lock:
            newest = [max(kept.values(), key=lambda row: row["time_s"]) for kept in self._series.values() if kept]
        return [
            {
                **{name: row[name] for name in ("zone", "source", "kind", "nature", "step_s")},
                "updated_s": row["time_s"] + row["step_s"],
            }
            for row in sorted(newest, key=lambda row: row["zone"])
        ]

    def close(self) -> None:
        """Nothing to release."""

    def _job_rows(self, states: Sequence[JobState] | None) -> list[Row]:
        wanted = None if states is None else {state.value for state in states}
        with self._lock:
            return [row for row in self._jobs.values() if wanted is None or row["state"] in wanted]


def _log_fields(row: Row) -> Row:
    return {name: row[name] for name in ("time_s", "job_id", "kind", "message")}
