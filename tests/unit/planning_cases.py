"""Small worlds for the suites of planner and orchestrator. Time starts at a full hour; slots are 15 minutes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from eco_ray.core.calendar import Calendar
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.durations import Durations
from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.jobs import Job, JobSpec, JobState, Plan, Reason, SuspendRule
from eco_ray.core.power import PowerCurve
from eco_ray.core.situation import NoPlan, PlannerConfig, Situation
from eco_ray.core.units import Nature

SLOT_S = 900.0
HOUR_S = 3600.0
#: 2026-07-05 12:00 UTC
T0 = 1_783_252_800.0
CONFIG = PlannerConfig(slot_s=SLOT_S)


def a_node(name: str = "de-1", zone: str = "DE", cpus: float = 1.0, watts: float = 100.0, pue: float = 1.0) -> Node:
    """Idle at half of its full power."""
    return Node(name, zone, Resources(cpus, 0.0, 8.0), PowerCurve((0.0, 1.0), (watts / 2, watts), "test"), pue)


def hourly(zone: str, *values: float, start_s: float = T0, **changes: Any) -> IntensitySeries:
    series = IntensitySeries(
        zone, start_s, HOUR_S, np.array(values, float), SignalKind.AVERAGE_LIFECYCLE, "test", Nature.ASSUMED
    )
    return replace(series, **changes)


def a_spec(hours: float | None = 1.0, deadline_h: float = 8.0, **changes: Any) -> JobSpec:
    """A job of so many hours, to be done so many hours after T0; suspending costs nothing unless said."""
    spec = JobSpec("train", "python train.py", T0 + deadline_h * HOUR_S)
    return replace(spec, expected_duration_s=None if hours is None else hours * HOUR_S, **changes)


def no_suspension(**changes: Any) -> dict[str, Any]:
    return {"suspend": SuspendRule(allow=False), **changes}


def a_job(spec: JobSpec | None = None, job_id: str = "j", now_s: float = T0, **changes: Any) -> Job:
    job = Job(job_id, spec or a_spec(), JobState.QUEUED, Reason.PENDING_EVALUATION, "", submitted_s=now_s)
    return replace(job, **changes)


def a_situation(
    *series: IntensitySeries,
    nodes: list[Node] | None = None,
    now_s: float = T0,
    home: str = "DE",
    foreign: dict[str, Resources] | None = None,
    **changes: Any,
) -> Situation:
    nodes = nodes if nodes is not None else [a_node(f"{s.zone.lower()}-1", s.zone) for s in series]
    calendar = Calendar(SLOT_S, nodes, int(T0 // SLOT_S))
    for name, held in (foreign or {}).items():
        calendar.set_foreign(name, held)
    situation = Situation(now_s, calendar, {s.zone: s for s in series}, home, Durations(HOUR_S))
    return replace(situation, **changes)


def shape(found: Plan | NoPlan) -> list[tuple[str, float, float]]:
    """Segments as (node, start, end) in hours after T0."""
    assert isinstance(found, Plan), found
    return [(s.node, (s.start_s - T0) / HOUR_S, (s.end_s - T0) / HOUR_S) for s in found.segments]
