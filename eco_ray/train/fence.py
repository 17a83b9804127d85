"""The newest attempt of a job, written where its checkpoints are: an older one must not write there any more."""

from __future__ import annotations

import time

from eco_ray.errors import EcoRayError, NotAllowedError, UnreachableError
from eco_ray.train.storage import Storage

_NAME = "fence"


class StaleAttempt(NotAllowedError):
    """A newer attempt of this job has been started; this one must not write any more."""


def raise_fence(storage: Storage, attempt: int) -> None:
    """From now on older attempts are refused. Raises OSError."""
    storage.write_text(_NAME, str(attempt))


def refuse_if_stale(storage: Storage, job_id: str, attempt: int) -> None:
    """Raise StaleAttempt if a newer attempt has been started."""
    newest = _read(storage)
    if attempt < newest:
        raise StaleAttempt(
            f"attempt {attempt} of job {job_id} is stale: attempt {newest} has been started since; "
            "end this process, the newer attempt has the work"
        )


def _read(storage: Storage) -> int:
    """Number of the newest attempt; 0 without a fence."""
    text = ""
    for _ in range(3):  # a writer that does not rename may be seen half way
        try:
            found = storage.read_text(_NAME)
        except OSError as error:
            raise UnreachableError(
                f"{storage.url}/{_NAME} cannot be read: {error.strerror or error}; make the place of the checkpoints "
                "reachable from this node"
            ) from error
        if found is None:
            return 0
        text = found.strip()
        if text.isdecimal():
            return int(text)
        time.sleep(0.02)
    raise EcoRayError(
        f"{storage.url}/{_NAME} holds {text[:40]!r}, not the number of the newest attempt, so writing here may not be "
        "safe; remove the file if no other attempt of the job runs"
    )
