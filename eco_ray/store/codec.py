"""Jobs as JSON text and back, exactly: the record that the store keeps and that an older or newer eco-ray can read.

As `core.plain` has them. Floats round-trip to the last bit, infinities and NaN included (Python's JSON tokens).
`metrics` and `runtime_env` are JSON: a tuple in them comes back as a list.
"""

from __future__ import annotations

import json
from typing import Any

from eco_ray.core.jobs import Job
from eco_ray.core.plain import DAMAGED, from_plain, plain
from eco_ray.errors import EcoRayError


def job_to_json(job: Job) -> str:
    """The whole job as JSON text (ASCII)."""
    try:
        value = plain(job)
    except RecursionError as error:
        raise _unfit(f"job {job.id}", error) from error
    return to_json(value, f"job {job.id}")


def job_from_json(text: str) -> Job:
    """The job that `job_to_json` wrote. Raises EcoRayError for a damaged record."""
    return from_plain(Job, from_json(text, "job record"), "job record")


def to_json(value: Any, what: str) -> str:
    """JSON text; an EcoRayError that names `what` for a value that JSON cannot hold."""
    try:
        return json.dumps(value, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise _unfit(what, error) from error


def from_json(text: str, what: str) -> Any:
    """The value of JSON text; an EcoRayError that names `what` where it is damaged."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EcoRayError(f"{what} is not JSON ({error}): {DAMAGED}") from error


def _unfit(what: str, error: Exception) -> EcoRayError:
    return EcoRayError(
        f"{what} cannot be stored: {error}; keep numbers, text, booleans, lists and dictionaries with text keys"
    )
