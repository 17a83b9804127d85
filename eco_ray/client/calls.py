"""The verbs: what each asks, for both clients."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from eco_ray.api_model import (
    BASE,
    IDEMPOTENCY_KEY,
    Document,
    GridForecast,
    GridNow,
    JobExplanation,
    JobLine,
    JobPlan,
    JobStatus,
    LedgerLine,
    NodeLine,
    Steered,
    Submitted,
)
from eco_ray.client.core import Call

D = TypeVar("D", bound=Document)
#: a job: the keys of a job file, or the path of one
Job = Mapping[str, Any] | str | Path


def submit(job: Job, key: str | None) -> Call[Submitted]:
    """Asked again it is the same submission: by the key, which is made here where none is given."""
    headers = {IDEMPOTENCY_KEY: key or secrets.token_hex(16)}
    return Call("POST", f"{BASE}/jobs", _one(Submitted), headers=headers, json=job_keys(job))


def plan(job: Job) -> Call[JobPlan]:
    """Changes nothing."""
    return Call("POST", f"{BASE}/plan", _one(JobPlan), json=job_keys(job))


def jobs(states: Sequence[str], limit: int) -> Call[list[JobLine]]:
    """A page."""
    return Call("GET", f"{BASE}/jobs", _many(JobLine), {"state": tuple(states), "limit": limit})


def job(job_id: str) -> Call[JobStatus]:
    """One job."""
    return Call("GET", _path(job_id), _one(JobStatus))


def explain(job_id: str) -> Call[JobExplanation]:
    """Why it is where it is."""
    return Call("GET", f"{_path(job_id)}/explain", _one(JobExplanation))


def cancel(job_id: str) -> Call[Steered]:
    """Twice is once: what has ended is not cancelled."""
    return _steer(job_id, "cancel", {}, repeatable=False)


def suspend(job_id: str) -> Call[Steered]:
    """Not asked twice: in between somebody may have resumed it."""
    return _steer(job_id, "suspend", {}, repeatable=False)


def resume(job_id: str, budget_g: float | None, budget_kwh: float | None) -> Call[Steered]:
    """Not asked twice: in between somebody may have suspended it again."""
    budgets = {"budget_g": budget_g, "budget_kwh": budget_kwh}
    return _steer(job_id, "resume", {name: value for name, value in budgets.items() if value is not None}, False)


def ledger(
    by: str, start: str | None, end: str | None, tenant: str | None, zone: str | None, limit: int
) -> Call[list[LedgerLine]]:
    """A page."""
    asked = {"by": by, "from": start, "to": end, "tenant": tenant, "zone": zone, "limit": limit}
    return Call("GET", f"{BASE}/ledger", _many(LedgerLine), asked)


def nodes() -> Call[list[NodeLine]]:
    """All nodes."""
    return Call("GET", f"{BASE}/nodes", _many(NodeLine))


def grid_now(zones: Sequence[str]) -> Call[list[GridNow]]:
    """Zones."""
    return Call("GET", f"{BASE}/grid/now", _many(GridNow), {"zone": tuple(zones)})


def grid_forecast(zone: str, hours: int) -> Call[GridForecast]:
    """One zone."""
    return Call("GET", f"{BASE}/grid/forecast", _one(GridForecast), {"zone": zone, "hours": hours})


def events(after: int | None) -> Call[None]:
    """A stream."""
    return Call("GET", f"{BASE}/events", _nothing, {"after": after})


def logs(job_id: str, follow: bool) -> Call[None]:
    """A stream."""
    return Call("GET", f"{_path(job_id)}/logs", _nothing, {"follow": "true" if follow else "false"})


def job_keys(job: Job) -> Mapping[str, Any]:
    """The keys of a job, of its file where it is one. Raises UsageError."""
    if isinstance(job, Mapping):
        return job
    from eco_ray.schema import slug
    from eco_ray.yaml_file import load_yaml

    path = Path(job)
    return {"name": slug(path.stem), **load_yaml(path, "job file").value}


def _steer(job_id: str, verb: str, body: Mapping[str, Any], repeatable: bool) -> Call[Steered]:
    return Call("POST", f"{_path(job_id)}/{verb}", _one(Steered), json=body, repeatable=repeatable)


def _path(job_id: str) -> str:
    return f"{BASE}/jobs/{quote(job_id, safe='')}"


def _one(kind: type[D]) -> Callable[[httpx.Response], D]:
    return lambda response: kind.model_validate_json(response.content)


def _many(kind: type[D]) -> Callable[[httpx.Response], list[D]]:
    def parse(response: httpx.Response) -> list[D]:
        found = response.json()
        if not isinstance(found, list):
            raise ValueError(f"{type(found).__name__} is no list")
        return [kind.model_validate(one) for one in found]

    return parse


def _nothing(response: httpx.Response) -> None:
    return None
