"""A job that can no longer be in time, or for which nothing is free in time: the earliest end there is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from eco_ray.core.greenest import Segments, greenest
from eco_ray.core.jobs import Job
from eco_ray.core.situation import Floats, Situation
from eco_ray.core.slots import Costs
from eco_ray.core.task import Task

#: shorter than any time that matters [s]
_INSTANT_S = 1e-6


def is_overdue(job: Job, now_s: float, left_s: float) -> bool:
    """Whether its latest start has passed, so that no place could hold its deadline. `left_s`: on its least workers."""
    begin_s = max(now_s, job.spec.not_before_s, job.retry_at_s)
    return begin_s + left_s / max(job.spec.workers.speeds) > job.spec.deadline_s + _INSTANT_S


def earliest_end(
    task: Task, situation: Situation, cost_g: Costs, intensity: Floats, whole: Segments | None
) -> Segments | None:
    """The segments that end first, where pauses let them end before `whole`, the earliest run in one piece.

    cost_g: shape (places, slots), inf where it may not run. Of choices that end in the same slot the greenest.
    """
    spec = task.job.spec
    if not (task.job.pausable and spec.suspend.allow):
        return whole
    slots = cost_g.shape[1]
    if whole is not None:
        slots = min(slots, int(np.ceil(whole[-1].end_s / task.slot_s - 1e-6)) - task.first - 1)
    fastest = task.left_s / max(spec.workers.speeds)
    usable = np.cumsum(np.isfinite(cost_g[:, :slots]).any(axis=0))
    if not len(usable) or usable[-1] < task.slots(fastest):
        return whole

    def until(count: int) -> Segments | None:
        """The greenest segments within so many slots."""
        end_s = (task.first + count) * task.slot_s
        asked = replace(task.job, spec=replace(spec, deadline_s=end_s, min_saving_pct=0.0))
        found = greenest(replace(task, job=asked), situation, cost_g[:, :count], intensity[:, :count])
        return found if found and found[-1].end_s <= end_s + _INSTANT_S else None

    # mostly the first slots that are free will do; else a starts' time or a minimum run asks for a few more
    too_few = int(np.searchsorted(usable, task.slots(fastest)))
    step, best = 1, None
    while best is None and too_few < slots:
        count = min(too_few + step, slots)
        best = until(count)
        too_few, step = (too_few, step) if best else (count, 2 * step)
    if best is None:
        return whole
    while count - too_few > 1:
        middle = (count + too_few) // 2
        found = until(middle)
        best, count, too_few = (found, middle, too_few) if found else (best, count, middle)
    return best
