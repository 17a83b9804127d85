"""One model behind HTTP, without a server: routes, gate, headers, limits, footprints, cache."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service_cases import INFER, Echo, ask, ask_async, footprint, request

from eco_ray.core.footprint import Footprint, Signal
from eco_ray.core.keys import Scope
from eco_ray.core.units import Nature
from eco_ray.errors import DeviceFullError, UsageError
from eco_ray.service.app import ModelApp
from eco_ray.service.gate import Admission
from eco_ray.service.limits import Limits
from eco_ray.service.problems import Problem

X = request([1.0])
FOOTPRINT = re.compile(
    r'energy-j=\S+, carbon-g=\S+, intensity=300, grid-zone="DE", nature=modelled, boundary=operational'
)


def make(runtime: Echo | None = None, limits: Limits = Limits(), **more: Any) -> ModelApp:  # noqa: B008
    return ModelApp(runtime or Echo(), footprint, limits=limits, **more)


APP = make()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "part"),
    [
        ("GET", "/v2", b"", 200, "binary_tensor_data"),
        ("GET", "/livez", b"", 200, '{"live": true}'),
        ("GET", "/readyz", b"", 200, '{"ready": true}'),
        ("GET", "/v2/health/live", b"", 200, "true"),
        ("GET", "/v2/health/ready", b"", 200, "true"),
        ("GET", "/v2/models/echo", b"", 200, '"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}]'),
        ("GET", "/v2/models/echo/versions/2", b"", 200, '"versions": ["2"]'),
        ("GET", "/v2/models/echo/ready", b"", 200, '"ready": true'),
        ("GET", "/v2/models/echo/versions/2/ready", b"", 200, '"ready": true'),
        ("GET", "/models/echo/v1/models", b"", 200, '"object": "list"'),
        ("GET", "/models/echo/v1/models/echo", b"", 200, '"id": "echo"'),
        ("GET", "/openapi.json", b"", 200, "3.1.0"),
        ("GET", "/metrics", b"", 200, "eco_requests_total"),
        ("POST", INFER, X, 200, '"model_name":"echo"'),
        ("POST", "/v2/models/echo/versions/2/infer", X, 200, '"data":[1.0]'),
        ("POST", "/v2/models/echo/versions/1/infer", X, 404, "version 2 is"),
        ("POST", "/v2/models/other/infer", X, 404, "the model is 'echo'"),
        ("POST", "/v2/models/echo/versions/2/../2/infer", X, 404, "no path"),
        ("POST", "/v2/models/%2e%2e/infer", X, 404, "no model"),
        ("POST", "/v2/models/echo\0/infer", X, 404, "no model"),
        ("POST", "//v2/models/echo/infer", X, 404, "no path"),
        ("GET", "/v2/models/echo/versions", b"", 404, "no such version"),
        ("GET", "/" + "a" * 60_000, b"", 404, "see /openapi.json"),
        ("GET", "", b"", 404, "see /openapi.json"),
        ("GET", "/\ud800\r\nX: y", b"", 404, "see /openapi.json"),
        ("GET", INFER, b"", 405, "use OPTIONS, POST"),
        ("PUT", "/livez", b"", 405, "use GET, HEAD, OPTIONS"),
        ("GET, HEAD", "/livez", b"", 405, "use GET"),
        ("POST", INFER, b"{", 400, "not JSON"),
        ("POST", INFER, b'{"inputs": ["x"]}', 400, "is no input of the model"),
        ("POST", INFER, X[:-1] + b', "outputs": ["y"]}', 400, "is no output of the model"),
    ],
)  # fmt: skip
def test_each_request_gets_its_status_reason_and_footprint(
    method: str, path: str, body: bytes, status: int, part: str
) -> None:
    got = ask(APP, method, path, body)
    assert got.status == status
    assert part in got.body.decode()
    assert len(got.body) < (50_000 if path == "/openapi.json" else 10_000)
    assert FOOTPRINT.fullmatch(got.headers["eco-footprint"])
    assert int(got.headers["content-length"]) == len(got.body)
    if status >= 400:
        assert got.headers["content-type"] == "application/problem+json"
        assert got.json["status"] == status
        assert got.json["type"] == "tag:eco-ray,2026:" + got.json["title"].replace(" ", "-")
    if status == 405:
        assert got.headers["allow"] in ("OPTIONS, POST", "GET, HEAD, OPTIONS")


def test_head_is_get_without_a_body_and_options_lists_the_methods() -> None:
    full, head = ask(APP, "GET", "/v2"), ask(APP, "HEAD", "/v2")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(full.body)))
    options = ask(APP, "OPTIONS", INFER)
    assert (options.status, options.body, options.headers["allow"]) == (204, b"", "OPTIONS, POST")
    assert "content-length" not in options.headers


def test_ids_and_traces_are_echoed_where_they_are_sane() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    got = ask(APP, "GET", "/livez", headers={"X-Request-Id": "a-1", "Traceparent": trace})
    assert (got.headers["x-request-id"], got.headers["traceparent"]) == ("a-1", trace)
    for bad in ("a\r\nSet-Cookie: x", "a b", "", "x" * 129, "ü"):
        got = ask(APP, "GET", "/livez", headers=[(b"x-request-id", bad.encode()), (b"traceparent", bad.encode())])
        assert re.fullmatch("[0-9a-f]{32}", got.headers["x-request-id"])
        assert "traceparent" not in got.headers


def test_what_could_end_a_header_does_not() -> None:
    def named(cpu_s: float, duration_s: float, batch_share: float) -> Footprint:
        return Footprint(1.0, 1.0, 1.0, 1.0, Signal('D"\r\nX: y\u2028ü', 1.0, "test"), Nature.MODELLED)

    for method, path in (("GET", "/livez"), ("POST", INFER)):
        value = ask(ModelApp(Echo(), named), method, path, X).headers["eco-footprint"]
        assert 'grid-zone="D"??X: y??"' in value


@pytest.mark.parametrize("name", ["content-encoding", "eco-tenant", "authorization", "inference-header-content-length"])
def test_a_header_that_decides_is_there_once(name: str) -> None:
    got = ask(APP, "POST", INFER, X, [(name.encode(), b"a"), (name.encode(), b"b")])
    assert got.status == 400
    assert f"{name} is there 2 times" in got.json["detail"]
    assert ask(APP, "POST", INFER, X, [(b"accept", b"a"), (b"accept", b"b")]).status == 200


def test_a_name_that_would_not_be_one_part_of_a_path_is_refused() -> None:
    for name in ("a/b", "", "..", "a b", "a\n"):
        with pytest.raises(UsageError, match="has no URL"):
            make(Echo(name=name))


# --- the gate


@pytest.mark.parametrize("tenant", ["", "vision", "A.b_c-9", "x" * 63])
def test_each_inference_is_counted_for_its_tenant(tenant: str) -> None:
    seen: list[Any] = []
    app = make(count=lambda use, rows: seen.append((use, rows)))
    got = ask(app, "POST", INFER, request([1.0, 2.0], id="r1"), {"Eco-Tenant": tenant})
    ask(app, "POST", INFER, b"{", {"Eco-Tenant": tenant})
    ask(app, "POST", INFER, X, {"Eco-Tenant": tenant, "x-request-id": "mine"})
    (use, rows), (refused, no_rows), (named, _) = seen
    assert (refused.tenant, no_rows) == (tenant, 0)  # it took time, which is nobody else's
    assert (use.request, use.tenant, use.batch_share, rows) == (got.headers["x-request-id"], tenant, 1.0, 2)
    assert 0 < use.weight < 5
    assert use.estimate.to_header() == got.headers["eco-footprint"]
    assert named.request == "mine"


@pytest.mark.parametrize("tenant", ["x" * 64, "a b", "-a", "ü", "a\nb", "a/b", "x" * 10_000])
def test_a_tenant_that_is_no_name_is_refused(tenant: str) -> None:
    got = ask(APP, "POST", INFER, X, {"Eco-Tenant": tenant})
    assert got.status == 400
    assert "use 1 to 63 letters" in got.json["detail"]
    assert len(got.body) < 500


def refuse(headers: Mapping[bytes, bytes], scope: Scope) -> Admission:
    if headers.get(b"authorization") != b"Bearer k":
        raise Problem(401, "no key", "send a key", ((b"www-authenticate", b"Bearer"),))
    return Admission("vision", ((b"ratelimit", b'"default";r=9'),))


def test_a_gate_decides_before_the_body_is_read_and_adds_its_headers() -> None:
    runtime = Echo()
    app = make(runtime, gate=refuse)

    async def receive() -> Any:
        raise AssertionError("the body was read")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": INFER, "headers": []}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 401
    assert (b"www-authenticate", b"Bearer") in sent[0]["headers"]
    for path in ("/v2/models/echo", "/models/echo/v1/models", "/metrics", "/v2/models/echo/metrics"):
        assert ask(app, "GET", path).status == 401
    for path in ("/livez", "/readyz", "/v2", "/v2/health/ready"):
        assert ask(app, "GET", path).status == 200
    for method, path in (("POST", INFER), ("GET", "/v2/models/echo")):
        got = ask(app, method, path, X, {"Authorization": "Bearer k"})
        assert (got.status, got.headers["ratelimit"]) == (200, '"default";r=9')


# --- limits


def test_a_body_is_bounded_as_it_comes_whatever_its_header_says() -> None:
    app = make(limits=Limits(body_bytes=1000))
    whole = X + b" " * (1000 - len(X))
    assert ask(app, "POST", INFER, whole).status == 200
    halves = [whole[:500], whole[500:]]
    assert asyncio.run(ask_async(app, "POST", INFER, halves)).status == 200
    for headers in ({}, {"Content-Length": "5"}, {"Content-Length": "1001"}, {"Content-Length": "9" * 18}):
        for chunks in ([whole + b" "], [*halves, b" "], [b" " * 400] * 100):
            got = asyncio.run(ask_async(app, "POST", INFER, chunks, headers))
            assert (got.status, got.headers["connection"]) == (413, "close")
            assert "the limit is 1000; send fewer rows" in got.json["detail"]
    assert app._held.bytes == 0


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_bodies_may_be_compressed_both_ways_and_bombs_stop(coding: str) -> None:
    pack, unpack = {"gzip": (gzip.compress, gzip.decompress), "zstd": (zstandard.compress, zstandard.decompress)}[
        coding
    ]
    headers = {"Content-Encoding": coding, "Accept-Encoding": f"{coding};q=0.5, identity;q=0.1"}
    got = ask(APP, "POST", INFER, pack(request([0.5] * 1000)), headers)
    assert (got.status, got.headers["content-encoding"], got.headers["vary"]) == (200, coding, "accept-encoding")
    assert json.loads(unpack(got.body))["outputs"][0]["data"] == [0.5] * 1000
    assert "content-encoding" not in ask(APP, "POST", INFER, pack(X), headers).headers
    assert ask(APP, "POST", INFER, pack(b" " * 100_000_000), headers).status == 413
    assert ask(APP, "POST", INFER, b"no", headers).status == 400
    assert ask(APP, "POST", INFER, X, {"Content-Encoding": "br"}).headers["accept-encoding"] == "zstd, gzip"


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    app = make(limits=Limits(read_s=0.05))

    async def slow() -> int:
        chunks = [b"{"]

        async def receive() -> Any:
            if not chunks:
                await asyncio.sleep(60)
            return {"type": "http.request", "body": chunks.pop(), "more_body": True}

        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await app({"type": "http", "method": "POST", "path": INFER, "headers": []}, receive, send)
        assert (b"connection", b"close") in sent[0]["headers"]
        assert "1 bytes of the body came within 0.05 s" in json.loads(sent[1]["body"])["detail"]
        return int(sent[0]["status"])

    assert asyncio.run(slow()) == 408
    assert app._held.bytes == 0


def test_all_bodies_together_are_bounded() -> None:
    release = threading.Event()
    app = make(Echo(act=lambda inputs: release.wait(5) and None), Limits(held_bytes=3 * len(X)))

    async def crowd() -> list[int]:
        tasks = [asyncio.create_task(ask_async(app, "POST", INFER, [X])) for _ in range(5)]
        await asyncio.sleep(0.1)
        release.set()
        return sorted([(await task).status for task in tasks])

    assert asyncio.run(crowd()) == [200, 200, 200, 503, 503]
    assert app._held.bytes == 0
    assert ask(app, "POST", INFER, X).status == 200


def test_an_answer_that_takes_too_long_is_given_up_and_the_service_is_not_ready() -> None:
    release = threading.Event()
    runtime = Echo(act=lambda inputs: release.wait(10) and None)
    app = make(runtime, Limits(answer_s=0.1))
    deadline = time.monotonic() + 5

    async def crowd() -> list[Any]:
        tasks = [asyncio.create_task(ask_async(app, "POST", INFER, [X])) for _ in range(3)]
        found = [(await task) for task in tasks]
        ready = await ask_async(app, "GET", "/readyz", [b""])
        while (
            ready.status == 200 and time.monotonic() < deadline
        ):  # the worker began a moment after the first one asked
            await asyncio.sleep(0.01)
            ready = await ask_async(app, "GET", "/readyz", [b""])
        return [*found, ready, await ask_async(app, "GET", "/livez", [b""])]

    *slow, ready, live = asyncio.run(crowd())
    assert [(got.status, got.headers["retry-after"]) for got in slow] == [(503, "1")] * 3
    assert "no answer within 0.1 s" in slow[0].json["detail"]
    assert (ready.status, live.status) == (503, 200)
    release.set()
    deadline = time.monotonic() + 5
    while ask(app, "GET", "/readyz").status != 200 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert runtime.calls == 1  # nobody waited for the others any more
    assert ask(app, "POST", INFER, X).status == 200


def test_a_device_without_memory_for_a_request_is_told() -> None:
    def fill(inputs: Any) -> None:
        raise DeviceFullError("2 GiB are not free; ask for less")

    got = ask(make(Echo(act=fill)), "POST", INFER, X)
    assert (got.status, got.json["title"], got.json["detail"]) == (
        503,
        "device full",
        "2 GiB are not free; ask for less",
    )


def test_a_model_that_fails_says_nothing_of_itself() -> None:
    def fail(inputs: Any) -> None:
        raise RuntimeError("secret")

    got = ask(make(Echo(act=fail)), "POST", INFER, X)
    assert got.status == 500
    assert b"secret" not in got.body

    def refuse_values(inputs: Any) -> None:
        raise UsageError("1 is too much; send 0")

    got = ask(make(Echo(act=refuse_values)), "POST", INFER, X)
    assert (got.status, got.json["detail"]) == (400, "1 is too much; send 0")


def test_a_client_that_left_gets_nothing() -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    asyncio.run(APP({"type": "http", "method": "POST", "path": INFER, "headers": []}, receive, send))


def test_the_servers_start_and_end_are_answered_and_websockets_closed() -> None:
    async def talk(kind: str, *messages: str) -> list[str]:
        left = list(messages)
        sent: list[str] = []

        async def receive() -> Any:
            return {"type": left.pop(0)}

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await APP({"type": kind}, receive, send)
        return sent

    told = asyncio.run(talk("lifespan", "lifespan.startup", "lifespan.shutdown"))
    assert told == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert asyncio.run(talk("websocket")) == ["websocket.close"]


# --- the cache


def test_the_same_inputs_are_computed_once() -> None:
    avoided: list[Any] = []
    runtime = Echo(deterministic=True, act=lambda inputs: sum(range(300_000)) and None)
    app = make(runtime, avoided=lambda tenant, joules: avoided.append((tenant, joules)))
    first = ask(app, "POST", INFER, X, {"Eco-Tenant": "a"})
    again = ask(app, "POST", INFER, request([1.0], id="other"), {"Eco-Tenant": "a"})
    assert (first.headers["eco-cache"], again.headers["eco-cache"]) == ("miss", "hit")
    assert first.headers["etag"] == again.headers["etag"]
    assert first.json["outputs"] == again.json["outputs"]
    assert again.json["id"] == "other"
    spent = [got.json["parameters"]["footprint"]["energy_joules"] for got in (first, again)]
    assert avoided == [("a", pytest.approx(spent[0] - spent[1], rel=0.02))]  # they are told with 3 digits
    assert runtime.calls == 1
    known = ask(app, "POST", INFER, X, {"Eco-Tenant": "a", "If-None-Match": f'"x", {first.headers["etag"]}'})
    assert (known.status, known.body, known.headers["etag"]) == (304, b"", first.headers["etag"])
    assert FOOTPRINT.fullmatch(known.headers["eco-footprint"])
    text = ask(app, "GET", "/metrics").body.decode()
    assert 'eco_cache_hits_total{model="echo",version="2"} 2.0' in text


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (X, {"Eco-Tenant": "b"}),
        (request([2.0]), {}),
        (request([1.0, 1.0]), {}),
        (X, {"Cache-Control": "max-age=0, No-Store"}),
    ],
)
def test_another_tenant_or_input_is_computed(body: bytes, headers: dict[str, str]) -> None:
    runtime = Echo(deterministic=True)
    app = make(runtime)
    ask(app, "POST", INFER, X)
    got = ask(app, "POST", INFER, body, headers)
    assert got.headers.get("eco-cache") != "hit"
    assert runtime.calls == 2
    if "Cache-Control" in headers:
        assert "etag" not in got.headers


def test_a_model_that_is_not_deterministic_has_no_cache() -> None:
    runtime = Echo()
    app = make(runtime)
    assert {ask(app, "POST", INFER, X).headers.get("etag") for _ in range(2)} == {None}
    assert runtime.calls == 2


def test_the_form_of_the_answer_is_part_of_the_etag() -> None:
    app = make(Echo(deterministic=True))
    plain = ask(app, "POST", INFER, X)
    packed = ask(app, "POST", INFER, request([1.0], parameters={"binary_data_output": True}))
    assert packed.headers["eco-cache"] == "hit"
    assert plain.headers["etag"] != packed.headers["etag"]
    assert packed.headers["content-type"] == "application/octet-stream"
    head = int(packed.headers["inference-header-content-length"])
    assert packed.body[head:] == b"\0\0\x80\x3f"


def test_pages_that_do_not_change_have_etags() -> None:
    packed, etag = (
        ask(APP, "GET", "/openapi.json", headers=more).headers["etag"] for more in ({"Accept-Encoding": "gzip"}, {})
    )
    assert (packed, etag[:3]) == (etag, 'W/"')  # one for all codings: a weak one
    known = ask(APP, "GET", "/openapi.json", headers={"If-None-Match": etag})
    assert (known.status, known.body) == (304, b"")
    assert ask(APP, "GET", "/openapi.json", headers={"If-None-Match": '"x"'}).status == 200


# --- anything


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["GET", "POST", "HEAD", "DELETE"]),
    st.sampled_from([INFER, "/v2/models/echo", "/livez"]) | st.text(max_size=20),
    st.binary(max_size=100),
    st.dictionaries(
        st.sampled_from([
            "content-encoding", "accept-encoding", "inference-header-content-length", "if-none-match", "cache-control",
            "eco-tenant", "x-request-id", "traceparent", "content-length", "content-type",
        ]),
        st.sampled_from([b"gzip", b"zstd", b"10", b"*"]) | st.binary(max_size=20),
    ),
)  # fmt: skip
def test_no_request_is_answered_with_500(method: str, path: str, body: bytes, headers: dict[str, bytes]) -> None:
    got = ask(APP, method, path, body, [(name.encode(), value) for name, value in headers.items()])
    assert got.status != 500
    assert not any(set(value) & {"\r", "\n", "\0"} for value in got.headers.values())


def test_metrics_count_every_answer_and_what_inferences_took() -> None:
    took = iter([0.001, 0.002, 99.0])

    def told(cpu_s: float, duration_s: float, batch_share: float) -> Footprint:
        return Footprint(2.0, None, next(took, 0.0), 1.0, Signal("DE", None, "test"), Nature.MODELLED)

    app = ModelApp(Echo(), told)
    for body in (X, X, X, b"{"):
        ask(app, "POST", INFER, body)
    lines = set(ask(app, "GET", "/metrics").body.decode().splitlines())
    of = 'model="echo",version="2"'
    by = 'grid_zone="DE",model="echo",nature="modelled",version="2"'
    assert {
        'eco_requests_total{model="echo",status="200",version="2"} 3.0',
        'eco_requests_total{model="echo",status="400",version="2"} 1.0',
        f"eco_energy_joules_total{{{by}}} 6.0",
        f'eco_carbon_grams_total{{component="operational",{by}}} 0.0',
        f'eco_inference_seconds_bucket{{le="0.001",{of}}} 1.0',
        f'eco_inference_seconds_bucket{{le="0.0025",{of}}} 2.0',
        f'eco_inference_seconds_bucket{{le="10.0",{of}}} 2.0',
        f'eco_inference_seconds_bucket{{le="+Inf",{of}}} 3.0',
        f"eco_inference_seconds_count{{{of}}} 3.0",
        f"eco_cache_hits_total{{{of}}} 0.0",
    } <= lines


def test_a_smaller_variant_is_refused_in_one_form_even_where_there_is_none() -> None:
    app = make()
    assert ask(app, "POST", INFER, X, {"Eco-Variant": "none"}).status == 200
    for told in ("None", "small", "", "none, none"):
        got = ask(app, "POST", INFER, X, {"Eco-Variant": told})
        assert (got.status, got.json["title"]) == (400, "wrong header")
        assert f"Eco-Variant is '{told}'; send 'none'" in got.json["detail"]


def test_what_inferences_took_is_their_footprints() -> None:
    app = make()
    assert app.spent == (0, 0.0, Nature.ASSUMED)
    for _ in range(3):
        ask(app, "POST", INFER, X)
    ask(app, "POST", INFER, b"{")
    requests, energy_j, nature = app.spent
    assert (requests, nature) == (3, Nature.MODELLED)
    assert energy_j > 0
