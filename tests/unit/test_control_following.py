"""Streams of the control API: every piece once, whenever the client was away, and nothing kept for a slow one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from control_cases import BASE, JOB, QUICK, Case, attempt, case, events
from hypothesis import given
from hypothesis import strategies as st
from service_server import Server
from test_control_jobs import bearer, with_keys

from eco_ray.api_model import JobEvent, LogText
from eco_ray.core.jobs import AttemptState, JobState
from eco_ray.core.store_port import LogEntry
from eco_ray.errors import UnreachableError
from eco_ray.service.control.app import ControlApp
from eco_ray.service.control.following import whole_characters
from eco_ray.service.control.port import NumberedEntry
from eco_ray.service.control.streams import Event, Streams

#: until they have been seen to be stable where everything else runs, too
pytestmark = pytest.mark.slow

LOGS = f"{BASE}/jobs/j/logs"
TEXT = "Straße № 1\nΩ und 🌍 … fertig\n" * 3


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Case]:
    with case(tmp_path, replace(QUICK, stream_s=0.2)) as made:
        yield made


def ended(api: Case, *texts: bytes, first: int = 0) -> None:
    tries = [attempt(number, AttemptState.FAILED, 1.0) for number, _ in enumerate(texts, 1)]
    api.put("j", state=JobState.FAILED, attempts=tuple(tries))
    for one, content in zip(tries, texts, strict=True):
        api.keep_log("j", one.submission_id, content, first)


def texts(body: bytes) -> str:
    return "".join(LogText(**one["data"]).text for one in events(body) if one["event"] == "log")


# -- output ------------------------------------------------------------------------------------------------------------


def test_the_output_of_a_job_that_has_ended_is_told_whole(api: Case) -> None:
    ended(api, TEXT.encode(), b"second\n")
    got = api.ask("GET", LOGS)
    assert (got.status, got.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert got.headers["cache-control"] == "no-store"
    assert texts(got.body) == TEXT + "second\n"
    assert events(got.body)[-1]["event"] == "end"
    assert events(got.body)[-1]["data"] == {"id": "j", "state": "failed"}


def test_whoever_comes_again_gets_the_rest_from_any_place(api: Case) -> None:
    ended(api, TEXT.encode(), b"second\n")
    all_of_it = events(api.ask("GET", LOGS).body)
    for number, one in enumerate(all_of_it[:-1]):
        got = api.ask("GET", LOGS, Last_Event_Id=one["id"])
        assert events(got.body) == all_of_it[number + 1 :]
        assert events(api.ask("GET", f"{LOGS}?after={one['id']}").body) == all_of_it[number + 1 :]
    assert api.ask("GET", LOGS, Last_Event_Id="end").status == 204  # by which a browser stops


def test_what_is_not_kept_is_said(api: Case) -> None:
    ended(api, b"the end", first=100)
    first = events(api.ask("GET", LOGS).body)[0]
    assert first["data"] == {"attempt": 1, "offset": 100, "text": "the end", "lost_bytes": 100}
    assert first["id"] == "1.107"


def test_output_that_grows_is_followed_over_attempts(tmp_path: Path) -> None:
    with case(tmp_path) as api:
        api.put("j", state=JobState.RUNNING, attempts=(attempt(1),))
        api.acts.output["a-1"] = "half of a €"[:-1].encode() + "€".encode()[:2]

        async def grows() -> None:
            await asyncio.sleep(0.08)
            api.acts.output["a-1"] = "half of a € sign\n".encode()
            await asyncio.sleep(0.05)
            second = attempt(2, AttemptState.SUCCEEDED, 1.0)
            api.keep_log("j", "a-2", b"over\n")
            api.keep_log("j", "a-1", api.acts.output["a-1"])
            first = attempt(1, AttemptState.PAUSED, 1.0)
            api.put("j", state=JobState.SUCCEEDED, attempts=(first, second))

        async def both() -> bytes:
            from control_cases import ask_async

            growing = asyncio.create_task(grows())
            got = await ask_async(api.app, "GET", LOGS)
            await growing
            return got.body

        body = asyncio.run(both())
        assert texts(body) == "half of a € sign\nover\n"
        assert b"\n:\n" in body  # it lives
        assert events(body)[-1]["data"] == {"id": "j", "state": "succeeded"}


def test_without_follow_it_ends_with_what_is_there(api: Case) -> None:
    api.put("j", state=JobState.RUNNING, attempts=(attempt(1),))
    api.acts.output["a-1"] = b"so far"
    body = api.ask("GET", f"{LOGS}?follow=false").body
    assert [one["event"] for one in events(body)] == ["log", "end"]
    assert texts(body) == "so far"


def test_an_output_that_is_lost_ends_nevertheless(api: Case) -> None:
    api.put(
        "j", state=JobState.FAILED, attempts=(attempt(1, AttemptState.LOST, 1.0), attempt(2, AttemptState.LOST, 1.0))
    )
    assert [one["event"] for one in events(api.ask("GET", LOGS).body)] == ["end"]


@pytest.mark.parametrize("place", ["1", "1.2.3", "-1.0", "1.-5", "x", "1." + "9" * 16, "1.0\n", "\xb2.0"])
def test_a_wrong_place_is_refused(api: Case, place: str) -> None:
    ended(api, b"a")
    assert api.ask("GET", LOGS, Last_Event_Id=place).status == 400


def test_a_place_beyond_the_end_is_no_error(api: Case) -> None:
    ended(api, b"a")
    for place in ("1.999999", "7.0"):
        assert [one["event"] for one in events(api.ask("GET", LOGS, Last_Event_Id=place).body)] == ["end"]


@given(st.text(max_size=12), st.integers(0, 40))
def test_a_piece_ends_with_a_whole_character(text: str, cut: int) -> None:
    content = text.encode()[:cut]
    length = whole_characters(content)
    assert len(content) - length <= 3
    assert text.startswith(content[:length].decode())
    assert (content[:length].decode() + "x")[:-1] == content[:length].decode()


@given(st.binary(max_size=12))
def test_of_what_is_no_text_little_is_left_for_later(content: bytes) -> None:
    assert len(content) - 3 <= whole_characters(content) <= len(content)


# -- events ------------------------------------------------------------------------------------------------------------


def test_events_come_from_now_on_or_from_where_one_was(api: Case) -> None:
    for number in range(4):
        api.put(f"j{number}", float(number))
    assert events(api.ask("GET", f"{BASE}/events").body) == []
    got = events(api.ask("GET", f"{BASE}/events?after=0").body)
    assert [JobEvent(**one["data"]).job for one in got] == ["j0", "j1", "j2", "j3"]
    assert [one["id"] for one in got] == ["1", "2", "3", "4"]
    again = api.ask("GET", f"{BASE}/events?after=0", Last_Event_Id="3")  # the header wins: a browser repeats the URL
    assert [one["id"] for one in events(again.body)] == ["4"]


def test_a_stream_without_events_says_where_it_goes_on(api: Case) -> None:
    api.put("j0")
    assert b"retry: 1000\nid: 1\n\n" in api.ask("GET", f"{BASE}/events").body


@pytest.mark.parametrize("after", ["5", "-1", "x", "1.5", "9" * 19, "\xb2"])
def test_an_event_that_was_not_there_is_refused(api: Case, after: str) -> None:
    api.put("j0")
    got = api.ask("GET", f"{BASE}/events", Last_Event_Id=after)
    assert (got.status, got.json["title"]) == (400, "no such event")


def test_events_are_of_the_own_tenant(tmp_path: Path) -> None:
    with with_keys(tmp_path) as api:
        api.app = ControlApp(api.control, api.grid, gate=api.app._gate, limits=replace(QUICK, stream_s=0.1))
        api.put("mine"), api.put("theirs", tenant="text")
        got = api.ask("GET", f"{BASE}/events?after=0", Authorization=bearer("r"))
        assert [one["data"]["job"] for one in events(got.body)] == ["mine"]
        assert api.ask("GET", f"{BASE}/events", Authorization=bearer("i")).status == 403


def test_a_cluster_that_does_not_answer_is_told_and_not_by_name(api: Case) -> None:
    def away(tenant: Any, after: int, limit: int) -> Any:
        raise UnreachableError("node secret-7 did not answer")

    api.control.events = away  # type: ignore[method-assign]
    got = api.ask("GET", f"{BASE}/events?after=0")
    assert events(got.body)[-1]["event"] == "problem"
    assert events(got.body)[-1]["data"]["status"] == 503
    assert b"secret-7" not in got.body
    assert b"retry: 5000" in got.body


# -- many, slow and gone clients ---------------------------------------------------------------------------------------


def test_only_so_many_streams_are_open_and_places_come_back(api: Case) -> None:
    from control_cases import ask_async

    few = ControlApp(api.control, api.grid, limits=replace(QUICK, stream_s=0.3, streams=4, streams_of_one=2))
    api.put("j0")

    async def many() -> list[int]:
        asked = [
            ask_async(few, "GET", f"{BASE}/events", Eco_Tenant=tenant) for tenant in ("a", "a", "a", "b", "c", "d")
        ]
        return [got.status for got in await asyncio.gather(*asked)]

    assert sorted(asyncio.run(many())) == [200, 200, 200, 200, 503, 503]
    assert sorted(asyncio.run(many())) == [200, 200, 200, 200, 503, 503]


def test_a_stream_looks_only_when_its_client_has_taken_what_came() -> None:
    looks = 0

    async def look() -> list[Event]:
        nonlocal looks
        looks += 1
        return [Event(str(looks), "job", "x" * 1000)]

    async def slow() -> None:
        async def receive() -> Any:
            await asyncio.Event().wait()

        answer = Streams(QUICK).answer("a", receive, look, "0")
        assert answer.stream is not None
        chunks = answer.stream.chunks
        for _ in range(3):
            await anext(chunks)
            await asyncio.sleep(0.05)  # ten times the time in which it looks, were there nobody to wait for
        await chunks.aclose()  # type: ignore[attr-defined]

    asyncio.run(slow())
    assert looks == 2


def test_who_has_left_is_not_looked_for_any_more(api: Case) -> None:
    looks = 0

    def none(tenant: Any, after: int, limit: int) -> list[NumberedEntry]:
        nonlocal looks
        looks += 1
        return []

    api.control.events = none  # type: ignore[method-assign]
    server = Server(ControlApp(api.control, api.grid, limits=replace(QUICK, stream_s=60.0)))
    try:
        connection = server.connect()
        connection.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in connection.recv(4096)
        connection.close()
        for _ in range(40):
            time.sleep(0.02)
            before = looks
            time.sleep(0.1)
            if looks == before:
                break
        assert looks == before
    finally:
        server.stop()


def test_who_reads_nothing_is_cut_off_and_holds_little(api: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    from eco_ray.service.control import streams

    monkeypatch.setattr(streams, "_GRACE_S", 0.2)
    sent = 0

    def flood(tenant: Any, after: int, limit: int) -> list[NumberedEntry]:
        nonlocal sent
        sent += 1
        return [NumberedEntry(after + 1, LogEntry(0.0, "j", "k", "x" * 100_000))]

    api.control.events = flood  # type: ignore[method-assign]
    app = ControlApp(api.control, api.grid, limits=replace(QUICK, stream_s=0.5))
    server = Server(app)
    try:
        connection = server.connect()
        connection.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.3)
        held = sent
        assert held < 200  # what the sockets hold, 100 kB each: it waits
        for _ in range(100):
            if not app.open_streams:
                break
            time.sleep(0.05)
        assert not app.open_streams
        connection.close()
    finally:
        server.stop()


def test_a_submitted_job_is_an_event(api: Case) -> None:
    job_id = api.ask("POST", f"{BASE}/jobs", JOB).json["id"]
    got = events(api.ask("GET", f"{BASE}/events?after=0").body)
    assert {one["data"]["job"] for one in got} == {job_id}
