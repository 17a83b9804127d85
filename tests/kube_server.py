"""A small Kubernetes API server on loopback: RayJobs and events, over real HTTP.

It has what a controller meets: discovery, lists and watches from a resource version on, merge patches with a
precondition (409), versions that are too old (410), tokens (401) and RBAC (403). Watches can be dropped, the server can
be stopped and started again with what it holds, and a request can be held up before or after it has taken effect.

    with KubeServer() as server:
        server.put(a_rayjob())
        server.requests     what was asked: (method, path, status)
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from rayjob_cases import merged

TOKEN = "a-service-account-token"
#: (verb, resource) that docs/suspend-controller.md gives the controller
RIGHTS = frozenset({(verb, "rayjobs") for verb in ("get", "list", "watch", "patch")} | {("create", "events")})
_RESOURCES = {
    "/api/v1": [("events", "Event", ["create"]), ("namespaces", "Namespace", ["list"])],
    "/apis/ray.io/v1": [
        ("rayjobs", "RayJob", ["get", "list", "patch", "watch"]),
        ("rayjobs/status", "RayJob", ["patch"]),
    ],
    "/apis/apiextensions.k8s.io/v1": [("customresourcedefinitions", "CustomResourceDefinition", ["list", "watch"])],
}
#: how often a test looks whether something holds [s]
_LOOK_S = 0.02
_OBJECTS = re.compile(r"/apis/ray\.io/v1(?:/namespaces/(?P<namespace>[^/]+))?/rayjobs(?:/(?P<name>[^/]+))?")
_EVENTS = re.compile(r"/api/v1/namespaces/(?P<namespace>[^/]+)/events")

Key = tuple[str, str]


class KubeServer:
    """Holds RayJobs; a context manager that serves while it is open."""

    def __init__(self, rights: frozenset[tuple[str, str]] = RIGHTS) -> None:
        self.rights = rights
        self.token = TOKEN
        self.objects: dict[Key, dict[str, Any]] = {}
        #: what was posted
        self.events: list[dict[str, Any]] = []
        #: method, path with query, status
        self.requests: list[tuple[str, str, int]] = []
        #: patches that took effect: key, patch
        self.patched: list[tuple[Key, dict[str, Any]]] = []
        #: called with method and path before a request takes effect, and before it is answered
        self.before: Callable[[str, str], None] | None = None
        self.after: Callable[[str, str], None] | None = None
        #: answer everything with this status instead
        self.failing: int | None = None
        #: whether who is waited for still runs
        self.alive: Callable[[], bool] = lambda: True
        self._version = 100
        #: watch events: version, type, object; older ones than `_oldest` are forgotten
        self._history: list[tuple[int, str, dict[str, Any]]] = []
        self._oldest = 100
        self._changed = threading.Condition()
        self._generation = 0
        self._port = 0
        self._http: ThreadingHTTPServer | None = None

    # -- what a test does to it ----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it listens, or listened."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._http = _Http(("127.0.0.1", self._port), _handler(self))
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Listen no more, and cut all watches; what it holds stays."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None
        self.drop_watches()

    def put(self, body: Mapping[str, Any]) -> None:
        """Create an object, or merge into the one that is there."""
        key = body["metadata"]["namespace"], body["metadata"]["name"]
        with self._changed:
            kind = "MODIFIED" if key in self.objects else "ADDED"
            self._store(key, merged(self.objects.get(key, {}), body), kind)

    def delete(self, name: str, namespace: str = "default") -> None:
        """Remove an object."""
        with self._changed:
            body = self.objects.pop((namespace, name))
            self._version += 1
            gone = merged(body, {"metadata": {"resourceVersion": str(self._version)}})
            self._history.append((self._version, "DELETED", gone))
            self._changed.notify_all()

    def get(self, name: str, namespace: str = "default") -> dict[str, Any]:
        """An object as it is now."""
        with self._changed:
            return self.objects[namespace, name]

    def forget_history(self) -> None:
        """As after a compaction: watches from older versions are answered with 410."""
        with self._changed:
            self._history.clear()
            self._version += 1
            self._oldest = self._version

    def drop_watches(self) -> None:
        """Cut the connections of all watches that run."""
        with self._changed:
            self._generation += 1
            self._changed.notify_all()

    def asked(self, method: str, part: str = "") -> list[tuple[str, str, int]]:
        """The requests of a method whose path has a part."""
        return [one for one in list(self.requests) if one[0] == method and part in one[1]]

    def wait(self, holds: Callable[[], object], what: str, timeout_s: float = 100.0) -> None:
        """Until something holds; fails after `timeout_s`, in which time that this process is stopped does not count."""
        for _ in range(round(timeout_s / _LOOK_S)):
            if holds():
                return
            assert self.alive(), f"{what} cannot come: the process has ended"
            time.sleep(_LOOK_S)
        raise AssertionError(f"{what} did not come within {timeout_s} s; asked: {self.requests[-8:]}")

    # -- what it answers -----------------------------------------------------------------------------------------------

    def answer(self, asked: _Asked) -> None:
        """One request: who asks, what for, and may they."""
        path = asked.path
        if self.failing is not None:
            return asked.fail(self.failing, "it is told to fail")
        if asked.headers.get("Authorization") != f"Bearer {self.token}":
            return asked.fail(401, "Unauthorized")
        found = _discovery(path)
        if found is not None:
            return asked.send(200, found)
        objects, events = _OBJECTS.fullmatch(path), _EVENTS.fullmatch(path)
        watches = asked.query.get("watch") == "true"
        if objects:
            namespace, name = objects["namespace"], objects["name"]
            verb = {"PATCH": "patch"}.get(asked.method, "get" if name else "watch" if watches else "list")
            resource = "rayjobs"
        elif events and asked.method == "POST":
            verb, resource, namespace, name = "create", "events", events["namespace"], None
        else:
            return asked.fail(404, "no such path")
        if (verb, resource) not in self.rights:
            return asked.fail(403, f"cannot {verb} resource {resource}")
        if resource == "events":
            self.events.append(asked.body())
            return asked.send(201, asked.body())
        if verb == "watch":
            return self._watch(asked, namespace)
        if verb == "list":
            return asked.send(200, self._list(namespace))
        return self._one(asked, (namespace, name), verb)

    def _one(self, asked: _Asked, key: Key, verb: str) -> None:
        with self._changed:
            body = self.objects.get(key)
            if body is None:
                return asked.fail(404, f"rayjobs {key[1]!r} not found")
            if verb == "patch":
                if asked.headers.get("Content-Type") != "application/merge-patch+json":
                    return asked.fail(415, "the media type is not supported")
                patch = asked.body()
                wanted = patch.get("metadata", {}).get("resourceVersion")
                if wanted is not None and wanted != body["metadata"]["resourceVersion"]:
                    return asked.fail(
                        409, "the object has been modified; please apply your changes to the latest version"
                    )
                body = self._store(key, merged(body, patch), "MODIFIED")
                self.patched.append((key, patch))
        return asked.send(200, body)

    def _store(self, key: Key, body: dict[str, Any], kind: str) -> dict[str, Any]:
        self._version += 1
        stored = merged(body, {"metadata": {"resourceVersion": str(self._version)}})
        self.objects[key] = stored
        self._history.append((self._version, kind, stored))
        self._changed.notify_all()
        return stored

    def _list(self, namespace: str | None) -> dict[str, Any]:
        with self._changed:
            items = [body for (where, _), body in self.objects.items() if namespace in (None, where)]
            meta = {"resourceVersion": str(self._version)}
        return {"kind": "RayJobList", "apiVersion": "ray.io/v1", "metadata": meta, "items": items}

    def _watch(self, asked: _Asked, namespace: str | None) -> None:
        since = int(asked.query.get("resourceVersion", "0"))
        asked.begin()
        with self._changed:
            generation = self._generation
        while True:
            with self._changed:
                if since < self._oldest:
                    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
                    news = [(since, "ERROR", gone)]
                else:
                    news = [one for one in self._history if one[0] > since]
                if not news:
                    self._changed.wait(0.5)
                if generation != self._generation:
                    return
            for version, kind, body in news:
                if kind == "ERROR" or namespace in (None, body["metadata"]["namespace"]):
                    asked.chunk({"type": kind, "object": body})
                since = version
                if kind == "ERROR":
                    return


def _discovery(path: str) -> dict[str, Any] | None:
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        versions = [{"groupVersion": f"{group}/v1", "version": "v1"} for group in ("ray.io", "apiextensions.k8s.io")]
        groups = [
            {"name": one["groupVersion"].split("/")[0], "versions": [one], "preferredVersion": one} for one in versions
        ]
        return {"kind": "APIGroupList", "groups": groups}
    if path not in _RESOURCES:
        return None
    resources = [
        {
            "name": name,
            "singularName": name[:-1],
            "kind": kind,
            "namespaced": kind in ("Event", "RayJob"),
            "verbs": verbs,
        }
        for name, kind, verbs in _RESOURCES[path]
    ]
    return {"kind": "APIResourceList", "groupVersion": path.removeprefix("/apis/"), "resources": resources}


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, *_: object) -> None:
        """Whoever was killed has cut its connection."""


class _Asked:
    """One request, and how it is answered."""

    def __init__(self, handler: BaseHTTPRequestHandler, server: KubeServer) -> None:
        parts = urlsplit(handler.path)
        self.method, self.path, self.headers = handler.command, parts.path, handler.headers
        self.query = dict(parse_qsl(parts.query))
        self._handler, self._server = handler, server
        self._raw = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))

    def body(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._raw)
        return found

    def fail(self, status: int, message: str) -> None:
        self.send(status, {"kind": "Status", "status": "Failure", "code": status, "message": message})

    def send(self, status: int, value: Any) -> None:
        raw = json.dumps(value).encode()
        self._note(status)
        if self._server.after is not None:
            self._server.after(self.method, self.path)
        self._handler.send_response(status)
        self._handler.send_header("Content-Type", "application/json")
        self._handler.send_header("Content-Length", str(len(raw)))
        self._handler.end_headers()
        self._handler.wfile.write(raw)

    def begin(self) -> None:
        self._note(200)
        self._handler.send_response(200)
        self._handler.send_header("Content-Type", "application/json")
        self._handler.send_header("Transfer-Encoding", "chunked")
        self._handler.end_headers()
        self._handler.close_connection = True

    def chunk(self, value: Any) -> None:
        raw = json.dumps(value).encode() + b"\n"
        self._handler.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        self._handler.wfile.flush()

    def _note(self, status: int) -> None:
        self._server.requests.append((self.method, self._handler.path, status))


def _handler(server: KubeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Quiet."""

        def _serve(self) -> None:
            asked = _Asked(self, server)
            if server.before is not None:
                server.before(asked.method, asked.path)
            server.answer(asked)

        do_GET = do_PATCH = do_POST = _serve

    return Handler
