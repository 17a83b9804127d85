"""Answers that no model gave cost something, too: what they took of their thread is told by their header."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from eco_ray.core.footprint import Footprint
from eco_ray.service import http
from eco_ray.service.http import Message, Receive, Scope, Send

_NAME = b"eco-footprint"
#: an ASGI application
App = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]


class OwnCostApp:
    """An application whose answers tell what they cost: those that a model gave, and say so, that of the model."""

    def __init__(self, app: App, footprint: Callable[[float, float, float], Footprint]) -> None:
        """`footprint`: of (CPU time [s], wall time [s], share of them)."""
        self._app, self._footprint = app, footprint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        began_s = time.perf_counter()

        async def send_told(message: Message) -> None:
            if message["type"] == "http.response.start" and _NAME not in dict(message["headers"]):
                spent = self._footprint(work.spent_s(), time.perf_counter() - began_s, 1.0)
                message = {**message, "headers": [*message["headers"], http.footprint_header(spent)]}
            await send(message)

        work = _Work(self._app(scope, receive, send_told))
        await work


class _Work:
    """Awaits something, and adds up what it takes of its thread: not what others do while it waits."""

    def __init__(self, work: Coroutine[Any, Any, None]) -> None:
        self._work = work
        self._before_s = 0.0
        #: CPU time of the thread when it went on; None: it waits
        self._since_s: float | None = None

    def spent_s(self) -> float:
        """CPU time so far [s]."""
        return self._before_s + (0.0 if self._since_s is None else time.thread_time() - self._since_s)

    def __await__(self) -> Generator[Any, Any, None]:
        step: Callable[[Any], Any] = self._work.send
        given: Any = None
        while True:  # what `yield from` does, with a clock around each step
            self._since_s = time.thread_time()
            try:
                waits_for = step(given)
            except StopIteration:
                return
            finally:
                self._before_s, self._since_s = self.spent_s(), None
            try:
                step, given = self._work.send, (yield waits_for)
            except BaseException as error:  # a cancellation as a rule
                step, given = self._work.throw, error
