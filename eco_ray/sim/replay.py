"""Replays jobs through the orchestrator in virtual time: the code that decides live, on a cluster that is imagined.

The world here does what it is told at once: an attempt starts when it is asked to, pauses in the moment of the request,
and ends when its true work is done. Everything else (who waits, when, where, for whom) is the orchestrator's decision.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

from eco_ray.core.actions import Action, AskToCheckpoint, StartAttempt, StopAttempt
from eco_ray.core.attempts import PAUSED_EXIT_CODE
from eco_ray.core.cluster import Node
from eco_ray.core.events import (
    AttemptExited,
    AttemptProgressed,
    AttemptStarted,
    Event,
    ForecastArrived,
    JobSubmitted,
    NodeJoined,
    Outcome,
    ServingNeeds,
    Tick,
)
from eco_ray.core.jobs import Job, JobSpec
from eco_ray.core.orchestrator import Orchestrator
from eco_ray.sim.schedule import Row

#: at one moment: what ends makes room, news come before decisions, needs and submissions before the tick
_EXIT, _FORECAST, _NEED, _SUBMIT, _TICK = range(5)


class Forecasts(Protocol):
    """When news about the intensity come, and what they say."""

    def times_s(self) -> Iterable[float]:
        """When a forecast arrives, in order."""
        ...

    def at(self, now_s: float) -> ForecastArrived:
        """What is known then."""
        ...


@dataclass(frozen=True, slots=True)
class Submission:
    """A job that will be submitted."""

    job_id: str
    arrival_s: float
    spec: JobSpec
    #: what it really takes, on one worker [s]
    length_s: float


@dataclass(slots=True)
class _Running:
    """An attempt in the world."""

    node: str
    number: int
    started_s: float
    #: when it has read its checkpoint and works again
    works_from_s: float
    ends_s: float
    workers: int
    #: work per second, in terms of the least workers
    speed: float


@dataclass(slots=True)
class Replayed:
    """What happened."""

    #: number of the submission, number of the node, start, end, workers
    rows: list[Row] = field(default_factory=list)
    #: starts after the first, by job
    resumes: dict[str, int] = field(default_factory=dict)
    #: plans that replaced another one
    plan_changes: int = 0
    decisions: int = 0
    #: every event with its time and the actions that it caused; kept on request
    log: list[tuple[float, Event, list[Action]]] = field(default_factory=list)


class Replay:
    """One simulation. `run` may be called once."""

    def __init__(
        self,
        orchestrator: Orchestrator,
        nodes: Sequence[Node],
        submissions: Sequence[Submission],
        forecasts: Forecasts,
        *,
        begin_s: float,
        end_s: float,
        tick_s: float,
        keep_log: bool = False,
        needs: Sequence[tuple[float, ServingNeeds]] = (),
    ) -> None:
        """All times are seconds since the epoch; the rows of the result count from `begin_s`.

        needs: what models need of the nodes, and when they say so; replicas leave when the room is theirs no more.
        """
        self._brain = orchestrator
        self._number = {node.name: number for number, node in enumerate(nodes)}
        self._submissions = submissions
        self._index = {s.job_id: i for i, s in enumerate(submissions)}
        self._forecasts = forecasts
        self._needs = needs
        self._begin_s, self._end_s = begin_s, end_s
        self._keep_log = keep_log
        self._left_s = {s.job_id: s.length_s for s in submissions}
        self._running: dict[str, _Running] = {}
        self._open = 0
        self._tick_s = tick_s
        self._order = itertools.count()
        self._heap: list[tuple[float, int, int, object]] = []
        self._ticks: set[float] = set()
        self._planned: set[str] = set()
        self.result = Replayed()
        for node in nodes:
            self._tell(NodeJoined(node), begin_s)

    def run(self) -> Replayed:
        """Play everything up to the end; jobs that are not done by then have no rows."""
        for time_s in self._forecasts.times_s():
            self._push(time_s, _FORECAST, None)
        for time_s, need in self._needs:
            self._push(time_s, _NEED, need)
        for index, submission in enumerate(self._submissions):
            self._push(submission.arrival_s, _SUBMIT, index)
        while self._heap:
            now_s, kind, _, what = heapq.heappop(self._heap)
            if now_s > self._end_s + 1e-6:
                break
            self._happen(kind, what, now_s)
            if self._open and kind != _TICK:
                self._tick_at(now_s)
        # what runs or waits with work left does not end inside
        done = {self._index[job_id] for job_id, left_s in self._left_s.items() if left_s <= 1e-3}
        self.result.rows = [row for row in self.result.rows if row[0] in done]
        return self.result

    def _happen(self, kind: int, what: object, now_s: float) -> None:
        if kind == _EXIT:
            job_id = str(what)
            attempt = self._running.get(job_id)
            if attempt is not None and attempt.ends_s == now_s:  # else it was paused before
                self._leave(job_id, attempt, now_s, 0)
        elif kind == _FORECAST:
            self._tell(self._forecasts.at(now_s), now_s)
        elif kind == _NEED:
            need = cast("ServingNeeds", what)
            self._tell(need, now_s)
            if need.until_s is not None and need.until_s > now_s:
                self._tick_at(need.until_s)
        elif kind == _SUBMIT:
            submission = self._submissions[what]  # type: ignore[call-overload]
            self._open += 1
            self._tell(JobSubmitted(submission.job_id, submission.spec), now_s)
        else:
            self._ticks.discard(now_s)
            self._tell(Tick(), now_s)
            if self._open:
                self._tick_at((now_s // self._tick_s + 1) * self._tick_s)

    def _tell(self, event: Event, now_s: float) -> None:
        actions = self._brain.handle(event, now_s)
        if self._keep_log:
            self.result.log.append((now_s, event, actions))
        jobs, log = self._brain.take_changes()
        for entry in log:
            if entry.kind == "planned":
                self.result.decisions += 1
                self.result.plan_changes += entry.job_id in self._planned
                self._planned.add(entry.job_id)
        for job in jobs:
            self._follow(job, now_s)
        for action in actions:
            self._do(action, now_s)

    def _follow(self, job: Job, now_s: float) -> None:
        """Look at a job again when its plan says that something is due."""
        if job.state.is_final:
            self._open -= 1
        elif job.plan is not None:
            due_s = job.plan.segments[0].end_s if job.live_attempt else job.plan.start_s
            if due_s >= now_s:
                self._tick_at(due_s)

    def _do(self, action: Action, now_s: float) -> None:
        if isinstance(action, StartAttempt):
            self._start(action, now_s)
        elif isinstance(action, AskToCheckpoint | StopAttempt):
            attempt = self._running.get(action.job_id)
            if attempt is not None:
                code = PAUSED_EXIT_CODE if isinstance(action, AskToCheckpoint) else None
                self._leave(action.job_id, attempt, now_s, code)

    def _start(self, action: StartAttempt, now_s: float) -> None:
        job, attempt = action.job, action.attempt
        resumed = job.has_checkpoint
        works_s = now_s + (job.spec.suspend.resume_cost_s if resumed else 0.0)
        speed = job.spec.workers.speed(attempt.workers)
        ends_s = works_s + self._left_s[job.id] / speed
        self._running[job.id] = _Running(attempt.node, attempt.number, now_s, works_s, ends_s, attempt.workers, speed)
        self.result.resumes[job.id] = self.result.resumes.get(job.id, -1) + 1
        self._push(ends_s, _EXIT, job.id)
        self._tell(AttemptStarted(job.id, attempt.number), now_s)

    def _leave(self, job_id: str, attempt: _Running, now_s: float, code: int | None) -> None:
        self._ran(job_id, attempt, now_s)
        del self._running[job_id]
        self._left_s[job_id] -= max(0.0, now_s - attempt.works_from_s) * attempt.speed
        if now_s >= attempt.works_from_s:
            self._tell(AttemptProgressed(job_id, attempt.number, None, productive_s=attempt.works_from_s), now_s)
        how: Outcome = "stopped" if code is None else "exited"
        self._tell(AttemptExited(job_id, attempt.number, how, code), now_s)

    def _ran(self, job_id: str, attempt: _Running, end_s: float) -> None:
        start_s, end_s = attempt.started_s - self._begin_s, end_s - self._begin_s
        number = self._number[attempt.node]
        self.result.rows.append((self._index[job_id], number, start_s, end_s, attempt.workers))

    def _tick_at(self, time_s: float) -> None:
        if time_s not in self._ticks:
            self._ticks.add(time_s)
            self._push(time_s, _TICK, None)

    def _push(self, time_s: float, kind: int, what: object) -> None:
        heapq.heappush(self._heap, (time_s, kind, next(self._order), what))


def replay_log(orchestrator: Orchestrator, log: Iterable[tuple[float, Event, list[Action]]]) -> list[list[Action]]:
    """The actions of a fresh orchestrator on the same events: a pure state machine gives the same ones."""
    return [orchestrator.handle(event, now_s) for now_s, event, _ in log]
