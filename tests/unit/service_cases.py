"""A served model for tests: it gives back what it gets, in any datatype, or does what a test needs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from eco_ray.core.footprint import Footprint, Signal
from eco_ray.core.ports import Arrays
from eco_ray.core.tensors import Tensor
from eco_ray.core.units import Nature
from eco_ray.service.app import ModelApp


def footprint(cpu_s: float, duration_s: float, batch_share: float = 1.0) -> Footprint:
    joules = cpu_s * 10 * batch_share
    return Footprint(joules, joules / 100, duration_s, 10.0, Signal("DE", 300.0, "test"), Nature.MODELLED)


@dataclass
class Echo:
    """Gives `x` back as `y`."""

    datatype: str = "FP32"
    shape: tuple[int, ...] = (-1,)
    deterministic: bool = False
    act: Callable[[Arrays], None] = lambda inputs: None
    name: str = "echo"
    version: int = 2
    kind: str = ""
    platform: str = "test"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    calls: int = 0

    def __post_init__(self) -> None:
        self.inputs = (Tensor("x", self.datatype, self.shape),)
        self.outputs = (Tensor("y", self.datatype, self.shape),)

    def infer(self, inputs: Arrays) -> Arrays:
        self.calls += 1
        self.act(inputs)
        return {"y": inputs["x"]}


@dataclass(frozen=True)
class Got:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


NONE: Mapping[str, str] = {}
INFER = "/v2/models/echo/infer"


def ask(
    app: ModelApp,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | list[tuple[bytes, bytes]] = NONE,
) -> Got:
    """One request, without a server."""
    return asyncio.run(ask_async(app, method, path, [body], headers))


async def ask_async(app: ModelApp, method: str, path: str, chunks: list[bytes], headers: Any = NONE) -> Got:
    pairs = headers if isinstance(headers, list) else [(n.lower().encode(), v.encode()) for n, v in headers.items()]
    left = list(chunks)

    async def receive() -> dict[str, Any]:
        if not left:  # it stays
            await asyncio.Event().wait()
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": pairs, "query_string": b""}
    await app(scope, receive, send)
    start, end = sent
    return Got(start["status"], {n.decode(): v.decode() for n, v in start["headers"]}, end["body"])


def request(data: Any, datatype: str = "FP32", shape: list[int] | None = None, **more: Any) -> bytes:
    tensor = {"name": "x", "datatype": datatype, "shape": [len(data)] if shape is None else shape, "data": data}
    return json.dumps({"inputs": [tensor], **more}).encode()
