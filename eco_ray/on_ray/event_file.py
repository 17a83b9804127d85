"""What the orchestrator is told and decides, one a line, so that it can be decided again (`core/event_log.py`).

STATE_DIR/decisions/jobs-TIME.jsonl    one for each life of a controller, the last four of them
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from eco_ray.core.actions import Action
from eco_ray.core.event_log import Beginning, Step, beginning_to_json, decided, step_to_json, without_secrets
from eco_ray.core.events import Event
from eco_ray.core.jobs import Job

log = logging.getLogger("eco_ray.controller")

_PREFIX = "jobs-"
#: files that are kept, with the one that is written
_FILES = 4
#: of a file; what happens then is not in it, as what comes after a gap cannot be replayed [bytes]
_MOST_BYTES = 64 << 20


class EventFile:
    """Of one controller; for one thread. What is decided does not depend on whether it can be written down."""

    def __init__(self, folder: Path | None, most_bytes: int = _MOST_BYTES) -> None:
        """`folder`: None: nothing is written."""
        self._folder, self._left = folder, most_bytes
        self._file: TextIO | None = None

    def begin(self, beginning: Beginning) -> None:
        """Begin a file; all that `note` is told comes after this."""
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for old in sorted(self._folder.glob(f"{_PREFIX}*.jsonl"))[: -_FILES + 1]:
                old.unlink(missing_ok=True)
            self._file = (self._folder / f"{_PREFIX}{time.time_ns() // 1_000_000}.jsonl").open("w", buffering=1)
        except OSError as error:
            log.warning("events are not written down: %s", error)
            return
        self._write(beginning_to_json(beginning))

    def note(
        self,
        event: Event,
        now_s: float,
        actions: Iterable[Action] = (),
        jobs: Iterable[Job] = (),
        needs: Mapping[str, Any] | None = None,
        error: str = "",
    ) -> None:
        """Write down an event, what is to be done, and what has changed; `error`: that it raised."""
        if self._file is not None:
            self._write(step_to_json(Step(now_s, without_secrets(event), decided(actions, jobs, needs, error))))

    def _write(self, told: dict[str, Any]) -> None:
        assert self._file is not None  # noqa: S101
        try:
            line = json.dumps(told, separators=(",", ":"))
            self._left -= len(line) + 1
            if self._left >= 0:
                self._file.write(f"{line}\n")
                return
            log.warning("%s is full: events are not written down any more", self._file.name)
        except (OSError, ValueError, TypeError) as error:  # a gap cannot be replayed
            log.warning("events are not written down any more: %s", error)
        self._file.close()
        self._file = None
