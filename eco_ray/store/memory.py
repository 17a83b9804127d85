"""A store in memory: for tests, dry runs and the simulator. It keeps rows, as the SQL store does, and dies with you."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from threading import RLock
from typing import Any, Literal, cast

from eco_ray.core.intensity import IntensitySeries
from eco_ray.core.jobs import Job, JobState
from eco_ray.core.ledger import Interval, LedgerCheck, NodeEnergy, OwnerInterval
from eco_ray.core.ports import JobSummary, LogEntry
from eco_ray.core.units import Nature, grams
from eco_ray.store import rows
from eco_ray.store.codec import from_json, job_from_json, to_json
from eco_ray.store.rows import Row


class MemoryStore:
    """core.ports.Store in dictionaries. Values go in and come out as copies; threads may share it."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._meta: dict[str, str] = {}
        #: by id; a dictionary keeps the place of a key that is set again, so this is the order of insertion
        self._jobs: dict[str, Row] = {}
        self._log: dict[str, list[LogEntry]] = {}
        #: by (node, boot_id, seq)
        self._intervals: dict[tuple[str, str, int], tuple[Row, list[Row]]] = {}
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

    def load_jobs(self, states: Sequence[JobState] | None = None) -> list[Job]:
        """Whole jobs, in order of submission; all states by default."""
        return [job_from_json(row["record"]) for row in self._job_rows(states)]

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

    def add_intervals(self, intervals: Iterable[Interval]) -> int:
        """Append ledger rows; (node, boot_id, seq) that are already there are left out. Returns how many were new."""
        checked = [rows.interval_rows(interval) for interval in intervals]
        with self._lock:
            before = len(self._intervals)
            for row, shares in checked:
                self._intervals.setdefault((row["node"], row["boot_id"], row["seq"]), (row, shares))
            return len(self._intervals) - before

    def node_energy(self) -> list[NodeEnergy]:
        """Sums by node, in the order of node names; the zone is that of the node's latest interval."""
        by_node: dict[str, list[Row]] = {}
        for row, _ in self._ledger():
            by_node.setdefault(row["node"], []).append(row)
        return [_node_sum(node, by_node[node]) for node in sorted(by_node)]

    def owner_intervals(self, owner_kind: str | None = None, owner_id: str | None = None) -> list[OwnerInterval]:
        """Shares with their interval, ordered by start, then node."""
        found = [
            _owner_interval(row, share)
            for row, shares in self._ledger()
            for share in shares
            if owner_kind in (None, share["owner_kind"]) and owner_id in (None, share["owner_id"])
        ]
        return sorted(found, key=lambda part: (part.start_s, part.node))

    def check_ledger(self) -> LedgerCheck:
        """Add up every interval again, from the stored columns."""
        gaps = [
            (row, abs(row["energy_mj"] - row["unallocated_mj"] - sum(share["energy_mj"] for share in shares)))
            for row, shares in self._ledger()
        ]
        broken = [f"{row['node']}/{row['boot_id']}/{row['seq']}" for row, gap in gaps if gap][:100]
        return LedgerCheck(len(gaps), sum(gap for _, gap in gaps), tuple(broken))

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

    def _ledger(self) -> list[tuple[Row, list[Row]]]:
        with self._lock:
            return list(self._intervals.values())


def _log_fields(row: Row) -> Row:
    return {name: row[name] for name in ("time_s", "job_id", "kind", "message")}


def _node_sum(node: str, intervals: list[Row]) -> NodeEnergy:
    known = all(row["intensity"] is not None for row in intervals)
    return NodeEnergy(
        node=node,
        zone=max(intervals, key=lambda row: (row["end_s"], row["zone"]))["zone"],
        energy_mj=sum(row["energy_mj"] for row in intervals),
        attributed_mj=sum(row["energy_mj"] - row["unallocated_mj"] for row in intervals),
        operational_g=_grams(intervals, "energy_mj") if known else None,
        unallocated_g=_grams(intervals, "unallocated_mj") if known else None,
        nature=Nature.weakest([Nature(row["nature"]) for row in intervals]),
    )


def _grams(intervals: list[Row], column: str) -> float:
    return sum(grams(row[column], row["intensity"], row["pue"]) for row in intervals)


def _owner_interval(row: Row, share: Row) -> OwnerInterval:
    return OwnerInterval(
        owner_kind=cast(Literal["job", "model"], share["owner_kind"]),
        owner_id=share["owner_id"],
        attempt=share["attempt"],
        node=row["node"],
        zone=row["zone"],
        start_s=row["start_s"],
        end_s=row["end_s"],
        energy_mj=share["energy_mj"],
        intensity_g_per_kwh=row["intensity"],
        pue=row["pue"],
        nature=Nature(row["nature"]),
        source=row["source"],
    )
