"""`eco-ray job ...`: submit, look, steer. Looking reads the store and never imports ray."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eco_ray.cli.job_tables import show_explanation, show_plan
from eco_ray.cli.options import common_options
from eco_ray.cli.output import emit, print_table, when
from eco_ray.config import Settings
from eco_ray.core.units import J_PER_KWH
from eco_ray.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from eco_ray.core.jobs import Job
    from eco_ray.core.store_port import Store


@click.group()
def job() -> None:
    """Submit, plan, watch and steer jobs."""


def _store(settings: Settings) -> Store:
    from eco_ray.store import open_store

    return open_store(settings.store_url, create=False)


def _job(store: Store, job_id: str) -> Job:
    found = store.get_job(job_id)
    if found is None:
        raise NotFoundError(f"no job {job_id!r}; `eco-ray job list` shows the jobs")
    return found


@job.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--id", "job_id", help="Its id; default: its name and twelve random characters.")
@click.option("--deadline", help="Latest finish: 6h from now, or 2026-11-23T08:00Z.")
@click.option("--policy", help="eco, run-now or another of docs/job-file.md, in place of the file's.")
@click.option("--wait", is_flag=True, help="Wait for its end; the exit code is then 1 if it failed.")
@common_options
def submit(
    file: Path, job_id: str | None, deadline: str | None, policy: str | None, wait: bool, settings: Settings
) -> None:
    """Submit the job of a YAML file; prints its id."""
    from eco_ray.job_file import load_job_file

    described = load_job_file(file, {"deadline": deadline, "policy": policy})
    from eco_ray.on_ray.client import Client  # after the check: a wrong file is told at once

    client = Client(settings)
    job_id = client.submit(described, job_id)
    if wait:
        _wait(client.settings, job_id, None)
    record = client.job(job_id)
    emit(settings, {"id": job_id, "state": str(record.state), "reason": str(record.reason), "message": record.message})


@job.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--deadline", help="Latest finish: 6h from now, or 2026-11-23T08:00Z.")
@click.option("--policy", help="eco, run-now or another of docs/job-file.md, in place of the file's.")
@common_options
def plan(file: Path, deadline: str | None, policy: str | None, settings: Settings) -> None:
    """Say when and where a job would run, what that saves, and what else it could do, without submitting it."""
    from eco_ray.job_file import load_job_file

    described = load_job_file(file, {"deadline": deadline, "policy": policy})
    from eco_ray.on_ray.client import Client

    document = Client(settings).plan(described)
    if settings.output == "table":
        show_plan(document)
    else:
        emit(settings, document)


@job.command("list")
@click.option("--state", "states", multiple=True, help="Only jobs in this state; may be repeated.")
@click.option("--limit", type=int, help="At most so many, the newest.")
@common_options
def list_jobs(states: tuple[str, ...], limit: int | None, settings: Settings) -> None:
    """All jobs, the newest first."""
    from eco_ray.core.jobs import JobState

    unknown = [state for state in states if state not in list(JobState)]
    if unknown:
        raise UsageError(f"no state {unknown[0]!r}; the states are {', '.join(JobState)}")
    rows = _store(settings).list_jobs([JobState(s) for s in states] or None, limit)
    if settings.output == "table":
        shown = [
            {
                "id": row.id,
                "state": str(row.state),
                "tries": row.attempts,
                "done": f"{row.progress:.0%}" if row.progress is not None else "-",
                "submitted": when(row.submitted_s),
                "deadline": when(row.deadline_s),
                "why": row.message,
            }
            for row in rows
        ]
        print_table(shown, "no jobs; `eco-ray job submit FILE.yaml` submits one")
    else:
        emit(settings, [{**asdict(row), "state": str(row.state)} for row in rows])


@job.command()
@click.argument("job_id")
@common_options
def status(job_id: str, settings: Settings) -> None:
    """State, plan and attempts of a job."""
    found = _job(_store(settings), job_id)
    facts = {
        "id": found.id,
        "name": found.spec.name,
        "tenant": found.spec.tenant,
        "state": str(found.state),
        "reason": str(found.reason),
        "message": found.message,
        "progress": found.progress,
        "submitted": when(found.submitted_s),
        "deadline": when(found.spec.deadline_s),
        "resumes": found.resumes,
        "plan": [f"{s.node} ({s.zone}) {when(s.start_s)} to {when(s.end_s)}" for s in found.plan.segments]
        if found.plan
        else [],
        "attempts": [
            f"{a.number}: {a.state} on {a.node} ({a.zone}) {when(a.started_s)} to {when(a.ended_s)}"
            for a in found.attempts
        ],
        "metrics": found.metrics,
    }
    emit(settings, facts)


@job.command()
@click.argument("job_id")
@common_options
def explain(job_id: str, settings: Settings) -> None:
    """Why a job is where it is, until when, what would change that, and what happened to it so far."""
    from eco_ray.core.clock import Clock
    from eco_ray.core.unblock import explain_job

    store = _store(settings)
    found = _job(store, job_id)
    events = [{"time": when(e.time_s), "event": e.kind, "what": e.message} for e in store.job_log(job_id)]
    now_s = Clock(**(store.get_meta("clock") or {})).grid_s(time.time())
    document = explain_job(found, now_s)
    if settings.output == "table":
        show_explanation(document, events, when(now_s))
    else:
        emit(settings, {**document, "events": events})


@job.command()
@click.argument("job_id")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@common_options
def logs(job_id: str, follow: bool, settings: Settings) -> None:
    """Output of a job's attempts."""
    from eco_ray.on_ray.logs import Read, follow_logs

    store = _store(settings)
    found = _job(store, job_id)
    read: Read = lambda _attempt, offset: (offset, b"")  # noqa: E731 - an ended job needs no cluster
    if not found.state.is_final:
        from eco_ray.on_ray.client import Client

        read = Client(settings).read_log
    for text in follow_logs(settings.state_dir, lambda: _job(store, job_id), read, follow and not found.state.is_final):
        sys.stdout.write(text)
        sys.stdout.flush()


@job.command()
@click.argument("job_id")
@click.option("--timeout", type=float, help="Give up after so many seconds.")
@common_options
def wait(job_id: str, timeout: float | None, settings: Settings) -> None:
    """Wait until a job has ended; the exit code is 0 if it succeeded, else 1."""
    _wait(settings, job_id, timeout)


def _wait(settings: Settings, job_id: str, timeout_s: float | None) -> None:
    store = _store(settings)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    last: Any = None
    while True:
        found = _job(store, job_id)
        if (found.state, found.message) != last and settings.output == "table":
            last = (found.state, found.message)
            click.echo(f"{found.id}: {found.state}: {found.message}", err=True)
        if found.state.is_final:
            emit(settings, {"id": found.id, "state": str(found.state), "message": found.message})
            sys.exit(0 if found.state == "succeeded" else 1)
        if deadline is not None and time.monotonic() > deadline:
            click.echo(f"Error: job {job_id} is still {found.state} after {timeout_s:g} s: {found.message}", err=True)
            sys.exit(1)
        time.sleep(0.2)


def _steer(name: str, text: str, done: str) -> None:
    @job.command(name, help=text)
    @click.argument("job_id")
    @common_options
    def command(job_id: str, settings: Settings) -> None:
        _job(_store(settings), job_id)
        from eco_ray.on_ray.client import Client

        getattr(Client(settings), name)(job_id)
        emit(settings, {"id": job_id, "message": done})


_steer("cancel", "End a job.", "is being cancelled")
_steer(
    "suspend", "Suspend a job until it is resumed: it writes a checkpoint and leaves its node.", "is being suspended"
)


@job.command()
@click.argument("job_id")
@click.option("--budget-g", type=float, help="From now on it may emit so much in all [g].")
@click.option("--budget-kwh", type=float, help="From now on it may use so much in all [kWh].")
@common_options
def resume(job_id: str, budget_g: float | None, budget_kwh: float | None, settings: Settings) -> None:
    """Let a suspended job go on; one that has spent its budget needs a larger one."""
    _job(_store(settings), job_id)
    from eco_ray.on_ray.client import Client

    Client(settings).resume(job_id, budget_g, None if budget_kwh is None else budget_kwh * J_PER_KWH)
    emit(settings, {"id": job_id, "message": "goes on as planned"})
