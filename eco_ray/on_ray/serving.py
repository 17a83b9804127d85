"""A trained model behind HTTP with Ray Serve: the application of `service` in a replica, answers with footprints."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from eco_ray.core.clock import Clock
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.footprint import Footprint, ReplicaPower, Signal, request_footprint
from eco_ray.errors import UnreachableError
from eco_ray.models.digits import Digits
from eco_ray.on_ray.accounts import metered_cpus
from eco_ray.on_ray.connection import controller_handle
from eco_ray.on_ray.local_cluster import NODE_LABEL
from eco_ray.on_ray.owners import VISIBLE_DEVICES
from eco_ray.on_ray.served import Tally, served_dir
from eco_ray.service.app import ModelApp

#: how often a replica asks for the intensity of its zone [wall s]
_SIGNAL_S = 1.0


@dataclass(frozen=True)
class ServedModel:
    """What is deployed, and where."""

    path: Path
    name: str
    version: int
    node: Node
    clock: Clock
    #: of the cluster: replicas count there what they answer; None: nobody learns it
    state_dir: Path | None = None
    #: what Ray holds for each replica
    num_cpus: float = 0.0
    num_gpus: float = 0.0
    memory_gb: float = 0.0
    replicas: int = 1

    @property
    def reference(self) -> str:
        """As the ledger names it."""
        return f"{self.name}:{self.version}"

    @property
    def demand(self) -> Resources:
        """What Ray holds for each replica."""
        return Resources(self.num_cpus, self.num_gpus, self.memory_gb)


class AppResponse(Response):
    """What an ASGI application answers: Serve lets a response of Starlette answer the request by itself."""

    def __init__(self, app: ModelApp) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._app(scope, receive, send)


class Replica:
    """The replica: finds out the intensity in the background, so that no request waits for it."""

    def __init__(self, model: ServedModel) -> None:
        node = model.node
        self._power = ReplicaPower(node.power, metered_cpus(node), model.num_cpus, node.pue, model.clock.speed)
        self._signal = Signal(node.zone, None, "unknown")
        self._tally = self._open_tally(model)
        digits = Digits(model.path, model.name, model.version)
        self._answer = AppResponse(ModelApp(digits, self._footprint, count=self._tally.add))
        threading.Thread(target=self._follow_signal, daemon=True).start()

    def __del__(self) -> None:
        """Serve calls it before it ends a replica in order, and then kills the process."""
        if hasattr(self, "_tally"):
            self._tally.write()

    async def __call__(self, request: Request) -> Response:
        """Answer one HTTP request."""
        return self._answer

    def _footprint(self, cpu_s: float, duration_s: float, batch_share: float) -> Footprint:
        return request_footprint(cpu_s, duration_s, self._power, self._signal, batch_share)

    @staticmethod
    def _open_tally(model: ServedModel) -> Tally:
        from ray import serve

        context = serve.get_replica_context()
        devices = [device for device in os.environ.get(VISIBLE_DEVICES, "").split(",") if device]
        holds = model.num_cpus, model.num_gpus, devices
        tally = Tally(context.app_name, context.replica_id.unique_id, *holds, model=model.reference)
        if model.state_dir is not None:
            tally.keep_in(served_dir(model.state_dir, model.node.name))
        return tally

    def _follow_signal(self) -> None:
        import ray

        zone = self._signal.zone
        while True:
            try:
                now = ray.get(controller_handle().signal.remote(zone), timeout=5.0)
            except Exception:  # the controller may be restarting; an unknown intensity is said to be unknown
                now = None
            value, source = (now["intensity_g_per_kwh"], now["source"]) if now else (None, "unknown")
            self._signal = Signal(zone, value, source)
            time.sleep(_SIGNAL_S)


def start_http(port: int) -> None:
    """Start Serve's proxy on loopback."""
    from ray import serve

    serve.start(http_options={"host": "127.0.0.1", "port": port, "location": "HeadOnly"})


def deploy(model: ServedModel, port: int) -> str:
    """Deploy a model and wait until it answers; returns the URL of its infer path."""
    from ray import serve

    start_http(port)
    deployment = serve.deployment(
        name=model.name,
        num_replicas=model.replicas,
        max_ongoing_requests=16,
        ray_actor_options={
            **{"num_cpus": model.num_cpus, "num_gpus": model.num_gpus},
            **({"memory": model.memory_gb * 1e9} if model.memory_gb else {}),
            "label_selector": {NODE_LABEL: model.node.name},
        },
    )(Replica)
    serve.run(deployment.bind(model), name=model.name, route_prefix="/")
    base = f"http://127.0.0.1:{port}/v2/models/{model.name}"
    _wait_ready(f"{base}/ready")
    return f"{base}/infer"


def shutdown() -> None:
    """End Serve in the connected cluster."""
    from ray import serve

    serve.shutdown()


def _wait_ready(url: str, timeout_s: float = 30.0) -> None:
    import httpx

    deadline = time.monotonic() + timeout_s
    last: Any = None
    while time.monotonic() < deadline:
        try:
            last = httpx.get(url, timeout=2.0).status_code
            if last == 200:
                return
        except httpx.HTTPError as error:
            last = error
        time.sleep(0.1)
    raise UnreachableError(f"the model did not answer at {url} within {timeout_s:g} s (last: {last})")
