"""When and where ONE job of the policy eco runs: the choice between the slots of its window, on its places.

The choices themselves are in `core/slots.py` and, for elastic jobs, in `core/elastic.py`. Here they get their costs,
and as many slots as the work needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from eco_ray.core.choice_parts import Bools
from eco_ray.core.elastic import elastic_segments, power_w
from eco_ray.core.jobs import Segment
from eco_ray.core.situation import Floats, Measure, Situation
from eco_ray.core.slots import (
    Costs,
    Interruptible,
    Odds,
    Run,
    SuspendCosts,
    cheapest_run,
    cheapest_slots,
    earliest_run,
    least_g,
    runs_g,
)
from eco_ray.core.spread import Choice, Stretch, shifts
from eco_ray.core.task import INSTANT_S, Task
from eco_ray.core.thorough import thorough_segments

#: slots beyond its work that a job's resumes may take together; with more it runs in one piece
_MORE_SLOTS = 8
#: up to so many places x slots, plans below a limit of the intensity are the best there are
_SMALL = 384

Segments = tuple[Segment, ...]


def greenest(task: Task, situation: Situation, cost_g: Costs, intensity: Floats) -> Segments | None:
    """The segments with the least carbon that end by the deadline; None without the time or the signal to choose.

    `cost_g`: shape (places, slots), by the task's measure; inf where it may not run.
    """
    spec = task.job.spec
    overdue = task.current is not None and task.left_s <= 1.0  # nobody knows how long it still takes
    if overdue or (task.current is not None and np.isnan(intensity[task.current, 0])):
        return None  # where it runs is as good as anywhere
    start_g = task.start_g(situation, intensity)
    limits = [np.ones(intensity.shape, dtype=np.bool_)]
    if spec.max_intensity is not None:
        limits.insert(0, intensity <= spec.max_intensity)
    for clean in limits:
        allowed = np.where(clean, cost_g, np.inf)
        segments = _quick(task, situation, allowed, start_g)
        if task.job.pausable and spec.suspend.allow:
            segments = _better(task, situation, intensity, clean, start_g, segments)
        if segments:
            segments = _spread(task, situation, allowed, start_g, segments)
            return _gated(task, situation, segments, allowed, start_g)
    return None


def _quick(task: Task, situation: Situation, cost_g: Costs, start_g: Floats | None) -> Segments | None:
    """A good choice, or None: not the best one where pauses cost something, nor always in time."""
    if task.job.spec.workers.max > task.job.spec.workers.min:
        return elastic_segments(task, situation, cost_g)
    if np.isfinite(cost_g).any(axis=0).sum() < task.slots(task.left_s):
        return None
    runs = _choose(task, situation, cost_g, start_g)
    return task.segments(runs) if runs else None


def _better(
    task: Task, situation: Situation, intensity: Floats, clean: Bools, start_g: Floats | None, quick: Segments | None
) -> Segments | None:
    """The least of all plans in time, where the quick choice will not do, or may not be the least below a limit.

    clean: shape (places, slots), where the intensity is low enough.
    """
    spec, rule = task.job.spec, task.job.spec.suspend
    limited, elastic = spec.max_intensity is not None, spec.workers.max > spec.workers.min
    pays, below_g = rule.resume_cost_s + task.launch_s + rule.min_run_s > 0, math.inf
    if quick and quick[-1].end_s > spec.deadline_s + INSTANT_S:
        if not limited:
            return quick  # its last slot is not whole: without it there is a quick choice as well
        quick = None
    if quick and not task.keeps_min_run(quick):
        quick = None
    if quick:
        if not (limited and pays) or elastic or task.in_doubt or clean.size > _SMALL:
            return quick
        below_g = _grams(task, situation, quick, start_g)
    elif not (elastic or pays or limited):
        return None  # quick and exact
    return thorough_segments(task, situation, intensity, clean, start_g, below_g) or quick


def ideal_g(task: Task, situation: Situation, cost_g: Costs) -> float:
    """What the job would add at least if every node were free [g]: where its length is in doubt, of the best choice."""
    work, spec = task.slots(task.left_s), task.job.spec
    pauses = task.job.pausable and spec.suspend.allow
    in_one_piece = not pauses and spec.workers.max == spec.workers.min
    odds = _odds(task, situation, cost_g) if pauses and spec.workers.max == spec.workers.min else None
    runs = cheapest_slots(cost_g, work, odds=odds) if odds is not None else None
    if runs:
        # the last of its slots is not used whole
        return runs_g(cost_g, runs) * task.left_s / (work * task.slot_s)
    return least_g(cost_g, task.left_s / task.slot_s, in_one_piece=in_one_piece)


def _odds(task: Task, situation: Situation, cost_g: Costs) -> Odds | None:
    return task.odds(situation, cost_g.shape[1], _most_work(task, cost_g))


def _most_work(task: Task, cost_g: Costs) -> int:
    """Slots that its work may take with its resumes."""
    return min(int(cost_g.shape[1]), task.slots(task.left_s) + _MORE_SLOTS)


def _choose(task: Task, situation: Situation, cost_g: Costs, start_g: Floats | None) -> list[Run] | None:
    """Runs of a job that is not elastic, with time for its work and its resumes, or None."""
    suspend = task.job.spec.suspend
    market_g = task.market_g(situation, cost_g)
    priced_g = cost_g if market_g is None else cost_g + market_g
    if task.job.pausable and suspend.allow:
        odds = _odds(task, situation, cost_g)
        if suspend.resume_cost_s == 0 and suspend.min_run_s == 0 and task.launch_s == 0 and start_g is None:

            def slots(work: int, since: int) -> list[Run] | None:
                """The cheapest slots from slot `since` on."""
                found = cheapest_slots(priced_g[:, since:], work, task.current if since == 0 else None, odds)
                return [(row, start + since, end + since) for row, start, end in found] if found else None

            runs = _enough(task, situation, slots, start_g)
        else:
            runs = _stretches(task, situation, priced_g, start_g, odds)
        if runs is not None:
            return runs
    if task.current is not None:
        return None  # runs, and runs on

    in_slots = 1.0 / task.slot_s
    end = (task.job.spec.deadline_s + INSTANT_S) * in_slots - task.first
    return cheapest_run(priced_g, task.run_s * in_slots, start_g, task.passed_s * in_slots, end)


def _stretches(
    task: Task, situation: Situation, priced_g: Costs, start_g: Floats | None, odds: Odds | None
) -> list[Run] | None:
    """The cheapest stretches where pauses cost something or a minimum run is asked for."""
    suspend = task.job.spec.suspend
    resume_s = suspend.resume_cost_s + task.launch_s
    resume = math.floor(resume_s / task.slot_s)
    rest = resume_s / task.slot_s - resume
    least = math.ceil(suspend.min_run_s / task.slot_s + rest - 1e-9) if suspend.min_run_s > 0 else 0
    for min_run in (least, least + 1, least + 1 + resume):
        costs = SuspendCosts(
            resume=resume,
            resume_rest=rest,
            min_run=min_run,
            running_on=task.current,
            fresh=not task.job.has_checkpoint and task.current is None,
            start_g=start_g,
        )
        table = Interruptible(priced_g, _most_work(task, priced_g), costs, odds)
        runs = _enough(task, situation, table.runs, start_g)
        # the first slot may be a part of one, and a fresh start takes no slots in the table: then it needs longer runs
        if runs is None or task.keeps_min_run(task.segments(runs)):
            return runs
    return None


def _spread(task: Task, situation: Situation, cost_g: Costs, start_g: Floats | None, segments: Segments) -> Segments:
    """The segments at the least crowded of equally clean times in the future; `core/spread.py` moves them."""
    job = task.job
    if segments[-1].start_s <= task.begin_s + INSTANT_S or segments[-1].end_s > job.spec.deadline_s + INSTANT_S:
        return segments  # it starts at once, or is late anyway
    if task.has_share(situation):
        return segments
    suspend, elastic = job.spec.suspend, job.spec.workers.max > job.spec.workers.min
    pauses = job.pausable and suspend.allow
    if pauses and not elastic and task.in_doubt:
        return segments  # it may run on: then the hours after it count as well
    market_g = task.market_g(situation, cost_g)
    priced_g = cost_g if market_g is None else cost_g + market_g
    slots, names = cost_g.shape[1], [place.node.name for place in task.places]

    def costs(row: int, workers: int) -> Floats:
        row_g: Floats = priced_g[row]
        if workers == task.workers:
            return row_g
        fits = situation.calendar.open_slots(task.places[row], job.spec.demand * workers, task.first, slots)
        share = power_w(task, situation, workers) / power_w(task, situation, task.workers)
        return np.where(fits, row_g * share, np.inf)

    origin_s, slot_s = task.first * task.slot_s, task.slot_s
    stretches = [
        Stretch.of(
            names.index(one.node), one.workers, (one.start_s - origin_s) / slot_s, (one.end_s - origin_s) / slot_s
        )
        for one in segments
    ]
    choice = Choice(
        costs, lambda row: situation.calendar.load(task.places[row], task.demand, task.first, slots), start_g
    )
    end = min(float(slots), (job.spec.deadline_s - origin_s) / slot_s)
    free = suspend.resume_cost_s == 0 and suspend.min_run_s == 0 and task.launch_s == 0 and start_g is None
    moved = shifts(stretches, choice, end, dearest=pauses and free and not elastic)
    if not any(moved):
        return segments
    elsewhen = tuple(
        Segment(one.node, one.zone, one.start_s + by * slot_s, one.end_s + by * slot_s, one.workers) if by else one
        for one, by in zip(segments, moved, strict=True)
    )
    if elastic and _grams(task, situation, elsewhen, start_g) > _grams(task, situation, segments, start_g) * (1 + 1e-9):
        return segments  # its costs above are those of one worker in proportion, a power curve is not
    return elsewhen


def _enough(
    task: Task, situation: Situation, policy: Callable[[int, int], list[Run] | None], start_g: Floats | None
) -> list[Run] | None:
    """The policy's choice, `policy(work, since)`, with as many slots as the work needs.

    Work is counted in whole slots, but resumes and the part of the first slot that is over take time as well: with too
    little the policy is asked for more. The first slot also costs less, so leaving it out is tried, too.
    """
    least = task.slots(task.left_s)

    def ask(since: int) -> list[Run] | None:
        work = least
        while work <= least + _MORE_SLOTS:
            runs = policy(work, since)
            missing_s = task.missing_s(runs) if runs else 0.0
            if missing_s <= INSTANT_S:
                return runs
            work += task.slots(missing_s)
        return None

    runs = ask(0)
    if task.passed_s <= INSTANT_S or task.current is not None:
        return runs
    later = ask(1)
    if runs is None or later is None:
        return runs or later
    now_g, later_g = (_grams(task, situation, task.segments(one), start_g) for one in (runs, later))
    return later if later_g < now_g * (1 - 1e-9) else runs


def _grams(task: Task, situation: Situation, segments: Segments, start_g: Floats | None) -> float:
    """What segments on its places cost by the task's measure, with their starts; inf where nobody knows."""
    known_g = situation.measured(segments, task.job.spec, task.measure)
    return math.inf if known_g is None else known_g + task.starts_g(segments, start_g)


def _gated(task: Task, situation: Situation, segments: Segments, cost_g: Costs, start_g: Floats | None) -> Segments:
    """Drop a choice that waits, before its start or in a pause, for less than the minimum saving against going on."""
    ends_s = task.begin_s, *(one.end_s for one in segments)
    waits = any(one.start_s > end_s + INSTANT_S for end_s, one in zip(ends_s, segments, strict=False))
    if not waits or task.job.spec.min_saving_pct <= 0:
        return segments
    if task.current is not None:  # it goes on where it is
        cost_g = np.where(np.arange(len(cost_g))[:, None] == task.current, cost_g, np.inf)
    return gate(task, situation, _at_once(task, situation, cost_g), segments, start_g)


def _at_once(task: Task, situation: Situation, cost_g: Costs) -> Segments | None:
    """A start now with as few workers as are done in time, on the cleanest place that has room."""
    spec = task.job.spec
    for count in range(spec.workers.min, spec.workers.max + 1):
        more = task.at(count)
        work = more.work_at_once
        if work > cost_g.shape[1]:
            continue
        window_g = cost_g[:, :work]
        if count > spec.workers.min:
            fits = situation.calendar.fits(task.places, more.demand, task.first, work)
            window_g = np.where(fits, window_g, np.inf)
        runs = earliest_run(window_g, work)
        segments = more.segments(runs) if runs else None
        if segments and segments[-1].end_s <= spec.deadline_s + INSTANT_S:
            return segments
    return None


def gate(task: Task, situation: Situation, now: Segments | None, chosen: Segments, start_g: Floats | None) -> Segments:
    """`now`, where the choice saves less than the job wants to wait for; a budget is worth any wait."""
    if now is None or task.measure is not Measure.ADDED_G:
        return chosen
    now_g = _grams(task, situation, now, start_g)
    saved_g = now_g - _grams(task, situation, chosen, start_g)
    too_little = saved_g * 100 < task.job.spec.min_saving_pct * now_g
    return now if math.isfinite(now_g) and too_little else chosen
