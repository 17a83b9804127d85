"""Some of a model's requests go to another version of it, in another server.

One that is not there is no loss: what it does not answer is answered here. Its answers say so by a header, as something
else may listen at its address once it has gone. Who names the other version gets that one, or is told that it is away.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from eco_ray.core import keys
from eco_ray.core.footprint import Footprint
from eco_ray.core.variants import is_small
from eco_ray.service import http
from eco_ray.service.body import Held, read_body
from eco_ray.service.forward import Forwarder, url_of
from eco_ray.service.gate import Gate, named_tenant
from eco_ray.service.http import Answer, GoneError, Receive, Scope, Send
from eco_ray.service.limits import Limits
from eco_ray.service.own_cost import OwnCostApp
from eco_ray.service.problems import Header, Problem

#: header of answers of either version
VERSION_HEADER = b"eco-model-version"
#: status of an answer from which on the other version has failed; this one may not
_FAILED = 500
#: what it says to who names the version here
_NOT_HERE = 404

#: so long nothing but what names it is sent to a version that is away: a proxy before it may look for it for seconds,
#: for which each request would wait [s]
_REST_S = 5.0

#: an ASGI application
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Dice:
    """Chooses a percentage of requests, whichever they are."""

    def __init__(self, percent: float, chance: Callable[[], float] = random.random) -> None:
        self._percent, self._chance = percent, chance

    def __call__(self) -> bool:
        """Whether the next request goes to the other version."""
        return self._chance() * 100 < self._percent


class Turns:
    """Chooses in turn, so that of the first n requests, for any n, no more than a share goes to the other version.

    A share that changes is counted for anew: what is promised of each stretch is kept in their sum.
    """

    def __init__(self, share: Callable[[], float]) -> None:
        """`share`: of the requests from now on, 0 to 1."""
        self._share = share
        self._counted, self._of = 0, 0.0

    def __call__(self) -> bool:
        """Whether the next request goes to the other version."""
        share = self._share()
        if share != self._of:
            self._counted, self._of = 0, share
        number = self._counted
        self._counted += 1
        return is_small(number, share)


@dataclass(frozen=True)
class Other:
    """The version beside the one here, and which requests it gets."""

    version: int
    #: URL before the paths of its application
    base: str
    chosen: Callable[[], bool]
    #: whether it is a smaller variant, which a client can refuse
    is_variant: bool = False
    #: what sending one request on took of this process, where nothing else was done meanwhile [CPU s]
    hop: Callable[[float], None] = lambda _cpu_s: None


class AsideApp:
    """The application of a model, which sends some of what is asked of it on."""

    def __init__(
        self,
        app: App,
        versions: str,
        version: int,
        footprint: Callable[[float, float, float], Footprint],
        gate: Gate = named_tenant,
        limits: Limits = Limits(),  # noqa: B008  # frozen
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`versions`: path before the number of a version that is named; `version`: of the application here.

        `footprint`: of (CPU time [s], wall time [s], share of them), for answers that neither version gave.
        """
        self._footprint = footprint
        self._app, self._versions, self._limits, self._gate, self._now_s = app, versions, limits, gate, now_s
        self._told: Header = (VERSION_HEADER, str(version).encode())
        self._forwarder, self._held = Forwarder(limits), Held()
        #: requests here, and whether there was ever more than one since the last of them was alone
        self._here, self._alone = 0, False
        #: until when the other version rests
        self._rests_until_s = -math.inf
        #: None: there is none, and all is answered here
        self.other: Other | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or let the other version."""
        other = self.other
        if other is None or scope["type"] != "http":
            await self._app(scope, receive, send)
            if scope["type"] == "lifespan":
                await self._forwarder.close()
            return
        self._here += 1
        self._alone = self._here == 1
        began_s = time.thread_time()
        try:
            named = self._names(scope, other)
            if not (named or self._chosen(scope, other)):
                await self._answer(other, scope, receive, send)
            elif await self._aside(other, named, scope, receive, send) and self._alone:
                other.hop(time.thread_time() - began_s)
        finally:
            self._here -= 1

    def _names(self, scope: Scope, other: Other) -> bool:
        path = f"{self._versions}{other.version}"
        return scope["method"] in ("GET", "POST") and f"{scope['path']}/".startswith(f"{path}/")

    def _chosen(self, scope: Scope, other: Other) -> bool:
        if scope["method"] != "POST" or scope["path"].startswith(self._versions):
            return False
        if self._now_s() < self._rests_until_s:
            return False
        if other.is_variant and http.VARIANT in dict(scope["headers"]):  # a value that is none is refused here
            return False
        return other.chosen()

    async def _answer(self, other: Other, scope: Scope, receive: Receive, send: Send) -> None:
        """Here, with the version in the answer."""
        await self._app(scope, receive, self._telling(other, send))

    def _telling(self, other: Other, send: Send) -> Send:
        return _telling(send, [self._told, *_variant(other.is_variant, "large")])

    async def _aside(self, other: Other, named: bool, scope: Scope, receive: Receive, send: Send) -> bool:
        """As `_other`; what it says itself tells what it cost."""
        answered = False

        async def ask(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal answered
            answered = await self._other(other, named, scope, receive, send)

        await OwnCostApp(ask, self._footprint)(scope, receive, send)
        return answered

    async def _other(self, other: Other, named: bool, scope: Scope, receive: Receive, send: Send) -> bool:
        """What the other version answers; where it fails, the same request here, with the body that was read.

        Whether it answered.
        """
        headers = dict(scope["headers"])
        headers[b"x-request-id"] = http.request_id(headers)
        try:
            self._gate(headers, keys.Scope.READ)  # no body is read for who may not ask; the other version charges
        except Problem:
            await self._answer(other, scope, receive, send)  # says so
            return False
        try:
            body = await read_body(receive, headers.get(b"content-length"), self._held, self._limits)
        except GoneError:
            return False
        except Problem as problem:
            await http.send_answer(http.refused(problem), headers, self._telling(other, send))
            return False
        url = url_of(other.base, scope["path"], scope)
        try:
            found = await self._forwarder.passed_on(scope["method"], url, scope["headers"], headers, body, receive)
        except GoneError:
            return False
        except Problem as problem:  # it is away
            found = http.refused(problem)
        finally:
            self._held.bytes -= len(body)
        if not _answered(found):
            self._rests_until_s = self._now_s() + _REST_S
        if named and not _answered(found):
            await http.send_answer(_away(found, other.version), headers, send)
        elif named or (_answered(found) and found.status < _FAILED and found.status != _NOT_HERE):
            await http.send_answer(found, headers, send)
            return True
        else:
            _leave(found)
            await self._answer(other, scope, _again(body, receive), send)
        return False


class BesideApp:
    """The other version, at its own address."""

    def __init__(self, app: App, route: str, version: int, *, is_variant: bool = False) -> None:
        """`route`: before the paths of the application."""
        self._app, self._route = app, route
        self._told = [(VERSION_HEADER, str(version).encode()), *_variant(is_variant, "small")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            scope = {**scope, "path": scope["path"].removeprefix(self._route)}
        await self._app(scope, receive, _telling(send, self._told))


def _answered(found: Answer) -> bool:
    """Whether it is the other version's answer."""
    return VERSION_HEADER in dict(found.headers)


def _leave(found: Answer) -> None:
    if found.stream:
        found.stream.leave()


def _away(found: Answer, version: int) -> Answer:
    """For who names the other version where it is away."""
    _leave(found)
    detail = f"version {version} is away; ask again in a second, or without the version"
    return http.refused(Problem(503, "model away", detail, ((b"retry-after", b"1"),)))


def _variant(is_variant: bool, which: str) -> list[Header]:
    return [(http.VARIANT, which.encode())] if is_variant else []


def _telling(send: Send, told: list[Header]) -> Send:
    async def send_told(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *told]
        await send(message)

    return send_told


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read before, and then what comes."""
    left = [body]

    async def receive_again() -> dict[str, object]:
        return {"type": "http.request", "body": left.pop()} if left else dict(await receive())

    return receive_again
