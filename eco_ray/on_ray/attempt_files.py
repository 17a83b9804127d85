"""What lies in the directory of an attempt: what Ray holds for it, and its last report. The attempt can write both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eco_ray.json_file import read_json, read_stamped
from eco_ray.on_ray.owners import is_name

#: larger files are refused [bytes]
_LIMIT_BYTES = 65_536
_RESERVED = "reserved.json"
_PROGRESS = "progress.json"
_MAX_ATTEMPT, _MAX_HELD = 2**31, 1e6

#: by (job, attempt): (CPUs, GPUs)
Reserved = dict[tuple[str, int], tuple[float, float]]


def write_reserved(folder: Path, job_id: str, attempt: int, cpus: float, gpus: float) -> None:
    """Note what Ray holds for an attempt."""
    (folder / _RESERVED).unlink(missing_ok=True)  # a pipe of its name would block
    (folder / _RESERVED).write_text(json.dumps([job_id, attempt, cpus, gpus]))


def read_reserved(run_dir: Path) -> Reserved:
    """What was noted for all attempts of a node; one cut short by a crash is left out, its idle share is nobody's."""
    found: Reserved = {}
    for path in run_dir.glob(f"*/{_RESERVED}"):
        try:
            job_id, attempt, cpus, gpus = read_json(path, _LIMIT_BYTES)
            held = float(cpus), float(gpus)
            if is_name(job_id) and 0 <= attempt <= _MAX_ATTEMPT and all(0 <= one <= _MAX_HELD for one in held):
                found[(job_id, int(attempt))] = held
        except (OSError, ValueError, TypeError, OverflowError):
            continue
    return found


def read_report(folder: Path) -> dict[str, Any] | None:
    """The last report of an attempt, with its submission and when it was written; None: there is no sound one."""
    try:
        content, changed_ns = read_stamped(folder / _PROGRESS, _LIMIT_BYTES)
    except (OSError, ValueError):
        return None
    if not isinstance(content, Mapping):
        return None
    return {**content, "submission_id": folder.name, "stamp": changed_ns}


def read_reports(run_dir: Path) -> list[dict[str, Any]]:
    """The last reports of all attempts."""
    try:
        folders = list(run_dir.iterdir())
    except OSError:
        return []
    reports = (read_report(folder) for folder in folders)
    return [report for report in reports if report is not None]
