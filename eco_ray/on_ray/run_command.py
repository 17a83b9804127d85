"""What `eco-ray run -- CMD` does: queue CMD as a job, show its output, end as it ends.

As the entrypoint of a stock Ray job it takes that job's id, its runtime environment and the `eco.*` keys of its
metadata. The driver that waits holds no CPU or GPU. Where no controller is to be found it runs CMD at once: a missing
carbon service never keeps anybody's work from running.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from eco_ray.config import Settings
from eco_ray.core.jobs import JobState
from eco_ray.errors import UnreachableError
from eco_ray.job_file import JobFile, job_from_flags
from eco_ray.on_ray.client import Client
from eco_ray.on_ray.logs import follow_logs

_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def run_command(command: list[str], flags: Mapping[str, str | None], settings: Settings) -> int:
    """Run the command as a job; returns its exit code. Raises UsageError or InfeasibleError before anything runs."""
    config = _ray_job_config()
    metadata = {str(key): str(value) for key, value in (config.get("metadata") or {}).items()}
    job = job_from_flags(shlex.join(command), flags, metadata)
    runtime_env = {
        k: v for k, v in (config.get("runtime_env") or {}).items() if k in ("working_dir", "pip", "env_vars")
    }
    if runtime_env:
        job = job.model_copy(update={"runtime_env": {**runtime_env, **job.runtime_env}})
    elif job.workdir is None:
        job = job.model_copy(update={"workdir": str(Path.cwd())})
    try:
        client = Client(settings)
    except UnreachableError as error:
        print(f"eco-ray: {error}\neco-ray: runs at once instead", file=sys.stderr, flush=True)  # noqa: T201
        os.execvp(command[0], command)  # noqa: S606 - the user's own command, in place of this process
    submission_id = metadata.get("job_submission_id")
    return _run_as_job(client, job, submission_id or f"{job.name}-{secrets.token_hex(6)}", submission_id)


def _run_as_job(client: Client, job: JobFile, job_id: str, nonce: str | None) -> int:
    stop_asked = False

    def on_sigterm(_number: int, _frame: FrameType | None) -> None:
        nonlocal stop_asked
        stop_asked = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, on_sigterm)
    client.submit(job, job_id, nonce)
    _say(f"job {job_id}: {client.job(job_id).message}")
    try:
        for text in follow_logs(client.settings.state_dir, lambda: client.job(job_id), client.read_log, follow=True):
            sys.stdout.write(text)
            sys.stdout.flush()
    except KeyboardInterrupt:
        if not stop_asked:  # Ctrl-C detaches
            _say(f"detached from job {job_id}, which goes on; `eco-ray job cancel {job_id}` ends it")
            return 130
        client.cancel(job_id)
        _say(f"job {job_id} is being cancelled")
        return 143
    ended = client.job(job_id)
    _say(f"job {job_id}: {ended.message}")
    if ended.state is JobState.SUCCEEDED:
        return 0
    code = ended.attempts[-1].exit_code if ended.attempts else None
    return code or 1


def _ray_job_config() -> dict[str, Any]:
    try:
        value = json.loads(os.environ.get(_JOB_CONFIG, "{}"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _say(text: str) -> None:
    print(f"eco-ray: {text}", file=sys.stderr, flush=True)  # noqa: T201 - a message to whoever watches
