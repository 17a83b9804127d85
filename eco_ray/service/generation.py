"""Text on its way from the worker thread, which makes it, to the client, who may leave or take too long."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass

from eco_ray.core.footprint import Footprint
from eco_ray.core.ports import TextRuntime
from eco_ray.core.requests import ServiceUse
from eco_ray.core.text import Piece
from eco_ray.errors import DeviceFullError, UsageError
from eco_ray.service import chat, http
from eco_ray.service.chat import Asked, Writer
from eco_ray.service.encoding import decompressed
from eco_ray.service.gate import Admission
from eco_ray.service.http import EVENTS, JSON, Answer, GoneError, Headers, Receive, Stream
from eco_ray.service.inference import Books
from eco_ray.service.limits import Limits
from eco_ray.service.problems import Problem
from eco_ray.service.turn import Job, Turns

#: for the last chunks of a stream that has had its time to reach the client [s]
_GRACE_S = 5.0
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Ended:
    """The worker is done."""

    usage: dict[str, int]
    footprint: Footprint
    #: why there is no more
    problem: Problem | None = None


class Generations:
    """The answers of one language model."""

    def __init__(self, runtime: TextRuntime, books: Books, turns: Turns, limits: Limits) -> None:
        self._runtime, self._books, self._turns, self._limits = runtime, books, turns, limits

    async def answer(
        self, chats: bool, headers: Headers, admission: Admission, body: bytes, receive: Receive
    ) -> Answer:
        """The answer to a request. Raises TimeoutError, and GoneError when the client leaves."""
        work = _Work(self._runtime, self._books, self._limits, admission, headers, body, chats)
        turn = asyncio.ensure_future(self._turns.do(Job(self._limits.stream_s, work=work.run)))
        watch = asyncio.ensure_future(http.gone(receive))
        watch.add_done_callback(lambda _: work.leave())

        def leave() -> None:
            work.leave()
            turn.cancel()  # where it is not its turn yet
            watch.cancel()

        writer = Writer(self._runtime, chats, os.urandom(12).hex())
        streams = False
        try:
            async with asyncio.timeout(self._limits.answer_s):
                asked = event = await work.event()
                if isinstance(asked, Asked) and asked.stream:
                    event = await work.event()  # what is wrong with the prompt may show only now
                    streams = not isinstance(event, _Ended) or event.problem is None
                if not streams:
                    return await work.whole(writer, event)
        finally:
            if not streams:
                leave()
        chunks = work.stream(writer, event, usage=isinstance(asked, Asked) and asked.usage)
        stream = Stream(chunks, leave, self._limits.stream_s + _GRACE_S)
        return Answer(200, [EVENTS, (b"cache-control", b"no-store")], stream=stream)


class _Work:
    """One answer. `run` is called in the worker thread, all else in the event loop."""

    def __init__(
        self,
        runtime: TextRuntime,
        books: Books,
        limits: Limits,
        admission: Admission,
        headers: Headers,
        body: bytes,
        chats: bool,
    ) -> None:
        self._runtime, self._books, self._limits, self._admission = runtime, books, limits, admission
        self._headers, self._body, self._chats = headers, body, chats
        self._loop = asyncio.get_running_loop()
        self._came_s = time.perf_counter()
        self._events: asyncio.Queue[Asked | Piece | _Ended | None] = asyncio.Queue()
        self._left = False

    def leave(self) -> None:
        """Nobody waits any more: the worker ends with its next token."""
        self._left = True
        self._events.put_nowait(None)

    async def event(self) -> Asked | Piece | _Ended:
        """What the worker tells next. Raises GoneError."""
        event = await self._events.get()
        if event is None:
            raise GoneError
        return event

    async def whole(self, writer: Writer, event: Asked | Piece | _Ended) -> Answer:
        """All of it in one document."""
        text: list[str] = []
        finish = None
        while not isinstance(event, _Ended):
            if isinstance(event, Piece):
                text.append(event.text)
                finish = event.finish
            event = await self.event()
        if event.problem is not None:
            answer = http.refused(event.problem, openai=True)
        else:
            body = writer.whole("".join(text), finish, event.usage, event.footprint)
            answer = http.encoded(Answer(200, [JSON, http.VARY], body), self._headers)
        answer.headers.append(http.footprint_header(event.footprint))  # the worker has it settled
        return answer

    async def stream(self, writer: Writer, event: Asked | Piece | _Ended, *, usage: bool) -> AsyncIterator[bytes]:
        """Chunk by chunk."""
        if first := writer.first():
            yield first
        while not isinstance(event, _Ended):
            if isinstance(event, Piece) and (chunk := writer.piece(event.text, event.finish)):
                yield chunk
            event = await self.event()
        if event.problem is not None:
            yield chat.failed(event.problem)
        elif usage:
            yield writer.usage(event.usage)
        yield chat.ended(event.usage, event.footprint)

    def run(self) -> None:
        """Make it."""
        wall_s, cpu_s = time.perf_counter(), time.thread_time()
        prompt = tokens = 0
        problem: Problem | None = None
        try:
            body = decompressed(self._headers.get(b"content-encoding", b""), self._body, self._limits.body_bytes)
            self._body = b""
            asked = chat.parse(body, self._runtime, self._limits, self._chats)
            self._tell(asked)
            prompt = len(asked.prompt)
            limit_s = self._limits.stream_s if asked.stream else self._limits.answer_s
            pieces = self._runtime.generate(asked.prompt, asked.sampling)
            try:
                for piece in pieces:
                    tokens += piece.tokens
                    self._tell(piece)
                    if self._left or piece.finish is not None:
                        break
                    if time.perf_counter() - self._came_s > limit_s:
                        detail = f"the answer did not end within {limit_s:g} s; ask for fewer tokens"
                        raise Problem(503, "too slow", detail)
            finally:
                if (close := getattr(pieces, "close", None)) is not None:
                    close()
        except Problem as error:
            problem = error
        except UsageError as error:
            problem = Problem(400, "wrong data", str(error))
        except DeviceFullError as error:
            problem = Problem(503, "device full", str(error))
        except Exception:  # the model's code is not ours
            _LOG.exception("model %s failed", self._runtime.name)
            problem = Problem(500, "model failed", "the model failed on this prompt; the log of the service says why")
        spent_s = time.thread_time() - cpu_s
        footprint = self._books.footprint(spent_s, time.perf_counter() - wall_s, 1.0)
        if prompt:
            request_id = self._headers[http.REQUEST_ID].decode()
            use = ServiceUse(request_id, self._admission.tenant, spent_s, estimate=footprint)
            self._books.count(use, tokens)
            self._books.metrics.inferred(footprint)
        usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
        self._tell(_Ended(usage, footprint, problem))
        self._call(lambda: self._admission.settle(footprint))

    def _tell(self, event: Asked | Piece | _Ended) -> None:
        self._call(lambda: self._events.put_nowait(event))

    def _call(self, what: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(what)
