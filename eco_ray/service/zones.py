"""One model in several grid zones, behind one address: each request goes to the zone whose turn it is by the shares.

A request comes from the zone that its header `Eco-Origin-Zone` names, else from the home zone. Where a zone gives no
answer, the request goes on to the next with the body that was read; the zone is left alone until it is ready again. One
that is asleep has more time: the request waits there until replica and node have started.
Asking twice does no harm: an inference changes nothing, and of its answers the client gets one. What has begun to
answer is not left any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from yarl import URL

from eco_ray.core.keys import Scope as KeyScope
from eco_ray.core.zone_routes import Chooser, Routes
from eco_ray.service import http
from eco_ray.service.body import Held, read_body
from eco_ray.service.forward import Forwarder, url_of
from eco_ray.service.gate import Gate, named_tenant
from eco_ray.service.http import Answer, GoneError, Headers, Message, Receive, Scope, Send
from eco_ray.service.limits import Limits
from eco_ray.service.problems import Header, Problem

#: of a request: where it comes from
ORIGIN_HEADER = b"eco-origin-zone"
#: of an answer: the zone whose replica gave it; without it something else has answered in its place
ZONE_HEADER = b"eco-zone"
#: before the paths of a zone's replicas
ZONES = "/zones"
#: what servers before the replicas say when there is none: not found, failed, away, too slow
_NOBODY = frozenset((404, 500, 502, 503, 504))
#: a replica that has too much to do, or ends
_BUSY = 503
#: of a problem that is kept while another zone is asked [bytes]
_MOST_BYTES = 64 << 10
#: how often a zone that gave no answer is asked whether it is ready, and for how long [s]
_PROBE_S, _PROBED_S = 1.0, 3.0
_AGAIN: Header = (b"retry-after", b"1")


#: an ASGI application
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def zone_route(zone: str) -> str:
    """Before the paths of a zone's replicas."""
    return f"{ZONES}/{zone}"


class ZonesApp:
    """The application at the usual address of a model that is served per zone. For one event loop."""

    def __init__(
        self,
        model: str,
        base: str,
        routes: Routes,
        gate: Gate = named_tenant,
        limits: Limits = Limits(),  # noqa: B008  # frozen
        probe_s: float = _PROBE_S,
    ) -> None:
        """`base`: URL before `/zones/...`."""
        self._model, self._base, self._gate, self._limits, self._probe_s = model, base, gate, limits, probe_s
        self._chooser = Chooser(routes)
        self._forwarder, self._held = Forwarder(limits), Held()
        #: requests that came, by where from
        self.counts: dict[str, int] = dict.fromkeys(routes.origins, 0)
        #: zones that gave no answer, and who asks whether they are ready
        self._away: dict[str, asyncio.Task[None]] = {}

    @property
    def routes(self) -> Routes:
        """Which shares it follows."""
        return self._chooser.routes

    @property
    def away(self) -> tuple[str, ...]:
        """Zones that gave no answer."""
        return tuple(self._away)

    def follow(self, routes: Routes) -> None:
        """From the next request."""
        self._chooser.follow(routes)
        for zone in self._away.keys() - set(routes.zones):
            self._away.pop(zone).cancel()
        for origin in routes.origins:
            self.counts.setdefault(origin, 0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await http.serve(scope, receive, send, partial(self._answer, receive), _refused)
        if scope["type"] == "lifespan":
            for asking in self._away.values():
                asking.cancel()
            await self._forwarder.close()

    async def _answer(self, receive: Receive, scope: Scope, headers: Headers) -> Answer:
        method, origin = scope["method"], self.routes.origin(headers.get(ORIGIN_HEADER, b"").decode("latin-1"))
        if method != "POST":  # pages, of whom each has its own gate
            return await self._first_answer(origin, scope, headers, b"", receive)
        self._gate(headers, KeyScope.READ)  # no body is read for who may not ask; the replica's own gate charges
        body = await read_body(receive, headers.get(b"content-length"), self._held, self._limits)
        self.counts[origin] += 1
        try:
            return await self._first_answer(origin, scope, headers, body, receive)
        finally:
            self._held.bytes -= len(body)

    async def _first_answer(self, origin: str, scope: Scope, headers: Headers, body: bytes, receive: Receive) -> Answer:
        """Of the first zone that gives one; that of one that is busy where all others are away."""
        busy: Answer | None = None
        for zone in self._chooser.order(origin, self._away, scope["method"]):
            found = await self._asked(zone, scope, headers, body, receive)
            if found is not None and found.status != _BUSY:
                return found
            if found is not None:
                with suppress(GoneError):  # it ended while it said so
                    busy = await _whole(found)
        if busy is not None:
            return busy
        detail = f"none of {', '.join(self.routes.zones)} answers for {self._model}; ask again in a second"
        raise Problem(503, "model away", detail, (_AGAIN,))

    async def _asked(self, zone: str, scope: Scope, headers: Headers, body: bytes, receive: Receive) -> Answer | None:
        """What a zone answers; None: nothing, and it is away."""
        url = url_of(f"{self._base}{zone_route(zone)}", scope["path"], scope)
        # of a zone that is asleep the request is what wakes replica and node; another one would be woken, too
        answer_s = self._limits.stream_s if zone in self.routes.asleep else None
        try:
            found = await self._forwarder.passed_on(
                scope["method"], url, scope["headers"], headers, body, receive, answer_s
            )
        except Problem as problem:
            if problem.status < 500:  # a header that cannot be sent on is wrong everywhere
                raise
            self._left_alone(zone)
            return None
        if found.status in _NOBODY and dict(found.headers).get(ZONE_HEADER) != zone.encode():
            _leave(found)
            self._left_alone(zone)
            return None
        return found

    def _left_alone(self, zone: str) -> None:
        if zone not in self._away:
            self._away[zone] = asyncio.create_task(self._ask_until_ready(zone))

    async def _ask_until_ready(self, zone: str) -> None:
        while not await self._is_ready(zone):
            await asyncio.sleep(self._probe_s)
        del self._away[zone]

    async def _is_ready(self, zone: str) -> bool:
        url = URL(f"{self._base}{zone_route(zone)}/v2/models/{self._model}/ready", encoded=True)
        headers = {http.REQUEST_ID: http.request_id({})}
        with suppress(Exception):  # whatever it is, the zone is asked again
            async with asyncio.timeout(_PROBED_S):
                found = await self._forwarder.passed_on("GET", url, [], headers, b"", _nothing_more)
            _leave(found)
            return found.status == 200 and dict(found.headers).get(ZONE_HEADER) == zone.encode()
        return False


class ZoneApp:
    """A zone's replica, at its own address; its answers say so."""

    def __init__(self, app: App, zone: str) -> None:
        self._app, self._route, self._says = app, zone_route(zone), (ZONE_HEADER, zone.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], self._says]
            await send(message)

        if scope["type"] == "http":
            scope = {**scope, "path": scope["path"].removeprefix(self._route)}
        await self._app(scope, receive, send_told)


async def _nothing_more() -> Message:
    """What comes from a client that waits."""
    await asyncio.Event().wait()
    return {}


async def _whole(answer: Answer) -> Answer:
    """An answer that has been read, so that another one can be asked for."""
    if answer.stream is None:
        return answer
    body = b""
    try:
        async for chunk in answer.stream.chunks:
            body += chunk
            if len(body) > _MOST_BYTES:
                break
    finally:
        answer.stream.leave()
    return Answer(answer.status, answer.headers, body[:_MOST_BYTES])


def _leave(answer: Answer) -> None:
    if answer.stream is not None:
        answer.stream.leave()


def _refused(scope: Scope, problem: Problem) -> Answer:
    return http.refused(problem, openai="/openai/" in scope["path"])
