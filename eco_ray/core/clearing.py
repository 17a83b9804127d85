"""Brings the jobs of a book to the market, and its outcome back into their plans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eco_ray.core.book import Book
from eco_ray.core.cluster import KINDS, Resources
from eco_ray.core.jobs import Job
from eco_ray.core.market import EXPECTED_AHEAD_S, Demand, Floats, Wish, clear, held_g
from eco_ray.core.starts import plan_with_starts_g
from eco_ray.core.task import PRICE_WEIGHT


class Clearing:
    """Holds what the market has to know beside the book: the pools of nodes, and what may still be submitted."""

    def __init__(self, book: Book, now_s: float) -> None:
        self._book = book
        self._demand = Demand(now_s)

    def submitted(self, job: Job, now_s: float) -> None:
        """A job came in."""
        spec, length_s = job.spec, self._book.durations.expected(job.spec).seconds
        slack_s = max(0.0, spec.deadline_s - max(now_s, spec.not_before_s) - length_s)
        self._demand.submitted((spec.demand * spec.workers.min).amounts, length_s, slack_s, now_s)

    def load(self, now_s: float) -> float:
        """What was submitted lately, as a share of what the nodes could do, of the scarcest resource."""
        usable = sum((np.array(node.capacity.amounts) for node in self._book.nodes.values()), np.zeros(KINDS))
        rate = self._demand.rate(self._book.config.market_step_s, now_s)
        return float(np.max(rate / np.maximum(usable, 1e-9), where=usable > 0, initial=0.0))

    def clear(self, jobs: Sequence[Job], now_s: float) -> None:
        """Share the steps ahead out among these jobs, whose plans must not be in the calendar."""
        book = self._book
        wishes = [self._wish(job, now_s) for job in jobs]
        wishes = [wish for wish in wishes if np.isfinite(wish.watts).any()]
        if not wishes:
            book.market = None
            return
        step_s = book.config.market_step_s
        end_s = min(max(wish.latest_s for wish in wishes) + step_s, now_s + book.config.horizon_s)
        end_s = max(end_s, min(now_s + EXPECTED_AHEAD_S, now_s + book.config.horizon_s))
        edges_s = np.arange(now_s // step_s, np.ceil(end_s / step_s) + 1) * step_s
        edges_s[0] = now_s
        book.market = clear(
            wishes,
            self._expected(edges_s, now_s),
            edges_s,
            self._intensity(edges_s),
            np.stack([book.calendar.free_mean(pool, edges_s) for pool in range(len(book.calendar.fleet.pools))]),
        )

    def worth_g(self, job: Job, now_s: float) -> float | None:
        """What a job's plan emits, and what its places are worth to the others [g]; None where it will not do."""
        book, plan = self._book, job.plan
        if plan is None or not plan.segments or plan.end_s > job.spec.deadline_s + 1e-6:
            return None
        workers = job.spec.workers
        ahead_s = sum((one.end_s - max(one.start_s, now_s)) * workers.speed(one.workers) for one in plan.segments)
        if ahead_s < book.durations.left_s(job, now_s) - 1.0 or plan.segments[0].end_s <= now_s:
            return None  # it has lost time
        situation = book.situation(now_s)
        # the job is in the calendar, so that nothing is asleep where it starts: of its starts, moves count only
        _, total_g = plan_with_starts_g(job, plan.segments, situation)
        if total_g is None:
            return None
        if book.market is not None:
            for segment in plan.segments:
                seat, start_s = situation.fleet.seat.get(segment.node), max(segment.start_s, now_s)
                held = (job.spec.demand * segment.workers).amounts
                if seat is not None:
                    total_g += PRICE_WEIGHT * held_g(book.market, seat[0], held, start_s, segment.end_s)
        return total_g

    def _wish(self, job: Job, now_s: float) -> Wish:
        spec, book = job.spec, self._book
        fleet = book.calendar.fleet
        earliest_s = max(now_s, spec.not_before_s, job.retry_at_s)
        left_s = book.durations.left_s(job, now_s)
        live, demand = job.live_attempt, spec.demand * spec.workers.min
        if live is None and job.has_checkpoint:
            left_s += spec.suspend.resume_cost_s
        watts = np.full(len(fleet.pools), np.inf)
        for place in fleet.places(spec.zones, demand):
            watts[place.pool] = fleet.added_w(place, demand)
        most_speed = max(spec.workers.speeds)
        latest_s = max(spec.deadline_s, earliest_s + left_s / most_speed)
        runs_in = fleet.seat.get(live.node) if live is not None else None
        pool = runs_in[0] if runs_in else None
        return Wish(job.id, left_s, earliest_s, latest_s, demand.amounts, watts, most_speed, pool)

    def _expected(self, edges_s: Floats, now_s: float) -> list[Wish]:
        """Jobs that may be submitted in each of the next steps."""
        step_s = self._book.config.market_step_s
        amount, length_s, slack_s = self._demand.expected(step_s, now_s)
        if length_s <= 0 or amount.max() <= 0:
            return []
        held = Resources(*(float(one) for one in amount))
        watts = np.array(
            [nodes[0].added_power_w(held, held) * nodes[0].pue for nodes in self._book.calendar.fleet.pools]
        )
        found = []
        for start_s in edges_s[:-1][edges_s[:-1] < now_s + EXPECTED_AHEAD_S].tolist():
            latest_s = start_s + length_s + slack_s
            if latest_s <= edges_s[-1]:
                found.append(Wish("", length_s, start_s, latest_s, held.amounts, watts))
        return found

    def _intensity(self, edges_s: Floats) -> Floats:
        """Mean forecast of each pool in each step: shape (P, T); nan where it is unknown."""
        situation = self._book.situation(float(edges_s[0]))
        pools = situation.fleet.pools
        found = np.full((len(pools), len(edges_s) - 1), np.nan)
        for index, members in enumerate(pools):
            series = situation.forecast.get(members[0].zone)
            if series is not None and series.start_s <= edges_s[0]:
                known = int(np.searchsorted(edges_s, series.end_s, side="right")) - 1
                if known > 0:
                    found[index, :known] = series.means(edges_s[: known + 1])
        return found
