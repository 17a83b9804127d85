"""A real HTTP server on loopback that answers as a test tells it to, and remembers what it was asked.

    with GridServer() as server:
        server.on("/v4/latest", as_json({"zone": "DE"}))                     the same answer every time
        server.on("/login", as_json({}, status=401), as_json({"token": "t"}))  one after the other; the last one stays
        server.on("/intensity/*", lambda asked: as_json({"path": asked.path}))  by prefix, made from the request
        httpx.get(server.url + "/v4/latest")
        assert server.requests[0].query == {}

A path without a route is answered with 501, which no client may take for "no data".
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came."""

    method: str
    #: unescaped, without the query
    path: str
    #: unescaped; of a name that stands twice the last value
    query: Mapping[str, str]
    #: names in lower case
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send. As it stands: status 200 with an empty body."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    #: wait before the status line [s]
    delay_s: float = 0.0
    #: pieces of the body that are sent one after the other, with a pause after each [bytes, s]
    piece: int = 65_536
    drip_s: float = 0.0
    #: cut the connection after this much of the body, whose whole length was announced [bytes]
    cut_after: int | None = None
    #: written, in the same pieces, instead of everything else; then the connection is cut
    raw: bytes | None = None


Answers = Answer | Callable[[Asked], Answer]


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """A JSON answer; NaN and Infinity are written as Python does, which is no JSON."""
    return as_text(json.dumps(value), status, {"Content-Type": "application/json", **(headers or {})})


def as_text(value: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """A text answer, sent as UTF-8."""
    return Answer(value.encode(), status, {"Content-Type": "text/plain; charset=utf-8", **(headers or {})})


def as_xml(value: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """An XML answer."""
    return Answer(value.encode(), status, {"Content-Type": "text/xml", **(headers or {})})


def redirect(target: str, status: int = 302) -> Answer:
    """A redirect; `target` may be a path or a URL."""
    return Answer(b"moved", status, {"Location": target})


class GridServer:
    """Serves in threads of its own from `with` until its end."""

    def __init__(self) -> None:
        self._routes: dict[str, list[Answers]] = {}
        #: everything that was asked, in order
        self.requests: list[Asked] = []
        self._lock = threading.Lock()
        self._http = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        #: set at the end, so that no slow answer outlives its test
        self._stop = threading.Event()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._http.server_address[1])

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def on(self, path: str, *answers: Answers) -> None:
        """Answer a path, or with `*` at its end all that begin so, from now on; the longest matching route wins."""
        with self._lock:
            self._routes[path] = list(answers)

    def routes(self) -> list[str]:
        """What is answered."""
        with self._lock:
            return list(self._routes)

    def answers(self, route: str) -> list[Answers]:
        """What a route answers, from now on."""
        with self._lock:
            return list(self._routes[route])

    def paths(self) -> list[str]:
        """The paths of all requests, in order."""
        return [asked.path for asked in self.requests]

    def answer(self, asked: Asked) -> Answer:
        """The answer to a request, which is remembered."""
        with self._lock:
            self.requests.append(asked)
            answers = self._found(asked.path)
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return answer(asked) if callable(answer) else answer

    def wait(self, seconds: float) -> bool:
        """Wait, but not beyond the end of the server; whether it goes on."""
        return not self._stop.wait(seconds)

    def _found(self, path: str) -> list[Answers]:
        if path in self._routes:
            return self._routes[path]
        prefixes = [route for route in self._routes if route.endswith("*") and path.startswith(route[:-1])]
        if prefixes:
            return self._routes[max(prefixes, key=len)]
        return [as_json({"error": f"the test's server has no route {path}"}, status=501)]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gives up in the middle is what many tests are about."""


def _handler(server: GridServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept, as real servers do
        timeout = 30

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            asked = Asked(
                method=self.command,
                path=unquote(parts.path),
                query=dict(parse_qsl(parts.query, keep_blank_values=True)),
                headers={name.lower(): value for name, value in self.headers.items()},
            )
            answer = server.answer(asked)
            if answer.delay_s and not server.wait(answer.delay_s):
                return
            if answer.raw is not None:
                self._send(answer.raw, answer)
                self._cut()
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self._send(answer.body[: answer.cut_after], answer)
            if answer.cut_after is not None:
                self._cut()

        def _send(self, data: bytes, answer: Answer) -> None:
            for start in range(0, len(data), answer.piece):
                self.wfile.write(data[start : start + answer.piece])
                if answer.drip_s and not server.wait(answer.drip_s):
                    break

        def _cut(self) -> None:
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: object) -> None:
            """Tests read `requests`."""

    return Handler


def closed_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
