"""What a replica has around it, whatever it answers: its node, the intensity, keys, and the books that it keeps."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from eco_ray.core.avoided import Avoided
from eco_ray.core.cluster import Resources
from eco_ray.core.footprint import Footprint, ReplicaPower, Signal, request_footprint
from eco_ray.core.units import Nature
from eco_ray.on_ray.accounts import metered_cpus
from eco_ray.on_ray.avoided import AvoidedLog
from eco_ray.on_ray.connection import controller_handle
from eco_ray.on_ray.doorkeeper import Doorkeeper
from eco_ray.on_ray.local_cluster import NODE_LABEL
from eco_ray.on_ray.replica_gpus import GpuShare, visible_devices
from eco_ray.on_ray.served import Tally, served_dir
from eco_ray.on_ray.serving.vitals import Vitals
from eco_ray.service.gate import Gate, named_tenant

#: how often a replica asks for what changes: intensity, keys, what is deployed [wall s]
FOLLOW_S = 1.0
#: for the controller, which may be restarting, when a replica starts [s]
_FACTS_S = 30.0

#: an ASGI application
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class AppResponse(Response):
    """What an ASGI application answers: Serve lets a response of Starlette answer the request by itself."""

    def __init__(self, app: App, vitals: Vitals | None = None) -> None:
        """`vitals`: of the replica, which are told of each request to compute something."""
        super().__init__()
        self._app, self._vitals = app, vitals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        vitals = self._vitals if scope["method"] == "POST" else None
        came_s = vitals.came() if vitals else 0.0

        async def send_once(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":  # Serve tells the request's id by itself
                message["headers"] = [pair for pair in message["headers"] if pair[0] != b"x-request-id"]
                if vitals and message["status"] < 400:  # what is refused at once says nothing of the latency
                    vitals.answered(came_s)
            await send(message)

        try:
            await self._app(scope, receive, send_once)
        finally:
            if vitals:
                vitals.gone()


class Meter:
    """What a replica's time costs on its node, by the intensity of its zone as it was when last asked for."""

    def __init__(self, facts: Mapping[str, Any], demand: Resources) -> None:
        """`facts`: the controller's of this node. `demand`: what Ray holds for the replica."""
        node = facts["node"]
        self._gpus = GpuShare(demand.gpus, visible_devices())
        held = metered_cpus(node), demand.cpus, node.pue, facts["clock"].speed, self._gpus.power_w()
        self.power = ReplicaPower(node.power, *held)
        self.signal = Signal(node.zone, None, "unknown")
        #: that a busy CPU adds
        self.cpu_w = (node.power.full_w - node.power.idle_w) / held[0]

    def footprint(self, cpu_s: float, duration_s: float, batch_share: float) -> Footprint:
        """What a request cost here and now."""
        return request_footprint(cpu_s, duration_s, self.power, self.signal, batch_share)

    def look(self) -> None:
        """Ask for the intensity, and the power of GPUs; it takes a moment, and raises nothing."""
        import ray

        zone = self.signal.zone
        try:
            now = ray.get(controller_handle().signal.remote(zone), timeout=5.0)
        except Exception:  # the controller may be restarting; an unknown intensity is said to be unknown
            now = None
        self.signal = _signal(zone, now)
        self.power = replace(self.power, gpu_w=self._gpus.power_w())


class Surroundings:
    """Follows intensity and keys in the background, so that no request waits for them."""

    def __init__(self, told: Mapping[str, Any], demand: Resources, model: str) -> None:
        """`told`: arguments of the application, with "pepper_file" and "replicas" where keys are needed.

        `demand`: what Ray holds for the replica. `model`: `name:version`, or what its waiting is charged to.
        """
        stay_on_loopback()
        facts = node_facts()
        self.state_dir = Path(facts["state_dir"])
        self._meter = meter = Meter(facts, demand)
        self.footprint = meter.footprint
        self.tally = _tally(demand, model)
        node = facts["node"].name
        self.tally.keep_in(served_dir(self.state_dir, node))
        self.avoided = AvoidedLog(_replica_id(), node, meter.power, meter.signal, facts["clock"], time.time())
        #: called as often as this follows what changes; what one raises is lost
        self.followers: list[Callable[[], None]] = []
        self.vitals = Vitals(meter.cpu_w, _index(node, told))
        self._doorkeeper: Doorkeeper | None = None
        if "pepper_file" in told:  # keys are needed
            self._doorkeeper = Doorkeeper(told["pepper_file"], self.state_dir, int(told["replicas"]))
        threading.Thread(target=self._follow, daemon=True).start()

    def gate(self, model: str) -> Gate:
        """Who may ask a model."""
        return self._doorkeeper.gate(model) if self._doorkeeper else named_tenant

    def apply_news(self) -> None:
        """Take over what was found in the background, in the event loop."""
        if self._doorkeeper:
            self._doorkeeper.apply_news()

    def end(self) -> None:
        """Write the books for the last time."""
        self.tally.write()
        self.avoided.end(time.time(), _write_avoided)

    def _follow(self) -> None:
        while True:
            self._meter.look()
            self.avoided.send(time.time(), self._meter.signal, _write_avoided)
            if self._doorkeeper:
                self._doorkeeper.look()
            for look in tuple(self.followers):
                with contextlib.suppress(Exception):  # whom it asks may be restarting
                    look()
            time.sleep(FOLLOW_S)


class Answers:
    """What Serve asks of each replica of models: its answers, and an end in order."""

    _around: Surroundings
    _answer: AppResponse

    def __del__(self) -> None:
        """Serve calls it before it ends a replica in order, and then kills the process."""
        if hasattr(self, "_around"):  # its constructor may have failed
            self._around.end()

    async def __call__(self, request: Request) -> Response:
        """Answer one HTTP request."""
        self._around.apply_news()
        return self._answer

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve asks, for the policy that scales."""
        return self._around.vitals.told(self._around.tally.service_s)


def _signal(zone: str, now: Mapping[str, Any] | None) -> Signal:
    """What the controller says of a zone."""
    if now is None or now["intensity_g_per_kwh"] is None:
        return Signal(zone, None, "unknown")
    return Signal(zone, now["intensity_g_per_kwh"], now["source"], now["kind"], Nature(now["nature"]))


def _index(node: str, told: Mapping[str, Any]) -> int:
    """Which of the deployment's nodes this one is; -1: none of them."""
    nodes = list(told.get("deployment", {}).get("nodes", ()))
    return nodes.index(node) if node in nodes else -1


def _write_avoided(rows: list[Avoided]) -> None:
    import ray

    from eco_ray.on_ray.ray_serve import deployer_handle

    ray.get(deployer_handle().add_avoided.remote(rows), timeout=5.0)


def stay_on_loopback() -> None:
    """Where the cluster is on loopback, have Serve open this replica's port for calls there too.

    Serve (2.60) opens it on all interfaces, without a token, and unpickles what comes in.
    """
    import ray
    from ray.serve._private import replica

    if ray.util.get_node_ip_address() == "127.0.0.1":
        add_port = replica.add_port_to_grpc_server
        replica.add_port_to_grpc_server = lambda server, address: add_port(server, address.replace("[::]", "127.0.0.1"))


def node_facts() -> Any:
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


def _tally(demand: Resources, model: str) -> Tally:
    from ray import serve

    context = serve.get_replica_context()
    return Tally(context.app_name, context.replica_id.unique_id, demand.cpus, demand.gpus, visible_devices(), model)
