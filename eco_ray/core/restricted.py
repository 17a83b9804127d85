"""Plans with fewer freedoms: what starts cost over a whole plan, the choice between its slots does not see all of it.

Where the checkpoint will be by then depends on the stretch before, and an elastic job chooses its hours without the
wakes of its nodes. So the choice is compared, as a whole plan and with all of its starts, with what the job would do
with less to choose from: in one piece, within one zone, on nodes that need not be woken, with its least workers.
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


def needs_comparison(task: Task, plan: Plan, situation: Situation) -> bool:
    """Whether a plan has starts that its choice could not count: moves of a checkpoint, wakes of an elastic job."""
    spec = task.job.spec
    if spec.policy != "eco" or task.measure is not Measure.ADDED_G or plan.added_g is None:
        return False
    zones = {segment.zone for segment in plan.segments}
    moves = len(zones) > 1 and (task.job.checkpoint_gb or spec.checkpoint_gb) > 0
    used = (situation.fleet.place_of(segment.node) for segment in plan.segments)
    elastic = spec.workers.max > spec.workers.min
    return moves or (elastic and any(_wakes(place) for place in used if place is not None))


def restrictions(task: Task, plan: Plan, situation: Situation) -> Iterator[tuple[Job, Sequence[Place]]]:
    """The same job with less to choose from, and the places that it may choose."""
    job, some = task.job, _fewer_places(task, plan, situation)
    yield from ((job, places) for places in some)
    for other in _fewer_choices(task):
        yield from ((other, places) for places in (task.places, *some))


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
    zones = list(dict.fromkeys(place.node.zone for place in (*here, *task.places)))
    pools = [at.pool for segment in plan.segments if (at := situation.fleet.place_of(segment.node)) is not None]
    awake = [place for place in task.places if not _wakes(place)]
    found: list[Sequence[Place]] = [
        *([place for place in task.places if place.node.zone == zone] for zone in zones[:_MOST_ZONES]),
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
    """The job without pauses, with its least workers, and both."""
    job, spec = task.job, task.job.spec
    least = replace(spec, workers=Workers(spec.workers.min, spec.workers.min, spec.workers.speeds[:1]))
    pauses = job.pausable and spec.suspend.allow
    if pauses:
        yield replace(job, spec=replace(spec, suspend=replace(spec.suspend, allow=False)))
    if spec.workers.max > spec.workers.min and job.live_attempt is None:
        yield replace(job, spec=least)
        if pauses:
            yield replace(job, spec=replace(least, suspend=replace(spec.suspend, allow=False)))


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
