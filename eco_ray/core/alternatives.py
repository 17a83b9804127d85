"""What else could be done with a job, and what it would emit: the runners-up beside a plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from eco_ray.core.jobs import Job, Plan
from eco_ray.core.planner import NoPlan, plan_job
from eco_ray.core.task import PlannerConfig, Situation, work_left_s

#: shorter than any time that matters [s]
_INSTANT_S = 1.0


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another plan of the same job."""

    #: now, elsewhere, later, in one piece
    what: str
    plan: Plan

    def more_g(self, chosen: Plan) -> float | None:
        """What it emits more than the chosen plan [g]; None where an intensity is unknown."""
        if self.plan.carbon_g is None or chosen.carbon_g is None:
            return None
        return self.plan.carbon_g - chosen.carbon_g


def alternatives(job: Job, chosen: Plan, situation: Situation, config: PlannerConfig) -> list[Alternative]:
    """The best plans that differ from the chosen one in one respect: at once, in other zones, later, without pauses.

    Those that are not possible, or come to the same, are left out.
    """
    found: list[Alternative] = []
    for what, variant in _variants(job, chosen, situation, config):
        plan = plan_job(variant, situation, config)
        if isinstance(plan, NoPlan) or plan.end_s > job.spec.deadline_s + _INSTANT_S:
            continue
        known = (chosen, *(one.plan for one in found))
        if not any(plan.segments == other.segments for other in known):
            found.append(Alternative(what, plan))
    return found


def _variants(job: Job, chosen: Plan, situation: Situation, config: PlannerConfig) -> Iterator[tuple[str, Job]]:
    spec = job.spec
    begin_s = max(situation.now_s, spec.not_before_s)
    if chosen.start_s > begin_s + _INSTANT_S:
        soon_s = begin_s + work_left_s(job, situation.now_s, config) + config.slot_s
        yield "now", replace(job, spec=replace(spec, deadline_s=min(spec.deadline_s, soon_s)))
    used = {segment.zone for segment in chosen.segments}
    zones = sorted({node.zone for node in situation.nodes if not spec.zones or node.zone in spec.zones})
    others = tuple(zone for zone in zones if zone not in used)
    if others:
        yield "elsewhere", replace(job, spec=replace(spec, zones=others))
    yield (
        "later",
        replace(job, spec=replace(spec, not_before_s=chosen.start_s + max(config.slot_s, config.market_step_s))),
    )
    if len(chosen.segments) > 1:
        yield "in one piece", replace(job, spec=replace(spec, suspend=replace(spec.suspend, allow=False)))
