"""Decisions on nodes, traffic and variants, with all that they were made from (`core/decision_log.py`).

STATE_DIR/decisions/KIND.jsonl    one a line: each change, and one every 30 s; the older ones are in KIND.1.jsonl
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from eco_ray.core.decision_log import Record, kind_of, record_to_json

log = logging.getLogger("eco_ray.serving")

#: a decision that changes nothing is written down so often [s]
_EVERY_S = 30.0
#: of a file, until it becomes the older one [bytes]
_MOST_BYTES = 8 << 20


class DecisionFile:
    """Of one cluster. Threads may share it. What is decided does not depend on whether it can be written down."""

    def __init__(
        self, folder: Path | None, most_bytes: int = _MOST_BYTES, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        """`folder`: None: nothing is written."""
        self._folder, self._most_bytes, self._now_s = folder, most_bytes, now_s
        self._lock = threading.Lock()
        #: by kind and what they are about: the last decision, in short, and when it was written [s]
        self._last: dict[tuple[str, str], tuple[object, float]] = {}

    def note(self, record: Record, decided: object) -> None:
        """Write a decision down where it, in short `decided`, is another one than the last, or that is long ago."""
        if self._folder is None:
            return
        kind, now_s = kind_of(record), self._now_s()
        with self._lock:
            before = self._last.get((kind, record.about))
            if before is not None and before[0] == decided and now_s < before[1] + _EVERY_S:
                return
            try:
                self._append(self._folder, kind, json.dumps(record_to_json(record), separators=(",", ":")))
            except OSError as error:  # a full disk, say
                log.warning("decisions are not written down: %s", error)
            self._last[kind, record.about] = decided, now_s

    def _append(self, folder: Path, kind: str, line: str) -> None:
        path = folder / f"{kind}.jsonl"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.exists() and path.stat().st_size + len(line) > self._most_bytes:
            path.replace(folder / f"{kind}.1.jsonl")
        with path.open("a") as file:
            file.write(f"{line}\n")


#: for whoever keeps none
NOT_KEPT = DecisionFile(None)
