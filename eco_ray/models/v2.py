"""The V2 inference protocol for one model, as a plain class: bytes in, status and bytes out. No Ray, no framework.

Paths: /v2, /v2/health/live, /v2/health/ready, /v2/models/NAME[/versions/V][/ready], /v2/models/NAME[/versions/V]/infer.
Errors are problem+json (RFC 9457).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from eco_ray import __version__
from eco_ray.core.footprint import Footprint
from eco_ray.core.requests import ServiceUse
from eco_ray.core.tenants import TENANT
from eco_ray.models.weights import load_model

#: largest request body [bytes], and most images in it
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_BATCH = 1024
#: header of a request that names the tenant it is for
TENANT_HEADER = "Eco-Tenant"
_IMAGE = (28, 28)


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Problem(Exception):
    """A request that cannot be answered: status, title, and a detail with value, limit and cure."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail = status, title, detail


class V2Digits:
    """Serves an image classifier for 28 x 28 grey images: input `image`, outputs `label` and `probabilities`."""

    def __init__(
        self,
        path: str | Path,
        name: str,
        version: int,
        footprint: Callable[[float, float], Footprint],
        count: Callable[[ServiceUse, int], None] = lambda use, images: None,
    ) -> None:
        """`footprint(cpu_s, duration_s)` gives the footprint of a request; `count(use, images)` is told each answer."""
        torch.set_num_threads(1)  # CPU time of the request's own thread is then the request's CPU time
        self.model, self.metadata = load_model(path)
        self.model.eval()
        self.name, self.version = name, version
        self._footprint = footprint
        self._count = count

    def answer(self, method: str, path: str, body: bytes, tenant: str | None = None) -> Answer:
        """Answer one request; `tenant` is what its header says, None: nothing."""
        try:
            return self._route(method, [part for part in path.split("/") if part], body, tenant)
        except Problem as problem:
            content = {
                "type": "about:blank",
                "title": problem.title,
                "status": problem.status,
                "detail": problem.detail,
            }
            return Answer(problem.status, {"content-type": "application/problem+json"}, json.dumps(content).encode())

    def _route(self, method: str, parts: list[str], body: bytes, tenant: str | None) -> Answer:
        if parts == ["v2"]:
            return _json({"name": "eco_ray", "version": __version__, "extensions": ["eco_footprint"]})
        if parts in (["v2", "health", "live"], ["v2", "health", "ready"]):
            return _json({"live" if parts[2] == "live" else "ready": True})
        if parts[:2] != ["v2", "models"] or len(parts) < 3:
            raise Problem(404, "no such path", f"no path /{'/'.join(parts)}; see /v2 and /v2/models/{self.name}")
        rest = self._after_model(parts[2:])
        if rest == []:
            return _json(self._describe())
        if rest == ["ready"]:
            return _json({"name": self.name, "ready": True})
        if rest == ["infer"]:
            if method != "POST":
                raise Problem(405, "method not allowed", f"{method} is not allowed here; use POST")
            return self._infer(body, _tenant(tenant))
        raise Problem(404, "no such path", f"no path /{'/'.join(parts)}; a model has /ready and /infer")

    def _after_model(self, parts: list[str]) -> list[str]:
        if parts[0] != self.name:
            raise Problem(404, "no such model", f"no model {parts[0]!r} is served here; the model is {self.name!r}")
        if len(parts) >= 3 and parts[1] == "versions":
            if parts[2] != str(self.version):
                detail = f"version {parts[2]!r} of {self.name} is not served here; version {self.version} is"
                raise Problem(404, "no such version", detail)
            return parts[3:]
        return parts[1:]

    def _describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "versions": [str(self.version)],
            "platform": "eco_ray_pytorch",
            "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, *_IMAGE]}],
            "outputs": [
                {"name": "label", "datatype": "INT64", "shape": [-1]},
                {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
            ],
            "parameters": {"pixels": "ink bright, 0 to 1 (FP32) or 0 to 255 (UINT8)", **_plain(self.metadata)},
        }

    def _infer(self, body: bytes, tenant: str) -> Answer:
        wall_s, cpu_s = time.perf_counter(), time.thread_time()
        request = _parse(body)
        images = _images(request)
        with torch.inference_mode():
            probabilities = torch.softmax(self.model(torch.from_numpy(images)[:, None]), dim=1)
        labels = probabilities.argmax(dim=1)
        cpu_s = time.thread_time() - cpu_s
        footprint = self._footprint(cpu_s, time.perf_counter() - wall_s)
        count = len(images)
        self._count(ServiceUse(str(request.get("id", ""))[:128], tenant, cpu_s), count)
        content: dict[str, Any] = {
            "model_name": self.name,
            "model_version": str(self.version),
            "outputs": [
                {"name": "label", "datatype": "INT64", "shape": [count], "data": labels.tolist()},
                {
                    "name": "probabilities",
                    "datatype": "FP32",
                    "shape": [count, 10],
                    "data": [round(p, 6) for p in probabilities.flatten().tolist()],
                },
            ],
            "parameters": {"footprint": footprint.to_json()},
        }
        if "id" in request:
            content["id"] = str(request["id"])[:128]
        return _json(content, {"Eco-Footprint": footprint.to_header()})


def _tenant(told: str | None) -> str:
    """The tenant of a request; empty: it names none. Names are short and plain: they become rows of the ledger."""
    if not told:
        return ""
    if not TENANT.fullmatch(told):
        detail = f"{TENANT_HEADER} is {told[:80]!r}; use 1 to 63 letters, digits, '.', '_' or '-', or leave it out"
        raise Problem(400, "wrong tenant", detail)
    return told


def _parse(body: bytes) -> dict[str, Any]:
    if len(body) > MAX_BODY_BYTES:
        raise Problem(413, "request too large", f"{len(body)} bytes; the limit is {MAX_BODY_BYTES}; send fewer images")
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Problem(400, "not JSON", f"the body is not JSON ({error}); send a V2 inference request") from None
    if not isinstance(request, dict) or not isinstance(request.get("inputs"), list):
        raise Problem(400, "no inputs", "the body has no list `inputs`; send a V2 inference request")
    return request


def _images(request: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The images as float pixels in [0, 1], shape (N, 28, 28)."""
    tensor = next((i for i in request["inputs"] if isinstance(i, dict) and i.get("name") == "image"), None)
    if tensor is None:
        raise Problem(400, "no image", "no input named 'image'; /v2/models/NAME describes the inputs")
    datatype = tensor.get("datatype")
    if datatype not in ("FP32", "UINT8"):
        raise Problem(400, "wrong datatype", f"datatype {datatype!r} of 'image'; use FP32 or UINT8")
    shape = tensor.get("shape")
    sizes = list(shape) if isinstance(shape, list) and all(type(n) is int for n in shape) else []
    if len(sizes) == 4 and sizes[1] == 1:
        sizes = [sizes[0], *sizes[2:]]
    if len(sizes) != 3 or tuple(sizes[1:]) != _IMAGE or not 1 <= sizes[0] <= MAX_BATCH:
        detail = f"shape {shape!r} of 'image'; use [N, 28, 28] or [N, 1, 28, 28] with N from 1 to {MAX_BATCH}"
        raise Problem(400, "wrong shape", detail)
    try:
        values = np.asarray(tensor.get("data"), dtype=np.float32).reshape(-1)
    except (TypeError, ValueError, OverflowError) as error:
        raise Problem(400, "wrong data", f"data of 'image' are not numbers ({error}); send a list of pixels") from None
    wanted = sizes[0] * 28 * 28
    if values.size != wanted:
        raise Problem(400, "wrong data", f"{values.size} values in 'image'; its shape {shape} needs {wanted}")
    top = 255.0 if datatype == "UINT8" else 1.0
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > top:
        detail = f"pixels of 'image' from {values.min():g} to {values.max():g}; {datatype} pixels are 0 to {top:g}"
        raise Problem(400, "wrong data", detail)
    return (values / np.float32(top)).reshape(-1, *_IMAGE)


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if isinstance(value, str | int | float | bool)}


def _json(content: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(200, {"content-type": "application/json", **(headers or {})}, json.dumps(content).encode())
