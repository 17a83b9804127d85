"""How much faster more workers make a job: as its owner said, put right by what its own attempts show.

Every attempt with a session shows its pace: how much of the work was done in how long, from its second report of new
work on, so that neither its start nor the warming up of its first step counts. Only ratios of paces are used, so that
the unit of work does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from eco_ray.core.attempts import with_attempt
from eco_ray.core.jobs import Job, Pace, Workers
from eco_ray.core.records import changed

#: a pace with fewer reports, or less of the work, says nothing yet
_TELLING_REPORTS = 4
_TELLING_SHARE = 0.01
#: plans are made with other speeds once one of them is off by more than this (relative)
_OFF = 0.03


def observed(pace: Pace | None, done: float, at_s: float) -> Pace:
    """The pace of an attempt after one more report: a share of the work done, in [0, 1], at a time [s since epoch].

    Where the share falls back, workers were lost and their work with them: measuring begins anew. The last report of a
    job is left out, as it may be a jump: who stops early has done all.
    """
    if pace is None or done < pace.to_done:
        return Pace(done, at_s, done, at_s)
    if done == pace.to_done or at_s <= pace.to_s or done >= 1:
        return pace
    if pace.reports == 0:  # before it lies the start
        return Pace(done, at_s, done, at_s, 1)
    return replace(pace, to_done=done, to_s=at_s, reports=pace.reports + 1)


def paces(job: Job) -> dict[int, float]:
    """Share of the work per second that was measured with so many workers, all attempts together."""
    share: dict[int, float] = {}
    over_s: dict[int, float] = {}
    for attempt in job.attempts:
        pace = attempt.pace
        if pace is not None and pace.reports >= _TELLING_REPORTS and pace.share >= _TELLING_SHARE:
            share[attempt.workers] = share.get(attempt.workers, 0.0) + pace.share
            over_s[attempt.workers] = over_s.get(attempt.workers, 0.0) + pace.over_s
    return {workers: share[workers] / over_s[workers] for workers in sorted(share)}


def put_right(asked: Workers, measured: Mapping[int, float]) -> Workers:
    """The speeds that follow from those that were asked for and from paces that were measured, by number of workers.

    What was measured is off from what was said by a factor; between measured numbers of workers the factor is
    interpolated, beyond them it is that of the nearest one. So one measured number leaves all as it was said, and where
    all were measured nothing of what was said is left. More workers are never taken to be slower than fewer: nobody has
    to use them.
    """
    counts = [count for count in sorted(measured) if asked.min <= count <= asked.max and measured[count] > 0]
    if len(counts) < 2:
        return asked
    said = np.array(asked.speeds)
    factor = [measured[count] / said[count - asked.min] for count in counts]
    found = said * np.interp(np.arange(asked.min, asked.max + 1), counts, factor)
    speeds = np.maximum.accumulate(found / found[0])
    return replace(asked, throughput=tuple(speeds.tolist()), asked=asked.throughput)


def as_asked(workers: Workers) -> Workers:
    """What the owner of a job said of its workers."""
    return workers if workers.asked is None else Workers(workers.min, workers.max, workers.asked)


def reported(job: Job, done: float | None, at_s: float) -> Job:
    """The job after a report of its live attempt, with what that shows of the speed with so many workers."""
    workers, attempt = job.spec.workers, job.live_attempt
    if done is None or attempt is None or workers.max == workers.min:
        return job
    job = with_attempt(job, changed(attempt, pace=observed(attempt.pace, done, at_s)))
    found = put_right(as_asked(workers), paces(job))
    off = np.abs(np.array(found.speeds) / np.array(workers.speeds) - 1)
    return _with_speeds(job, found) if float(off.max()) > _OFF else job


def _with_speeds(job: Job, workers: Workers) -> Job:
    """The job with other speeds; what it has done so far counts by them."""
    ended = [one for one in job.attempts if not one.state.is_live]
    productive_s = job.productive_s
    if all(one.kept_s is not None for one in ended):  # not in the records of an older eco-ray
        productive_s = sum((one.kept_s or 0.0) * workers.speed(one.workers) for one in ended)
    return changed(job, spec=replace(job.spec, workers=workers), productive_s=productive_s)


def in_words(job: Job) -> str | None:
    """How the speed with each number of workers is known; None for a job whose number of workers is fixed."""
    workers = job.spec.workers
    if workers.max == workers.min:
        return None
    speeds = ", ".join(
        f"{count}: {speed:.3g}"
        for count, speed in zip(range(workers.min, workers.max + 1), workers.speeds, strict=True)
    )
    measured = " and ".join(str(count) for count in paces(job))
    if workers.asked is not None:
        return f"{speeds} times that of {workers.min}; measured with {measured} workers, the rest follows from them"
    said = "as its owner says" if workers.throughput else "taken to grow in proportion"
    one = f"; measured so far with {measured}, which says nothing of another number" if measured else ""
    return f"{speeds} times that of {workers.min}, {said}{one}"
