"""The smoke request: what answers as its signature says passes, all else is told."""

from __future__ import annotations

import numpy as np
import pytest

from eco_ray.core.tensors import Tensor
from eco_ray.errors import EcoRayError
from eco_ray.on_ray.smoke import smoke
from eco_ray.service.values import DTYPES

X = (Tensor("x", "FP32", (-1, 4)),)


class Fake:
    """A runtime whose answer a test gives."""

    name, version = "m", 3

    def __init__(self, answer, inputs=X, datatype="FP32", shape=(-1, 2)):
        self.answer, self.inputs, self.outputs, self.asked = answer, inputs, (Tensor("y", datatype, shape),), []

    def infer(self, inputs):
        self.asked.append(inputs)
        return self.answer(inputs)


def zeros(inputs, columns=2, dtype=np.float32):
    return {"y": np.zeros((len(next(iter(inputs.values()))), columns), dtype)}


def test_it_asks_for_two_rows_and_one_of_each_datatype():
    inputs = tuple(Tensor(datatype, datatype, (-1, 3)) for datatype in DTYPES)
    fake = Fake(zeros, inputs)
    assert smoke(fake) >= 0
    for asked, rows in zip(fake.asked, (2, 1), strict=True):
        assert {name: (array.shape, array.dtype) for name, array in asked.items()} == {
            datatype: ((rows, 3), dtype) for datatype, dtype in DTYPES.items()
        }
    assert set(fake.asked[0]["BYTES"].flat) == {b"smoke"}


def test_a_shape_that_is_fixed_is_asked_for_as_it_is():
    fake = Fake(lambda _: {"y": np.zeros((5, 2), np.float32)}, (Tensor("x", "FP32", (3, -1)),))
    assert smoke(fake) >= 0  # so are its rows
    assert [one["x"].shape for one in fake.asked] == [(3, 1)] * 2


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda _: {}, "no output 'y'"),
        (lambda got: zeros(got, 3), r"shape \[2, 3\], and its signature says \[-1, 2\]"),
        (lambda _: {"y": np.zeros(2, np.float32)}, "shape"),
        (lambda _: {"y": np.zeros((1, 2), np.float32)}, "'y' has 1 rows, and 2 were asked for"),
        (lambda got: zeros(got, dtype=np.int64), "'y' is int64, and its signature says FP32"),
        (lambda got: {"y": zeros(got)["y"] + np.float32("nan")}, "not finite"),
        (lambda _: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_what_is_wrong_is_told(answer, why):
    with pytest.raises(EcoRayError, match=rf"m:3 failed its smoke request: .*{why}"):
        smoke(Fake(answer))


@pytest.mark.parametrize(
    ("datatype", "dtype", "fits"),
    [
        *[("FP32", "f8", True), ("FP64", "f4", True), ("FP32", "u2", False)],
        *[("BF16", "u2", True), ("BF16", "f4", False), ("BOOL", "?", True), ("BOOL", "u1", False)],
        *[("INT64", "i4", True), ("INT32", "i8", False), ("UINT8", "i1", False)],
        *[("BYTES", "O", True), ("BYTES", "S3", False)],
    ],
)  # fmt: skip
def test_datatypes(datatype, dtype, fits):
    fake = Fake(lambda got: {"y": np.zeros((len(got["x"]), 2), dtype)}, datatype=datatype)
    if fits:
        assert smoke(fake) >= 0
    else:
        with pytest.raises(EcoRayError, match=f"its signature says {datatype}"):
            smoke(fake)


@pytest.mark.parametrize("bits", [0x7FC0, 0x7F80, 0xFF80])
def test_bf16_that_is_not_finite_is_seen(bits):
    with pytest.raises(EcoRayError, match="not finite"):
        smoke(Fake(lambda got: {"y": np.full((len(got["x"]), 2), bits, np.uint16)}, datatype="BF16"))
