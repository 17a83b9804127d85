"""What answers that no model gave cost: each step of its own request, and nothing of others' in between."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from service_cases import Echo, ask, ask_async, footprint, request

from eco_ray.core.footprint import Footprint
from eco_ray.service.app import ModelApp
from eco_ray.service.http import Receive, Scope, Send
from eco_ray.service.own_cost import OwnCostApp
from eco_ray.service.router import Router

STEP_S = 0.02


def work(cpu_s: float) -> None:
    until_s = time.thread_time() + cpu_s
    while time.thread_time() < until_s:
        pass


class Told:
    """What the footprint was asked for."""

    def __init__(self) -> None:
        self.spent: list[tuple[float, float, float]] = []

    def __call__(self, cpu_s: float, wall_s: float, share: float) -> Footprint:
        self.spent.append((cpu_s, wall_s, share))
        return footprint(cpu_s, wall_s, share)


async def works(scope: Scope, receive: Receive, send: Send) -> None:
    work(STEP_S)
    await asyncio.sleep(2 * STEP_S)
    work(STEP_S)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x"})


def test_an_answer_costs_its_own_steps_alone() -> None:
    told = Told()

    async def beside(app: Any) -> Any:
        asking = asyncio.create_task(ask_async(app, "GET", "/", [b""]))
        await asyncio.sleep(0)
        work(3 * STEP_S)  # of somebody else, in the same thread, while the request waits
        return await asking

    got = asyncio.run(beside(OwnCostApp(works, told)))
    assert (got.status, got.body) == (200, b"x")
    assert "energy-j=" in got.headers["eco-footprint"]
    ((cpu_s, wall_s, share),) = told.spent
    assert 2 * STEP_S <= cpu_s < 3.5 * STEP_S
    assert wall_s >= 4 * STEP_S
    assert share == 1.0


def test_an_answer_of_a_model_tells_what_the_model_did() -> None:
    told = Told()
    app = OwnCostApp(ModelApp(Echo(), footprint), told)
    got = ask(app, "POST", "/v2/models/echo/infer", request([1.0]))
    assert got.status == 200
    assert got.headers["eco-footprint"]
    assert told.spent == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("GET", "/livez", 200),
        ("GET", "/metrics", 200),
        ("GET", "/nothing", 404),
        ("PUT", "/v1/models", 405),
        ("OPTIONS", "/v1/models", 204),
        ("POST", "/v1/embeddings", 400),
    ],
)
def test_each_answer_of_the_router_has_one(method: str, path: str, status: int) -> None:
    got = ask(OwnCostApp(Router(lambda: {}), Told()), method, path)
    assert got.status == status
    assert got.headers["eco-footprint"].startswith("energy-j=")


def test_an_error_and_a_cancellation_come_through() -> None:
    ended: list[str] = []

    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            ended.append("yes")

    async def cancelled() -> None:
        task = asyncio.create_task(OwnCostApp(fails, footprint)({"type": "http"}, _never, _nothing))
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert ended == ["yes"]

    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(OwnCostApp(breaks, footprint)({"type": "http"}, _never, _nothing))


async def _never() -> dict[str, Any]:
    await asyncio.Event().wait()
    return {}


async def _nothing(message: Any) -> None:
    return None
