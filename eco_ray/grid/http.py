"""GET requests to carbon-intensity sources: bounded in time and size, and with keys that never show.

Where a key travels, no text that the server sends is quoted in an error or a log line: it may hold the key in a form
that no search finds (reversed, twice escaped, in part). What is said then is the status, and why in our own words.

Every failure is a `SourceError` with a `Fault`, so that `chain.py` knows when to ask again and `eco-ray status` what to
say. Nothing here retries or sleeps.
"""

from __future__ import annotations

import json
import logging
import math
import re
import ssl
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import cache
from http import HTTPStatus
from typing import Any

import httpx

from eco_ray.errors import EcoRayError, UsageError
from eco_ray.grid.keys import Secret, hide
from eco_ray.grid.within import Connection, within

#: longest time for one request, from connecting to the last byte [s]
TIMEOUT_S = 10.0
#: largest answer: 72 h of 5-minute points are 60 kB, a week of a country's plants as XML 2 MB [bytes]
LIMIT_BYTES = 8_000_000
#: redirects to the same host that are followed
MAX_REDIRECTS = 3
#: longest pause that a server can ask for; it would otherwise switch itself off for good [s]
MAX_RETRY_AFTER_S = 86_400.0
#: how much of a body an error quotes: problem details (RFC 7807) begin with a long type
_QUOTE = 240
#: longest message of an error, and longest line of the log of the HTTP client
_LONGEST = 2_000
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Fault(StrEnum):
    """Why a source gave nothing: decides when it is asked again."""

    NO_KEY = "no-key"
    #: 401, 403: the key is wrong, or the plan does not include what was asked for
    REFUSED = "refused"
    #: 429, or our own limit
    RATE_LIMITED = "rate-limited"
    #: no name, no connection, no answer in time, 5xx
    UNREACHABLE = "unreachable"
    #: 204, 400, 404: no such zone or no data for it
    NO_DATA = "no-data"
    #: an answer that is not what the contract says, or that cannot be true
    MALFORMED = "malformed"


class SourceError(EcoRayError):
    """A source gave nothing that can be used; the message says what it answered, without any key."""

    def __init__(
        self, message: str, fault: Fault, retry_after_s: float | None = None, status: int | None = None
    ) -> None:
        super().__init__(hide(message, _LONGEST))
        self.fault = fault
        #: how long the server asks to wait [s]; None: it did not say
        self.retry_after_s = retry_after_s
        #: of HTTP; None: the fault is another one
        self.status = status

    def __reduce__(self) -> tuple[type[SourceError], tuple[str, Fault, float | None, int | None]]:
        return type(self), (str(self), self.fault, self.retry_after_s, self.status)


class Http:
    """One source's server. Where it gets a key, nothing that it writes is quoted in a message or a log line."""

    def __init__(
        self,
        source: str,
        base_url: str,
        *,
        secret: Secret | None = None,
        keyed: bool = False,
        headers: Mapping[str, str] | None = None,
        max_per_minute: int = 60,
        timeout_s: float = TIMEOUT_S,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        """`keyed`: a key will travel that is not known yet, so that no `secret` is given.

        Raises UsageError for a URL that is none, or that would send a key unencrypted over a network.
        """
        self.source = source
        self._keyed = keyed or secret is not None
        self._base = _checked(source, base_url, self._keyed)
        self._secret = secret  # held, so that `hide` knows it
        self._timeout_s = timeout_s
        self._limit_bytes = limit_bytes
        self._max_per_minute = max_per_minute
        #: when requests were made, of the last minute [monotonic s]
        self._made: deque[float] = deque()
        # compressed answers are refused: a small one could unpack to gigabytes
        headers = {"Accept-Encoding": "identity", "User-Agent": "eco-ray", **(headers or {})}
        # a connection for each request: they are minutes apart, and one that is given up can be cut
        self._client = httpx.Client(
            verify=_certificates(),
            timeout=timeout_s,
            follow_redirects=False,
            headers=headers,
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        if self._keyed:
            _hide_in_logs()

    def get_json(
        self,
        path: str,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        basic: tuple[str, str] | None = None,
    ) -> Any:
        """The parsed body of a 200 answer; NaN and Infinity, which are no JSON, are refused. Raises SourceError."""
        text = self.get_text(path, params, headers, basic)
        try:
            return json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise self.malformed(path, f"no JSON ({str(error)[:_QUOTE]}): {self._quoted(text)}") from None

    def get_text(
        self,
        path: str,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        basic: tuple[str, str] | None = None,
    ) -> str:
        """The body of a 200 answer as text. `basic`: user and password of HTTP Basic. Raises SourceError."""
        self._pace(path)
        give_up = time.monotonic() + self._timeout_s
        try:
            url = self._base.copy_with(path=self._base.path.rstrip("/") + path)
            for _ in range(MAX_REDIRECTS + 1):
                request = self._client.build_request("GET", url, params=params, headers=headers)
                response, body = self._send(path, request, basic, give_up)
                if not response.has_redirect_location:
                    return self._checked_answer(path, response, body)
                url, params = self._redirected(path, request.url, response), None
        except TimeoutError:
            raise self._error(path, f"the answer took longer than {self._timeout_s:g} s", Fault.UNREACHABLE) from None
        except (httpx.ProtocolError, httpx.InvalidURL, UnicodeError) as error:  # they quote what was sent
            why = type(error).__name__ if self._keyed else str(error)[:_QUOTE]
            raise self._error(path, f"no sound HTTP ({why})", Fault.UNREACHABLE) from None
        except (httpx.HTTPError, OSError) as error:
            raise self._error(path, str(error) or type(error).__name__, Fault.UNREACHABLE) from None
        raise self._error(path, f"more than {MAX_REDIRECTS} redirects", Fault.MALFORMED)

    def malformed(self, path: str, what: str) -> SourceError:
        """The error for an answer that is not what the contract says."""
        return self._error(path, what, Fault.MALFORMED)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _pace(self, path: str) -> None:
        now_s = time.monotonic()
        while self._made and now_s - self._made[0] >= 60:
            self._made.popleft()
        if len(self._made) >= self._max_per_minute:
            wait_s = 60 - (now_s - self._made[0])
            why = f"our own limit of {self._max_per_minute} requests a minute is reached; again in {wait_s:.0f} s"
            raise self._error(path, why, Fault.RATE_LIMITED, wait_s)
        self._made.append(now_s)

    def _send(
        self, path: str, request: httpx.Request, basic: tuple[str, str] | None, give_up: float
    ) -> tuple[httpx.Response, bytes]:
        """Response and body. httpx limits each read, not all of them together: `within` does. Raises TimeoutError."""
        connection = Connection()
        request.extensions["trace"] = connection.trace
        return within(give_up - time.monotonic(), lambda: self._exchange(path, request, basic), connection.cut)

    def _exchange(
        self, path: str, request: httpx.Request, basic: tuple[str, str] | None
    ) -> tuple[httpx.Response, bytes]:
        auth = httpx.BasicAuth(*basic) if basic else httpx.USE_CLIENT_DEFAULT
        response = self._client.send(request, auth=auth, stream=True)
        try:
            encoding = response.headers.get("Content-Encoding", "")
            if encoding.strip().lower() not in ("", "identity"):
                raise self.malformed(path, f"Content-Encoding {self._quoted(encoding)} was not asked for")
            body = bytearray()
            for chunk in response.iter_raw():  # as it comes; iter_bytes(n) would wait for n bytes
                body += chunk
                if len(body) > self._limit_bytes:
                    raise self.malformed(path, f"the answer is larger than {self._limit_bytes} bytes")
            return response, bytes(body)
        finally:
            response.close()

    def _checked_answer(self, path: str, response: httpx.Response, body: bytes) -> str:
        text = body.decode("utf-8-sig", errors="replace")
        status = response.status_code
        if status == httpx.codes.OK:
            return text
        fault = _FAULTS.get(status, Fault.UNREACHABLE if status >= 500 else Fault.MALFORMED)
        retry_s = retry_after_s(response.headers.get("Retry-After"), datetime.now(UTC).timestamp())
        raise self._error(path, f"HTTP {_named(status)}: {self._quoted(text)}", fault, retry_s, status)

    def _redirected(self, path: str, url: httpx.URL, response: httpx.Response) -> httpx.URL:
        try:
            target = url.join(response.headers.get("Location", ""))
        except httpx.InvalidURL:
            raise self._error(path, "a redirect to no URL", Fault.MALFORMED) from None
        upgraded = (url.scheme, target.scheme, target.port) == ("http", "https", None)
        same_port = (target.scheme, target.port) == (url.scheme, url.port)
        if target.host != url.host or target.userinfo or not (upgraded or same_port):
            place = self._quoted(f"{target.scheme}://{target.host}")
            why = f"a redirect to another host or port, which is not followed: {place}"
            raise self._error(path, why, Fault.MALFORMED)
        return target

    def _quoted(self, text: str) -> str:
        """The beginning of what the server wrote, for a message; its length alone where it may hold a key."""
        if self._keyed and text.strip():
            return f"a text of {len(text)} characters, which is not shown, for a key travelled with the request"
        shown = "".join(char if char.isprintable() else " " for char in hide(text, _QUOTE))
        return repr(shown) if shown.strip() else "an empty body"

    def _error(
        self, path: str, why: str, fault: Fault, retry_s: float | None = None, status: int | None = None
    ) -> SourceError:
        return SourceError(f"{self.source} ({self._base.host}{path}): {why}", fault, retry_s, status)


def _named(status: int) -> str:
    """With the words of the standard, not those of the server."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


_FAULTS = {
    204: Fault.NO_DATA,
    400: Fault.NO_DATA,
    401: Fault.REFUSED,
    403: Fault.REFUSED,
    404: Fault.NO_DATA,
    416: Fault.NO_DATA,
    422: Fault.NO_DATA,
    429: Fault.RATE_LIMITED,
}


def retry_after_s(value: str | None, now_s: float) -> float | None:
    """Seconds that a Retry-After header asks to wait, at most MAX_RETRY_AFTER_S; None where it says nothing sound.

    It is a number of seconds or an HTTP date (RFC 9110, 10.2.3).
    """
    if not value:
        return None
    try:
        wait_s = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
            # without a zone it is UTC (RFC 5322: -0000), not our local time
            wait_s = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now_s
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(wait_s, 0.0), MAX_RETRY_AFTER_S) if math.isfinite(wait_s) else None


@cache
def _certificates() -> ssl.SSLContext:
    """Read once: it takes 0.1 s."""
    return httpx.create_ssl_context()


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _checked(source: str, base_url: str, keyed: bool) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        shown = "its url" if "@" in base_url else repr(base_url)  # what precedes an @ may be a password
        raise UsageError(f"grid source {source}: {shown} is no URL ({error}); write https://HOST") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise UsageError(f"grid source {source}: {base_url!r} is no web address; write https://HOST")
    if url.userinfo:
        raise UsageError(f"grid source {source}: its URL holds a password; give it as a key (docs/grid.md)")
    if url.query or url.fragment:
        raise UsageError(f"grid source {source}: {base_url!r} holds a query or fragment; write the address alone")
    if keyed and url.scheme == "http" and url.host not in _LOOPBACK:
        raise UsageError(
            f"grid source {source}: {url.scheme}://{url.host} would carry the key unencrypted; write https://{url.host}"
        )
    return url


class _Hide(logging.Filter):
    """Leaves out of what httpx and httpcore log whatever a server may have written, and cuts keys out of the rest."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        clean = hide(_SENT.sub(_without, text), _LONGEST)
        if clean != text:
            record.msg, record.args = clean, ()
        return True


#: what a server writes stands in results and exceptions, and in paths that it redirected to
_SENT = re.compile(
    r"(?P<result>(?:return_value|exception)=).+ | (?P<request>HTTP\ Request:\ \w+\ \w+://[^/?\#\s]+).*",
    re.VERBOSE | re.DOTALL,
)
#: of a result and of a request
_STATUS = re.compile(r"""\(b'HTTP/1\.[01]',\ (\d{3}), | "HTTP/1\.[01]\ (\d{3})(?:\ [^"]*)?"$""", re.VERBOSE)


def _without(found: re.Match[str]) -> str:
    status = _STATUS.search(found[0])
    return f"{found['result'] or found['request']} ... {(status[1] or status[2]) if status else ''}".rstrip()


_hide = _Hide()


def _hide_in_logs() -> None:
    for part in ("connection", "http11", "http2", "proxy", "socks"):
        logging.getLogger(f"httpcore.{part}").addFilter(_hide)  # adds it once
    logging.getLogger("httpx").addFilter(_hide)
