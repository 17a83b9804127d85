"""A share of a model's requests goes to another version of it, in another server.

One that is not there is no loss: what it does not answer is answered here. Its answers say so by a header, as something
else may listen at its address once it has gone.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from yarl import URL

from eco_ray.core import keys
from eco_ray.service import http
from eco_ray.service.body import Held, read_body
from eco_ray.service.forward import Forwarder
from eco_ray.service.gate import Gate, named_tenant
from eco_ray.service.http import GoneError, Receive, Scope, Send
from eco_ray.service.limits import Limits
from eco_ray.service.problems import Problem

#: header of an answer of the other version
VERSION_HEADER = b"eco-model-version"
#: status of an answer from which on the other version has failed; this one may not
_FAILED = 500
#: what it says to who names the version here
_NOT_HERE = 404


class CanaryApp:
    """The application of a model, which sends a share of what is asked of it on."""

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        base: str,
        version: str,
        gate: Gate = named_tenant,
        limits: Limits = Limits(),  # noqa: B008  # frozen
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`base`: URL before the path of the other version; `version`: path of the one here, which is asked by name."""
        self._app, self._base, self._here, self._limits, self._chance = app, base, version, limits, chance
        self._gate = gate
        self._forwarder, self._held = Forwarder(limits), Held()
        #: of the requests [%]
        self.percent = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or let the other version."""
        if self._goes_on(scope):
            await self._other(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _goes_on(self, scope: Scope) -> bool:
        if not self.percent or scope["type"] != "http" or scope["method"] != "POST":
            return False
        return not scope["path"].startswith(self._here) and self._chance() * 100 < self.percent

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What the other version answers; where it fails, the same request here, with the body that was read."""
        headers = dict(scope["headers"])
        headers[b"x-request-id"] = http.request_id(headers)
        try:
            self._gate(headers, keys.Scope.READ)  # no body is read for who may not ask; the other version charges
        except Problem:
            await self._app(scope, receive, send)  # says so
            return
        try:
            body = await read_body(receive, headers.get(b"content-length"), self._held, self._limits)
        except GoneError:
            return
        except Problem as problem:
            await http.send_answer(http.refused(problem), headers, send)
            return
        url, found = URL(self._base + scope["path"], encoded=True), None
        try:
            found = await self._forwarder.passed_on("POST", url, scope["headers"], headers, body, receive)
        except GoneError:
            return
        except Problem:
            pass  # it is away
        finally:
            self._held.bytes -= len(body)
        if (
            found is not None
            and found.status < _FAILED
            and found.status != _NOT_HERE
            and VERSION_HEADER in dict(found.headers)
        ):
            await http.send_answer(found, headers, send)
            return
        if found is not None and found.stream:
            found.stream.leave()
        await self._app(scope, _again(body, receive), send)


class BesideApp:
    """The other version, at its own address."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], route: str, version: int) -> None:
        """`route`: before the paths of the application."""
        self._app, self._route, self._version = app, route, str(version).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_version(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (VERSION_HEADER, self._version)]
            await send(message)

        if scope["type"] == "http":
            scope = {**scope, "path": scope["path"].removeprefix(self._route)}
        await self._app(scope, receive, send_version)


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read before, and then what comes."""
    left = [body]

    async def receive_again() -> dict[str, object]:
        return {"type": "http.request", "body": left.pop()} if left else dict(await receive())

    return receive_again
