"""Published and own policies for ONE job, each a small pure function.

All of them choose slots on nodes from `cost_g`, shape (nodes, slots): the grams of running the job on that node in that
slot; `inf` where it may not run. They return runs (node, first slot, end slot), in time order, or None where no choice
exists. `work` is the number of slots of useful work. Among choices of equal cost the earliest wins, then the first node.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.float64]
#: (row of the node, first slot, slot after the last)
Run = tuple[int, int, int]

#: sums of the same grams in another order differ by less; nobody waits or moves for such a difference
_ROUNDING = 1e-9


def window_costs(cost_g: Costs, work: int) -> Costs:
    """Grams of each contiguous run: shape (nodes, slots - work + 1); column t starts at slot t."""
    total, blocked = _sums(cost_g)
    windows: Costs = total[:, work:] - total[:, : total.shape[1] - work]
    windows[blocked[:, work:] > blocked[:, : blocked.shape[1] - work]] = np.inf
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
    return [(_first_least(windows[:, start]), start, start + work)]


def lowest_window(cost_g: Costs, work: int) -> list[Run] | None:
    """The contiguous run with the least carbon, over all nodes (GAIA, ASPLOS'24, without its hourly grid)."""
    if work > cost_g.shape[1]:
        return None
    windows = window_costs(cost_g, work)
    if not np.isfinite(windows).any():
        return None
    # over the transpose: among equals the earliest start, then the first node
    start, node = divmod(_first_least(windows.T.ravel()), windows.shape[0])
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
    cheapest `work` slots. O(slots x nodes x work), vectorised over nodes and work.
    """
    costs = costs or SuspendCosts()
    nodes, slots = cost_g.shape
    if work > slots or (np.isfinite(cost_g).any(axis=0)).sum() < work:
        return None
    total, blocked = _sums(cost_g)
    rest_g = np.zeros_like(cost_g)
    if costs.resume_rest:
        rest_g = costs.resume_rest * cost_g
    resume, min_run = costs.resume, min(max(1, costs.min_run), work)
    # least grams from slot t with w slots of work left, while off: off[t, w]; while on a node: on[t % depth, node, w]
    depth = resume + min_run + 1
    off = np.full((slots + 1, work + 1), np.inf)
    on = np.full((depth, nodes, work + 1), np.inf)
    off[:, 0] = 0.0
    on[:, :, 0] = 0.0
    begin = np.full((slots, work + 1), -1, dtype=np.int32)  # node to start on; -1: wait
    stop = np.ones((slots, nodes, work + 1), dtype=np.bool_)
    start_g = np.empty((nodes, work + 1))

    def span_g(t: int, ends: slice) -> Costs:
        """Grams of running on each node from slot t to each of the ends."""
        spans = total[:, ends] - total[:, t, None]
        spans[blocked[:, ends] > blocked[:, t, None]] = np.inf
        return spans

    for t in range(slots - 1, -1, -1):
        # a start in this slot, for each node and each amount of work left
        start_g.fill(np.inf)
        short, end = min(min_run, slots - t - resume + 1), t + resume + min_run
        if short > 1:  # less is left than a minimum run: run it out
            start_g[:, 1:short] = span_g(t, slice(t + resume + 1, t + resume + short)) + rest_g[:, t, None]
        if end <= slots:
            head_g = span_g(t, slice(end, end + 1)) + rest_g[:, t, None]
            start_g[:, min_run:] = head_g + on[end % depth, :, : work + 1 - min_run]
        if costs.fresh:
            end = t + min_run
            start_g[:, work] = np.inf
            if end <= slots:
                start_g[:, work] = span_g(t, slice(end, end + 1))[:, 0] + on[end % depth, :, work - min_run]
        node = start_g.argmin(axis=0)
        least_g = start_g.min(axis=0)
        starts = np.isfinite(least_g) & (least_g <= off[t + 1] * (1 + _ROUNDING))
        begin[t, starts] = node[starts]
        off[t] = best_g = np.where(starts, least_g, off[t + 1])
        go_on_g = cost_g[:, t, None] + on[(t + 1) % depth, :, :-1]
        stop[t, :, 1:] = go_on_g > best_g[1:] * (1 + _ROUNDING)
        on[t % depth, :, 1:] = np.minimum(go_on_g, best_g[1:])
    least = off[0, work] if costs.running_on is None else on[0, costs.running_on, work]
    return _read_runs(begin, stop, work, costs) if np.isfinite(least) else None


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
    return int(np.argmax(values <= values.min() * (1 + _ROUNDING)))
