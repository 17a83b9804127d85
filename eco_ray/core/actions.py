"""What the orchestrator wants done. Each can be done twice without harm: a restarted controller repeats open ones."""

from __future__ import annotations

from dataclasses import dataclass

from eco_ray.core.jobs import Attempt, Job


@dataclass(frozen=True, slots=True)
class StartAttempt:
    """Launch this attempt on its node under its submission id."""

    job: Job
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class AskToCheckpoint:
    """Ask the attempt to write a checkpoint and leave."""

    job_id: str
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class StopAttempt:
    """End the attempt by force."""

    job_id: str
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class CleanUp:
    """Remove what an ended attempt may have left: processes, detached actors, placement groups, run directory."""

    job_id: str
    attempt: Attempt
    #: the job is over for good
    final: bool


Action = StartAttempt | AskToCheckpoint | StopAttempt | CleanUp
