"""Elastic jobs: when, where, and with how many workers in each slot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from eco_ray.core.choice_parts import Batch, Run
from eco_ray.core.choices import choose
from eco_ray.core.jobs import Segment
from eco_ray.core.situation import Floats, Measure, Mix, Situation
from eco_ray.core.slots import Costs
from eco_ray.core.task import INSTANT_S, Task

Segments = tuple[Segment, ...]

#: more workers than the least have to save so much where others hold all but what they take, and the less the emptier
#: it is: what a job gains by more workers at clean hours others lose who would have had them, and it does less per watt
WIDER_GAIN = 0.6
#: levels of workers above it are left out: they are counted in 8 bits
_MOST_LEVEL = 127


def elastic_segments(
    task: Task, situation: Situation, cost_g: Costs, narrow: Segments | None = None
) -> Segments | None:
    """The greenest segments of a job whose number of workers is free; None where it may not choose.

    cost_g: shape (places, slots), what the task's workers cost in each slot by its measure, inf where they may not run.
    A job that may be suspended can change its workers between slots, at the cost of a resume; any other keeps their
    number. `narrow`: what it does with the task's workers, by a closer look; if these are the least ones, that is what
    comes back where more do not pay.
    """
    spec, now = task.job.spec, task.job.live_attempt
    if task.current is not None and not (task.job.pausable and spec.suspend.allow):
        return None  # runs on as it is
    if task.workers > spec.workers.min or (narrow and narrow[-1].end_s > spec.deadline_s + INSTANT_S):
        narrow = None
    segments = _chosen(task, situation, cost_g, narrow, resumes=task.pays_at_start)
    if segments and task.current is not None and now is not None:
        first = segments[0]
        goes_on = first.start_s <= task.begin_s + INSTANT_S and (first.node, first.workers) == (now.node, now.workers)
        if not goes_on:  # then it has to resume
            segments = _chosen(task, situation, cost_g, narrow, resumes=True) or segments
    return segments


def _chosen(
    task: Task, situation: Situation, cost_g: Costs, narrow: Segments | None, *, resumes: bool
) -> Segments | None:
    """The best segments with the least workers, or with more where that clearly saves. The first start may resume."""
    spec, slots = task.job.spec, cost_g.shape[1]
    least = spec.workers.min
    counts = range(least, spec.workers.max + 1)
    watts = np.array([power_w(task, situation, count) for count in counts]) / power_w(task, situation, least)
    cost_g = cost_g / watts[task.workers - least]
    task = task.at(least)
    shared_g, public_g = (task.market_g(one, cost_g) for one in (situation, _without_shares(situation)))
    lengths_s = task.lengths_s(slots)
    rate_g = np.stack([cost_g if market_g is None else cost_g + market_g for market_g in (public_g, shared_g)])
    rate_g /= lengths_s
    latest_s = spec.deadline_s - (task.first + np.arange(slots)) * task.slot_s
    room_s = np.clip(np.minimum(lengths_s, latest_s), 0.0, None)
    fits = situation.calendar.most_workers(task.places, spec.demand, task.first, slots, spec.workers.max)
    start_s = spec.suspend.resume_cost_s + task.launch_s
    first_s = start_s if resumes else task.launch_s if task.current is None else 0.0
    speed = np.array([spec.workers.speeds, (1.0,) + (0.0,) * (len(counts) - 1)])
    batch = Batch(
        slot_s=task.slot_s,
        rate_g=rate_g,
        room_s=np.stack([room_s] * 2),
        begin_s=np.full(2, task.passed_s),
        work_s=np.full(2, task.left_s),
        pausable=np.full(2, task.job.pausable and spec.suspend.allow),
        resume_s=np.full(2, start_s),
        paid_start=np.full(2, first_s / start_s if start_s > 0 else 0.0),
        min_run_s=np.full(2, spec.suspend.min_run_s),
        speed=speed,
        power=np.stack([watts] * 2),
        most=np.stack([np.minimum(fits - least, _MOST_LEVEL).astype(np.int8)] * 2),
    )
    wide, plain = choose(batch).runs
    runs = wide
    if wide is not None and plain is not None:
        wide_g, plain_g = (_run_g(one, rate_g[0], watts, task.slot_s) for one in (wide, plain))
        least_gain = max(1e-9, WIDER_GAIN * _held_share(task, situation, wide))
        if wide_g >= plain_g * (1 - least_gain):
            if narrow:
                return narrow
            runs = plain
    return _segments(task, runs) if runs is not None else None


def _held_share(task: Task, situation: Situation, runs: Sequence[Run]) -> float:
    """Mean share of its places, in [0, 1], that others hold while it runs, of the scarcest resource that it needs."""
    needs = np.array(task.demand.amounts) > 0
    held_s = total_s = 0.0
    for row, _, start_s, end_s in runs:
        pool = task.places[row].pool
        has = np.sum([node.capacity.amounts for node in situation.fleet.pools[pool]], axis=0)
        edges_s = task.first * task.slot_s + np.array([start_s, end_s])
        free = situation.calendar.free_mean(pool, edges_s)[0]
        held_s += (end_s - start_s) * float(np.max(1 - free[needs] / np.maximum(has[needs], 1e-9), initial=0.0))
        total_s += end_s - start_s
    return held_s / total_s if total_s > 0 else 0.0


def _run_g(runs: Sequence[Run], rate_g: Floats, watts: Floats, slot_s: float) -> float:
    """What runs cost at a rate of shape (places, slots) [g/s with the least workers]."""
    total_g = 0.0
    for row, level, start_s, end_s in runs:
        first, end = int(start_s / slot_s + 1e-9), math.ceil(end_s / slot_s - 1e-9)
        edges_s = np.clip(np.arange(first, end + 1) * slot_s, start_s, end_s)
        total_g += float(rate_g[row, first:end] @ np.diff(edges_s)) * float(watts[level])
    return total_g


def _segments(task: Task, runs: Sequence[Run]) -> Segments:
    """Runs, whose times count from the beginning of the first slot, in time."""
    origin_s, least = task.first * task.slot_s, task.job.spec.workers.min
    return tuple(
        Segment(
            task.places[row].node.name, task.places[row].node.zone, origin_s + start_s, origin_s + end_s, least + level
        )
        for row, level, start_s, end_s in runs
    )


def _without_shares(situation: Situation) -> Situation:
    """With prices that hold for all: a share says how much of a step is meant for a job, not with how many workers."""
    market = situation.market
    return situation if market is None else replace(situation, market=replace(market, shares_s={}))


def power_w(task: Task, situation: Situation, workers: int) -> float:
    """What so many workers draw on the largest of its nodes, by the task's measure [W]: only ratios of it are used.

    On one that is too small for them they would seem to draw no more than fit.
    """
    fleet, spec = situation.fleet, task.job.spec
    largest = [place for place in task.places if (spec.demand * spec.workers.max).fits_node(place.node.capacity)]
    place = largest[0] if largest else max(task.places, key=lambda one: one.node.capacity.amounts)
    demand = spec.demand * workers
    weight = task.measure.added if isinstance(task.measure, Mix) else float(task.measure is Measure.ADDED_G)
    added_w, share_w = fleet.added_w(place, demand), fleet.attributed_w(place, demand)
    return max(weight * added_w + (1 - weight) * share_w, 1e-12)
