"""Some requests go to another version; what that cannot answer is answered here, and answers say by whom."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from service_cases import footprint
from service_server import Server

from eco_ray.service.aside import AsideApp, BesideApp, Dice, Other, Turns
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


class Chances:
    """Chances that a test gives."""

    def __init__(self) -> None:
        self.at = 0

    def __call__(self) -> float:
        self.at += 1
        return (self.at % 10) / 10


def serving(base: str, percent: int, is_variant: bool = False, **how: Any) -> tuple[Server, AsideApp]:
    """Version 1 of `m`, with version 2 at `base`."""
    app = AsideApp(App("here"), "/v2/models/m/versions/", 1, footprint, **how)
    app.other = Other(2, base, Dice(percent, Chances()), is_variant)
    return Server(app), app


@pytest.mark.parametrize("percent", [0, 10, 50, 100])
def test_so_many_of_a_hundred_go_to_the_other_version(other: Server, percent: int) -> None:
    front, app = serving(f"{other.url}/canary/m", percent)
    try:
        with httpx.Client() as http:
            seen = Counter(http.post(f"{front.url}/v2/models/m/infer", content=b"x").json()["who"] for _ in range(50))
        assert seen["other"] == percent // 2
        app.other = None
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


def test_both_versions_say_who_they_are(other: Server) -> None:
    small = Server(BesideApp(App("other"), "/variant/m", 2, is_variant=True))
    front, app = serving(f"{small.url}/variant/m", 50, is_variant=True)
    try:
        answers = [httpx.post(f"{front.url}/v2/models/m/infer") for _ in range(10)]
        told = {(one.json()["who"], one.headers["eco-model-version"], one.headers["eco-variant"]) for one in answers}
        assert told == {("here", "1", "large"), ("other", "2", "small")}
        assert httpx.get(f"{front.url}/v2/models/m").headers["eco-variant"] == "large"
        app.other = Other(2, f"{other.url}/canary/m", Dice(50, Chances()))  # a canary is no variant
        for _ in range(10):
            answer = httpx.post(f"{front.url}/v2/models/m/infer")
            assert answer.headers["eco-model-version"] == {"here": "1", "other": "2"}[answer.json()["who"]]
            assert "eco-variant" not in answer.headers
        app.other = None
        alone = httpx.post(f"{front.url}/v2/models/m/infer")
        assert not {"eco-model-version", "eco-variant"} & set(alone.headers)
    finally:
        front.stop()
        small.stop()


def test_a_client_can_refuse_a_smaller_variant_and_no_canary(other: Server) -> None:
    front, app = serving(f"{other.url}/canary/m", 100, is_variant=True)
    refusing = {"Eco-Variant": "none"}
    try:
        assert httpx.post(f"{front.url}/v2/models/m/infer").json()["who"] == "other"
        assert httpx.post(f"{front.url}/v2/models/m/infer", headers=refusing).json()["who"] == "here"
        # a value that is none is for the application here to refuse
        assert httpx.post(f"{front.url}/v2/models/m/infer", headers={"Eco-Variant": "x"}).json()["who"] == "here"
        app.other = Other(2, f"{other.url}/canary/m", lambda: True)
        assert httpx.post(f"{front.url}/v2/models/m/infer", headers=refusing).json()["who"] == "other"
    finally:
        front.stop()


@pytest.mark.parametrize("chosen", [True, False])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_version_that_is_named_answers_itself(other: Server, chosen: bool, method: str) -> None:
    front, app = serving(f"{other.url}/canary/m", 0, is_variant=True)
    app.other = Other(2, f"{other.url}/canary/m", lambda: chosen, is_variant=True)
    base = f"{front.url}/v2/models/m/versions"
    try:
        for path, who in (("2", "other"), ("2/infer", "other"), ("1/infer", "here"), ("22/infer", "here")):
            found = httpx.request(method, f"{base}/{path}?x=1", headers={"Eco-Variant": "none"})
            assert (found.json()["who"], found.json()["path"]) == (who, f"/v2/models/m/versions/{path}")
    finally:
        front.stop()


def test_a_version_that_is_named_and_away_is_said_to_be_away() -> None:
    gone = Server(App("other"))
    front, app = serving(gone.url, 0)
    gone.stop()
    fails = Server(BesideApp(App("other", 500), "", 2))
    try:
        for _ in range(2):
            found = httpx.post(f"{front.url}/v2/models/m/versions/2/infer", content=b"x")
            assert (found.status_code, found.headers["retry-after"]) == (503, "1")
            assert "version 2 is away" in found.json()["detail"]
            assert found.headers["eco-footprint"].startswith("energy-j=")
            stranger = Server(App("another"))  # at its address
            app.other = Other(2, stranger.url, lambda: False)
        app.other = Other(2, fails.url, lambda: False)
        assert httpx.post(f"{front.url}/v2/models/m/versions/2/infer").status_code == 500  # its own answer
        assert app._held.bytes == 0
    finally:
        front.stop()
        fails.stop()
        stranger.stop()


def test_a_version_that_is_away_rests_before_it_is_tried_again() -> None:
    gone = Server(App("other"))
    now_s = [0.0]
    front, app = serving(gone.url, 100, now_s=lambda: now_s[0])
    gone.stop()
    asked: list[float] = []

    def chosen() -> bool:
        asked.append(now_s[0])
        return True

    app.other = Other(2, gone.url, chosen)
    try:
        for now_s[0] in (0.0, 1.0, 4.9, 5.0, 5.1, 10.0):
            assert httpx.post(f"{front.url}/v2/models/m/infer", content=b"x").json()["who"] == "here"
        assert asked == [0.0, 5.0, 10.0]
        refuses = Server(BesideApp(App("other", 503), "", 2))  # it is there, and a canary is to be seen failing
        app.other = Other(2, refuses.url, chosen)
        for now_s[0] in (20.0, 20.1):
            httpx.post(f"{front.url}/v2/models/m/infer", content=b"x")
        assert asked[3:] == [20.0, 20.1]
    finally:
        front.stop()
        refuses.stop()


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.07, 0.3, 0.5, 1.0]), st.integers(1, 20)), max_size=12))
@example([(0.0, 1), (0.5, 1)])
def test_the_floor_holds_after_each_request_whatever_the_share_becomes(stretches: list[tuple[float, int]]) -> None:
    shares = [share for share, count in stretches for _ in range(count)]
    at = iter(shares)
    turns = Turns(lambda: next(at))
    small, allowed = 0, 0.0
    for share in shares:
        small += turns()
        allowed += share
        assert small <= allowed + 1e-9
    assert small >= allowed - len(stretches) - 1e-9  # each stretch is used up but for less than one


def test_what_sending_on_takes_is_told_where_it_was_alone(other: Server) -> None:
    front, app = serving(f"{other.url}/canary/m", 0)
    hops: list[float] = []
    app.other = Other(2, f"{other.url}/canary/m", lambda: True, hop=hops.append)

    async def ask() -> None:
        async with httpx.AsyncClient(timeout=30.0) as http:
            await asyncio.gather(*(http.post(f"{front.url}/v2/models/m/infer", content=b"x") for _ in range(50)))

    try:
        for _ in range(5):
            httpx.post(f"{front.url}/v2/models/m/infer", content=b"x")
        assert len(hops) == 5
        assert all(0 < cpu_s < 0.1 for cpu_s in hops)
        asyncio.run(ask())
        assert len(hops) < 50
    finally:
        front.stop()


def test_what_a_path_had_encoded_is_sent_on_encoded(other: Server) -> None:
    here, _ = serving(f"{other.url}/canary/m", 100)
    try:
        answer = httpx.post(f"{here.url}/v2/models/m/infer%0d%0aX-Evil:%20yes%0d%0a%3f%23", content=b"x")
    finally:
        here.stop()
    assert answer.status_code == 200
    assert (answer.json()["who"], answer.json()["path"]) == ("other", "/v2/models/m/infer\r\nX-Evil: yes\r\n?#")
