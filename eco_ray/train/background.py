"""One piece of work in the background, while the training goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Background:
    """At most one piece of work at a time. What it raises comes back to who asks next, once."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        #: whether there is something to `collect`; read at every step
        self.ended = False
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether it works, or has something to `collect`."""
        return self._thread is not None

    def start(self, work: Callable[[], None]) -> None:
        """Begin; what was there before has been collected."""

        def run() -> None:
            try:
                work()
            except BaseException as error:  # whatever it is, the caller has to know
                self._error = error
            finally:
                self.ended = True

        # not a daemon: a script that ends without closing its session waits for what is being written
        self._thread = threading.Thread(target=run, name="eco-ray-checkpoint")
        self._thread.start()

    def collect(self) -> bool:
        """Wait for the end of what was begun; whether there was something. Raises what that raised."""
        if self._thread is None:
            return False
        self._thread.join()
        self._thread, self.ended = None, False
        error, self._error = self._error, None
        if error is not None:
            raise error
        return True
