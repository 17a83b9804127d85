"""What the adapters write: rows made from jobs, intervals and series, checked before anything is written.

Both adapters use these, so that memory refuses what a database refuses. The keys are the columns of tables.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eco_ray.core.avoided import Avoided
from eco_ray.core.intensity import SignalKind
from eco_ray.core.ledger import MAX_ERROR_REL, MAX_G_PER_KWH, MAX_PUE, MAX_TIME_S, OWNER_KINDS, check_times
from eco_ray.core.transfers import DIRECTIONS, Transfer
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError, UsageError
from eco_ray.store.codec import job_to_json, to_json
from eco_ray.store.kinds import MAX_BIGINT, MAX_MJ

if TYPE_CHECKING:
    from eco_ray.core.intensity import IntensitySeries
    from eco_ray.core.jobs import Job
    from eco_ray.core.ledger import Correction, Interval, Share
    from eco_ray.core.store_port import LogEntry

Row = dict[str, Any]

SIGNAL_KINDS = tuple(kind.value for kind in SignalKind)


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
    check_times(sample.start_s, sample.end_s, what)
    energy_mj = _energy(sample.energy_mj, f"energy of {what}")
    idle_mj = _energy(sample.idle_mj, f"idle energy of {what}")
    gpu_mj = sum(_energy(gpu.energy_mj, f"energy of GPU {gpu.gpu} in {what}") for gpu in sample.gpus)
    for part, part_mj in (("idle energy", idle_mj), ("energy of the GPUs", gpu_mj)):
        if part_mj > energy_mj:
            raise EcoRayError(
                f"the {part} of {what} is {part_mj} mJ, limit {energy_mj} mJ, the energy of the node: "
                "clip it where the meter is read"
            )
    shares = [
        {
            **_owner(share, what),
            "energy_mj": _energy(share.energy_mj, _named(share, what)),
            "requests": _count(share.requests, f"requests of {_named(share, what)}"),
            "items": _count(share.items, f"items of {_named(share, what)}"),
        }
        for share in interval.shares
    ]
    charged_mj = sum(share["energy_mj"] for share in shares)
    if charged_mj > energy_mj:
        raise EcoRayError(
            f"the shares of {what} sum to {charged_mj} mJ, limit {energy_mj} mJ, the energy of the node: "
            "attribute the interval again, no more than it has"
        )
    intensity, age_s = interval.intensity_g_per_kwh, interval.intensity_age_s
    row = {
        "node": key(sample.node, "node name"),
        "boot_id": key(sample.boot_id, f"boot id of {what}"),
        "seq": _integer(sample.seq, f"seq of {what}", MAX_BIGINT, ""),
        "zone": key(interval.zone, f"zone of {what}"),
        "start_s": _finite(sample.start_s, f"start_s of {what}"),
        "end_s": _finite(sample.end_s, f"end_s of {what}"),
        "energy_mj": energy_mj,
        "idle_mj": idle_mj,
        "unallocated_mj": energy_mj - charged_mj,
        "system_cpu_s": _positive(sample.system_cpu_s, f"system_cpu_s of {what}"),
        "nature": sample.nature.value,
        "source": shown(sample.source),
        "error_rel": _positive(sample.error_rel, f"error_rel of {what}", MAX_ERROR_REL),
        "flags": to_json(list(sample.flags), f"flags of {what}"),
        "intensity": None if intensity is None else _positive(intensity, f"intensity of {what}", MAX_G_PER_KWH),
        "intensity_source": shown(interval.intensity_source),
        "pue": _pue(interval.pue, what),
        "gpu_mj": gpu_mj,
        "intensity_kind": _signal_kind(interval.intensity_kind, what),
        "intensity_nature": interval.intensity_nature.value if interval.intensity_nature else "",
        "intensity_age_s": None if age_s is None else _positive(age_s, f"intensity_age_s of {what}"),
    }
    return row, shares


def correction_rows(correction: Correction) -> tuple[Row, list[Row]]:
    """A row of `corrections` (without interval_id) and its rows of `correction_shares` (without correction_id)."""
    what = f"the correction of interval {correction.seq} of node {correction.node!r:.80}"
    intensity = correction.intensity_g_per_kwh
    if not correction.energy_mj and not correction.shares and intensity is None:
        raise UsageError(f"{what} changes nothing: give a difference of energy, of shares, or an intensity")
    if not correction.reason.strip():
        raise UsageError(f"{what} has no reason: say in words why the row was wrong")
    if any(share.requests is not None or share.items is not None for share in correction.shares):
        raise UsageError(
            f"{what} gives counts of requests: only energies and intensities are corrected; leave them out"
        )
    shares = [
        {**_owner(share, what), "energy_mj": _difference(share.energy_mj, _named(share, what))}
        for share in correction.shares
    ]
    energy_mj = _difference(correction.energy_mj, f"energy of {what}")
    row = {
        "node": key(correction.node, "node name"),
        "boot_id": key(correction.boot_id, f"boot id of {what}"),
        "seq": _integer(correction.seq, f"seq of {what}", MAX_BIGINT, ""),
        "made_s": _positive(correction.made_s, f"made_s of {what}", MAX_TIME_S),
        "author": shown(correction.author),
        "reason": shown(correction.reason),
        "nature": correction.nature.value,
        "energy_mj": energy_mj,
        "unallocated_mj": energy_mj - sum(share["energy_mj"] for share in shares),
        "intensity": None if intensity is None else _positive(intensity, f"intensity of {what}", MAX_G_PER_KWH),
        "intensity_source": shown(correction.intensity_source),
        "intensity_kind": _signal_kind(correction.intensity_kind, what),
    }
    return row, shares


def transfer_row(transfer: Transfer) -> Row:
    """A row of `transfers`."""
    what = f"transfer {transfer.id!r:.80}"
    if transfer.direction not in DIRECTIONS:
        raise EcoRayError(f"the direction of {what} is {transfer.direction!r:.80}: give one of {', '.join(DIRECTIONS)}")
    if not 0 <= _finite(transfer.time_s, f"time_s of {what}") <= MAX_TIME_S:
        raise EcoRayError(f"time_s of {what} is {transfer.time_s:g}, limits 0 to {MAX_TIME_S:.0f}: check the clock")
    return {
        "id": key(transfer.id, "id of a transfer"),
        "time_s": float(transfer.time_s),
        "owner_id": key(transfer.owner_id, f"owner id of {what}"),
        "direction": transfer.direction,
        "place": shown(transfer.place),
        "moved_bytes": _integer(transfer.moved_bytes, f"moved_bytes of {what}", MAX_MJ, " bytes"),
        "reused_bytes": _integer(transfer.reused_bytes, f"reused_bytes of {what}", MAX_MJ, " bytes"),
        "energy_mj": _energy(transfer.energy_mj, f"energy of {what}"),
        "nature": Nature(transfer.nature).value,
        "source": shown(transfer.source),
    }


def transfer_of(row: Mapping[str, Any]) -> Transfer:
    """The transfer of a row."""
    return Transfer(**{**row, "nature": Nature(row["nature"])})


def avoided_row(avoided: Avoided) -> Row:
    """A row of `avoided`."""
    what = f"avoided energy {avoided.id!r:.80}"
    start_s = _positive(avoided.start_s, f"start_s of {what}", MAX_TIME_S)
    end_s = _positive(avoided.end_s, f"end_s of {what}", MAX_TIME_S)
    if end_s < start_s:
        raise EcoRayError(f"{what} ends at {end_s:.3f} s, before its start at {start_s:.3f} s: check the clock")
    intensity = avoided.intensity_g_per_kwh
    return {
        "id": key(avoided.id, "id of avoided energy"),
        "start_s": start_s,
        "end_s": end_s,
        "node": key(avoided.node, f"node of {what}"),
        "model": key(avoided.model, f"model of {what}"),
        "tenant": shown(avoided.tenant),
        "hits": _integer(avoided.hits, f"hits of {what}", MAX_MJ, ""),
        "energy_mj": _energy(avoided.energy_mj, f"energy of {what}"),
        "zone": key(avoided.zone, f"zone of {what}"),
        "intensity_g_per_kwh": (
            None if intensity is None else _positive(intensity, f"intensity of {what}", MAX_G_PER_KWH)
        ),
        "intensity_kind": _signal_kind(avoided.intensity_kind, what),
        "pue": _pue(avoided.pue, what),
        "nature": Nature(avoided.nature).value,
        "source": shown(avoided.source),
    }


def avoided_of(row: Mapping[str, Any]) -> Avoided:
    """The avoided energy of a row."""
    return Avoided(**{**row, "nature": Nature(row["nature"])})


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
    return float(value) + 0.0  # SQLite keeps no -0.0, and the chain must read what it wrote


def _positive(value: float, what: str, limit: float = math.inf) -> float:
    if not 0 <= _finite(value, what) <= limit:
        upper = "" if math.isinf(limit) else f" and <= {limit:g}"
        raise EcoRayError(f"{what} is {value}, limit >= 0{upper}: mend the meter or source that gave it")
    return float(value) + 0.0


def _pue(value: float, what: str) -> float:
    pue = _finite(value, f"PUE of {what}")
    if not 1.0 <= pue <= MAX_PUE:
        raise EcoRayError(
            f"the PUE of {what} is {pue:g}, limit >= 1 and <= {MAX_PUE:g}: mend `pue` of the node in the cluster file"
        )
    return pue


def _signal_kind(kind: str, what: str) -> str:
    if kind and kind not in SIGNAL_KINDS:
        raise EcoRayError(
            f"the intensity of {what} is of kind {kind!r:.80}: give one of {', '.join(SIGNAL_KINDS)}, or nothing where "
            "it is not known"
        )
    return str(kind)


def _owner(share: Share, what: str) -> Row:
    if share.owner_kind not in OWNER_KINDS:
        raise EcoRayError(
            f"owner kind in {what} is {share.owner_kind!r:.80}: give one of {', '.join(OWNER_KINDS)}, or leave the "
            "energy unallocated"
        )
    return {
        "owner_kind": share.owner_kind,
        "owner_id": key(share.owner_id, f"owner id in {what}"),
        "attempt": _integer(share.attempt, f"attempt in {what}", MAX_BIGINT, ""),
        "tenant": shown(share.tenant),
        "part": shown(share.part),
    }


def _count(value: int | None, what: str) -> int | None:
    return None if value is None else _integer(value, what, MAX_MJ, "")


def _named(share: Share, what: str) -> str:
    return f"share of {share.owner_kind} {share.owner_id} in {what}"


def _difference(value: int, what: str) -> int:
    _integer(abs(value) if isinstance(value, int) else value, what, MAX_MJ, " mJ")
    return value


def _energy(value: int, what: str) -> int:
    return _integer(value, what, MAX_MJ, " mJ")


def _integer(value: int, what: str, limit: int, unit: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise EcoRayError(f"{what} is {value!r:.80}, must be an integer: round it where the parts are made to sum up")
    if not 0 <= value <= limit:
        raise EcoRayError(f"{what} is {value}{unit}, limits 0 to {limit}{unit}: check the meter and its units")
    return value
