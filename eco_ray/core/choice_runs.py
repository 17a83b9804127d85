"""The cheapest contiguous runs of many jobs, exact to the second."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from eco_ray.core.choice_parts import (
    INSTANT_S,
    Batch,
    Floats,
    Ints,
    near,
    parts,
)


def contiguous(batch: Batch, job: Ints, level: Ints) -> tuple[Ints, Floats, Floats, Floats]:
    """The cheapest run of each pair: row, start [s], end [s] and grams, all (n,); inf grams where there is none."""
    row, start_s, pair_g = np.zeros(len(job), dtype=np.int64), np.zeros(len(job)), np.full(len(job), np.inf)
    run_s = batch.work_s[job] / batch.speed[job, level] + batch.resume_s[job] * batch.paid_start[job]
    for some in parts(np.arange(len(job)), batch.rate_g.shape[1] * batch.rate_g.shape[2]):
        row[some], start_s[some], pair_g[some] = _windows(batch, job[some], level[some], run_s[some])
    return row, start_s, start_s + run_s, pair_g * (batch.power[job, level] * batch.slot_s)


def _windows(batch: Batch, job: Ints, level: Ints, run_s: Floats) -> tuple[Ints, Floats, Floats]:
    """Row, start [s] and rate x slots of the cheapest run of length `run_s`; all (n,)."""
    slot_s, each = batch.slot_s, np.arange(len(job))
    rate, room_s, begin_s = batch.rate_g[job], batch.room_s[job], batch.begin_s[job]
    rows, slots = rate.shape[1:]
    free = np.isfinite(rate)
    if batch.most is not None and level.any():
        free &= batch.most[job] >= level[:, None, None]
    until = None
    if not free.all():
        rate = np.where(free, rate, 0.0)
        # first slot from each one on where it may not run
        closed = np.where(free, np.int16(slots), np.arange(slots, dtype=np.int16))
        until = np.minimum.accumulate(closed[:, :, ::-1], axis=2)[:, :, ::-1]
    # a run from an edge fills so many slots and a share of one more
    filled = np.maximum(np.ceil((run_s - INSTANT_S) / slot_s), 1.0).astype(np.int64) - 1
    unused = 1 - run_s / slot_s + filled
    total = np.cumsum(rate, axis=2)
    # the end of each run is `filled` slots on; beyond the row is the next one, which no run in the window gets to see
    flat = np.zeros(rate.size + slots)
    upto = flat[: rate.size].reshape(rate.shape)
    np.multiply(rate, unused[:, None, None], out=upto)
    np.subtract(total, upto, out=upto)
    strides = (rows * slots * 8, slots * 8, 8, 8)
    cost = as_strided(flat, (len(job), rows, slots, slots), strides)[each, :, np.minimum(filled, slots - 1)]
    cost -= total
    cost += rate
    edges_s = np.arange(slots) * slot_s
    if until is not None:
        ends = np.arange(slots) + filled[:, None]
        np.copyto(cost, np.inf, where=until <= ends[:, None, :])
    first, deadline_s = window_of(batch, room_s, begin_s)
    best = cost.min(axis=1)
    best[(edges_s < begin_s[:, None] - INSTANT_S) | (edges_s > (deadline_s - run_s)[:, None] + INSTANT_S)] = np.inf
    late_s = begin_s - first * slot_s
    within = (late_s > INSTANT_S) & (begin_s + run_s <= deadline_s + INSTANT_S)
    if within.any():  # a start in mid-slot, at the beginning of the window
        j, f = each[within], first[within]
        length = (late_s + run_s)[within] / slot_s
        last = np.minimum(f + np.maximum(np.ceil(length - INSTANT_S / slot_s), 1.0).astype(np.int64) - 1, slots - 1)
        begun_g = total[j, :, last] - rate[j, :, last] * (1 - length + last - f)[:, None]
        begun_g -= total[j, :, f] - rate[j, :, f] * (1 - late_s[within] / slot_s)[:, None]
        if until is not None:
            begun_g[until[j, :, f] <= last[:, None]] = np.inf
        cost[j, :, f] = begun_g
        best[j, f] = begun_g.min(axis=1)
    least = best.min(axis=1)
    equal = near(least)[:, None]
    start = (best <= equal).argmax(axis=1)
    row = (cost[each, :, start] <= equal).argmax(axis=1)
    return row, np.maximum(start * slot_s, begin_s), least


def window_of(batch: Batch, room_s: Floats, begin_s: Floats) -> tuple[Ints, Floats]:
    """First slot and end [s] of each window, (n,)."""
    inside = room_s > 0
    first = inside.argmax(axis=1)
    last = first + inside.sum(axis=1) - 1
    return first, np.maximum(last * batch.slot_s, begin_s) + room_s[np.arange(len(last)), last]
