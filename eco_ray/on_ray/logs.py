"""Output of a job's attempts, from the state directory once they have ended, from Ray while they run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from eco_ray.config import Settings
from eco_ray.core.jobs import Attempt, Job
from eco_ray.errors import EcoRayError
from eco_ray.on_ray.connection import cluster_of
from eco_ray.on_ray.launcher import Launcher


def follow_logs(settings: Settings, get_job: Callable[[], Job], follow: bool) -> Iterator[str]:
    """Pieces of output, attempt after attempt; with `follow` until the job has ended."""
    launcher: Launcher | None = None
    seen: dict[str, int] = {}
    while True:
        job = get_job()
        for attempt in job.attempts:
            text = _kept(settings, job.id, attempt)
            if text is None:
                try:
                    launcher = launcher or _launcher(settings)
                    text = launcher.logs(attempt.submission_id)
                except EcoRayError:
                    text = ""  # the cluster is down, and nothing was kept
            start = seen.get(attempt.submission_id, 0)
            if len(text) > start:
                seen[attempt.submission_id] = len(text)
                yield text[start:]
        if not follow or (job.state.is_final and all(not a.state.is_live for a in job.attempts)):
            return
        time.sleep(0.5)


def _kept(settings: Settings, job_id: str, attempt: Attempt) -> str | None:
    path = settings.state_dir / "logs" / job_id / f"{attempt.submission_id}.log"
    return path.read_text() if not attempt.state.is_live and path.exists() else None


def _launcher(settings: Settings) -> Launcher:
    record = cluster_of(settings.state_dir, settings.address)
    record.activate()
    return Launcher(record.dashboard_url, settings.state_dir, settings.state_dir)
