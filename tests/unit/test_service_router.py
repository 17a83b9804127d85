"""One address for all models: what is passed on, what is refused, and who notices that another one has left."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
import zstandard
from openai_cases import Parrot, Vectors, chat, one_key
from service_cases import Echo, ask, footprint
from service_server import Server

from eco_ray.service.app import ModelApp
from eco_ray.service.limits import Limits
from eco_ray.service.problems import Problem
from eco_ray.service.router import Place, Router


class House:
    """Two models in servers of their own, and a router before them."""

    def __init__(self) -> None:
        self.parrot = Parrot(name="parrot", context_tokens=2000, pause_s=0.01)
        self.seen: list[Mapping[bytes, bytes]] = []
        models = {
            "parrot": ModelApp(self.parrot, footprint, gate=one_key),
            "vectors": ModelApp(Vectors(name="vectors"), footprint),
        }
        self.servers = {name: Server(self.listened(app)) for name, app in models.items()}
        self.places = {name: server.url for name, server in self.servers.items()}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.places["away"] = f"http://127.0.0.1:{free.getsockname()[1]}"
        self.router = Router(lambda: self.places, resolve=self.resolve, limits=Limits(body_bytes=1 << 20))
        self.front = Server(self.router)

    def listened(self, app: ModelApp) -> Any:
        async def heard(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                self.seen.append(dict(scope["headers"]))
            await app(scope, receive, send)

        return heard

    def resolve(self, reference: str) -> Place | None:
        name = {"vectors@prod": "vectors", "vectors:2": "vectors"}.get(reference, reference)
        return (name, self.places[name]) if name in self.places else None

    def stop(self) -> None:
        for server in (self.front, *self.servers.values()):
            server.stop()


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    house = House()
    yield house
    house.stop()


@pytest.fixture
def front(house: House) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=house.front.url, headers={"Authorization": "Bearer good"}) as client:
        yield client


@pytest.mark.parametrize("reference", ["vectors", "vectors:2", "vectors@prod"])
def test_a_request_goes_where_its_model_is(house: House, front: httpx.Client, reference: str) -> None:
    content = {"model": reference, "input": "abc"}
    headers = {
        "X-Request-Id": "r-1",
        "Eco-Tenant": "t",
        "Connection": "keep-alive, X-Mine",
        "X-Mine": "1",
        "Accept": "a/b",
    }
    got = front.post("/v1/embeddings", json=content, headers=headers)
    assert (got.status_code, got.json()["data"][0]["embedding"]) == (200, [3.0, 0.5, -1.0])
    assert got.headers.get_list("x-request-id") == ["r-1"]
    assert got.headers["eco-footprint"]
    heard = house.seen[-1]
    assert (heard[b"x-request-id"], heard[b"eco-tenant"], heard[b"accept"]) == (b"r-1", b"t", b"a/b")
    assert b"x-mine" not in heard
    again = front.post("/v1/embeddings", json=content, headers={**headers, "If-None-Match": got.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress, bytes])
@pytest.mark.parametrize("late", [False, True])
def test_the_model_is_found_wherever_it_stands_and_in_whatever_coding(
    house: House, front: httpx.Client, pack: Any, late: bool
) -> None:
    texts = ["x" * 1000] * 100
    content = {"input": texts, "model": "vectors"} if late else {"model": "vectors", "input": texts}
    coding = {gzip.compress: "gzip", zstandard.compress: "zstd"}.get(pack)
    headers = {"Content-Encoding": coding} if coding else {}
    got = front.post("/v1/embeddings", content=pack(json.dumps(content).encode()), headers=headers)
    assert (got.status_code, len(got.json()["data"])) == (200, 100)


def test_a_models_own_path_is_passed_on_as_it_is(house: House, front: httpx.Client) -> None:
    assert front.get("/models/vectors/v1/models/vectors").json()["id"] == "vectors"
    assert front.options("/models/vectors/v1/embeddings").headers["allow"] == "OPTIONS, POST"
    assert front.head("/models/vectors/v1/models").headers["content-length"]
    got = front.post("/models/vectors/v1/embeddings", json={"model": "vectors", "input": "a"})
    assert got.json()["data"][0]["embedding"][0] == 1.0
    assert front.post("/models/vectors/v1/completions?a=b", json={}).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"model": "nobody"}', 404, "model_not_found"),
        (b'{"model": "vectors@nobody"}', 404, "model_not_found"),
        (b'{"model": "../../v2"}', 404, "model_not_found"),
        (b'{"model": "vectors/../parrot"}', 404, "model_not_found"),
        (b'{"model": "vectors\\r\\nX: y"}', 404, "model_not_found"),
        (b'{"model": "vectors?a"}', 404, "model_not_found"),
        (b'{"model": "' + b"v" * 500_000 + b'"}', 404, "model_not_found"),
        (b'{"model": ["vectors"]}', 400, "missing_required_parameter"),
        (b'{"input": "a"}', 400, "missing_required_parameter"),
        (b"{", 400, "not_JSON"),
        (b"[]", 400, "no_object"),
        (b"[" * 100_000, 400, "not_JSON"),
        (b'{"a": ' + b"[" * 1_000_001, 413, None),
        (b"", 400, "not_JSON"),
    ],
)
def test_what_names_no_model_is_refused(front: httpx.Client, body: bytes, status: int, code: str | None) -> None:
    got = front.post("/v1/chat/completions", content=body)
    assert got.status_code == status
    assert code is None or got.json()["error"]["code"] == code
    assert len(got.content) < 2000


@pytest.mark.parametrize(
    "path",
    [
        "/models/vectors/v1/../../parrot/v1/models", "/models/vectors/v1/%2e%2e/models", "/models//v1/models",
        "/models/vectors/v1//models", "/models/vectors/v1/a%0d%0ab", "/models/vectors/v1", "/models/vectors/v2/models",
        "/v1/nothing", "/v2/models/vectors", "/" + "a" * 10_000, "/models/" + "a" * 101 + "/v1/models",
        "/v1/models/a%00b",
        "/models/vectors/v1/a?b#c/%", "/v1/models/../x",
    ],
)  # fmt: skip
def test_odd_paths_lead_nowhere(house: House, path: str) -> None:
    seen = len(house.seen)
    raw = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    with house.front.connect() as one:
        one.sendall(raw)
        answer = b""
        while part := one.recv(65536):
            answer += part
    assert answer.split(b" ", 2)[1] in (b"400", b"404")
    assert len(house.seen) <= seen + ("?" in path)


def test_pages_list_and_methods(house: House, front: httpx.Client) -> None:
    assert [one["id"] for one in front.get("/v1/models").json()["data"]] == ["parrot", "vectors", "away"]
    assert front.get("/v1/models/vectors:2").json()["id"] == "vectors:2"
    assert front.get("/v1/models/nobody").json()["error"]["code"] == "model_not_found"
    assert (front.get("/livez").status_code, front.get("/readyz").status_code) == (200, 200)
    assert "/v1/chat/completions" in front.get("/openapi.json").json()["paths"]
    assert 'eco_router_requests_total{status="200"}' in front.get("/metrics").text
    got = front.get("/v1/embeddings")
    assert (got.status_code, got.headers["allow"]) == (405, "OPTIONS, POST")
    assert front.options("/v1/models").headers["allow"] == "GET, HEAD, OPTIONS"
    guarded = Router(lambda: {}, gate=one_key)
    assert ask(guarded, "GET", "/v1/models").status == 401
    assert ask(guarded, "GET", "/v1/models/a", headers={"Authorization": "Bearer good"}).status == 404


def test_a_model_that_is_away_is_said_to_be(front: httpx.Client) -> None:
    got = front.post("/v1/embeddings", json={"model": "away", "input": "a"})
    assert (got.status_code, got.headers["retry-after"]) == (503, "1")
    assert got.json()["error"]["type"] == "server_error"
    assert got.headers["content-type"] == "application/problem+json"


def test_without_a_resolver_the_name_alone_counts(house: House) -> None:
    front = Server(Router(lambda: house.places))
    try:
        for reference, status in (("vectors:2", 200), ("vectors@any", 200), ("vectors:3", 404), ("other", 404)):
            got = httpx.post(f"{front.url}/v1/embeddings", json={"model": reference, "input": "a"})
            assert got.status_code == status
    finally:
        front.stop()


def test_a_body_is_bounded(front: httpx.Client) -> None:
    assert front.post("/v1/embeddings", content=b" " * (2 << 20)).status_code == 413
    bomb = gzip.compress(b" " * (20 << 20))
    assert front.post("/v1/embeddings", content=bomb, headers={"Content-Encoding": "gzip"}).status_code == 413


# --- streams


def test_a_stream_comes_piece_by_piece(front: httpx.Client) -> None:
    times: list[float] = []
    with front.stream(
        "POST", "/v1/chat/completions", json={**chat("word " * 30, stream=True), "model": "parrot"}
    ) as got:
        assert got.headers["content-type"].startswith("text/event-stream")
        text = b""
        for chunk in got.iter_raw():
            times.append(time.monotonic())
            text += chunk
    assert text.endswith(b"data: [DONE]\n\n")
    assert b": energy {" in text
    assert len(times) > 15
    assert times[-1] - times[0] > 0.2


def test_the_models_server_learns_that_the_client_has_left(house: House, front: httpx.Client) -> None:
    content = {**chat("word " * 500, stream=True, max_tokens=500), "model": "parrot"}
    house.parrot.made = 0
    with front.stream("POST", "/v1/chat/completions", json=content) as got:
        next(got.iter_raw())
    assert house.parrot.closed.wait(3)
    assert house.parrot.made < 200
    with pytest.raises(httpx.ReadTimeout):  # and when nothing has come yet
        front.post("/v1/chat/completions", json={**content, "stream": False}, timeout=0.3)
    assert house.parrot.closed.wait(3)
    assert front.post("/v1/chat/completions", json={**chat("a"), "model": "parrot"}).status_code == 200


def test_a_model_that_breaks_off_ends_the_clients_connection() -> None:
    async def breaks(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
            await asyncio.sleep(0.05)

    model = Server(breaks)
    front = Server(Router(lambda: {"m": model.url}))
    try:
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(f"{front.url}/v1/completions", json={"model": "m"})
        assert httpx.get(f"{front.url}/livez").status_code == 200
    finally:
        front.stop()
        model.stop()


def test_a_model_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from eco_ray.service import forward

    monkeypatch.setattr(forward, "_GRACE_S", 0.0)
    left: list[bool] = []

    async def hangs(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            while (await receive())["type"] != "http.disconnect":
                pass
            left.append(True)

    model = Server(hangs)
    front = Server(Router(lambda: {"m": model.url}, limits=Limits(answer_s=0.2)))
    try:
        assert httpx.post(f"{front.url}/v1/completions", json={"model": "m"}).status_code == 503
        time.sleep(0.1)
        assert left == [True]
    finally:
        front.stop()
        model.stop()


def test_the_official_client_finds_all_models_at_one_address(house: House) -> None:
    openai = pytest.importorskip("openai", reason="openai is not installed; it is in the extra dev")
    with openai.OpenAI(base_url=f"{house.front.url}/v1", api_key="good", max_retries=0) as client:
        assert {one.id for one in client.models.list()} == {"parrot", "vectors", "away"}
        assert client.embeddings.create(model="vectors@prod", input="ab").data[0].embedding == [2.0, 0.5, -1.0]
        chunks = client.chat.completions.create(**{**chat("a b", stream=True), "model": "parrot"})
        assert "".join(one.choices[0].delta.content or "" for one in chunks) == "a b "
        with pytest.raises(openai.NotFoundError) as found:
            client.embeddings.create(model="nobody", input="a")
        assert found.value.code == "model_not_found"
        with pytest.raises(openai.InternalServerError):
            client.embeddings.create(model="away", input="a")
    bad = openai.OpenAI(base_url=f"{house.front.url}/v1", api_key="bad", max_retries=0)
    with bad, pytest.raises(openai.AuthenticationError):
        bad.completions.create(model="parrot", prompt="a")


def test_a_model_app_has_the_same_paths_behind_a_rewriting_proxy() -> None:
    paths = ask(ModelApp(Parrot(), footprint), "GET", "/openapi.json").json["paths"]
    for base in ("/models/echo/v1", "/v2/models/echo/openai/v1"):
        assert {f"{base}/chat/completions", f"{base}/completions", f"{base}/models"} <= paths.keys()
    assert "/v2/models/echo/explain" not in paths
    assert "/models/echo/v1/embeddings" not in ask(ModelApp(Echo(), footprint), "GET", "/openapi.json").json["paths"]


def test_no_body_is_read_of_who_may_not_ask() -> None:
    def closed(headers: Any, scope: Any) -> Any:
        raise Problem(401, "no valid key", "send one", ((b"www-authenticate", b"Bearer"),))

    front = Server(Router(lambda: {"m": "http://127.0.0.1:1"}, gate=closed))
    try:
        for path in ("/v1/completions", "/models/m/v1/completions"):
            with front.connect() as client:
                client.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode())
                assert client.recv(65536).startswith(b"HTTP/1.1 401 ")  # and nothing of the body was sent
    finally:
        front.stop()


def test_the_server_in_the_v2_protocol_answers() -> None:
    front = Server(Router(lambda: {}))
    try:
        assert httpx.get(f"{front.url}/v2").json()["name"] == "eco_ray"
        assert httpx.get(f"{front.url}/v2/health/live").json() == {"live": True}
        assert httpx.get(f"{front.url}/v2/health/ready").json() == {"ready": True}
    finally:
        front.stop()
