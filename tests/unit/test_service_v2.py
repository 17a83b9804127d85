"""Requests and answers of the V2 protocol, with and without binary tensors."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service_cases import Echo, request
from test_service_values import same, tensors

from eco_ray.core.tensors import Tensor
from eco_ray.service import values
from eco_ray.service.limits import Limits
from eco_ray.service.problems import Problem
from eco_ray.service.v2 import Request, parse_request, write_answer

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
LIMITS = Limits(json_nodes=1000, elements=10_000)


def parse(body: bytes, runtime: Echo | None = None, head: bytes | None = None, limits: Limits = LIMITS) -> Request:
    return parse_request(body, head, runtime or Echo(), limits)


def binary(content: dict[str, Any], blob: bytes) -> tuple[bytes, bytes]:
    head = json.dumps(content).encode()
    return head + blob, str(len(head)).encode()


@patient
@given(tensors(), st.booleans(), st.booleans(), st.text(max_size=20))
def test_an_answer_says_what_was_sent_in_either_form(
    tensor: tuple[str, np.ndarray], sent_binary: bool, wants_binary: bool, name: str
) -> None:
    datatype, array = tensor
    runtime = Echo(datatype, (-1,) * array.ndim)
    told: dict[str, Any] = {"name": "x", "datatype": datatype, "shape": list(array.shape)}
    content = {"id": name, "inputs": [told], "parameters": {"binary_data_output": wants_binary}}
    if sent_binary:
        blob = values.to_bytes(datatype, array)
        told["parameters"] = {"binary_data_size": len(blob)}
        parsed = parse(*binary(content, blob)[:1], runtime, binary(content, blob)[1])
    else:
        told["data"] = values.to_json("x", datatype, array)
        parsed = parse(json.dumps(content).encode(), runtime)
    assert same(parsed.inputs["x"], array)
    assert parsed.rows == array.shape[0]
    body, head_bytes = write_answer(runtime, parsed, {"y": parsed.inputs["x"]}, {"p": 1})
    answer = json.loads(body[:head_bytes])
    assert (answer["id"], answer["model_version"], answer["parameters"]) == (name, "2", {"p": 1})
    (output,) = answer["outputs"]
    assert (head_bytes is not None) == wants_binary
    if wants_binary:
        assert output["parameters"]["binary_data_size"] == len(body) - (head_bytes or 0)
        found = values.from_bytes("y", datatype, output["shape"], memoryview(body)[head_bytes:])
    else:
        found = values.from_json("y", datatype, output["shape"], output["data"])
    assert same(found, array)


X = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}
SPLIT = {"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"[" * 999, 400, "not JSON"),
        (b"[" * 1001, 413, "1001 brackets"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [NaN]}]}', 400, "not JSON"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1e999]}]}', 400, "too large for FP32"),
        (b'{"inputs": 1, "id": "\xff"}', 400, "not JSON"),
        ('{"inputs": []}'.encode("utf-16"), 400, "not JSON"),
        (b'{"inputs": "' + b"1" * 5000 + b'"}', 400, "no list `inputs`"),
        (b'{"inputs": ' + b"1" * 5000 + b"}", 400, ""),
        (b'{"inputs": [{"name": [' + b"1" * 5000 + b"]}]}", 400, ""),
        (b'{"inputs": [' + b"1" * 4000 + b"]}", 400, "bits is no input"),
        (b'{"inputs": [{"name": [' + b"1" * 4000 + b"]}]}", 400, "is no input"),
        (b"[]", 400, "an object"),
        (b"{}", 400, "no list `inputs`"),
        (b'{"inputs": []}', 400, "no input named 'x'"),
        (b'{"inputs": [1]}', 400, "1 is no input"),
        (b'{"inputs": [{"name": {}}]}', 400, "it has 'x'"),
        (json.dumps({"inputs": [X, X]}).encode(), 400, "twice"),
        (json.dumps({"inputs": [{**X, "name": "../x"}]}).encode(), 400, "is no input"),
        (request([1.0], "INT8"), 400, "use FP32"),
        (request([1.0], []), 400, "use FP32"),
        (request([], "FP32", [0]), 400, "use [N] with N from 1 to 1024"),
        (request([1.0], shape=[-1]), 400, "use [N]"),
        (request([1.0], shape=[True]), 400, "use [N]"),
        (request([1.0], shape=[1.0]), 400, "use [N]"),
        (request([1.0], shape=[10**30]), 400, "use [N]"),
        (request([1.0], shape="1"), 400, "use [N]"),
        (request([1.0], shape=[1] * 900), 400, "use [N]"),
        (request([1.0], id=1), 400, "id is 1"),
        (request([1.0], id="a" * 129), 400, "at most 128"),
        (request([1.0], parameters=[]), 400, "send an object"),
        (request([1.0], parameters={"binary_data_output": "yes"}), 400, "use true or false"),
        (request([1.0], outputs={}), 400, "send a list"),
        (request([1.0], outputs=[{"name": "z"}]), 400, "it has 'y'"),
        (request([1.0], outputs=[{"name": "y"}, {"name": "y"}]), 400, "twice"),
        (request([1.0], outputs=[{"name": "y", "parameters": {"classification": 3}}]), 400, "leave the others out"),
        (request([1.0], outputs=[{"name": "y", "parameters": {"binary_data": 1}}]), 400, "use true or false"),
        (
            json.dumps({"inputs": [{**X, "parameters": {"shared_memory_region": "r"}}]}).encode(),
            400,
            "leave the others",
        ),
        (json.dumps({"inputs": [{**X, "parameters": []}]}).encode(), 400, "unknown parameter"),
        (json.dumps({"inputs": [SPLIT]}).encode(), 400, "0 bytes are left"),
        (json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}).encode(), 400, "send a list"),
    ],
)
def test_hostile_json_is_refused_with_value_limit_and_cure(body: bytes, status: int, part: str) -> None:
    with pytest.raises(Problem) as caught:
        parse(body)
    assert caught.value.status == status
    assert part in f"{caught.value.title}: {caught.value.detail}"
    assert len(caught.value.body()) < 1000


@pytest.mark.parametrize(
    ("content", "blob", "head", "part"),
    [
        (SPLIT, b"\0" * 3, None, "3 bytes are left"),
        (SPLIT, b"\0" * 5, None, "1 bytes after the last"),
        ({**SPLIT, "shape": [2]}, b"\0" * 4, None, "is 8"),
        ({**SPLIT, "parameters": {"binary_data_size": -4}}, b"\0" * 4, None, "binary_data_size -4"),
        ({**SPLIT, "parameters": {"binary_data_size": 2**63}}, b"\0" * 4, None, "4 bytes are left"),
        ({**SPLIT, "parameters": {"binary_data_size": 4.0}}, b"\0" * 4, None, "binary_data_size 4.0"),
        ({**SPLIT, "parameters": {"binary_data_size": True}}, b"\0" * 4, None, "binary_data_size True"),
        ({**SPLIT, "data": [1.0]}, b"\0" * 4, None, "send either"),
        (SPLIT, np.float32(np.inf).tobytes(), None, "infinities"),
        (SPLIT, b"\0" * 4, b"0", "is '0'"),
        (SPLIT, b"\0" * 4, b"99999", "the body has"),
        (SPLIT, b"\0" * 4, b"-1", "is '-1'"),
        (SPLIT, b"\0" * 4, b"1" * 5000, "is '111"),
        (SPLIT, b"\0" * 4, b"\xd9\xa1", "Inference-Header"),
        (SPLIT, b"\0" * 4, b"", "is ''"),
    ],
)
def test_binary_tensors_that_lie_are_refused(
    content: dict[str, Any], blob: bytes, head: bytes | None, part: str
) -> None:
    body, length = binary({"inputs": [content]}, blob)
    with pytest.raises(Problem) as caught:
        parse(body, head=length if head is None else head)
    assert caught.value.status == 400
    assert part in caught.value.detail
    assert len(caught.value.detail) < 500


def test_elements_are_bounded_before_the_data_is_looked_at() -> None:
    with pytest.raises(Problem, match="more than 10000 elements") as caught:
        parse(request([1.0], shape=[1000, 2**40]), Echo(shape=(-1, -1)))
    assert caught.value.status == 413


def test_nan_passes_where_it_is_allowed() -> None:
    body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [NaN]}]}'
    assert math.isnan(parse(body, limits=Limits(allow_nonfinite=True)).inputs["x"][0])


@patient
@given(st.binary(max_size=200), st.none() | st.binary(max_size=4))
def test_any_bytes_are_parsed_or_refused(body: bytes, head: bytes | None) -> None:
    with pytest.raises(Problem):
        parse(body, head=head)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["x", "FP32"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "datatype", "shape", "data", "parameters", "inputs", "id"]), inner)
    ),
    max_leaves=20,
)


@patient
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("inputs", "outputs", "id", "parameters"), JSON)))
def test_any_json_is_parsed_or_refused(content: Any) -> None:
    with suppress(Problem):
        parse(json.dumps(content).encode())


def test_a_subset_of_the_outputs_in_the_order_asked_for() -> None:
    runtime = Echo()
    runtime.outputs = tuple(Tensor(name, "FP32", (-1,)) for name in "abc")
    wanted = [{"name": "c"}, {"name": "a", "parameters": {"binary_data": True}}]
    parsed = parse(request([1.0], outputs=wanted), runtime)
    arrays = {name: np.full(1, number, np.float32) for number, name in enumerate("abc")}
    body, head_bytes = write_answer(runtime, parsed, arrays, {})
    assert [output["name"] for output in json.loads(body[:head_bytes])["outputs"]] == ["c", "a"]
    assert body[head_bytes:] == np.float32(0).tobytes()
