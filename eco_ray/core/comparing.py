"""How a new plan of a job compares with the one that it has."""

from __future__ import annotations

from eco_ray.core.jobs import Job, Plan
from eco_ray.core.situation import NoPlan


def replaces(job: Job, old: Plan | None, new: Plan | None, now_s: float) -> bool:
    """Whether a job has another plan now than it had; one that runs has if its next stretches are others."""
    if job.held or old is None or new is None:
        return False
    if job.live_attempt is None:
        return old.segments != new.segments
    before, after = ([(s.node, s.workers, s.start_s) for s in one.segments if s.start_s > now_s] for one in (old, new))
    return before != after


def is_better(job: Job, new: Plan | NoPlan, old: Plan, gain_pct: float) -> bool:
    """Whether changing to the new plan is worth it: clearly cleaner, or earlier at no more grams or when it is late."""
    if isinstance(new, NoPlan):
        return False
    if job.spec.policy == "run-now":
        return new.start_s < old.start_s
    if old.end_s > job.spec.deadline_s:
        return new.end_s < old.end_s - 1e-6
    if new.added_g is None or old.added_g is None:
        return new.added_g is not None or new.start_s < old.start_s
    if new.start_s < old.start_s and new.added_g <= old.added_g:
        return True
    return new.added_g <= old.added_g * (1 - gain_pct / 100)


def is_same(old: Plan, new: Plan, now_s: float) -> bool:
    """Whether two plans mean the same from now on."""

    def ahead(plan: Plan) -> list[tuple[str, int, float, float]]:
        return [
            (s.node, s.workers, round(max(s.start_s, now_s), 3), round(s.end_s, 3))
            for s in plan.segments
            if s.end_s > now_s
        ]

    return ahead(old) == ahead(new)
