"""How long a job takes: as its owner said, as its progress shows, as earlier runs of the same name took, or assumed."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from eco_ray.core.jobs import Job, JobSpec
from eco_ray.core.lengths import Lengths

#: the source of a length that the job's owner gave
AS_GIVEN = "as its owner says"
#: plans give an unknown job the time in which so many of the earlier runs were done
QUANTILE = 0.8
#: runs of a name that are remembered
_REMEMBERED = 20
#: names that are remembered; the one that ran longest ago is forgotten
_NAMES = 10_000
#: from this share on, progress says more than what was expected
_TELLING = 0.05


@dataclass(frozen=True, slots=True)
class Length:
    """Run time of a whole job with its least workers [s], and where that comes from."""

    seconds: float
    #: in words, for people
    source: str
    #: share of the lengths from this source that are no more than a mean, as far as jobs have shown it; in [0, 1)
    doubt: float = 0.0


class Durations:
    """Learns from runs that succeeded: how long they take, and how far to trust what is said of others."""

    def __init__(self, assumed_s: float) -> None:
        #: of a job that nobody knows anything of [s]
        self._assumed_s = assumed_s
        self._runs: dict[tuple[str, str, int], deque[float]] = {}
        #: how lengths that owners gave turned out, and those that were assumed
        self._given, self._assumed = Lengths(), Lengths()

    def succeeded(self, job: Job) -> None:
        """A run is over: its useful time, as of its least workers, is how long it took.

        `Job.productive_s` counts the work of several workers as the run time with the least ones,
        so that what is learned is in the terms of `JobSpec.expected_duration_s`.
        """
        if job.productive_s <= 0:
            return
        key = _key(job.spec)
        runs = self._runs.pop(key, None) or deque(maxlen=_REMEMBERED)
        if job.spec.expected_duration_s:
            self._given.ended(job.spec.expected_duration_s, job.productive_s)
        elif not runs:
            self._assumed.ended(self._assumed_s, job.productive_s)
        runs.append(job.productive_s)
        self._runs[key] = runs
        if len(self._runs) > _NAMES:
            del self._runs[next(iter(self._runs))]

    def expected(self, spec: JobSpec, done_s: float = 0.0, progress: float | None = None) -> Length:
        """The length that plans are made with, for a job that has done so much."""
        if progress is not None and progress >= _TELLING and done_s > 0:
            return Length(max(done_s, done_s / progress), f"by its progress, {progress:.0%}")
        if spec.expected_duration_s:
            return Length(spec.expected_duration_s, AS_GIVEN, self._given.doubt)
        runs = self._runs.get(_key(spec))
        if not runs:
            return Length(self._assumed_s, "nothing is known of its length", self._assumed.doubt)
        longer = [run_s for run_s in runs if run_s > done_s] or [max(runs)]
        length_s = float(np.quantile(longer, QUANTILE, method="inverted_cdf"))
        return Length(length_s, f"{QUANTILE:.0%} of its {len(runs)} earlier runs took no longer")

    def left_s(self, job: Job, now_s: float) -> float:
        """Useful run time that is left [s with the least workers]; one second where it takes longer than expected."""
        done_s = done_so_far_s(job, now_s)
        return max(self.expected(job.spec, done_s, job.progress).seconds - done_s, 1.0)


def _key(spec: JobSpec) -> tuple[str, str, int]:
    """What takes equally long: with other least workers, the same name means other lengths."""
    return spec.tenant, spec.name, spec.workers.min


def done_so_far_s(job: Job, now_s: float) -> float:
    """Work that is done, or would be if all goes well, as run time with the least workers [s]."""
    done_s, live = job.productive_s, job.live_attempt
    if live is None:
        return done_s if job.has_checkpoint else 0.0  # without a checkpoint the next attempt begins again
    since_s = live.productive_s
    if since_s is None and live.started_s is not None:  # it has not told yet: it may be restoring its checkpoint
        resumed = live.number > 1 and job.has_checkpoint
        since_s = live.started_s + (job.spec.suspend.resume_cost_s if resumed else 0.0)
    if since_s is None:
        return done_s
    return done_s + max(0.0, now_s - since_s) * job.spec.workers.speed(live.workers)
