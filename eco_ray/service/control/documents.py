"""The documents that the API tells, made of records: as the command line prints them with `-o json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from eco_ray.core.intensity import IntensitySeries
from eco_ray.core.jobs import Job
from eco_ray.core.ledger_sums import PLACES, LedgerSum
from eco_ray.core.ports import GridSource, LiveGridSource
from eco_ray.core.store_port import JobSummary, LogEntry
from eco_ray.core.unblock import explain_job
from eco_ray.core.units import MJ_PER_J
from eco_ray.errors import EcoRayError
from eco_ray.service.control.port import NumberedEntry
from eco_ray.times import iso_utc


def job_line(line: JobSummary) -> dict[str, Any]:
    """A line of `job list`."""
    return {**asdict(line), "state": str(line.state)}


def submitted(job: Job) -> dict[str, Any]:
    """`job submit`."""
    return {"id": job.id, "state": str(job.state), "reason": str(job.reason), "message": job.message}


def job_status(job: Job) -> dict[str, Any]:
    """`job status`."""
    segments = job.plan.segments if job.plan else ()
    return {
        "id": job.id,
        "name": job.spec.name,
        "tenant": job.spec.tenant,
        "state": str(job.state),
        "reason": str(job.reason),
        "message": job.message,
        "progress": job.progress,
        "submitted": _when(job.submitted_s),
        "deadline": _when(job.spec.deadline_s),
        "resumes": job.resumes,
        "plan": [f"{one.node} ({one.zone}) {_when(one.start_s)} to {_when(one.end_s)}" for one in segments],
        "attempts": [
            f"{one.number}: {one.state} on {one.node} ({one.zone}) {_when(one.started_s)} to {_when(one.ended_s)}"
            for one in job.attempts
        ],
        "metrics": job.metrics,
    }


def job_explanation(job: Job, log: Iterable[LogEntry], now_s: float) -> dict[str, Any]:
    """`job explain`."""
    events = [{"time": _when(one.time_s), "event": one.kind, "what": one.message} for one in log]
    return {**explain_job(job, now_s), "events": events}


def job_event(numbered: NumberedEntry) -> dict[str, Any]:
    """An event of the stream."""
    entry = numbered.entry
    return {
        "number": numbered.number,
        "time": iso_utc(entry.time_s),
        "job": entry.job_id,
        "event": entry.kind,
        "what": entry.message,
    }


def ledger_line(by: str, line: LedgerSum) -> dict[str, Any]:
    """A line of `ledger query`."""
    part = {"part": "unallocated" if line.unallocated else "attributed"} if by in PLACES else {}
    return {
        by: line.key,
        **part,
        "energy_j": line.energy_mj / MJ_PER_J,
        "operational_g": line.operational_g,
        "nature": line.nature.value,
        "carbon_nature": line.carbon_nature.value,
        "error_pct": 100 * line.error_rel,
        "intensity_kinds": list(line.intensity_kinds),
        "intensity_age_s": line.intensity_age_s,
        "sources": list(line.sources),
        "requests": line.requests,
    }


def grid_now(source: GridSource, zone: str, now_s: float) -> dict[str, Any]:
    """A line of `grid now`: of what is known, nobody is asked. Raises NotFoundError."""
    facts = _facts(source, zone, now_s)
    try:
        series = source.actual(zone, now_s, now_s)
    except EcoRayError:
        if not facts:
            raise
        return intensity_now(zone, None, now_s, facts)
    return intensity_now(zone, series, now_s, facts)


def intensity_now(zone: str, series: IntensitySeries | None, now_s: float, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The intensity of a zone now [g/kWh], how old and of what nature it is, and from where; None: unknown."""
    if series is None:
        unknown: dict[str, Any] = dict.fromkeys(("intensity_g_per_kwh", "kind", "nature", "age_s"))
        return {"zone": zone, **unknown, "source": "unknown", **facts}
    # the step that runs is as old as its begin; a model is computed for every moment
    published = series.issued_s is None and facts.get("rung") not in (None, "last-resort", "nothing")
    issued_s = now_s - (now_s - series.start_s) % series.step_s if published else series.issued_s
    return {
        "zone": zone,
        "intensity_g_per_kwh": round(series.at(now_s), 1),
        "kind": str(series.kind),
        "nature": str(series.nature),
        "age_s": _age(issued_s, now_s),
        "source": series.source,
        **facts,
    }


def grid_forecast(source: GridSource, zone: str, now_s: float, end_s: float) -> dict[str, Any]:
    """`grid forecast`. Raises NotFoundError, and EcoRayError where nothing is known."""
    facts = _facts(source, zone, now_s)
    series = source.forecast(zone, now_s, end_s)
    return {
        "zone": series.zone,
        "source": series.source,
        "kind": str(series.kind),
        "nature": str(series.nature),
        "issued": _when(series.issued_s),
        "age_s": _age(series.issued_s, now_s),
        "step_s": series.step_s,
        "series": _steps(series),
        "quantiles": {
            f"{level:g}": [round(float(value), 1) for value in of]
            for level, of in sorted(series.quantiles_g_per_kwh.items())
        },
        **facts,
    }


def of_own_jobs(plan: Mapping[str, Any], is_own: Mapping[str, bool]) -> dict[str, Any]:
    """`job plan`, for one tenant: of other tenants' jobs, only how many would give way."""
    ways = plan.get("gives_way", [])
    own = [one for one in ways if is_own.get(one["id"], False)]
    return {**plan, "gives_way": own, "gives_way_others": len(ways) - len(own)}


def _facts(source: GridSource, zone: str, now_s: float) -> dict[str, Any]:
    if not isinstance(source, LiveGridSource):
        return {}
    use = source.use(zone, now_s)
    return {"planned_with": use.source, "rung": use.rung, "why": use.why}


def _steps(series: IntensitySeries) -> list[list[Any]]:
    return [
        [_when(series.start_s + step * series.step_s), round(float(value), 1)]
        for step, value in enumerate(series.values_g_per_kwh)
    ]


def _age(issued_s: float | None, now_s: float) -> int | None:
    return None if issued_s is None else round(max(0.0, now_s - issued_s))


def _when(time_s: float | None) -> str:
    return "-" if time_s is None else datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M")
