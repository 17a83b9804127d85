"""The ASGI application of one model: routes, who may ask, limits, footprints, the cache of answers.

    /v2  /v2/health/live|ready  /v2/models/NAME[/versions/V][/ready]  .../infer      V2 inference protocol
    /models/NAME/v1/models[/NAME]                                                    OpenAI's list of models
    /livez  /readyz  /metrics  /openapi.json

A body is read in the event loop, and all that takes time with its size is done in one worker thread: decompressing,
parsing, the model, writing. So the loop answers health checks in time, and the thread's CPU time is the request's. A
model that has answered small requests within milliseconds does so in the loop: handing them over costs about as much.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from eco_ray.core.footprint import Footprint
from eco_ray.core.ports import Runtime
from eco_ray.core.requests import ServiceUse
from eco_ray.errors import UsageError
from eco_ray.service import describe
from eco_ray.service.body import GoneError, Held, Receive, read_body
from eco_ray.service.cache import AnswerCache, key_of
from eco_ray.service.encoding import MIN_BYTES, compressed, decompressed, negotiated
from eco_ray.service.gate import Admission, Gate, named_tenant
from eco_ray.service.limits import Limits
from eco_ray.service.metrics import CONTENT_TYPE, Metrics
from eco_ray.service.problems import Header, Problem, shown
from eco_ray.service.v2 import HEAD_LENGTH, Request, parse_request, write_answer

Headers = Mapping[bytes, bytes]
Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
#: (CPU time [s], wall time [s]) -> what they cost
Footprints = Callable[[float, float], Footprint]

#: small requests [bytes] are answered in the event loop once so many in a row took no longer than so [s]
_SMALL_BYTES, _QUICK_S, _QUICK_TIMES = 64 << 10, 0.02, 10
_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
#: what is echoed: https://www.w3.org/TR/trace-context/, and ids without anything that could end a header
_TRACE = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~:/+=-]{1,128}")
#: two of these could mean one thing here and another thing in a proxy before
_ONCE = frozenset(
    (b"authorization", b"eco-tenant", b"content-encoding", b"content-length", b"content-type", HEAD_LENGTH)
)
_JSON: Header = (b"content-type", b"application/json")
_TEXT: Header = (b"content-type", CONTENT_TYPE.encode())
_OCTETS: Header = (b"content-type", b"application/octet-stream")
_PROBLEM: Header = (b"content-type", b"application/problem+json")
_VARY: Header = (b"vary", b"accept-encoding")
_HIT: Header = (b"eco-cache", b"hit")
_MISS: Header = (b"eco-cache", b"miss")


@dataclass(slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: list[Header] = field(default_factory=list)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class _Page:
    """What GET answers."""

    make: Callable[[], Answer]
    #: whether the gate is asked
    guarded: bool


class ModelApp:
    """One model behind HTTP."""

    def __init__(
        self,
        runtime: Runtime,
        footprint: Footprints,
        *,
        gate: Gate = named_tenant,
        count: Callable[[ServiceUse, int], None] = lambda use, rows: None,
        avoided: Callable[[str, float], None] = lambda tenant, joules: None,
        limits: Limits = Limits(),  # noqa: B008  # frozen
    ) -> None:
        """`count(use, rows)` is told of each inference, `avoided(tenant, joules)` of each hit of the cache.

        Both are called in the worker thread.
        """
        if not _NAME.fullmatch(runtime.name):
            raise UsageError(f"a model named {runtime.name!r:.120} has no URL; use letters, digits, '.', '_' and '-'")
        self._runtime, self._footprint, self._gate = runtime, footprint, gate
        self._count, self._avoided, self._limits = count, avoided, limits
        caches = runtime.deterministic and limits.cache_bytes > 0
        self._cache = AnswerCache(limits.cache_bytes, limits.cache_entries) if caches else None
        self._metrics = Metrics(runtime.name, runtime.version)
        self._worker = ThreadPoolExecutor(1, "inference")
        self._held = Held()
        #: requests that the worker has or that wait for it; those of them that are not small; set when there are none
        self._handed = self._large = 0
        self._idle = asyncio.Event()
        #: small requests in a row that were quick
        self._quick = 0
        #: when the worker began what it does now; None: it does nothing
        self._began_s: float | None = None
        base = f"/v2/models/{runtime.name}"
        bases = base, f"{base}/versions/{runtime.version}"
        self._infer_paths = frozenset(f"{base}/infer" for base in bases)
        self._pages = self._make_pages(bases)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await _other(scope["type"], receive, send)
            return
        pairs: list[Header] = scope["headers"]
        headers = dict(pairs)
        try:
            answer = await self._answer(scope["method"], scope["path"], pairs, headers, receive)
        except Problem as problem:
            answer = self._refused(problem)
        except GoneError:
            return
        except Exception:
            _LOG.exception("a request failed")
            answer = self._refused(Problem(500, "failed", "the service failed; its log says why. Try again later"))
        self._metrics.answered(answer.status)
        request_id = headers.get(b"x-request-id", b"")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = os.urandom(16).hex().encode()
        answer.headers.append((b"x-request-id", request_id))
        if (trace := headers.get(b"traceparent")) and _TRACE.fullmatch(trace):
            answer.headers.append((b"traceparent", trace))
        if answer.status not in (204, 304):
            answer.headers.append((b"content-length", b"%d" % len(answer.body)))
        body = b"" if scope["method"] == "HEAD" else answer.body
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, method: str, path: str, pairs: list[Header], headers: Headers, receive: Receive) -> Answer:
        if len(headers) != len(pairs):
            _refuse_twice(pairs)
        infers = path in self._infer_paths
        page = self._pages.get(path)
        if not infers and page is None:
            raise self._no_path(path)
        allowed = b"OPTIONS, POST" if infers else b"GET, HEAD, OPTIONS"
        if method == "OPTIONS":
            return self._cheap(lambda: Answer(204, [(b"allow", allowed)]))
        if method.encode() not in allowed.split(b", "):
            detail = f"{shown(method)} is not allowed here; use {allowed.decode()}"
            raise Problem(405, "method not allowed", detail, ((b"allow", allowed),))
        if page is not None:
            passed = self._gate(headers).headers if page.guarded else ()
            answer = self._cheap(lambda: _encoded(_matched(page.make(), headers), headers))
            answer.headers += passed
            return answer
        return await self._infer(headers, self._gate(headers), receive)

    async def _infer(self, headers: Headers, admission: Admission, receive: Receive) -> Answer:
        body = await read_body(receive, headers.get(b"content-length"), self._held, self._limits)
        try:
            answer = await self._in_turn(headers, admission.tenant, body)
        except TimeoutError:
            detail = f"no answer within {self._limits.answer_s:g} s; send fewer rows, or ask again later"
            raise Problem(503, "too slow", detail, ((b"retry-after", b"1"),)) from None
        finally:
            self._held.bytes -= len(body)
        answer.headers += admission.headers
        return answer

    async def _in_turn(self, headers: Headers, tenant: str, body: bytes) -> Answer:
        """Where it is cheapest; never in two threads at once. Raises TimeoutError."""
        small = len(body) <= _SMALL_BYTES and b"content-encoding" not in headers
        while small and self._quick >= _QUICK_TIMES and not self._large:
            if not self._handed:
                return self._work(headers, tenant, body)
            await asyncio.wait_for(self._idle.wait(), self._limits.answer_s)  # for small ones, soon done
        work = self._worker.submit(self._work, headers, tenant, body)
        if not self._handed:
            self._idle = asyncio.Event()
        self._handed += 1
        self._large += not small
        loop = asyncio.get_running_loop()
        work.add_done_callback(lambda _: loop.call_soon_threadsafe(self._returned, small))
        async with asyncio.timeout(self._limits.answer_s):
            return await asyncio.wrap_future(work)

    def _returned(self, small: bool) -> None:
        self._handed -= 1
        self._large -= not small
        if not self._handed:
            self._idle.set()

    def _work(self, headers: Headers, tenant: str, body: bytes) -> Answer:
        """One inference, in the worker thread."""
        self._began_s = wall_s = time.perf_counter()
        cpu_s = time.thread_time()
        small = len(body) <= _SMALL_BYTES
        try:
            body = decompressed(headers.get(b"content-encoding", b""), body, self._limits.body_bytes)
            request = parse_request(body, headers.get(HEAD_LENGTH), self._runtime, self._limits)
            answer = self._inferred(headers, tenant, request, wall_s, cpu_s)
            if small and _HIT not in answer.headers:  # what was refused says nothing of the model's speed
                self._quick += 1
            return answer
        except Problem as problem:
            return self._with_footprint(_problem(problem), wall_s, cpu_s)
        except Exception:  # the model's code is not ours
            _LOG.exception("model %s failed", self._runtime.name)
            failed = Problem(500, "model failed", "the model failed on these inputs; the log of the service says why")
            return self._with_footprint(_problem(failed), wall_s, cpu_s)
        finally:
            self._began_s = None
            if time.perf_counter() - wall_s > _QUICK_S and small:
                self._quick = 0

    def _inferred(self, headers: Headers, tenant: str, request: Request, wall_s: float, cpu_s: float) -> Answer:
        cache = None if b"no-store" in headers.get(b"cache-control", b"").lower() else self._cache
        key = key_of(tenant, self._runtime, request) if cache is not None else b""
        kept = cache.get(key) if cache is not None else None
        if kept is None:
            try:
                arrays = self._runtime.infer(request.inputs)
            except UsageError as error:
                raise Problem(400, "wrong data", str(error)) from None
        else:
            arrays = kept.arrays
        spent_s = time.thread_time() - cpu_s
        footprint = self._footprint(spent_s, time.perf_counter() - wall_s)
        if cache is not None and kept is None:
            cache.put(key, arrays, footprint.energy_j)
        self._count(ServiceUse(request.id or "", tenant, spent_s), request.rows)
        self._metrics.inferred(footprint)
        answer = Answer(200, [(b"eco-footprint", _value(footprint.to_header())), _VARY])
        if cache is not None:
            etag = _etag(key, request)
            answer.headers += (_HIT if kept else _MISS), (b"etag", etag)
            if kept:
                avoided_j = max(0.0, kept.energy_j - footprint.energy_j)
                self._metrics.hit(avoided_j)
                self._avoided(tenant, avoided_j)
                if _names(headers, etag):
                    answer.status = 304
                    return answer
        answer.body, head_bytes = write_answer(self._runtime, request, arrays, {"footprint": footprint.to_json()})
        if head_bytes is None:
            answer.headers.append(_JSON)
        else:
            answer.headers += _OCTETS, (HEAD_LENGTH, b"%d" % head_bytes)
        return _encoded(answer, headers)

    def _cheap(self, make: Callable[[], Answer]) -> Answer:
        """An answer that is made at once, in the event loop."""
        wall_s, cpu_s = time.perf_counter(), time.thread_time()
        return self._with_footprint(make(), wall_s, cpu_s)

    def _refused(self, problem: Problem) -> Answer:
        return self._cheap(lambda: _problem(problem))

    def _with_footprint(self, answer: Answer, wall_s: float, cpu_s: float) -> Answer:
        footprint = self._footprint(time.thread_time() - cpu_s, time.perf_counter() - wall_s)
        answer.headers.append((b"eco-footprint", _value(footprint.to_header())))
        return answer

    def _ready(self) -> bool:
        """Not while the worker is at something that nobody waits for any more."""
        began_s = self._began_s
        return began_s is None or time.perf_counter() - began_s < self._limits.answer_s

    def _health(self, key: str) -> Answer:
        if key == "live" or self._ready():
            return _json({key: True})
        detail = f"an inference has taken longer than {self._limits.answer_s:g} s; wait, or restart the replica"
        return _problem(Problem(503, "not ready", detail, ((b"retry-after", b"1"),)))

    def _model_ready(self) -> Answer:
        answer = self._health("ready")
        return _json({"name": self._runtime.name, "ready": True}) if answer.status == 200 else answer

    def _make_pages(self, bases: tuple[str, ...]) -> dict[str, _Page]:
        runtime = self._runtime
        model = describe.openai_model(runtime)
        models = f"/models/{runtime.name}/v1/models"
        pages = {
            "/v2": _page(describe.SERVER),
            **{path: _Page(lambda: self._health("live"), False) for path in ("/livez", "/v2/health/live")},
            **{path: _Page(lambda: self._health("ready"), False) for path in ("/readyz", "/v2/health/ready")},
            **{base: _page(describe.model(runtime), guarded=True) for base in bases},
            **{f"{base}/ready": _Page(self._model_ready, False) for base in bases},
            models: _page({"object": "list", "data": [model]}, guarded=True),
            f"{models}/{runtime.name}": _page(model, guarded=True),
            "/metrics": _Page(lambda: Answer(200, [_TEXT], self._metrics.text()), False),
        }
        described = describe.openapi(runtime, self._limits, tuple(sorted(self._infer_paths)), tuple(pages))
        return {**pages, "/openapi.json": _page(described)}

    def _no_path(self, path: str) -> Problem:
        runtime = self._runtime
        parts = path.split("/")[1:]
        if parts[:2] == ["v2", "models"] and len(parts) > 2:
            if parts[2] != runtime.name:
                detail = f"no model {shown(parts[2])} is served here; the model is {runtime.name!r}"
                return Problem(404, "no such model", detail)
            if parts[3:4] == ["versions"] and parts[4:5] != [str(runtime.version)]:
                told = shown(parts[4] if len(parts) > 4 else "")
                detail = f"version {told} of {runtime.name} is not served here; version {runtime.version} is"
                return Problem(404, "no such version", detail)
        detail = f"no path {shown(path)}; see /openapi.json, /v2 and /v2/models/{runtime.name}"
        return Problem(404, "no such path", detail)


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


def _page(content: Mapping[str, Any], *, guarded: bool = False) -> _Page:
    """One that never changes."""
    body = json.dumps(content).encode()
    # weak: it is the same for each content coding
    etag = b'W/"%s"' % hashlib.blake2b(body, digest_size=12).hexdigest().encode()
    return _Page(lambda: Answer(200, [_JSON, _VARY, (b"etag", etag)], body), guarded)


def _matched(answer: Answer, headers: Headers) -> Answer:
    """Not once more what the client has."""
    etag = next((value for name, value in answer.headers if name == b"etag"), None)
    return Answer(304, [_VARY, (b"etag", etag)]) if etag and _names(headers, etag) else answer


def _etag(key: bytes, request: Request) -> bytes:
    """A weak one: answers alike in outputs and their form, with another footprint and id."""
    wanted = repr([(tensor.name, binary) for tensor, binary in request.outputs]).encode()
    return b'W/"%s"' % hashlib.blake2b(key + wanted, digest_size=20).hexdigest().encode()


def _names(headers: Headers, etag: bytes) -> bool:
    told = headers.get(b"if-none-match")
    return told is not None and etag.removeprefix(b"W/") in {
        one.strip().removeprefix(b"W/") for one in told.split(b",")
    }


def _encoded(answer: Answer, headers: Headers) -> Answer:
    accept = headers.get(b"accept-encoding")
    if accept and len(answer.body) >= MIN_BYTES and (coding := negotiated(accept)):
        answer.body = compressed(coding, answer.body)
        answer.headers.append((b"content-encoding", coding.encode()))
    return answer


def _problem(problem: Problem) -> Answer:
    return Answer(problem.status, [_PROBLEM, *problem.headers], problem.body())


def _json(content: Mapping[str, Any]) -> Answer:
    return Answer(200, [_JSON], json.dumps(content).encode())


def _value(text: str) -> bytes:
    """A header's value: what could end it, or is no Latin-1, becomes `?`."""
    if not (text.isascii() and text.isprintable()):
        text = "".join(one if " " <= one <= "~" else "?" for one in text)
    return text.encode()
