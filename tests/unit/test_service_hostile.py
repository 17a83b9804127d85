"""What hostile clients send to a model's real HTTP server: each gets its status, and the next good client its answer.

Closer looks: test_service_v2 and test_service_values (JSON, datatypes, shapes, UTF-8, NaN), test_service_encoding
(bombs), test_service_key_gate (keys), test_service_server (oversized, slow loris, heads that are none),
test_service_schemathesis (whatever a document allows, and what it does not).
"""

from __future__ import annotations

import gzip
import json
import resource
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard
from service_cases import INFER, Echo, footprint, request
from service_server import Server
from test_service_key_gate import Case, credential, key, keys

from eco_ray.core.keys import Scope
from eco_ray.service.app import ModelApp
from eco_ray.service.limits import Limits

GOOD = f"Bearer {credential('i').text}"
X = request([1.0, 2.0], shape=[1, 2])
LIMITS = Limits(body_bytes=1 << 20, read_s=20.0)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    case = Case()
    mine = key("i", Scope.INFER)
    expired = key("e", Scope.INFER, expires_s=1.0)
    revoked = key("v", Scope.INFER, revoked_s=1.0)
    case.gate.learn(keys(mine, expired, revoked, key("o", Scope.INFER, tenant="other")))
    server = Server(ModelApp(Echo(shape=(-1, 2)), footprint, gate=case.gate, limits=LIMITS))
    yield server
    server.stop()


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers={"Authorization": GOOD}, timeout=30) as client:
        yield client
        assert client.post(INFER, content=X).status_code == 200  # whatever came before


def tensor(**changes: Any) -> bytes:
    told = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0], **changes}
    return json.dumps({"inputs": [told]}).encode()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 100_000, 400),
        (b"[" * 1_000_001, 413),
        (b" " * (1 << 20) + X, 413),
        (b'{"inputs": ', 400),
        (X.replace(b'"x"', b'"\xff\xfe"'), 400),
        (X.replace(b'"x"', b'"\\ud800"'), 400),
        (tensor(datatype="INT4"), 400),
        (tensor(datatype="BYTES"), 400),
        (tensor(datatype=["FP32"]), 400),
        (tensor(shape=[2, 1]), 400),
        (tensor(shape=[-1, 2]), 400),
        (tensor(shape=[1 << 62, 2]), 400),
        (tensor(shape=[1e300, 2]), 400),
        (tensor(data=[float("nan"), 1.0]), 400),
        (tensor(data=[float("-inf"), 1.0]), 400),
        (tensor(data=[1e300, 1.0]), 400),
        (tensor(data=[[[1.0]]]), 400),
        (tensor(name="../x"), 400),
        (tensor(parameters={"binary_data_size": 1 << 40}), 400),
    ],
)
def test_bodies(client: httpx.Client, body: bytes, status: int) -> None:
    got = client.post(INFER, content=body)
    assert (got.status_code, got.headers["content-type"]) == (status, "application/problem+json")
    assert len(got.content) < 2000


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor(level=19).compress])
def test_bombs(client: httpx.Client, pack: Any) -> None:
    bomb = pack(b" " * (200 << 20))
    assert len(bomb) < LIMITS.body_bytes
    coding = "gzip" if pack is gzip.compress else "zstd"
    before_s, before = time.process_time(), rss_bytes()
    for body in (bomb, bomb[: len(bomb) // 2]):
        assert client.post(INFER, content=body, headers={"Content-Encoding": coding}).status_code == 413
    assert time.process_time() - before_s < 2.0
    assert rss_bytes() - before < 40_000_000


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize(
    "path",
    [
        *("/v2/models/../models/echo/infer", "/v2/models/echo/../../../etc/passwd", "/v2//models/echo/infer"),
        *("/v2/models/%2e%2e/infer", "/v2/models/echo%00/infer", "/v2/models/ECHO/infer"),
        *("/v2/models/echo/infer/", "/v2/models/echo\\infer", "/v2/models/%ff/infer", "/v2/models/echo%0d%0aX:y/infer"),
    ],
)
def test_paths(server: Server, client: httpx.Client, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {GOOD}\r\nContent-Length: {len(X)}\r\n"
    answer = told(server, f"{head}Connection: close\r\n\r\n".encode() + X)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"\nX:y" not in answer.partition(b"\r\n\r\n")[0]


def told(server: Server, raw: bytes) -> bytes:
    """The whole answer to these bytes."""
    with server.connect() as one:
        one.sendall(raw)
        return b"".join(iter(lambda: one.recv(65536), b""))


forged = credential("i").text[:-1] + "x"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": f"Bearer {forged}"}, 401),
        ({"Authorization": f"Bearer {credential('e').text}"}, 401),
        ({"Authorization": f"Bearer {credential('v').text}"}, 401),
        ({"Authorization": f"Bearer {credential('z').text}"}, 401),
        ({"Authorization": "Bearer " + "e" * 10_000}, 401),
        ({"Authorization": b"Bearer eco_\xff\x00".replace(b"\x00", b"")}, 401),
        ({"Authorization": f"Basic {credential('i').text}"}, 401),
        ({"Authorization": GOOD, "x-api-key": credential("o").text}, 400),
        ({"Authorization": GOOD, "Eco-Tenant": "other"}, 403),
        ({"Authorization": GOOD, "Eco-Tenant": "../other"}, 400),
    ],
)
def test_keys(client: httpx.Client, server: Server, headers: dict[str, Any], status: int) -> None:
    got = httpx.post(f"{server.url}{INFER}", content=X, headers=headers)
    assert got.status_code == status
    assert credential("i").text[-20:] not in got.text


@pytest.mark.parametrize(
    "line",
    [
        b"X-Request-Id: a\r\n\tSet-Cookie: b=c",
        b"X-Request-Id: a\rSet-Cookie: b=c",
        b"X-Request-Id: a%0d%0aSet-Cookie:b",
        b"Traceparent: 00-a\x00Set-Cookie: b",
        b"Eco-Tenant: vision\nSet-Cookie: b=c",
        b"X-Request-Id: \xe2\x80\xa8b",
    ],
)
def test_headers_do_not_come_back_as_others(server: Server, client: httpx.Client, line: bytes) -> None:
    head = f"GET /livez HTTP/1.1\r\nHost: x\r\nAuthorization: {GOOD}\r\nConnection: close\r\n".encode()
    found = told(server, head + line + b"\r\n\r\n").partition(b"\r\n\r\n")[0].lower()
    assert b"set-cookie" not in found
    assert found.split()[1] in (b"200", b"400")


def test_an_encoded_slash_is_one_and_no_way_around_the_gate(server: Server) -> None:
    path = INFER.replace("/infer", "%2Finfer")
    statuses = [
        httpx.post(f"{server.url}{path}", content=X, headers=one).status_code for one in ({"Authorization": GOOD}, {})
    ]
    assert statuses == [200, 401]


def test_a_thousand_connections_that_send_nothing_or_half_keep_nobody_waiting(server: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip(f"{hard} open files are allowed here; a thousand connections and their server need 4096")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    halves = [
        b"",
        f"POST {INFER} HTT".encode(),
        f"POST {INFER} HTTP/1.1\r\nHost: x\r\nAuthorization: {GOOD}\r\nContent-Le".encode(),
        f"POST {INFER} HTTP/1.1\r\nHost: x\r\nAuthorization: {GOOD}\r\nContent-Length: 999\r\n\r\n{{".encode(),
    ]
    headers = {"Authorization": GOOD, "Connection": "close"}
    try:
        assert httpx.post(f"{server.url}{INFER}", content=X, headers=headers).status_code == 200
        before, waits = descriptors(), []
        with ExitStack() as stack:
            for number in range(1000):
                one = stack.enter_context(server.connect())
                one.sendall(halves[number % len(halves)])
                if number % 3 == 0:  # these end with a reset
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            settled(lambda: len(server.server.server_state.connections) >= 1000)
            for _ in range(20):
                began = time.monotonic()
                assert httpx.post(f"{server.url}{INFER}", content=X, headers=headers).status_code == 200
                waits.append(time.monotonic() - began)
        assert sorted(waits)[10] < 0.5  # the median: other tests share the machine
        settled(lambda: descriptors() <= before)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def settled(holds: Any) -> None:
    """Until it holds."""
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, descriptors()
        time.sleep(0.05)
