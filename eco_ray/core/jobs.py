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
        return not TRANSITIONS[self]


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


class AttemptState(StrEnum):
    """Where one launch of a job is."""

    LAUNCHING = "launching"
    RUNNING = "running"
    #: asked to write a checkpoint and leave
    PAUSING = "pausing"
    #: being stopped by force
    STOPPING = "stopping"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    #: its node went away
    LOST = "lost"
    STOPPED = "stopped"

    @property
    def is_live(self) -> bool:
        """Whether the attempt may still be using its node."""
        return self in (AttemptState.LAUNCHING, AttemptState.RUNNING, AttemptState.PAUSING, AttemptState.STOPPING)


class Reason(StrEnum):
    """Why a job is where it is: one token; the sentence beside it has the details."""

    MISCONFIGURED = "Misconfigured"
    DEADLINE_INFEASIBLE = "DeadlineInfeasible"
    SUSPENDED = "Suspended"
    WAITING_FOR_CAPACITY = "WaitingForCapacity"
    WAITING_FOR_CLEANER_WINDOW = "WaitingForCleanerWindow"
    SIGNAL_STALE = "SignalStale"
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
    #: Ray runtime environment of the attempt (working_dir comes from `package`)
    runtime_env: dict[str, Any] = field(default_factory=dict)
    #: snapshot of the work directory, a name in the package folder; None: none
    package: str | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a plan: this node, from start to end [s since epoch]."""

    node: str
    zone: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
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

    @property
    def start_s(self) -> float:
        """Start of the first segment [s since epoch]."""
        return self.segments[0].start_s

    @property
    def end_s(self) -> float:
        """End of the last segment [s since epoch]."""
        return self.segments[-1].end_s


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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
    #: productive run time so far [s], of ended attempts
    productive_s: float = 0.0
    #: whether an attempt has written a checkpoint
    has_checkpoint: bool = False
    #: suspended by a person, until they resume it
    held: bool = False
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
