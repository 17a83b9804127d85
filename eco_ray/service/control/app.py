"""The ASGI application of the control API: its paths, who may take them, and what is read of a request."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial

from eco_ray.api_model import BASE
from eco_ray.core.ports import GridSource
from eco_ray.service import describe as others
from eco_ray.service import http
from eco_ray.service.body import Held, json_object, read_body
from eco_ray.service.control import describe
from eco_ray.service.control.energy import Energy
from eco_ray.service.control.following import Following
from eco_ray.service.control.jobs import Jobs
from eco_ray.service.control.limits import Limits
from eco_ray.service.control.local import loopback_gate
from eco_ray.service.control.port import Control
from eco_ray.service.control.query import read_query
from eco_ray.service.control.route import Ask, Route
from eco_ray.service.control.streams import Streams
from eco_ray.service.control.work import Work
from eco_ray.service.gate import Gate
from eco_ray.service.http import Answer, Headers, Receive, Scope, Send
from eco_ray.service.problems import Problem, shown
from eco_ray.service.usage import PREFIX as USAGE

#: an ASGI application
App = Callable[[Scope, Receive, Send], Awaitable[None]]
_JSON = b"application/json"


class ControlApp:
    """A cluster behind HTTP.

    With a `KeyGate` make it with `infer_reads=False`: who may ask models may not therefore read jobs and their output.
    """

    def __init__(
        self,
        control: Control,
        grid: GridSource,
        *,
        gate: Gate = loopback_gate,
        limits: Limits = Limits(),  # noqa: B008  # frozen
        usage: App | None = None,
    ) -> None:
        """`usage`: answers what requests cost, below /api/v1/usage/ (`service.usage.UsageApp`)."""
        self._gate, self._limits, self._usage = gate, limits, usage
        self._held = Held()
        work = Work(limits.calls, limits.calls_of_one, limits.call_s)
        jobs = Jobs(control, work)
        self._streams = Streams(limits)
        routes = [
            *jobs.routes(),
            *Following(control, jobs, work, self._streams, limits).routes(),
            *Energy(control, grid, work).routes(),
        ]
        beside = {} if usage is None else others.usage(USAGE, describe.OPENAPI)["paths"]
        self._document = http.fixed(describe.document(routes, beside))
        by_path: defaultdict[str, dict[str, Route]] = defaultdict(dict)
        for route in routes:
            by_path[route.path][route.method] = route
        #: by method, of each path: paths without parts first
        self._paths: list[tuple[re.Pattern[str], dict[str, Route]]] = [
            (next(iter(methods.values())).pattern, methods) for _, methods in sorted(by_path.items())
        ]

    @property
    def open_streams(self) -> int:
        """How many streams are open."""
        return self._streams.open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._usage is not None and scope["type"] == "http" and scope["path"].startswith(USAGE):
            await self._usage(scope, receive, send)
            return
        answer = partial(self._answer, receive)
        await http.serve(scope, receive, send, answer, lambda scope, problem: http.refused(problem))

    async def _answer(self, receive: Receive, scope: Scope, headers: Headers) -> Answer:
        path, method = scope["path"], scope["method"]
        if path == describe.OPENAPI:
            if not http.allowed(method, http.GET):
                return Answer(204, [(b"allow", http.GET)])
            return http.got(self._document, headers)
        methods, parts = self._found(path)
        allow = ", ".join(sorted({*methods, "OPTIONS", *(("HEAD",) if "GET" in methods else ())})).encode()
        if not http.allowed(method, allow):
            return Answer(204, [(b"allow", allow)])
        route = methods["GET" if method == "HEAD" else method]
        admission = self._gate(headers, route.scope)
        query = read_query(scope.get("query_string", b""), route.parameters)
        ask = Ask(admission.tenant or None, parts, query, headers, receive, path)
        if route.body is None:
            answer = await route.act(ask)
        else:
            answer = await self._sent(route, ask, receive)
        answer.headers += admission.headers
        return answer

    async def _sent(self, route: Route, ask: Ask, receive: Receive) -> Answer:
        assert route.body is not None  # noqa: S101
        if ask.headers.get(b"content-encoding", b"identity") != b"identity":
            told = (b"accept-encoding", b"identity")
            raise Problem(415, "wrong encoding", "the body is compressed; send it as it is", (told,))
        limits = self._limits.body
        body = await read_body(receive, ask.headers.get(b"content-length"), self._held, limits)
        try:
            if not body and not route.body.required:
                return await route.act(ask)
            kind = ask.headers.get(b"content-type", b"")
            # a page of a browser can send other kinds to any address without asking first (CORS)
            if kind.partition(b";")[0].strip().lower() != _JSON:
                told = (b"accept-encoding", b"identity")
                detail = f"Content-Type is {shown(kind.decode('latin-1'))}; send application/json"
                raise Problem(415, "wrong content type", detail, (told,))
            content = json_object(body, limits, f"an object such as {dict(route.body.example)}")
            return await route.act(Ask(ask.tenant, ask.parts, ask.query, ask.headers, receive, ask.path, content))
        finally:
            self._held.bytes -= len(body)

    def _found(self, path: str) -> tuple[dict[str, Route], dict[str, str]]:
        for pattern, methods in self._paths:
            if match := pattern.fullmatch(path):
                return methods, match.groupdict()
        raise Problem(404, "no such path", f"no path {shown(path)}; see {describe.OPENAPI}, all begin with {BASE}/")
