"""What the control API asks of a cluster: looking goes to its store, acting to its controller.

Nothing makes one on Ray Serve yet. Events of all jobs come from what it is given: the store has no call for them yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from eco_ray.core.clock import Clock
from eco_ray.core.jobs import Attempt, Job, JobState
from eco_ray.core.ledger import HourlyEnergy
from eco_ray.core.store_port import JobSummary, Store
from eco_ray.core.units import MJ_PER_J
from eco_ray.job_model import JobFile
from eco_ray.on_ray.launcher import kept_log
from eco_ray.service.control.port import LogPart, NumberedEntry, Place

#: the output of an attempt that has ended is kept within so much, or not at all [grid s at speed 1]
_KEPT_WITHIN_S = 30.0


class Acts(Protocol):
    """What acts on a cluster: `on_ray.client.Client`."""

    def submit(self, job: JobFile, job_id: str, nonce: str) -> str:
        """Submit a job under this id."""
        ...

    def plan(self, job: JobFile) -> dict[str, Any]:
        """`job plan`."""
        ...

    def read_log(self, attempt: Attempt, offset: int) -> tuple[int, bytes]:
        """Output of an attempt from its node."""
        ...

    def cancel(self, job_id: str) -> None:
        """End a job."""
        ...

    def suspend(self, job_id: str) -> None:
        """Suspend a job."""
        ...

    def resume(self, job_id: str, budget_g: float | None, budget_j: float | None) -> None:
        """Let a job go on."""
        ...


class EventLog(Protocol):
    """What happened to all jobs, numbered."""

    def events(self, tenant: str | None, after: int, limit: int) -> list[NumberedEntry]:
        """As in `service.control.port.Control`."""
        ...

    def last_event(self) -> int:
        """As in `service.control.port.Control`."""
        ...


class ClusterControl:
    """service.control.port.Control of one cluster."""

    def __init__(
        self,
        store: Store,
        acts: Acts,
        events: EventLog,
        clock: Clock,
        state_dir: Path,
        *,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        """`wall_s()`: the time of day [s since epoch]."""
        self._store, self._acts, self._clock, self._state_dir, self._wall_s = store, acts, clock, state_dir, wall_s
        self.plan, self.cancel, self.suspend, self.resume = acts.plan, acts.cancel, acts.suspend, acts.resume
        self.events, self.last_event = events.events, events.last_event
        self.job, self.job_log = store.get_job, store.job_log

    def now_s(self) -> float:
        """Grid time [s since epoch]."""
        return self._clock.grid_s(self._wall_s())

    def submit(self, job_id: str, job: JobFile, nonce: str) -> None:
        """Take a job in."""
        self._acts.submit(job, job_id, nonce)

    def jobs(
        self, tenant: str | None, states: Collection[JobState], after: Place | None, limit: int
    ) -> list[JobSummary]:
        """Lines by falling place. Reads the list of all jobs: the store can neither look for a tenant nor go on yet."""
        lines = [line for line in self._store.list_jobs(list(states) or None) if tenant in (None, line.tenant)]
        lines.sort(key=_place, reverse=True)
        return [line for line in lines if after is None or _place(line) < after][:limit]

    def read_log(self, job: Job, attempt: Attempt, offset: int, limit: int) -> LogPart:
        """Output of an attempt: from the state directory once it has ended, from its node before."""
        path = kept_log(self._state_dir, job.id, attempt.submission_id)
        if not attempt.state.is_live and path.exists():
            first = int(path.with_suffix(".offset").read_text())
            start, end = max(first, offset), first + path.stat().st_size
            with path.open("rb") as file:
                file.seek(start - first)
                content = file.read(limit)
            return LogPart(start, content, start + len(content) >= end)
        start, content = self._acts.read_log(attempt, offset)
        return LogPart(start, content[:limit], not content and self._is_lost(job, attempt))

    def hourly(self, start_s: float | None, end_s: float | None) -> list[HourlyEnergy]:
        """Rows of the ledger by hour."""
        return self._store.hourly(start_s, end_s)

    def nodes(self) -> list[Mapping[str, Any]]:
        """`node list`."""
        cluster: dict[str, Any] = self._store.get_meta("cluster") or {}
        energy = {row.node: row for row in self._store.node_energy()}
        return [
            {
                "node": node["name"],
                "zone": node["zone"],
                "cpus": node["num_cpus"],
                "pue": node["pue"],
                "energy_j": energy[node["name"]].energy_mj / MJ_PER_J if node["name"] in energy else None,
                "unallocated_j": energy[node["name"]].unallocated_mj / MJ_PER_J if node["name"] in energy else None,
                "power_source": node["power_source"],
            }
            for node in cluster.get("nodes", [])
        ]

    def _is_lost(self, job: Job, attempt: Attempt) -> bool:
        """Whether the output of an attempt will not be kept any more: its node went before."""
        if attempt.state.is_live or attempt.ended_s is None:
            return False
        late = self.now_s() - attempt.ended_s > _KEPT_WITHIN_S * self._clock.speed
        return late or attempt.number < job.attempts[-1].number


def _place(line: JobSummary) -> Place:
    return Place(line.submitted_s, line.id)
