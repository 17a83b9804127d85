"""`eco_ray.Client` and `AsyncClient` against the real API on loopback, and against servers that fail."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from control_cases import JOB, QUICK, Case, attempt, case
from hypothesis import given
from hypothesis import strategies as st
from service_server import Server
from starlette.applications import Starlette
from test_control_energy import CLUSTER, ROWS
from test_service_key_gate import KEYS, NOW_S, PEPPER, credential, key

import eco_ray
from eco_ray.client import AsyncClient, Client, core
from eco_ray.client.calls import events as events_call
from eco_ray.client.core import Call, Tries
from eco_ray.client.stream import Place
from eco_ray.core.jobs import AttemptState, JobState
from eco_ray.core.keys import Scope
from eco_ray.core.limits import Limiter, Limits
from eco_ray.errors import EcoRayError, InfeasibleError, NotAllowedError, NotFoundError, UnreachableError, UsageError
from eco_ray.service.key_gate import KeyGate

#: until they have been seen to be stable where everything else runs, too
pytestmark = pytest.mark.slow


class Waiting:
    """The asynchronous client as one that waits: what one does, the other does."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = self._run(self._made(*given, **named))

    @staticmethod
    async def _made(*given: Any, **named: Any) -> AsyncClient:
        return AsyncClient(*given, **named)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            made = getattr(self._client, name)(*given, **named)
            return self._iterate(made) if hasattr(made, "__anext__") else self._run(made)

        return call

    def __repr__(self) -> str:
        return repr(self._client)

    def _iterate(self, made: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._run(anext(made))
                except StopAsyncIteration:
                    return
        finally:
            self._run(made.aclose())

    def _run(self, made: Any) -> Any:
        return self._loop.run_until_complete(made)

    def end(self) -> None:
        self._run(self._client.close())
        self._loop.close()


@pytest.fixture(params=["sync", "async"])
def opened(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes clients of one kind."""
    made: list[Any] = []

    def make(*given: Any, **named: Any) -> Any:
        made.append((Client if request.param == "sync" else Waiting)(*given, **named))
        return made[-1]

    yield make
    for one in made:
        (one.close if isinstance(one, Client) else one.end)()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "_FIRST_S", 0.001)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Case]:
    with case(tmp_path) as made, served(made.app) as url:
        made.url = url  # type: ignore[attr-defined]
        yield made


@contextmanager
def served(app: Any) -> Iterator[str]:
    server = Server(app)
    try:
        yield server.url
    finally:
        server.stop()


class Flaky:
    """Passes to an application what it does not fail; `fails(number)`: a status, `lost` or `cut`, or nothing."""

    def __init__(self, app: Any, fails: Callable[[int], int | str | None]) -> None:
        self.app, self.fails = app, fails
        self.asked: list[dict[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.asked.append({"path": scope["path"], "method": scope["method"], **headers})
        fails = self.fails(len(self.asked))
        if isinstance(fails, int):
            told = [(b"retry-after", b"0")]
            await send({"type": "http.response.start", "status": fails, "headers": told})
            await send({"type": "http.response.body", "body": json.dumps({"detail": f"fails {fails}"}).encode()})
            return None
        sent = 0

        async def cut(message: Any) -> None:
            nonlocal sent
            sent += 1
            if fails == "lost":  # done, and nobody is told
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            if fails == "lost" or (fails == "cut" and sent > 3):
                raise ConnectionError
            await send(message)

        return await self.app(scope, receive, cut)


# -- verbs -------------------------------------------------------------------------------------------------------------


def test_the_verbs(api: Case, opened: Any, tmp_path: Path) -> None:
    api.store.add_intervals(ROWS)
    api.store.put_meta("cluster", CLUSTER)
    client = opened(api.url)  # type: ignore[attr-defined]
    made = client.submit(JOB)
    assert client.job(made.id).tenant == "default"
    assert client.explain(made.id).events
    assert client.plan(JOB).segments
    assert [line.id for line in client.jobs("queued", "running")] == [made.id]
    assert client.suspend(made.id).message == "is being suspended"
    assert client.resume(made.id, budget_g=5.0).message == "goes on as planned"
    assert client.cancel(made.id).id == made.id
    assert [line.day for line in client.ledger("day", page=1)][:1] == ["2025-11-22"]
    assert [line.job for line in client.ledger(start="2025-11-23T00:00Z", zone="FR")] == ["b"]
    assert [node.node for node in client.nodes()] == ["de-1"]
    assert [row.zone for row in client.grid_now("DE", "FR")] == ["DE", "FR"]
    assert client.grid_forecast("DE", hours=2).zone == "DE"
    file = tmp_path / "from-file.yaml"
    file.write_text("run: python a.py\n")
    assert api.store.get_job(client.submit(file).id).spec.name == "from-file"  # type: ignore[union-attr]


def test_all_pages_are_fetched(api: Case, opened: Any) -> None:
    for number in range(7):
        api.put(f"j{number}", float(number))
    assert [line.id for line in opened(api.url).jobs(page=2)] == [f"j{n}" for n in range(6, -1, -1)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("does", "kind", "words"),
    [
        (lambda client: client.job("nobody"), NotFoundError, "no job 'nobody'"),
        (lambda client: client.job("../nodes"), NotFoundError, "no"),
        (lambda client: client.submit({"name": "a"}), UsageError, "run: is missing"),
        (lambda client: client.submit({**JOB, "resources": {"num_cpus": 999}}), InfeasibleError, "999"),
        (lambda client: list(client.logs("nobody")), NotFoundError, "no job 'nobody'"),
        (lambda client: client.grid_forecast("XX"), NotFoundError, "no zone"),
        (lambda client: list(client.ledger("colour")), UsageError, "unknown by"),
    ],
)
def test_a_problem_is_an_error_of_ours_with_the_words_of_the_server(
    api: Case, opened: Any, does: Any, kind: type[EcoRayError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        does(opened(api.url))  # type: ignore[attr-defined]


def test_the_key_is_sent_and_shown_nowhere(tmp_path: Path, opened: Any) -> None:
    gate = KeyGate(PEPPER, Limiter(Limits()), now=lambda: NOW_S, infer_reads=False)
    gate.learn({**KEYS, credential("a").id: key("a", Scope.READ, Scope.DEPLOY)})
    with case(tmp_path, gate=gate) as api, served(api.app) as url:
        client = opened(url, key=credential("a").text)
        assert client.submit(JOB).state
        assert credential("a").secret not in repr(client)
        with pytest.raises(NotAllowedError, match="Bearer") as caught:
            list(opened(url, key=credential("x").text).jobs())
        assert credential("x").secret not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("http://eco.example.org", "eco_x"), ("http://10.0.0.1:8000", "eco_x"), ("ftp://a", None),
        ("eco.example", None),
        ("https://user:secret@eco.example.org", None), ("", None), ("https://", None),
    ],
)  # fmt: skip
def test_an_address_that_would_show_the_key_or_is_none_is_refused(opened: Any, address: str, key: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        core.checked_address(address, key)
    assert "secret" not in str(caught.value)
    assert core.checked_address("https://eco.example.org/eco/", "k") == "https://eco.example.org/eco"
    assert core.checked_address("http://[::1]:8000", "k") == "http://[::1]:8000"


# -- what is asked again -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [503, 502, 429, "lost"])
def test_a_submission_is_asked_again_and_made_once(api: Case, opened: Any, fails: int | str) -> None:
    flaky = Flaky(api.app, lambda number: fails if number < 3 else None)
    with served(flaky) as url:
        made = opened(url).submit(JOB)
    assert len(flaky.asked) == 3
    assert len({one["idempotency-key"] for one in flaky.asked}) == 1
    assert [line.id for line in api.store.list_jobs()] == [made.id]


def test_two_submissions_are_two_jobs_unless_they_have_one_key(api: Case, opened: Any) -> None:
    client = opened(api.url)  # type: ignore[attr-defined]
    assert client.submit(JOB).id != client.submit(JOB).id
    assert client.submit(JOB, idempotency_key="k").id == client.submit(JOB, idempotency_key="k").id
    with pytest.raises(UsageError, match="send a new key"):
        client.submit({**JOB, "run": "other"}, idempotency_key="k")


@pytest.mark.parametrize(("fails", "asked"), [(503, 1), ("lost", 1), (429, 3)])
def test_what_is_not_safe_is_asked_once(api: Case, opened: Any, fails: int | str, asked: int) -> None:
    api.put("j")
    flaky = Flaky(api.app, lambda number: fails if number < 3 else None)
    with served(flaky) as url:
        try:
            opened(url).suspend("j")
        except (UnreachableError, NotFoundError) as error:
            told = str(error)
        assert len(flaky.asked) == asked, told


def test_it_gives_up_and_says_so(opened: Any) -> None:
    flaky = Flaky(Starlette(), lambda number: 503)
    with served(flaky) as url, pytest.raises(UnreachableError, match="fails 503"):
        opened(url).nodes()
    assert len(flaky.asked) == core.TRIES
    with pytest.raises(UnreachableError, match="check the address"):
        opened(url).suspend("j")  # nobody listens there any more


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b"<html>", EcoRayError),
        (200, b'{"a": 1}', EcoRayError),
        (200, b'[{"a": 1}]', EcoRayError),
        (302, b"", EcoRayError),
        (404, b"nginx", NotFoundError),
        (400, b'{"detail": null}', UsageError),
        (418, b'["detail"]', EcoRayError),
        (400, json.dumps({"detail": "x" * 100_000}).encode(), UsageError),
    ],
)
def test_what_is_no_answer_of_the_api_is_told(opened: Any, status: int, body: bytes, kind: type[EcoRayError]) -> None:
    async def other(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            told = [(b"location", b"http://evil.example/")]
            await send({"type": "http.response.start", "status": status, "headers": told})
            await send({"type": "http.response.body", "body": body})

    with served(other) as url, pytest.raises(kind) as caught:
        opened(url).nodes()
    assert len(str(caught.value)) < 2500


@given(st.floats(0, 1, exclude_max=True), st.booleans(), st.integers(0, 9))
def test_waits_grow_and_end(chance: float, repeatable: bool, retry_after_s: int) -> None:
    call: Call[None] = Call("GET", "/", lambda response: None, repeatable=repeatable)
    tries, waits = Tries(call, lambda: chance), list[float]()
    response = httpx.Response(429, headers={"retry-after": str(retry_after_s)})
    while (wait_s := tries.after_answer(response)) is not None:
        waits.append(wait_s)
    assert len(waits) == (core.TRIES - 1 if retry_after_s <= 8 else 0)
    assert all(retry_after_s <= wait_s <= 12 for wait_s in waits)


# -- streams -----------------------------------------------------------------------------------------------------------

TEXT = "Straße № 1\nΩ und 🌍 … fertig\n" * 3


@pytest.mark.parametrize("fails", ["cut", None, 503])
def test_output_is_whole_however_often_the_connection_breaks(
    api: Case, opened: Any, fails: str | int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Place, "wait_s", lambda place: 0.001)
    api.put("j", state=JobState.FAILED, attempts=(attempt(1, AttemptState.FAILED, 1.0),))
    api.keep_log("j", "a-1", TEXT.encode())
    flaky = Flaky(api.app, lambda number: fails if number % 2 else ("cut" if number < 6 else None))
    with served(flaky) as url:
        assert "".join(piece.text for piece in opened(url).logs("j")) == TEXT
    assert len(flaky.asked) > 1 or fails is None


def test_events_are_followed_while_they_happen_over_a_break(
    api: Case, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Place, "wait_s", lambda place: 0.001)
    for number in range(5):
        api.put(f"j{number}", float(number))
    flaky = Flaky(api.app, lambda number: "cut" if number < 4 else None)
    with served(flaky) as url:
        followed = opened(url).events(after=0)
        assert [next(followed).job for _ in range(5)] == [f"j{n}" for n in range(5)]
        later = threading.Timer(0.05, api.put, ("late", 9.0))
        later.start()
        assert next(followed).job == "late"
        followed.close()
        later.join()
    assert len(flaky.asked) == 4


def test_a_quiet_stream_that_breaks_misses_nothing(api: Case, opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Place, "wait_s", lambda place: 0.001)
    api.put("before")
    seen = threading.Event()

    def fails(number: int) -> str | None:
        if number == 2:  # between two connections
            api.put("between", 1.0)
            seen.set()
        return "cut" if number == 1 else None

    with served(Flaky(api.app, fails)) as url:
        followed = opened(url).events()
        assert next(followed).job == "between"
        followed.close()
    assert seen.is_set()


def test_a_stream_that_never_comes_is_given_up(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_s = Place.wait_s
    monkeypatch.setattr(Place, "wait_s", lambda place: wait_s(place) * 0)
    flaky = Flaky(Starlette(), lambda number: 503)
    with served(flaky) as url, pytest.raises(UnreachableError, match="20 times in a row"):
        next(opened(url).events())


def test_a_stream_without_an_end_of_line_is_not_collected(opened: Any) -> None:
    async def endless(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(100):
                await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    with served(endless) as url, pytest.raises(EcoRayError, match="an event above"):
        next(opened(url).events())


@given(st.lists(st.integers(1, 30), max_size=20), st.booleans())
def test_events_are_the_same_however_the_bytes_come(cuts: list[int], crlf: bool) -> None:
    text = b'retry: 5\nid: 7\n\n:\n\nid: 8\nevent: job\ndata: {"a":\ndata: 1}\n\nevent: problem\ndata: {}\n\nid: 9'
    text += b"\ndata: 2"
    text = text.replace(b"\n", b"\r\n") if crlf else text
    place, found = Place(events_call(None)), []
    for cut in [*cuts, len(text)]:
        found += list(place.take(text[:cut]))
        text = text[cut:]
    assert [(one.kind, one.data) for one in found] == [("job", {"a": 1})]  # half an event is none
    assert place.request["headers"]["Last-Event-ID"] == "9"


# -- the package -------------------------------------------------------------------------------------------------------


def test_eco_ray_has_the_clients_and_costs_nothing_without_them() -> None:
    import subprocess
    import sys

    assert (eco_ray.Client, eco_ray.AsyncClient) == (Client, AsyncClient)
    with pytest.raises(AttributeError, match="no attribute 'Clinet'"):
        _ = eco_ray.Clinet
    code = "import sys, eco_ray; assert not {'httpx', 'ray', 'pydantic'} & set(sys.modules); eco_ray.Client; "
    code += "assert 'ray' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_limits_of_streams_end_and_the_client_goes_on(
    tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Place, "wait_s", lambda place: 0.001)
    with case(tmp_path, replace(QUICK, stream_s=0.05)) as api:
        flaky = Flaky(api.app, lambda number: api.put("late", 1.0) and None if number == 3 else None)
        with served(flaky) as url:
            followed = opened(url).events()
            assert next(followed).job == "late"
            followed.close()
        assert len(flaky.asked) >= 3
