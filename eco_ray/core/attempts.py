"""What the end of an attempt means for its job."""

from __future__ import annotations

from dataclasses import dataclass

from eco_ray.core.events import AttemptExited
from eco_ray.core.jobs import Attempt, AttemptState, Job, JobState, Reason
from eco_ray.core.records import changed

#: exit code of an attempt that wrote a checkpoint and left because it was asked to (EX_TEMPFAIL of sysexits.h)
PAUSED_EXIT_CODE = 75


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where attempt and job go."""

    attempt_state: AttemptState
    job_state: JobState
    reason: Reason
    message: str
    #: it counts against the job's own retries
    uses_retry: bool = False
    #: wait a little before the next attempt
    delayed: bool = False


def exit_verdict(  # noqa: PLR0911 - one return per line of the table
    job: Job, attempt: Attempt, event: AttemptExited, max_losses: int
) -> Verdict:
    """The table of endings, read from the top: the first line that fits decides."""
    code = event.exit_code
    # once asked, the request stands: an attempt that leaves after the pause had timed out still leaves because of it
    asked = attempt.pause_asked_s is not None or attempt.state is AttemptState.STOPPING
    if event.outcome == "exited" and code == 0:
        return Verdict(AttemptState.SUCCEEDED, JobState.SUCCEEDED, Reason.SUCCEEDED, "succeeded")
    if job.cancelling:
        return Verdict(AttemptState.STOPPED, JobState.CANCELLED, Reason.CANCELLED, "was cancelled while it ran")
    if event.outcome == "exited" and code == PAUSED_EXIT_CODE and asked:
        message = "wrote its checkpoint and left its node"
        return Verdict(AttemptState.PAUSED, JobState.SUSPENDED, Reason.SUSPENDED, message)
    if attempt.state is AttemptState.STOPPING:
        message = "was stopped; it goes on from its last checkpoint"
        return Verdict(AttemptState.STOPPED, JobState.SUSPENDED, Reason.SUSPENDED, message)
    if event.outcome == "stopped":
        message = f"was stopped through Ray's own job API (attempt {attempt.submission_id})"
        return Verdict(AttemptState.STOPPED, JobState.CANCELLED, Reason.CANCELLED, message)
    if event.outcome in ("lost", "refused"):
        return _lost(job, attempt, event, max_losses)
    return _failed(job, code, event.message)


def with_attempt(job: Job, attempt: Attempt) -> Job:
    """The job with its last attempt replaced."""
    return changed(job, attempts=(*job.attempts[:-1], attempt))


def kept_work(job: Job, ended: Attempt) -> tuple[float, float | None]:
    """Work done [s with the least workers] and progress after this attempt: what no checkpoint holds is lost."""
    worked_from = ended.productive_s if ended.productive_s is not None else ended.started_s
    if worked_from is None or ended.ended_s is None:
        return job.productive_s, job.progress
    speed = job.spec.workers.speed(ended.workers)
    worked_s = max(0.0, ended.ended_s - worked_from) * speed
    if ended.state is AttemptState.SUCCEEDED:
        return job.productive_s + worked_s, None if job.progress is None else 1.0
    if ended.state is AttemptState.PAUSED or worked_s == 0:
        return job.productive_s + worked_s, job.progress
    held_s = max(0.0, ended.checkpoint_s - worked_from) * speed if ended.checkpoint_s is not None else 0.0
    kept_s = min(worked_s, held_s)
    productive_s = job.productive_s + kept_s
    # progress was reported at about the end; work is taken to be even
    return productive_s, None if job.progress is None else job.progress * productive_s / (job.productive_s + worked_s)


def _lost(job: Job, attempt: Attempt, event: AttemptExited, max_losses: int) -> Verdict:
    losses = 1 + sum(1 for a in job.attempts if a.state is AttemptState.LOST)
    if losses > max_losses:
        message = (
            f"lost {losses} attempts (limit {max_losses}), the last on {attempt.node}: {event.message}; "
            "check the nodes, then submit it again"
        )
        return Verdict(AttemptState.LOST, JobState.FAILED, Reason.FAILED, message)
    kept = "its last checkpoint" if job.has_checkpoint else "the beginning (it had no checkpoint)"
    message = f"lost attempt {attempt.number} on {attempt.node} ({event.message}); it goes on from {kept}"
    return Verdict(AttemptState.LOST, JobState.QUEUED, Reason.RETRYING, message, delayed=True)


def _failed(job: Job, code: int | None, detail: str) -> Verdict:
    spec = job.spec
    what = f"exited with code {code}" if code is not None else f"failed without an exit code ({detail})"
    counted = not spec.retry_exit_codes or code in spec.retry_exit_codes
    if counted and job.retries < spec.max_retries:
        message = f"{what}; retry {job.retries + 1} of {spec.max_retries} follows"
        return Verdict(AttemptState.FAILED, JobState.QUEUED, Reason.RETRYING, message, uses_retry=True, delayed=True)
    allowed = f"{job.retries} of {spec.max_retries} retries used"
    if not counted:
        allowed += f", and retries.on_exit_codes is {list(spec.retry_exit_codes)}"
    message = f"{what}; {allowed}. `eco-ray job logs {job.id}` shows its output; raise retries.max to repeat it"
    return Verdict(AttemptState.FAILED, JobState.FAILED, Reason.FAILED, message)
