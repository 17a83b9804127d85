"""The controller: feeds the orchestrator with events and performs its actions.

One thread, the *brain*, owns orchestrator, ledger and store; everything else (calls from clients and agents, Ray's
slow answers) hands it work. What it decides is in the store before it is done, so that a controller killed at any
moment continues under the same attempt ids.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from eco_ray.core.cluster import UNKNOWN_ZONE, Node, Resources
from eco_ray.core.dry_run import dry_run
from eco_ray.core.event_log import Beginning, told_error
from eco_ray.core.events import (
    AttemptExited,
    Event,
    JobCancelled,
    JobSubmitted,
    NodeJoined,
    NodeLost,
    ResumeRequested,
    SuspendRequested,
    Tick,
)
from eco_ray.core.jobs import Job, JobState
from eco_ray.core.orchestrator import Orchestrator
from eco_ray.core.ports import GridSource
from eco_ray.core.store_port import Store
from eco_ray.errors import EcoRayError, UsageError
from eco_ray.job_file import JobFile
from eco_ray.on_ray.accounts import Accounts, Directory
from eco_ray.on_ray.brain import Brain
from eco_ray.on_ray.controller_config import ControllerConfig
from eco_ray.on_ray.event_file import EventFile
from eco_ray.on_ray.examine import EXAMINE_S, ask_all
from eco_ray.on_ray.facts import cluster_facts, status_facts
from eco_ray.on_ray.launcher import Launcher
from eco_ray.on_ray.model_accounts import ModelAccounts
from eco_ray.on_ray.outbox import NEEDS, Outbox
from eco_ray.on_ray.owners import RAY_JOB_PREFIX
from eco_ray.on_ray.package import Packages
from eco_ray.on_ray.performer import Performer
from eco_ray.on_ray.ray_jobs import RayJobs
from eco_ray.on_ray.serving.controller_side import ServingSide
from eco_ray.on_ray.signals import ShowSignal, Signals
from eco_ray.on_ray.spool import Spool
from eco_ray.on_ray.standings import Standings, tell
from eco_ray.on_ray.watcher import Watcher, report_event

log = logging.getLogger("eco_ray.controller")

#: how often nodes, foreign use and series are looked at [wall s]
_LOOK_S = 1.0
#: how often Ray's whole list of jobs is read, which grows with its history [wall s]
_LIST_S = 5.0
#: jobs that succeeded, from which lengths are learned again after a restart
_LEARNED = 1_000
#: job ids name folders and Ray submissions
JOB_ID_LIMIT = 100
_JOB_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{JOB_ID_LIMIT - 1}}}")
_OPEN = [state for state in JobState if not state.is_final]


class Controller(ServingSide):
    """Runs the jobs of one cluster. `fleet` is the Ray side of the nodes (`on_ray.fleet.Fleet`)."""

    def __init__(
        self,
        config: ControllerConfig,
        store: Store,
        grid: GridSource,
        launcher: Launcher,
        fleet: Any,
        show_signal: ShowSignal | None = None,
    ) -> None:
        """`show_signal` gets a zone and what `signal` says of it, every few seconds, for metrics."""
        self.config = config
        self._store = store
        self._signals = Signals(grid, config.horizon_s, show_signal)
        self._packages = Packages(config.state_dir)
        self._launcher = launcher
        self._fleet = fleet
        self._accounts = Accounts(store, grid)
        self._brain = Brain(lambda: self._handle(Tick()))
        self._stopped = threading.Event()
        #: every node described or ever seen, for samples that come late
        self._known: dict[str, Node] = dict(fleet.described)
        self._models = ModelAccounts(store)
        #: tenants of all jobs ever, by id, so that owners of energy are recognised without a query
        self._tenants: dict[str, str] = {}
        began_s = self.now_s()
        self._core = Orchestrator(config.home_zone, began_s, config.orchestrator)
        self._events = EventFile(config.state_dir / "decisions" if config.record_events else None)
        self._watcher = Watcher(launcher, fleet, self._known, config.clock, self._post)
        self._performer = Performer(launcher, fleet, self._watcher, self._known, self._core.book.nodes, self._post)
        self._outbox = Outbox(store, self._performer.perform)
        self._standings = Standings(store, config.clock)
        self._ray_jobs = RayJobs(store, config.clock, self._is_job)
        self._start(began_s)

    def now_s(self) -> float:
        """Grid time now [s since epoch]."""
        return self.config.clock.grid_s(time.time())

    # -- what clients call -------------------------------------------------------------------------------------------

    def submit(self, job_id: str, job: JobFile, package: str | None, nonce: str) -> str:
        """Take a job in; returns its id. The same id with the same nonce is the same submission."""
        return self._brain.ask(lambda: self._submit(job_id, job, package, nonce))

    def plan(self, job: JobFile) -> dict[str, Any]:
        """When and where the job would run if it were submitted now; nothing is changed. Raises as `submit`."""

        def ask() -> dict[str, Any]:
            now_s = self.now_s()
            spec = job.to_spec(now_s, self.config.clock.speed, self.config.default_max_delay_s)
            return dry_run(spec, self._core, now_s)

        return self._brain.ask(ask)

    def read_log(self, node_name: str, submission_id: str, offset: int, limit: int) -> tuple[int, bytes]:
        """Output of an attempt from its node; nothing where the node is gone."""
        node = self._core.book.nodes.get(node_name)
        if node is None or not _JOB_ID.fullmatch(submission_id):
            return offset, b""
        found: tuple[int, bytes] = self._fleet.call(node, lambda a: a.read_log.remote(submission_id, offset, limit))
        return found

    def cancel(self, job_id: str) -> None:
        """End a job. Raises NotFoundError."""
        self._brain.ask(lambda: self._request(JobCancelled(job_id)))

    def suspend(self, job_id: str) -> None:
        """Suspend a job until `resume`. Raises NotFoundError."""
        self._brain.ask(lambda: self._request(SuspendRequested(job_id)))

    def resume(self, job_id: str, budget_g: float | None = None, budget_j: float | None = None) -> None:
        """Let a suspended job go on, perhaps with other budgets. Raises NotFoundError or UsageError."""
        self._brain.ask(lambda: self._request(ResumeRequested(job_id, budget_g, budget_j)))

    def has_package(self, name: str) -> bool:
        """Whether a snapshot is already here."""
        return self._packages.has(name)

    def put_package(self, name: str, content: bytes) -> None:
        """Keep the snapshot of a work directory; its name is the hash of its content."""
        self._packages.put(name, content)

    def signal(self, zone: str) -> dict[str, Any] | None:
        """The intensity of a zone now: value, source, kind, nature; None: unknown."""
        return self._signals.now(zone, self.now_s())

    def agent_report(self, node: str, batch: Mapping[str, Any]) -> int:
        """Store an agent's samples and take its attempts' reports; returns how many samples were new."""
        seen = {str(use.get("owner_id")) for sample in batch.get("samples", ()) for use in sample.get("usages", ())}
        workers_of = {owner.removeprefix(RAY_JOB_PREFIX) for owner in seen if owner.startswith(RAY_JOB_PREFIX)}
        if workers_of - self._ray_jobs.submissions.keys():  # a Ray job that began since the last look
            with contextlib.suppress(Exception):  # without the list its energy stays unallocated
                ray_jobs = self._launcher.ray_jobs()
                self._brain.ask(lambda: self._listed(ray_jobs))
        return self._brain.ask(lambda: self._report(batch))

    def status(self) -> dict[str, Any]:
        """Facts for `eco-ray status`."""
        book = self._core.book
        facts = self._brain.ask(
            lambda: status_facts(self.config, self._known, book.nodes, book.jobs.values(), self.now_s(), book.launch_s)
        )
        return {**facts, "signals": [{"zone": zone, **(self.signal(zone) or {})} for zone in sorted(self._zones())]}

    def examine(self) -> list[dict[str, Any]]:
        """What the agent of each node says of it, for `eco-ray doctor`; `error` where it does not answer."""
        known, there = list(self._known.values()), self._core.book.nodes
        return ask_all(known, there, lambda node: self._fleet.call(node, lambda a: a.examine.remote(), EXAMINE_S))

    def places(self) -> dict[str, str]:
        """Where this cluster keeps its state, for clients that only know its address."""
        return {"state_dir": str(self.config.state_dir), "store_url": self.config.store_url}

    def stop(self) -> None:
        """End the background work and the agents; jobs stay as they are."""
        self._stopped.set()
        self._signals.stop()
        self._brain.stop()
        self._watcher.stop()
        self._fleet.stop_agents()

    # -- the brain ---------------------------------------------------------------------------------------------------

    def _start(self, began_s: float) -> None:
        self._tenants = {row.id: row.tenant for row in self._store.list_jobs()}
        learned, open_jobs, needs = self._learn(), self._store.load_jobs(_OPEN), self._store.get_meta(NEEDS) or {}
        self._events.begin(
            Beginning(self.config.home_zone, began_s, self.config.orchestrator, learned, tuple(open_jobs), needs)
        )
        actions = self._core.restore(open_jobs)
        self._core.needs.restore(needs)
        nodes = self._fleet.nodes()
        # before anything is started
        self._looked(nodes, self._fleet.held(nodes), self._fleet.draining(nodes))
        for job in self._core.book.jobs.values():
            if job.live_attempt is not None:
                self._watcher.watch(job.id, job.live_attempt)
        self._performer.perform(actions)
        self._brain.start()
        threading.Thread(target=self._look_around, name="look", daemon=True).start()
        self._signals.follow(self._zones, self.now_s)
        self._watcher.start()

    def _learn(self) -> tuple[Job, ...]:
        """How long jobs take, from those that succeeded before this began; those, in the order of their ends."""
        try:
            succeeded = self._store.load_jobs([JobState.SUCCEEDED], _LEARNED)
        except EcoRayError as error:  # the record of a job that has ended is no reason not to start
            log.warning("lengths of jobs are learned from now on: %s", error)
            return ()
        in_order = tuple(sorted(succeeded, key=lambda job: job.finished_s or 0.0))
        for job in in_order:
            self._core.book.durations.succeeded(job)
        return in_order

    def _post(self, *events: Event) -> None:
        """Hand events to the brain, without waiting."""
        self._brain.do_soon(lambda: self._handle(*events))

    def _handle(self, *events: Event) -> None:
        """Take events in, save what they change, then do what they ask for; where the store raises, all of it waits."""
        for event in events:
            self._take_in(event)
        self._outbox.send()

    def _take_in(self, event: Event) -> None:
        now_s = self.now_s()
        try:
            actions = self._core.handle(event, now_s)
        except EcoRayError as error:
            self._events.note(event, now_s, error=told_error(error))
            raise
        jobs, entries = self._core.take_changes()
        needs = self._core.needs.take_news()
        self._outbox.add(jobs, entries, actions, needs)
        self._events.note(event, now_s, actions, jobs, needs)

    def _request(self, event: Event) -> None:
        """Handle what somebody asks for. Where the database is known to be away, nothing changes."""
        self._outbox.send()
        self._handle(event)

    def _submit(self, job_id: str, job: JobFile, package: str | None, nonce: str) -> str:
        if not _JOB_ID.fullmatch(job_id):
            raise UsageError(
                f"job id {job_id[:120]!r} is not allowed: use 1 to {JOB_ID_LIMIT} letters, digits, '.', '_' or '-', "
                "beginning with a letter or digit"
            )
        known = self._core.book.jobs.get(job_id)
        if known is None and job_id in self._tenants:
            known = self._store.get_job(job_id)
        if known is not None:
            if known.nonce == nonce:
                return job_id
            raise UsageError(
                f"a job with the id {job_id!r} is already here (it is {known.state}); "
                "choose another --id, or leave it out to get a fresh one"
            )
        if package is not None and not self.has_package(package):
            raise UsageError(f"the snapshot {package} of job {job_id} is not here; submit it again")
        now_s = self.now_s()
        spec = job.to_spec(now_s, self.config.clock.speed, self.config.default_max_delay_s, package)
        try:
            self._request(JobSubmitted(job_id, spec, nonce))
        except EcoRayError:
            self._take_back(job_id)
            raise
        self._tenants[job_id] = spec.tenant
        return job_id

    def _take_back(self, job_id: str) -> None:
        """A submission that could not be written down: who made it is told so, and it must not run later."""
        job = self._core.book.jobs.get(job_id)
        if job is None:
            return
        self._take_in(JobCancelled(job_id))
        if job.live_attempt is not None:
            self._take_in(AttemptExited(job_id, job.live_attempt.number, "stopped", None, "was never launched"))
        self._outbox.withdraw(job_id)

    def _report(self, batch: Mapping[str, Any]) -> int:
        rejected = Spool(self.config.state_dir / "rejected")
        samples = rejected.sound(batch.get("samples", ()))
        new = self._accounts.book_sound(samples, self._known, self._directory(), rejected)
        events = [report_event(report, self.config.clock) for report in batch.get("progress", ())]
        self._handle(*[event for event in events if event is not None])
        return new

    def _zones(self) -> set[str]:
        return {node.zone for node in list(self._known.values())} - {UNKNOWN_ZONE}

    def _is_job(self, job_id: str) -> bool:
        return job_id in self._tenants

    def _directory(self) -> Directory:
        tenants = self._tenants
        return Directory(
            self._ray_jobs.submissions,
            self._models.models,
            self._is_job,
            lambda kind, owner: tenants.get(owner, "") if kind == "job" else "",
        )

    # -- the world ---------------------------------------------------------------------------------------------------

    def _look_around(self) -> None:
        """Nodes, foreign use, forecasts and Ray's job list, again and again; the brain only gets what it needs."""
        ray_jobs_due = 0.0
        while not self._stopped.wait(_LOOK_S):
            with contextlib.suppress(Exception):  # Ray may be restarting; the next look will tell
                nodes = self._fleet.nodes()
                held = self._fleet.held(nodes)
                self._look_at_gpus(nodes, held)
                self._brain.do_soon(partial(self._looked, nodes, held, self._fleet.draining(nodes)))
                self._ingest_spools_of(self._known.keys() - nodes.keys())
            self._brain.do_soon(self._tell)
            if time.monotonic() >= ray_jobs_due:
                ray_jobs_due = time.monotonic() + _LIST_S
                self._signals.show(self._zones(), self.now_s())
                with contextlib.suppress(Exception):
                    self._brain.do_soon(partial(self._listed, self._launcher.ray_jobs()))

    def _looked(self, nodes: Mapping[str, Node], held: Mapping[str, Resources], draining: Collection[str]) -> None:
        now_s = self.now_s()
        present = self._core.book.nodes
        for node in [node for name, node in nodes.items() if present.get(name) != node]:
            self._join(node)
        for name in [name for name in present if name not in nodes]:
            log.warning("node %s is lost", name)
            self._handle(NodeLost(name))
        self._drained(draining)
        self._used(held)
        last_s = max((job.spec.deadline_s for job in self._core.book.jobs.values()), default=now_s)
        news = self._signals.news(self._zones(), now_s, last_s)
        if news is not None:
            self._handle(news)
        self._accounts.keep_series(self._zones(), now_s)

    def _tell(self) -> None:
        """Tell running attempts how their jobs stand, and stop those that have spent their budgets."""
        told, accounted = self._standings.look(self._core.book, self.now_s())
        if told:
            self._performer.in_background(tell, told, dict(self._core.book.nodes), self._fleet.call)
        self._handle(*accounted)

    def _listed(self, ray_jobs: Mapping[str, Any]) -> None:
        """Take Ray's job list in. A job whose `eco-ray run` was stopped through Ray is cancelled with it."""
        self._ray_jobs.note(ray_jobs, self._fleet.job_id)
        for submission, facts in ray_jobs.values():
            job = self._core.book.jobs.get(submission or "")
            if job is not None and facts["state"] == "STOPPED" and not job.cancelling:
                self._handle(JobCancelled(job.id))

    def _join(self, node: Node) -> None:
        self._known[node.name] = node
        self._fleet.agent(node)
        if node.zone not in self._core.book.forecast:
            self._signals.ask_again()
        # before it has joined: where the database is away, it joins at a later look
        self._store.put_meta("cluster", cluster_facts(self.config, self._known))
        self._handle(NodeJoined(node))

    def _ingest_spools_of(self, lost: Collection[str]) -> None:
        """Samples that agents wrote down before their nodes went away, where their disks can be reached from here.

        Looked at again and again: an agent outlives its node by moments, and writes on.
        """
        for name in lost:
            spool = Spool(self._fleet.spool_dir(name))
            samples = spool.load()
            if not samples:
                continue
            refused = Spool(self.config.state_dir / "rejected")
            self._brain.ask(partial(self._accounts.book_sound, samples, self._known, self._directory(), refused))
            for sample in samples:
                spool.drop(sample)
