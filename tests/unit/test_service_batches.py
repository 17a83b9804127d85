"""Requests that wait are computed together, each with its share of what that took, and none fails with another."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from service_cases import INFER, Echo, Got, ask_async, footprint, request

from eco_ray.core.requests import ServiceUse
from eco_ray.core.tensors import Tensor
from eco_ray.errors import UsageError
from eco_ray.service.app import ModelApp
from eco_ray.service.batches import Batcher, Compute, Item, Outcome, is_open, together
from eco_ray.service.limits import Limits


@dataclass
class Rows(Echo):
    """Remembers how many rows it got, and refuses negative values."""

    shape: tuple[int, ...] = (-1, 2)
    seen: list[int] = field(default_factory=list)

    def infer(self, inputs: Any) -> Any:
        self.seen.append(len(inputs["x"]))
        self.act(inputs)
        if (inputs["x"] < 0).any():
            raise UsageError("a value is below 0; send more")
        return {"y": inputs["x"] * 2}


def rows(count: int, value: float = 1.0) -> bytes:
    return request([value] * 2 * count, shape=[count, 2])


async def crowd(app: ModelApp, runtime: Rows, bodies: Sequence[bytes]) -> list[Got]:
    """Requests that come while the model is at another one."""
    began, go_on = threading.Event(), threading.Event()

    def wait(inputs: Any) -> None:
        began.set()
        go_on.wait(5)

    runtime.act = wait
    first = asyncio.create_task(ask_async(app, "POST", INFER, [rows(1)]))
    while not began.is_set():
        await asyncio.sleep(0.001)
    others = [asyncio.create_task(ask_async(app, "POST", INFER, [body])) for body in bodies]
    await asyncio.sleep(0.02)
    runtime.act = lambda inputs: None
    go_on.set()
    await first
    return [await other for other in others]


def test_what_waits_is_computed_together_and_each_gets_its_own() -> None:
    uses: list[ServiceUse] = []
    runtime = Rows()
    app = ModelApp(runtime, footprint, count=lambda use, rows: uses.append(use))
    got = asyncio.run(crowd(app, runtime, [rows(n, float(n)) for n in (1, 2, 5)]))
    assert runtime.seen == [1, 8]
    assert [one.json["outputs"][0]["data"] for one in got] == [[2.0] * 2, [4.0] * 4, [10.0] * 10]
    assert [use.batch_share for use in uses] == [1.0, 1 / 8, 2 / 8, 5 / 8]
    assert len({use.service_s for use in uses[1:]}) == 1
    joules = [one.json["parameters"]["footprint"]["energy_joules"] for one in got]
    assert math.isclose(sum(joules), uses[1].service_s * 10, rel_tol=0.01)  # they are told with 3 digits
    assert math.isclose(joules[2], 5 * joules[0], rel_tol=0.02)


def test_batches_end_at_the_limit_of_rows_and_unlike_shapes_stay_apart() -> None:
    runtime = Rows(shape=(-1, -1))
    app = ModelApp(runtime, footprint, limits=Limits(batch=6))
    bodies = [rows(2), rows(3), rows(2), request([1.0] * 3, shape=[1, 3]), rows(6)]
    got = asyncio.run(crowd(app, runtime, bodies))
    assert [one.status for one in got] == [200] * 5
    assert [one.json["outputs"][0]["shape"] for one in got] == [[2, 2], [3, 2], [2, 2], [1, 3], [6, 2]]
    assert all(count <= 6 for count in runtime.seen)
    assert 5 in runtime.seen


def test_an_error_of_one_is_its_own() -> None:
    runtime = Rows()
    app = ModelApp(runtime, footprint)
    got = asyncio.run(crowd(app, runtime, [rows(1), b"{", rows(2, -1.0), request([1.0], shape=[1, 1]), rows(3)]))
    assert [one.status for one in got] == [200, 400, 400, 400, 200]
    assert got[2].json["detail"] == "a value is below 0; send more"
    assert runtime.seen == [1, 6, 1, 2, 3]


def test_a_model_that_loses_rows_is_asked_one_by_one() -> None:
    class Loses(Rows):
        def infer(self, inputs: Any) -> Any:
            return {"y": super().infer(inputs)["y"][:1]}

    runtime = Loses()
    got = asyncio.run(crowd(ModelApp(runtime, footprint), runtime, [rows(1), rows(1, 3.0)]))
    assert [one.json["outputs"][0]["data"] for one in got] == [[2.0] * 2, [6.0] * 2]
    assert runtime.seen == [1, 2, 1, 1]


def test_who_left_the_line_is_not_computed() -> None:
    runtime = Rows()
    app = ModelApp(runtime, footprint, limits=Limits(answer_s=0.2))

    async def run() -> list[int]:
        runtime.act = lambda inputs: time.sleep(0.4)
        first = asyncio.create_task(ask_async(app, "POST", INFER, [rows(1)]))
        await asyncio.sleep(0.05)
        left = [await ask_async(app, "POST", INFER, [rows(2)]), await first]
        runtime.act = lambda inputs: None
        while app._turns._busy:
            await asyncio.sleep(0.01)
        return [one.status for one in (*left, await ask_async(app, "POST", INFER, [rows(3)]))]

    assert asyncio.run(run()) == [503, 503, 200]
    assert runtime.seen == [1, 3]


def test_many_rows_end_when_nobody_waits_for_them() -> None:
    runtime = Rows(act=lambda inputs: time.sleep(0.02 * len(inputs["x"])))
    app = ModelApp(runtime, footprint, limits=Limits(answer_s=0.5))

    async def run() -> list[int]:
        crowd = [asyncio.create_task(ask_async(app, "POST", INFER, [rows(1000)])) for _ in range(2)]
        await asyncio.sleep(0.1)
        got = [await one for one in crowd]
        return [one.status for one in (*got, await ask_async(app, "POST", INFER, [rows(1)]))]

    assert asyncio.run(run()) == [503, 503, 200]  # 20 s where all of them are computed
    assert sum(runtime.seen) < 100


def test_many_rows_are_those_that_they_are_alone_and_quick_ones_need_few_looks() -> None:
    runtime = Rows()
    values = np.arange(2000, dtype=np.float32).reshape(1000, 2)
    item = Item({"x": values}, {"x": "FP32"}, 1000)
    (found,) = together(runtime, [item], 1024, True)
    assert not isinstance(found.arrays, Exception)
    np.testing.assert_array_equal(found.arrays["y"], values * 2)
    assert (sum(runtime.seen), len(runtime.seen) < 8) == (1000, True)
    together(runtime, [item], 1024, False)
    assert runtime.seen[-1] == 1000  # of rows that see each other


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [((2,), (-1,)), ((-1,), (2,)), ((), (-1,))],
)
def test_a_model_with_a_fixed_size_computes_each_alone(inputs: tuple[int, ...], outputs: tuple[int, ...]) -> None:
    runtime = Rows(shape=inputs)
    runtime.outputs = (Tensor("y", "FP32", outputs),)
    values = np.ones([2] * len(inputs), np.float32)
    items = [Item({"x": values}, {"x": "FP32"}, 2 if inputs == (-1,) else 1)] * 2
    assert [one.share for one in together(runtime, items, 100, is_open(runtime))] == [1.0, 1.0]


def test_datatypes_do_not_mix() -> None:
    runtime = Rows()
    ones = np.ones((1, 2), np.uint16)
    items = [Item({"x": ones}, {"x": name}, 1) for name in ("UINT16", "BF16", "UINT16")]
    assert [one.share for one in together(runtime, items, 100, is_open(runtime))] == [0.5, 1.0, 0.5]


def test_a_batcher_of_another_make_collects_and_the_worker_computes() -> None:
    batches: list[int] = []
    threads: set[str] = set()

    class Slowly:
        """What comes within 50 ms, as others make it."""

        def __init__(self, compute: Compute) -> None:
            self.compute = compute
            self.waiting: list[tuple[Item, asyncio.Future[Outcome]]] = []

        async def __call__(self, item: Item) -> Outcome:
            future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            self.waiting.append((item, future))
            if len(self.waiting) == 1:
                await asyncio.sleep(0.05)
                taken, self.waiting = self.waiting, []
                batches.append(len(taken))
                for (_, one), outcome in zip(taken, await self.compute([item for item, _ in taken]), strict=True):
                    one.set_result(outcome)
            return await future

    def make(compute: Compute) -> Batcher:
        return Slowly(compute)

    runtime = Rows(act=lambda inputs: threads.add(threading.current_thread().name))
    app = ModelApp(runtime, footprint, batching=make)

    async def run() -> list[Got]:
        return await asyncio.gather(
            *(ask_async(app, "POST", INFER, [body]) for body in (rows(1), rows(2, -1.0), b"{", rows(3, 2.0)))
        )

    got = asyncio.run(run())
    assert [one.status for one in got] == [200, 400, 400, 200]
    assert got[3].json["outputs"][0]["data"] == [4.0] * 6
    assert batches == [3]
    assert threads == {"inference_0"}
