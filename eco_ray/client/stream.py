"""Server-sent events as they come in, and where a stream that broke goes on; no request is made here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from eco_ray.api_model import END
from eco_ray.client.core import PASSING, Call, error_of
from eco_ray.errors import EcoRayError, UnreachableError

#: largest event that is taken [bytes]: a server that sends more is none of ours
_EVENT = 4 << 20
#: a stream that is silent for so long is dead: the server shows every 15 s that it lives [s]
SILENT_S = 60.0
#: reconnections in a row without an event, and the wait between two [s]
_IN_VAIN, _MOST_S = 20, 10.0


@dataclass(frozen=True, slots=True)
class Received:
    """An event with data."""

    kind: str
    data: Any


class Place:
    """How far a stream was read: `request` goes on from there."""

    def __init__(self, call: Call[None]) -> None:
        self._call = call
        self._last_id: str | None = None
        self._retry_s = 1.0
        self._in_vain = 0
        #: the last event has come
        self.ended = False
        self._kind, self._data, self._rest, self._size = "", list[str](), b"", 0

    @property
    def request(self) -> dict[str, Any]:
        """For `httpx.Client.build_request`."""
        made = self._call.request
        again = {} if self._last_id is None else {"Last-Event-ID": self._last_id}
        self._begin()
        return {**made, "headers": {**made["headers"], "Accept": "text/event-stream", **again}}

    def take(self, chunk: bytes) -> Iterator[Received]:
        """Events that bytes complete. Raises EcoRayError for what is none of the API."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self._size += len(chunk)
        if len(self._rest) > _EVENT or self._size > 2 * _EVENT:
            raise EcoRayError(f"an event above {_EVENT} bytes in {self._call.path}; check the address")
        for line in lines:
            yield from self._line(line.removesuffix(b"\r").decode("utf-8", "replace"))

    def _line(self, line: str) -> Iterator[Received]:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            self._size = 0
            yield from self._complete()
        elif name == "id":
            self._last_id = value
        elif name == "event":
            self._kind = value
        elif name == "data":
            self._data.append(value)
        elif name == "retry" and value.isascii() and value.isdigit():
            self._retry_s = min(_MOST_S, int(value[:9]) / 1000)

    def wait_s(self) -> float:
        """How long to wait before the stream is opened again [s]. Raises UnreachableError where that helps nothing."""
        self._in_vain += 1
        if self._in_vain > _IN_VAIN:
            raise UnreachableError(
                f"{self._call.path}: the stream broke {_IN_VAIN} times in a row, and nothing came; look at the server"
            )
        return min(_MOST_S, self._retry_s * self._in_vain)

    def refused(self, response: httpx.Response) -> None:
        """No events follow an answer: there are none any more, or later. Raises an error of ours for what stays so."""
        if response.status_code == 204:
            self.ended = True
        elif response.status_code not in PASSING:
            raise error_of(response)

    def was_left(self) -> None:
        """The server ended the stream in its time: that is no failure."""
        self._in_vain = 0

    def _begin(self) -> None:
        """Half an event is none."""
        self._kind, self._data, self._rest, self._size = "", list[str](), b"", 0

    def _complete(self) -> Iterator[Received]:
        kind, text = self._kind, "\n".join(self._data)
        given = bool(self._data)
        self._kind, self._data = "", []
        if not given:
            return
        try:
            data = json.loads(text)
        except ValueError:
            raise EcoRayError(f"{self._call.path} sends events that are no JSON; check the address") from None
        if kind == END:
            self.ended = True
        elif kind != "problem":  # which says why the stream ends: it is opened again
            self._in_vain = 0
            yield Received(kind, data)
