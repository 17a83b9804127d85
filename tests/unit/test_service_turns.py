"""Where a request is answered: in the event loop or in the worker thread, and never in two threads at once."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from service_cases import INFER, Echo, ask, ask_async, footprint, request

from eco_ray.service import turn
from eco_ray.service.app import ModelApp
from eco_ray.service.limits import Limits

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

    here = threading.current_thread().name
    app = ModelApp(Echo(act=act), footprint, limits=Limits(batch=14))
    large = request([1.0] * 10) + b" " * 70_000

    async def crowd() -> list[int]:
        found: list[Any] = []
        while here not in threads[-2:-1] and len(found) < 100:
            found.append(await ask_async(app, "POST", INFER, [X]))
        assert here not in threads[:10]
        threads.clear()
        found = await asyncio.gather(*(ask_async(app, "POST", INFER, [body]) for body in [X, large, X, X, large, X]))
        return [got.status for got in found]

    assert asyncio.run(crowd()) == [200] * 6
    # the first one at once; then in turn with the large ones, as many rows together as may be; one is left
    assert [name == here for name in threads] == [True, False, False, True]


def test_small_requests_that_take_long_are_handed_over() -> None:
    threads: list[str] = []

    def act(inputs: Any) -> None:
        threads.append(threading.current_thread().name)
        time.sleep(float(inputs["x"][0]))

    app = ModelApp(Echo(act=act), footprint)
    for _ in range(20):  # what is refused says nothing of the model
        assert ask(app, "POST", INFER, b"{").status == 400
    here = threading.current_thread().name
    while here not in threads and len(threads) < 100:  # on a busy machine more than ten
        assert ask(app, "POST", INFER, request([0.0])).status == 200
    assert here not in threads[:10]
    for seconds in (0.05, 0.0):
        assert ask(app, "POST", INFER, request([seconds])).status == 200
    assert [name == here for name in threads[-3:]] == [True, True, False]


def warmed(app: ModelApp, threads: list[str]) -> str:
    """Until small requests are answered in the loop; the name of its thread."""
    here = threading.current_thread().name
    while here not in threads and len(threads) < 100:  # on a busy machine more than ten
        assert ask(app, "POST", INFER, X).status == 200
    assert here in threads
    return here


def test_a_small_body_of_many_rows_is_handed_over() -> None:
    threads: list[str] = []

    def act(inputs: Any) -> None:
        threads.append(threading.current_thread().name)
        time.sleep(0.002 * len(inputs["x"]))

    app = ModelApp(Echo(act=act), footprint)
    here = warmed(app, threads)
    assert ask(app, "POST", INFER, request([1.0] * 100)).status == 200  # 0.2 s; its body has 500 bytes
    assert threads[-1] != here


def test_the_loop_is_not_held_by_all_that_wait(monkeypatch: Any) -> None:
    monkeypatch.setattr(turn, "_LOOP_S", 0.02)
    threads: list[str] = []
    rows: list[int] = []

    def act(inputs: Any) -> None:
        threads.append(threading.current_thread().name)
        rows.append(len(inputs["x"]))
        time.sleep(0.002 * len(inputs["x"]))

    app = ModelApp(Echo(act=act), footprint)
    warmed(app, threads)
    rows.clear()

    async def crowd() -> list[int]:
        return [got.status for got in await asyncio.gather(*(ask_async(app, "POST", INFER, [X]) for _ in range(60)))]

    assert asyncio.run(crowd()) == [200] * 60
    assert max(rows) <= 10


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
