"""An HTTP answer, the headers that every answer has, and how it is sent by ASGI."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from eco_ray.core.footprint import Footprint
from eco_ray.service.encoding import MIN_BYTES, compressed, negotiated
from eco_ray.service.problems import Header, Problem, shown

#: by name in lower case
Headers = Mapping[bytes, bytes]
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: header with the length of the JSON before binary tensors [bytes]
HEAD_LENGTH = b"inference-header-content-length"
#: of each answer, and of each request below `serve`: its own, or a new one
REQUEST_ID = b"x-request-id"
#: of a request: `none`, not by a smaller variant; of an answer: which one it is by, `small` or `large`
VARIANT = b"eco-variant"
#: what is not read to its end must not be taken for the next request
CLOSE: Header = (b"connection", b"close")
JSON: Header = (b"content-type", b"application/json")
OCTETS: Header = (b"content-type", b"application/octet-stream")
EVENTS: Header = (b"content-type", b"text/event-stream; charset=utf-8")
VARY: Header = (b"vary", b"accept-encoding")
#: methods of what is read, and of what is computed
GET, POST = b"GET, HEAD, OPTIONS", b"OPTIONS, POST"
_PROBLEM: Header = (b"content-type", b"application/problem+json")
#: two of these could mean one thing here and another thing in a proxy before
_ONCE = frozenset((
    *(b"authorization", b"x-api-key", b"eco-tenant", b"content-encoding", b"content-length", b"content-type"),
    HEAD_LENGTH,
))  # fmt: skip
#: what is echoed: https://www.w3.org/TR/trace-context/, and ids without anything that could end a header
_TRACE = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_ID = re.compile(rb"[A-Za-z0-9._~:/+=-]{1,128}")
_FAILED = Problem(500, "failed", "the service failed; its log says why. Try again later")
_LOG = logging.getLogger(__name__)


class GoneError(Exception):
    """The client has left: nobody waits for an answer."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A body that is sent as it comes."""

    chunks: AsyncIterator[bytes]
    #: the client has all of it, or is gone: called once
    leave: Callable[[], None]
    #: within which the client has to take it [s]; None: without limit
    limit_s: float | None = None


@dataclass(slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: list[Header] = field(default_factory=list)
    body: bytes = b""
    #: what it cost, and has to be settled yet
    footprint: Footprint | None = None
    #: in place of `body`
    stream: Stream | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """What GET answers."""

    make: Callable[[], Answer]
    #: whether the gate is asked
    guarded: bool = False


async def serve(
    scope: Scope,
    receive: Receive,
    send: Send,
    answer: Callable[[Scope, Headers], Awaitable[Answer]],
    refuse: Callable[[Scope, Problem], Answer],
) -> int | None:
    """Answer one request; its status, or None where nobody got one."""
    if scope["type"] != "http":
        await _other(scope["type"], receive, send)
        return None
    pairs: list[Header] = scope["headers"]
    headers = dict(pairs)
    twice = len(headers) != len(pairs)
    headers[REQUEST_ID] = request_id(headers)  # for those who count the request, and for its answer
    try:
        if twice:
            _refuse_twice(pairs)
        found = await answer(scope, headers)
    except Problem as problem:
        found = refuse(scope, problem)
    except GoneError:
        return None
    except Exception:
        _LOG.exception("a request failed")
        found = refuse(scope, _FAILED)
    await send_answer(found, headers, send, scope["method"] == "HEAD")
    return found.status


async def send_answer(answer: Answer, headers: Headers, send: Send, head: bool = False) -> None:
    """Send an answer with what belongs to its request; `headers` with the request's id."""
    answer.headers.append((REQUEST_ID, headers[REQUEST_ID]))
    if (trace := headers.get(b"traceparent")) and _TRACE.fullmatch(trace):
        answer.headers.append((b"traceparent", trace))
    start = {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
    if answer.stream is None:
        if answer.status not in (204, 304):
            answer.headers.append((b"content-length", b"%d" % len(answer.body)))
        await send(start)
        await send({"type": "http.response.body", "body": b"" if head else answer.body})
        return
    stream = answer.stream
    # who does not read is cut off: a server closes the connection of an answer that did not end
    with suppress(TimeoutError, GoneError):
        try:
            async with asyncio.timeout(stream.limit_s):
                await send(start)
                if not head:
                    async for chunk in stream.chunks:
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        finally:
            stream.leave()


async def gone(receive: Receive) -> None:
    """Waits until the client has left; for when the body is read."""
    while (await receive())["type"] != "http.disconnect":
        pass


def request_id(headers: Headers) -> bytes:
    """The id that the request has, if it can be echoed, else a new one."""
    told = headers.get(REQUEST_ID, b"")
    return told if _ID.fullmatch(told) else b"%032x" % random.getrandbits(128)  # no secret


def is_request_id(told: str) -> bool:
    """Whether an answer may have it."""
    return told.isascii() and _ID.fullmatch(told.encode()) is not None


def fixed(content: Mapping[str, Any], *, guarded: bool = False) -> Page:
    """A page that never changes."""
    body = json.dumps(content).encode()
    # weak: it is the same for each content coding
    etag = b'W/"%s"' % hashlib.blake2b(body, digest_size=12).hexdigest().encode()
    return Page(lambda: Answer(200, [JSON, VARY, (b"etag", etag)], body), guarded)


def got(page: Page, headers: Headers) -> Answer:
    """A page for one who asks: not once more what the client has."""
    answer = page.make()
    etag = next((value for name, value in answer.headers if name == b"etag"), None)
    return Answer(304, [VARY, (b"etag", etag)]) if etag and has(headers, etag) else encoded(answer, headers)


def allowed(method: str, methods: bytes) -> bool:
    """Whether a path has the method; False: it asks which ones there are. Raises Problem."""
    if method == "OPTIONS":
        return False
    if method.encode() not in methods.split(b", "):
        detail = f"{shown(method)} is not allowed here; use {methods.decode()}"
        raise Problem(405, "method not allowed", detail, ((b"allow", methods),))
    return True


def has(headers: Headers, etag: bytes) -> bool:
    """Whether the client has what the ETag names."""
    told = headers.get(b"if-none-match")
    return told is not None and etag.removeprefix(b"W/") in {
        one.strip().removeprefix(b"W/") for one in told.split(b",")
    }


def encoded(answer: Answer, headers: Headers) -> Answer:
    """The answer, compressed where that is asked for and worth it."""
    accept = headers.get(b"accept-encoding")
    if accept and len(answer.body) >= MIN_BYTES and (coding := negotiated(accept)):
        answer.body = compressed(coding, answer.body)
        answer.headers.append((b"content-encoding", coding.encode()))
    return answer


def refused(problem: Problem, openai: bool = False) -> Answer:
    """A problem as an answer; `openai`: with the member `error` as its clients read it."""
    return Answer(problem.status, [_PROBLEM, *problem.headers], problem.body(openai))


def told_json(content: Mapping[str, Any]) -> Answer:
    """A small document."""
    return Answer(200, [JSON], json.dumps(content).encode())


def with_footprint(answer: Answer, footprint: Footprint) -> Answer:
    """The answer, with what it cost in its header."""
    answer.footprint = footprint
    answer.headers.append(footprint_header(footprint))
    return answer


def footprint_header(footprint: Footprint) -> Header:
    """What an answer cost."""
    return (b"eco-footprint", _value(footprint.to_header()))


def _value(text: str) -> bytes:
    """A header's value: what could end it, or is no Latin-1, becomes `?`."""
    if not (text.isascii() and text.isprintable()):
        text = "".join(one if " " <= one <= "~" else "?" for one in text)
    return text.encode()


async def _other(kind: str, receive: Receive, send: Send) -> None:
    """The server's start and end, and connections that are no HTTP requests."""
    if kind == "websocket":
        await send({"type": "websocket.close", "code": 1003})
    while kind == "lifespan":
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _refuse_twice(pairs: list[Header]) -> None:
    names = [name for name, _ in pairs]
    for name in _ONCE:
        if names.count(name) > 1:
            detail = f"header {name.decode()} is there {names.count(name)} times; send it once"
            raise Problem(400, "wrong header", detail)
