"""Whether a training run is asked to pause: by the agent's file, or by SIGTERM."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

#: how often the pause file is looked for [s]
PAUSE_CHECK_S = 0.2


class PauseQuestion:
    """`if asked()` and `if asked` are the same: a method whose parentheses are forgotten would always be true.

    Costs less than a microsecond: the file is looked for now and then only. Once asked, it stays asked.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        #: the answer so far, without a look
        self.asked = False
        self._next_s = 0.0
        self._old_handler: Any = None
        self._pid = os.getpid()

    def __call__(self) -> bool:
        if self._file is not None and not self.asked:
            now_s = time.monotonic()
            if now_s >= self._next_s:
                self._next_s = now_s + PAUSE_CHECK_S
                self.asked = self._file.exists()
        return self.asked

    __bool__ = __call__

    def listen(self) -> None:
        """From now on SIGTERM asks for a pause."""
        if threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(signal.SIGTERM, self._on_sigterm)

    def leave(self) -> None:
        """SIGTERM means what it meant before."""
        if self._old_handler is not None:
            signal.signal(signal.SIGTERM, self._old_handler)
            self._old_handler = None

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self._pid:
            self.asked = True
        else:  # a forked child (a data loader, a pool) inherits this handler, and its parent wants it gone
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
