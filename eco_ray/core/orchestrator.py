"""The state machine of jobs: `handle(event, now) -> actions`. The live controller, dry run and simulator all run it.

It holds every open job in memory; the caller persists `take_changes()` before it performs the actions, so that a
restart (`restore`) finds each launch already written down and repeats it under the same submission id. The caller keeps
ids unique over jobs that have ended; those that are open are checked here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from eco_ray.core import scaling
from eco_ray.core.actions import Action, AskToCheckpoint, CleanUp, StartAttempt, StopAttempt
from eco_ray.core.attempts import exit_verdict, kept_work, with_attempt
from eco_ray.core.book import Book
from eco_ray.core.budget import overspent, with_budgets
from eco_ray.core.events import (
    AttemptExited,
    AttemptProgressed,
    AttemptStarted,
    Event,
    ForecastArrived,
    ForeignUse,
    JobAccounted,
    JobCancelled,
    JobSubmitted,
    NodeDraining,
    NodeJoined,
    NodeKept,
    NodeLost,
    ResumeRequested,
    ServingNeeds,
    SuspendRequested,
    Tick,
)
from eco_ray.core.explain import without_signal
from eco_ray.core.feasible import check_feasible
from eco_ray.core.jobs import Attempt, AttemptState, Job, JobState, Reason
from eco_ray.core.line import Line
from eco_ray.core.moves import Moves
from eco_ray.core.needs import Needs, NeedsConfig
from eco_ray.core.records import changed
from eco_ray.core.situation import PlannerConfig
from eco_ray.errors import NotFoundError, UsageError


@dataclass(frozen=True, slots=True)
class OrchestratorConfig:
    """Knobs of the orchestrator, in grid time."""

    planner: PlannerConfig = PlannerConfig()  # noqa: RUF009 - frozen, so one shared default is safe
    #: how long an attempt may take to write its checkpoint and leave [s]
    pause_timeout_s: float = 30.0
    #: pause before a failed or lost attempt is repeated [s]
    retry_delay_s: float = 2.0
    #: how often a job is started again after losses that were not its fault
    max_losses: int = 10
    #: waiting jobs that are planned again per tick when capacity or forecasts have changed: the most urgent ones that
    #: have no place, and as many others in turn, so that a tick stays short with any number of jobs
    replan_limit: int = 3
    #: a new plan replaces an old one only if it saves this much more [%]
    replan_gain_pct: float = 2.0
    #: up to so many jobs of the policy eco are planned together once per step of the market; a plan takes milliseconds,
    #: and the caller waits for all of them
    market_limit: int = 250
    #: of room that jobs leave to replicas
    needs: NeedsConfig = NeedsConfig()  # noqa: RUF009 - frozen, so one shared default is safe


#: the sentence of a job that a person suspended
HELD = "is suspended by request; `eco-ray job resume` lets it go on"


class Orchestrator:
    """Decides for all jobs of one cluster. Not thread-safe: one caller, one event at a time."""

    def __init__(self, home_zone: str, now_s: float, config: OrchestratorConfig | None = None) -> None:
        self.config = config or OrchestratorConfig()
        #: open jobs, nodes, forecasts and plans
        self.book = Book(home_zone, now_s, self.config.planner)
        self.take_changes = self.book.take_changes
        limits = self.config.replan_limit, self.config.replan_gain_pct, self.config.market_limit
        self._line = Line(self.book, now_s, *limits)
        self._moves = Moves(self.book, self._line, self.config.pause_timeout_s)
        #: replicas for which jobs leave room
        self.needs = Needs(self.book, self.config.needs, self.config.pause_timeout_s, self.config.replan_gain_pct)
        self._handlers: dict[type, Callable[[Any, float], list[Action]]] = {
            JobSubmitted: self._on_submitted,
            JobCancelled: self._on_cancelled,
            SuspendRequested: self._on_suspend,
            ResumeRequested: self._on_resume,
            AttemptStarted: self._on_started,
            AttemptProgressed: self._on_progressed,
            JobAccounted: self._on_accounted,
            AttemptExited: self._on_exited,
            ForecastArrived: self._on_forecast,
            NodeJoined: self._on_node_joined,
            NodeLost: self._on_node_lost,
            NodeDraining: self._on_node_draining,
            NodeKept: self._on_node_kept,
            ForeignUse: self._on_foreign_use,
            ServingNeeds: self._on_serving_needs,
            Tick: self._on_tick,
        }

    # -- what callers use ------------------------------------------------------------------------------------------

    def handle(self, event: Event, now_s: float) -> list[Action]:
        """Take one event in and say what is to be done.

        Raises NotFoundError for an unknown job, InfeasibleError for a job that cannot be run, UsageError for a
        request that does not fit the job's state; the state is then unchanged.
        """
        return self._handlers[type(event)](event, now_s)

    def restore(self, jobs: Iterable[Job]) -> list[Action]:
        """Take over the open jobs of an earlier life; returns the actions that may not have been performed."""
        jobs = [job for job in jobs if not job.state.is_final]
        self.book.adopt_all(jobs)
        self._line.changed()
        again: dict[AttemptState, Callable[[Job, Attempt], Action]] = {
            AttemptState.LAUNCHING: StartAttempt,
            AttemptState.PAUSING: lambda job, attempt: AskToCheckpoint(job.id, attempt),
            AttemptState.STOPPING: lambda job, attempt: StopAttempt(job.id, attempt),
        }
        last = [(job, job.attempts[-1]) for job in jobs if job.attempts]
        ended = [CleanUp(job.id, attempt, final=False) for job, attempt in last if not attempt.state.is_live]
        return [*ended, *(again[a.state](job, a) for job, a in last if a.state in again)]

    # -- requests --------------------------------------------------------------------------------------------------

    def _on_submitted(self, event: JobSubmitted, now_s: float) -> list[Action]:
        known = self.book.jobs.get(event.job_id)
        if known is not None:
            if event.nonce and event.nonce == known.nonce:
                return []
            raise UsageError(
                f"a job with the id {event.job_id!r} is already here (it is {known.state}); choose another"
            )
        check_feasible(event.spec, now_s, self.book.calendar.fleet.kinds)
        job = Job(
            event.job_id,
            event.spec,
            JobState.QUEUED,
            Reason.PENDING_EVALUATION,
            "was accepted and is about to be planned",
            submitted_s=now_s,
            nonce=event.nonce,
        )
        self.book.set(job, now_s, "submitted", f"deadline {event.spec.deadline_s - now_s:.0f} s from now")
        self.book.plan(job, now_s)
        leaving = self._moves.leave_early(now_s) if self._line.submitted(job, now_s) else []
        return [*leaving, *self._moves.start_if_due(job.id, now_s)]

    def _on_cancelled(self, event: JobCancelled, now_s: float) -> list[Action]:
        job = self._job(event.job_id)
        attempt = job.live_attempt
        if attempt is None:
            self._end(job, JobState.CANCELLED, Reason.CANCELLED, "was cancelled before it ran on", now_s)
            return []
        if job.cancelling:
            return []
        return self._moves.stop(changed(job, cancelling=True), "is being cancelled", now_s)

    def _on_suspend(self, event: SuspendRequested, now_s: float) -> list[Action]:
        job = self._job(event.job_id)
        if job.cancelling:
            raise UsageError(f"job {job.id} is being cancelled; submit it again with a later start instead")
        job, attempt = changed(job, held=True, over_budget=""), job.live_attempt
        if attempt is None:
            job = changed(job, state=JobState.SUSPENDED, reason=Reason.SUSPENDED, message=HELD, plan=None)
            self.book.set(job, now_s, "suspended", HELD)
            self._line.changed()
            return []
        message = "is asked to pause by request"
        if attempt.state is AttemptState.RUNNING:
            return self._moves.ask_to_pause(job, message, now_s)
        if attempt.state is AttemptState.LAUNCHING:
            return self._moves.stop(job, "is stopped by request, before it ran", now_s)
        self.book.set(changed(job, message=message), now_s)  # it is already on its way out
        return []

    def _on_resume(self, event: ResumeRequested, now_s: float) -> list[Action]:
        job = self._job(event.job_id)
        if not job.held:
            raise UsageError(
                f"job {job.id} is not held by a suspend request (it is {job.state}); there is nothing to resume"
            )
        spec = with_budgets(job.spec, event.budget_g, event.budget_j)
        if job.over_budget and spec == job.spec:
            raise UsageError(f"job {job.id} {job.over_budget}")
        self.book.set(changed(job, spec=spec, held=False, over_budget=""), now_s)
        if job.live_attempt is None:
            self.book.plan(self.book.jobs[job.id], now_s)
        return self._moves.start_if_due(job.id, now_s)

    # -- what attempts report --------------------------------------------------------------------------------------

    def _on_started(self, event: AttemptStarted, now_s: float) -> list[Action]:
        found = self._live(event.job_id, event.number)
        if found is None or found[1].started_s is not None:
            return []
        job, attempt = found
        launching = attempt.state is AttemptState.LAUNCHING  # else it is being stopped already
        state = AttemptState.RUNNING if launching else attempt.state
        started_s = event.started_s or now_s
        self.book.launched_in(max(0.0, started_s - attempt.created_s))
        started = changed(attempt, state=state, started_s=started_s)
        job = changed(
            with_attempt(job, started),
            state=JobState.RUNNING,
            reason=Reason.RUNNING,
            message=f"runs on {attempt.node} in {attempt.zone} (attempt {attempt.number}){without_signal(job.plan)}"
            f"{self.book.fewer(job, attempt)}"
            if launching
            else job.message,
        )
        self.needs.again = True
        self.book.set(job, now_s, "started", f"attempt {attempt.number} on {attempt.node} in {attempt.zone}")
        return []

    def _on_progressed(self, event: AttemptProgressed, now_s: float) -> list[Action]:
        if event.productive_s is not None:  # it runs, whether anybody has seen that or not
            self._on_started(AttemptStarted(event.job_id, event.number, min(event.productive_s, now_s)), now_s)
        found = self._live(event.job_id, event.number)
        if found is None:
            return []
        job, attempt = found
        attempt = changed(
            attempt,
            productive_s=attempt.productive_s if attempt.productive_s is not None else event.productive_s,
            checkpoint_s=event.checkpoint_s if event.checkpoint_s is not None else attempt.checkpoint_s,
        )
        job = changed(
            with_attempt(job, attempt),
            progress=event.done if event.done is not None else job.progress,
            metrics={**job.metrics, **event.metrics},
            has_checkpoint=job.has_checkpoint or event.checkpoint_s is not None,
            checkpoint_gb=event.checkpoint_gb if event.checkpoint_gb is not None else job.checkpoint_gb,
        )
        as_known = job.spec.workers
        job = scaling.reported(job, event.done, event.at_s if event.at_s is not None else now_s)
        if job.spec.workers is not as_known:  # plans were made for other speeds
            self.book.set(job, now_s, "scaling", f"speed by workers: {scaling.in_words(job)}")
            self._line.changed(everywhere=True)
            return []
        self.book.set(job, now_s)
        return []

    def _on_accounted(self, event: JobAccounted, now_s: float) -> list[Action]:
        job = self.book.jobs.get(event.job_id)
        over = overspent(job.spec, event.energy_j, event.operational_g) if job else ""
        return self._moves.hold_overspent(job, over, now_s) if job and over else []

    def _on_exited(self, event: AttemptExited, now_s: float) -> list[Action]:
        found = self._live(event.job_id, event.number)
        if found is None:
            return []
        job, attempt = found
        ended_s = min(event.ended_s or now_s, now_s)
        if event.exit_code is not None and attempt.started_s is None:
            # over before it was seen running: it began as soon as launches do
            attempt = changed(attempt, started_s=min(ended_s, attempt.created_s + self.book.launch_s))
        verdict = exit_verdict(job, attempt, event, self.config.max_losses)
        ended = changed(
            attempt, state=verdict.attempt_state, ended_s=ended_s, exit_code=event.exit_code, message=event.message
        )
        productive_s, progress = kept_work(job, ended)
        kept_s = (productive_s - job.productive_s) / job.spec.workers.speed(ended.workers)
        ended = changed(ended, kept_s=kept_s)
        used_j, emitted_g = self.book.spent(job, ended, now_s)
        planned = job.plan
        ahead = planned if planned is not None and planned.start_s >= now_s else None
        job = changed(
            with_attempt(job, ended),
            plan=None,
            productive_s=productive_s,
            progress=progress,
            used_j=job.used_j + used_j,
            emitted_g=job.emitted_g + emitted_g,
            has_checkpoint=job.has_checkpoint or ended.state is AttemptState.PAUSED,
            retries=job.retries + (1 if verdict.uses_retry else 0),
            retry_at_s=now_s + self.config.retry_delay_s if verdict.delayed else 0.0,
        )
        if ahead is not None and ended.state is AttemptState.PAUSED and self.book.goes_on(job, ahead, now_s):
            job = self.book.resumed(job, ahead, now_s)
        elif (fewer := self.needs.goes_on(job, planned, now_s)) is not None:
            job = changed(job, plan=fewer)
        self._line.changed()
        self.needs.again = True
        clean_up = CleanUp(job.id, ended, final=verdict.job_state.is_final)
        if verdict.job_state is JobState.SUCCEEDED:
            self.book.durations.succeeded(job)
        if verdict.job_state.is_final:
            if verdict.job_state is JobState.SUCCEEDED and job.state is not JobState.RUNNING:
                self.book.set(changed(job, state=JobState.RUNNING), now_s)  # as the table of states has it
            self._end(job, verdict.job_state, verdict.reason, verdict.message, now_s)
            return [clean_up, *self._moves.start_waiting(now_s)]
        state, reason, message = verdict.job_state, verdict.reason, verdict.message
        if job.held:
            reason = Reason.EXCEEDS_BUDGET if job.over_budget else Reason.SUSPENDED
            state, message = JobState.SUSPENDED, job.over_budget or HELD
        elif job.plan is not None:
            reason, message = self.book.reason_of(job, job.plan, now_s)
        job = changed(job, state=state, reason=reason, message=message)
        kind = verdict.attempt_state.value
        self.book.set(job, now_s, kind, f"attempt {attempt.number}: {verdict.message}")
        if not job.held and job.plan is None:
            self.book.plan(job, now_s, instead_of=ahead)
        return [clean_up, *self._moves.start_waiting(now_s)]

    # -- the world -------------------------------------------------------------------------------------------------

    def _on_forecast(self, event: ForecastArrived, _now_s: float) -> list[Action]:
        self.book.forecast_arrived(event.series, event.past)
        self._line.changed(everywhere=True)
        return []

    def _on_node_joined(self, event: NodeJoined, _now_s: float) -> list[Action]:
        self.book.set_node(event.node)
        self.needs.again = True
        self._line.changed(everywhere=True)
        return []

    def _on_node_lost(self, event: NodeLost, now_s: float) -> list[Action]:
        self.book.lose_node(event.name)
        self.needs.lost(event.name)
        self._give_up(event.name, "is gone", now_s)
        return self._moves.start_waiting(now_s)

    def _on_node_draining(self, event: NodeDraining, now_s: float) -> list[Action]:
        if self.book.close_node(event.name):
            self.needs.lost(event.name)
            self._give_up(event.name, "is being emptied", now_s)
        return [*self._moves.leave_node(event.name, now_s), *self._moves.start_waiting(now_s)]

    def _on_node_kept(self, event: NodeKept, _now_s: float) -> list[Action]:
        if self.book.open_node(event.name):
            self.needs.again = True
            self._line.changed(everywhere=True)
        return []

    def _give_up(self, node: str, why: str, now_s: float) -> None:
        """Plans of waiting jobs for a node: made again at the next ticks, as they may be thousands."""
        for job in list(self.book.jobs.values()):
            planned_there = job.plan is not None and any(s.node == node for s in job.plan.segments)
            if planned_there and job.live_attempt is None:
                self._moves.to_line(job, f"had its place on {node}, which {why}; it gets another one", now_s)
        self._line.changed(everywhere=True)

    def _on_foreign_use(self, event: ForeignUse, _now_s: float) -> list[Action]:
        if self.book.set_foreign(event.node, event.held):
            self._line.changed(everywhere=True)
            self.needs.again = True
        return []

    def _on_serving_needs(self, event: ServingNeeds, now_s: float) -> list[Action]:
        return self._gave_way(now_s) if self.needs.told(event, now_s) else []

    def _gave_way(self, now_s: float) -> list[Action]:
        """Jobs gave way to replicas, or have their room back."""
        self._line.changed(everywhere=True)
        return [*self._moves.leave_early(now_s), *self._moves.start_waiting(now_s)]

    def _on_tick(self, _event: Tick, now_s: float) -> list[Action]:
        self.book.forget_before(now_s)
        actions = self._gave_way(now_s) if self.needs.active and self.needs.tick(now_s) else []
        for job in self.book.due(now_s):
            attempt = job.live_attempt
            if attempt is not None and attempt.state is AttemptState.PAUSING:
                actions += self._moves.check_pause(job, attempt, now_s)
            elif attempt is not None:
                actions += self._moves.check_plan(job, attempt, now_s)
        if self.needs.active:
            self.needs.give_up()
        if self._line.replan(now_s):
            actions += self._moves.leave_early(now_s)
        return actions + self._moves.start_waiting(now_s)

    # -- records ---------------------------------------------------------------------------------------------------

    def _job(self, job_id: str) -> Job:
        job = self.book.jobs.get(job_id)
        if job is None or job.state.is_final:
            raise NotFoundError(f"no open job {job_id!r}: `eco-ray job list` shows the jobs and their states")
        return job

    def _live(self, job_id: str, number: int) -> tuple[Job, Attempt] | None:
        """The job and its live attempt, if that is the one meant; reports of older attempts are late and ignored."""
        job = self.book.jobs.get(job_id)
        attempt = job.live_attempt if job else None
        return (job, attempt) if job and attempt and attempt.number == number else None

    def _end(self, job: Job, state: JobState, reason: Reason, message: str, now_s: float) -> None:
        job = changed(job, state=state, reason=reason, message=message, plan=None, finished_s=now_s, held=False)
        self.book.set(job, now_s, state.value, message)
        self._line.changed()
