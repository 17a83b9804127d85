"""Plans with fewer freedoms: what starts cost over a whole plan, the choice between its slots does not see all of it.

Where the checkpoint will be by then depends on the stretch before, and an elastic job chooses its hours without the
wakes of its nodes, and its workers by what they add on one of them beside nobody. So the choice is compared, as a
whole plan and with all of its starts, with what the job would do with less to choose from: in one piece, within one
zone, on one node, on nodes that need not be woken, with fewer workers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from eco_ray.core.fleet import Place
from eco_ray.core.jobs import Job, Plan, Workers
from eco_ray.core.market import held_g
from eco_ray.core.situation import Measure, Situation
from eco_ray.core.slots import ROUNDING
from eco_ray.core.task import INSTANT_S, PRICE_WEIGHT, Task

#: zones that are tried one by one at most
_MOST_ZONES = 8
#: places beside those of the plan that are tried one by one at most, as power curves bend in other ways there
_MOST_BENT = 3


def needs_comparison(task: Task, plan: Plan, situation: Situation) -> bool:
    """Whether a plan has costs that its choice could not count: moves of a checkpoint; wakes or bends, if elastic."""
    spec = task.job.spec
    if spec.policy != "eco" or task.measure is not Measure.ADDED_G or plan.added_g is None:
        return False
    return _has_starts(task, plan, situation) or _is_bent(task)


def restrictions(task: Task, plan: Plan, situation: Situation) -> Iterator[tuple[Job, Sequence[Place]]]:
    """The same job with less to choose from, and the places that it may choose."""
    job, some = task.job, _fewer_places(task, plan, situation)
    yield from ((job, places) for places in some)
    for other in _fewer_choices(task):
        yield from ((other, places) for places in (task.places, *(some if _has_starts(task, plan, situation) else ())))


def is_less(new: Plan, old: Plan, task: Task, situation: Situation) -> bool:
    """Whether a plan is in time where the other is not, or costs less with all of its starts and with prices."""
    new_late, old_late = (one.end_s > task.job.spec.deadline_s + INSTANT_S for one in (new, old))
    if new_late != old_late:
        return old_late
    most = task.job.spec.max_intensity
    if most is not None and _peak(new, situation) > max(most, _peak(old, situation)):
        return False
    new_g, old_g = (_priced_g(one, task, situation) for one in (new, old))
    return new_g < old_g - ROUNDING * abs(old_g)


def _fewer_places(task: Task, plan: Plan, situation: Situation) -> list[Sequence[Place]]:
    """Each zone, what is awake, and each place of the plan by itself; where it runs stays possible."""
    here = () if task.current is None else (task.places[task.current],)
    starts = _has_starts(task, plan, situation)
    zones = list(dict.fromkeys(place.node.zone for place in (*here, *task.places)))
    pools = [at.pool for segment in plan.segments if (at := situation.fleet.place_of(segment.node)) is not None]
    awake = [place for place in task.places if not _wakes(place)]
    if not starts:  # which of them bends least, nobody knows
        pools += [place.pool for place in task.places[:_MOST_BENT]]
    found: list[Sequence[Place]] = [
        *([place for place in task.places if place.node.zone == zone] for zone in zones[:_MOST_ZONES] if starts),
        awake,
        *([place for place in task.places if place.pool == pool] for pool in dict.fromkeys(pools)),
    ]
    some: list[Sequence[Place]] = []
    for places in found:
        both = [*places, *(place for place in here if place not in places)]
        if places and len(both) < len(task.places) and both not in some:
            some.append(both)
    return some


def _fewer_choices(task: Task) -> Iterator[Job]:
    """The job without pauses, where starts cost something, with fewer workers down to its least, and both."""
    job, spec = task.job, task.job.spec
    most, least = spec.workers.max, spec.workers.min
    pauses = job.pausable and spec.suspend.allow and _pays_starts(task)
    if pauses:
        yield replace(job, spec=replace(spec, suspend=replace(spec.suspend, allow=False)))
    while most > least and job.live_attempt is None:
        most = max(most // 2, least)
        fewer = replace(spec, workers=Workers(least, most, spec.workers.speeds[: most - least + 1]))
        yield replace(job, spec=fewer)
        if pauses:
            yield replace(job, spec=replace(fewer, suspend=replace(spec.suspend, allow=False)))


def _has_starts(task: Task, plan: Plan, situation: Situation) -> bool:
    """Whether a plan has starts that its choice could not count: moves of a checkpoint, wakes of an elastic job."""
    workers, zones = task.job.spec.workers, {segment.zone for segment in plan.segments}
    if len(zones) > 1 and (task.job.checkpoint_gb or task.job.spec.checkpoint_gb) > 0:
        return True
    used = (situation.fleet.place_of(segment.node) for segment in plan.segments)
    return workers.max > workers.min and any(_wakes(place) for place in used if place is not None)


def _pays_starts(task: Task) -> bool:
    """Whether another start may cost something."""
    job, suspend = task.job, task.job.spec.suspend
    costs = suspend.resume_cost_s + suspend.min_run_s + task.launch_s
    costs += job.checkpoint_gb or job.spec.checkpoint_gb
    return costs > 0 or any(_wakes(place) for place in task.places)


def _is_bent(task: Task) -> bool:
    """Whether what more workers of an elastic job add depends on the node, and on who else is there."""
    workers = task.job.spec.workers
    return workers.max > workers.min and any(place.bends for place in task.places)


def _wakes(place: Place) -> bool:
    return place.node.sleeps and place.node.wake_j > 0


def _priced_g(plan: Plan, task: Task, situation: Situation) -> float:
    """What a plan adds, with its starts, and what its places are worth to others [g]."""
    if plan.added_g is None:
        return math.inf
    total_g, market = plan.added_g, situation.market
    for segment in plan.segments if market is not None else ():
        place = situation.fleet.place_of(segment.node)
        if market is not None and place is not None and place.pool < len(market.price_g):
            amounts = (task.job.spec.demand * segment.workers).amounts
            total_g += PRICE_WEIGHT * held_g(market, place.pool, amounts, segment.start_s, segment.end_s)
    return total_g


def _peak(plan: Plan, situation: Situation) -> float:
    """The greatest mean intensity of a slot in which it runs [g/kWh]."""
    peak, calendar = 0.0, situation.calendar
    for segment in plan.segments:
        series = situation.forecast.get(segment.zone)
        if series is None:
            return math.inf
        start, means = situation.slot_means(series)
        first, last = calendar.slot_of(segment.start_s) - start, calendar.slot_of(segment.end_s - INSTANT_S) - start
        peak = max(peak, float(means[max(first, 0) : last + 1].max(initial=0.0)))
    return peak
