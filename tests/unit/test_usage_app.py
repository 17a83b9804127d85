"""GET /api/v1/usage/ID: whose it is, what it says, and what is not told."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from service_cases import Got, ask, ask_async
from test_service_key_gate import KEYS, NOW_S, PEPPER, credential
from usage_cases import counted, row_of, take_of

from eco_ray.core.limits import Limiter, Limits
from eco_ray.core.usage import Found, State, Usage, settle
from eco_ray.errors import UnreachableError
from eco_ray.service import usage as service
from eco_ray.service.key_gate import KeyGate
from eco_ray.service.usage import PREFIX, UsageApp

ONE = counted()
SETTLED = settle(Found(ONE, take_of([ONE]), False), [row_of(take_of([ONE]))])


class Lookup:
    """Knows what it is given, from some moment on."""

    def __init__(self, usage: Usage = SETTLED) -> None:
        self.usage, self.known_from_s = usage, 0.0
        self.asked: list[tuple[str, str]] = []

    def __call__(self, tenant: str, request_id: str) -> Usage | None:
        self.asked.append((tenant, request_id))
        one = self.usage.counted
        known = (tenant, request_id) == (one.tenant, one.request_id) and time.monotonic() >= self.known_from_s
        return self.usage if known else None


def get(app: Any, request_id: str = "id-1", method: str = "GET", **headers: str) -> Got:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ask(app, method, PREFIX + request_id, headers=named)


def test_a_settled_request_is_told_once() -> None:
    app = UsageApp(Lookup())
    got = get(app, Eco_Tenant="vision")
    assert (got.status, got.json) == (200, SETTLED.to_json())
    assert got.headers["content-type"] == "application/json"
    assert got.headers["cache-control"] == "private, no-cache"
    again = get(app, Eco_Tenant="vision", If_None_Match=got.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    assert get(app, method="HEAD", Eco_Tenant="vision").body == b""


def test_what_is_not_settled_is_not_stored() -> None:
    got = get(UsageApp(Lookup(Usage(ONE, State.ESTIMATE))), Eco_Tenant="vision")
    assert (got.json["state"], got.headers["cache-control"], "etag" in got.headers) == ("estimate", "no-store", False)


def test_anothers_request_and_an_unknown_one_are_the_same_404(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_WRITTEN_S", 0.0)
    app = UsageApp(Lookup())
    bodies = [get(app, **headers).json for headers in ({}, {"Eco_Tenant": "text"})]
    bodies += [get(UsageApp(Lookup(Usage(counted(request_id="x"), State.ESTIMATE))), Eco_Tenant="vision").json]
    assert bodies[0] == bodies[1] == bodies[2]
    assert (bodies[0]["status"], bodies[0]["title"]) == (404, "no such request")
    assert get(app).headers["cache-control"] == "no-store"
    assert get(app).headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("request_id", ["", "a b", "x" * 129, "ü", "a\n", "a\0", "%2e"])
def test_an_id_that_no_answer_has_is_not_looked_for(request_id: str) -> None:
    lookup = Lookup()
    got = get(UsageApp(lookup), request_id)
    assert (got.status, lookup.asked) == (404, [])
    assert len(got.body) < 800


def test_an_id_may_have_what_an_answer_may_have() -> None:
    one = counted(request_id="a/b:c+d=e~f-g.h_i")
    assert get(UsageApp(Lookup(Usage(one, State.ESTIMATE))), one.request_id, Eco_Tenant="vision").status == 200


def test_one_that_is_on_its_way_to_the_log_is_found_and_nobody_is_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_WRITTEN_S", 0.1)
    lookup = Lookup()
    lookup.known_from_s = time.monotonic() + 0.05
    app = UsageApp(lookup)
    assert get(app, Eco_Tenant="vision").status == 200
    assert get(app, "unknown", Eco_Tenant="vision").status == 404
    assert lookup.asked == [("vision", "id-1"), ("vision", "unknown")]


def test_the_key_names_the_tenant() -> None:
    gate = KeyGate(PEPPER, Limiter(Limits()), now=lambda: NOW_S)
    gate.learn(KEYS)
    lookup = Lookup()
    app = UsageApp(lookup, gate=gate)
    statuses = {name: get(app, Authorization=f"Bearer {credential(name).text}").status for name in "irdevx"}
    assert statuses == {"i": 200, "r": 200, "d": 403, "e": 401, "v": 401, "x": 401}
    assert get(app).status == get(app, Eco_Tenant="vision").status == 401
    assert get(app, Authorization=f"Bearer {credential('r').text}", Eco_Tenant="text").status == 403
    assert set(lookup.asked) == {("vision", "id-1")}


def test_other_paths_and_methods_are_refused() -> None:
    app = UsageApp(Lookup())
    assert ask(app, "GET", "/api/v1/usages/id-1").status == 404
    assert (get(app, method="POST").status, get(app, method="POST").headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert get(app, method="OPTIONS").status == 204


def test_who_cannot_be_asked_now_is_no_404(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(tenant: str, request_id: str) -> None:
        raise UnreachableError("node secret-7 did not answer")

    got = get(UsageApp(away))
    assert (got.status, got.json["title"], got.headers["retry-after"]) == (503, "not known now", "1")
    assert b"secret-7" not in got.body
    monkeypatch.setattr(service, "_LIMIT_S", 0.05)
    held = threading.Event()
    got = get(UsageApp(lambda tenant, request_id: held.wait(0.5) and None))
    assert (got.status, got.json["title"]) == (503, "too slow")


@pytest.mark.parametrize(
    ("tenants", "most", "of_one", "statuses"),
    [
        (["a"] * 5, 9, 2, [200, 200, 503, 503, 503]),
        (["a", "b", "c", "d", "e"], 2, 9, [200, 200, 503, 503, 503]),
        (["a", "a", "a", "a", "b"], 9, 3, [200, 200, 200, 200, 503]),
    ],
)
def test_only_so_many_are_looked_for_at_once(
    monkeypatch: pytest.MonkeyPatch, tenants: list[str], most: int, of_one: int, statuses: list[int]
) -> None:
    monkeypatch.setattr(service, "_MOST", most)
    monkeypatch.setattr(service, "_MOST_OF_ONE", of_one)
    monkeypatch.setattr(service, "_WRITTEN_S", 0.0)
    go = threading.Event()

    def slow(tenant: str, request_id: str) -> Usage:
        go.wait(5)
        return SETTLED

    async def many() -> list[int]:
        app = UsageApp(slow)
        asked = [
            asyncio.create_task(ask_async(app, "GET", f"{PREFIX}id-1", [], {"Eco-Tenant": tenant}))
            for tenant in tenants
        ]
        await asyncio.sleep(0.05)
        go.set()
        found = [(await one).status for one in asked]
        assert (await ask_async(app, "GET", f"{PREFIX}id-1", [], {"Eco-Tenant": "a"})).status == 200
        return sorted(found)

    assert asyncio.run(many()) == statuses


def test_a_lookup_that_nobody_waits_for_holds_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_MOST", 1)
    monkeypatch.setattr(service, "_LIMIT_S", 0.05)
    monkeypatch.setattr(service, "_WRITTEN_S", 0.0)
    go = threading.Event()

    async def two() -> list[str]:
        app = UsageApp(lambda tenant, request_id: go.wait(5) and None)
        found = [(await ask_async(app, "GET", f"{PREFIX}id-1", [])).json["title"] for _ in "12"]
        go.set()
        await asyncio.sleep(0.2)
        return [*found, (await ask_async(app, "GET", f"{PREFIX}id-1", [])).json["title"]]

    assert asyncio.run(two()) == ["too slow", "busy", "no such request"]
