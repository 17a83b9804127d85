"""Passes a request on to another server, and its answer back chunk by chunk as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import quote

import aiohttp
from yarl import URL

from eco_ray.service import http
from eco_ray.service.http import Answer, GoneError, Headers, Receive, Scope, Stream
from eco_ray.service.limits import Limits
from eco_ray.service.problems import Header, Problem, shown

#: of this connection and not of the request (RFC 9110, 7.6.1), or made anew on the other side
_HOP = frozenset((
    *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te"),
    *(b"trailer", b"transfer-encoding", b"upgrade", b"host", b"expect"),
))  # fmt: skip
_OURS = frozenset((b"date", b"server", b"x-request-id", b"traceparent"))
#: shorter than servers keep idle connections (uvicorn: 5), so that none is used that is about to close [s]
_IDLE_S = 3.0
_CONNECT_S = 2.0
#: for a model's own limits to be told by itself [s]
_GRACE_S = 5.0
_AGAIN: Header = (b"retry-after", b"1")
#: what stays as it is in a path, beside letters and digits (RFC 3986)
_PLAIN = "/:@!$&'()*+,;="


def url_of(base: str, path: str, scope: Scope) -> URL:
    """A path below another server, with the query of a request; what a server has decoded is encoded again.

    A line end that stayed in it would begin another request there.
    """
    query = scope.get("query_string", b"").decode("latin-1")
    return URL(f"{base}{quote(path, safe=_PLAIN)}{'?' if query else ''}{query}", encoded=True)


class Forwarder:
    """Keeps connections. For one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def passed_on(
        self,
        method: str,
        url: URL,
        pairs: list[Header],
        headers: Headers,
        body: bytes,
        receive: Receive,
        answer_s: float | None = None,
    ) -> Answer:
        """The other server's answer. Raises Problem (503) where there is none, GoneError where the client has left.

        `answer_s`: until it begins; None: that of the limits.
        """
        patience_s = (self._limits.answer_s if answer_s is None else answer_s) + _GRACE_S
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                auto_decompress=False,
            )
        told = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in _end_to_end(pairs, headers)
            if name not in (b"content-length", b"x-request-id")
        ]
        told.append(("x-request-id", headers[b"x-request-id"].decode()))
        asked = asyncio.ensure_future(
            self._session.request(method, url, headers=told, data=body or None, allow_redirects=False)
        )
        gone = asyncio.ensure_future(http.gone(receive))
        try:
            await asyncio.wait((asked, gone), timeout=patience_s, return_when="FIRST_COMPLETED")
            if not asked.done():
                if gone.done():
                    raise GoneError
                raise _away(f"did not answer within {patience_s:g} s")
            answer = asked.result()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _away(f"cannot be reached ({type(error).__name__})") from None
        except ValueError as error:  # a header that may not be sent on
            raise Problem(400, "wrong header", f"{shown(str(error))}; send plain headers") from None
        finally:
            if not asked.done() or asked.cancelled() or asked.exception() is not None:
                asked.cancel()
                gone.cancel()
        gone.add_done_callback(lambda _: answer.close())  # the model's server sees that its client has left

        def leave() -> None:
            gone.cancel()
            answer.close()

        raw = [(name.lower(), value) for name, value in answer.raw_headers]
        kept = [pair for pair in _end_to_end(raw, dict(raw)) if pair[0] not in _OURS]
        return Answer(answer.status, kept, stream=Stream(_chunks(answer), leave, self._limits.stream_s + 2 * _GRACE_S))


def _away(why: str) -> Problem:
    return Problem(503, "model away", f"the model's server {why}; ask again in a second", (_AGAIN,))


def _end_to_end(pairs: list[Header], headers: Headers) -> list[Header]:
    """The headers that are not of one connection."""
    named = {name.strip().lower() for name in headers.get(b"connection", b"").split(b",")}
    return [pair for pair in pairs if pair[0] not in _HOP and pair[0] not in named]


async def _chunks(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, OSError):  # one of both sides has left: the other one learns it by a connection closed
        raise GoneError from None
