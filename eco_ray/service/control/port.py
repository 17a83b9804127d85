"""What the control API needs of a cluster. `on_ray/control_port.py` has the adapter."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from eco_ray.core.jobs import Attempt, Job, JobState
from eco_ray.core.ledger import HourlyEnergy
from eco_ray.core.store_port import JobSummary, LogEntry
from eco_ray.job_model import JobFile


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A job's place in the list. It never changes, whatever happens to the job: pages go on from one."""

    submitted_s: float
    id: str


@dataclass(frozen=True, slots=True)
class LogPart:
    """Some of an attempt's output."""

    #: where `content` begins [bytes]; above the offset that was asked for: what lies between is not kept
    start: int
    content: bytes
    #: whether nothing can come after it
    complete: bool


@dataclass(frozen=True, slots=True)
class NumberedEntry:
    """An entry of the log of all jobs. A number is never taken twice, and no smaller one is written after it."""

    number: int
    entry: LogEntry


class Control(Protocol):
    """A cluster. Methods block, and are called in threads, some at once.

    They raise UsageError for what is wrong or comes too late, InfeasibleError for what cannot be met, NotFoundError,
    and UnreachableError where somebody does not answer. `tenant`: whose; None: everybody's.
    """

    def now_s(self) -> float:
        """Grid time [s since epoch]."""
        ...

    def submit(self, job_id: str, job: JobFile, nonce: str) -> None:
        """Take a job in, and keep its nonce. The same id with the same nonce is the same submission.

        The job is durable when this returns, so that it is its own record of who submitted it: of two who submit the
        same id in the same moment with different nonces, one is refused with UsageError.
        """
        ...

    def plan(self, job: JobFile) -> Mapping[str, Any]:
        """`job plan`. Raises as `submit`."""
        ...

    def jobs(
        self, tenant: str | None, states: Collection[JobState], after: Place | None, limit: int
    ) -> list[JobSummary]:
        """Lines for a list by falling place, from below `after` on; no states: all. At most `limit`."""
        ...

    def job(self, job_id: str) -> Job | None:
        """The whole job, or None."""
        ...

    def job_log(self, job_id: str) -> list[LogEntry]:
        """The log of one job, oldest first."""
        ...

    def read_log(self, job: Job, attempt: Attempt, offset: int, limit: int) -> LogPart:
        """Output of an attempt from an offset on, at most `limit` bytes."""
        ...

    def cancel(self, job_id: str) -> None:
        """End a job."""
        ...

    def suspend(self, job_id: str) -> None:
        """Suspend a job until it is resumed."""
        ...

    def resume(self, job_id: str, budget_g: float | None, budget_j: float | None) -> None:
        """Let a suspended job go on, perhaps with other budgets [g, J]."""
        ...

    def events(self, tenant: str | None, after: int, limit: int) -> list[NumberedEntry]:
        """What happened to jobs, by growing number, from above `after` on. At most `limit`."""
        ...

    def last_event(self) -> int:
        """Number of the newest entry of any tenant; 0: there is none."""
        ...

    def hourly(self, start_s: float | None, end_s: float | None) -> list[HourlyEnergy]:
        """Rows of the ledger by hour, as `core.store_port.Store.hourly`."""
        ...

    def nodes(self) -> list[Mapping[str, Any]]:
        """`node list`."""
        ...
