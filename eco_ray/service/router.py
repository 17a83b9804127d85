"""One address for all models: finds the model in a request of the OpenAI API and passes it on to the model's server.

    /v1/models[/NAME]                                    what is served
    /v1/embeddings  /v1/chat/completions  /v1/completions   to the model that the body names
    /models/NAME/v1/...                                  to that model, as it is
    /livez  /readyz  /metrics  /openapi.json

Who may ask is decided there; here only the list asks a gate.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, generate_latest
from pydantic_core import from_json

from eco_ray.core.keys import Scope as KeyScope
from eco_ray.service import describe, http
from eco_ray.service.body import Held, json_object, read_body
from eco_ray.service.encoding import decompressed
from eco_ray.service.forward import Forwarder, url_of
from eco_ray.service.gate import Gate, named_tenant
from eco_ray.service.http import Answer, Headers, Page, Receive, Scope, Send
from eco_ray.service.limits import Limits
from eco_ray.service.metrics import CONTENT_TYPE
from eco_ray.service.openai import wrong
from eco_ray.service.problems import Header, Problem, shown

#: paths that name their model in the body
ROUTED = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
#: a model's own paths; the rest is of plain parts, none of which is `.` or `..`
_OWN = re.compile(
    r"/models/(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,99})/v1(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~:@-]{1,200}){1,5}"
)
_REFERENCE = re.compile(describe.REFERENCE)
#: the model stands in the first bytes as a rule; a larger body is not parsed in the event loop [bytes]
_HEAD_BYTES, _SMALL_BYTES = 4 << 10, 64 << 10
#: a model's name, and the base URL of its server
Place = tuple[str, str]


class Router:
    """Passes requests on. For one event loop."""

    def __init__(
        self,
        models: Callable[[], Mapping[str, str]],
        *,
        resolve: Callable[[str], Place | None] | None = None,
        gate: Gate = named_tenant,
        limits: Limits = Limits(),  # noqa: B008  # frozen
    ) -> None:
        """`models()`: base URLs by name. `resolve(reference)`: where `name`, `name:VERSION` or `name@alias` is served.

        Both answer from memory. None: by the name alone, whatever version is served under it.
        """
        self._models, self._gate, self._limits = models, gate, limits
        self._resolve = resolve or self._by_name
        self._held, self._parsing = Held(), asyncio.Lock()
        self._forwarder = Forwarder(limits)
        self._registry = CollectorRegistry()
        self._answered = Counter("eco_router_requests", "Answered requests", ["status"], registry=self._registry)
        text: Header = (b"content-type", CONTENT_TYPE.encode())
        self._pages: dict[str, Page] = {
            "/livez": http.fixed({"live": True}),
            "/readyz": http.fixed({"ready": True}),
            "/v2": http.fixed(describe.SERVER),
            "/v2/health/live": http.fixed({"live": True}),
            "/v2/health/ready": http.fixed({"ready": True}),
            "/metrics": Page(lambda: Answer(200, [text], generate_latest(self._registry))),
            "/v1/models": Page(self._list, guarded=True),
            "/openapi.json": http.fixed(describe.router(ROUTED, limits)),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        status = await http.serve(scope, receive, send, partial(self._answer, receive), _refused)
        if status is not None:
            self._answered.labels(str(status)).inc()
        if scope["type"] == "lifespan":
            await self._forwarder.close()

    async def _answer(self, receive: Receive, scope: Scope, headers: Headers) -> Answer:
        method, path = scope["method"], scope["path"]
        page = self._pages.get(path)
        if page is None and path.startswith("/v1/models/"):
            page = self._model(path.removeprefix("/v1/models/"))
        if page is not None:
            if not http.allowed(method, http.GET):
                return Answer(204, [(b"allow", http.GET)])
            passed = self._gate(headers, KeyScope.READ).headers if page.guarded else ()
            answer = http.got(page, headers)
            answer.headers += passed
            return answer
        own = _OWN.fullmatch(path)
        if path in ROUTED:
            if not http.allowed(method, http.POST):
                return Answer(204, [(b"allow", http.POST)])
        elif own is None:
            detail = f"no path {shown(path)}; use {', '.join(ROUTED)}, /v1/models or /models/NAME/v1/..."
            raise Problem(404, "no such path", detail)
        self._gate(headers, KeyScope.READ)  # no body is read for who may not ask; the model's own gate charges
        place = self._at(own["name"]) if own else None
        body = await read_body(receive, headers.get(b"content-length"), self._held, self._limits)
        try:
            if place is None:
                place = self._at(await self._named(headers, body))
                path = f"/models/{place[0]}{path}"
            path = _own_route(path)
            url = url_of(place[1].rstrip("/"), path, scope)
            return await self._forwarder.passed_on(method, url, scope["headers"], headers, body, receive)
        finally:
            self._held.bytes -= len(body)

    async def _named(self, headers: Headers, body: bytes) -> str:
        """The model that a body names."""
        coding = headers.get(b"content-encoding", b"")
        if coding or len(body) > _SMALL_BYTES:
            async with self._parsing:
                return await asyncio.to_thread(_model_of, coding, body, self._limits)
        return _model_of(coding, body, self._limits)

    def _at(self, reference: str) -> Place:
        place = self._resolve(reference) if _REFERENCE.fullmatch(reference) else None
        if place is None:
            detail = f"no model {shown(reference)} is served here; GET /v1/models lists those that are"
            raise Problem(404, "no such model", detail, param="model", code="model_not_found")
        return place

    def _by_name(self, reference: str) -> Place | None:
        found = _REFERENCE.fullmatch(reference)
        url = self._models().get(found[1]) if found else None
        return (found[1], url) if found and url is not None else None

    def _list(self) -> Answer:
        return http.told_json({"object": "list", "data": [describe.openai_id(name) for name in self._models()]})

    def _model(self, reference: str) -> Page:
        def make() -> Answer:
            self._at(reference)
            return http.told_json(describe.openai_id(reference))

        return Page(make, guarded=True)


def _own_route(path: str) -> str:
    """`/models/NAME/v1/...` as a path below the model's own route, which needs nobody to rewrite it."""
    _, _, name, rest = path.split("/", 3)
    return f"/v2/models/{name}/openai/{rest}"


def _refused(scope: Scope, problem: Problem) -> Answer:
    return http.refused(problem, openai=True)


def _model_of(coding: bytes, body: bytes, limits: Limits) -> str:
    """The field `model` of a body. Raises Problem."""
    plain = decompressed(coding, body, limits.body_bytes)
    try:
        content = from_json(plain[:_HEAD_BYTES], allow_partial=True)
    except ValueError:  # the whole says what is wrong
        content = None
    if not isinstance(content, dict) or "model" not in content:
        content = json_object(plain, limits, "a request of the OpenAI API")
    told = content.get("model")
    if not isinstance(told, str):
        raise wrong("model", told, "send the name of a model; GET /v1/models lists them", "missing_required_parameter")
    return told
