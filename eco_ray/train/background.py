"""One piece of work in the background, while the training goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """At most one piece of work at a time. What it raises comes back to who asks next, once.

    By one thread that stays: to start a thread is to wait until it runs, which on a busy machine takes as long as steps
    do. A script that ends without closing its session waits for what is being written, as executors do.
    """

    def __init__(self, name: str) -> None:
        """`name`: of its thread."""
        self._thread = ThreadPoolExecutor(1, name)
        self._work: Future[None] | None = None
        #: whether there is something to `collect`; read at every step
        self.ended = False

    @property
    def busy(self) -> bool:
        """Whether it works, or has something to `collect`."""
        return self._work is not None

    def start(self, work: Callable[[], None]) -> None:
        """Begin; what was there before has been collected."""

        def run() -> None:
            try:
                work()
            finally:
                self.ended = True

        self._work = self._thread.submit(run)

    def collect(self) -> bool:
        """Wait for the end of what was begun; whether there was something. Raises what that raised."""
        if self._work is None:
            return False
        work, self._work = self._work, None
        try:
            work.result()
        finally:
            self.ended = False
        return True
