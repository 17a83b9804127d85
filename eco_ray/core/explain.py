"""Plans in words: one token and one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from eco_ray.core.alternatives import Alternative
from eco_ray.core.jobs import Job, Plan, Reason
from eco_ray.core.planner import NoPlan, PlannerConfig


def plan_message(job: Job, plan: Plan, now_s: float, config: PlannerConfig) -> tuple[Reason, str]:
    """Why a job is not running now, and until when."""
    first = plan.segments[0]
    where = f"on {first.node} in {first.zone}"
    assumed = "" if job.spec.expected_duration_s else f"; assumes {config.assumed_duration_s / 60:.0f} min of work"
    if first.start_s <= now_s + 1e-6:
        return Reason.PENDING_EVALUATION, f"starts now {where}{assumed}"
    when = datetime.fromtimestamp(first.start_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    if first.start_s <= job.spec.not_before_s + 1e-6:
        return Reason.PENDING_EVALUATION, f"starts {when} {where}, not before, as it asks{assumed}"
    if job.spec.policy == "run-now":
        return Reason.WAITING_FOR_CAPACITY, f"starts {when} {where}, or as soon as a node is free{assumed}"
    pauses = len(plan.segments) - 1
    shape = f", in {pauses + 1} stretches" if pauses else ""
    saves = "; the saving is unknown (no intensity)"
    if plan.carbon_g is not None and plan.run_now_g is not None and plan.run_now_g > 0:
        saved_g = plan.run_now_g - plan.carbon_g
        verb, than = ("saves", "against") if saved_g >= 0 else ("emits", "more than")
        saves = (
            f"; {verb} {abs(saved_g):.3g} g ({abs(saved_g) / plan.run_now_g:.0%}) {than} running now in the home zone"
        )
    if plan.could_start_s is None or first.start_s <= plan.could_start_s + 1e-6:
        return Reason.WAITING_FOR_CAPACITY, f"starts {when} {where}, when a node is free{shape}{saves}{assumed}"
    return Reason.WAITING_FOR_CLEANER_WINDOW, f"starts {when} {where}{shape}{saves}{assumed}"


def describe_plan(
    job: Job, plan: Plan | NoPlan, now_s: float, config: PlannerConfig, others: Sequence[Alternative] = ()
) -> dict[str, Any]:
    """A plan as plain values, with its runners-up, for `job plan`; times as ISO 8601 UTC."""
    if isinstance(plan, NoPlan):
        return {"reason": str(plan.reason), "message": plan.message, "segments": []}
    reason, message = plan_message(job, plan, now_s, config)
    return {
        "reason": str(reason),
        "message": message,
        "segments": _segments(plan),
        "carbon_g": plan.carbon_g,
        "run_now_g": plan.run_now_g,
        "alternatives": [
            {
                "what": other.what,
                "segments": _segments(other.plan),
                "carbon_g": other.plan.carbon_g,
                "more_g": other.more_g(plan),
            }
            for other in others
        ],
        "nature": "modelled",
    }


def _segments(plan: Plan) -> list[dict[str, str]]:
    return [{"zone": s.zone, "node": s.node, "start": _iso(s.start_s), "end": _iso(s.end_s)} for s in plan.segments]


def _iso(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
