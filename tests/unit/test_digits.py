"""The served digits: right labels, the answer that clients know, and what bad pixels get."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from service_cases import Got, ask, footprint
from starlette.requests import Request

from eco_ray.models.cnn import SmallCNN
from eco_ray.models.digits import Digits
from eco_ray.models.weights import save_model
from eco_ray.on_ray.surroundings import AppResponse
from eco_ray.service.app import ModelApp
from eco_ray.service.limits import Limits


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    path = tmp_path_factory.mktemp("m") / "m.safetensors"
    torch.manual_seed(0)
    save_model(SmallCNN(), path, {"accuracy": 0.1})
    return Digits(path, "mnist", 2)


@pytest.fixture(scope="module")
def app(digits: Digits) -> ModelApp:
    return ModelApp(digits, footprint)


def infer(app: ModelApp, **changes: Any) -> Got:
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 28, 28], "data": [0.5] * 784, **changes}
    return ask(app, "POST", "/v2/models/mnist/infer", json.dumps({"inputs": [tensor]}).encode())


def test_labels_are_those_of_the_model(app: ModelApp, digits: Digits) -> None:
    images = torch.rand(5, 28, 28)
    got = infer(app, shape=[5, 28, 28], data=images.flatten().tolist())
    label, probabilities = got.json["outputs"]
    with torch.inference_mode():
        expected = torch.softmax(digits.model(images[:, None]), dim=1)
    assert label == {"name": "label", "datatype": "INT64", "shape": [5], "data": expected.argmax(dim=1).tolist()}
    assert (probabilities["datatype"], probabilities["shape"]) == ("FP32", [5, 10])
    assert probabilities["data"] == [round(p, 6) for p in expected.flatten().tolist()]
    assert got.json["parameters"]["footprint"]["grid_zone"] == "DE"
    assert (got.json["model_name"], got.json["model_version"]) == ("mnist", "2")
    assert got.headers["eco-footprint"].startswith("energy-j=")


def test_grey_values_and_floats_nested_and_flat_mean_the_same(app: ModelApp) -> None:
    answers = [
        infer(app, datatype="UINT8", data=[51] * 784),
        infer(app, data=[0.2] * 784),
        infer(app, shape=[1, 1, 28, 28], data=[[[[0.2] * 28] * 28]]),
    ]
    found = [got.json["outputs"][1]["data"] for got in answers]
    assert found[0] == pytest.approx(found[1], abs=2e-6)
    assert found[1] == found[2]


def test_the_description_is_the_one_that_clients_know(app: ModelApp) -> None:
    told = ask(app, "GET", "/v2/models/mnist").json
    assert told["platform"] == "eco_ray_pytorch"
    assert told["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 28, 28]}]
    assert told["outputs"] == [
        {"name": "label", "datatype": "INT64", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
    ]
    assert told["parameters"]["pixels"] == "ink bright, 0 to 1 (FP32) or 0 to 255 (UINT8)"
    assert told["parameters"]["accuracy"] == 0.1


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"name": "y"}, "'image'"),
        ({"datatype": "BYTES"}, "use FP32 or UINT8"),
        ({"shape": [0, 28, 28], "data": []}, "use [N, 28, 28] or [N, 1, 28, 28] with N from 1 to 1024"),
        ({"shape": [10**9, 28, 28]}, "from 1 to 1024"),
        ({"shape": [1, 5]}, "shape [1, 5]"),
        ({"data": [0.5] * 783}, "783 values"),
        ({"data": [2.0] * 784}, "FP32 pixels are 0 to 1"),
        ({"data": [-0.1] * 784}, "from -0.1"),
        ({"datatype": "UINT8", "data": [256] * 784}, "0 to 255"),
        ({"data": [float("nan")] * 784}, "not JSON"),
        ({"data": ["a"] * 784}, "takes numbers"),
    ],
)
def test_bad_pixels_are_refused_with_value_and_cure(app: ModelApp, changes: dict[str, Any], part: str) -> None:
    got = infer(app, **changes)
    assert got.status == 400
    assert part in got.json["detail"]


def test_a_full_batch_fits_the_default_limits(app: ModelApp) -> None:
    data = np.random.default_rng(0).random(1024 * 784, np.float32).astype(float).round(9).tolist()
    body = json.dumps({"inputs": [{"name": "image", "datatype": "FP32", "shape": [1024, 28, 28], "data": data}]})
    assert len(body) < Limits().body_bytes
    assert ask(app, "POST", "/v2/models/mnist/infer", body.encode()).status == 200


def test_serve_lets_the_application_answer(app: ModelApp) -> None:
    """As Ray Serve does it: the response that a replica returns is called with the request's scope."""
    response = AppResponse(app)

    async def through(scope: Any, receive: Any, send: Any) -> None:
        assert Request(scope, receive, send).url.path == scope["path"]
        await response(scope, receive, send)

    assert infer(through).status == 200  # type: ignore[arg-type]
