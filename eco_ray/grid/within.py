"""An answer in time or none, whatever a server, a resolver or a network does meanwhile."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


def within(seconds: float, work: Callable[[], T], give_up: Callable[[], None]) -> T:
    """What `work` returns or raises. It runs in a thread of its own, so that nothing in it can keep the caller waiting.

    Raises TimeoutError after `seconds`; `give_up` then makes the work end soon.
    """
    done: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            done.put((work(), None))
        except BaseException as error:  # the caller gets it, whatever it is
            done.put((None, error))

    threading.Thread(target=run, name="eco-ray-grid", daemon=True).start()
    try:
        result, error = done.get(timeout=max(seconds, 0.0))
    except Empty:
        give_up()
        raise TimeoutError from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # T itself may be optional


class Connection:
    """The socket of one httpx request, so that another thread can cut it. Used as the request's `trace` extension."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._cut = False
        self._lock = threading.Lock()

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Called by httpcore at each step; keeps the newest socket (TCP, then TLS over it)."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            with self._lock:
                self._socket = info["return_value"].get_extra_info("socket")
            if self._cut:
                self.cut()

    def cut(self) -> None:
        """End all reading and writing, now and later."""
        with self._lock:
            self._cut = True
            if self._socket is not None:
                with suppress(OSError):  # it is closed already
                    self._socket.shutdown(socket.SHUT_RDWR)
