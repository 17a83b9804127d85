"""What was decided and is not in the database yet: it is saved first, and done only then, in the order of decisions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from eco_ray.core.actions import Action, StartAttempt
from eco_ray.core.jobs import Job
from eco_ray.core.store_port import LogEntry, Store
from eco_ray.errors import EcoRayError
from eco_ray.store.rows import job_row, log_row

log = logging.getLogger("eco_ray.controller")

T = TypeVar("T")

#: under which key the store has what replicas were granted
NEEDS = "serving_needs"


class Outbox:
    """Between decisions and deeds stands the database. While it is away, both wait here and none is forgotten."""

    def __init__(self, store: Store, perform: Callable[[list[Action]], None]) -> None:
        self._store = store
        self._perform = perform
        self._jobs: dict[str, Job] = {}
        self._entries: list[LogEntry] = []
        self._actions: list[Action] = []
        self._needs: Mapping[str, Any] | None = None

    def add(
        self,
        jobs: Iterable[Job],
        entries: Iterable[LogEntry],
        actions: Iterable[Action],
        needs: Mapping[str, Any] | None = None,
    ) -> None:
        """Take in what changed and what is to be done about it; of a job, the last state counts.

        `needs`: what replicas were granted, where that has changed.
        """
        self._needs = self._needs if needs is None else needs
        self._jobs |= {job.id: job for job in jobs}
        self._entries += entries
        self._actions += actions

    def send(self) -> None:
        """Save all, then do all. Raises the store's error where it is away; everything then waits for the next call."""
        if self._needs is not None:
            self._store.put_meta(NEEDS, self._needs)
            self._needs = None
        if self._jobs or self._entries:
            try:
                self._store.save_jobs(self._jobs.values(), self._entries)
            except Exception:
                if not self._drop_unfit():
                    raise
                self._store.save_jobs(self._jobs.values(), self._entries)
        actions = self._actions
        self._jobs, self._entries, self._actions = {}, [], []
        self._perform(actions)

    def withdraw(self, job_id: str) -> None:
        """Nothing that waits to be done for this job will be done."""
        self._actions = [action for action in self._actions if _job_id(action) != job_id]

    def _drop_unfit(self) -> bool:
        """Whether there was anything that no store takes; kept, it would hold up all others for ever."""
        unfit_jobs = {job_id for job_id, job in self._jobs.items() if _is_unfit(job_row, job)}
        sound = [entry for entry in self._entries if not _is_unfit(log_row, entry)]
        found = bool(unfit_jobs) or len(sound) < len(self._entries)
        self._jobs = {job_id: job for job_id, job in self._jobs.items() if job_id not in unfit_jobs}
        self._entries = sound
        return found


def _is_unfit(make_row: Callable[[T], object], what: T) -> bool:
    try:
        make_row(what)
    except (EcoRayError, ValueError, TypeError, OverflowError) as error:
        log.error("not saved, as no database takes it: %s", error)
        return True
    return False


def _job_id(action: Action) -> str:
    return action.job.id if isinstance(action, StartAttempt) else action.job_id
