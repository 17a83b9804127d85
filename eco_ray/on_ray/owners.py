"""Whose a process on a Ray node is: found from its environment and the name that Ray gives it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from eco_ray.core.ledger import OwnerKind
from eco_ray.power.processes import ProcessInfo, ProcessTable

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
#: between the application and the model that its replica says it runs: stands in no name
_RUNS = "\t"
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
#: Ray tells a process by it which GPUs are its own: indices, or UUIDs
VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
_REPLICA_TITLE = "ray::ServeReplica:"
#: of a job, an application or a device
_MAX_NAME, _MAX_ATTEMPT = 200, 2**31


def is_name(text: object) -> bool:
    """Whether the ledger takes it as an owner: one that it refuses would cost the rows of the whole node."""
    return isinstance(text, str) and 0 < len(text) <= _MAX_NAME and text.isprintable()


def served_by(app: str, model: str = "") -> str:
    """What a replica of an application is called until it is booked; `model`: as it says itself, empty: it does not."""
    return f"{SERVE_APP_PREFIX}{app}{_RUNS}{model}" if model else SERVE_APP_PREFIX + app


def app_and_model(owner_id: str) -> tuple[str, str]:
    """The two of `served_by`."""
    app, _, model = owner_id.removeprefix(SERVE_APP_PREFIX).partition(_RUNS)
    return app, model


class ReplicaFacts(Protocol):
    """What a replica says of itself."""

    @property
    def app(self) -> str:
        """Its Serve application."""
        ...

    @property
    def owner(self) -> Owner:
        """As the agent names it."""
        ...


class Owner(NamedTuple):
    """The job attempt or model that a process works for."""

    kind: OwnerKind
    id: str
    attempt: int
    #: replica of a model; empty: not known, or a job
    part: str = ""


class OwnerFinder:
    """Looks processes up; asked for every process at every reading, so it reads a title only when it may change."""

    def __init__(
        self,
        table: ProcessTable,
        proc: Path = Path("/proc"),
        replica_of: Callable[[tuple[int, int]], ReplicaFacts | None] = lambda process_id: None,
    ) -> None:
        """`replica_of`: the replica that a process (pid, start) says it is; None where it says nothing."""
        self._table = table
        self._replica_of = replica_of
        self._proc = proc
        #: GPUs that Ray gave to the attempts that were seen: indices or UUIDs, of all their processes together, as each
        #: worker of a job may see only its own
        self.devices: dict[Owner, tuple[str, ...]] = {}

    def __call__(self, process: ProcessInfo) -> Owner | None:
        """The owner of a process itself; None: ask its parent."""
        env = self._table.environ_of(process, (_JOB, _ATTEMPT, _JOB_CONFIG, _RAY_JOB, VISIBLE_DEVICES))
        if is_name(env.get(_JOB)):
            owner = Owner("job", env[_JOB], _int(env.get(_ATTEMPT, "0")))
            if env.get(VISIBLE_DEVICES):
                seen = (*self.devices.get(owner, ()), *(device.strip() for device in env[VISIBLE_DEVICES].split(",")))
                self.devices[owner] = tuple(dict.fromkeys(seen))
            return owner
        if _JOB_CONFIG in env:
            submission = _submission_id(env[_JOB_CONFIG])
            if submission:
                return Owner("job", submission, 0)
        if is_name(env.get(_RAY_JOB)):
            return self._worker(process, env[_RAY_JOB])
        return None

    def _worker(self, process: ProcessInfo, ray_job_id: str) -> Owner | None:
        title = self._title(process)
        if title.startswith(_REPLICA_TITLE):
            app = title.removeprefix(_REPLICA_TITLE).split(":")[0]
            return self._served(app, process.id) if is_name(app) else None
        if title.startswith(_SYSTEM_TITLES):
            return None
        return Owner("job", RAY_JOB_PREFIX + ray_job_id, 0)

    def _served(self, app: str, process_id: tuple[int, int]) -> Owner:
        """A replica of an application: the title says of which, its file everything else."""
        replica = self._replica_of(process_id)
        return replica.owner if replica is not None and replica.app == app else Owner("model", served_by(app), 0)

    def _title(self, process: ProcessInfo) -> str:
        try:
            return (self._proc / str(process.pid) / "cmdline").read_bytes()[:200].decode(errors="replace")
        except OSError:
            return ""


def _submission_id(config: str) -> str | None:
    try:
        value = json.loads(config).get("metadata", {}).get("job_submission_id")
    except (ValueError, AttributeError, RecursionError):
        return None
    return value if is_name(value) else None


def _int(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) <= 10 and int(text) <= _MAX_ATTEMPT else 0
