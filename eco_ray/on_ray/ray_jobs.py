"""Which of Ray's jobs is whose, and what reports say of those that are not ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from eco_ray.core.clock import Clock
from eco_ray.core.store_port import Store


class RayJobs:
    """Ray's job list as last seen."""

    def __init__(self, store: Store, clock: Clock, is_job: Callable[[str], bool]) -> None:
        self._store = store
        self._clock = clock
        self._is_job = is_job
        #: Ray's job id -> submission id; None for drivers outside the job API and our own
        self.submissions: dict[str, str | None] = {}
        self._plain: dict[str, Any] = dict(store.get_meta("ray_jobs") or {})

    def note(self, listed: Mapping[str, tuple[str | None, Mapping[str, Any]]], own_job_id: str) -> None:
        """Take Ray's list in, and keep the facts of plain Ray jobs in the store when they changed."""
        self.submissions = {key: submission for key, (submission, _) in listed.items()}
        self.submissions.setdefault(own_job_id, None)
        plain = dict(self._plain)
        for submission, facts in listed.values():
            if submission is None or "eco_ray.job" in facts["metadata"] or self._is_job(submission):
                continue
            start, end = facts["start_wall_s"], facts["end_wall_s"]
            plain[submission] = {
                "name": submission,
                "state": facts["state"],
                "submitted_s": self._clock.grid_s(start) if start else None,
                "ended_s": self._clock.grid_s(end) if end else None,
            }
        if plain != self._plain:
            self._plain = plain
            self._store.put_meta("ray_jobs", plain)
