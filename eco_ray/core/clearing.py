"""Brings the jobs of a book to the market, and its outcome back into their plans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eco_ray.core.book import Book
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.jobs import Job
from eco_ray.core.market import EXPECTED_AHEAD_S, Demand, Floats, Wish, clear, held_g
from eco_ray.core.task import PRICE_WEIGHT, expected_duration_s, segments_g, work_left_s

#: with more nodes, those of a zone are one pool
MAX_POOLS = 24


class Clearing:
    """Holds what the market has to know beside the book: the pools of nodes, and what may still be submitted."""

    def __init__(self, book: Book, now_s: float) -> None:
        self._book = book
        self._demand = Demand(now_s)

    def submitted(self, job: Job, now_s: float) -> None:
        """A job came in."""
        spec, length_s = job.spec, expected_duration_s(job.spec, self._book.config)
        slack_s = max(0.0, spec.deadline_s - max(now_s, spec.not_before_s) - length_s)
        self._demand.submitted(_vector(spec.demand), length_s, slack_s, now_s)

    def clear(self, jobs: Sequence[Job], now_s: float) -> None:
        """Share the steps ahead out among these jobs, whose plans must not be in the calendar."""
        book = self._book
        nodes = list(book.nodes.values())
        pools = _pools(nodes)
        book.pools = {node.name: index for index, members in enumerate(pools) for node in members}
        wishes = [self._wish(job, pools, now_s) for job in jobs]
        wishes = [wish for wish in wishes if np.isfinite(wish.watts).any()]
        if not wishes or not pools:
            book.market = None
            return
        step_s = book.config.market_step_s
        end_s = min(max(wish.latest_s for wish in wishes) + step_s, now_s + book.config.horizon_s)
        end_s = max(end_s, min(now_s + EXPECTED_AHEAD_S, now_s + book.config.horizon_s))
        edges_s = np.arange(now_s // step_s, np.ceil(end_s / step_s) + 1) * step_s
        edges_s[0] = now_s
        book.market = clear(
            wishes,
            self._expected(pools, edges_s, now_s),
            edges_s,
            self._intensity(pools, edges_s),
            self._free(pools, edges_s),
        )

    def worth_g(self, job: Job, now_s: float) -> float | None:
        """What a job's plan emits, and what its places are worth to the others [g]; None where it will not do."""
        book, plan = self._book, job.plan
        if plan is None or not plan.segments or plan.end_s > job.spec.deadline_s + 1e-6:
            return None
        ahead_s = sum(segment.end_s - max(segment.start_s, now_s) for segment in plan.segments)
        if ahead_s < work_left_s(job, now_s, book.config) - 1.0 or plan.segments[0].end_s <= now_s:
            return None  # it has lost time
        if any(segment.node not in book.nodes for segment in plan.segments):
            return None
        total_g = segments_g(plan.segments, job.spec, book.situation(now_s))
        if total_g is None:
            return None
        if book.market is not None:
            for segment in plan.segments:
                pool, start_s = book.pools[segment.node], max(segment.start_s, now_s)
                total_g += PRICE_WEIGHT * held_g(book.market, pool, _vector(job.spec.demand), start_s, segment.end_s)
        return total_g

    def _wish(self, job: Job, pools: Sequence[Sequence[Node]], now_s: float) -> Wish:
        spec, book = job.spec, self._book
        earliest_s = max(now_s, spec.not_before_s, job.retry_at_s)
        left_s = work_left_s(job, now_s, book.config)
        live = job.live_attempt
        if live is None and job.has_checkpoint:
            left_s += spec.suspend.resume_cost_s
        watts = np.full(len(pools), np.inf)
        for index, members in enumerate(pools):
            node = members[0]
            if (not spec.zones or node.zone in spec.zones) and spec.demand.fits_in(node.capacity):
                watts[index] = node.attributed_power_w(spec.demand) * node.pue
        latest_s = max(spec.deadline_s, earliest_s + left_s)
        runs_in = book.pools.get(live.node) if live is not None else None
        return Wish(job.id, left_s, earliest_s, latest_s, _vector(spec.demand), watts, runs_in)

    def _expected(self, pools: Sequence[Sequence[Node]], edges_s: Floats, now_s: float) -> list[Wish]:
        """Jobs that may be submitted in each of the next steps."""
        step_s = self._book.config.market_step_s
        amount, length_s, slack_s = self._demand.expected(step_s, now_s)
        if length_s <= 0 or amount.max() <= 0:
            return []
        demand = (float(amount[0]), float(amount[1]), float(amount[2]))
        held = Resources(*demand)
        watts = np.array([members[0].attributed_power_w(held) * members[0].pue for members in pools])
        found = []
        for start_s in edges_s[:-1][edges_s[:-1] < now_s + EXPECTED_AHEAD_S].tolist():
            latest_s = start_s + length_s + slack_s
            if latest_s <= edges_s[-1]:
                found.append(Wish("", length_s, start_s, latest_s, demand, watts))
        return found

    def _intensity(self, pools: Sequence[Sequence[Node]], edges_s: Floats) -> Floats:
        """Mean forecast of each pool in each step: shape (P, T); nan where it is unknown."""
        book = self._book
        situation = book.situation(float(edges_s[0]))
        found = np.full((len(pools), len(edges_s) - 1), np.nan)
        for index, members in enumerate(pools):
            series = situation.signal(members[0].zone)
            if series is not None and series.start_s <= edges_s[0]:
                known = int(np.searchsorted(edges_s, series.end_s, side="right")) - 1
                if known > 0:
                    found[index, :known] = series.means(edges_s[: known + 1])
        return found

    def _free(self, pools: Sequence[Sequence[Node]], edges_s: Floats) -> Floats:
        """Mean capacity of each pool that is neither promised nor held by others: shape (P, T, 3)."""
        book = self._book
        free = np.zeros((len(pools), len(edges_s) - 1, 3))
        for index, members in enumerate(pools):
            for node in members:
                usable = node.capacity - book.foreign.get(node.name, Resources())
                free[index] += np.array(_vector(usable)) - book.calendar.held_mean(node.name, edges_s)
        return np.maximum(free, 0.0)


def _pools(nodes: Sequence[Node]) -> list[list[Node]]:
    """Each node for itself, or the nodes of each zone where there are many."""
    if len(nodes) <= MAX_POOLS:
        return [[node] for node in nodes]
    zones: dict[str, list[Node]] = {}
    for node in nodes:
        zones.setdefault(node.zone, []).append(node)
    return [sorted(members, key=lambda node: -node.capacity.cpus) for members in zones.values()]


def _vector(amount: Resources) -> tuple[float, float, float]:
    return amount.cpus, amount.gpus, amount.memory_gb
