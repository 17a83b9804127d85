"""Tells running attempts how their jobs stand, and the orchestrator what those have used that have budgets."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from eco_ray.core.book import Book
from eco_ray.core.clock import Clock
from eco_ray.core.events import JobAccounted
from eco_ray.core.jobs import AttemptState
from eco_ray.core.ledger_sums import ledger_sums
from eco_ray.core.standing import Spent, Standing, steps_ahead
from eco_ray.core.store_port import Store
from eco_ray.core.units import MJ_PER_J

log = logging.getLogger("eco_ray.controller")

#: how often attempts are told [wall s]
TELL_S = 5.0
#: so many times as long as the sums took is waited for the next ones: a long ledger must not keep the brain busy
_REST = 50.0

#: node -> submission id -> what its attempt is told
Told = dict[str, dict[str, Standing]]


class Standings:
    """Looked up by the brain, every few seconds."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._due = 0.0

    def look(self, book: Book, now_s: float) -> tuple[Told, list[JobAccounted]]:
        """What to tell whom, and what the ledger has for jobs with budgets; nothing where it is not time for it."""
        began = time.monotonic()
        live = [(job, attempt) for job, attempt in book.live() if attempt.state is AttemptState.RUNNING]
        if began < self._due or not live:
            return {}, []
        spent = self._spent({job.id for job, _ in live}, min(job.submitted_s for job, _ in live))
        told: Told = {}
        for job, attempt in live:
            steps, end_s = steps_ahead(book.forecast.get(attempt.zone), now_s, job.spec.deadline_s, self._clock)
            standing = Standing(
                self._clock.wall_s(now_s), self._clock.wall_s(job.spec.deadline_s), spent.get(job.id), steps, end_s
            )
            told.setdefault(attempt.node, {})[attempt.submission_id] = standing
        took_s = time.monotonic() - began
        self._due = began + max(TELL_S, _REST * took_s)
        with_budget = [job for job, _ in live if job.spec.budget_g is not None or job.spec.budget_j is not None]
        found = [(job.id, spent[job.id]) for job in with_budget if job.id in spent]
        return told, [JobAccounted(job_id, one.energy_j, one.operational_g) for job_id, one in found]

    def _spent(self, jobs: Iterable[str], since_s: float) -> Mapping[str, Spent]:
        """What the ledger has for jobs that began since then."""
        wanted = set(jobs)
        rows = [row for row in self._store.hourly(start_s=since_s) if row.owner_id in wanted]
        return {
            line.key: Spent(
                line.energy_mj / MJ_PER_J,
                line.operational_g,
                line.carbon_nature,
                f"ledger, {', '.join(line.sources)}",
            )
            for line in ledger_sums(rows, "job")
        }


def tell(told: Told, nodes: Mapping[str, Any], call: Callable[[Any, Callable[[Any], Any]], Any]) -> None:
    """Hand it to the agents, one after the other; `call` is that of the fleet. Who does not answer is told later."""
    for node, standings in told.items():
        try:
            call(nodes[node], partial(_tell, standings))
        except Exception as error:
            log.warning("the attempts on %s were not told how their jobs stand: %s", node, error)


def _tell(standings: Mapping[str, Standing], agent: Any) -> Any:
    return agent.tell.remote(standings)
