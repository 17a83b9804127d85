"""Watches launched attempts through Ray's job API and tells the brain what became of them."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from eco_ray.core.clock import Clock
from eco_ray.core.cluster import Node
from eco_ray.core.events import AttemptExited, AttemptProgressed, AttemptStarted, Outcome
from eco_ray.core.jobs import Attempt
from eco_ray.on_ray.launcher import Launcher, RayJobStatus

log = logging.getLogger("eco_ray.watcher")

#: how often attempts are looked at while one is young, and otherwise [wall s]
_FAST_S, _SLOW_S = 0.05, 0.3
#: an attempt is young for so long after a change [wall s]
_YOUNG_S = 4.0
#: how often a stop is repeated until it has worked [wall s]
_STOP_AGAIN_S = 2.0
#: answers of "no such job" before an attempt that had been there counts as lost
_UNKNOWN_LIMIT = 5
#: how long a launch may be unknown to Ray before it counts as lost [wall s]
_LAUNCH_LIMIT_S = 60.0
_BYTES_PER_GB = 1e9
_MAX_INT = 2**63 - 1


@dataclass
class _Watched:
    job_id: str
    attempt: Attempt
    running: bool
    changed_mono_s: float
    stop_mono_s: float | None = None
    unknown: int = 0


class Watcher:
    """Polls Ray's job API for the attempts that were given to it. `post` hands events to the brain."""

    def __init__(
        self, launcher: Launcher, fleet: Any, nodes: Mapping[str, Node], clock: Clock, post: Callable[..., None]
    ) -> None:
        self._launcher = launcher
        self._clock = clock
        self._fleet = fleet
        self._nodes = nodes
        self._post = post
        self._watched: dict[str, _Watched] = {}
        self._wake = threading.Event()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to watch in the background."""
        threading.Thread(target=self._loop, name="watch", daemon=True).start()

    def stop(self) -> None:
        """End the watch."""
        self._stopped.set()
        self._wake.set()

    def watch(self, job_id: str, attempt: Attempt) -> None:
        """Follow an attempt to its end."""
        running = attempt.started_s is not None
        self._watched.setdefault(attempt.submission_id, _Watched(job_id, attempt, running, time.monotonic()))
        self._wake.set()

    def forget(self, submission_id: str) -> None:
        """Stop following an attempt that was never launched."""
        self._watched.pop(submission_id, None)

    def stop_attempt(self, submission_id: str) -> None:
        """Stop an attempt by force, again and again until it has ended; one that has not begun is taken back."""
        watched = self._watched.get(submission_id)
        if watched is not None:
            watched.stop_mono_s = 0.0
            watched.changed_mono_s = time.monotonic()
            self._wake.set()

    def _loop(self) -> None:
        while not self._stopped.is_set():
            now = time.monotonic()
            young = any(now - w.changed_mono_s < _YOUNG_S or not w.running for w in list(self._watched.values()))
            self._wake.wait(_FAST_S if young else _SLOW_S)
            self._wake.clear()
            for submission_id, watched in list(self._watched.items()):
                try:
                    self._look(submission_id, watched)
                except Exception:
                    log.exception("could not ask Ray about %s; will ask again", submission_id)
                    self._stopped.wait(0.5)

    def _look(self, submission_id: str, watched: _Watched) -> None:
        status = self._launcher.status(submission_id)
        now = time.monotonic()
        if status is None:
            # not there yet, or Ray's memory of it is gone; a launch that failed is reported by the launch itself
            watched.unknown += 1
            unknown_s = now - watched.changed_mono_s
            overdue = watched.running or unknown_s > _LAUNCH_LIMIT_S
            if overdue and watched.unknown >= _UNKNOWN_LIMIT:
                self._end(submission_id, watched, "lost", None)
            return
        watched.unknown = 0
        if not watched.running and status.status != "PENDING":
            watched.running, watched.changed_mono_s = True, now
            self._post(AttemptStarted(watched.job_id, watched.attempt.number))
        if status.is_final:
            self._end(submission_id, watched, _outcome(status), status)
        elif watched.stop_mono_s is not None and now - watched.stop_mono_s > _STOP_AGAIN_S:
            watched.stop_mono_s = now
            end = self._launcher.stop if watched.running else self._launcher.take_back
            end(submission_id)

    def _end(self, submission_id: str, watched: _Watched, outcome: Outcome, status: RayJobStatus | None) -> None:
        number = watched.attempt.number
        events: list[AttemptProgressed | AttemptExited] = []
        node = self._nodes.get(watched.attempt.node)
        if node is not None and outcome != "lost":
            with contextlib.suppress(Exception):  # the agent's own message brings the last report, or nobody can
                report = self._fleet.call(node, lambda agent: agent.collect.remote(submission_id), 3.0)
                event = report_event(report or {}, self._clock)
                events += [event] if event else []
        ended_s = self._clock.grid_s(status.ended_wall_s) if status and status.ended_wall_s else None
        code = status.exit_code if status else None
        message = status.message if status else "Ray does not know this attempt any more"
        events.append(AttemptExited(watched.job_id, number, outcome, code, message, ended_s))
        self._watched.pop(submission_id, None)
        self._post(*events)


def _outcome(status: RayJobStatus) -> Outcome:
    """What Ray's final status means for the attempt."""
    if status.status == "STOPPED":
        return "stopped"
    if status.exit_code is not None or status.status == "SUCCEEDED":
        return "exited"
    if "runtime_env" in status.message or "working_dir" in status.message:
        return "exited"  # the job's own environment cannot be built: repeating it would not help
    if "start" in status.message and "timed out" in status.message.lower():
        return "refused"
    return "lost"


def report_event(report: Mapping[str, Any], clock: Clock) -> AttemptProgressed | None:
    """The event that an attempt's progress file stands for; None when it is not a sound one."""
    job_id, _, number = str(report.get("submission_id", "")).rpartition("-a")
    if not job_id or not number.isdecimal():
        return None
    done = report.get("done")
    metrics = report.get("metrics")
    size: Any = report.get("checkpoint_bytes")
    return AttemptProgressed(
        job_id,
        int(number),
        done=None if done is None or not _is_number(done) else min(1.0, max(0.0, float(done))),
        metrics={str(k): v for k, v in metrics.items()} if isinstance(metrics, Mapping) else {},
        productive_s=_grid_s(report.get("resumed_s"), clock),
        checkpoint_s=_grid_s(report.get("checkpoint_s"), clock),
        checkpoint_gb=size / _BYTES_PER_GB if _is_number(size) and size >= 0 else None,
        at_s=_grid_s(report.get("time_s"), clock),
    )


def _grid_s(wall_s: Any, clock: Clock) -> float | None:
    return clock.grid_s(float(wall_s)) if _is_number(wall_s) else None


def _is_number(value: Any) -> bool:
    # JSON knows integers that are no float
    fits = isinstance(value, float) or (isinstance(value, int) and abs(value) <= _MAX_INT)
    return fits and not isinstance(value, bool) and math.isfinite(value)
