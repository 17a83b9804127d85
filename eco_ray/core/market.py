"""What capacity is worth: one linear program over all jobs, and over those that are still to be expected.

Every job alone would take the cleanest hours; together they do not fit. The program shares the hours out among the jobs
so that all of them together emit least, as if jobs could be divided: each job gets `shares` of the steps, and each step
a price, the grams that one more unit of the resource would save there. Jobs that nobody has submitted yet take part as
well, as many as came lately: without them each round of planning puts off all it can to hours that others will want.

    minimise    sum of grams_per_s[j, p, t] x[j, p, t]
    subject to  sum over p, t of x[j, p, t] = left[j]                              [s of work]
                x[j, p, t] <= overlap of step t with the window of j               [s]
                sum over j of demand[j, r] x[j, p, t] <= capacity[p, t, r]         [resource x s]

Solved by HiGHS (SciPy), and only where the cheapest hours of all jobs do not fit anyway.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eco_ray.core.cluster import KINDS

Floats = NDArray[np.float64]

#: share of the recent demand that is expected to come again; more would put off real jobs for imagined ones
EXPECTED_SHARE = 0.5
#: from so few jobs half as much is concluded
_FEW_JOBS = 3.0
#: how far ahead jobs are expected [s]
EXPECTED_AHEAD_S = 36 * 3600.0
#: memory of the demand [s]
MEMORY_S = 24 * 3600.0
#: relative difference that decides between equal hours
_TIE = 1e-3
#: grams per gram that leaving work undone costs: more than any other choice
_UNDONE = 1e3


@dataclass(frozen=True, slots=True)
class Wish:
    """What a job needs, wherever and whenever."""

    job_id: str
    #: work that is left, on one worker [s]
    left_s: float
    #: first start and last end [s since epoch]
    earliest_s: float
    latest_s: float
    #: what its least workers hold: `Resources.amounts`
    demand: tuple[float, ...]
    #: shape (P,): power that they add in each pool, with PUE [W]; inf where it may not run
    watts: Floats
    #: how much faster it is with its most workers
    most_speed: float = 1.0
    #: pool that it runs in now
    runs_in: int | None = None


@dataclass(frozen=True, slots=True)
class Cleared:
    """The outcome: prices and shares over P pools and T steps."""

    #: shape (T+1,) [s since epoch]
    edges_s: Floats
    #: shape (P, T, KINDS): grams per unit of each resource, and second
    price_g: Floats
    #: job id -> shape (P, T): seconds that are meant for it
    shares_s: dict[str, Floats]
    _slots: dict[float, tuple[int, NDArray[np.int64], Floats]] = field(default_factory=dict)

    def by_slot(self, slot_s: float, first: int, count: int) -> tuple[NDArray[np.int64], Floats]:
        """Step of each of the slots first..first+count-1, shape (count,), and the prices in them, (P, count, KINDS).

        Nothing has a price before the first step and after the last one; their step is -1.
        """
        kept = self._slots.get(slot_s)
        if kept is None:
            begin, end = int(self.edges_s[0] // slot_s), math.ceil(self.edges_s[-1] / slot_s)
            middle_s = np.minimum((np.arange(begin, end) + 0.5) * slot_s, self.edges_s[-1] - 1e-6)
            step = np.searchsorted(self.edges_s, np.maximum(middle_s, self.edges_s[0]), side="right") - 1
            kept = self._slots[slot_s] = begin, step, self.price_g[:, step]
        begin, known_step, known_g = kept
        skip = first - begin
        if skip >= 0 and skip + count <= len(known_step):
            return known_step[skip : skip + count], known_g[:, skip : skip + count]
        step, price_g = np.full(count, -1), np.zeros((len(known_g), count, KINDS))
        low, high = max(0, -skip), min(count, len(known_step) - skip)
        if high > low:
            step[low:high] = known_step[skip + low : skip + high]
            price_g[:, low:high] = known_g[:, skip + low : skip + high]
        return step, price_g


def held_g(cleared: Cleared, pool: int, demand: tuple[float, ...], start_s: float, end_s: float) -> float:
    """What a place is worth to the others [g]: the price of what is held there, over [start, end]."""
    edges_s = np.clip(cleared.edges_s, start_s, end_s)
    return float((cleared.price_g[pool] @ np.array(demand)) @ np.diff(edges_s))


class Demand:
    """Learns from what was submitted what is still to be expected: mean demand, length and slack, weighed by work."""

    def __init__(self, now_s: float) -> None:
        self._since_s = self._last_s = now_s
        #: resource-seconds per second
        self._rate = np.zeros(KINDS)
        self._work = self._length = self._slack = self._jobs = 0.0

    def submitted(self, demand: tuple[float, ...], length_s: float, slack_s: float, now_s: float) -> None:
        """Take a job into account."""
        self._forget(now_s)
        self._jobs += 1.0
        amount = np.array(demand) * length_s
        self._rate += amount / MEMORY_S
        weight = max(demand[0], demand[1], 1e-9) * length_s
        self._work += weight
        self._length += weight * length_s
        self._slack += weight * slack_s

    def expected(self, step_s: float, now_s: float) -> tuple[Floats, float, float]:
        """Demand of what will come in each step (KINDS,) while it runs, its length [s] and its slack [s]."""
        rate = self.rate(step_s, now_s)
        if self._work <= 0:
            return np.zeros(KINDS), 0.0, 0.0
        length_s, slack_s = self._length / self._work, self._slack / self._work
        share = EXPECTED_SHARE * self._jobs / (self._jobs + _FEW_JOBS)
        return share * rate * step_s / length_s, length_s, slack_s

    def rate(self, step_s: float, now_s: float) -> Floats:
        """What was submitted lately, in resource-seconds per second: shape (KINDS,)."""
        self._forget(now_s)
        seen = 1 - math.exp(-max(now_s - self._since_s, step_s) / MEMORY_S)  # a short memory is not a low demand
        rate: Floats = self._rate / seen
        return rate

    def _forget(self, now_s: float) -> None:
        kept = math.exp(-max(0.0, now_s - self._last_s) / MEMORY_S)
        self._rate = self._rate * kept
        self._work, self._length, self._slack = self._work * kept, self._length * kept, self._slack * kept
        self._jobs *= kept
        self._last_s = max(self._last_s, now_s)


def clear(
    wishes: Sequence[Wish], expected: Sequence[Wish], edges_s: Floats, g_per_kwh: Floats, capacity: Floats
) -> Cleared:
    """Share the steps out. g_per_kwh: shape (P, T), nan where unknown; capacity: (P, T, KINDS).

    The first step may be shorter than the others. Work that does not fit stays undone at a high price.
    """
    wanted = [*wishes, *expected]
    step_s = np.diff(edges_s)
    pools, steps = g_per_kwh.shape
    price_g = np.zeros((pools, steps, KINDS))
    if not wanted:
        return Cleared(edges_s, price_g, {})
    left_s = np.array([wish.left_s for wish in wanted])
    earliest_s = np.array([wish.earliest_s for wish in wanted])
    latest_s = np.array([wish.latest_s for wish in wanted])
    demand = np.array([wish.demand for wish in wanted])
    watts = np.array([wish.watts for wish in wanted])
    overlap_s = np.minimum(edges_s[1:], latest_s[:, None]) - np.maximum(edges_s[:-1], earliest_s[:, None])
    most_speed = np.array([wish.most_speed for wish in wanted])
    room_s = np.minimum(np.maximum(overlap_s, 0.0) * most_speed[:, None], left_s[:, None])
    with np.errstate(invalid="ignore"):  # where it may not run, at 0 g/kWh: inf x 0 is as impossible as inf
        grams_per_s = watts[:, :, None] * g_per_kwh / 3.6e6  # (J, P, T)
    possible = np.isfinite(grams_per_s) & (room_s > 1e-6)[:, None, :]
    job, pool, step = np.nonzero(possible)
    # of equal hours the earlier, and where it runs now: nobody waits, stops or moves for nothing
    cost = grams_per_s[job, pool, step] * (1 + _TIE * (1 + step / steps))
    runs_in = np.array([-1 if wish.runs_in is None else wish.runs_in for wish in wanted])
    cost[(step == 0) & (runs_in[job] == pool)] *= 1 - _TIE
    bound_s = room_s[job, step]
    solved = _solve(job, pool, step, cost, bound_s, left_s, demand, capacity * step_s[None, :, None])
    if solved is None:
        return Cleared(edges_s, price_g, {})
    seconds, price_g = solved
    shares: dict[str, Floats] = {}
    cut = np.searchsorted(job, np.arange(len(wishes) + 1))
    for index, wish in enumerate(wishes):
        mine = slice(cut[index], cut[index + 1])
        share = np.zeros((pools, steps))
        share[pool[mine], step[mine]] = seconds[mine]
        shares[wish.job_id] = share
    return Cleared(edges_s, price_g, shares)


def _solve(
    job: Any, pool: Any, step: Any, cost: Floats, bound_s: Floats, left_s: Floats, demand: Floats, capacity: Floats
) -> tuple[Floats, Floats] | None:
    """Seconds of each variable, and prices (P, T, KINDS); None where the cheapest choice of every job fits."""
    pools, steps, _ = capacity.shape
    cell = pool * steps + step
    most = np.stack([np.bincount(cell, bound_s * demand[job, r], pools * steps) for r in range(KINDS)], axis=1)
    tight = most > capacity.reshape(-1, KINDS) * (1 + 1e-9)  # rows that could bind at all
    if not tight.any() or _fits_cheapest(job, cell, cost, bound_s, left_s, demand, capacity.reshape(-1, KINDS)):
        return None
    from scipy.optimize import linprog
    from scipy.sparse import csr_array, vstack

    count, jobs = len(job), len(left_s)
    scale = 1 / max(float(cost.max()), 1e-30)
    blocks, limits, rows = [], [], []
    for r in range(KINDS):
        cells = np.flatnonzero(tight[:, r])
        if not len(cells):
            continue
        number = np.full(pools * steps, -1)
        number[cells] = np.arange(len(cells))
        used = number[cell] >= 0
        entries = (demand[job[used], r] / 3600.0, (number[cell[used]], np.flatnonzero(used)))
        blocks.append(csr_array(entries, shape=(len(cells), count + jobs)))
        limits.append(capacity.reshape(-1, KINDS)[cells, r] / 3600.0)
        rows.append((r, cells))
    undone = np.arange(jobs)
    work = csr_array(
        (np.ones(count + jobs), (np.concatenate([job, undone]), np.arange(count + jobs))), shape=(jobs, count + jobs)
    )
    found = linprog(
        np.concatenate([cost * scale, np.full(jobs, _UNDONE)]),
        A_ub=vstack(blocks),
        b_ub=np.concatenate(limits),
        A_eq=work,
        b_eq=left_s,
        bounds=np.column_stack([np.zeros(count + jobs), np.concatenate([bound_s, left_s])]),
        method="highs-ds",
    )
    if found.status != 0:  # numerical trouble: plan without prices
        return None
    price_g = np.zeros((pools * steps, KINDS))
    duals = -np.asarray(found.ineqlin.marginals) / scale / 3600.0
    offset = 0
    for r, cells in rows:
        price_g[cells, r] = np.maximum(duals[offset : offset + len(cells)], 0.0)
        offset += len(cells)
    return np.asarray(found.x[:count]), price_g.reshape(pools, steps, KINDS)


def _fits_cheapest(
    job: Any, cell: Any, cost: Floats, bound_s: Floats, left_s: Floats, demand: Floats, capacity: Floats
) -> bool:
    """Whether every job could have its cheapest steps: then nothing has a price."""
    order = np.lexsort((cost, job))
    before = np.cumsum(bound_s[order]) - bound_s[order]
    first = np.searchsorted(job[order], np.arange(len(left_s)))
    start = np.zeros(len(left_s))
    has = first < len(order)
    start[has] = before[np.minimum(first, len(order) - 1)][has]
    taken = np.clip(left_s[job[order]] - (before - start[job[order]]), 0.0, bound_s[order])
    load = np.stack(
        [np.bincount(cell[order], taken * demand[job[order], r], len(capacity)) for r in range(KINDS)], axis=1
    )
    return bool((load <= capacity * (1 + 1e-9)).all())
