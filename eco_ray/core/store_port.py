"""What a store has to do: jobs, the ledger, keys, what was moved and what was avoided. `store/` has the adapters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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
from eco_ray.core.transfers import Transfer


@dataclass(frozen=True, slots=True)
class LogEntry:
    """Something that happened to a job, for `job explain` and for replay."""

    time_s: float
    job_id: str
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class JobSummary:
    """A line of `job list`."""

    id: str
    name: str
    tenant: str
    state: JobState
    reason: str
    message: str
    submitted_s: float
    deadline_s: float
    attempts: int
    progress: float | None


class TransferLedger(Protocol):
    """Where it is written down what was moved."""

    def add_transfers(self, transfers: Iterable[Transfer]) -> int:
        """Append what was moved; ids that are already there are left out. Returns how many were new."""
        ...


class Store(TransferLedger, Protocol):
    """Jobs, ledger and settings of one cluster. Each call is one transaction: all of it is kept, or none."""

    def put_meta(self, key: str, value: Any) -> None:
        """Keep a JSON value under a key."""
        ...

    def get_meta(self, key: str) -> Any | None:
        """The JSON value under a key, or None."""
        ...

    def save_jobs(self, jobs: Iterable[Job], log: Iterable[LogEntry] = ()) -> None:
        """Insert or replace jobs (with attempts and plan), and append to the log."""
        ...

    def get_job(self, job_id: str) -> Job | None:
        """The whole job, or None."""
        ...

    def load_jobs(self, states: Sequence[JobState] | None = None, limit: int | None = None) -> list[Job]:
        """Whole jobs, in order of submission; all states by default. `limit`: at most so many, the newest."""
        ...

    def list_jobs(self, states: Sequence[JobState] | None = None, limit: int | None = None) -> list[JobSummary]:
        """Lines for a list, newest first: fast for tens of thousands of jobs."""
        ...

    def job_log(self, job_id: str) -> list[LogEntry]:
        """The log of one job, oldest first."""
        ...

    def add_intervals(self, intervals: Iterable[Interval]) -> int:
        """Append ledger rows; (node, boot_id, seq) that are already there are left out. Returns how many were new."""
        ...

    def add_corrections(self, corrections: Iterable[Correction]) -> int:
        """Append corrections of intervals that are there. Raises NotFoundError for another; returns how many."""
        ...

    def corrections(self) -> list[Correction]:
        """All corrections, oldest first."""
        ...

    def intervals_of(self, zone: str, start_s: float, end_s: float) -> list[tuple[str, str, int]]:
        """(node, boot_id, seq) of a zone's intervals that lie within [start_s, end_s] as a whole, oldest first."""
        ...

    def node_energy(self) -> list[NodeEnergy]:
        """Sums by node with corrections, in the order of node names."""
        ...

    def ledger_at_once(self) -> tuple[list[NodeEnergy], list[HourlyEnergy], list[OwnerInterval]]:
        """`node_energy`, `hourly` and `owner_intervals` of all, as of one moment, whatever is written meanwhile."""
        ...

    def owner_intervals(
        self,
        owner_kind: str | None = None,
        owner_id: str | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
    ) -> list[OwnerInterval]:
        """Shares with their interval and corrections, ordered by time; of intervals that start in [start_s, end_s)."""
        ...

    def hourly(self, start_s: float | None = None, end_s: float | None = None) -> list[HourlyEnergy]:
        """Who used what in each hour, and what nobody used, with corrections; of [start_s, end_s), by default of all.

        An interval over the turn of an hour, or over an end of the span, is split by time, exact to the millijoule.
        """
        ...

    def ledger_entries(self, start_s: float | None = None, end_s: float | None = None) -> Iterator[Mapping[str, Any]]:
        """Rows as they were written, with their hashes: a part of the chain without a gap that holds the whole span.

        The first item is `{"previous": HASH}`, the hash before the first entry.
        """
        ...

    def check_ledger(self) -> LedgerCheck:
        """Add up every interval and correction again, from the stored columns."""
        ...

    def verify_chain(self, expect_head: str | None = None) -> ChainCheck:
        """Make every hash again. `expect_head`: a hash that was noted down earlier must be among them."""
        ...

    def overlaps(self) -> tuple[Overlap, ...]:
        """Lives of a node's agent that overlap in time, at most a hundred pairs."""
        ...

    def transfers(self, start_s: float | None = None, end_s: float | None = None) -> list[Transfer]:
        """What was moved in [start_s, end_s), oldest first."""
        ...

    def add_avoided(self, rows: Iterable[Avoided]) -> int:
        """Append what caches avoided; ids that are already there are left out. Returns how many were new."""
        ...

    def avoided(self, start_s: float | None = None, end_s: float | None = None) -> list[Avoided]:
        """What caches avoided, of rows that start in [start_s, end_s), oldest first."""
        ...

    def save_keys(
        self, keys: Iterable[ApiKey], *, was: Iterable[ApiKey] = (), audit: Iterable[AuditEntry] = ()
    ) -> None:
        """Insert or replace API keys, and append to the audit log: all of it, or none.

        `was`: those that are replaced, as they were read. Raises EcoRayError where one is no longer so, or where one
        that is not in `was` is there: of two who change a key in the same moment, one does.
        """
        ...

    def get_key(self, key_id: str) -> ApiKey | None:
        """The API key with an id, or None."""
        ...

    def list_keys(self, tenant: str | None = None) -> list[ApiKey]:
        """API keys of a tenant or of all, in the order in which they were made."""
        ...

    def add_audit(self, entries: Iterable[AuditEntry]) -> None:
        """Append to the audit log."""
        ...

    def audit(
        self, start_s: float | None = None, end_s: float | None = None, limit: int | None = None
    ) -> list[AuditEntry]:
        """What was done in [start_s, end_s), in the order of the log. `limit`: at most so many, the newest."""
        ...

    def add_series(self, series: IntensitySeries) -> None:
        """Keep the actual intensity used for accounting; steps already there for zone and time stay as they are."""
        ...

    def series(self, zone: str) -> list[tuple[float, float]]:
        """Kept (time [s], intensity [g/kWh]) of a zone, ordered by time."""
        ...

    def signal_sources(self) -> list[Mapping[str, Any]]:
        """One row per zone: zone, source, kind, nature, step_s, updated_s (end of the newest kept step)."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...
