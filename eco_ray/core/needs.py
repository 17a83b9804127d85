"""Replicas that a latency objective needs and that have no room: jobs give way, and take the room back afterwards.

A need is met by grants (`core/grants.py`): each keeps room for one replica until a time, and jobs are planned around
it. Needs come and go with the traffic, jobs must not: what was granted is kept for a while after the need has ended,
and who came back runs until that has paid before it gives way again (`core/give_way.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from eco_ray.core.book import Book
from eco_ray.core.cluster import Resources
from eco_ray.core.comparing import is_better, is_same
from eco_ray.core.events import NeededReplica, ServingNeeds
from eco_ray.core.give_way import GiveWay, Way
from eco_ray.core.grants import GaveWay, Grant, total
from eco_ray.core.jobs import AttemptState, Job, Plan, Reason
from eco_ray.core.planner import plan_job
from eco_ray.core.room import is_late
from eco_ray.core.starts import as_of_now
from eco_ray.core.stay import as_paused
from eco_ray.core.words import moment

_INSTANT_S = 1e-6


@dataclass(frozen=True, slots=True)
class NeedsConfig:
    """Knobs, in grid time."""

    #: how long a need lasts at a time of which nobody knows the end; then it is looked at again [s]
    assumed_s: float = 3600.0
    #: how long room is kept after the need has ended [s]
    linger_s: float = 300.0


class Needs:
    """What models need of the nodes of a book. Each method returns whether plans of jobs may have changed."""

    def __init__(self, book: Book, config: NeedsConfig, pause_timeout_s: float, gain_pct: float) -> None:
        self._book, self._config = book, config
        self._give_way = GiveWay(book, pause_timeout_s)
        #: a job goes back to more workers only where that saves this much more [%]
        self._gain_pct = gain_pct
        self._needs: dict[str, ServingNeeds] = {}
        #: by model: why a replica has no room, one token and one sentence
        self._refused: dict[str, tuple[Reason, str]] = {}
        #: in which slot those without room were looked at last
        self._slot = -1
        #: something may have become free
        self.again = False
        #: what is to be kept of it has changed since the caller asked
        self._news = False

    @property
    def active(self) -> bool:
        """Whether there is anything to see to."""
        return bool(self._needs or self._book.grants)

    # -- events ----------------------------------------------------------------------------------------------------

    def told(self, event: ServingNeeds, now_s: float) -> bool:
        """A model needs so many replicas, or none any more."""
        over = event.until_s is not None and event.until_s <= now_s
        if not event.replicas or over:
            if self._needs.pop(event.model, None) is None:
                return False
            self._refused.pop(event.model, None)
            self._news = True
            self._end(self._book.grants.of(event.model), now_s)
            return False
        if self._needs.get(event.model) == event:
            return False  # where it was refused, it is looked at again by itself
        self._needs[event.model] = event
        self._news = True
        return self._meet(event, now_s)

    def tick(self, now_s: float) -> bool:
        """Time passed: room is given back, needs without an end go on, those without room are looked at again."""
        moved = False
        for model, need in list(self._needs.items()):
            if need.until_s is not None and need.until_s <= now_s:
                moved |= self.told(ServingNeeds(model), now_s)
        over = [grant for grant in self._book.grants if grant.until_s <= now_s + _INSTANT_S]
        for grant in over:
            self._book.withdraw(grant)
        slot = self._book.calendar.slot_of(now_s)
        if over or self.again or slot != self._slot:
            self.again, self._slot = False, slot
            for need in list(self._needs.values()):
                moved |= self._meet(need, now_s)
        if over:
            self._news = True
            moved |= self._take_back(now_s)
        return moved

    def give_up(self) -> None:
        """Where an attempt did not leave as it was asked to, there is no room after all: it is looked for elsewhere."""
        book = self._book
        for name in {grant.node for grant in book.grants}:
            capacity = book.nodes[name].capacity
            stay = total(
                (job.spec.demand * attempt.workers).reserved_on(capacity)
                for job, attempt in book.live()
                if attempt.node == name and attempt.state in (AttemptState.LAUNCHING, AttemptState.RUNNING)
            )
            while book.grants.on(name) and not (book.grants.kept(book.nodes[name]) + stay).fits_in(capacity):
                book.withdraw(book.grants.on(name)[-1])
                self.again = self._news = True

    def lost(self, node: str) -> None:
        """A node went away, with what was granted there."""
        for grant in list(self._book.grants.on(node)):
            self._book.withdraw(grant)
            self.again = self._news = True

    def goes_on(self, job: Job, old: Plan | None, now_s: float) -> Plan | None:
        """The plan of a job that has left to run on at once with fewer workers, a moment after that was planned.

        None where it was to wait, or has no place or time for that any more.
        """
        gave, segments = self._book.gives_way.get(job.id), old.segments if old is not None else ()
        if gave is None or not segments or not segments[0].start_s <= now_s < segments[0].end_s:
            return None
        last = job.attempts[-1]
        here = [grant for grant in self._book.grants.on(last.node) if grant.model == gave.model]
        if last.state is not AttemptState.PAUSED or segments[0].node != last.node or not here:
            return None
        (bare,) = self._book.lift([job])
        return self._give_way.staying(bare, max(here, key=lambda grant: grant.until_s), 0.0, now_s)

    # -- what is known ---------------------------------------------------------------------------------------------

    def facts(self, model: str, now_s: float) -> dict[str, Any]:
        """What a model has been granted, and why not more, as plain values."""
        reason, message = self._refused.get(model, ("", ""))
        grants = [grant for grant in self._book.grants.of(model) if not grant.ended]
        return {
            "model": model,
            "granted": [{"node": grant.node, "for_s": grant.until_s - now_s} for grant in grants],
            "reason": str(reason),
            "message": message,
        }

    def take_news(self) -> dict[str, Any] | None:
        """What is to be kept, as plain values; None where nothing has changed since the last call."""
        if not self._news:
            return None
        self._news = False
        return {
            "needs": [asdict(need) for need in self._needs.values()],
            "gives_way": {job_id: asdict(gave) for job_id, gave in self._book.gives_way.items()},
            **self._book.grants.to_json(),
        }

    def restore(self, told: Mapping[str, Any]) -> None:
        """Take over what an earlier life kept, if anything, once its jobs are there and before any node is."""
        if not told:
            return
        for one in told["needs"]:
            replicas = tuple(
                NeededReplica(Resources(**r["demand"]), tuple(r["nodes"]), tuple(r["zones"])) for r in one["replicas"]
            )
            self._needs[one["model"]] = ServingNeeds(one["model"], replicas, one["until_s"], one["slo_p95_s"])
        self._book.gives_way = {
            job_id: GaveWay(**gave) for job_id, gave in told["gives_way"].items() if job_id in self._book.jobs
        }
        self._book.grants.restore(told)

    # -- granting --------------------------------------------------------------------------------------------------

    def _meet(self, need: ServingNeeds, now_s: float) -> bool:
        """See that each replica of a need has its room, and no more; say why where one has not."""
        book, moved, refused = self._book, False, ""
        spare = book.grants.of(need.model)
        # those that are there first, so that none of them is given away and asked for again
        missing = []
        for replica in need.replicas:
            fits = [
                grant
                for grant in spare
                if grant.demand == replica.demand
                and (node := book.nodes.get(grant.node)) is not None
                and replica.may_be_on(node)
            ]
            if not fits:
                missing.append(replica)
                continue
            grant = min(fits, key=lambda grant: grant.ended)
            spare.remove(grant)
            changed_, no = self._renew(grant, need, now_s)
            moved |= changed_
            refused = refused or no
        self._end([grant for grant in spare if not grant.ended], now_s)
        for replica in missing:
            until_s = need.until_s if need.until_s is not None else now_s + self._config.assumed_s
            nodes = [one for one in book.nodes.values() if book.is_open(one.name) and replica.may_be_on(one)]
            offers = [Grant(need.model, node.name, node.zone, replica.demand, now_s, until_s) for node in nodes]
            way = self._give_way.find(offers, now_s)
            if isinstance(way, Way):
                self._take(way, way.grant, None, need, now_s)
                moved = True
            else:
                refused = refused or f"a replica of {need.model} has no room for {replica.demand}: {way}"
        self._say(need.model, refused)
        return moved

    def _renew(self, grant: Grant, need: ServingNeeds, now_s: float) -> tuple[bool, str]:
        """Keep a grant for as long as the need asks, or as jobs can wait; whether plans changed, and why not longer."""
        until_s, assumed_s = need.until_s, self._config.assumed_s
        if until_s is None:  # a while at a time, before the last one is over
            until_s = grant.until_s if grant.until_s - now_s > assumed_s / 2 else now_s + assumed_s
        if until_s <= grant.until_s + _INSTANT_S:
            if until_s < grant.until_s - _INSTANT_S or grant.ended:
                self._replace(grant, replace(grant, until_s=until_s, ended=False))
            return False, ""
        # the slot in which it ends is kept whole
        slot_s = self._book.calendar.slot_s
        held_s = max(math.ceil(grant.until_s / slot_s - 1e-9) * slot_s, now_s)
        if until_s <= held_s:
            self._replace(grant, replace(grant, until_s=until_s, ended=False))
            return False, ""
        way = self._give_way.find([replace(grant, from_s=held_s, until_s=until_s)], now_s)
        if isinstance(way, Way):
            self._take(way, replace(grant, until_s=until_s, ended=False), grant, need, now_s)
            return True, ""
        if grant.ended:
            self._replace(grant, replace(grant, ended=False))
        end = moment(grant.until_s, now_s)
        return False, f"a replica of {need.model} has its room on {grant.node} until {end} only: {way}"

    def _take(self, way: Way, grant: Grant, instead_of: Grant | None, need: ServingNeeds, now_s: float) -> None:
        """Do what was found."""
        book = self._book
        before = {job_id: book.jobs[job_id] for job_id in way.plans}
        book.lift(before.values())
        if instead_of is not None:
            book.withdraw(instead_of)
        book.grant(grant)
        for job_id, job in before.items():
            attempt, plan = job.live_attempt, way.plans[job_id]
            leaves_anyway = job.plan is not None and is_same(job.plan, plan, now_s)
            if attempt is not None and not leaves_anyway:
                gave = book.gives_way.get(job_id)
                workers = max(attempt.workers, gave.workers if gave else 0)
                book.gives_way[job_id] = GaveWay(need.model, need.slo_p95_s, workers)
            book.accept(job, plan, now_s)
        self._news = True

    def _replace(self, old: Grant, new: Grant) -> None:
        self._book.withdraw(old)
        self._book.grant(new)
        self._news = True

    def _end(self, grants: list[Grant], now_s: float) -> None:
        """Keep room for a while longer, and no more after that."""
        for grant in grants:
            until_s = min(grant.until_s, now_s + self._config.linger_s)
            self._replace(grant, replace(grant, until_s=until_s, ended=True))

    def _say(self, model: str, sentence: str) -> None:
        if sentence:
            self._refused[model] = Reason.WAITING_FOR_CAPACITY, sentence
        else:
            self._refused.pop(model, None)

    # -- taking back -----------------------------------------------------------------------------------------------

    def _take_back(self, now_s: float) -> bool:
        """Let those that gave way have what is free again, the most urgent first."""
        book, moved = self._book, False
        gave = [book.jobs[job_id] for job_id in book.gives_way]
        for job in sorted(gave, key=lambda job: (-job.spec.priority, job.spec.deadline_s)):
            attempt = job.live_attempt
            if attempt is None and not job.held:
                book.replan([job], now_s, 0.0)
                moved = True
            elif attempt is not None and attempt.state is AttemptState.RUNNING:
                moved |= self._grow(job, now_s)
            now = book.jobs[job.id]
            if now.live_attempt is not None and now.live_attempt.workers >= book.gives_way[job.id].workers:
                del book.gives_way[job.id]
        return moved

    def _grow(self, job: Job, now_s: float) -> bool:
        """Let a job that runs with fewer workers have them back, where that is worth the start."""
        book, attempt = self._book, job.live_attempt
        if attempt is None or job.plan is None or attempt.workers >= book.gives_way[job.id].workers:
            return False
        (bare,) = book.lift([job])
        situation = book.situation(now_s)
        new = plan_job(as_paused(book, bare, now_s), situation, book.config)
        old = as_of_now(bare, job.plan, situation)
        book.restore([job])
        if not isinstance(new, Plan) or is_late(job, new) or new.start_s > now_s + _INSTANT_S:
            return False
        start_s = job.spec.suspend.resume_cost_s + book.launch_s
        sooner = new.end_s < old.end_s - start_s and _costs_no_more(new, old, self._gain_pct)
        more = new.segments[0].workers > attempt.workers
        if not more or not (sooner or is_better(job, new, old, self._gain_pct)):
            return False
        book.lift([job])
        book.accept(job, new, now_s)
        return True


def _costs_no_more(new: Plan, old: Plan, gain_pct: float) -> bool:
    """Whether a plan adds about as much as another one."""
    return new.added_g is None or old.added_g is None or new.added_g <= old.added_g * (1 + gain_pct / 100)
