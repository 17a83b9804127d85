"""Where a request is answered: in the event loop or in the worker thread, and never in two threads at once."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from service_cases import INFER, Echo, ask, ask_async, footprint, request

from eco_ray.service.app import ModelApp

X = request([1.0])


def test_small_quick_requests_are_answered_in_the_loop_and_never_beside_another() -> None:
    threads: list[str] = []
    inside: list[int] = []

    def act(inputs: Any) -> None:
        assert not inside, "two threads were in the model"
        inside.append(1)
        threads.append(threading.current_thread().name)
        if len(inputs["x"]) > 1:
            time.sleep(0.05)
        inside.clear()

    app = ModelApp(Echo(act=act), footprint)
    large = request([1.0] * 1000) + b" " * 70_000

    async def crowd() -> list[int]:
        found = [await ask_async(app, "POST", INFER, [X]) for _ in range(12)]
        found += await asyncio.gather(*(ask_async(app, "POST", INFER, [body]) for body in [X, large, X, X, large, X]))
        return [got.status for got in found]

    assert asyncio.run(crowd()) == [200] * 18
    here = threading.current_thread().name
    # quick after ten; then in turn with the large ones, as many rows at once as may be; one is left
    assert [name == here for name in threads] == [False] * 10 + [True] * 3 + [False] * 2 + [True]


def test_small_requests_that_take_long_are_handed_over() -> None:
    threads: list[str] = []

    def act(inputs: Any) -> None:
        threads.append(threading.current_thread().name)
        time.sleep(float(inputs["x"][0]))

    app = ModelApp(Echo(act=act), footprint)
    for _ in range(20):  # what is refused says nothing of the model
        assert ask(app, "POST", INFER, b"{").status == 400
    for seconds in [*[0.0] * 11, 0.05, 0.0]:
        assert ask(app, "POST", INFER, request([seconds])).status == 200
    here = threading.current_thread().name
    assert [name == here for name in threads] == [False] * 10 + [True] * 2 + [False]


def test_a_small_request_waits_for_those_that_were_handed_over() -> None:
    inside: list[int] = []

    def act(inputs: Any) -> None:
        assert not inside, "two threads were in the model"
        inside.append(1)
        time.sleep(0.002)
        inside.clear()

    app = ModelApp(Echo(act=act), footprint)

    async def crowd() -> list[int]:
        tasks = [asyncio.create_task(ask_async(app, "POST", INFER, [X])) for _ in range(40)]
        await asyncio.sleep(0.001)
        tasks += [asyncio.create_task(ask_async(app, "POST", INFER, [X])) for _ in range(3)]
        return [(await task).status for task in tasks]

    assert asyncio.run(crowd()) == [200] * 43
