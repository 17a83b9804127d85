"""A share of the requests goes to another version; what that cannot answer is answered here."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from service_server import Server

from eco_ray.service.canary import BesideApp, CanaryApp
from eco_ray.service.limits import Limits
from eco_ray.service.problems import Problem


class App:
    """Answers who it is and what it was asked."""

    def __init__(self, name: str, status: int = 200) -> None:
        self.name, self.status = name, status

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        told = {"who": self.name, "path": scope["path"], "body": body.decode(), "bytes": len(body)}
        headers = [(b"content-type", b"application/json"), (b"x-who", self.name.encode())]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(told).encode()})


@pytest.fixture
def other() -> Iterator[Server]:
    made = Server(BesideApp(App("other"), "/canary/m", 2))
    yield made
    made.stop()


class Turns:
    """Chances that a test gives."""

    def __init__(self) -> None:
        self.at = 0

    def __call__(self) -> float:
        self.at += 1
        return (self.at % 10) / 10


def serving(base: str, percent: int, **how: Any) -> tuple[Server, CanaryApp]:
    app = CanaryApp(App("here"), base, "/v2/models/m/versions/", chance=Turns(), **how)
    app.percent = percent
    return Server(app), app


@pytest.mark.parametrize("percent", [0, 10, 50, 100])
def test_so_many_of_a_hundred_go_to_the_other_version(other: Server, percent: int) -> None:
    front, app = serving(f"{other.url}/canary/m", percent)
    try:
        with httpx.Client() as http:
            seen = Counter(http.post(f"{front.url}/v2/models/m/infer", content=b"x").json()["who"] for _ in range(50))
        assert seen["other"] == percent // 2
        app.percent = 0
        assert httpx.post(f"{front.url}/v2/models/m/infer").json()["who"] == "here"
    finally:
        front.stop()


def test_what_names_its_version_or_only_looks_stays(other: Server) -> None:
    front, _ = serving(f"{other.url}/canary/m", 100)
    try:
        there = httpx.post(f"{front.url}/v2/models/m/infer", content=b"hello")
        assert there.json() == {"who": "other", "path": "/v2/models/m/infer", "body": "hello", "bytes": 5}
        assert there.headers["eco-model-version"] == "2"
        assert httpx.post(f"{front.url}/v2/models/m/versions/1/infer").json()["who"] == "here"
        assert httpx.get(f"{front.url}/v2/models/m").json()["who"] == "here"
    finally:
        front.stop()


@pytest.mark.parametrize("how", ["refuses", "fails", "is gone", "is another"])
def test_a_version_that_cannot_answer_loses_nothing(how: str) -> None:
    app = App("other", {"fails": 500, "refuses": 503, "is another": 404}.get(how, 200))
    broken = Server(app if how == "is another" else BesideApp(app, "", 2))
    front, _ = serving(broken.url, 100)
    if how == "is gone":
        broken.stop()
    try:
        found = httpx.post(f"{front.url}/v2/models/m/infer", content=b"x" * 100_000)
        assert (found.status_code, found.json()["who"], found.json()["bytes"]) == (200, "here", 100_000)
        assert found.headers.get_list("x-who") == ["here"]
    finally:
        front.stop()
        if how != "is gone":
            broken.stop()


def test_who_names_the_version_here_is_answered_here() -> None:
    other = Server(BesideApp(App("other", 404), "", 2))
    front, _ = serving(other.url, 100)
    try:
        assert httpx.post(f"{front.url}/v2/models/m/openai/v1/completions").json()["who"] == "here"
    finally:
        front.stop()
        other.stop()


def test_who_may_not_ask_is_told_so_here(other: Server) -> None:
    def closed(headers: Any, scope: Any) -> Any:
        raise Problem(401, "no valid key", "send one")

    front, app = serving(other.url, 100, gate=closed)
    try:  # the application here has a gate of its own, which reads no body
        assert httpx.post(f"{front.url}/v2/models/m/infer", content=b"x").json()["who"] == "here"
        assert app._held.bytes == 0
    finally:
        front.stop()


def test_what_the_other_version_refuses_is_its_answer() -> None:
    other = Server(BesideApp(App("other", 400), "", 2))
    front, _ = serving(other.url, 100)
    try:
        assert httpx.post(f"{front.url}/v2/models/m/infer").status_code == 400
    finally:
        front.stop()
        other.stop()


def test_a_body_above_the_limit_is_refused_and_not_held(other: Server) -> None:
    front, app = serving(other.url, 100, limits=Limits(body_bytes=1000))
    try:
        assert httpx.post(f"{front.url}/v2/models/m/infer", content=b"x" * 5000).status_code == 413
        assert httpx.post(f"{front.url}/v2/models/m/infer", content=b"x").json()["who"] == "other"
        assert app._held.bytes == 0
    finally:
        front.stop()


def test_many_at_once(other: Server) -> None:
    front, app = serving(other.url, 50)

    async def ask() -> Counter[str]:
        async with httpx.AsyncClient(timeout=30.0) as http:
            answers = await asyncio.gather(
                *(http.post(f"{front.url}/v2/models/m/infer", content=b"x") for _ in range(200))
            )
        return Counter(one.json()["who"] for one in answers)

    try:
        assert asyncio.run(ask()) == {"here": 100, "other": 100}
        assert app._held.bytes == 0
    finally:
        front.stop()
