"""Published and own policies for ONE job, each a small pure function.

All of them choose slots on nodes from `cost_g`, shape (nodes, slots): the grams of running the job on that node in that
slot; `inf` where it may not run. They return runs (node, first slot, end slot), in time order, or None where no choice
exists. `work` is the number of slots of useful work.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.float64]
#: (row of the node, first slot, slot after the last)
Run = tuple[int, int, int]


def window_costs(cost_g: Costs, work: int) -> Costs:
    """Grams of each contiguous run: shape (nodes, slots - work + 1); column t starts at slot t."""
    finite = np.where(np.isinf(cost_g), 0.0, cost_g)
    blocked = np.isinf(cost_g).astype(np.int64)
    zeros = np.zeros((len(cost_g), 1))
    sums = np.concatenate([zeros, np.cumsum(finite, axis=1)], axis=1)
    blocks = np.concatenate([zeros, np.cumsum(blocked, axis=1)], axis=1)
    windows: Costs = sums[:, work:] - sums[:, : sums.shape[1] - work]
    windows[(blocks[:, work:] - blocks[:, : blocks.shape[1] - work]) > 0] = np.inf
    return windows


def run_now(cost_g: Costs, work: int) -> list[Run] | None:
    """Start in the earliest slot from which the job can run to its end; on the cheapest such node."""
    if work > cost_g.shape[1]:
        return None
    windows = window_costs(cost_g, work)
    possible = np.isfinite(windows).any(axis=0)
    if not possible.any():
        return None
    start = int(np.argmax(possible))
    return [(int(np.argmin(windows[:, start])), start, start + work)]


def lowest_window(cost_g: Costs, work: int) -> list[Run] | None:
    """The contiguous run with the least carbon, over all nodes (GAIA, ASPLOS'24, without its hourly grid)."""
    if work > cost_g.shape[1]:
        return None
    windows = window_costs(cost_g, work)
    if not np.isfinite(windows).any():
        return None
    # argmin over the transpose: among equals the earliest start, then the first node
    start, node = divmod(int(np.argmin(windows.T)), windows.shape[0])
    return [(node, start, start + work)]


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

    def head(self, left: int, work: int) -> tuple[int, int]:
        """Slots that a start with `left` slots of work takes before it may stop: (without work, of work)."""
        return (0 if self.fresh and left == work else self.resume), min(max(1, self.min_run), left)


def lowest_interruptible(cost_g: Costs, work: int, costs: SuspendCosts | None = None) -> list[Run] | None:
    """The least carbon when the job may be suspended, resumed and moved: exact, by dynamic programming.

    With no resume cost and no minimum run on one node this is wait-awhile (Let's Wait Awhile, Middleware'21): the
    cheapest `work` slots. O(slots x nodes x work), vectorised over work.
    """
    costs = costs or SuspendCosts()
    nodes, slots = cost_g.shape
    if work > slots:
        return None
    total = np.concatenate([np.zeros((nodes, 1)), np.cumsum(np.where(np.isinf(cost_g), 0.0, cost_g), axis=1)], axis=1)
    blocked = np.concatenate([np.zeros((nodes, 1)), np.cumsum(np.isinf(cost_g), axis=1)], axis=1)

    def span(node: int, start: int, length: int) -> float:
        end = start + length
        if end > slots or blocked[node, end] > blocked[node, start]:
            return np.inf
        return float(total[node, end] - total[node, start])

    rest_g = np.where(np.isinf(cost_g), np.inf, costs.resume_rest * np.where(np.isinf(cost_g), 0.0, cost_g))
    # least grams from slot t with w slots of work left, while off: off[t, w]; while on a node: on[t, node, w]
    off = np.full((slots + 1, work + 1), np.inf)
    on = np.full((slots + 1, nodes, work + 1), np.inf)
    off[:, 0] = 0.0
    on[:, :, 0] = 0.0
    begin = np.full((slots, work + 1), -1, dtype=np.int32)  # node to start on; -1: wait
    stop = np.ones((slots, nodes, work + 1), dtype=np.bool_)
    min_run = max(1, costs.min_run)
    for t in range(slots - 1, -1, -1):
        best = off[t + 1].copy()
        for node in range(nodes):
            start_g = np.full(work + 1, np.inf)
            for w in range(1, min(min_run, work + 1)):  # less left than a minimum run: run it out
                start_g[w] = span(node, t, costs.resume + w) + rest_g[node, t]
            head_g = span(node, t, costs.resume + min_run) + rest_g[node, t]
            if np.isfinite(head_g) and work >= min_run:
                start_g[min_run:] = head_g + on[t + costs.resume + min_run, node, : work + 1 - min_run]
            if costs.fresh:
                _, useful = costs.head(work, work)
                head_g = span(node, t, useful)
                start_g[work] = head_g + on[t + useful, node, work - useful] if np.isfinite(head_g) else np.inf
            better = np.isfinite(start_g) & ((start_g < best) | ((start_g == best) & (begin[t] < 0)))
            best[better] = start_g[better]
            begin[t, better] = node
        best[0] = 0.0
        off[t] = best
        go_on_g = cost_g[:, t, None] + on[t + 1, :, :-1]
        # stopping must be worth more than the rounding of sums
        stop[t, :, 1:] = go_on_g > best[None, 1:] * (1 + 1e-9)
        on[t, :, 1:] = np.minimum(go_on_g, best[None, 1:])
    least_g = off[0, work] if costs.running_on is None else on[0, costs.running_on, work]
    return _read_runs(begin, stop, work, costs) if np.isfinite(least_g) else None


def _read_runs(begin: NDArray[np.int32], stop: NDArray[np.bool_], work: int, costs: SuspendCosts) -> list[Run]:
    """Follow the decisions from slot 0 until no work is left."""
    runs: list[Run] = []
    t = start = 0
    left, node = work, costs.running_on
    while left:
        if node is not None and not stop[t, node, left]:
            t, left = t + 1, left - 1
        else:
            if node is not None and t > start:
                runs.append((node, start, t))
            node = None
            if begin[t, left] < 0:
                t += 1
                continue
            node, start = int(begin[t, left]), t
            idle, useful = costs.head(left, work)
            t, left = t + idle + useful, left - useful
    if node is not None:
        runs.append((node, start, t))
    return _joined(runs)


def _joined(runs: list[Run]) -> list[Run]:
    """Runs that follow each other on the same node as one."""
    joined: list[Run] = []
    for node, start, end in runs:
        if joined and joined[-1][0] == node and joined[-1][2] == start:
            joined[-1] = (node, joined[-1][1], end)
        else:
            joined.append((node, start, end))
    return joined


def runs_g(cost_g: Costs, runs: list[Run]) -> float:
    """Grams of a choice of runs."""
    return float(sum(cost_g[node, start:end].sum() for node, start, end in runs))
