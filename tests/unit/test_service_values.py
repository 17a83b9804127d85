"""Tensors of the V2 protocol: every datatype there and back, and what is refused before it takes memory."""

from __future__ import annotations

import json
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from eco_ray.service import values
from eco_ray.service.problems import Problem, shown

NUMERIC = [name for name in values.DTYPES if name not in ("BYTES", "BF16")]
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SHAPES = npst.array_shapes(min_dims=1, max_dims=4, max_side=5)


@st.composite
def tensors(draw: Any) -> tuple[str, np.ndarray]:
    datatype, shape = draw(st.sampled_from(list(values.DTYPES))), draw(SHAPES)
    if datatype == "BYTES":
        count = math.prod(shape)
        array = np.empty(count, object)
        array[:] = [text.encode() for text in draw(st.lists(st.text(max_size=9), min_size=count, max_size=count))]
        return datatype, array.reshape(shape)
    dtype = values.DTYPES[datatype]
    elements = None
    if datatype == "BF16":
        elements = st.integers(0, 0xFFFF).filter(lambda bits: bits & 0x7F80 != 0x7F80)
    elif dtype.kind == "f":
        elements = npst.from_dtype(dtype, allow_nan=False, allow_infinity=False)
    return datatype, draw(npst.arrays(dtype, shape, elements=elements))


def same(found: np.ndarray, array: np.ndarray) -> bool:
    if array.dtype == object:
        return found.tolist() == array.tolist()
    return found.dtype == array.dtype and found.shape == array.shape and found.tobytes() == array.tobytes()


@patient
@given(tensors())
def test_binary_tensors_come_back_bit_for_bit(tensor: tuple[str, np.ndarray]) -> None:
    datatype, array = tensor
    raw = values.to_bytes(datatype, array)
    assert same(values.from_bytes("x", datatype, array.shape, memoryview(b"\0" + raw)[1:]), array)


@patient
@given(tensors(), st.booleans())
def test_json_tensors_come_back_flat_and_nested(tensor: tuple[str, np.ndarray], nested: bool) -> None:
    datatype, array = tensor
    flat = json.loads(json.dumps(values.to_json("x", datatype, array)))
    data = np.array(flat, object).reshape(array.shape).tolist() if nested else flat
    assert same(values.from_json("x", datatype, array.shape, data), array)


@patient
@given(tensors(), st.data())
def test_a_binary_tensor_that_is_cut_or_longer_is_refused(tensor: tuple[str, np.ndarray], data: st.DataObject) -> None:
    datatype, array = tensor
    raw = values.to_bytes(datatype, array)
    wrong = raw + b"\0" if data.draw(st.booleans()) else raw[: data.draw(st.integers(0, len(raw) - 1))]
    with pytest.raises(Problem) as caught:
        values.from_bytes("x", datatype, array.shape, memoryview(wrong))
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "part"),
    [
        ("FP32", [2], [1.0], "1 values in 'x'; its shape [2] needs 2"),
        ("FP32", [2], [1.0, "2"], "takes numbers"),
        ("FP32", [1], [True], "takes numbers"),
        ("FP32", [1], [None], "takes numbers"),
        ("FP32", [1], [1e39], "too large for FP32"),
        ("FP16", [1], [70000], "too large for FP16"),
        ("BF16", [1], [3.4e38], "too large for BF16"),
        ("FP32", [1], [10**400], "do not fit FP32"),
        ("FP64", [1], [float("nan")], "NaN"),
        ("BF16", [1], [float("inf")], "infinities"),
        ("UINT8", [1], [256], "0 to 255"),
        ("UINT64", [1], [-1], "is not within 0 to"),
        ("INT8", [1], [-129], "-128 to 127"),
        ("INT64", [1], [2**63], "do not fit INT64"),
        ("INT32", [1], [1.0], "whole numbers"),
        ("INT32", [1], [10**4000], "do not fit INT32"),
        ("BOOL", [1], [1], "true or false"),
        ("BYTES", [1], [1], "strings"),
        ("BYTES", [1], ["\ud800"], "do not fit BYTES"),
        ("FP32", [2, 2], [[1, 2], [3]], "send a flat list"),
        ("FP32", [2, 2], [[1, 2], 3], "send a flat list"),
        ("FP32", [2, 3], [[1, 2], [3, 4], [5, 6]], "send a flat list"),
        ("FP32", [4], [[1, 2], [3, 4]], "send a flat list"),
        ("FP32", [2, 1, 2], [[1, 2]], "send a flat list"),
        ("FP32", [1, 1, 2], [[1, 2]], "send a flat list"),
        ("FP32", [1], "AAAA", "send a list"),
        ("FP32", [1], None, "send a list"),
        ("FP32", [1], {"0": 1}, "send a list"),
        ("FP32", [], [], "0 values"),
    ],
)
def test_json_that_does_not_fit_is_refused_with_value_and_cure(
    datatype: str, shape: list[int], data: Any, part: str
) -> None:
    with pytest.raises(Problem) as caught:
        values.from_json("x", datatype, shape, data)
    assert part in caught.value.detail
    assert len(caught.value.detail) < 500


@pytest.mark.parametrize(
    ("datatype", "count", "raw", "part"),
    [
        ("BOOL", 2, b"\1\2", "BOOL takes 0 and 1"),
        ("FP32", 1, np.float32(np.nan).tobytes(), "NaN"),
        ("BF16", 1, b"\x80\x7f", "infinities"),
        ("BYTES", 2**31, b"\1\0\0\0a", "lengths alone"),
        ("BYTES", 1, b"\xff\xff\xff\xffa", "ends at byte 4294967299"),
        ("BYTES", 1, b"\1\0\0\0ab", "after the last"),
        ("INT64", 2**40, b"\1" * 8, "is 8796093022208"),
    ],
)
def test_bytes_that_lie_are_refused_before_memory_is_taken(datatype: str, count: int, raw: bytes, part: str) -> None:
    tracemalloc.start()
    with pytest.raises(Problem) as caught:
        values.from_bytes("x", datatype, [count], memoryview(raw))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert part in caught.value.detail
    assert peak < 100_000


def test_nan_and_infinities_pass_where_they_are_allowed() -> None:
    for datatype in ("FP16", "BF16", "FP32", "FP64"):
        array = values.from_json("x", datatype, [3], [float("nan"), float("inf"), -0.0], nonfinite=True)
        again = values.from_bytes("x", datatype, [3], memoryview(values.to_bytes(datatype, array)), nonfinite=True)
        assert same(again, array)
        with pytest.raises(Problem, match="ask for it with binary_data"):
            values.to_json("x", datatype, array)


def test_bf16_is_the_nearest_one_ties_to_even() -> None:
    # 1 + 2**-8 lies between 1 and 1 + 2**-7; 1 + 3 * 2**-8 between that and 1 + 2**-6
    array = values.from_json("x", "BF16", [4], [1.0, 1 + 2**-8, 1 + 3 * 2**-8, -3.0])
    assert values.to_json("x", "BF16", array) == [1.0, 1.0, 1 + 2**-6, -3.0]


def test_an_output_of_a_wider_type_is_shown_as_it_is_and_sent_as_told() -> None:
    array = np.array([0.1, 1e300])
    assert values.to_json("y", "FP32", array) == [0.1, 1e300]
    assert values.to_bytes("FP32", array) == np.array([0.1, np.inf], np.float32).tobytes()


def test_bytes_that_are_no_text_are_not_put_into_json() -> None:
    array = np.empty(1, object)
    array[0] = b"\xff"
    with pytest.raises(Problem, match="not UTF-8") as caught:
        values.to_json("y", "BYTES", array)
    assert caught.value.status == 422


@pytest.mark.parametrize(
    "value", ["x" * 10**7, [[0] * 10**6] * 10, 10**5000, {"a": "b" * 10**6}, "a\r\nb", "\ud800"], ids=type
)
def test_a_value_is_shown_short(value: Any) -> None:
    text = shown(value)
    assert len(text) <= 100
    assert "\n" not in text
