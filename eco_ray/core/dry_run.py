"""What would become of a job if it were submitted now: it is, to a copy of the orchestrator, and nothing is done.

So there is one way from a job to its plan, on which others may have to give way.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from eco_ray.core.alternatives import alternatives, remedies
from eco_ray.core.events import JobSubmitted
from eco_ray.core.explain import describe_plan
from eco_ray.core.jobs import Job, JobSpec, JobState, Plan, Reason
from eco_ray.core.orchestrator import Orchestrator
from eco_ray.core.room import is_late
from eco_ray.core.situation import NoPlan
from eco_ray.core.words import stretches

#: no job has this id: they begin with a letter or digit
_ID = "(dry run)"


def dry_run(spec: JobSpec, core: Orchestrator, now_s: float) -> dict[str, Any]:
    """The plan that a job would get, who would give way to it, and its runners-up, as plain values; without a plan that
    is in time, what would give it one.

    Raises InfeasibleError or NotFoundError where submitting it would.
    """
    twin = _twin(core)
    twin.handle(JobSubmitted(_ID, spec), now_s)
    book = twin.book
    done = book.jobs[_ID]
    found = NoPlan(done.reason, done.message) if done.plan is None else done.plan
    # the others are planned beside what all have now, in the place of the plan that was found
    book.lift([done])
    job = Job(_ID, spec, JobState.QUEUED, Reason.PENDING_EVALUATION, "", submitted_s=now_s)
    ask = book.situation(now_s), book.config
    others = (
        alternatives(job, found, *ask)
        if isinstance(found, Plan) and not is_late(job, found)
        else remedies(job, found, *ask)
    )
    gives_way = [
        _way(old, book.jobs[old.id], now_s) for old in core.book.jobs.values() if book.jobs[old.id].plan is not old.plan
    ]
    return {**describe_plan(job, found, now_s, others, book.home_zone), "gives_way": gives_way}


def _twin(core: Orchestrator) -> Orchestrator:
    """A copy that shares only what no submission changes: records, nodes, series, and what ended jobs have taught."""
    book = core.book
    series = (*book.forecast.values(), *book.past.values())
    shared = (*book.jobs.values(), *book.nodes.values(), *series, book.market, book.durations)
    return deepcopy(core, {id(one): one for one in shared if one is not None})


def _way(old: Job, new: Job, now_s: float) -> dict[str, Any]:
    """From when to when a job would move that gives way."""
    return {
        "id": old.id,
        "name": old.spec.name,
        "state": str(old.state),
        "from": stretches(old.plan, now_s) if old.plan else [],
        "to": stretches(new.plan, now_s) if new.plan else [],
    }
