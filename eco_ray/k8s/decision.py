"""What to do with a RayJob: a pure function of the object, the forecast and the time.

When a job starts is the planner's decision (`core.planner.plan_job`), and whether a new plan replaces the one that is
written on the object is decided as for any job (`core.comparing.is_better`). All that is remembered stands on the
object, so that a controller that is killed anywhere goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from eco_ray.core.calendar import Calendar
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.comparing import is_better
from eco_ray.core.durations import AS_GIVEN, Durations
from eco_ray.core.intensity import IntensitySeries
from eco_ray.core.jobs import Job, JobSpec, JobState, Plan, Reason
from eco_ray.core.planner import plan_job
from eco_ray.core.power import PowerCurve
from eco_ray.core.situation import NoPlan, PlannerConfig, Situation
from eco_ray.core.starts import as_of_now
from eco_ray.core.units import Nature
from eco_ray.core.words import iso, minute
from eco_ray.errors import EcoRayError, InfeasibleError, UsageError
from eco_ray.k8s import rayjob
from eco_ray.k8s.rayjob import PLANNED_FOR, PLANNED_START, REASON, RELEASED, RayJob, Stance
from eco_ray.times import human_duration, parse_instant

#: the cluster, as the planner sees it: room for one job at a time is enough, as each is planned alone; its power is
#: in proportion to the load, and 1 kW, so that plans compare by the intensity alone
_NODE = Node(
    "the cluster",
    "",
    Resources(cpus=1.0),
    PowerCurve((0.0, 1.0), (0.0, 1000.0), "1 kW, for comparison only", Nature.ASSUMED),
)


class Act(StrEnum):
    """What is done with a RayJob."""

    LEAVE = "leave"
    #: left alone, and its owner is told why
    REFUSE = "refuse"
    #: held, as planned before
    WAIT = "wait"
    #: suspended, or given a (new) planned start
    HOLD = "hold"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for all jobs of a controller."""

    home_zone: str
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    #: latest finish after the creation, for jobs without a deadline [s]
    default_max_delay_s: float = 86_400.0
    #: from the release until the entrypoint runs: nodes, images, head [s]
    launch_s: float = 300.0
    #: how much less a new plan must emit to replace the one that is written down [%]
    gain_pct: float = 2.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a RayJob, and why."""

    act: Act
    reason: Reason = Reason.PENDING_EVALUATION
    #: one sentence for its owner
    message: str = ""
    #: planned start of what is held [s since epoch]
    until_s: float | None = None
    #: JSON merge patch of the object; None: nothing changes
    patch: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """The forecast that a decision needs."""

    zone: str
    #: deadline of the job [s since epoch]
    until_s: float


def need(job: RayJob, rules: Rules) -> Need | None:
    """The forecast that a RayJob is decided with; None: it is decided without any."""
    if job.stance not in (Stance.NEW, Stance.HELD) or job.unfit:
        return None
    try:
        spec = rayjob.asked(job, rules.home_zone, rules.default_max_delay_s)
    except EcoRayError:
        return None
    return Need(spec.zones[0], spec.deadline_s)


def decide(job: RayJob, forecast: IntensitySeries | None, now_s: float, rules: Rules) -> Decision:
    """What to do with a RayJob now. `forecast`: of the zone that `need` names; None: there is none."""
    if job.stance is Stance.SUSPENDED_AGAIN:
        return _refuse(
            Reason.SUSPENDED,
            f"it was suspended after its release at {job.annotations[RELEASED]}, and is left alone; set spec.suspend "
            f"to false to run it, or remove the annotation {RELEASED} as well to have it planned again",
        )
    if job.stance not in (Stance.NEW, Stance.HELD):
        return Decision(Act.LEAVE, message=f"it is {job.stance}")
    if job.unfit:
        return _refuse(Reason.MISCONFIGURED, f"left alone: {job.unfit}")
    try:
        spec = rayjob.asked(job, rules.home_zone, rules.default_max_delay_s)
    except UsageError as error:
        return _refuse(Reason.MISCONFIGURED, f"left alone: {error}")
    except InfeasibleError as error:
        return _release(job, Reason.DEADLINE_INFEASIBLE, f"starts at once: {error}", now_s)
    return _by_plan(job, spec, forecast, now_s, rules)


def _by_plan(job: RayJob, spec: JobSpec, forecast: IntensitySeries | None, now_s: float, rules: Rules) -> Decision:
    """Released where it is time or there is nothing to wait for, else held to the start that the planner chose."""
    durations = Durations(rules.planner.assumed_duration_s)
    length = durations.expected(spec)
    assumed = "" if length.source == AS_GIVEN else f" ({length.source})"
    latest_s = spec.deadline_s - length.seconds - rules.launch_s
    written_s = _written_s(job, latest_s)
    if now_s >= latest_s:
        details = (
            f"its deadline, {minute(spec.deadline_s)}, less {human_duration(length.seconds)} of work{assumed} and "
            f"{human_duration(rules.launch_s)} to start is not ahead"
        )
        reason = Reason.DEADLINE_INFEASIBLE if spec.deadline_s - length.seconds < now_s else Reason.PENDING_EVALUATION
        return _release(job, reason, f"starts at once: {details}", now_s)
    if written_s is not None and now_s >= written_s:
        return _release(job, Reason.PENDING_EVALUATION, f"starts as planned for {minute(written_s)}", now_s)
    situation = _situation(spec.zones[0], forecast, now_s, rules, durations)
    waiting = Job("rayjob", spec, JobState.QUEUED, Reason.PENDING_EVALUATION, "", submitted_s=job.created_s)
    plan = plan_job(waiting, situation, rules.planner)
    if isinstance(plan, NoPlan):
        return _release(job, plan.reason, f"starts at once: there is no plan for it ({plan.message})", now_s)
    if written_s is not None:
        kept = as_of_now(waiting, _moved(plan, written_s), situation)
        if not is_better(waiting, plan, kept, rules.gain_pct):
            return Decision(Act.WAIT, Reason.WAITING_FOR_CLEANER_WINDOW, _waits(written_s), written_s)
    now = _why_now(plan, forecast, now_s, latest_s)
    if now is not None:
        return _release(job, now[0], f"starts at once: {now[1]}", now_s)
    message = f"{_waits(plan.start_s)}{_saves(plan, forecast)}{_assumes(length.seconds, assumed)}"
    patch = _held(job, plan.start_s, f"{Reason.WAITING_FOR_CLEANER_WINDOW}: {message}")
    return Decision(Act.HOLD, Reason.WAITING_FOR_CLEANER_WINDOW, message, plan.start_s, patch)


def _situation(
    zone: str, forecast: IntensitySeries | None, now_s: float, rules: Rules, durations: Durations
) -> Situation:
    """One job alone in one zone."""
    slot_s = rules.planner.slot_s
    calendar = Calendar(slot_s, [replace(_NODE, zone=zone)], int(now_s // slot_s))
    known = {zone: forecast} if forecast is not None else {}
    return Situation(now_s, calendar, known, zone, durations, launch_s=rules.launch_s)


def _why_now(plan: Plan, forecast: IntensitySeries | None, now_s: float, latest_s: float) -> tuple[Reason, str] | None:
    """Why a job that has a plan does not wait; None: it does."""
    zone = plan.segments[0].zone
    if plan.no_signal_in:
        return Reason.SIGNAL_STALE, f"no forecast for {zone} is current, so it does not wait for cleaner power"
    if plan.start_s <= now_s + 1.0:
        why = f"until {minute(latest_s)} no later start is cleaner in {zone}, by {_source(forecast)}"
        return Reason.PENDING_EVALUATION, why
    return None


def _written_s(job: RayJob, latest_s: float) -> float | None:
    """The planned start on the object; None where there is none for these wishes that is in time."""
    if job.annotations.get(PLANNED_FOR) != job.planned_for:
        return None
    try:
        written_s = parse_instant(job.annotations.get(PLANNED_START, ""))
    except UsageError:  # not as we wrote it: planned again
        return None
    return written_s if written_s <= latest_s else None


def _moved(plan: Plan, start_s: float) -> Plan:
    """The same work in one piece from another start on."""
    last = plan.segments[-1]
    length_s = sum(segment.end_s - segment.start_s for segment in plan.segments)
    return replace(plan, segments=(replace(last, start_s=start_s, end_s=start_s + length_s),))


def _waits(start_s: float) -> str:
    return f"starts {minute(start_s)}"


def _saves(plan: Plan, forecast: IntensitySeries | None) -> str:
    """What waiting saves, as a share: how many watts a RayJob draws nobody has said."""
    if plan.carbon_g is None or not plan.run_now_g:
        return f"; the saving is unknown, by {_source(forecast)}"
    share = 1 - plan.carbon_g / plan.run_now_g
    zone = plan.segments[0].zone
    return f"; {share:.0%} less carbon per kWh than now in {zone}, by {_source(forecast)}"


def _source(forecast: IntensitySeries | None) -> str:
    return "no forecast" if forecast is None else f"{forecast.source} ({forecast.kind}, {forecast.nature})"


def _assumes(length_s: float, assumed: str) -> str:
    return f"; assumes {human_duration(length_s)} of work{assumed}" if assumed else ""


def _refuse(reason: Reason, message: str) -> Decision:
    return Decision(Act.REFUSE, reason, message)


def _release(job: RayJob, reason: Reason, message: str, now_s: float) -> Decision:
    annotations = {RELEASED: iso(now_s), REASON: f"{reason}: {message}"}
    patch = _patch(job, annotations, suspend=False if job.suspended else None)
    return Decision(Act.RELEASE, reason, message, None, patch)


def _held(job: RayJob, start_s: float, why: str) -> dict[str, Any]:
    annotations = {PLANNED_START: iso(start_s), PLANNED_FOR: job.planned_for, REASON: why}
    return _patch(job, annotations, suspend=None if job.suspended else True)


def _patch(job: RayJob, annotations: Mapping[str, str], suspend: bool | None) -> dict[str, Any]:
    """A merge patch that is refused where the object has changed since it was read.

    Annotations and `suspend` at once, so that none is ever there without the other.
    """
    metadata = {"resourceVersion": job.resource_version, "annotations": dict(annotations)}
    return {"metadata": metadata, **({} if suspend is None else {"spec": {"suspend": suspend}})}
