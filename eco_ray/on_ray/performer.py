"""Performs the orchestrator's actions on Ray, in the background, and posts what comes of them as events."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from eco_ray.core.actions import Action, AskToCheckpoint, CleanUp, StartAttempt, StopAttempt
from eco_ray.core.cluster import Node
from eco_ray.core.events import AttemptExited
from eco_ray.errors import EcoRayError
from eco_ray.on_ray.launcher import LOG_KEPT_BYTES, Launcher
from eco_ray.on_ray.watcher import Watcher

log = logging.getLogger("eco_ray.performer")

#: how long a launch is repeated while Ray's job API does not answer [wall s]
_LAUNCH_PATIENCE_S = 300.0


class Performer:
    """Every action can be performed twice without harm, as a restarted controller does."""

    def __init__(
        self,
        launcher: Launcher,
        fleet: Any,
        watcher: Watcher,
        known: Mapping[str, Node],
        present: Mapping[str, Node],
        post: Callable[..., None],
    ) -> None:
        """`known`: nodes ever seen; `present`: nodes that are there now; `post` hands events to the brain."""
        self._launcher = launcher
        self._fleet = fleet
        self._watcher = watcher
        self._known = known
        self._present = present
        self._post = post
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="act")
        #: node -> when one of our attempts there came or went last [monotonic s]
        self.changed_on: dict[str, float] = {}

    def in_background(self, call: Callable[..., None], *args: Any) -> None:
        """Do something slow that nobody waits for."""
        self._pool.submit(call, *args)

    def perform(self, actions: Iterable[Action]) -> None:
        """Begin to perform actions; what comes of them is posted as events."""
        for action in actions:
            self.changed_on[action.attempt.node] = time.monotonic()
            if isinstance(action, StartAttempt):
                self._watcher.watch(action.job.id, action.attempt)
            self._pool.submit(self._perform, action)

    def _perform(self, action: Action) -> None:
        try:
            if isinstance(action, StartAttempt):
                self._launch(action)
            elif isinstance(action, AskToCheckpoint):
                node = self._known[action.attempt.node]
                self._fleet.call(node, lambda a: a.ask_to_pause.remote(action.attempt.submission_id))
            elif isinstance(action, StopAttempt):
                self._watcher.stop_attempt(action.attempt.submission_id)
            else:
                self._clean_up(action)
        except Exception:
            # a pause that was not passed on times out, a stop is repeated, a launch is refused: none is final
            log.exception("could not perform %s for %s", type(action).__name__, action.attempt.submission_id)

    def _launch(self, action: StartAttempt) -> None:
        """Launch under the attempt's own id, and again until Ray has said whether it took it: never under another."""
        job, attempt = action.job, action.attempt
        give_up = time.monotonic() + _LAUNCH_PATIENCE_S
        while True:
            try:
                node = self._known.get(attempt.node)
                if node is None or node.ray_node_id is None or attempt.node not in self._present:
                    raise EcoRayError(f"node {attempt.node} is gone")
                held = job.spec.demand * attempt.workers
                self._fleet.agent(node).expect.remote(
                    job.id, attempt.number, attempt.submission_id, held.cpus, held.gpus
                )
                self._launcher.start(job, attempt, node.ray_node_id)
            except Exception as error:
                try:
                    taken = self._launcher.status(attempt.submission_id) is not None
                except Exception:
                    log.exception("Ray does not say whether it took %s; asking again", attempt.submission_id)
                    if time.monotonic() < give_up:
                        time.sleep(1.0)
                        continue
                    return  # the watcher goes on asking, and ends it as lost when Ray does not know it
                if not taken:
                    self._watcher.forget(attempt.submission_id)
                    message = f"could not be launched: {error}"
                    self._post(AttemptExited(job.id, attempt.number, "refused", None, message[:500]))
            return

    def _clean_up(self, action: CleanUp) -> None:
        attempt = action.attempt
        node = self._known.get(attempt.node)
        if node is not None and attempt.node in self._present:
            offset, content = self._fleet.call(
                node, lambda a: a.read_log.remote(attempt.submission_id, -LOG_KEPT_BYTES, LOG_KEPT_BYTES)
            )
            self._launcher.keep_log(action.job_id, attempt.submission_id, offset, content)
            self._fleet.call(node, lambda a: a.clean_up.remote(action.job_id, attempt.number, attempt.submission_id))
        removed = self._launcher.remove_leftovers(attempt.submission_id)
        if removed:
            log.warning("removed %d actors or placement groups that %s left", removed, attempt.submission_id)
