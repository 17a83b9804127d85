"""A cluster behind the control API for tests: the real controller on a store in memory, and nothing of Ray."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from service_cases import Got
from test_controller import Cluster

from eco_ray.core.clock import Clock
from eco_ray.core.jobs import Attempt, AttemptState, Job, JobSpec, JobState, Reason
from eco_ray.core.store_port import LogEntry
from eco_ray.grid import ModelledProfile
from eco_ray.job_model import JobFile
from eco_ray.on_ray.control_port import ClusterControl
from eco_ray.on_ray.controller import Controller
from eco_ray.on_ray.launcher import kept_log
from eco_ray.service.control.app import ControlApp
from eco_ray.service.control.limits import Limits
from eco_ray.service.control.port import NumberedEntry
from eco_ray.store.memory import MemoryStore

BASE = "/api/v1"
JOB = {"name": "train", "run": "python train.py"}
#: of streams in tests: they look often, and end soon
QUICK = Limits(poll_s=0.01, heartbeat_s=0.03, stream_s=5.0, chunk_bytes=16)


class LogOfAll:
    """What happened to all jobs: the entries of the store, numbered as they came in here."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._known: list[LogEntry] = []

    def _entries(self) -> list[LogEntry]:
        there = [entry for line in self._store.list_jobs()[::-1] for entry in self._store.job_log(line.id)]
        known = {id(entry) for entry in self._known}
        self._known += [entry for entry in there if id(entry) not in known]
        return self._known

    def events(self, tenant: str | None, after: int, limit: int) -> list[NumberedEntry]:
        tenants = {line.id: line.tenant for line in self._store.list_jobs()}
        numbered = [NumberedEntry(number, entry) for number, entry in enumerate(self._entries(), 1)]
        mine = [one for one in numbered if tenant in (None, tenants[one.entry.job_id])]
        return [one for one in mine if one.number > after][:limit]

    def last_event(self) -> int:
        return len(self._entries())


class Acting:
    """The controller as `on_ray.client.Client` calls it, begun when it is first asked."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._controller: Controller | None = None
        #: what attempts have written, by their id
        self.output: dict[str, bytes] = {}

    @property
    def controller(self) -> Controller:
        if self._controller is None:
            self._controller = self._cluster.controller()
        return self._controller

    def restart(self) -> None:
        self.controller.stop()
        self._controller = None

    def submit(self, job: JobFile, job_id: str, nonce: str) -> str:
        return self.controller.submit(job_id, job, None, nonce)

    def plan(self, job: JobFile) -> dict[str, Any]:
        return self.controller.plan(job)

    def cancel(self, job_id: str) -> None:
        self.controller.cancel(job_id)

    def suspend(self, job_id: str) -> None:
        self.controller.suspend(job_id)

    def resume(self, job_id: str, budget_g: float | None, budget_j: float | None) -> None:
        self.controller.resume(job_id, budget_g, budget_j)

    def read_log(self, attempt: Attempt, offset: int) -> tuple[int, bytes]:
        return offset, self.output.get(attempt.submission_id, b"")[offset:]


class Case:
    """The API of one cluster."""

    def __init__(self, folder: Path, limits: Limits = QUICK, **more: Any) -> None:
        self.folder = folder
        self.cluster = Cluster(folder)
        self.store = self.cluster.store
        self.acts = Acting(self.cluster)
        self.grid = ModelledProfile()
        self.control = ClusterControl(self.store, self.acts, LogOfAll(self.store), Clock(1.0, 0.0, 0.0), folder)
        self.app = ControlApp(self.control, self.grid, limits=limits, **more)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Got:
        """One request; a body that is no text or bytes is sent as JSON."""
        return ask(self.app, method, path, body, **headers)

    def put(self, job_id: str, submitted_s: float = 0.0, tenant: str = "vision", **changes: Any) -> Job:
        """A job that is there, whatever the controller knows."""
        made = Job(job_id, JobSpec("train", "true", submitted_s + 9e9, tenant=tenant), JobState.QUEUED,
                   Reason.PENDING_EVALUATION, "waits", submitted_s)  # fmt: skip
        self.store.save_jobs([replace(made, **changes)], [LogEntry(submitted_s, job_id, "submitted", "was submitted")])
        return made

    def keep_log(self, job_id: str, submission_id: str, content: bytes, first: int = 0) -> None:
        path = kept_log(self.folder, job_id, submission_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".offset").write_text(str(first))
        path.write_bytes(content)


def attempt(number: int, state: AttemptState = AttemptState.RUNNING, ended_s: float | None = None) -> Attempt:
    return Attempt(number, f"a-{number}", "de-1", "DE", state, 0.0, ended_s=ended_s)


def ask(app: Any, method: str, path: str, body: Any = None, **headers: str) -> Got:
    return asyncio.run(ask_async(app, method, path, body, **headers))


async def ask_async(app: Any, method: str, path: str, body: Any = None, **headers: str) -> Got:
    """One request without a server; a stream is read to its end."""
    named = {"host": "127.0.0.1"} | {name.replace("_", "-").lower(): value for name, value in headers.items()}
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    if body is not None:
        named.setdefault("content-type", "application/json")
    (path, _, query), sent, left = path.partition("?"), [], [content]

    async def receive() -> dict[str, Any]:
        if not left:  # it stays
            await asyncio.Event().wait()
        return {"type": "http.request", "body": left.pop(), "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    pairs = [(name.encode(), value.encode("latin-1")) for name, value in named.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": pairs, "query_string": query.encode()}
    await app(scope, receive, send)
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Got(sent[0]["status"], told, b"".join(message["body"] for message in sent[1:]))


@contextmanager
def case(folder: Path, limits: Limits = QUICK, **more: Any) -> Iterator[Case]:
    made = Case(folder, limits, **more)
    try:
        yield made
    finally:
        made.cluster.stop()


def following(got: Got) -> str:
    """Path and query of the next page; empty: there is none."""
    link = got.headers.get("link", "")
    return link[1:].partition(">")[0]


def events(body: bytes) -> list[Mapping[str, Any]]:
    """Of a stream: what has data."""
    found = []
    for block in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "data" in fields:
            found.append({**fields, "data": json.loads(fields["data"])})
    return found
