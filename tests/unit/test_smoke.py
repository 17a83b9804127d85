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

    def __init__(self, answer, inputs=X):
        self.answer, self.inputs, self.outputs, self.asked = answer, inputs, (Tensor("y", "FP32", (-1, 2)),), []

    def infer(self, inputs):
        self.asked.append(inputs)
        return self.answer(inputs)


def test_it_asks_for_one_row_of_each_datatype():
    inputs = tuple(Tensor(datatype, datatype, (-1, 3)) for datatype in DTYPES)
    fake = Fake(lambda _inputs: {"y": np.zeros((1, 2), np.float32)}, inputs)
    assert smoke(fake) >= 0
    assert {name: (array.shape, array.dtype) for name, array in fake.asked[0].items()} == {
        datatype: ((1, 3), dtype) for datatype, dtype in DTYPES.items()
    }
    assert set(fake.asked[0]["BYTES"].flat) == {b"smoke"}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda _: {}, "no output 'y'"),
        (lambda _: {"y": np.zeros((1, 3), np.float32)}, r"shape \[1, 3\], and its signature says \[-1, 2\]"),
        (lambda _: {"y": np.zeros(2, np.float32)}, "shape"),
        (lambda _: {"y": np.full((1, 2), np.nan, np.float32)}, "not finite"),
        (lambda _: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_what_is_wrong_is_told(answer, why):
    with pytest.raises(EcoRayError, match=rf"m:3 failed its smoke request: .*{why}"):
        smoke(Fake(answer))
