"""The V2 inference protocol without Ray: answers, bounds, and what bad requests get."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from eco_ray.core.footprint import Footprint, Signal
from eco_ray.core.units import Nature
from eco_ray.models import v2
from eco_ray.models.cnn import SmallCNN
from eco_ray.models.weights import save_model


def footprint(cpu_s: float, duration_s: float) -> Footprint:
    return Footprint(cpu_s * 10, cpu_s / 10, duration_s, 10.0, Signal("DE", 300.0, "test"), Nature.MODELLED)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> v2.V2Digits:
    path = tmp_path_factory.mktemp("m") / "m.safetensors"
    torch.manual_seed(0)
    save_model(SmallCNN(), path, {"accuracy": 0.1})
    return v2.V2Digits(path, "mnist", 2, footprint)


def body(**changes: Any) -> bytes:
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 28, 28], "data": [0.5] * 784, **changes}
    return json.dumps({"inputs": [tensor]}).encode()


@pytest.mark.parametrize("tenant", [None, "", "vision", "A.b_c-9", "x" * 63])
def test_each_answer_is_counted_for_its_tenant(
    service: v2.V2Digits, monkeypatch: pytest.MonkeyPatch, tenant: str | None
) -> None:
    seen: list[tuple[Any, int]] = []
    monkeypatch.setattr(service, "_count", lambda use, images: seen.append((use, images)))
    content = {**json.loads(body(shape=[2, 28, 28], data=[0.5] * 1568)), "id": "r1"}
    assert service.answer("POST", "/v2/models/mnist/infer", json.dumps(content).encode(), tenant).status == 200
    ((use, images),) = seen
    assert (use.request, use.tenant, use.batch_share, images) == ("r1", tenant or "", 1.0, 2)
    assert 0 < use.weight < 5
    service.answer("POST", "/v2/models/mnist/infer", b"{", tenant)
    assert len(seen) == 1


@pytest.mark.parametrize("tenant", ["x" * 64, "a b", "-a", "ü", "a\nb", "a/b", "x" * 10_000])
def test_a_tenant_that_is_no_name_is_refused(service: v2.V2Digits, tenant: str) -> None:
    answer = service.answer("POST", "/v2/models/mnist/infer", body(), tenant)
    assert answer.status == 400
    assert "use 1 to 63 letters" in json.loads(answer.body)["detail"]
    assert len(answer.body) < 500


def test_labels_are_those_of_the_model(service: v2.V2Digits) -> None:
    images = torch.rand(5, 28, 28)
    answer = service.answer("POST", "/v2/models/mnist/infer", body(shape=[5, 28, 28], data=images.flatten().tolist()))
    content = json.loads(answer.body)
    expected = service.model(images[:, None]).argmax(dim=1).tolist()
    assert content["outputs"][0]["data"] == expected
    assert content["outputs"][1]["shape"] == [5, 10]
    assert sum(content["outputs"][1]["data"][:10]) == pytest.approx(1, abs=1e-4)
    assert content["parameters"]["footprint"]["grid_zone"] == "DE"
    assert answer.headers["Eco-Footprint"].startswith("energy-j=")


def test_bytes_and_floats_nested_and_flat_mean_the_same(service: v2.V2Digits) -> None:
    grey = [51] * 784
    answers = [
        service.answer("POST", "/v2/models/mnist/versions/2/infer", content)
        for content in (
            body(datatype="UINT8", data=grey),
            body(data=[0.2] * 784),
            body(shape=[1, 1, 28, 28], data=[[[[0.2] * 28] * 28]]),
        )
    ]
    labels = [json.loads(answer.body)["outputs"][0]["data"] for answer in answers]
    assert labels[0] == labels[1] == labels[2]


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "part"),
    [
        ("GET", "/v2/health/live", b"", 200, "true"),
        ("GET", "/v2/models/mnist", b"", 200, "eco_ray_pytorch"),
        ("GET", "/v2/models/mnist/ready", b"", 200, "true"),
        ("GET", "/v2/models/mnist/infer", b"", 405, "use POST"),
        ("POST", "/v2/models/other/infer", body(), 404, "'mnist'"),
        ("POST", "/v2/models/mnist/versions/1/infer", body(), 404, "version 2 is"),
        ("GET", "/", b"", 404, "/v2"),
        ("POST", "/v2/models/mnist/infer", b"{", 400, "not JSON"),
        ("POST", "/v2/models/mnist/infer", b"[" * 100_000, 400, "not JSON"),
        ("POST", "/v2/models/mnist/infer", b"[]", 400, "inputs"),
        ("POST", "/v2/models/mnist/infer", body(name="x"), 400, "'image'"),
        ("POST", "/v2/models/mnist/infer", body(datatype="BYTES"), 400, "BYTES"),
        ("POST", "/v2/models/mnist/infer", body(shape=[0, 28, 28], data=[]), 400, "from 1 to 1024"),
        ("POST", "/v2/models/mnist/infer", body(shape=[10**9, 28, 28]), 400, "from 1 to 1024"),
        ("POST", "/v2/models/mnist/infer", body(data=[0.5] * 783), 400, "783 values"),
        ("POST", "/v2/models/mnist/infer", body(data=[2.0] * 784), 400, "0 to 1"),
        ("POST", "/v2/models/mnist/infer", body(data=[float("nan")] * 784), 400, "pixels"),
        ("POST", "/v2/models/mnist/infer", body(data=["a"] * 784), 400, "not numbers"),
        ("POST", "/v2/models/mnist/infer", b" " * (v2.MAX_BODY_BYTES + 1), 413, "limit"),
    ],
)
def test_each_request_gets_its_status_and_reason(
    service: v2.V2Digits, method: str, path: str, content: bytes, status: int, part: str
) -> None:
    answer = service.answer(method, path, content)
    assert answer.status == status
    assert part in answer.body.decode()
    if status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert json.loads(answer.body)["status"] == status
