"""A path of the API: who may take it, what it takes, what answers it, and what the OpenAPI document says of it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from pydantic import BaseModel

from eco_ray.core.keys import Scope
from eco_ray.service import http
from eco_ray.service.control.query import Parameter
from eco_ray.service.http import JSON, VARY, Answer, Headers, Receive
from eco_ray.service.problems import Header

#: no scope of its own says who may submit and steer jobs: this is the one whose holder may run code on the cluster
CHANGE = Scope.DEPLOY
READ = Scope.READ
#: what is told changes any time, and to whom depends on the key
_PRIVATE: Header = (b"cache-control", b"private, no-cache")


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that has passed the gate."""

    #: whose things are there for it; None: everybody's, in a service without keys whose caller named no tenant
    tenant: str | None
    #: parts of the path, by name
    parts: Mapping[str, str]
    query: Mapping[str, Any]
    headers: Headers
    receive: Receive
    path: str
    body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def of(self) -> str:
        """Whose calls and streams are counted together."""
        return self.tenant or ""


@dataclass(frozen=True, slots=True)
class Good:
    """An answer that is no problem."""

    description: str
    #: a model, a list of them, or None for no body
    model: Any = None
    example: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    media: str = "application/json"


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent."""

    schema: Mapping[str, Any]
    example: Mapping[str, Any]
    required: bool = True


@dataclass(frozen=True, slots=True)
class Route:
    """A path with a method."""

    method: str
    #: with parts in braces
    path: str
    summary: str
    act: Callable[[Ask], Awaitable[Answer]]
    scope: Scope
    good: Mapping[int, Good]
    parameters: Sequence[Parameter] = ()
    body: Body | None = None
    #: statuses of problems, beside those that all have
    problems: Sequence[int] = ()
    #: name, description and pattern of headers that are read
    reads: Sequence[tuple[str, str, str]] = ()

    @property
    def pattern(self) -> re.Pattern[str]:
        """Of its path."""
        return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.path))


def told(content: Any, headers: Headers, status: int = 200, *more: Header) -> Answer:
    """A document as an answer, compressed where that is asked for."""
    return http.encoded(Answer(status, [JSON, VARY, _PRIVATE, *more], dumped(content)), headers)


def dumped(content: Any) -> bytes:
    """As JSON; what it cannot say, infinities and NaN of programs, is not known to the reader: null."""
    try:
        return json.dumps(content, allow_nan=False).encode()
    except ValueError:
        return json.dumps(_finite(content), allow_nan=False).encode()


def link(ask: Ask, cursor: str) -> Header:
    """Where the list goes on (RFC 8288), relative to the server: a proxy may have another name."""
    pairs = [(name, one) for name, value in ask.query.items() if name != "cursor" for one in _texts(value)]
    query = urlencode([*pairs, ("cursor", cursor)])
    return (b"link", f'<{quote(ask.path)}?{query}>; rel="next"'.encode())


def filters(ask: Ask) -> str:
    """What a cursor is of: the path, and all that was asked but how much at once."""
    rest = sorted((name, str(value)) for name, value in ask.query.items() if name not in ("cursor", "limit"))
    return f"{ask.path}?{rest}"


def is_model(model: Any) -> bool:
    """Whether it is one document, not a list of them."""
    return isinstance(model, type) and issubclass(model, BaseModel)


def _texts(value: Any) -> list[str]:
    from eco_ray.times import iso_utc

    if value is None:
        return []
    if isinstance(value, tuple):
        return [str(one) for one in value]
    if isinstance(value, float):  # an instant; not rounded, so that the next page is of the same span
        return [iso_utc(value)] if value == int(value) else [_exact(value)]
    return [str(value).lower() if isinstance(value, bool) else str(value)]


def _exact(time_s: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(time_s, UTC).isoformat()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value
