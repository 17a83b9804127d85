"""What the adapters write: rows made from jobs, intervals and series, checked before anything is written.

Both adapters use these, so that memory refuses what a database refuses. The keys are the columns of tables.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from eco_ray.errors import EcoRayError, UsageError
from eco_ray.store.codec import job_to_json, to_json

if TYPE_CHECKING:
    from eco_ray.core.intensity import IntensitySeries
    from eco_ray.core.jobs import Job
    from eco_ray.core.ledger import Interval
    from eco_ray.core.ports import LogEntry

Row = dict[str, Any]

#: energy of one interval [mJ]: exact as a float too, and a sum of 1,000 such intervals still fits BIGINT
MAX_MJ = 2**53 - 1
MAX_BIGINT = 2**63 - 1


def job_row(job: Job) -> Row:
    """A row of `jobs`."""
    what = f"job {job.id!r:.80}"
    return {
        "id": key(job.id, "job id"),
        "name": shown(job.spec.name),
        "tenant": shown(job.spec.tenant),
        "state": job.state.value,
        "reason": job.reason.value,
        "message": shown(job.message),
        "submitted_s": _number(job.submitted_s, f"submitted_s of {what}"),
        "deadline_s": _number(job.spec.deadline_s, f"deadline_s of {what}"),
        "attempts": len(job.attempts),
        "progress": None if job.progress is None else _number(job.progress, f"progress of {what}"),
        "finished_s": None if job.finished_s is None else _number(job.finished_s, f"finished_s of {what}"),
        "record": job_to_json(job),
    }


def log_row(entry: LogEntry) -> Row:
    """A row of `job_log`."""
    return {
        "job_id": key(entry.job_id, "job id of a log entry"),
        "time_s": _finite(entry.time_s, f"time_s of a log entry of job {entry.job_id}"),
        "kind": shown(entry.kind),
        "message": shown(entry.message),
    }


def interval_rows(interval: Interval) -> tuple[Row, list[Row]]:
    """A row of `intervals` and its rows of `shares` (without interval_id)."""
    sample = interval.sample
    what = f"interval {sample.seq} of node {sample.node!r:.80}"
    start_s = _finite(sample.start_s, f"start_s of {what}")
    end_s = _finite(sample.end_s, f"end_s of {what}")
    if end_s <= start_s:
        raise EcoRayError(
            f"{what} ends at {end_s!r} s, not after its start at {start_s!r} s: check the clock of the node's agent"
        )
    energy_mj = _energy(sample.energy_mj, f"energy of {what}")
    shares: list[Row] = [
        {
            "owner_kind": key(share.owner_kind, f"owner kind in {what}"),
            "owner_id": key(share.owner_id, f"owner id in {what}"),
            "attempt": _integer(share.attempt, f"attempt in {what}", MAX_BIGINT, ""),
            "energy_mj": _energy(share.energy_mj, f"share of {share.owner_kind} {share.owner_id} in {what}"),
        }
        for share in interval.shares
    ]
    charged_mj = sum(share["energy_mj"] for share in shares)
    if charged_mj > energy_mj:
        raise EcoRayError(
            f"the shares of {what} sum to {charged_mj} mJ, limit {energy_mj} mJ, the energy of the node: "
            "attribute the interval again, no more than it has"
        )
    pue = _finite(interval.pue, f"PUE of {what}")
    if pue < 1.0:
        raise EcoRayError(f"the PUE of {what} is {pue:g}, limit >= 1: mend `pue` of the node in the cluster file")
    intensity = interval.intensity_g_per_kwh
    row = {
        "node": key(sample.node, "node name"),
        "boot_id": key(sample.boot_id, f"boot id of {what}"),
        "seq": _integer(sample.seq, f"seq of {what}", MAX_BIGINT, ""),
        "zone": key(interval.zone, f"zone of {what}"),
        "start_s": start_s,
        "end_s": end_s,
        "energy_mj": energy_mj,
        "idle_mj": _energy(sample.idle_mj, f"idle energy of {what}"),
        "unallocated_mj": energy_mj - charged_mj,
        "system_cpu_s": _finite(sample.system_cpu_s, f"system_cpu_s of {what}"),
        "nature": sample.nature.value,
        "source": shown(sample.source),
        "error_rel": _finite(sample.error_rel, f"error_rel of {what}"),
        "flags": to_json(list(sample.flags), f"flags of {what}"),
        "intensity": None if intensity is None else _finite(intensity, f"intensity of {what}"),
        "intensity_source": shown(interval.intensity_source),
        "pue": pue,
    }
    return row, shares


def series_rows(series: IntensitySeries) -> list[Row]:
    """A row of `series` for each step."""
    what = f"the intensity series of zone {series.zone!r:.80}"
    step_s = _finite(series.step_s, f"step_s of {what}")
    if step_s <= 0:
        raise EcoRayError(f"the step of {what} is {step_s:g} s, limit > 0: mend the source {series.source}")
    same: Row = {
        "zone": key(series.zone, "zone"),
        "step_s": step_s,
        "source": shown(series.source),
        "kind": series.kind.value,
        "nature": series.nature.value,
    }
    return [
        {
            **same,
            "time_s": _finite(series.start_s + i * step_s, f"time of step {i} of {what}"),
            "g_per_kwh": _finite(float(value), f"step {i} of {what}"),
        }
        for i, value in enumerate(series.values_g_per_kwh)
    ]


def check_same_kind(zone: str, kept: str, given: str) -> None:
    """Average and marginal intensities never stand in one series."""
    if kept != given:
        raise EcoRayError(
            f"zone {zone} has {kept} intensities in this store and now gets {given}: kinds are never mixed in one "
            "series; use a source of the kept kind, or a new database"
        )


def check_limit(limit: int | None) -> int | None:
    """A limit of rows: None or not negative."""
    if limit is not None and limit < 0:
        raise UsageError(f"limit is {limit}, must be >= 0: leave it out to get all")
    return limit


def shown(text: str) -> str:
    """Text for people, made storable everywhere: PostgreSQL takes no NUL, UTF-8 no lone surrogate."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")


def key(text: str, what: str) -> str:
    """Text that rows are found by: refused where `shown` would change it."""
    if not text or shown(text) != text:
        raise EcoRayError(f"{what} is {text!r:.80}: give it at least one character, and no NUL or lone surrogate")
    return text


def _number(value: float, what: str) -> float:
    if math.isnan(value):
        raise EcoRayError(f"{what} is NaN: give a number")
    return float(value)


def _finite(value: float, what: str) -> float:
    if not math.isfinite(value):
        raise EcoRayError(f"{what} is {value}, must be finite: give a number")
    return float(value)


def _energy(value: int, what: str) -> int:
    return _integer(value, what, MAX_MJ, " mJ")


def _integer(value: int, what: str, limit: int, unit: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise EcoRayError(f"{what} is {value!r:.80}, must be an integer: round it where the parts are made to sum up")
    if not 0 <= value <= limit:
        raise EcoRayError(f"{what} is {value}{unit}, limits 0 to {limit}{unit}: check the meter and its units")
    return value
