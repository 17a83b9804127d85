"""Choices of slots for ONE job on nodes that others use too, each a pure function.

All of them choose slots on nodes from `cost_g`, shape (nodes, slots): the grams of running the job on that node in that
slot; `inf` where it may not run. They return runs (node, first slot, end slot), in time order, or None where no choice
exists. `work` is the number of slots of useful work. Among equal choices the earliest wins, then the first node.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Costs = NDArray[np.float64]
#: (row of the node, first slot, slot after the last)
Run = tuple[int, int, int]

#: sums of the same grams in another order differ by less; nobody waits or moves for such a difference
ROUNDING = 1e-9


def window_costs(cost_g: Costs, work: int) -> Costs:
    """Grams of each contiguous run: shape (nodes, slots - work + 1); column t starts at slot t."""
    total, blocked = _sums(cost_g)
    windows: Costs = total[:, work:] - total[:, : total.shape[1] - work]
    windows[blocked[:, work:] > blocked[:, : blocked.shape[1] - work]] = np.inf
    return windows


def earliest_run(cost_g: Costs, work: int) -> list[Run] | None:
    """Start in the earliest slot from which the job can run to its end; on the cheapest such node."""
    if work > cost_g.shape[1]:
        return None
    windows = window_costs(cost_g, work)
    possible = np.isfinite(windows).any(axis=0)
    if not possible.any():
        return None
    start = int(np.argmax(possible))
    return [(_first_least(windows[:, start]), start, start + work)]


def run_costs(cost_g: Costs, length: float, passed: float = 0.0) -> Costs:
    """Grams of a run of `length` slots, of the last of which it uses a part: shape (nodes, starts), from each slot on.

    `passed`: part of the first slot that is over at a start there; the grams of that slot are those of its rest.
    """
    slots, touched = cost_g.shape[1], max(1, math.ceil(length - ROUNDING))
    if touched > slots:
        return np.empty((len(cost_g), 0))
    total, blocked = _sums(cost_g)
    starts = slots - touched + 1
    runs_g: Costs = total[:, touched - 1 : slots] - total[:, :starts]
    runs_g += cost_g[:, touched - 1 :] * (length - touched + 1)
    runs_g[blocked[:, touched:] > blocked[:, :starts]] = np.inf
    if passed > ROUNDING:
        touched = max(1, math.ceil(length + passed - ROUNDING))
        if touched > slots:
            runs_g[:, 0] = np.inf
        elif touched == 1:
            runs_g[:, 0] = cost_g[:, 0] * (length / (1 - passed))
        else:
            runs_g[:, 0] = cost_g[:, : touched - 1].sum(axis=1) + cost_g[:, touched - 1] * (
                length + passed - touched + 1
            )
    return runs_g


def cheapest_run(
    cost_g: Costs, length: float, start_g: Costs | None = None, passed: float = 0.0, end: float = math.inf
) -> list[Run] | None:
    """The contiguous run with the least carbon, over all nodes at any slot; `start_g`: what a start there adds [g].

    `length`, `passed`: as in `run_costs`; end: when it has to be over, in slots.
    """
    total_g = run_costs(cost_g, length, passed)
    if start_g is not None:
        total_g = total_g + start_g[:, : total_g.shape[1]]
    if math.isfinite(end):
        late = np.arange(total_g.shape[1]) + length > end + ROUNDING
        late[:1] |= passed + length > end + ROUNDING
        total_g = np.where(late, np.inf, total_g)
    if not np.isfinite(total_g).any():
        return None
    # over the transpose: among equals the earliest start, then the first node
    start, node = divmod(_first_least(total_g.T.ravel()), len(total_g))
    return [(node, start, start + max(1, math.ceil(length + (0.0 if start else passed) - ROUNDING)))]


def least_g(cost_g: Costs, length: float, *, in_one_piece: bool) -> float:
    """The least grams of so many slots: a lower bound where pauses cost something. inf where they do not exist."""
    work = max(1, math.ceil(length - ROUNDING))
    if work > cost_g.shape[1]:
        return np.inf
    if in_one_piece:
        return float(run_costs(cost_g, length).min())
    # the last of its slots is not used whole
    return float(np.partition(cost_g.min(axis=0), work - 1)[:work].sum()) * length / work


@dataclass(frozen=True, slots=True)
class SuspendCosts:
    """What suspending costs, and where the job stands now."""

    #: slots that do no work at every start after the first
    resume: int = 0
    #: the rest of the resume time, as part of a slot: its grams are counted, its time is not
    resume_rest: float = 0.0
    #: slots of work that each run lasts at least (or what is left)
    min_run: int = 1
    #: row of the node that it runs on at slot 0, where going on is free; None: it does not run
    running_on: int | None = None
    #: nothing has run before, so the first start is free
    fresh: bool = True
    #: shape (nodes, slots): what a start in a slot adds beside [g]; None: nothing
    start_g: Costs | None = None


def cheapest_interruptible(cost_g: Costs, work: int, costs: SuspendCosts | None = None) -> list[Run] | None:
    """The least carbon when the job may be suspended, resumed and moved: exact, by dynamic programming.

    With no resume cost and no minimum run on one node this is wait-awhile (Let's Wait Awhile, Middleware'21): the
    cheapest `work` slots.
    """
    return Interruptible(cost_g, work, costs or SuspendCosts()).runs(work)


@dataclass(frozen=True, slots=True)
class Odds:
    """How likely work is needed, where it may end early or last longer than was told."""

    #: shape (work + 1,): how likely the slot is needed with which w slots of the work are left, by w
    needed: Costs
    #: shape (slots + 1,): expected grams of what runs on after the work, if the work ends at the start of that slot
    run_on_g: Costs


def cheapest_slots(
    cost_g: Costs, work: int, running_on: int | None = None, odds: Odds | None = None
) -> list[Run] | None:
    """The `work` cheapest slots, each on its cheapest node: the least carbon where suspending costs nothing.

    The same as `Interruptible` without resume cost and minimum run, in one sort, or with odds in one step per slot of
    work. Where nodes cost the same, the job stays where it was.
    """
    least = cost_g[0] if len(cost_g) == 1 else cost_g.min(axis=0)
    chosen = np.sort(np.argsort(least, kind="stable")[:work]) if odds is None else _likeliest(least, work, odds)
    if len(chosen) < work or not np.isfinite(least[chosen]).all():
        return None
    breaks = (np.flatnonzero(chosen[1:] - chosen[:-1] > 1) + 1).tolist()
    slots, stops = chosen.tolist(), [*breaks, len(chosen)]
    stretches = [(slots[low], slots[high - 1] + 1) for low, high in zip([0, *breaks], stops, strict=True)]
    if len(cost_g) == 1:
        return [(0, first, end) for first, end in stretches]
    runs: list[Run] = []
    for begin, end in stretches:
        first = begin
        while first < end:
            if running_on is None or cost_g[running_on, first] > least[first] + ROUNDING * abs(least[first]):
                running_on = int(cost_g[:, first].argmin())
            worse = cost_g[running_on, first:end] > least[first:end] + ROUNDING * np.abs(least[first:end])
            stop = first + int(worse.argmax()) if worse.any() else end
            runs.append((running_on, first, stop))
            first = stop
    return runs


def _likeliest(cost_g: Costs, work: int, odds: Odds) -> NDArray[np.int64]:
    """The `work` slots with the least expected grams, of costs of shape (slots,); none where there are not enough.

    Exact, by dynamic programming backwards over the work, for each number of slots that were waited until then.
    """
    spare = len(cost_g) - work
    if spare < 0:
        return np.empty(0, dtype=np.int64)
    run_g = sliding_window_view(cost_g, spare + 1) * odds.needed[work:0:-1, None]  # (work done, slots waited)
    then_g = odds.run_on_g[len(odds.run_on_g) - spare - 1 :]
    for done in range(work - 1, -1, -1):
        run_g[done] += then_g
        then_g = np.minimum.accumulate(run_g[done, ::-1])[::-1]
    chosen, waited = np.arange(work), 0
    for done in range(work):
        waited += _first_least(run_g[done, waited:])
        chosen[done] += waited
    return chosen


class Interruptible:
    """The choices of `cheapest_interruptible` for every amount of work up to a greatest one, from one computation.

    O(slots x nodes x work), vectorised over nodes and work, backwards in time. Three states: never started (only of a
    fresh job, whose first start is free), off, and on a node.
    """

    def __init__(self, cost_g: Costs, most_work: int, costs: SuspendCosts, odds: Odds | None = None) -> None:
        nodes, self._slots = cost_g.shape
        #: how likely the next slot of work is needed, by the slots that are left; None: for sure
        self._needed = odds.needed if odds else None
        #: what follows the work
        run_on_g = odds.run_on_g if odds else np.zeros(self._slots + 1)
        self._resume = costs.resume
        #: a run lasts so many slots of work, or all that is left
        self._min_run = min(max(1, costs.min_run), most_work)
        self._running_on = costs.running_on
        free_start = costs.fresh and (costs.resume > 0 or costs.resume_rest > 0)
        heads = self._heads(cost_g, costs.resume, costs.resume_rest, costs.start_g, run_on_g)
        free_heads = self._heads(cost_g, 0, 0.0, costs.start_g, run_on_g) if free_start else heads

        shape = (self._slots + 1, most_work + 1)
        # least grams from slot t with w slots of work left: off[t, w]; while on a node: on[t % depth, node, w]
        off = np.full(shape, np.inf)
        off[:, 0] = 0.0
        depth = costs.resume + self._min_run + 1
        on = np.full((depth, nodes, most_work + 1), np.inf)
        on[self._slots % depth, :, 0] = run_on_g[-1]
        #: node to start on in slot t, -1: wait
        self._begin = np.full(shape, -1, dtype=np.int32)
        self._stop = np.ones((self._slots, nodes, most_work + 1), dtype=np.bool_)
        self._start_g = np.empty((nodes, most_work + 1))
        fresh, self._fresh_begin = (off.copy(), self._begin.copy()) if free_start else (off, self._begin)
        for t in range(self._slots - 1, -1, -1):
            self._begin[t], off[t] = self._start_or_wait(heads[t], on, t + costs.resume, off[t + 1])
            if free_start:
                self._fresh_begin[t], fresh[t] = self._start_or_wait(free_heads[t], on, t, fresh[t + 1])
            go_on_g = cost_g[:, t, None] if self._needed is None else cost_g[:, t, None] * self._needed[1:]
            go_on_g = go_on_g + on[(t + 1) % depth, :, :-1]
            on[t % depth, :, 0] = run_on_g[t]
            self._stop[t, :, 1:] = go_on_g > _near(off[t, 1:])
            np.minimum(go_on_g, off[t, 1:], out=on[t % depth, :, 1:])
        self._fresh_g, self._on_g = fresh, on[0]
        self._fresh_resume = 0 if costs.fresh else costs.resume

    def runs(self, work: int, since: int = 0) -> list[Run] | None:
        """The runs for so much work, from slot `since` on; None where that is not possible."""
        node = self._running_on if since == 0 else None
        if work > self._slots - since:
            return None
        least_g = self._on_g[node, work] if node is not None else self._fresh_g[since, work]
        return self._read(work, since, node) if np.isfinite(least_g) else None

    def _heads(self, cost_g: Costs, resume: int, rest: float, start_g: Costs | None, run_on_g: Costs) -> Costs:
        """Grams of a start in slot t with w slots of work, up to a minimum run: shape (slots, nodes, w).

        Those of less than a minimum run are all that is left, with what follows it.
        """
        heads = np.full((self._slots, len(cost_g), self._min_run + 1), np.inf)
        rest_g = rest * cost_g if rest else np.zeros_like(cost_g)
        if start_g is not None:
            rest_g = rest_g + start_g
        for work in range(1, min(self._min_run, self._slots - resume) + 1):
            windows = window_costs(cost_g, resume + work)
            heads[: windows.shape[1], :, work] = (windows + rest_g[:, : windows.shape[1]]).T
            if work < self._min_run and self._needed is not None:
                heads[: windows.shape[1], :, work] *= self._needed[work]
                heads[: windows.shape[1], :, work] += run_on_g[resume + work :, None]
        return heads

    def _start_or_wait(self, heads: Any, on: Any, end: int, wait_g: Costs) -> tuple[NDArray[np.int64], Costs]:
        """Node to start on (-1: wait) and the least grams, for each amount of work; `end`: when its work begins."""
        start_g, least = self._start_g, self._min_run
        start_g[:, :least] = heads[:, :least]
        if end + least <= self._slots:
            then = on[(end + least) % len(on)]
            head_g = heads[:, least:] if self._needed is None else heads[:, least:] * self._needed[least:]
            np.add(head_g, then[:, : then.shape[1] - least], out=start_g[:, least:])
        else:
            start_g[:, least:] = np.inf
        node = start_g.argmin(axis=0)
        least_g = np.minimum.reduce(start_g, axis=0)
        starts = least_g <= _near(wait_g)
        return np.where(starts, node, -1), np.where(starts, least_g, wait_g)

    def _read(self, work: int, since: int, node: int | None) -> list[Run]:
        """Follow the decisions until no work is left."""
        runs: list[Run] = []
        t = start = since
        left = work
        begin, resume = self._fresh_begin, self._fresh_resume
        if node is not None:
            begin, resume = self._begin, self._resume
        while left:
            if node is not None and not self._stop[t, node, left]:
                t, left = t + 1, left - 1
                continue
            if node is not None and t > start:
                runs.append((node, start, t))
            node = None
            if begin[t, left] < 0:
                t += 1
                continue
            node, start = int(begin[t, left]), t
            useful = min(self._min_run, left)
            t, left = t + resume + useful, left - useful
            begin, resume = self._begin, self._resume
        if node is not None:
            runs.append((node, start, t))
        return runs


def runs_g(cost_g: Costs, runs: list[Run]) -> float:
    """Grams of a choice of runs."""
    return float(sum(cost_g[node, start:end].sum() for node, start, end in runs))


def _sums(cost_g: Costs) -> tuple[Costs, Costs]:
    """Running sums of the finite grams and of the blocked slots, from 0: shape (nodes, slots + 1) each."""
    blocked = np.isinf(cost_g)
    zeros = np.zeros((len(cost_g), 1))
    finite = np.where(blocked, 0.0, cost_g)
    return (
        np.concatenate([zeros, np.cumsum(finite, axis=1)], axis=1),
        np.concatenate([zeros, np.cumsum(blocked, axis=1)], axis=1),
    )


def _first_least(values: Costs) -> int:
    """Index of the first value that is the least but for rounding."""
    return int(np.argmax(values <= _near(values.min())))


def _near(grams: Any) -> Any:
    """Up to what counts as equal; prices can make grams negative."""
    return grams + ROUNDING * np.abs(grams)
