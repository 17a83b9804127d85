"""JSON files that others write: jobs, replicas, a process that was killed. Whatever they are, their reader goes on."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

#: lists and objects within each other
MAX_DEPTH = 32


def read_json(path: Path | str, limit_bytes: int) -> Any:
    """The content of a file. Raises OSError where it cannot be read, ValueError where it is not sound."""
    return read_stamped(path, limit_bytes)[0]


def read_stamped(path: Path | str, limit_bytes: int) -> tuple[Any, int]:
    """The content of a file and when it was changed [ns since epoch].

    Raises OSError where it cannot be read now, and ValueError where it is no regular file (nor a link to one), larger
    than the limit, no JSON, or nested deeper than 32.
    """
    raw, changed_ns = _read(path, limit_bytes)
    try:
        content = json.loads(raw)
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deep to be read, limit {MAX_DEPTH}") from error
    # each level takes a bracket
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _is_deep(content):
        raise ValueError(f"{path} is nested deeper than {MAX_DEPTH}")
    return content, changed_ns


def _read(path: Path | str, limit_bytes: int) -> tuple[bytes, int]:
    # looked at before it is opened, as a device may act on that; and after, as it may have been replaced meanwhile
    _check(os.lstat(path), path, limit_bytes)
    # without waiting for the other end of a pipe
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        status = os.fstat(file)
        _check(status, path, limit_bytes)
        raw = os.read(file, limit_bytes + 1)
    finally:
        os.close(file)
    if len(raw) > limit_bytes:
        raise ValueError(f"{path} grew above {limit_bytes} bytes while it was read")
    return raw, status.st_mtime_ns


def _check(status: os.stat_result, path: Path | str, limit_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is no regular file")
    if status.st_size > limit_bytes:
        raise ValueError(f"{path} has {status.st_size} bytes, limit {limit_bytes}")


def _is_deep(content: Any) -> bool:
    level = [content]
    for _ in range(MAX_DEPTH):
        inner = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        if not level:
            return False
    return True
