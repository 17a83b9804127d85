"""Why a model answers so: V2 requests with a target, for models that can say it."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from service_cases import Echo, ask, footprint, request

from eco_ray.core.ports import Arrays
from eco_ray.core.tensors import Tensor
from eco_ray.errors import UsageError
from eco_ray.service.app import ModelApp

PATHS = ("/v2/models/echo/explain", "/v2/models/echo/versions/2/explain")


@dataclass
class Says(Echo):
    """Each value speaks for a class as its own number of times that class; `rest` is not explained."""

    shape: tuple[int, ...] = (-1, 2)
    targets: list[int | None] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def explain(self, inputs: Arrays, target: int | None) -> Arrays:
        self.targets.append(target)
        self.threads.add(threading.current_thread().name)
        if target is not None and target > 9:
            raise UsageError(f"class {target} is not among 0 to 9; ask for another one")
        return {"x": np.asarray(inputs["x"] * (1 if target is None else target), np.float32)}


def test_values_come_in_the_shape_and_name_of_the_input() -> None:
    runtime = Says()
    app = ModelApp(runtime, footprint)
    for path in PATHS:
        got = ask(app, "POST", path, request([1.0, 2.0], shape=[1, 2], id="r", parameters={"target": 3}))
        (output,) = got.json["outputs"]
        assert output == {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [3.0, 6.0]}
        assert got.json["id"] == "r"
        assert got.json["parameters"]["footprint"]["energy_joules"] > 0
    ask(app, "POST", PATHS[0], request([1.0, 2.0], shape=[1, 2]))
    assert runtime.targets == [3, 3, None]
    packed = ask(app, "POST", PATHS[0], request([1.0, 2.0], shape=[1, 2], parameters={"binary_data_output": True}))
    head = int(packed.headers["inference-header-content-length"])
    assert np.frombuffer(packed.body[head:], "<f4").tolist() == [1.0, 2.0]


@pytest.mark.parametrize("target", [-1, 1.5, "3", True, 1 << 40, 10])
def test_a_target_is_the_number_of_a_class(target: Any) -> None:
    got = ask(
        ModelApp(Says(), footprint), "POST", PATHS[0], request([1.0, 2.0], shape=[1, 2], parameters={"target": target})
    )
    assert got.status == 400
    assert str(target)[:10] in got.json["detail"]


def test_a_model_that_cannot_say_has_no_such_path() -> None:
    got = ask(ModelApp(Echo(), footprint), "POST", PATHS[0], request([1.0]))
    assert (got.status, got.json["title"]) == (404, "no such path")
    assert "says not why" in got.json["detail"]


def test_what_is_not_explained_is_left_out() -> None:
    runtime = Says()
    runtime.inputs = (*runtime.inputs, Tensor("rest", "INT64", (-1,)))
    x = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    rest = {"name": "rest", "datatype": "INT64", "shape": [1], "data": [1]}
    got = ask(ModelApp(runtime, footprint), "POST", PATHS[0], json.dumps({"inputs": [x, rest]}).encode())
    assert [one["name"] for one in got.json["outputs"]] == ["x"]


def test_answers_of_both_kinds_do_not_mix_in_the_cache_and_none_is_done_in_the_loop() -> None:
    runtime = Says(deterministic=True)
    app = ModelApp(runtime, footprint)
    for number in range(15):
        ask(app, "POST", "/v2/models/echo/infer", request([1.0, float(number)], shape=[1, 2]))
    body, other = (request([2.0, 2.0], shape=[1, 2], parameters={"target": target}) for target in (2, 3))
    told = [ask(app, "POST", path, sent) for path, sent in [
        ("/v2/models/echo/infer", body), (PATHS[0], body), (PATHS[0], other), (PATHS[0], body),
    ]]  # fmt: skip
    assert [got.json["outputs"][0]["data"][0] for got in told] == [2.0, 4.0, 6.0, 4.0]
    assert [got.headers["eco-cache"] for got in told] == ["miss", "miss", "miss", "hit"]
    assert len({got.headers["etag"] for got in told}) == 3
    assert runtime.threads == {"inference_0"}
