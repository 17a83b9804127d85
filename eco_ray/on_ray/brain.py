"""The one thread that owns a controller's state: it does what it is given, one thing after another, and ticks."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

log = logging.getLogger("eco_ray.controller")

#: pause between two ticks [wall s]
TICK_S = 0.2
#: how long somebody waits for an answer [wall s]
_ANSWER_S = 60.0
T = TypeVar("T")


class Brain:
    """Work waits in a queue, so that whoever brings it shares nothing with the state but the thread."""

    def __init__(self, tick: Callable[[], Any]) -> None:
        """`tick` is done again and again between the work."""
        self._tick = tick
        self._queue: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any] | None]] = queue.SimpleQueue()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin; what was handed in before is done first."""
        threading.Thread(target=self._loop, name="brain", daemon=True).start()

    def stop(self) -> None:
        """End after what is being done now."""
        self._stopped.set()

    def do_soon(self, work: Callable[[], Any]) -> None:
        """Hand work in, without waiting; an error goes to the log."""
        self._queue.put((work, None))

    def ask(self, work: Callable[[], T]) -> T:
        """Hand work in, and wait for what comes of it: its result, or its error. Raises TimeoutError after 60 s."""
        future: Future[T] = Future()
        self._queue.put((work, future))
        return future.result(timeout=_ANSWER_S)

    def _loop(self) -> None:
        due = time.monotonic()
        while not self._stopped.is_set():
            try:
                work, future = self._queue.get(timeout=max(0.0, due - time.monotonic()))
                _do(work, future)
            except queue.Empty:
                pass
            if time.monotonic() >= due:
                began = time.monotonic()
                _do(self._tick, None)
                ended = time.monotonic()
                # a tick that plans much again leaves as long to whoever asks for something
                due = ended + max(TICK_S, ended - began)


def _do(work: Callable[[], Any], future: Future[Any] | None) -> None:
    try:
        result = work()
    except Exception as error:
        if future is not None:
            future.set_exception(error)
        else:
            log.exception("the controller could not do its work; it goes on with the next")
    else:
        if future is not None:
            future.set_result(result)
