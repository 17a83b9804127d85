"""The lowest-carbon choice of MANY jobs at once, each by itself: when, on which row (node), with how many workers.

Vectorised over jobs; two jobs may get the same place, and the caller asks again with updated costs. Three kinds:

- not to be paused: the cheapest contiguous run, exact to the second;
- pausing is free: the cheapest slots, by the greedy of CarbonScaler (SIGMETRICS'24), exact for one level;
- pausing costs time: Lagrangian relaxation. At a price per useful second a dynamic program over (slot, row) finds the
  most worthwhile runs; the price is searched until the work just fits, and what is too much is trimmed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from eco_ray.core.choice_parts import (
    INSTANT_S,
    ROUNDING,
    Batch,
    Bools,
    Choices,
    Floats,
    Ints,
    Run,
    Spans,
    joined,
    near,
    parts,
)
from eco_ray.core.choice_pauses import paused_runs
from eco_ray.core.choice_runs import contiguous

#: bits of a sort key that hold the index; what is left tells prices apart that differ by 2e-10
_INDEX_BITS = 20


def choose(batch: Batch) -> Choices:
    """The choice of each job with the least grams; of equal ones the earliest, then the first row."""
    if batch.most is not None and (batch.most < 0).any():
        batch = replace(batch, rate_g=np.where(batch.most < 0, np.inf, batch.rate_g))
    runs: list[list[Run] | None] = [None] * len(batch.work_s)
    carbon_g = np.full(len(runs), np.inf)
    _, rows, slots = batch.rate_g.shape
    free = batch.pausable & (batch.resume_s <= 0) & (batch.min_run_s <= batch.slot_s)
    elastic = (batch.speed[:, 1:] > 0).any(axis=1)
    for levels, jobs in ((1, np.flatnonzero(free & ~elastic)), (batch.speed.shape[1], np.flatnonzero(free & elastic))):
        for some in parts(jobs, rows * slots * levels):
            _cheapest_slots(batch, some, levels, runs, carbon_g)
    # the cheapest row may not have room for enough workers: then another one at all times
    whole = np.flatnonzero(~free | (elastic & np.isinf(carbon_g)))
    if len(whole):
        which, level = np.nonzero(batch.speed[whole] > 0)
        _in_runs(batch, whole[which], level, runs, carbon_g)
    return Choices(runs, carbon_g)


def _in_runs(batch: Batch, job: Ints, level: Ints, runs: list[list[Run] | None], carbon_g: Floats) -> None:
    """Choose for jobs that run at one level all the time; pairs (job, level) are in the order of jobs."""
    row, start_s, end_s, pair_g = contiguous(batch, job, level)
    paused_g = np.full(len(job), np.inf)
    spans = None
    costly = batch.pausable[job] & ((batch.resume_s[job] > 0) | (batch.min_run_s[job] > batch.slot_s))
    if costly.any():
        spans, found_g = paused_runs(batch, job[costly], level[costly], pair_g[costly])
        paused_g[costly] = found_g
    paused = paused_g < pair_g - ROUNDING * np.abs(np.where(np.isfinite(pair_g), pair_g, 0.0))
    best_g = np.where(paused, paused_g, pair_g)
    first = np.flatnonzero(np.append(True, job[1:] != job[:-1]))
    chosen = first
    if len(first) < len(job):
        close = best_g <= np.repeat(near(np.minimum.reduceat(best_g, first)), np.diff(np.append(first, len(job))))
        begin_s = np.where(paused, -np.inf, start_s)  # a paused run wins only where it is better at all
        chosen = np.lexsort((level, row, begin_s, ~close, job))[first]
    chosen = chosen[np.isfinite(best_g[chosen])]
    carbon_g[job[chosen]] = best_g[chosen]
    pairs = chosen[~paused[chosen]]
    Spans(job[pairs], row[pairs], level[pairs], start_s[pairs], end_s[pairs]).tell(runs)
    if spans is not None:
        wins = np.zeros(len(job), dtype=np.bool_)
        wins[chosen] = paused[chosen]
        spans = spans.at(wins[costly][spans.job])
        replace(spans, job=job[costly][spans.job]).tell(runs)


def _cheapest_slots(batch: Batch, jobs: Ints, levels: int, runs: list[list[Run] | None], carbon_g: Floats) -> None:
    """Choose for jobs that may pause at no cost: increments (slot, next level) by grams per additional work."""
    rate, room_s = batch.rate_g[jobs], batch.room_s[jobs]
    slots = room_s.shape[1]
    least = rate.min(axis=1)
    gain = np.where(least < np.inf, room_s, 0.0)
    price, below = np.where(gain > 0, least, np.inf), None
    if levels > 1:
        price, gain, below = _increments(batch, jobs, rate, price, gain)
    taken, last, left = _taken(price, gain, batch.work_s[jobs])
    if levels > 1:
        used = (taken & (gain > 0)).reshape(-1, slots, levels)
        at, slot = np.nonzero(used.any(axis=2))
        level = levels - 1 - used[at, slot, ::-1].argmax(axis=1)
    else:
        at, slot = np.nonzero(taken)
        level = np.zeros(len(at), dtype=np.int64)
    if not len(at):
        return
    fits = rate[at, :, slot] <= near(least[at, slot])[:, None]
    if batch.most is not None and levels > 1:
        fits &= batch.most[jobs[at], :, slot] >= level[:, None]
    start_s = np.maximum(slot * batch.slot_s, batch.begin_s[jobs[at]])
    spans = Spans(at, _stay(at, fits), level, start_s, start_s + room_s[at, slot])

    done = np.flatnonzero(last >= 0)
    part = np.searchsorted(at * slots + slot, done * slots + last[done] // levels)
    part_s = left[done]
    if below is not None:
        part_s = part_s * room_s[done, slot[part]] / gain[done, last[done]]
    rest = _cut(spans, part, part_s)
    if below is not None:  # the rest of the slot stays on the level below
        rest = replace(rest, level=below[done, slot[part], level[part]])
        stays = (rest.level >= 0) & (rest.end_s > rest.start_s + INSTANT_S)
        slot = np.concatenate([slot, slot[part[stays]]])
        spans = joined([spans, rest.at(stays)])
        order = np.lexsort((spans.start_s, spans.job))
        spans, slot = spans.at(order), slot[order]
    grams = rate[spans.job, spans.row, slot] * (spans.end_s - spans.start_s)
    if levels > 1:
        grams *= batch.power[jobs[spans.job], spans.level]
    carbon_g[jobs[done]] = np.bincount(spans.job, grams, len(jobs))[done]
    replace(spans, job=jobs[spans.job]).tell(runs)


def _cut(spans: Spans, part: Ints, part_s: Floats) -> Spans:
    """Leave so much of these spans: the end where the run goes on, else the beginning. Returns what is cut off."""
    together = ~np.append(replace(spans, level=np.zeros_like(spans.level)).begins(), True)[part + 1]
    start_s, end_s = spans.start_s[part], spans.end_s[part]
    middle_s = np.where(together, end_s - part_s, start_s + part_s)
    spans.start_s[part] = np.where(together, middle_s, start_s)
    spans.end_s[part] = np.where(together, end_s, middle_s)
    rest = spans.at(part)
    return replace(rest, start_s=np.where(together, start_s, middle_s), end_s=np.where(together, middle_s, end_s))


def _increments(batch: Batch, jobs: Ints, rate: Floats, least: Floats, open_s: Floats) -> tuple[Floats, Floats, Ints]:
    """Price per work and work of each next level in each slot, (n, slots x levels), and the level below it (n, T, W).

    rate: (n, R, T); least: the least of them, inf where closed, and open_s: how long a slot is open, both (n, T).
    """
    each = np.arange(len(jobs))[:, None]
    top = batch.speed.shape[1] - 1
    cap = np.full(least.shape, top)
    if batch.most is not None:
        tied = rate <= near(least)[:, None]
        cap = np.minimum(np.where(tied, batch.most[jobs], 0).max(axis=1).astype(np.int64), top)
    ratio, faster, below = _steps(batch.speed[jobs], batch.power[jobs])
    faster = faster[each, cap]
    with np.errstate(invalid="ignore"):  # closed slots: inf x 0
        price = np.where(faster > 0, least[:, :, None] * ratio[each, cap], -np.inf)
    # a level comes after those below, also where the rate is negative
    price = np.maximum.accumulate(price, axis=2)
    price[open_s <= 0] = np.inf
    gain = faster * open_s[:, :, None]
    return price.reshape(len(jobs), -1), gain.reshape(len(jobs), -1), below[each, cap]


def _taken(price: Floats, gain: Floats, work: Floats) -> tuple[Bools, Ints, Floats]:
    """Which increments (n, k) do the work, the last one of them (n,; -1: too few) and the work that is left for it."""
    count, each = price.shape[1], np.arange(len(work))[:, None]
    order = _ranked(price)
    gained = gain[each, order]
    total = np.cumsum(gained, axis=1)
    whole = (total < (work - INSTANT_S)[:, None]).sum(axis=1)
    taken = np.zeros(price.shape, dtype=np.bool_)
    possible = whole < count
    taken[each, order] = np.arange(count) <= np.where(possible, whole, -1)[:, None]
    end = np.minimum(whole, count - 1)[:, None]
    before = total[each, end] - gained[each, end]
    left = np.minimum(work - before[:, 0], gained[each, end][:, 0])
    return taken, np.where(possible, order[each, end][:, 0], -1), left


def _ranked(price: Floats) -> Ints:
    """Order of the prices in each row; of equal ones (but for rounding) the first comes first. Much like argsort.

    Sorting keys that hold price and index is several times as fast as a stable argsort.
    """
    key = (price + 0.0).view(np.int64)
    if (key < 0).any():
        key ^= (key >> 63) & np.int64(2**63 - 1)  # as bits, negative numbers are in reverse order
    key += 1 << (_INDEX_BITS - 1)
    key &= -(1 << _INDEX_BITS)
    key |= np.arange(price.shape[1])
    key.sort(axis=1)
    key &= (1 << _INDEX_BITS) - 1
    return key


def _steps(speed: Floats, power: Floats) -> tuple[Floats, Floats, Ints]:
    """Levels that pay, from off upwards: the upper concave envelope of speed over power, by the greatest level.

    speed, power: (n, W). Returns power per speed, speed, both of the step up to each level, and the level below it (-1:
    off), each (n, greatest level, W); speed 0 where a level is skipped.
    """
    jobs, levels = speed.shape
    shape = (jobs, levels, levels)
    ratio, faster, below = np.zeros(shape), np.zeros(shape), np.full(shape, -1)
    j, cap = (index.ravel() for index in np.indices((jobs, levels)))
    level = np.full(len(j), -1)
    s, p = np.zeros(len(j)), np.zeros(len(j))
    for _ in range(levels):
        more = speed[j] - s[:, None]
        possible = (np.arange(levels) > level[:, None]) & (np.arange(levels) <= cap[:, None]) & (more > 0)
        cost = np.where(possible, (power[j] - p[:, None]) / np.where(possible, more, 1.0), np.inf)
        following = levels - 1 - (cost <= near(cost.min(axis=1))[:, None])[:, ::-1].argmax(axis=1)
        up = possible.any(axis=1)
        j, cap, level, following = j[up], cap[up], level[up], following[up]
        if not len(j):
            break
        ratio[j, cap, following] = cost[up, following]
        faster[j, cap, following] = more[up, following]
        below[j, cap, following] = level
        s, p, level = speed[j, following], power[j, following], following
    return ratio, faster, below


def _stay(job: Ints, fits: Bools) -> Ints:
    """Row of each span (n,), of those that `fits` (n, R) tells: the one before where it is among them, else the first.

    Nobody moves for nothing.
    """
    row: Ints = fits.argmax(axis=1)
    moves = np.flatnonzero((row[1:] != row[:-1]) & (job[1:] == job[:-1]))
    if not fits[moves + 1, row[moves]].any():
        return row
    stayed, before, current = [], -1, 0
    for j, first, may in zip(job.tolist(), row.tolist(), fits.tolist(), strict=True):
        current = current if j == before and may[current] else first
        before = j
        stayed.append(current)
    return np.array(stayed)
