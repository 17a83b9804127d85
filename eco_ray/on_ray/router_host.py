"""The replica that answers what is no model's own: the common `/v1`, health, the list of models, usage."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from eco_ray.core.cluster import Resources
from eco_ray.core.store_port import Store
from eco_ray.on_ray.doorkeeper import Doorkeeper
from eco_ray.on_ray.surroundings import FOLLOW_S, AppResponse, Meter, node_facts, stay_on_loopback
from eco_ray.on_ray.usage import UsageLookup
from eco_ray.service.gate import named_tenant
from eco_ray.service.own_cost import OwnCostApp
from eco_ray.service.router import Router
from eco_ray.service.usage import BASE, UsageApp
from eco_ray.store import open_store

if TYPE_CHECKING:
    from ray import serve


def router_app(told: dict[str, Any]) -> serve.Application:
    """The Serve application: {"base": URL of the proxy, "state_dir": ...}, and "pepper_file" where keys are needed."""
    from ray import serve

    from eco_ray.on_ray.serve_config import REPLICA

    return serve.deployment(name=REPLICA)(RouterHost).bind(told)


class RouterHost:
    """Follows what is deployed in the background; with the deployer dead it knows what it knew."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        stay_on_loopback()
        self._base = str(told["base"])
        self._models: Mapping[str, str] = {}
        #: what each alias that is followed means, as the deployer knows it
        self._served: Mapping[str, Mapping[str, Any]] = {}
        needs_keys = "pepper_file" in told
        self._doorkeeper = Doorkeeper(told["pepper_file"], Path(told["state_dir"])) if needs_keys else None
        gate = self._doorkeeper.gate() if self._doorkeeper else named_tenant
        self._router = Router(lambda: self._models, resolve=self._resolve, gate=gate)
        self._usage = UsageApp(UsageLookup(open_cluster_store()), gate=gate)
        self._meter = Meter(node_facts(), Resources(0.0))
        self._answer = AppResponse(OwnCostApp(self._app, self._meter.footprint))
        self._look()
        threading.Thread(target=self._follow, daemon=True).start()

    async def __call__(self, request: Request) -> Response:
        """Answer one HTTP request."""
        if self._doorkeeper:
            self._doorkeeper.apply_news()
        return self._answer

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._usage if scope.get("path", "").startswith(BASE) else self._router
        await app(scope, receive, send)

    def _resolve(self, reference: str) -> tuple[str, str] | None:
        """`name`, `name:VERSION` that is served, or `name@alias` that it follows."""
        name = reference.partition(":")[0].partition("@")[0]
        row = self._served.get(name)
        if row is None:
            return None
        means = {name, f"{name}:{row['version']}", *([f"{name}@{row['follows']}"] if row["follows"] else [])}
        return (name, self._base) if reference in means else None

    def _follow(self) -> None:
        while True:
            self._meter.look()
            time.sleep(FOLLOW_S)
            self._look()
            if self._doorkeeper:
                self._doorkeeper.look()

    def _look(self) -> None:
        import ray

        from eco_ray.on_ray.ray_serve import deployer_handle

        try:
            served = ray.get(deployer_handle().served.remote(), timeout=5.0)
        except Exception:  # the deployer may be restarting
            return
        self._served = {row["model"]: row for row in served}
        self._models = dict.fromkeys(self._served, self._base)


def open_cluster_store() -> Store:
    """The cluster's; its URL may hold a password, which has no place in Serve's configuration."""
    import ray

    from eco_ray.on_ray.connection import controller_handle

    return open_store(ray.get(controller_handle().places.remote(), timeout=30.0)["store_url"])
