"""Streams of server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html

A stream asks for what comes next only when its client has taken what came before, so it holds one piece for it and no
queue, however slow it is. Each event has an id by which a client that lost the stream goes on (Last-Event-ID).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from eco_ray.api_model import END
from eco_ray.service import http
from eco_ray.service.control.limits import Limits
from eco_ray.service.control.work import LATER
from eco_ray.service.http import EVENTS, Answer, Receive, Stream
from eco_ray.service.problems import Header, Problem

#: proxies must neither keep nor collect it (X-Accel-Buffering: nginx)
_HEADERS: tuple[Header, ...] = (EVENTS, (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))
#: after which time a client comes again [ms], and after a problem
_RETRY_MS, _PROBLEM_RETRY_MS = 1000, 5000
#: a client that does not take what is sent is cut off so much after its stream should have ended [s]
_GRACE_S = 10.0


@dataclass(frozen=True, slots=True)
class Event:
    """One event."""

    #: by which the stream goes on after it
    id: str
    kind: str
    data: Any

    def encoded(self) -> bytes:
        """As it is sent; JSON has no line ends."""
        return f"id: {self.id}\nevent: {self.kind}\ndata: {json.dumps(self.data)}\n\n".encode()


#: what has come since the last look. One whose kind is END is the last one
Look = Callable[[], Awaitable[Sequence[Event]]]


class Streams:
    """Those that are open, by tenant."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: Counter[str] = Counter()

    @property
    def open(self) -> int:
        """How many are open."""
        return self._open.total()

    def answer(self, tenant: str, receive: Receive, look: Look, begins: str) -> Answer:
        """A stream of what `look` finds; `begins`: the id of what came before it. Raises Problem where it is one too
        many.
        """
        limits = self._limits
        if self._open.total() >= limits.streams or self._open[tenant] >= limits.streams_of_one:
            detail = (
                f"{limits.streams} streams are open, or {limits.streams_of_one} of this tenant, the most at once; "
                "close one, or ask again"
            )
            raise Problem(503, "busy", detail, LATER)
        self._open[tenant] += 1

        def leave() -> None:
            self._open[tenant] -= 1
            if not self._open[tenant]:
                del self._open[tenant]

        stream = Stream(_chunks(look, receive, limits, begins), leave, limits.stream_s + _GRACE_S)
        return Answer(200, list(_HEADERS), stream=stream)


async def _chunks(look: Look, receive: Receive, limits: Limits, begins: str) -> AsyncIterator[bytes]:
    """Events as they come, comments while none does; ends with the client, with the last event, or with the time."""
    left = asyncio.ensure_future(http.gone(receive))
    ends_s = time.monotonic() + limits.stream_s
    sent_s = time.monotonic()
    try:
        # the id without data is no event, and yet what a client comes again with: it misses nothing of a quiet stream
        yield b"retry: %d\nid: %s\n\n" % (_RETRY_MS, begins.encode())
        while not left.done() and time.monotonic() < ends_s:
            try:
                found = await look()
            except Problem as problem:  # it is told: a stream that is silent looks like one without news
                yield b"retry: %d\nevent: problem\ndata: %s\n\n" % (_PROBLEM_RETRY_MS, problem.body())
                return
            for event in found:
                yield event.encoded()
                sent_s = time.monotonic()
                if event.kind == END:
                    return
            if found:
                continue  # there may be more at once
            if time.monotonic() - sent_s >= limits.heartbeat_s:
                yield b":\n\n"
                sent_s = time.monotonic()
            await asyncio.wait([left], timeout=min(limits.poll_s, limits.heartbeat_s))
    finally:
        left.cancel()
        with suppress(asyncio.CancelledError):
            await left
