"""Who may ask: keys, scopes, tenants, and limits that are charged before and settled after."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from openai_cases import Parrot, chat
from service_cases import INFER, Echo, Got, ask, ask_async, footprint, request

from eco_ray.core.footprint import Footprint, Signal
from eco_ray.core.keys import ApiKey, Credential, Scope, Verdict, new_key
from eco_ray.core.limits import Limiter, Limits, TenantLimits
from eco_ray.core.units import Nature
from eco_ray.service.app import ModelApp
from eco_ray.service.key_gate import KeyGate

PEPPER = b"p" * 32
NOW_S = 1_700_000_000.0
X = request([1.0])


def credential(name: str) -> Credential:
    return Credential((name * 12)[:12], (name * 43)[:43])


def key(name: str, *scopes: Scope, tenant: str = "vision", **changes: Any) -> ApiKey:
    return replace(new_key(credential(name), tenant, scopes, PEPPER, NOW_S - 10, None), **changes)


def keys(*given: ApiKey) -> Mapping[str, ApiKey]:
    return {one.id: one for one in given}


KEYS = keys(
    key("i", Scope.INFER),
    key("r", Scope.READ),
    key("d", Scope.DEPLOY),
    key("e", Scope.INFER, expires_s=NOW_S - 1),
    key("v", Scope.INFER, revoked_s=NOW_S - 1),
)


class Case:
    """A gate before a model, its clock, and what it told the audit log."""

    def __init__(self, limits: TenantLimits = TenantLimits(), runtime: Echo | None = None) -> None:  # noqa: B008
        self.now_s = NOW_S
        self.audit: list[tuple[str, Verdict]] = []
        self.limiter = Limiter(Limits(default=limits))
        self.gate = KeyGate(PEPPER, self.limiter, audit=lambda *told: self.audit.append(told), now=lambda: self.now_s)
        self.gate.learn(KEYS)
        self.runtime = runtime or Echo()
        self.joules = 1.0
        self.app = ModelApp(self.runtime, self.footprint, gate=self.gate)

    def footprint(self, cpu_s: float, duration_s: float, batch_share: float) -> Footprint:
        return Footprint(self.joules, None, duration_s, 1.0, Signal("DE", None, "test"), Nature.MODELLED)

    def ask(self, text: str | None = credential("i").text, path: str = INFER, **more: str) -> Got:
        headers = {name.replace("_", "-"): value for name, value in more.items()}
        if text is not None:
            headers["Authorization"] = f"Bearer {text}"
        return ask(self.app, "POST" if path == INFER else "GET", path, X, headers)


def test_a_key_is_its_tenant_and_other_headers_say_nothing_else() -> None:
    tenants: list[str] = []
    case = Case()
    app = ModelApp(Echo(), footprint, gate=case.gate, count=lambda use, rows: tenants.append(use.tenant))
    text = credential("i").text
    for headers in (
        {"Authorization": f"Bearer {text}"},
        {"authorization": f"bearer  {text}"},
        {"x-api-key": text},
        {"x-api-key": text, "Eco-Tenant": "vision"},
    ):
        assert ask(app, "POST", INFER, X, headers).status == 200
    assert tenants == ["vision"] * 4
    got = case.ask(Eco_Tenant="other")
    assert (got.status, got.json["title"]) == (403, "wrong tenant")
    assert case.ask(Eco_Tenant="a b").status == 400
    assert case.ask(x_api_key=text).status == 400
    twice = [(b"x-api-key", text.encode()), (b"x-api-key", b"b")]
    assert ask(app, "POST", INFER, X, twice).status == 400


def test_whatever_is_no_valid_key_gets_the_same_answer() -> None:
    case = Case()
    real = credential("i").text
    wrong = [
        None,
        "",
        "x",
        real[:-1] + "j",
        real + "i",
        credential("z").text,
        credential("e").text,
        credential("v").text,
    ]
    answers = [case.ask(text) for text in [*wrong, "ü" * 60, "a" * 100_000]]
    answers.append(ask(case.app, "POST", INFER, X, {"Authorization": f"Basic {real}"}))
    answers.append(ask(case.app, "POST", INFER, X, {"x-api-key": ""}))
    assert {got.status for got in answers} == {401}
    assert len({got.body for got in answers}) == 1
    assert {got.headers["www-authenticate"] for got in answers} == {'Bearer realm="eco_ray"'}
    assert case.runtime.calls == 0
    case.gate.learn({})
    assert case.ask(real).status == 401


@pytest.mark.parametrize(("name", "infers", "describes"), [("i", 200, 200), ("r", 403, 200), ("d", 403, 403)])
def test_scopes(name: str, infers: int, describes: int) -> None:
    case = Case()
    text = credential(name).text
    got = case.ask(text)
    assert got.status == infers
    if infers == 403:
        assert 'scope="infer"' in got.headers["www-authenticate"]
    for path in ("/v2/models/echo", "/models/echo/v1/models"):
        assert case.ask(text, path).status == describes
    assert case.ask(None, "/livez").status == 200


def test_a_rate_is_told_on_every_answer_and_refused_above_it() -> None:
    case = Case(TenantLimits(requests_per_s=1.0, burst=2))
    assert [case.ask().headers["ratelimit"] for _ in "12"] == ['"requests";r=1;t=1', '"requests";r=0;t=2']
    got = case.ask()
    assert (got.status, got.headers["retry-after"], got.json["title"]) == (429, "1", "limit of requests")
    assert got.headers["ratelimit-policy"] == '"requests";q=2;w=2'
    assert got.headers["content-type"] == "application/problem+json"
    assert case.ask(path="/v2/models/echo").status == 200  # reading takes none
    case.now_s += 1
    bad = ask(case.app, "POST", INFER, b"{", {"Authorization": f"Bearer {credential('i').text}"})
    assert (bad.status, bad.headers["ratelimit"]) == (400, '"requests";r=0;t=2')


def test_energy_is_charged_by_an_estimate_and_settled_by_the_footprint() -> None:
    case = Case(TenantLimits(energy_j_per_day=100.0))
    case.joules = 40.0
    left = []
    for _ in range(3):
        got = case.ask()
        left.append(int(got.headers["ratelimit"].partition("r=")[2].partition(";")[0]))
    # what the header says has the estimate in it: nothing, then a part of what the first ones took
    assert left == [100, 56, 13]
    assert case.ask().status == 429
    case.now_s += 86_400
    assert case.ask().status == 200


def test_text_is_settled_when_its_stream_ends() -> None:
    case = Case(TenantLimits(energy_j_per_day=1.5), Parrot())
    path, body = "/models/echo/v1/chat/completions", json.dumps(chat("a", stream=True)).encode()
    headers = [(b"x-api-key", credential("i").text.encode())]
    sent: list[Any] = []

    async def run(body: bytes) -> None:
        bodies = [body]

        async def receive() -> Any:
            if not bodies:
                await asyncio.Event().wait()
            return {"type": "http.request", "body": bodies.pop()}

        async def send(message: Any) -> None:
            sent.append(message)

        await case.app({"type": "http", "method": "POST", "path": path, "headers": headers}, receive, send)
        await asyncio.sleep(0.05)

    for _ in range(3):
        asyncio.run(run(body))
    assert [one["status"] for one in sent if "status" in one] == [200, 200, 429]
    assert (b"ratelimit", b'"energy-day";r=2;t=6400') in sent[0]["headers"]


def test_who_waited_in_vain_stays_charged_with_the_estimate() -> None:
    case = Case(TenantLimits(energy_j_per_day=100.0))
    case.joules = 50.0
    assert case.ask().status == 200

    async def leaves() -> None:
        async def receive() -> Any:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            raise AssertionError(message)

        headers = [(b"x-api-key", credential("i").text.encode())]
        await case.app({"type": "http", "method": "POST", "path": INFER, "headers": headers}, receive, send)

    asyncio.run(leaves())
    # 50 J of the first, 5 J (a tenth) of who left, 5 J for this one
    assert '"energy-day";r=40;' in case.ask().headers["ratelimit"]


def test_refused_keys_are_told_once_a_minute_and_strangers_as_one(caplog: pytest.LogCaptureFixture) -> None:
    case = Case()
    revoked, secret = credential("v").text, credential("v").secret
    with caplog.at_level(logging.DEBUG):
        for number in range(100):
            case.ask(f"eco_{number:012}_{'s' * 43}")
            case.ask(revoked)
            case.ask(revoked[:-1] + "x")
        case.ask(credential("r").text)
        assert case.audit == [("", Verdict.UNKNOWN), ("v" * 12, Verdict.REVOKED), ("r" * 12, Verdict.NO_SCOPE)]
        case.now_s += 60
        case.ask(revoked[:-1] + "x")
        assert case.audit[3:] == [("v" * 12, Verdict.WRONG)]
    assert secret not in caplog.text
    assert secret not in repr(case.gate.__dict__)
    assert len(case.gate._told_s) == 3


def test_many_at_once_exceed_a_quota_by_their_estimates_alone() -> None:
    case = Case(TenantLimits(energy_j_per_day=10.0))
    headers = {"x-api-key": credential("i").text}
    case.joules = 4.0
    case.ask()  # 4 J are used, one is estimated at 0.4 J

    async def crowd() -> list[int]:
        found = await asyncio.gather(*(ask_async(case.app, "POST", INFER, [X], headers) for _ in range(40)))
        return [got.status for got in found]

    assert asyncio.run(crowd()).count(200) <= 15
