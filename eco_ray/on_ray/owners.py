"""Whose a process on a Ray node is: found from its environment and the name that Ray gives it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from eco_ray.core.ledger import OwnerKind
from eco_ray.power.procfs import ProcessInfo, ProcessTable

#: set by the launcher for each attempt
_JOB, _ATTEMPT = "ECO_RAY_JOB_ID", "ECO_RAY_ATTEMPT"
#: set by Ray for the driver of a submission
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
#: set by Ray for worker processes
_RAY_JOB = "RAY_JOB_ID"
#: what a usage's owner id starts with where only Ray's own job id is known; the controller translates it
RAY_JOB_PREFIX = "ray:"
#: the same for a Serve application
SERVE_APP_PREFIX = "serve-app:"
#: names that Ray gives to processes which serve everybody
_SYSTEM_TITLES = (
    "ray::IDLE",
    "ray::Controller",
    "ray::NodeAgent",
    "ray::ServeController",
    "ray::ProxyActor",
    "ray::JobSupervisor",
    "ray::DashboardAgent",
    "ray::RuntimeEnvAgent",
)
_REPLICA_TITLE = "ray::ServeReplica:"


class Owner(NamedTuple):
    """The job attempt or model that a process works for."""

    kind: OwnerKind
    id: str
    attempt: int


class OwnerFinder:
    """Looks processes up; asked for every process at every reading, so it reads a title only when it may change."""

    def __init__(self, table: ProcessTable, proc: Path = Path("/proc")) -> None:
        self._table = table
        self._proc = proc

    def __call__(self, process: ProcessInfo) -> Owner | None:
        """The owner of a process itself; None: ask its parent."""
        env = self._table.environ_of(process, (_JOB, _ATTEMPT, _JOB_CONFIG, _RAY_JOB))
        if _JOB in env:
            return Owner("job", env[_JOB], _int(env.get(_ATTEMPT, "0")))
        if _JOB_CONFIG in env:
            submission = _submission_id(env[_JOB_CONFIG])
            if submission:
                return Owner("job", submission, 0)
        if _RAY_JOB in env:
            return self._worker(process, env[_RAY_JOB])
        return None

    def _worker(self, process: ProcessInfo, ray_job_id: str) -> Owner | None:
        title = self._title(process)
        if title.startswith(_REPLICA_TITLE):
            return Owner("model", SERVE_APP_PREFIX + title.removeprefix(_REPLICA_TITLE).split(":")[0], 0)
        if title.startswith(_SYSTEM_TITLES):
            return None
        return Owner("job", RAY_JOB_PREFIX + ray_job_id, 0)

    def _title(self, process: ProcessInfo) -> str:
        try:
            return (self._proc / str(process.pid) / "cmdline").read_bytes()[:200].decode(errors="replace")
        except OSError:
            return ""


def _submission_id(config: str) -> str | None:
    try:
        value = json.loads(config).get("metadata", {}).get("job_submission_id")
    except (ValueError, AttributeError):
        return None
    return value if isinstance(value, str) else None


def _int(text: str) -> int:
    return int(text) if text.isdecimal() else 0
