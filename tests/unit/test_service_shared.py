"""Many models at one address: each by its path, loaded when asked for, and changed without a loss."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx
from service_cases import Echo, footprint

from eco_ray.errors import EcoRayError, UnreachableError
from eco_ray.service.app import ModelApp
from eco_ray.service.gate import named_tenant
from eco_ray.service.problems import Problem
from eco_ray.service.shared import SharedApp

ROW = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}]}


class One(NamedTuple):
    model: str
    version: int


class Loads:
    """All that was used is loaded, unless it fails."""

    def __init__(self) -> None:
        self.apps: dict[One, ModelApp] = {}
        self.errors: dict[One, Exception] = {}
        self.go = asyncio.Event()
        self.go.set()

    @property
    def loaded(self) -> set[One]:
        return set(self.apps)

    @asynccontextmanager
    async def use(self, key: One) -> Any:
        if key not in self.apps:
            await self.go.wait()
            if key in self.errors:
                raise self.errors[key]
            self.apps[key] = ModelApp(Echo(name=key.model, version=key.version), footprint)
        yield self.apps[key]


def no_key(headers: Any, scope: Any) -> Any:
    raise Problem(401, "no valid key", "send one")


class Shared:
    def __init__(self, *served: One, gate: Any = named_tenant) -> None:
        self.loads = Loads()
        self.app = SharedApp(self.loads, footprint, lambda model: gate)
        self.app.serve(served)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://x/v2/models")

    async def infer(self, name: str) -> tuple[int, str]:
        answer = await self.http.post(f"/{name}/infer", json=ROW)
        assert "eco-footprint" in answer.headers
        return answer.status_code, answer.json().get("model_version") or answer.json()["title"]

    async def get(self, path: str) -> tuple[int, Any]:
        answer = await self.http.get(path)
        return answer.status_code, answer.json() if answer.content else None


def test_the_path_names_the_model_and_the_rest_is_its_own() -> None:
    async def check() -> None:
        shared = Shared(One("a", 1), One("b", 7))
        assert await shared.infer("a") == (200, "1")
        assert await shared.infer("b") == (200, "7")
        assert (await shared.get("/b"))[1]["versions"] == ["7"]
        assert await shared.infer("a/versions/2") == (404, "no such version")
        for path in ("/c/infer", "/c", "/c/ready", "", "/", "//infer"):
            answer = await shared.http.post(f"http://x/v2/models{path}", json=ROW)
            assert (answer.status_code, answer.json()["title"]) == (404, "no such model")
            assert answer.headers["content-type"] == "application/problem+json"
        openai = await shared.http.get("/c/openai/v1/models")
        assert (openai.status_code, openai.json()["error"]["code"]) == (404, "model_not_found")
        assert (await shared.get("/a/openai/v1/models"))[1]["data"][0]["id"] == "a"

    asyncio.run(check())


def test_a_look_at_what_is_not_loaded_loads_nothing() -> None:
    async def check() -> None:
        shared = Shared(One("a", 1))
        for path in ("/a/ready", "/a/versions/1/ready"):
            assert await shared.get(path) == (200, {"name": "a", "ready": True})
        assert await shared.get("/a/metrics") == (200, None)
        assert (await shared.http.post("/a/ready")).status_code == 405
        assert shared.loads.loaded == set()
        assert await shared.infer("a") == (200, "1")
        assert "eco_requests" in (await shared.http.get("/a/metrics")).text
        assert (await shared.get("/a/ready"))[0] == 200

    asyncio.run(check())


def test_nothing_is_loaded_for_who_may_not_ask() -> None:
    async def check() -> None:
        shared = Shared(One("a", 1), gate=no_key)
        assert await shared.infer("a") == (401, "no valid key")
        assert (await shared.http.get("/a/openapi.json")).status_code == 401
        assert shared.loads.loaded == set()

    asyncio.run(check())


def test_a_version_takes_over_when_it_is_loaded_and_others_do_not_notice() -> None:
    async def check() -> None:
        shared = Shared(One("a", 1), One("b", 1), One("c", 1))
        assert await shared.infer("a") == (200, "1")
        b = shared.loads.loaded
        shared.loads.go.clear()
        shared.app.serve([One("a", 2), One("b", 2), One("d", 1)])
        await asyncio.sleep(0)
        assert await shared.infer("a") == (200, "1")
        assert (await shared.get("/a/versions/2/ready"))[0] == 404
        assert (await shared.get("/b/versions/2/ready"))[0] == 200  # b was not loaded
        assert shared.loads.loaded == b
        assert await shared.infer("c") == (404, "no such model")
        shared.app.serve([One("a", 3), One("b", 2), One("d", 1)])  # once more, meanwhile
        await asyncio.sleep(0)
        shared.loads.go.set()
        while await shared.infer("a") != (200, "3"):
            await asyncio.sleep(0.001)
        assert (await shared.get("/a/versions/3/ready"))[0] == 200
        await asyncio.sleep(0.01)
        assert await shared.infer("a") == (200, "3")
        assert await shared.infer("b") == (200, "2")

    asyncio.run(check())


def test_a_version_that_cannot_be_loaded_leaves_the_one_before_and_says_why() -> None:
    async def check() -> None:
        shared = Shared(One("a", 1))
        assert await shared.infer("a") == (200, "1")
        shared.loads.errors[One("a", 2)] = EcoRayError("it is damaged")
        shared.app.serve([One("a", 2)])
        await asyncio.sleep(0.01)
        assert await shared.infer("a") == (200, "1")
        status, told = await shared.get("/a/versions/2/ready")
        assert (status, told["detail"]) == (500, "a:2 could not be loaded: it is damaged")
        shared.app.serve([One("a", 1)])
        assert (await shared.get("/a/versions/2/ready"))[0] == 404

    asyncio.run(check())


def test_what_cannot_be_loaded_is_a_problem_with_its_status() -> None:
    async def check() -> None:
        shared = Shared(One("a", 1), One("b", 1), One("c", 1))
        shared.loads.errors = {
            One("a", 1): UnreachableError("no room for a:1"),
            One("b", 1): EcoRayError("it is damaged"),
            One("c", 1): RuntimeError("secret"),
        }
        busy = await shared.http.post("/a/infer", json=ROW)
        assert (busy.status_code, busy.headers["retry-after"], busy.json()["detail"]) == (503, "1", "no room for a:1")
        assert await shared.infer("b") == (500, "model failed")
        assert "secret" not in json.dumps((await shared.http.post("/c/infer", json=ROW)).json())

    asyncio.run(check())
