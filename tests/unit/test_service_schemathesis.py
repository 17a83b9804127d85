"""Each application keeps to its own OpenAPI document, whatever schemathesis makes of it: no 5xx, and nothing untold."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from openai_cases import Parrot, Vectors
from service_cases import Echo, footprint
from service_server import Server
from test_service_key_gate import Case, credential
from test_usage_app import ONE, SETTLED

from eco_ray.core.limits import TenantLimits
from eco_ray.core.usage import State, Usage
from eco_ray.errors import UnreachableError
from eco_ray.service import usage
from eco_ray.service.app import ModelApp
from eco_ray.service.aside import VERSION_HEADER, AsideApp, BesideApp, Other, Turns
from eco_ray.service.http import VARIANT
from eco_ray.service.limits import Limits
from eco_ray.service.router import Router
from eco_ray.service.usage import UsageApp

#: so that most bodies are read
PLAIN = ("--header", "Content-Encoding: identity")
LIMITS = Limits(batch=4, elements=64, max_tokens=16)
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "negative_data_rejection", "unsupported_method", "allow_header_conformance"),
    "ignored_auth",
)


class Explained(Echo):
    """Says why."""

    def explain(self, inputs: Any, target: int | None) -> Any:
        return {"x": inputs["x"].astype("<f4")}


class Watched:
    """Counts the statuses of an application's answers, by method and path."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.seen: Counter[tuple[str, str, int]] = Counter()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def heard(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.seen[scope["method"], scope["path"], message["status"]] += 1
            await send(message)

        await self.app(scope, receive, heard if scope["type"] == "http" else send)


class Told(Watched):
    """Counts the versions that answers say they are by."""

    def __init__(self, app: Any) -> None:
        super().__init__(self._heard)
        self.by: Counter[tuple[str, ...]] = Counter()
        self._telling = app

    async def _heard(self, scope: Any, receive: Any, send: Any) -> None:
        async def heard(message: Any) -> None:
            if message["type"] == "http.response.start" and "openapi" not in scope["path"]:
                headers = dict(message["headers"])
                self.by[tuple(headers.get(name, b"").decode() for name in (VERSION_HEADER, VARIANT))] += 1
            await send(message)

        await self._telling(scope, receive, heard if scope["type"] == "http" else send)


def asked(url: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Schemathesis, with the same requests each time."""
    command = [Path(sys.executable).with_name("st"), "run", url, "--generation-deterministic", "--no-color"]
    bounds = ["--max-examples", "10", "--phases", "examples,coverage,fuzzing", "--warnings", "off"]
    # other names of the same
    fewer = ["--exclude-path-regex", "/versions/|/openai/v1/"]
    checks = ["--checks", ",".join(CHECKS)]
    with TemporaryDirectory() as folder:  # it keeps notes where it runs
        whole = [*command, *bounds, *fewer, *checks, *more]
        return subprocess.run(whole, cwd=folder, capture_output=True, text=True, timeout=220)


def holds(app: Any, *more: str, document: str = "/openapi.json") -> Counter[tuple[str, str, int]]:
    """Ask the application all that its document tells; statuses of its answers, by method and path."""
    watched = Watched(app)
    server = Server(watched)
    try:
        done = asked(f"{server.url}{document}", *more)
    finally:
        server.stop()
    assert (done.returncode, " passed" in done.stdout.rpartition("Test cases:")[2]) == (0, True), done.stdout
    return watched.seen


def statuses(seen: Counter[tuple[str, str, int]], part: str) -> set[int]:
    return {status for _, path, status in seen if part in path}


def tensors() -> ModelApp:
    return ModelApp(Explained("UINT8", (-1, 2, 2), deterministic=True), footprint, limits=LIMITS)


def vectors(name: str = "echo", **more: Any) -> ModelApp:
    return ModelApp(Vectors(name=name), footprint, limits=LIMITS, **more)


def parrot(name: str = "echo") -> ModelApp:
    return ModelApp(Parrot(name=name), footprint, limits=LIMITS)


@pytest.mark.parametrize(
    ("app", "paths"),
    [
        (tensors(), ["/echo/infer", "/echo/explain"]),
        (vectors(), ["/echo/infer", "/embeddings"]),
        (parrot(), ["/chat/completions", "/v1/completions"]),
    ],
    ids=["tensors", "vectors", "parrot"],
)
def test_a_model_keeps_to_its_document(app: ModelApp, paths: list[str]) -> None:
    seen = holds(app, *PLAIN)
    for path in paths:
        assert {200, 400} <= statuses(seen, path)


def test_a_model_with_a_variant_keeps_to_its_document_whoever_answers() -> None:
    small = Server(
        BesideApp(ModelApp(Vectors(version=3), footprint, limits=LIMITS), "/variant/echo", 3, is_variant=True)
    )
    app = AsideApp(vectors(), "/v2/models/echo/versions/", 2, footprint)
    app.other = Other(3, f"{small.url}/variant/echo", Turns(lambda: 0.5), is_variant=True)
    told = Told(app)
    try:
        seen = holds(told, *PLAIN, "--include-path-regex", "embeddings|infer")
    finally:
        small.stop()
    assert {200, 400} <= statuses(seen, "/embeddings")
    assert set(told.by) == {("2", "large"), ("3", "small")}  # each answer says by which
    assert min(told.by.values()) > 10


def test_codings_keys_and_limits_keep_to_the_document() -> None:
    limited = Case(TenantLimits(requests_per_s=100.0, burst=20)).gate
    key = f"Authorization: Bearer {credential('i').text}"
    few = ("--max-examples", "5", "--include-path-regex", "embeddings|livez")
    seen = holds(vectors(gate=limited), "--header", key, *few)
    assert {200, 400, 403, 415, 429} <= statuses(seen, "/embeddings")
    seen = holds(vectors(gate=limited), *few)
    assert {204, 401, 405} == statuses(seen, "/embeddings")
    assert 200 in statuses(seen, "/livez")


@pytest.mark.parametrize(("make", "part"), [(vectors, "embeddings"), (parrot, "completions")])
def test_the_router_keeps_to_its_document(make: Any, part: str) -> None:
    model = Server(make("NAME"))
    places = {"NAME": model.url}
    try:
        seen = holds(Router(lambda: places, limits=LIMITS), *PLAIN)
    finally:
        model.stop()
    for path in ("/v1/", "/models/NAME/v1/"):
        assert {200, 400} <= {status for _, at, status in seen if at.startswith(path) and part in at}
    assert {200, 404} <= statuses(seen, "/v1/models/")


def test_usage_keeps_to_its_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "_WRITTEN_S", 0.0)
    known = [None, SETTLED, Usage(ONE, State.ESTIMATE), Usage(ONE, State.UNKNOWN)]

    def looked_up(tenant: str, request_id: str) -> Usage | None:
        if request_id.startswith("z"):
            raise UnreachableError("a node does not answer")
        return known[ord(request_id[0]) % len(known)]

    seen = holds(UsageApp(looked_up), "--max-examples", "100", document=f"{usage.BASE}openapi.json")
    assert {200, 400, 404} <= statuses(seen, usage.PREFIX)


def test_what_does_not_keep_to_it_is_found() -> None:
    class Fails(Vectors):
        def infer(self, inputs: Any) -> Any:
            raise RuntimeError("a bug")

    class Untold(Watched):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def other(message: Any) -> None:
                await send({**message, **({"status": 418} if message.get("status") == 400 else {})})

            await self.app(scope, receive, other)

    for app, words in (
        (ModelApp(Fails(), footprint, limits=LIMITS), "Server error"),
        (Untold(vectors()), "Undocumented status code"),
    ):
        with pytest.raises(AssertionError, match=words):
            holds(app, "--include-path-regex", "embeddings", *PLAIN, "--max-failures", "1", "--no-shrink")
