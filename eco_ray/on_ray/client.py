"""What Python programs and the command line use to talk to the controller."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eco_ray.config import Settings, load_settings
from eco_ray.core.cluster import Resources
from eco_ray.core.jobs import Attempt, Job
from eco_ray.core.store_port import Store
from eco_ray.errors import EcoRayError, NotFoundError, UnreachableError
from eco_ray.job_file import JobFile, load_job_file
from eco_ray.on_ray.connection import cluster_of, connect, controller_handle
from eco_ray.on_ray.logs import CHUNK_BYTES
from eco_ray.on_ray.package import make_package
from eco_ray.store import open_store

#: how long a call may wait for the controller, which may be restarting [s]
_CALL_TIMEOUT_S = 60.0


class Client:
    """Submits, steers and watches jobs of one cluster.

    >>> client = Client()
    >>> job_id = client.submit("jobs/train_mnist.yaml")
    >>> client.wait(job_id).state
    """

    def __init__(self, settings: Settings | None = None) -> None:
        settings = settings or load_settings()
        self.record = cluster_of(settings.state_dir, settings.address)
        connect(self.record)
        self._controller = controller_handle()
        self._store: Store | None = None
        places = self._call(lambda c: c.places.remote())
        #: with the state directory and store of the cluster that answered
        self.settings = settings.model_copy(update={k: Path(v) if k == "state_dir" else v for k, v in places.items()})

    @property
    def store(self) -> Store:
        """The cluster's store, for reading."""
        if self._store is None:
            self._store = open_store(self.settings.store_url)
        return self._store

    def submit(self, job: JobFile | str | Path, job_id: str | None = None, nonce: str | None = None) -> str:
        """Submit a job (a checked one, or the path of a job file); returns its id.

        The same id with the same nonce is the same submission, however often it is repeated.

        Raises UsageError for an invalid job or a duplicate id, InfeasibleError for a deadline or demand that cannot be
        met, NotFoundError for an unknown zone.
        """
        if not isinstance(job, JobFile):
            job = load_job_file(job)
        # 48 bits: with 24, three of 10,000 jobs of one name got an id that was taken
        job_id = job_id or f"{job.name}-{secrets.token_hex(6)}"
        nonce = nonce or secrets.token_hex(
            8
        )  # a call that Ray repeats after a controller restart is the same submission
        package = None
        if job.workdir is not None:
            package, content = make_package(Path(job.workdir), self.settings.max_package_mb)
            if not self._call(lambda c: c.has_package.remote(package)):
                self._call(lambda c: c.put_package.remote(package, content))
        self._call(lambda c: c.submit.remote(job_id, job, package, nonce))
        return job_id

    def plan(self, job: JobFile) -> dict[str, Any]:
        """When and where a job would run if it were submitted now. Raises as `submit`."""
        plan: dict[str, Any] = self._call(lambda c: c.plan.remote(job))
        return plan

    def read_log(self, attempt: Attempt, offset: int) -> tuple[int, bytes]:
        """Output of an attempt from an offset on, from its node; nothing where the node is gone."""
        name = attempt.submission_id
        found: tuple[int, bytes] = self._call(lambda c: c.read_log.remote(attempt.node, name, offset, CHUNK_BYTES))
        return found

    def cancel(self, job_id: str) -> None:
        """End a job."""
        self._call(lambda c: c.cancel.remote(job_id))

    def suspend(self, job_id: str) -> None:
        """Suspend a job until it is resumed."""
        self._call(lambda c: c.suspend.remote(job_id))

    def resume(self, job_id: str, budget_g: float | None = None, budget_j: float | None = None) -> None:
        """Let a suspended job go on, perhaps with other budgets [g, J]."""
        self._call(lambda c: c.resume.remote(job_id, budget_g, budget_j))

    def status(self) -> dict[str, Any]:
        """Facts about controller, clock and nodes."""
        facts: dict[str, Any] = self._call(lambda c: c.status.remote())
        return facts

    def job(self, job_id: str) -> Job:
        """The whole record of a job. Raises NotFoundError."""
        job = self.store.get_job(job_id)
        if job is None:
            raise NotFoundError(f"no job {job_id!r}; `eco-ray job list` shows the jobs")
        return job

    def wait(self, job_id: str, timeout_s: float | None = None) -> Job:
        """Wait until a job has ended; returns its record. Raises EcoRayError at the timeout."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            job = self.job(job_id)
            if job.state.is_final:
                return job
            if deadline is not None and time.monotonic() > deadline:
                raise EcoRayError(
                    f"job {job_id} is still {job.state} after {timeout_s:g} s ({job.message}); wait longer or look at "
                    f"`eco-ray job explain {job_id}`"
                )
            time.sleep(0.1)

    def put_model(self, app: str, reference: str, demand: Resources | None = None) -> None:
        """Account a Serve application's replicas to a model; `demand`: what Ray holds for each of them."""
        self._call(lambda c: c.put_model.remote(app, reference, demand))

    def note_served(self, facts: dict[str, Any]) -> None:
        """Keep what is known of a served model (name, version, requests, correct) for the report."""
        self._call(lambda c: c.note_served.remote(facts))

    def signal(self, zone: str) -> dict[str, Any] | None:
        """The intensity of a zone now with source, kind and nature; None: unknown."""
        signal: dict[str, Any] | None = self._call(lambda c: c.signal.remote(zone))
        return signal

    def examine(self) -> list[dict[str, Any]]:
        """What the agent of each node says: how its energy is known, which ports are open."""
        found: list[dict[str, Any]] = self._call(lambda c: c.examine.remote())
        return found

    def _call(self, method: Callable[[Any], Any]) -> Any:
        """Call the controller, also across a restart of it; errors of ours come back as what they are."""
        import ray
        from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayTaskError

        deadline = time.monotonic() + _CALL_TIMEOUT_S
        while True:
            try:
                return ray.get(method(self._controller), timeout=max(1.0, deadline - time.monotonic()))
            except RayTaskError as error:
                cause = error.cause
                raise (cause if isinstance(cause, EcoRayError) else error) from None
            except (ActorUnavailableError, ActorDiedError, GetTimeoutError) as error:
                if isinstance(error, ActorUnavailableError) and time.monotonic() <= deadline:
                    time.sleep(0.2)
                    continue
                raise UnreachableError(
                    f"the controller did not answer within {_CALL_TIMEOUT_S:g} s ({type(error).__name__}); "
                    "`eco-ray up` starts it again, jobs are kept"
                ) from error
