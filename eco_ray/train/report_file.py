"""RUN_DIR/progress.json, replaced at once or, from the steps of a training, soon: no step waits for a busy disk."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eco_ray.train.background import Background
from eco_ray.train.storage import write_atomically


class ReportFile:
    """Holds the last report; that it cannot be written is told once, and is no reason to end a training run."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self._path, self._warn = path, warn
        self._background = Background("eco-ray-report")
        #: the newest report that waits
        self._next: deque[Mapping[str, Any]] = deque(maxlen=1)
        self._fails = False

    def write(self, report: Mapping[str, Any]) -> None:
        """It is there when this returns, and no older one comes after it."""
        self._background.collect()
        self._next.clear()
        self._replace(report)

    def write_soon(self, report: Mapping[str, Any]) -> None:
        """In the background; of several that wait for a slow disk the newest."""
        self._next.append(report)
        if self._background.ended or not self._background.busy:
            self._background.collect()
            self._background.start(self._write_next)

    def _write_next(self) -> None:
        while self._next:
            self._replace(self._next.popleft())

    def _replace(self, report: Mapping[str, Any]) -> None:
        try:
            write_atomically(self._path, json.dumps(report))
            self._fails = False
        except OSError as error:
            if not self._fails:
                self._warn(f"progress cannot be reported in {self._path.parent} ({error}); the work goes on")
            self._fails = True
