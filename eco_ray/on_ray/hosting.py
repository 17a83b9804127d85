"""A replica of a served model: loads its version, tries it, and answers over HTTP with footprints.

    /v2/models/NAME/...              what `service` gives a model; the route of the application
    /models/NAME/v1/...              the same replicas, by a rewritten path (haproxy.py)

`model_app` is what Serve imports; its arguments are JSON, so that the same ones make the same replicas and other ones
are a rolling update, in which new replicas answer before old ones go.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from eco_ray.core.avoided import Avoided
from eco_ray.core.deployments import Deployment
from eco_ray.core.footprint import Footprint, ReplicaPower, Signal, request_footprint
from eco_ray.core.units import Nature
from eco_ray.models.runtimes.device import must_work
from eco_ray.on_ray.accounts import metered_cpus
from eco_ray.on_ray.avoided import AvoidedLog
from eco_ray.on_ray.connection import controller_handle
from eco_ray.on_ray.doorkeeper import Doorkeeper
from eco_ray.on_ray.local_cluster import NODE_LABEL
from eco_ray.on_ray.model_files import load_version
from eco_ray.on_ray.replica_gpus import GpuShare, visible_devices
from eco_ray.on_ray.serve_config import CANARY, REPLICA
from eco_ray.on_ray.served import Tally, served_dir
from eco_ray.on_ray.smoke import smoke
from eco_ray.service.app import ModelApp
from eco_ray.service.batches import Batcher, Compute
from eco_ray.service.canary import BesideApp, CanaryApp
from eco_ray.service.gate import named_tenant

if TYPE_CHECKING:
    from ray import serve

log = logging.getLogger("eco_ray.serving")

#: how often a replica asks for the intensity of its zone [wall s]
_FOLLOW_S = 1.0
#: requests in one batch that is waited for
_BATCH = 64
#: for the controller, which may be restarting, when a replica starts [s]
_FACTS_S = 30.0


def model_app(told: dict[str, Any]) -> serve.Application:
    """The Serve application of one version of a deployment: {"deployment": {...}, "version": 3}."""
    from ray import serve

    return serve.deployment(name=REPLICA)(Host).bind(told)


#: an ASGI application
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class AppResponse(Response):
    """What an ASGI application answers: Serve lets a response of Starlette answer the request by itself."""

    def __init__(self, app: App) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_once(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":  # Serve tells the request's id by itself
                message["headers"] = [pair for pair in message["headers"] if pair[0] != b"x-request-id"]
            await send(message)

        await self._app(scope, receive, send_once)


class Host:
    """The replica: follows intensity and keys in the background, so that no request waits for them."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        stay_on_loopback()
        deployment, version = Deployment.from_json(told["deployment"]), int(told["version"])
        facts = _facts()
        node, state_dir, demand = facts["node"], Path(facts["state_dir"]), deployment.demand
        clock_speed = facts["clock"].speed
        self._gpus = GpuShare(demand.gpus, visible_devices())
        held = metered_cpus(node), demand.cpus, node.pue, clock_speed, self._gpus.power_w()
        self._power = ReplicaPower(node.power, *held)
        self._signal = Signal(node.zone, None, "unknown")
        runtime = load_version(deployment, version, state_dir)
        smoke(runtime)
        self._tally = _tally(deployment, version, served_dir(state_dir, node.name))
        of = _replica_id(), node.name, deployment.reference(version)
        self._avoided = AvoidedLog(*of, self._power, self._signal, facts["clock"], time.time())
        self._doorkeeper: Doorkeeper | None = None
        if "pepper_file" in told:  # keys are needed
            self._doorkeeper = Doorkeeper(told["pepper_file"], state_dir, deployment.model, int(told["replicas"]))
        gate = self._doorkeeper.gate if self._doorkeeper else named_tenant
        wait_s = deployment.batch_wait_s
        batching = None if wait_s is None else partial(_waiting_batches, wait_s)
        count, avoided = self._tally.add, self._avoided.add
        app = ModelApp(runtime, self._footprint, gate=gate, count=count, avoided=avoided, batching=batching)
        here = f"/v2/models/{deployment.model}/versions/"
        self._canary = CanaryApp(app, str(told["canary"]), here, gate) if "canary" in told else None
        self._answer = AppResponse(self._canary or BesideApp(app, f"{CANARY}/{deployment.model}", version))
        threading.Thread(target=self._follow, daemon=True).start()

    def reconfigure(self, told: Mapping[str, Any] | None) -> None:
        """Take over what changes without a new replica: the share of requests that goes to a canary."""
        if self._canary:
            self._canary.percent = int((told or {}).get("canary_percent", 0))

    def check_health(self) -> None:
        """Serve asks, and puts another replica in place of one that raises."""
        must_work()

    def __del__(self) -> None:
        """Serve calls it before it ends a replica in order, and then kills the process."""
        if hasattr(self, "_tally"):
            self._tally.write()

    async def __call__(self, request: Request) -> Response:
        """Answer one HTTP request."""
        if self._doorkeeper:
            self._doorkeeper.apply_news()
        return self._answer

    def _footprint(self, cpu_s: float, duration_s: float, batch_share: float) -> Footprint:
        return request_footprint(cpu_s, duration_s, self._power, self._signal, batch_share)

    def _follow(self) -> None:
        import ray

        zone = self._signal.zone
        while True:
            try:
                now = ray.get(controller_handle().signal.remote(zone), timeout=5.0)
            except Exception:  # the controller may be restarting; an unknown intensity is said to be unknown
                now = None
            self._signal = _signal(zone, now)
            self._power = replace(self._power, gpu_w=self._gpus.power_w())
            self._avoided.send(time.time(), self._signal, _write_avoided)
            if self._doorkeeper:
                self._doorkeeper.look()
            time.sleep(_FOLLOW_S)


def _signal(zone: str, now: Mapping[str, Any] | None) -> Signal:
    """What the controller says of a zone."""
    if now is None or now["intensity_g_per_kwh"] is None:
        return Signal(zone, None, "unknown")
    return Signal(zone, now["intensity_g_per_kwh"], now["source"], now["kind"], Nature(now["nature"]))


def _write_avoided(rows: list[Avoided]) -> None:
    import ray

    from eco_ray.on_ray.ray_serve import deployer_handle

    ray.get(deployer_handle().add_avoided.remote(rows), timeout=5.0)


def _waiting_batches(wait_s: float, compute: Compute) -> Batcher:
    """Serve's own batches, for which requests wait."""
    from ray import serve

    batcher: Batcher = serve.batch(compute, max_batch_size=_BATCH, batch_wait_timeout_s=wait_s)
    return batcher


def stay_on_loopback() -> None:
    """Where the cluster is on loopback, have Serve open this replica's port for calls there too.

    Serve (2.60) opens it on all interfaces, without a token, and unpickles what comes in.
    """
    import ray
    from ray.serve._private import replica

    if ray.util.get_node_ip_address() == "127.0.0.1":
        add_port = replica.add_port_to_grpc_server
        replica.add_port_to_grpc_server = lambda server, address: add_port(server, address.replace("[::]", "127.0.0.1"))


def _facts() -> Any:
    """What the controller says of this node."""
    import ray

    context = ray.get_runtime_context()
    name = (context.get_node_labels() or {}).get(NODE_LABEL) or context.get_node_id()[:12]
    deadline = time.monotonic() + _FACTS_S
    while True:
        try:
            return ray.get(controller_handle().serving_facts.remote(name), timeout=5.0)
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _replica_id() -> str:
    from ray import serve

    return str(serve.get_replica_context().replica_id.unique_id)


def _tally(deployment: Deployment, version: int, folder: Path) -> Tally:
    from ray import serve

    context = serve.get_replica_context()
    holds = deployment.demand.cpus, deployment.demand.gpus, visible_devices()
    reference = deployment.reference(version)
    tally = Tally(context.app_name, context.replica_id.unique_id, *holds, model=reference)
    tally.keep_in(folder)
    return tally
