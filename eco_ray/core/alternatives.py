"""What else could be done with a job, and what it would emit: the runners-up beside a plan, or what would give one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from eco_ray.core.durations import done_so_far_s
from eco_ray.core.jobs import Job, Plan, Reason, Workers
from eco_ray.core.planner import plan_job
from eco_ray.core.situation import NoPlan, PlannerConfig, Situation
from eco_ray.core.words import most_workers

#: shorter than any time that matters [s]
_INSTANT_S = 1.0
#: how much later a deadline is tried for a job that has no plan [s]
_LATER_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another plan of the same job."""

    #: now, elsewhere, later, in one piece, more workers, fewer workers; or what a job without a plan would need
    what: str
    plan: Plan

    def more_g(self, chosen: Plan) -> float | None:
        """What the ledger would give the job more than with the chosen plan [g]; None where that is unknown."""
        return _difference_g(self.plan.carbon_g, chosen.carbon_g)

    def more_added_g(self, chosen: Plan) -> float | None:
        """What it adds to the nodes' emissions more than the chosen plan [g]: what the planner compares."""
        return _difference_g(self.plan.added_g, chosen.added_g)

    def behind_g(self, chosen: Plan) -> float | None:
        """How far it is behind the chosen plan [g]: by what plans are compared by, or else by the job's share."""
        added_g = self.more_added_g(chosen)
        return self.more_g(chosen) if added_g is None else added_g


def runner_up(chosen: Plan, others: Sequence[Alternative]) -> Alternative | None:
    """The one that is least behind; one whose grams are unknown only where all are."""
    known = [(behind_g, one) for one in others if (behind_g := one.behind_g(chosen)) is not None]
    if known:
        return min(known, key=lambda pair: pair[0])[1]
    return others[0] if others else None


def ordered_alike(chosen: Plan, others: Sequence[Alternative]) -> bool:
    """Whether the plans' shares of the ledger and what they add put them in the same order."""
    plans = [chosen, *(one.plan for one in others)]
    known = [(p.added_g, p.carbon_g) for p in plans if p.added_g is not None and p.carbon_g is not None]
    return all(
        (mine[0] - theirs[0]) * (mine[1] - theirs[1]) >= 0 or _about_equal(mine, theirs)
        for index, mine in enumerate(known)
        for theirs in known[:index]
    )


def alternatives(job: Job, chosen: Plan, situation: Situation, config: PlannerConfig) -> list[Alternative]:
    """The best plans that differ from the chosen one in one respect.

    At once, in other zones, later, without pauses, with more workers than it ever uses, with the least workers. Those
    that are not possible, or come to the same, are left out.
    """
    found: list[Alternative] = []
    for what, variant in _variants(job, chosen, situation, config):
        plan = plan_job(variant, situation, config)
        if isinstance(plan, NoPlan) or plan.end_s > job.spec.deadline_s + _INSTANT_S:
            continue
        if what == "now" and plan.start_s > max(situation.now_s, job.spec.not_before_s) + config.slot_s:
            continue  # it could not start at once
        known = (chosen, *(one.plan for one in found))
        if not any(plan.segments == other.segments for other in known):
            found.append(Alternative(what, plan))
    return found


def remedies(job: Job, why: Plan | NoPlan, situation: Situation, config: PlannerConfig) -> list[Alternative]:
    """Plans that hold the deadline of a job that has none: with a larger budget, in every zone, or a day later."""
    found: list[Alternative] = []
    for what, variant in _wider(job, why, situation):
        plan = plan_job(variant, situation, config)
        if isinstance(plan, NoPlan) or plan.end_s > variant.spec.deadline_s + _INSTANT_S:
            continue
        if variant.spec.budget_g is not None and plan.carbon_g is None:
            continue  # an unknown intensity keeps no budget
        found.append(Alternative(what, plan))
    return found


def _variants(job: Job, chosen: Plan, situation: Situation, config: PlannerConfig) -> Iterator[tuple[str, Job]]:
    spec = job.spec
    begin_s = max(situation.now_s, spec.not_before_s)
    if chosen.start_s > begin_s + _INSTANT_S:
        # without time to choose, it takes the cleanest place that is free at once
        yield "now", replace(job, spec=replace(spec, deadline_s=begin_s + _INSTANT_S))
    used = {segment.zone for segment in chosen.segments}
    others = tuple(zone for zone in spec.zones or situation.fleet.zones if zone not in used)
    if others:
        yield "elsewhere", replace(job, spec=replace(spec, zones=others))
    step_s = max(config.slot_s, config.market_step_s)
    if chosen.end_s + step_s > spec.deadline_s:
        step_s = config.slot_s
    yield "later", replace(job, spec=replace(spec, not_before_s=chosen.start_s + step_s))
    if len(chosen.segments) > 1:
        yield "in one piece", replace(job, spec=replace(spec, suspend=replace(spec.suspend, allow=False)))
    if job.live_attempt is not None:
        return  # it runs with some number of workers already
    most, workers = most_workers(chosen), spec.workers
    if most < workers.max:
        yield "more workers", _sized(job, most + 1, workers.max, situation)
    if most > workers.min:
        yield "fewer workers", _sized(job, workers.min, workers.min, situation)


def _wider(job: Job, why: Plan | NoPlan, situation: Situation) -> Iterator[tuple[str, Job]]:
    spec = job.spec
    if isinstance(why, NoPlan) and why.reason is Reason.EXCEEDS_BUDGET:
        yield "a larger budget", replace(job, spec=replace(spec, budget_g=None, budget_j=None))
    if spec.zones and set(situation.fleet.zones) - set(spec.zones):
        yield "every zone", replace(job, spec=replace(spec, zones=()))
    yield "a deadline a day later", replace(job, spec=replace(spec, deadline_s=spec.deadline_s + _LATER_S))


def _sized(job: Job, least: int, most: int, situation: Situation) -> Job:
    """The same work with other limits of its workers: lengths of a job count with its least workers."""
    spec, workers = job.spec, job.spec.workers
    pace = workers.speed(least)
    length = situation.durations.expected(spec, done_so_far_s(job, situation.now_s), job.progress)
    speeds = tuple(workers.speed(count) / pace for count in range(least, most + 1))
    sized = replace(spec, workers=Workers(least, most, speeds), expected_duration_s=length.seconds / pace)
    return replace(job, spec=sized, productive_s=job.productive_s / pace, progress=None)


def _difference_g(mine_g: float | None, theirs_g: float | None) -> float | None:
    return None if mine_g is None or theirs_g is None else mine_g - theirs_g


def _about_equal(mine: tuple[float, float], theirs: tuple[float, float]) -> bool:
    return any(abs(a - b) <= 5e-4 * max(abs(a), abs(b)) for a, b in zip(mine, theirs, strict=True))
