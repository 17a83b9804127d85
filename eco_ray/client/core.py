"""What the client asks, what it makes of an answer, and when it asks again; no request is made here.

`sync.py` and `aio.py` send what this says, wait as long as it says, and give it what came.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import httpx

from eco_ray.core import keys
from eco_ray.errors import (
    EcoRayError,
    InfeasibleError,
    NotAllowedError,
    NotFoundError,
    UnreachableError,
    UsageError,
)

T = TypeVar("T")

#: how often one thing is asked, and what is waited in between: doubled each time, with chance, up to the most [s]
TRIES = 6
_FIRST_S, _MOST_S = 0.2, 8.0
#: away, busy or limited for the moment
PASSING = frozenset((429, 502, 503, 504))
#: of a problem that is shown [characters]
_SHOWN = 2000
#: before which nothing was sent
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_ERRORS: Mapping[int, type[EcoRayError]] = {
    400: UsageError, 401: NotAllowedError, 403: NotAllowedError, 404: NotFoundError, 409: UsageError, 413: UsageError,
    415: UsageError, 422: InfeasibleError, 429: NotAllowedError,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """Something that is asked, and what an answer is made into."""

    method: str
    path: str
    parse: Callable[[httpx.Response], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    #: whether it comes to the same however often it is done: it is then asked again when nobody knows whether it was
    repeatable: bool = True

    @property
    def request(self) -> dict[str, Any]:
        """For `httpx.Client.build_request`."""
        given = {name: value for name, value in self.params.items() if value not in (None, ())}
        # without any, the query that the path has stays
        asked = {"method": self.method, "url": self.path, "params": given or None, "headers": dict(self.headers)}
        return asked if self.json is None else {**asked, "json": self.json}


class Tries:
    """The tries of one call: after each that failed, how long to wait for the next."""

    def __init__(self, call: Call[Any], chance: Callable[[], float] = random.random, tries: int = TRIES) -> None:
        self._call, self._chance, self._left, self._wait_s = call, chance, tries, _FIRST_S

    def after_error(self, error: httpx.TransportError) -> float:
        """How long to wait [s]. Raises UnreachableError where another try is one too many, or might do it twice."""
        again = self._call.repeatable or isinstance(error, _NOT_SENT)
        wait_s = self._next_s(0.0) if again else None
        if wait_s is None:
            what = f"{self._call.method} {self._call.path}"
            cure = "check the address and the network" if again else "it may have been done: look before you ask again"
            raise UnreachableError(f"{what}: no answer ({error or type(error).__name__}); {cure}") from error
        return wait_s

    def after_answer(self, response: httpx.Response) -> float | None:
        """How long to wait [s]; None: it is an answer, good or not."""
        passing = response.status_code in PASSING
        # 429 and a server that is busy have done nothing; of other 5xx nobody knows
        if not passing or not (self._call.repeatable or response.status_code == 429):
            return None
        return self._next_s(_retry_after_s(response))

    def _next_s(self, at_least_s: float) -> float | None:
        self._left -= 1
        if self._left <= 0 or at_least_s > _MOST_S:
            return None
        wait_s = max(at_least_s, self._wait_s * (0.5 + self._chance()))
        self._wait_s = min(_MOST_S, 2 * self._wait_s)
        return wait_s


def result(call: Call[T], response: httpx.Response) -> T:
    """What an answer says. Raises an error of ours for a problem, and EcoRayError for what is no answer of the API."""
    if response.status_code >= 300:
        raise error_of(response)
    try:
        return call.parse(response)
    except ValueError as error:  # pydantic's, and of JSON
        raise EcoRayError(
            f"{call.method} {call.path} was answered with something else than the API tells "
            f"({str(error).splitlines()[0][:200]}); check the address"
        ) from error


def error_of(response: httpx.Response) -> EcoRayError:
    """The error that a refusal means; its words are those of the server."""
    status = response.status_code
    try:
        problem = response.json()
        detail = str(problem["detail"])[:_SHOWN]
    except (ValueError, TypeError, KeyError):
        where = f"{response.request.method} {response.request.url.copy_with(query=None)}"
        detail = f"{where} was answered with {status}, by no eco_ray; check the address"
    kind = _ERRORS.get(status, UnreachableError if status >= 500 else EcoRayError)
    return kind(detail)


def checked_address(address: str, key: str | None) -> str:
    """The address without what ends it. Raises UsageError; a key does not go over an open network in clear."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"address {address!r:.100} is none of the API; give https://HOST, or http://127.0.0.1:PORT")
    if parts.username or parts.password:
        raise UsageError("the address has a password in it; leave it out, and give key=")
    if key and parts.scheme == "http" and keys.needed([parts.hostname]):
        raise UsageError(f"http://{parts.hostname} would show the key to everybody on the way; use https://")
    return address.rstrip("/")


def paged(call: Call[list[T]]) -> Call[tuple[list[T], Call[list[T]] | None]]:
    """A page, and the call of the next one."""

    def parse(response: httpx.Response) -> tuple[list[T], Call[list[T]] | None]:
        link = response.links.get("next", {}).get("url")
        # of another server than the one that has the key, only the path is taken
        where = None if link is None else urlsplit(link)
        following = None if where is None else Call(call.method, f"{where.path}?{where.query}", call.parse)
        return call.parse(response), following

    return Call(call.method, call.path, parse, call.params)


def _retry_after_s(response: httpx.Response) -> float:
    told = response.headers.get("retry-after", "")
    return float(told) if told.isascii() and told.isdigit() and len(told) < 9 else 0.0
