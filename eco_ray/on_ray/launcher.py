"""Attempts as Ray jobs: submit under a fixed id, look, stop, clean up. The only user of Ray's job API."""

from __future__ import annotations

import re
import shlex
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eco_ray.core.jobs import Attempt, Job
from eco_ray.errors import EcoRayError, UnreachableError
from eco_ray.on_ray.package import Packages
from eco_ray.train.fence import raise_fence
from eco_ray.train.storage import open_storage

#: shell syntax that `exec` in front of would change the meaning of
_SHELL_SYNTAX = re.compile(r"[;&|<>()`$*?{}\n!#~]|^\s*\w+=")
#: how much of an attempt's log is kept in the state directory [bytes]
LOG_KEPT_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class RayJobStatus:
    """What Ray's job API knows of a submission."""

    #: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED
    status: str
    exit_code: int | None
    message: str
    #: wall time of its end [s since epoch]
    ended_wall_s: float | None
    #: Ray's job id of its driver, once the driver has connected
    ray_job_id: str | None

    @property
    def is_final(self) -> bool:
        """Whether nothing of the driver runs any more."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")


def kept_log(state_dir: Path, job_id: str, submission_id: str) -> Path:
    """Where the end of an attempt's output is kept; beside it, in `.offset`, how much came before."""
    return state_dir / "logs" / job_id / f"{submission_id}.log"


def entrypoint_of(run: str) -> str:
    """The command for Ray's shell: `exec` lets SIGTERM reach the program itself instead of a shell around it."""
    try:
        shlex.split(run)
    except ValueError:
        return run
    return run if _SHELL_SYNTAX.search(run) or run.startswith("exec ") else f"exec {run}"


class Launcher:
    """Talks to Ray's job API at the dashboard. Thread-safe as far as `requests` is."""

    def __init__(self, dashboard_url: str, state_dir: Path, run_root: Path, checkpoint_url: str | None = None) -> None:
        """`checkpoint_url`: directory or fsspec URL of all jobs' checkpoints; None: in the state directory."""
        self._dashboard_url = dashboard_url
        self._checkpoints = (checkpoint_url or str(state_dir / "checkpoints")).rstrip("/")
        self._state_dir = state_dir
        self._run_root = run_root
        self._client: Any = None

    @property
    def client(self) -> Any:
        """Ray's JobSubmissionClient, connected on first use."""
        if self._client is None:
            from ray.job_submission import JobSubmissionClient

            try:
                self._client = JobSubmissionClient(self._dashboard_url)
            except (ConnectionError, RuntimeError) as error:
                raise UnreachableError(
                    f"no Ray dashboard at {self._dashboard_url}: {error}; is the cluster up (`eco-ray status`)?"
                ) from error
        return self._client

    def run_dir(self, node: str, attempt: Attempt) -> Path:
        """Node-local directory through which an attempt and its node agent talk."""
        return self._run_root / node / attempt.submission_id

    def checkpoint_dir(self, job_id: str) -> str:
        """Directory or URL that all attempts of a job share."""
        return f"{self._checkpoints}/{job_id}"

    def start(self, job: Job, attempt: Attempt, ray_node_id: str) -> None:
        """Launch an attempt on its node. A second call with the same attempt finds the first one and is content."""
        checkpoints = self.checkpoint_dir(job.id)
        raise_fence(open_storage(checkpoints), attempt.number)
        runtime_env = dict(job.spec.runtime_env)
        runtime_env["env_vars"] = {
            **runtime_env.get("env_vars", {}),
            "ECO_RAY_JOB_ID": job.id,
            "ECO_RAY_ATTEMPT": str(attempt.number),
            "ECO_RAY_WORKERS": str(attempt.workers),
            "ECO_RAY_CPUS": f"{job.spec.demand.cpus:g}",
            "ECO_RAY_RUN_DIR": str(self.run_dir(attempt.node, attempt)),
            "ECO_RAY_CHECKPOINT_DIR": checkpoints,
        }
        if any(earlier.checkpoint_s is not None for earlier in job.attempts):
            runtime_env["env_vars"]["ECO_RAY_HAS_CHECKPOINT"] = "1"  # so that it does not begin anew without it
        if job.spec.demand.gpus:  # so that device numbers mean the same to CUDA and to NVML, which meters them
            runtime_env["env_vars"].setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        if job.spec.package:
            runtime_env["working_dir"] = str(Packages(self._state_dir).path(job.spec.package))
        demand = job.spec.demand * attempt.workers
        try:
            self.client.submit_job(
                entrypoint=entrypoint_of(job.spec.run),
                submission_id=attempt.submission_id,
                runtime_env=runtime_env,
                metadata={"eco_ray.job": job.id, "eco_ray.attempt": str(attempt.number)},
                entrypoint_num_cpus=demand.cpus or None,
                entrypoint_num_gpus=demand.gpus or None,
                entrypoint_memory=int(demand.memory_gb * 1e9) or None,
                entrypoint_label_selector={"ray.io/node-id": ray_node_id},
            )
        except RuntimeError as error:
            if "already exists" in str(error) or self.status(attempt.submission_id) is not None:
                return
            raise EcoRayError(f"Ray refused attempt {attempt.submission_id}: {_last_line(str(error))}") from error

    def status(self, submission_id: str) -> RayJobStatus | None:
        """What Ray knows of a submission; None: nothing."""
        try:
            info = self.client.get_job_info(submission_id)
        except RuntimeError as error:
            if _is_unknown(error):
                return None
            raise
        return RayJobStatus(
            str(info.status.value if hasattr(info.status, "value") else info.status),
            info.driver_exit_code,
            _last_line(info.message or ""),
            info.end_time / 1000 if info.end_time else None,
            info.job_id,
        )

    def stop(self, submission_id: str) -> None:
        """Ask Ray to end a submission: SIGTERM, and SIGKILL after its grace time."""
        try:
            self.client.stop_job(submission_id)
        except RuntimeError as error:
            if not _is_unknown(error):
                raise

    def take_back(self, submission_id: str) -> None:
        """End a submission of which nothing has begun. Ray cannot: its stop would wait until it has (2.60).

        Its supervisor, an actor that waits for a node or for its environment, is killed; Ray's job API then calls it
        failed. One that has begun, or that Ray does not know yet, is left alone.
        """
        import ray
        from ray.dashboard.modules.job.common import JOB_ACTOR_NAME_TEMPLATE, SUPERVISOR_ACTOR_RAY_NAMESPACE
        from ray.util import state as ray_state

        name = JOB_ACTOR_NAME_TEMPLATE.format(job_id=submission_id)
        for actor in ray_state.list_actors(self._dashboard_url, filters=[("name", "=", name)], limit=10):
            if actor.state in ("DEPENDENCIES_UNREADY", "PENDING_CREATION"):
                with suppress(ValueError):  # it ended meanwhile
                    ray.kill(ray.get_actor(name, namespace=SUPERVISOR_ACTOR_RAY_NAMESPACE), no_restart=True)

    def ray_jobs(self) -> dict[str, tuple[str | None, dict[str, Any]]]:
        """All Ray jobs: Ray's job id (submission id until a driver connects) -> (submission id or None, facts)."""
        found: dict[str, tuple[str | None, dict[str, Any]]] = {}
        for info in self.client.list_jobs():
            facts = {
                "state": str(info.status.value if hasattr(info.status, "value") else info.status),
                "start_wall_s": info.start_time / 1000 if info.start_time else None,
                "end_wall_s": info.end_time / 1000 if info.end_time else None,
                "entrypoint": info.entrypoint,
                "metadata": info.metadata or {},
            }
            found[info.job_id or info.submission_id] = (info.submission_id, facts)
        return found

    def keep_log(self, job_id: str, submission_id: str, offset: int, content: bytes) -> None:
        """Keep the end of an attempt's output in the state directory, where it outlives the cluster."""
        path = kept_log(self._state_dir, job_id, submission_id)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.with_suffix(".offset").write_text(str(offset))
        path.write_bytes(content)

    def remove_leftovers(self, submission_id: str) -> int:
        """Kill detached actors and remove placement groups that a finished submission left; returns how many."""
        import ray
        from ray.util import state as ray_state
        from ray.util.placement_group import PlacementGroup, remove_placement_group

        status = self.status(submission_id)
        if status is None or not status.ray_job_id:
            return 0  # its driver never joined Ray, so it made nothing there
        removed = 0
        # a detached actor has a name; the nameless children that it owns go with it
        theirs = [("job_id", "=", status.ray_job_id), ("state", "!=", "DEAD")]
        for actor in ray_state.list_actors(self._dashboard_url, filters=theirs, limit=1000):
            if actor.name:
                with suppress(ValueError):  # it ended meanwhile
                    ray.kill(ray.get_actor(actor.name, namespace=actor.ray_namespace), no_restart=True)
                    removed += 1
        groups = ray_state.list_placement_groups(
            self._dashboard_url,
            filters=[("creator_job_id", "=", status.ray_job_id), ("state", "!=", "REMOVED")],
            limit=1000,
        )
        for group in groups:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(group.placement_group_id)))
            removed += 1
        return removed

    def wait_final(self, submission_id: str, timeout_s: float) -> RayJobStatus | None:
        """Wait until a submission is over; its status then, or at the end of the timeout."""
        deadline = time.monotonic() + timeout_s
        while True:
            status = self.status(submission_id)
            if status is None or status.is_final or time.monotonic() > deadline:
                return status
            time.sleep(0.1)


def _is_unknown(error: Exception) -> bool:
    """Whether Ray's answer says that it does not know the submission."""
    return "status code 404" in str(error)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""
