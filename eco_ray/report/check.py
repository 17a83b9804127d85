"""Redo the arithmetic of a report from the document alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eco_ray.core.units import J_PER_KWH, MJ_PER_J
from eco_ray.errors import EcoRayError
from eco_ray.report.check_holds import check_holds
from eco_ray.report.redo import not_finite
from eco_ray.report.steps import Steps, covered_s, epoch_s, iso

TOP_KEYS = ("clock_speed", "home_zone", "series", "jobs", "totals", "residual_mj", "sources", "model")
JOB_KEYS = (
    *("id", "name", "tenant", "state", "reason", "submitted", "deadline", "attempts", "resumes", "segments"),
    *("energy_j", "operational_g", "embodied_g", "baseline_g", "saved_g", "nature", "metrics"),
)
SEGMENT_KEYS = ("zone", "node", "start", "end", "workers", "energy_j", "operational_g")
TOTAL_KEYS = ("node_energy_j", "attributed_j", "unallocated_j", "operational_g", "baseline_g", "saved_g")
SOURCE_KEYS = ("zone", "source", "kind", "nature", "age_s")
MODEL_KEYS = ("name", "version", "requests", "correct", "energy_j")
STATES = ("queued", "running", "suspended", "succeeded", "failed", "cancelled")

#: relative difference that rounding of floats may make
REL_TOL = 1e-9
#: absolute difference that rounding of floats may make [g]
ABS_TOL_G = 1e-9


def check_report(doc: Mapping[str, Any]) -> list[str]:
    """What does not add up in a report, in sentences; empty for a sound one."""
    found = list(_missing(doc)) or list(not_finite(doc))
    if found:
        return found
    try:
        for line in _redone(doc):
            found.append(line)  # one by one: what was found before a part that cannot be read is told too
    except KeyError as error:
        found.append(f"report: key {error} is missing, the rest was not redone")
    except (EcoRayError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        found.append(f"report: cannot be redone ({error}), the rest was not redone")
    return found


def _redone(doc: Mapping[str, Any]) -> Iterable[str]:
    series = {
        zone: Steps.of([(epoch_s(t), v) for t, v in rows], doc.get("step_s", {}).get(zone))
        for zone, rows in doc["series"].items()
    }
    for job in doc["jobs"]:
        yield from _job(job, doc, series)
    yield from _totals(doc)
    yield from check_holds(doc)


def _missing(doc: Mapping[str, Any]) -> Iterable[str]:
    """Keys of the contract that are not there."""
    rows: list[tuple[str, Mapping[str, Any], Sequence[str]]] = [("report", doc, TOP_KEYS)]
    rows += [(f"job {job.get('id')}", job, JOB_KEYS) for job in doc.get("jobs", [])]
    rows += [
        (f"segment {i} of job {job.get('id')}", segment, SEGMENT_KEYS)
        for job in doc.get("jobs", [])
        for i, segment in enumerate(job.get("segments", []))
    ]
    rows += [("totals", doc.get("totals", {}), TOTAL_KEYS)]
    rows += [(f"source {i}", source, SOURCE_KEYS) for i, source in enumerate(doc.get("sources", []))]
    if doc.get("model") is not None:
        rows.append(("model", doc["model"], MODEL_KEYS))
    for name, part, keys in rows:
        for key in keys:
            if key not in part:
                yield f"{name}: key {key!r} is missing"


def _job(job: Mapping[str, Any], doc: Mapping[str, Any], series: Mapping[str, Steps]) -> Iterable[str]:
    """What does not add up in one job."""
    name, segments = f"job {job['id']}", job["segments"]
    if job["state"] not in STATES:
        yield f"{name}: state {job['state']!r} is none of {', '.join(STATES)}"
    for i, segment in enumerate(segments):
        yield from (f"{name}, segment {i}: {line}" for line in _segment(segment, series))
    yield from _same_j(name, "energy_j", job["energy_j"], [s["energy_j"] for s in segments])
    yield from _same_g(name, "operational_g", job["operational_g"], _sum([s["operational_g"] for s in segments]))
    overhead_mj = sum(_mj(s["overhead_j"]) for s in segments)
    productive_mj = _mj(job["energy_j"]) - overhead_mj
    if _mj(job["productive_j"]) != productive_mj:
        yield f"{name}: productive_j is {job['productive_j']} J, energy less overhead is {productive_mj / MJ_PER_J} J"
    spans = [(s["start_s"], s["end_s"]) for s in segments]
    productive_s = max(0.0, covered_s(spans) - sum(s["overhead_s"] for s in segments))
    start_s = job["submitted_s"] if job["managed"] else job["baseline_start_s"]
    baseline_g: float | None = 0.0
    if productive_mj:
        home = series.get(doc["home_zone"])
        mean = home.mean(start_s, start_s + productive_s) if home else None
        baseline_g = None if mean is None else productive_mj / MJ_PER_J / J_PER_KWH * mean * doc["home_pue"]
    yield from _same_g(name, "baseline_g", job["baseline_g"], baseline_g)
    unknown = job["baseline_g"] is None or job["operational_g"] is None
    saved_g = None if unknown else job["baseline_g"] - job["operational_g"]
    yield from _same_g(name, "saved_g", job["saved_g"], saved_g)
    told = {row["what"] for row in doc["unknown"] if row["job"] == job["id"]}
    for key in ("operational_g", "baseline_g"):
        if (job[key] is None) != (key in told):
            yield f"{name}: {key} is {job[key]} and `unknown` {'lists' if key in told else 'does not list'} it"


def _segment(segment: Mapping[str, Any], series: Mapping[str, Steps]) -> Iterable[str]:
    """What does not add up in one attempt."""
    for key in ("start", "end"):
        if segment[key] != iso(segment[f"{key}_s"]):
            yield f"{key} is {segment[key]}, {key}_s is {iso(segment[f'{key}_s'])}"
    if segment["end_s"] < segment["start_s"]:
        yield f"ends at {segment['end']}, before it starts at {segment['start']}"
    if not 0 <= segment["overhead_j"] <= segment["energy_j"]:
        yield f"overhead_j is {segment['overhead_j']} J of {segment['energy_j']} J"
    intensity = segment["intensity_g_per_kwh"]
    if intensity is None or segment["operational_g"] is None:
        return
    operational_g = segment["energy_j"] / J_PER_KWH * intensity * segment["pue"]
    yield from _same_g("arithmetic", "operational_g", segment["operational_g"], operational_g)
    by_step, known = segment["energy_by_step"], series.get(segment["zone"])
    if by_step and known:
        means = [(known.mean(epoch_s(time), epoch_s(time)), energy_j) for time, energy_j in by_step]
        stepwise_g = sum((mean or 0.0) * energy_j / J_PER_KWH * segment["pue"] for mean, energy_j in means)
        yield from _same_g("series", "operational_g", segment["operational_g"], stepwise_g)
    pieces = series[segment["zone"]].pieces(*segment["metered_s"]) if segment["zone"] in series else None
    if pieces:  # the mean intensity of the metered intervals lies within what the zone had while they ran
        low, high = min(p.g_per_kwh for p in pieces), max(p.g_per_kwh for p in pieces)
        slack = REL_TOL * high
        if not low - slack <= intensity <= high + slack:
            yield f"intensity {intensity:g} g/kWh is outside the {low:g} to {high:g} of {segment['zone']} meanwhile"


def _totals(doc: Mapping[str, Any]) -> Iterable[str]:
    """What does not add up over the jobs, the models and the nodes."""
    totals, jobs = doc["totals"], doc["jobs"]
    if totals["node_energy_j"] != totals["attributed_j"] + totals["unallocated_j"]:
        yield (
            f"totals: node_energy_j {totals['node_energy_j']} J is not attributed_j {totals['attributed_j']} J "
            f"+ unallocated_j {totals['unallocated_j']} J"
        )
    charged = [job["energy_j"] for job in jobs] + [model["energy_j"] for model in doc["models"]]
    yield from _same_j("totals", "attributed_j", totals["attributed_j"], charged)
    for key, total in (("energy_j", "node_energy_j"), ("attributed_j",) * 2, ("unallocated_j",) * 2):
        yield from _same_j("totals over nodes", total, totals[total], [node[key] for node in doc["nodes"]])
    for key in ("operational_g", "baseline_g", "saved_g"):
        yield from _same_g("totals", key, totals[key], sum((job[key] or 0.0 for job in jobs), 0.0))
    if doc["residual_mj"] != 0:
        yield f"residual_mj is {doc['residual_mj']} mJ, not 0: a ledger row does not conserve energy"


def _mj(joules: float) -> int:
    return round(joules * MJ_PER_J)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known, 0.0) if len(known) == len(values) else None


def _same_j(name: str, key: str, told: float, parts: Sequence[float]) -> Iterable[str]:
    """Energies are whole millijoules, so their sums are exact."""
    total_mj = sum(_mj(part) for part in parts)
    if _mj(told) != total_mj:
        yield f"{name}: {key} is {told} J, its parts sum to {total_mj / MJ_PER_J} J"


def _same_g(name: str, key: str, told: float | None, redone: float | None) -> Iterable[str]:
    """Grams are floats: the same up to rounding."""
    if told is None or redone is None:
        same = told is redone
    else:
        same = math.isclose(told, redone, rel_tol=REL_TOL, abs_tol=ABS_TOL_G)
    if not same:
        yield f"{name}: {key} is {told} g, redone it is {redone} g"
