"""One job of the report: its attempts with their energy, and what it would have emitted had it run at once.

The run-now counterfactual takes the *productive* energy of the job. Overhead (what a resumed attempt used before it
worked again, and work that an interruption destroyed and that had to be done again) exists only because the job was
interrupted: it counts in `operational_g` and not in `baseline_g`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eco_ray.core.cluster import Resources
from eco_ray.core.jobs import Attempt, AttemptState, Job, JobState, Reason
from eco_ray.core.ledger import OwnerInterval
from eco_ray.core.units import MJ_PER_J, Nature, grams
from eco_ray.report.holds import embodied_nature, energy_identity, held
from eco_ray.report.steps import Steps, covered_s, iso, merged, overlap_s

#: Ray's job states in our words
RAY_STATES = {"pending": "queued", "stopped": "cancelled"}

REASONS = {
    JobState.QUEUED: Reason.WAITING_FOR_CAPACITY,
    JobState.RUNNING: Reason.RUNNING,
    JobState.SUSPENDED: Reason.SUSPENDED,
    JobState.SUCCEEDED: Reason.SUCCEEDED,
    JobState.FAILED: Reason.FAILED,
    JobState.CANCELLED: Reason.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What the jobs of a report are measured against."""

    now_s: float
    home_zone: str | None
    #: PUE of the first node in the home zone
    home_pue: float
    #: kept intensity of the home zone; None: nothing is known of it
    home_steps: Steps | None
    #: kept intensity of every zone
    steps: Mapping[str, Steps]
    #: the rows of the cluster's description, by node name
    nodes: Mapping[str, Mapping[str, Any]]
    #: nature of each zone's intensity
    zone_natures: Mapping[str, Nature]


@dataclass(frozen=True, slots=True)
class Stretch:
    """One attempt on one node."""

    attempt: int
    node: str
    zone: str
    state: str
    start_s: float
    end_s: float
    #: stretches of it that are overhead [s since epoch]
    overhead: tuple[tuple[float, float], ...]
    intervals: tuple[OwnerInterval, ...]
    workers: int = 1


def job_doc(job: Job, intervals: Sequence[OwnerInterval], setting: Setting) -> dict[str, Any]:
    """The report's entry of a job that was submitted to eco_ray."""
    stretches = _stretches(job, intervals, setting.now_s)
    head = {
        "id": job.id,
        "name": job.spec.name,
        "tenant": job.spec.tenant,
        "state": job.state.value,
        "reason": job.reason.value,
        "message": job.message,
        "submitted": iso(job.submitted_s),
        "submitted_s": job.submitted_s,
        "deadline": iso(job.spec.deadline_s),
        "deadline_s": job.spec.deadline_s,
        "attempts": len(job.attempts),
        "resumes": job.resumes,
        "managed": True,
    }
    body = _accounts(stretches, job.submitted_s, job.spec.demand, setting)
    return {**head, **body, "metrics": _plain(job.metrics)}


def ray_job_doc(
    owner_id: str, told: Mapping[str, Any], intervals: Sequence[OwnerInterval], setting: Setting
) -> dict[str, Any]:
    """The report's entry of a plain Ray job, which eco_ray only metered: it ran when and where Ray put it."""
    groups: dict[tuple[int, str], list[OwnerInterval]] = {}
    for row in intervals:
        groups.setdefault((row.attempt, row.node), []).append(row)
    state = _state(str(told.get("state") or JobState.SUCCEEDED))
    stretches = [_metered(number, state.value, 1, tuple(rows)) for (number, _), rows in groups.items()]
    start_s = min((s.start_s for s in stretches), default=float(told.get("submitted_s") or setting.now_s))
    submitted_s = float(told["submitted_s"]) if told.get("submitted_s") is not None else start_s
    head = {
        "id": owner_id,
        "name": str(told.get("name") or owner_id),
        "tenant": str(told.get("tenant") or "default"),
        "state": state.value,
        "reason": REASONS[state].value,
        "message": "A plain Ray job: it ran at once where Ray put it, and was metered like any other.",
        "submitted": iso(submitted_s),
        "submitted_s": submitted_s,
        "deadline": None,
        "deadline_s": None,
        "attempts": len({s.attempt for s in stretches}),
        "resumes": 0,
        "managed": False,
    }
    return {**head, **_accounts(stretches, start_s, None, setting), "metrics": {}}


def _state(word: str) -> JobState:
    """Ray's or our word for a state."""
    return JobState(RAY_STATES.get(word.lower(), word.lower()))


def _stretches(job: Job, intervals: Sequence[OwnerInterval], now_s: float) -> list[Stretch]:
    """The attempts of a job, then whatever the ledger holds for it beside them, so that no joule is left out."""
    left: dict[tuple[int, str], list[OwnerInterval]] = {}
    for row in intervals:
        left.setdefault((row.attempt, row.node), []).append(row)
    found: list[Stretch] = []
    for attempt in job.attempts:
        rows = tuple(left.pop((attempt.number, attempt.node), ()))
        start_s = attempt.started_s
        if start_s is None:
            start_s = min((row.start_s for row in rows), default=attempt.created_s)
        end_s = max(start_s, now_s if attempt.ended_s is None else attempt.ended_s)
        overhead = _overhead(job, attempt, start_s, end_s, bool(rows))
        place = attempt.number, attempt.node, attempt.zone
        found.append(Stretch(*place, attempt.state.value, start_s, end_s, overhead, rows, attempt.workers))
    known = {attempt.number: (attempt.state.value, attempt.workers) for attempt in job.attempts}
    found += [_metered(key[0], *known.get(key[0], ("unknown", 1)), tuple(rows)) for key, rows in left.items()]
    return sorted(found, key=lambda s: (s.start_s, s.attempt))


def _metered(number: int, state: str, workers: int, rows: tuple[OwnerInterval, ...]) -> Stretch:
    """A stretch that is known from the ledger alone."""
    start_s, end_s = min(row.start_s for row in rows), max(row.end_s for row in rows)
    return Stretch(number, rows[0].node, rows[0].zone, state, start_s, end_s, (), rows, workers)


def _overhead(
    job: Job, attempt: Attempt, start_s: float, end_s: float, metered: bool
) -> tuple[tuple[float, float], ...]:
    """The stretches of an attempt that a run without interruption would not have had."""
    spans: list[tuple[float, float]] = []
    earlier = [a for a in job.attempts if a.number < attempt.number]
    later = any(a.number > attempt.number for a in job.attempts)
    if attempt.started_s is None and not metered:
        spans.append((start_s, end_s))  # never ran
    if earlier and attempt.productive_s is not None:
        spans.append((start_s, attempt.productive_s))
    elif any(a.checkpoint_s is not None for a in earlier) and attempt.state is not AttemptState.SUCCEEDED:
        spans.append((start_s, end_s))  # had a checkpoint to restore and did not get that far
    redone = later and attempt.state in (AttemptState.FAILED, AttemptState.STOPPED)
    if attempt.state is AttemptState.LOST or redone:
        spans.append((attempt.checkpoint_s if attempt.checkpoint_s is not None else start_s, end_s))
    inside = [(max(a, start_s), min(b, end_s)) for a, b in spans]
    return tuple((a, b) for a, b in inside if b > a)


def _overhead_mj(stretch: Stretch) -> int:
    """Energy [mJ] of the overhead: each interval's by the share of its time within the attempt that is overhead."""
    total = 0.0
    for row in stretch.intervals:
        a = min(max(row.start_s, stretch.start_s), stretch.end_s)
        b = max(min(row.end_s, stretch.end_s), stretch.start_s)
        if b > a:
            total += row.energy_mj * overlap_s(stretch.overhead, a, b) / (b - a)
        elif any(x <= a <= y for x, y in stretch.overhead):
            total += row.energy_mj
    return round(total)


def _accounts(
    stretches: Sequence[Stretch], baseline_start_s: float, demand: Resources | None, setting: Setting
) -> dict[str, Any]:
    """Energy and carbon of a job's stretches and of the run-now counterfactual."""
    segments = [_segment(stretch, demand, setting) for stretch in stretches]
    rows = [row for stretch in stretches for row in stretch.intervals]
    energy_mj = sum(row.energy_mj for row in rows)
    productive_mj = energy_mj - sum(_overhead_mj(stretch) for stretch in stretches)
    spans = [(s.start_s, s.end_s) for s in stretches]
    productive_s = max(0.0, covered_s(spans) - sum(s["overhead_s"] for s in segments))
    baseline_end_s = baseline_start_s + productive_s
    operational_g = _sum([s["operational_g"] for s in segments])
    baseline_g = _baseline_g(productive_mj, baseline_start_s, baseline_end_s, setting)
    natures = [row.nature for row in rows]
    nature = Nature.weakest(natures)
    zones = {stretch.zone for stretch in stretches if stretch.intervals}
    if natures and setting.home_zone:
        zones.add(setting.home_zone)
    signal_natures = [setting.zone_natures[zone] for zone in zones if zone in setting.zone_natures]
    return {
        "segments": segments,
        "energy_j": energy_mj / MJ_PER_J,
        "overhead_j": (energy_mj - productive_mj) / MJ_PER_J,
        "productive_j": productive_mj / MJ_PER_J,
        "productive_s": productive_s,
        "operational_g": operational_g,
        "embodied_g": _sum([s["embodied_g"] for s in segments]),
        "embodied_nature": embodied_nature(setting.nodes, [s.node for s in stretches]),
        "ewaste_g": _sum([s["ewaste_g"] for s in segments]),
        "energy_identity": energy_identity(energy_mj, rows),
        "baseline_g": baseline_g,
        "baseline_start_s": baseline_start_s,
        "baseline_end_s": baseline_end_s,
        "saved_g": None if baseline_g is None or operational_g is None else baseline_g - operational_g,
        "nature": nature.value,
        "carbon_nature": Nature.weakest([nature, *signal_natures]).value,
    }


def _segment(stretch: Stretch, demand: Resources | None, setting: Setting) -> dict[str, Any]:
    """One attempt, with what it takes to redo its arithmetic: grams = J / 3.6e6 * intensity * pue."""
    rows = stretch.intervals
    energy_mj = sum(row.energy_mj for row in rows)
    facility_mj = sum(row.energy_mj * row.pue for row in rows)
    known = all(row.intensity_g_per_kwh is not None for row in rows if row.energy_mj)
    operational_g: float | None = None
    if known:
        operational_g = sum(grams(row.energy_mj, row.intensity_g_per_kwh or 0.0, row.pue) for row in rows)
    intensity = None
    if operational_g is not None and facility_mj > 0:
        intensity = operational_g / grams(facility_mj, 1.0)
    node = setting.nodes.get(stretch.node, {})
    return {
        "zone": stretch.zone,
        "node": stretch.node,
        "start": iso(stretch.start_s),
        "end": iso(stretch.end_s),
        "workers": stretch.workers,
        "energy_j": energy_mj / MJ_PER_J,
        "operational_g": operational_g,
        "attempt": stretch.attempt,
        "state": stretch.state,
        "start_s": stretch.start_s,
        "end_s": stretch.end_s,
        "overhead_j": _overhead_mj(stretch) / MJ_PER_J,
        "overhead_s": covered_s(stretch.overhead),
        "overhead": [list(span) for span in stretch.overhead],
        "intensity_g_per_kwh": intensity,
        "pue": facility_mj / energy_mj if energy_mj else float(node.get("pue", 1.0)),
        "energy_by_step": _energy_by_step(rows, setting.steps.get(stretch.zone)),
        "metered_s": [min(row.start_s for row in rows), max(row.end_s for row in rows)] if rows else None,
        "metered_spans_s": merged([(row.start_s, row.end_s) for row in rows]),
        "nature": Nature.weakest([row.nature for row in rows]).value if rows else None,
        **held(node, stretch.end_s - stretch.start_s, demand and demand * stretch.workers),
    }


def _energy_by_step(rows: Sequence[OwnerInterval], steps: Steps | None) -> list[list[Any]] | None:
    """[time, J] per step of the zone's series, evenly within an interval; None where the series has a hole.

    With the series of the report, sum(J / 3.6e6 * g_per_kwh * pue) is the attempt's carbon again.
    """
    by_time: dict[float, float] = {}
    for row in rows:
        pieces = steps.pieces(row.start_s, row.end_s) if steps else None
        if steps is None or pieces is None:
            return None
        for piece in pieces:
            part = piece.length_s / (row.end_s - row.start_s) if row.end_s > row.start_s else 1.0
            time_s = steps.time_of(piece.start_s)
            by_time[time_s] = by_time.get(time_s, 0.0) + part * row.energy_mj / MJ_PER_J
    return [[iso(time_s), energy_j] for time_s, energy_j in sorted(by_time.items())]


def _baseline_g(energy_mj: int, start_s: float, end_s: float, setting: Setting) -> float | None:
    """`core.emissions.baseline_g` over kept steps, which may have gaps: None where the intensity is unknown."""
    if energy_mj == 0:
        return 0.0
    mean = setting.home_steps.mean(start_s, end_s) if setting.home_steps else None
    return None if mean is None else grams(energy_mj, mean, setting.home_pue)


def _sum(values: Sequence[float | None]) -> float | None:
    """The sum, unknown where a part is unknown."""
    known = [value for value in values if value is not None]
    return sum(known, 0.0) if len(known) == len(values) else None


def _plain(value: Any) -> Any:
    """A value that JSON can hold: numbers that are not finite become words, unknown objects their text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    try:
        json.dumps(value)
    except TypeError:
        return str(value)
    return value
