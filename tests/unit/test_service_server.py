"""The service behind a real HTTP server on loopback: Triton's client, slow and many clients, bodies of any size."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from service_cases import INFER, Echo, footprint, request
from service_server import Server

from eco_ray.service import values
from eco_ray.service.app import ModelApp
from eco_ray.service.limits import Limits

LIMITS = Limits(body_bytes=1 << 20, read_s=1.0)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(ModelApp(Echo("FP32", (-1, -1), deterministic=True), footprint, limits=LIMITS))
    yield server
    server.stop()


HEAD = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
X = request([1.0], shape=[1, 1])


def test_a_slow_client_is_let_go_and_the_others_do_not_notice(server: Server) -> None:
    slow = [server.connect() for _ in range(50)]
    for one in slow:
        one.sendall((HEAD % 1000).encode() + b"{")
    began = time.monotonic()
    with httpx.Client(base_url=server.url) as http:
        for _ in range(5):
            assert http.post(INFER, content=X).status_code == 200
        assert time.monotonic() - began < 1
        for one in slow[:5]:
            one.sendall(b" ")  # a byte now and then does not help
        for one in slow:
            answer = b""
            while part := one.recv(65536):
                answer += part
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"send it faster" in answer
            one.close()
    assert time.monotonic() - began < 3


def test_a_client_that_sends_too_much_reads_why(server: Server) -> None:
    with httpx.Client(base_url=server.url) as http:
        got = http.post(INFER, content=b" " * 3_000_000)
        assert (got.status_code, got.json()["title"]) == (413, "request too large")
        chunked = http.post(INFER, content=(b" " * 100_000 for _ in range(30)))
        assert chunked.status_code == 413
        assert http.post(INFER, content=X).status_code == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\r\n b\r\n\r\n",
        b"GET /livez\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /%00%0d%0aX:y HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        (HEAD % 5).encode().replace(b"Content-Length: 5", b"Content-Length: 5\r\nContent-Length: 6") + b"hello!",
        (HEAD % 5).encode().replace(b"5", b"-5"),
        (HEAD % 5).encode().replace(b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"zz\r\n",
        b"\x16\x03\x01\x02\x00",
    ],
)
def test_odd_requests_get_no_500_and_end_nothing(server: Server, raw: bytes) -> None:
    with server.connect() as one:
        one.sendall(raw)
        one.shutdown(socket.SHUT_WR)
        answer = one.recv(65536)
    assert b" 500 " not in answer[:20]
    assert b"root:" not in answer
    assert b"X:y" not in answer.partition(b"\r\n\r\n")[0]
    assert httpx.get(f"{server.url}/livez").status_code == 200


def test_a_thousand_clients_at_once_are_answered_in_flat_memory(server: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip(f"{hard} open files are allowed here; a thousand clients and their server need 4096")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    body = request([0.5] * 5000, shape=[1, 5000])
    host, _, port = server.address.partition(":")

    async def one() -> int:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write((HEAD % len(body)).encode() + body)
        status = int((await reader.readline()).split()[1])
        writer.close()
        return status

    async def crowd() -> set[int]:
        return set(await asyncio.gather(*(one() for _ in range(1000))))

    try:
        assert asyncio.run(crowd()) == {200}  # what the first thousand leave is not a leak yet
        before = rss_bytes()
        for _ in range(2):
            assert asyncio.run(crowd()) == {200}
        assert rss_bytes() - before < 30_000_000
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


# --- Triton's own client


@pytest.fixture
def triton():
    return pytest.importorskip(
        "tritonclient.http", reason="tritonclient[http] is not installed; it is in the extra dev"
    )


@pytest.mark.parametrize(
    ("datatype", "binary"),
    # the client keeps BF16 as FP32 arrays, and sends no FP16 as JSON
    [
        (name, binary)
        for name in values.DTYPES
        for binary in (True, False)
        if name != "BF16" and (binary or name != "FP16")
    ],
)
def test_tritons_client_reads_back_what_it_sent(triton, datatype: str, binary: bool) -> None:
    server = Server(ModelApp(Echo(datatype, (-1, 3)), footprint))
    client = triton.InferenceServerClient(server.address)
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(values.DTYPES[datatype])
    if datatype == "BYTES":
        array = np.array([["a", "", "üß"], ["1", "22", "x" * 300]], dtype=object)
    try:
        sent = triton.InferInput("x", array.shape, datatype)
        sent.set_data_from_numpy(array, binary_data=binary)
        wanted = [triton.InferRequestedOutput("y", binary_data=binary)]
        for outputs in (wanted, None):
            found = client.infer("echo", [sent], outputs=outputs, request_id="r1").as_numpy("y")
            if datatype == "BYTES":
                found = np.array([one if isinstance(one, str) else one.decode() for one in found.flat]).reshape(2, 3)
            assert found.tolist() == array.tolist()
    finally:
        client.close()
        server.stop()


def test_tritons_client_finds_its_way(triton, server: Server) -> None:
    client = triton.InferenceServerClient(server.address)
    try:
        assert (client.is_server_live(), client.is_server_ready()) == (True, True)
        assert client.is_model_ready("echo")
        assert client.is_model_ready("echo", "2")
        assert not client.is_model_ready("echo", "3")
        assert client.get_server_metadata()["name"] == "eco_ray"
        assert client.get_model_metadata("echo")["inputs"][0]["shape"] == [-1, -1]
        sent = triton.InferInput("x", [1, 2000], "FP32")
        sent.set_data_from_numpy(np.zeros((1, 2000), np.float32))
        packed = {"request_compression_algorithm": "gzip", "response_compression_algorithm": "gzip"}
        assert client.infer("echo", [sent], **packed).as_numpy("y").shape == (1, 2000)
        with pytest.raises(triton.InferenceServerException, match="no model 'other' is served here"):
            client.infer("other", [sent])
    finally:
        client.close()
