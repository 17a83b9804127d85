"""What would become of a job if it were submitted now; nothing is changed."""

from __future__ import annotations

from typing import Any

from eco_ray.core.alternatives import alternatives
from eco_ray.core.book import Book
from eco_ray.core.explain import describe_plan
from eco_ray.core.jobs import Job, JobSpec, JobState, Reason
from eco_ray.core.planner import NoPlan, check_feasible, plan_job


def dry_run(spec: JobSpec, book: Book, now_s: float) -> dict[str, Any]:
    """The plan of a job beside those that are in the book, and its runners-up, as plain values.

    Raises InfeasibleError or NotFoundError where submitting it would.
    """
    check_feasible(spec, now_s, list(book.nodes.values()), book.config)
    job = Job("plan", spec, JobState.QUEUED, Reason.PENDING_EVALUATION, "", submitted_s=now_s)
    situation = book.situation(now_s)
    found = plan_job(job, situation, book.config)
    others = [] if isinstance(found, NoPlan) else alternatives(job, found, situation, book.config)
    return describe_plan(job, found, now_s, book.config, others)
