"""The OpenAI API of a model: its fields, its errors, its cache; and the official client against a real server."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from openai_cases import Parrot, Vectors, chat, one_key
from service_cases import Echo, Got, ask, ask_async, footprint
from service_server import Server

from eco_ray.core.requests import ServiceUse
from eco_ray.errors import DeviceFullError
from eco_ray.service.app import ModelApp
from eco_ray.service.limits import Limits

BASE = "/models/echo/v1"
BASES = (BASE, "/v2/models/echo/openai/v1")


def post(app: ModelApp, path: str, content: Any, headers: Any = ()) -> Got:
    return ask(app, "POST", path, json.dumps(content).encode(), dict(headers))


def events(body: bytes) -> list[Any]:
    """The documents of a stream, its comments and its end as they are."""
    parts = body.decode().split("\n\n")
    assert parts.pop() == ""
    return [json.loads(one[6:]) if one.startswith("data: {") else one for one in parts]


async def streamed(app: ModelApp, path: str, content: Any, leave_after: int | None = None) -> tuple[Any, list[bytes]]:
    """The head and the chunks of an answer whose client may leave after some of them."""
    left = asyncio.Event()
    bodies = [json.dumps(content).encode()]

    async def receive() -> Any:
        if bodies:
            return {"type": "http.request", "body": bodies.pop()}
        await left.wait()
        return {"type": "http.disconnect"}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if leave_after is not None and len(sent) > leave_after:
            left.set()

    await app({"type": "http", "method": "POST", "path": path, "headers": []}, receive, send)
    return sent[0], [one["body"] for one in sent[1:]]


# --- embeddings


@pytest.mark.parametrize("base", BASES)
def test_embeddings_come_as_floats_or_bytes_with_tokens_and_energy(base: str) -> None:
    app = ModelApp(Vectors(), footprint)
    got = post(app, f"{base}/embeddings", {"model": "echo", "input": ["a", "üß"], "user": "me"})
    assert got.status == 200
    assert [one["embedding"] for one in got.json["data"]] == [[1.0, 0.5, -1.0], [2.0, 0.5, -1.0]]
    assert [one["index"] for one in got.json["data"]] == [0, 1]
    assert got.json["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert got.json["model"] == "echo:2"
    assert f"energy-j={got.json['energy']['energy_joules']:.6g}" in got.headers["eco-footprint"]
    one = post(
        app, f"{base}/embeddings", {"model": "echo:2", "input": "a", "encoding_format": "base64", "dimensions": 3}
    )
    raw = base64.b64decode(one.json["data"][0]["embedding"])
    assert np.frombuffer(raw, "<f4").tolist() == [1.0, 0.5, -1.0]


def test_both_apis_share_the_cache_the_count_and_the_tenant() -> None:
    uses: list[Any] = []
    runtime = Vectors()
    app = ModelApp(runtime, footprint, count=lambda use, rows: uses.append((use.tenant, rows)))
    path, content = f"{BASE}/embeddings", {"model": "echo", "input": ["a", "b"]}
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]}
    first = ask(app, "POST", "/v2/models/echo/infer", json.dumps({"inputs": [tensor]}).encode(), {"Eco-Tenant": "t"})
    again = post(app, path, content, {"Eco-Tenant": "t"})
    packed = post(app, path, {**content, "encoding_format": "base64"}, {"Eco-Tenant": "t"})
    assert [got.headers["eco-cache"] for got in (first, again, packed)] == ["miss", "hit", "hit"]
    assert len({got.headers["etag"] for got in (first, again, packed)}) == 3
    known = post(app, path, content, {"Eco-Tenant": "t", "If-None-Match": again.headers["etag"]})
    assert known.status == 304
    assert post(app, path, content).headers["eco-cache"] == "miss"
    assert runtime.calls == 2
    assert uses == [*[("t", 2)] * 4, ("", 2)]


@pytest.mark.parametrize(
    ("changes", "param", "part"),
    [
        ({"input": []}, "input", "a list of 0"),
        ({"input": ["a"] * 5}, "input", "1 to 4 strings"),
        ({"input": [1, 2]}, "input", "not empty"),
        ({"input": [[1, 2]]}, "input", "not empty"),
        ({"input": ""}, "input", "not empty"),
        ({"input": None}, "input", "send a string"),
        ({"input": {}}, "input", "send a string"),
        ({"dimensions": 2}, "dimensions", "have 3"),
        ({"encoding_format": "int8"}, "encoding_format", "float or base64"),
        ({"truncate": True}, "truncate", "leave it out"),
        ({"x" * 1000: True}, "x" * 80, "leave it out"),
    ],
)
def test_wrong_embeddings_are_refused_with_field_and_cure(changes: dict[str, Any], param: str, part: str) -> None:
    app = ModelApp(Vectors(), footprint, limits=Limits(batch=4))
    got = post(app, f"{BASE}/embeddings", {"model": "echo", "input": "a", **changes})
    assert (got.status, got.json["error"]["param"]) == (400, param)
    assert part in got.json["error"]["message"] == got.json["detail"]
    assert got.json["error"]["type"] == "invalid_request_error"
    assert got.headers["content-type"] == "application/problem+json"
    assert "eco-footprint" in got.headers


# --- text


@pytest.mark.parametrize("base", BASES)
def test_chat_is_answered_with_usage_and_energy(base: str) -> None:
    uses: list[tuple[ServiceUse, int]] = []
    app = ModelApp(Parrot(), footprint, count=lambda use, tokens: uses.append((use, tokens)))
    got = post(app, f"{base}/chat/completions", chat("be nice", "one two"), {"Eco-Tenant": "t"})
    (choice,) = got.json["choices"]
    assert (got.status, got.json["object"], choice["finish_reason"]) == (200, "chat.completion", "stop")
    assert choice["message"] == {"role": "assistant", "content": "one two "}
    assert got.json["usage"] == {"prompt_tokens": 6, "completion_tokens": 3, "total_tokens": 9}
    assert f"energy-j={got.json['energy']['energy_joules']:.6g}" in got.headers["eco-footprint"]
    ((use, tokens),) = uses
    assert (use.tenant, tokens) == ("t", 3)
    assert (len(use.request), use.estimate is not None) == (32, True)
    plain = post(app, f"{base}/completions", {"model": "echo", "prompt": ["a b"], "max_tokens": 1})
    assert (plain.json["object"], plain.json["choices"][0]["text"]) == ("text_completion", "a ")
    assert plain.json["choices"][0]["finish_reason"] == "length"


def test_a_stream_tells_pieces_usage_energy_and_its_end() -> None:
    app = ModelApp(Parrot(), footprint)
    content = chat("one two", stream=True, stream_options={"include_usage": True})
    head, chunks = asyncio.run(streamed(app, f"{BASE}/chat/completions", content))
    assert (b"content-type", b"text/event-stream; charset=utf-8") in head["headers"]
    *told, usage, energy, end = events(b"".join(chunks))
    assert [one["choices"][0]["delta"] for one in told] == [
        {"role": "assistant", "content": ""}, {"content": "one "}, {"content": "two "}, {},
    ]  # fmt: skip
    assert [one["choices"][0]["finish_reason"] for one in told] == [None, None, None, "stop"]
    assert {one["object"] for one in told} == {"chat.completion.chunk"}
    assert len({one["id"] for one in told}) == 1
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 6)
    assert energy.startswith(": energy {")
    found = json.loads(energy.removeprefix(": energy "))
    assert found["usage"] == usage["usage"]
    assert found["energy_joules"] > 0
    assert end == "data: [DONE]"
    assert len(chunks) == 7  # each as it comes, and the end of the body
    head, chunks = asyncio.run(streamed(app, f"{BASE}/completions", {"model": "echo", "prompt": "a", "stream": True}))
    first, second, _, end = events(b"".join(chunks))
    assert [one["choices"][0]["text"] for one in (first, second)] == ["a ", ""]


def test_all_that_can_be_chosen_reaches_the_model() -> None:
    runtime = Parrot()
    app = ModelApp(runtime, footprint)
    more = {"temperature": 0, "top_p": 0.5, "seed": 7, "stop": "two", "max_completion_tokens": 5, "max_tokens": 4}
    neutral = {"n": 1, "logit_bias": {}, "tools": None, "response_format": {"type": "text"}, "logprobs": False}
    got = post(app, f"{BASE}/chat/completions", chat("one two", user="u", metadata={"a": 1}, **more, **neutral))
    assert got.json["choices"][0]["message"]["content"] == "one "
    (sampling,) = runtime.samplings
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.seed) == (5, 0.0, 0.5, 7)
    assert sampling.stop == ("two",)
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    got = post(
        app, f"{BASE}/chat/completions", {"model": "echo", "messages": [{"role": "developer", "content": parts}]}
    )
    assert got.json["choices"][0]["message"]["content"] == "a b "
    assert runtime.samplings[-1].max_tokens == 47  # what is left of the context


@pytest.mark.parametrize(
    ("changes", "status", "param", "code"),
    [
        ({"model": "other"}, 404, "model", "model_not_found"),
        ({"model": "echo:3"}, 404, "model", "model_not_found"),
        ({"model": None}, 400, "model", "missing_required_parameter"),
        ({"model": "echo@prod"}, 200, None, None),
        ({"messages": []}, 400, "messages", "invalid_value"),
        ({"messages": "hi"}, 400, "messages", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "a"}]}, 400, "messages[0]", "invalid_value"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, 400, "messages[0]", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400,
            "messages[0].content",
            "invalid_value",
        ),
        ({"messages": [{"role": "user"}]}, 400, "messages[0].content", "invalid_value"),
        ({"max_tokens": 0}, 400, "max_tokens", "invalid_value"),
        ({"max_tokens": 10_000}, 400, "max_tokens", "invalid_value"),
        ({"max_tokens": True}, 400, "max_tokens", "invalid_value"),
        ({"max_completion_tokens": 50}, 400, "messages", "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "a " * 60}]}, 400, "messages", "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "forbidden"}]}, 400, None, "wrong_data"),
        ({"temperature": 2.1}, 400, "temperature", "invalid_value"),
        ({"temperature": "1"}, 400, "temperature", "invalid_value"),
        ({"top_p": 0}, 400, "top_p", "invalid_value"),
        ({"seed": 1.5}, 400, "seed", "invalid_value"),
        ({"stop": ["a"] * 5}, 400, "stop", "invalid_value"),
        ({"stop": [""]}, 400, "stop", "invalid_value"),
        ({"stream": 1}, 400, "stream", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options", "invalid_value"),
        ({"n": 2}, 400, "n", "unsupported_parameter"),
        ({"n": True}, 400, "n", "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, 400, "tools", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format", "unsupported_parameter"),
        ({"logprobs": True}, 400, "logprobs", "unsupported_parameter"),
        ({"logit_bias": {"1": 2}}, 400, "logit_bias", "unsupported_parameter"),
        ({"made_up": 1}, 400, "made_up", "unsupported_parameter"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_named(
    changes: dict[str, Any], status: int, param: str | None, code: str | None, stream: bool
) -> None:
    content = {**chat("hi"), "stream": stream, **changes}
    if stream and "stream_options" in changes:
        return
    head, chunks = asyncio.run(streamed(ModelApp(Parrot(), footprint), f"{BASE}/chat/completions", content))
    assert head["status"] == status
    if status != 200:
        error = json.loads(b"".join(chunks))["error"]
        assert (error["param"], error["code"]) == (param, code)
        assert len(error["message"]) < 500


def test_a_model_has_the_paths_of_its_kind_and_problems_under_them_their_form() -> None:
    for runtime, path in ((Vectors(), "chat/completions"), (Parrot(), "embeddings"), (Echo(), "completions")):
        got = post(ModelApp(runtime, footprint), f"{BASE}/{path}", chat("a"))
        assert got.status == 404
        assert got.json["error"]["type"] == "not_found_error"
    app = ModelApp(Parrot(), footprint)
    assert post(app, "/models/other/v1/embeddings", {}).json["error"]["message"]
    assert ask(app, "GET", f"{BASE}/completions").json["error"]["code"] == "method_not_allowed"
    assert isinstance(ask(app, "POST", "/v2/models/echo/infer", b"{").json["error"], str)
    assert ask(app, "GET", f"{BASE}/models/echo:2").json["id"] == "echo:2"


# --- who leaves, and what takes too long


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_ends_the_work_within_a_token_and_the_worker_is_free(stream: bool) -> None:
    counted: list[int] = []
    runtime = Parrot(pause_s=0.05, context_tokens=1000)
    app = ModelApp(runtime, footprint, count=lambda use, tokens: counted.append(tokens))
    content = chat("word " * 200, stream=stream, max_tokens=200)

    async def run() -> None:
        task = asyncio.create_task(streamed(app, f"{BASE}/chat/completions", content, 3 if stream else None))
        if stream:
            await task
        else:
            while not runtime.made:
                await asyncio.sleep(0.01)
            task.cancel()
        made = runtime.made
        assert await asyncio.to_thread(runtime.closed.wait, 2)
        assert runtime.made <= made + 3  # the machine may be busy
        got = await ask_async(app, "POST", f"{BASE}/chat/completions", [json.dumps(chat("a")).encode()])
        assert got.status == 200

    asyncio.run(run())
    assert counted[0] < 15
    assert counted[1] == 2


def test_who_leaves_the_line_is_never_computed() -> None:
    runtime = Parrot(pause_s=0.05)
    app = ModelApp(runtime, footprint)
    body = json.dumps(chat("a b c")).encode()

    async def run() -> None:
        first = asyncio.create_task(ask_async(app, "POST", f"{BASE}/chat/completions", [body]))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(ask_async(app, "POST", f"{BASE}/chat/completions", [body]))
        await asyncio.sleep(0.02)
        second.cancel()
        assert (await first).status == 200
        assert (await ask_async(app, "POST", f"{BASE}/chat/completions", [body])).status == 200

    asyncio.run(run())
    assert len(runtime.samplings) == 2


def test_an_answer_has_its_time_and_a_stream_its_own() -> None:
    runtime = Parrot(pause_s=0.03, context_tokens=1000)
    app = ModelApp(runtime, footprint, limits=Limits(answer_s=0.2, stream_s=0.4))
    path = f"{BASE}/chat/completions"
    got = post(app, path, chat("word " * 100))
    assert (got.status, got.json["error"]["type"]) == (503, "server_error")
    wait_for(runtime.closed.is_set)
    began = time.monotonic()
    _, chunks = asyncio.run(streamed(app, path, chat("word " * 100, stream=True)))
    assert 0.35 < time.monotonic() - began < 1
    *_, failed, energy, end = events(b"".join(chunks))
    assert "did not end within 0.4 s" in failed["error"]["message"]
    assert (energy[:9], end) == (": energy ", "data: [DONE]")
    assert post(app, path, chat("a")).status == 200


def test_a_model_that_fails_midway_says_so_in_the_stream_and_nothing_of_itself() -> None:
    app = ModelApp(Parrot(fails_at=1), footprint)
    head, chunks = asyncio.run(streamed(app, f"{BASE}/chat/completions", chat("a b c", stream=True)))
    assert head["status"] == 200
    *_, failed, _, _ = events(b"".join(chunks))
    assert failed["error"]["code"] == "model_failed"
    assert b"secret" not in b"".join(chunks)
    got = post(app, f"{BASE}/chat/completions", chat("a b c"))
    assert (got.status, got.json["error"]["code"]) == (500, "model_failed")


def test_a_device_without_memory_for_an_answer_is_told() -> None:
    app = ModelApp(Parrot(fails_at=1, fails_by=DeviceFullError("2 GiB are not free; ask for less")), footprint)
    got = post(app, f"{BASE}/chat/completions", chat("a b c"))
    assert (got.status, got.json["error"]["code"]) == (503, "device_full")
    assert got.json["error"]["message"] == "2 GiB are not free; ask for less"


# --- the official client


@pytest.fixture(scope="module")
def texts() -> Iterator[Server]:
    server = Server(ModelApp(Parrot(context_tokens=500), footprint, gate=one_key))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def vectors() -> Iterator[Server]:
    server = Server(ModelApp(Vectors(), footprint, gate=one_key))
    yield server
    server.stop()


@pytest.fixture
def openai() -> Any:
    return pytest.importorskip("openai", reason="openai is not installed; it is in the extra dev")


@pytest.mark.parametrize("base", BASES)
def test_the_official_client_embeds_and_chats(openai: Any, texts: Server, vectors: Server, base: str) -> None:
    with openai.OpenAI(base_url=vectors.url + base, api_key="good", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["echo"]
        assert client.models.retrieve("echo").id == "echo"
        made = client.embeddings.create(model="echo", input=["a", "bb"])
        assert [one.embedding for one in made.data] == [[1.0, 0.5, -1.0], [2.0, 0.5, -1.0]]
        assert (made.usage.total_tokens, made.energy["nature"]) == (7, "modelled")
    with openai.OpenAI(base_url=texts.url + base, api_key="good", max_retries=0) as client:
        messages = [{"role": "user", "content": "one two"}]
        whole = client.chat.completions.create(model="echo", messages=messages)
        assert whole.choices[0].message.content == "one two "
        assert whole.energy["energy_joules"] > 0
        chunks = list(
            client.chat.completions.create(
                model="echo", messages=messages, stream=True, stream_options={"include_usage": True}
            )
        )
        assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices) == "one two "
        assert chunks[-1].usage.completion_tokens == 3
        assert client.completions.create(model="echo", prompt="a b", max_tokens=1).choices[0].text == "a "


def test_the_official_client_knows_the_errors(openai: Any, texts: Server) -> None:
    def ask(key: str = "good", **more: Any) -> Any:
        with openai.OpenAI(base_url=texts.url + BASE, api_key=key, max_retries=0) as client:
            return client.chat.completions.create(**{**chat("hi"), **more})

    with pytest.raises(openai.AuthenticationError) as found:
        ask("bad")
    assert (found.value.code, found.value.type) == ("invalid_api_key", "authentication_error")
    with pytest.raises(openai.RateLimitError) as found:
        ask("busy")
    assert found.value.response.headers["retry-after"] == "1"
    with pytest.raises(openai.NotFoundError) as found:
        ask(model="other")
    assert (found.value.code, found.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="leave it out") as found:
        ask(n=2)
    assert found.value.param == "n"
    with pytest.raises(openai.BadRequestError) as found:
        ask(messages=[{"role": "user", "content": "a " * 600}])
    assert found.value.code == "context_length_exceeded"


def test_the_official_client_that_closes_a_stream_ends_the_work(openai: Any) -> None:
    runtime = Parrot(pause_s=0.02, context_tokens=1000)
    server = Server(ModelApp(runtime, footprint))
    try:
        with openai.OpenAI(base_url=server.url + BASE, api_key="any", max_retries=0) as client:
            stream = client.chat.completions.create(**chat("word " * 300, stream=True, max_tokens=300))
            next(stream)
            stream.close()
        wait_for(runtime.closed.is_set)
        assert runtime.made < 50
        assert httpx.get(f"{server.url}/readyz").status_code == 200
    finally:
        server.stop()


def test_bodies_and_answers_are_compressed_here_too() -> None:
    import gzip

    app = ModelApp(Parrot(context_tokens=3000), footprint)
    body = gzip.compress(json.dumps(chat("word " * 1000, max_tokens=1100)).encode())
    headers = {"Content-Encoding": "gzip", "Accept-Encoding": "gzip"}
    got = ask(app, "POST", f"{BASE}/chat/completions", body, headers)
    assert json.loads(gzip.decompress(got.body))["usage"]["completion_tokens"] == 1001
