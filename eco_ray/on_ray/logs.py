"""Output of a job's attempts: from its node while it runs, from the state directory once it has ended."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from eco_ray.core.jobs import Attempt, Job
from eco_ray.on_ray.launcher import kept_log

#: what is read of a running attempt's output at once [bytes]
CHUNK_BYTES = 262_144
#: reads (attempt, offset) of a running attempt: (offset of what follows, bytes)
Read = Callable[[Attempt, int], tuple[int, bytes]]


def follow_logs(state_dir: Path, get_job: Callable[[], Job], read: Read, follow: bool) -> Iterator[str]:
    """Pieces of output, attempt after attempt; with `follow` until the job has ended. What is lost is said."""
    seen: dict[int, int] = {}
    decoders: dict[int, codecs.IncrementalDecoder] = {}
    while True:
        job = get_job()
        more = False
        for attempt in job.attempts:
            offset = seen.get(attempt.number, 0)
            start, content = _kept(state_dir, job.id, attempt, offset) or read(attempt, offset)
            if start > offset:
                yield f"... {start - offset} bytes are not kept ...\n"
            if content:
                decoder = decoders.setdefault(attempt.number, codecs.getincrementaldecoder("utf-8")("replace"))
                yield decoder.decode(content)
                more = True
            seen[attempt.number] = max(start, offset) + len(content)
        if more:
            continue  # there may be more at once
        if not follow or (job.state.is_final and _all_kept(state_dir, job)):
            return
        time.sleep(0.3)


def _kept(state_dir: Path, job_id: str, attempt: Attempt, offset: int) -> tuple[int, bytes] | None:
    """What is kept of an ended attempt's output from an offset on; None: it is not there yet."""
    path = kept_log(state_dir, job_id, attempt.submission_id)
    if attempt.state.is_live or not path.exists():
        return None
    first = int(path.with_suffix(".offset").read_text())
    return max(first, offset), path.read_bytes()[max(0, offset - first) :]


def _all_kept(state_dir: Path, job: Job) -> bool:
    """Whether nothing more can come: the outputs are kept, or were not within a moment of the end."""
    ended = [a for a in job.attempts if not a.state.is_live]
    return all(kept_log(state_dir, job.id, a.submission_id).exists() for a in ended[-1:])
