"""An orchestrator with a pretended Ray around it, which acts, keeps records and checks what always holds."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
from planning_cases import CONFIG, HOUR_S, SLOT_S, T0, a_node, a_spec, hourly

from eco_ray.core.actions import AskToCheckpoint, CleanUp, StartAttempt, StopAttempt
from eco_ray.core.calendar import Calendar
from eco_ray.core.cluster import Resources
from eco_ray.core.events import (
    AttemptExited,
    AttemptProgressed,
    AttemptStarted,
    ForecastArrived,
    ForeignUse,
    JobCancelled,
    JobSubmitted,
    NodeDraining,
    NodeJoined,
    NodeLost,
    ResumeRequested,
    SuspendRequested,
    Tick,
)
from eco_ray.core.jobs import TRANSITIONS, AttemptState, JobState
from eco_ray.core.orchestrator import Orchestrator, OrchestratorConfig
from eco_ray.store.codec import job_from_json, job_to_json

SETTINGS = OrchestratorConfig(CONFIG, pause_timeout_s=60.0, retry_delay_s=120.0, max_losses=2)
NODES = {"de-1": a_node("de-1", "DE"), "fr-1": a_node("fr-1", "FR", cpus=2.0, watts=200.0)}
DE = hourly("DE", 300, 100, 300, 100, *[300] * 40)
FR = hourly("FR", *[400] * 44)
FLAT = hourly("DE", *[300] * 40)


@dataclass
class Launched:
    """An attempt as the pretended Ray knows it."""

    job_id: str
    number: int
    node: str
    running: bool = False
    asked: bool = False
    stopped: bool = False


class World:
    """`do` an event and get the actions in short; after each one the records are what a store would have."""

    def __init__(self, *series, nodes=NODES, config=SETTINGS, now_s=T0):
        self.now_s = now_s
        self.config = config
        self.core = Orchestrator("DE", now_s, config)
        #: as the store has them, through its codec
        self.records = {}
        self.log = []
        #: of every node that was ever there
        self.capacity = {}
        self.launched: dict[str, Launched] = {}
        self.ever_launched = set()
        #: (event, time) and the actions, for a replay
        self.history = []
        for node in nodes.values():
            self.do(NodeJoined(node))
        if series:
            self.do(ForecastArrived({s.zone: s for s in series}))

    # -- acting ------------------------------------------------------------------------------------------------------

    def do(self, event, after_s=0.0):
        self.now_s += after_s
        if isinstance(event, NodeJoined):
            self.capacity[event.node.name] = event.node.capacity
        actions = self.core.handle(event, self.now_s)
        self.history.append((event, self.now_s, actions))
        self._save()
        self._perform(actions)
        self.check()
        return [short(a) for a in actions]

    def submit(self, job_id="j", **spec):
        return self.do(JobSubmitted(job_id, a_spec(**spec)))

    def tick(self, hours=0.0, seconds=0.0):
        return self.do(Tick(), hours * HOUR_S + seconds)

    def started(self, job_id="j", number=1):
        attempt = self.launched.get(f"{job_id}-a{number}")
        if attempt:
            attempt.running = True
        return self.do(AttemptStarted(job_id, number))

    def exited(self, code=0, job_id="j", number=1, outcome="exited", message=""):
        self.launched.pop(f"{job_id}-a{number}", None)
        return self.do(AttemptExited(job_id, number, outcome, code if outcome == "exited" else None, message))

    def progressed(self, done, job_id="j", number=1, **times):
        return self.do(AttemptProgressed(job_id, number, done, **times))

    def running(self, job_id="j", **spec):
        """A job that runs at once."""
        self.submit(job_id, **spec)
        self.started(job_id)
        return self.job(job_id)

    def job(self, job_id="j"):
        return job_from_json(self.records[job_id])

    def said(self, job_id="j"):
        job = self.job(job_id)
        return str(job.state), str(job.reason), job.message

    def kinds(self, job_id="j"):
        return [entry.kind for entry in self.log if entry.job_id == job_id]

    def _save(self):
        jobs, log = self.core.take_changes()
        self.log += log
        for job in jobs:
            before = self.records.get(job.id)
            if before is not None:
                was, is_ = job_from_json(before).state, job.state
                assert not was.is_final, f"{job.id} ended as {was} and was changed again"
                legal = is_ is was or is_ in TRANSITIONS[was]
                assert legal or is_ is JobState.SUCCEEDED, (job.id, was, is_)  # over before it was seen running
            self.records[job.id] = job_to_json(job)

    def _perform(self, actions):
        for action in actions:
            attempt, id_ = action.attempt, action.attempt.submission_id
            if isinstance(action, StartAttempt):
                if id_ not in self.ever_launched:  # as Ray refuses an id that it knows
                    self.ever_launched.add(id_)
                    self.launched[id_] = Launched(action.job.id, attempt.number, attempt.node)
            elif isinstance(action, AskToCheckpoint) and id_ in self.launched:
                self.launched[id_].asked = True
            elif isinstance(action, StopAttempt) and id_ in self.launched:
                self.launched[id_].stopped = True
            elif isinstance(action, CleanUp):
                assert id_ not in self.launched

    # -- what always holds -------------------------------------------------------------------------------------------

    def check(self):
        book = self.core.book
        used = {}
        for job in book.jobs.values():
            assert not job.state.is_final
            assert [a.number for a in job.attempts] == list(range(1, len(job.attempts) + 1))
            assert not any(a.state.is_live for a in job.attempts[:-1]), "two live attempts"
            attempt = job.live_attempt
            if attempt is not None:
                launches = attempt.state is AttemptState.LAUNCHING
                assert not (launches and attempt.node in book.closed), "launched where Ray starts nothing"
                used[attempt.node] = used.get(attempt.node, Resources()) + job.spec.demand * attempt.workers
                assert attempt.submission_id in self.launched, "an attempt that nobody runs"
                if attempt.state in (AttemptState.RUNNING, AttemptState.PAUSING):
                    assert job.state is JobState.RUNNING
            if job.held:
                assert attempt is not None or (job.state, job.plan) == (JobState.SUSPENDED, None)
        for name, amount in used.items():
            assert amount.fits_in(self.capacity[name]), f"{name} is overbooked: {amount}"
        for name in {grant.node for grant in book.grants}:  # who is asked to leave still holds what the replica will
            kept, capacity = book.grants.kept(book.nodes[name]), self.capacity[name]
            for job, attempt in book.live():
                if attempt.node == name and attempt.state in (AttemptState.LAUNCHING, AttemptState.RUNNING):
                    kept += (job.spec.demand * attempt.workers).reserved_on(capacity)
            assert kept.fits_in(capacity), f"{name} is promised twice: {kept}"
        self._check_calendar()
        stored = {id_ for id_, text in self.records.items() if not job_from_json(text).state.is_final}
        assert stored == set(book.jobs)

    def _check_calendar(self):
        book, first = self.core.book, int(self.now_s // SLOT_S)
        open_nodes = [node for node in book.nodes.values() if book.is_open(node.name)]
        expected = Calendar(SLOT_S, open_nodes, first)
        for job in book.jobs.values():
            for segment in job.plan.segments if job.plan else ():
                expected.reserve(segment, job.spec.demand)
        for grant in book.grants:
            expected.reserve(grant.segment, grant.demand)
        for name in (node.name for node in open_nodes):
            promised, held = expected.held(name, first, 400), book.calendar.held(name, first, 400)
            assert np.abs(promised - held).max() < 1e-9, f"the calendar of {name} is not what the plans say"

    # -- to the end --------------------------------------------------------------------------------------------------

    def restored(self, needs=None):
        """The same world with an orchestrator that was killed now and started again from the store and its needs."""
        other = object.__new__(World)
        other.__dict__ = {**self.__dict__, "core": None, "records": dict(self.records), "log": [], "history": []}
        other.launched = deepcopy(self.launched)
        other.ever_launched = set(self.ever_launched)
        other.core = Orchestrator("DE", self.now_s, self.config)
        open_jobs = [job for job in map(job_from_json, self.records.values()) if not job.state.is_final]
        if needs is None:
            other._join(self.core.book)
        actions = other.core.restore(open_jobs)
        if needs is not None:
            other.core.needs.restore(needs)
            other._join(self.core.book)
        other._perform(actions)
        for name in sorted(self.core.book.closed):  # as the next look at the nodes tells
            other.do(NodeDraining(name))
        other.check()
        return other, [short(a) for a in actions]

    def _join(self, book):
        for node in book.nodes.values():
            self.core.handle(NodeJoined(node), self.now_s)
        self.core.handle(ForecastArrived(book.forecast), self.now_s)

    def drain(self):
        """Let everybody go on, and everything succeed; returns the final state of each job."""
        for node in NODES.values():
            if node.name in self.core.book.closed:
                self.do(NodeLost(node.name))
            if node.name not in self.core.book.nodes:
                self.do(NodeJoined(node))
        for name in NODES:
            self.do(ForeignUse(name, Resources()))
        for job in list(self.core.book.jobs.values()):
            if job.held:
                self.do(ResumeRequested(job.id, budget_g=1e9 if job.over_budget else None))
        for _ in range(300):
            if not self.core.book.jobs:
                break
            for attempt in list(self.launched.values()):
                where = {"job_id": attempt.job_id, "number": attempt.number}
                if attempt.stopped:
                    self.exited(outcome="stopped", **where)
                elif not attempt.running:
                    self.started(**where)
                elif attempt.asked:
                    self.exited(75, **where)
                else:
                    self.exited(0, **where)
            self.tick(hours=0.26)
        assert not self.core.book.jobs, [j.message for j in self.core.book.jobs.values()]
        assert not self.launched
        return {job_id: str(job_from_json(text).state) for job_id, text in self.records.items()}

    def replayed(self):
        """Actions of the same events in a new orchestrator."""
        core = Orchestrator("DE", self.history[0][1], self.config)
        for event, now_s, actions in self.history:
            again = core.handle(event, now_s)
            core.take_changes()
            assert again == actions, event


def short(action):
    """`start j-a1 on de-1`, `ask j-a1`, `stop j-a1`, `clean j-a1`, `clean j-a1 for good`."""
    name = action.attempt.submission_id
    if isinstance(action, StartAttempt):
        assert action.job.live_attempt == action.attempt
        return f"start {name} on {action.attempt.node}"
    if isinstance(action, CleanUp):
        return f"clean {name}" + (" for good" if action.final else "")
    return f"{'ask' if isinstance(action, AskToCheckpoint) else 'stop'} {name}"


def with_config(**changes):
    return replace(SETTINGS, **changes)


# -- a job `j` in each state, and what people ask for -----------------------------------------------------------------

CANCEL, SUSPEND, RESUME = JobCancelled("j"), SuspendRequested("j"), ResumeRequested("j")


def waiting(world):
    world.submit(hours=1)


def launching(world):
    world.submit(hours=1, policy="run-now")


def is_running(world):
    world.running(hours=1, policy="run-now")


def pausing(world):
    is_running(world)
    world.do(SUSPEND)


def stopping(world):
    launching(world)
    world.do(SUSPEND)


def suspended(world):
    pausing(world)
    world.exited(75)


def retrying(world):
    world.running(hours=1, policy="run-now", max_retries=1)
    world.exited(1)
