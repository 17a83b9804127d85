"""The ASGI application that tells what a request cost, to its tenant: /api/v1/usage/REQUEST_ID, .../openapi.json."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from functools import partial

from eco_ray.core import keys
from eco_ray.core.usage import State, Usage
from eco_ray.errors import EcoRayError
from eco_ray.service import describe, http
from eco_ray.service.gate import Gate, named_tenant
from eco_ray.service.http import JSON, Answer, Headers, Page, Receive, Scope, Send
from eco_ray.service.problems import Header, Problem, shown

#: all paths of the application begin so
BASE = "/api/v1/"
PREFIX = f"{BASE}usage/"
_OPENAPI = f"{BASE}openapi.json"
#: a replica writes its log so much after an answer, at most, while its disk takes it [s]
_WRITTEN_S = 0.3
#: lookups at once, of them those of one tenant, and for one lookup [s]
_MOST, _MOST_OF_ONE, _LIMIT_S = 16, 4, 10.0
#: what is not known yet may be a moment later
_NO_STORE: Header = (b"cache-control", b"no-store")
#: asked again each time: rows may be corrected
_NO_CACHE: Header = (b"cache-control", b"private, no-cache")
_LATER: tuple[Header, ...] = ((b"retry-after", b"1"), _NO_STORE)


class UsageApp:
    """What requests cost, behind HTTP."""

    def __init__(self, lookup: Callable[[str, str], Usage | None], *, gate: Gate = named_tenant) -> None:
        """`lookup(tenant, request_id)` is called in a thread; None: the tenant has no such request.

        It raises EcoRayError where it cannot tell now.
        """
        self._lookup, self._gate = lookup, gate
        #: under way, by tenant: a thread that nobody waits for is one, too
        self._looks: Counter[str] = Counter()
        self._document = http.fixed(describe.usage(PREFIX, _OPENAPI))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await http.serve(scope, receive, send, self._answer, lambda scope, problem: http.refused(problem))

    async def _answer(self, scope: Scope, headers: Headers) -> Answer:
        path = scope["path"]
        if path != _OPENAPI and not path.startswith(PREFIX):
            raise Problem(404, "no such path", f"no path {shown(path)}; use {PREFIX}REQUEST_ID, or {_OPENAPI}")
        if not http.allowed(scope["method"], http.GET):
            return Answer(204, [(b"allow", http.GET)])
        if path == _OPENAPI:
            return http.got(self._document, headers)
        admission = self._gate(headers, keys.Scope.READ)
        request_id = path.removeprefix(PREFIX)
        usage = await self._look(admission.tenant, request_id) if http.is_request_id(request_id) else None
        if usage is None:
            detail = (
                f"no request {shown(request_id, 128)} of this tenant is known; give the x-request-id of an answer "
                "to it, of the last 24 hours"
            )
            raise Problem(404, "no such request", detail, (_NO_STORE,))
        answer = http.got(_page(usage), headers)
        answer.headers += admission.headers
        return answer

    async def _look(self, tenant: str, request_id: str) -> Usage | None:
        """Asks once, and later than what is known can come: a second time would cost each node as much again."""
        await asyncio.sleep(_WRITTEN_S)
        if self._looks.total() >= _MOST or self._looks[tenant] >= _MOST_OF_ONE:
            detail = f"{_MOST} lookups are under way, or {_MOST_OF_ONE} of this tenant, the most at once; ask again"
            raise Problem(503, "busy", detail, _LATER)
        self._looks[tenant] += 1
        looked = asyncio.ensure_future(asyncio.to_thread(self._lookup, tenant, request_id))
        looked.add_done_callback(partial(self._looked, tenant))
        try:
            async with asyncio.timeout(_LIMIT_S):
                return await asyncio.shield(looked)
        except TimeoutError:
            raise Problem(503, "too slow", f"not found out within {_LIMIT_S:g} s; ask again", _LATER) from None
        except EcoRayError:
            raise Problem(503, "not known now", "a node or the ledger does not answer; ask again", _LATER) from None

    def _looked(self, tenant: str, done: asyncio.Future[Usage | None]) -> None:
        done.cancelled() or done.exception()  # nobody may have waited for it
        self._looks[tenant] -= 1
        if not self._looks[tenant]:
            del self._looks[tenant]


def _page(usage: Usage) -> Page:
    body = json.dumps(usage.to_json()).encode()
    if usage.state is not State.SETTLED:
        return Page(lambda: Answer(200, [JSON, http.VARY, _NO_STORE], body))
    etag = b'W/"%s"' % hashlib.blake2b(body, digest_size=12).hexdigest().encode()
    return Page(lambda: Answer(200, [JSON, http.VARY, _NO_CACHE, (b"etag", etag)], body))
