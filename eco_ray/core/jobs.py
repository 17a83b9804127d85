"""Jobs, their attempts, their plans, and the table of states that they go through.

A *job* is one requested run, an *attempt* one launch of it: a suspended job has several attempts. All times are grid
time [s since epoch]. Durations of a job (`expected_duration_s`, ...) are grid seconds too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from eco_ray.core.cluster import Resources


class JobState(StrEnum):
    """Where a job is. `TRANSITIONS` says where it can go."""

    QUEUED = "queued"
    RUNNING = "running"
    SUSPENDED = "suspended"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended for good."""
        return self in _FINAL


TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.SUSPENDED, JobState.FAILED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset(
        {JobState.QUEUED, JobState.SUSPENDED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}
    ),
    JobState.SUSPENDED: frozenset({JobState.QUEUED, JobState.RUNNING, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}

_FINAL = tuple(state for state, following in TRANSITIONS.items() if not following)


class AttemptState(StrEnum):
    """Where one launch of a job is."""

    #: whether the attempt may still be using its node
    is_live: bool

    def __new__(cls, value: str, is_live: bool = False) -> AttemptState:
        """An attribute instead of a property, as it is asked for thousands of times a second."""
        state = str.__new__(cls, value)
        state._value_ = value
        state.is_live = is_live
        return state

    LAUNCHING = "launching", True
    RUNNING = "running", True
    #: asked to write a checkpoint and leave
    PAUSING = "pausing", True
    #: being stopped by force
    STOPPING = "stopping", True
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    #: its node went away
    LOST = "lost"
    STOPPED = "stopped"


class Reason(StrEnum):
    """Why a job is where it is: one token; the sentence beside it has the details."""

    MISCONFIGURED = "Misconfigured"
    DEADLINE_INFEASIBLE = "DeadlineInfeasible"
    SUSPENDED = "Suspended"
    WAITING_FOR_CAPACITY = "WaitingForCapacity"
    WAITING_FOR_CLEANER_WINDOW = "WaitingForCleanerWindow"
    SIGNAL_STALE = "SignalStale"
    EXCEEDS_BUDGET = "ExceedsBudget"
    PENDING_EVALUATION = "PendingEvaluation"
    RUNNING = "Running"
    RETRYING = "Retrying"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


@dataclass(frozen=True, slots=True)
class SuspendRule:
    """Whether and at what price a job may be suspended and resumed."""

    allow: bool = True
    #: shortest useful run between two suspensions [s]
    min_run_s: float = 0.0
    #: time a resumed attempt needs before it works again [s]
    resume_cost_s: float = 0.0


ONE_CPU = Resources(cpus=1.0)
DEFAULT_SUSPEND = SuspendRule()


@dataclass(frozen=True, slots=True)
class Workers:
    """How many workers a job may run with, and how much faster that makes it."""

    min: int = 1
    max: int = 1
    #: work per second with min, min + 1, ..., max workers, in terms of that with min; empty: it grows in proportion
    throughput: tuple[float, ...] = ()
    #: `throughput` as the owner said, where core/scaling.py put it right by what was measured; None: it is as said
    asked: tuple[float, ...] | None = None

    def speed(self, workers: int) -> float:
        """Work per second with so many workers, in terms of that with the least."""
        return self.throughput[workers - self.min] if self.throughput else workers / self.min

    @property
    def speeds(self) -> tuple[float, ...]:
        """`speed` of min, min + 1, ..., max workers."""
        some = range(self.min, self.max + 1)
        return self.throughput[: len(some)] or tuple(self.speed(count) for count in some)


#: one worker, as most jobs have
ONE_WORKER = Workers()


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What was asked for, checked and with absolute times."""

    name: str
    #: shell command of the attempt
    run: str
    #: latest finish [s since epoch]
    deadline_s: float
    demand: Resources = ONE_CPU
    tenant: str = "default"
    #: higher goes first among jobs that compete for a node
    priority: int = 500
    policy: str = "eco"
    #: None: unknown, and the planner says what it assumes
    expected_duration_s: float | None = None
    #: earliest start [s since epoch]
    not_before_s: float = 0.0
    #: allowed zones (data residency); empty: every zone of the cluster
    zones: tuple[str, ...] = ()
    #: no run above this intensity [g/kWh] while the deadline allows it
    max_intensity: float | None = None
    #: do not wait for less than this saving against run-now [%]
    min_saving_pct: float = 0.0
    suspend: SuspendRule = DEFAULT_SUSPEND
    max_retries: int = 0
    #: exit codes that are retried; empty: every non-zero code
    retry_exit_codes: tuple[int, ...] = ()
    workers: Workers = ONE_WORKER
    #: it must not emit or use more than this in all [g, J]; None: no limit
    budget_g: float | None = None
    budget_j: float | None = None
    #: what a move to another zone has to transfer; what a session reports counts more
    checkpoint_gb: float = 0.0
    #: Ray runtime environment of the attempt (working_dir comes from `package`)
    runtime_env: dict[str, Any] = field(default_factory=dict)
    #: snapshot of the work directory, a name in the package folder; None: none
    package: str | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a plan: this node, from start to end [s since epoch], with so many workers."""

    node: str
    zone: str
    start_s: float
    end_s: float
    workers: int = 1


@dataclass(frozen=True)  # without slots: `records.changed` copies it often
class Plan:
    """When and where a job will run, and what that should emit."""

    segments: tuple[Segment, ...]
    #: expected operational carbon [g]; None where an intensity is unknown
    carbon_g: float | None
    #: expected operational carbon of running at once in the home zone [g]; None where an intensity is unknown
    run_now_g: float | None
    #: when it was made [s since epoch]
    made_s: float
    #: when it could have started, by the places that were free then [s since epoch]; None: no place was
    could_start_s: float | None = None
    #: what it adds to the emissions of the nodes [g]: what plans are compared by; None where an intensity is unknown
    added_g: float | None = None
    #: share by which it emits more than if every node were free: what others could leave to it at most
    regret: float = 0.0
    #: length of the whole job that was planned with [s], and what that length is
    length_s: float | None = None
    length_from: str = ""
    #: the zones that it may use, where no forecast for any of them was current: it could not wait for cleaner power
    no_signal_in: tuple[str, ...] = ()

    @property
    def start_s(self) -> float:
        """Start of the first segment [s since epoch]."""
        return self.segments[0].start_s

    @property
    def end_s(self) -> float:
        """End of the last segment [s since epoch]."""
        return self.segments[-1].end_s


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast an attempt works once it does: how much of the work was done from when to when [s since epoch]."""

    #: progress, in [0, 1]
    from_done: float
    from_s: float
    to_done: float
    to_s: float
    #: how often it reported new work; 0: not yet, 1: from then on it is measured
    reports: int = 0

    @property
    def share(self) -> float:
        """Share of the work, in [0, 1]."""
        return self.to_done - self.from_done

    @property
    def over_s(self) -> float:
        """In how long [s]."""
        return self.to_s - self.from_s


@dataclass(frozen=True)  # without slots: `records.changed` copies it often
class Attempt:
    """One launch of a job."""

    number: int
    #: the id that Ray's job API knows it by; made from job and number, so that a second launch is refused
    submission_id: str
    node: str
    zone: str
    state: AttemptState
    #: when the launch was decided [s since epoch]
    created_s: float
    #: when it was seen running
    started_s: float | None = None
    #: when a resumed attempt had restored its checkpoint and worked again
    productive_s: float | None = None
    #: when it was asked to pause, or began to be stopped
    pause_asked_s: float | None = None
    #: its last checkpoint; work after it is lost if the node is lost
    checkpoint_s: float | None = None
    ended_s: float | None = None
    exit_code: int | None = None
    message: str = ""
    workers: int = 1
    #: of a job whose number of workers is free
    pace: Pace | None = None
    #: how long it did work that a checkpoint holds [s]; None: it lives, or nobody wrote it down
    kept_s: float | None = None


@dataclass(frozen=True)  # without slots: `records.changed` copies it often
class Job:
    """A job with all that has happened to it."""

    id: str
    spec: JobSpec
    state: JobState
    reason: Reason
    #: the sentence beside the reason
    message: str
    submitted_s: float
    #: identifies the submission, so that a repeated call is not a second job
    nonce: str = ""
    attempts: tuple[Attempt, ...] = ()
    plan: Plan | None = None
    #: share of the work that is done and checkpointed or running, in [0, 1]; None: never reported
    progress: float | None = None
    #: work done so far by ended attempts, as run time with the least workers [s]
    productive_s: float = 0.0
    #: whether an attempt has written a checkpoint
    has_checkpoint: bool = False
    #: suspended by a person or for a spent budget, until a person resumes it
    held: bool = False
    #: why it is held, where that is a budget that it has spent; empty: a person holds it
    over_budget: str = ""
    #: a cancellation is under way
    cancelling: bool = False
    #: False once it has ignored a pause request
    pausable: bool = True
    #: restarts after a failed exit
    retries: int = 0
    #: not before this time, after a failure [s since epoch]
    retry_at_s: float = 0.0
    finished_s: float | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    #: what its ended attempts used and emitted, as far as it is known here [J, g]
    used_j: float = 0.0
    emitted_g: float = 0.0
    #: size of its checkpoint, as its session reported it
    checkpoint_gb: float | None = None
    #: how often its plan was replaced by another one that seemed better
    replans: int = 0

    @property
    def live_attempt(self) -> Attempt | None:
        """The attempt that may be using a node now."""
        if self.attempts and self.attempts[-1].state.is_live:
            return self.attempts[-1]
        return None

    @property
    def resumes(self) -> int:
        """How many attempts continued from a checkpoint of an earlier one."""
        return sum(1 for a in self.attempts[1:] if a.productive_s is not None)
