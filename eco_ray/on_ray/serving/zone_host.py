"""The replica at the address of a model that is served per zone: it passes requests on, and holds no CPU.

It follows the shares that the deployer tells. With the deployer dead it goes on with the last ones; one that starts
then finds them in the store.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from eco_ray.core.cluster import Resources
from eco_ray.core.zone_routes import Routes
from eco_ray.on_ray.doorkeeper import Doorkeeper
from eco_ray.on_ray.surroundings import FOLLOW_S, AppResponse, Meter, node_facts, stay_on_loopback
from eco_ray.service.gate import named_tenant
from eco_ray.service.own_cost import OwnCostApp
from eco_ray.service.zones import ZonesApp

if TYPE_CHECKING:
    from ray import serve


def zones_app(told: dict[str, Any]) -> serve.Application:
    """The Serve application: {"model": ..., "base": URL of the proxy, "state_dir": ...}, with keys "pepper_file"."""
    from ray import serve

    from eco_ray.on_ray.serve_config import REPLICA

    return serve.deployment(name=REPLICA)(ZonesHost).bind(told)


class ZonesHost:
    """Passes requests on to the zones of one model."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        stay_on_loopback()
        self._model, self._id = str(told["model"]), uuid.uuid4().hex
        self._doorkeeper = Doorkeeper(told["pepper_file"], Path(told["state_dir"])) if "pepper_file" in told else None
        gate = self._doorkeeper.gate() if self._doorkeeper else named_tenant
        self._zones = ZonesApp(self._model, str(told["base"]), Routes.even(("",)), gate)
        self._meter = Meter(node_facts(), Resources(0.0))
        self._answer = AppResponse(OwnCostApp(self._zones, self._meter.footprint))
        #: what was told last and is not followed yet
        self._news = self._asked() or self._kept()
        threading.Thread(target=self._follow, daemon=True).start()

    def reconfigure(self, told: Mapping[str, Any]) -> None:
        """Take over which zones there are, until shares of them are told."""
        zones: Sequence[str] = told["zones"]
        if self._news is not None and set(self._news.zones) <= set(zones):
            return
        if set(self._zones.routes.zones) != set(zones):
            self._news = Routes.even(zones)

    async def __call__(self, request: Request) -> Response:
        """Answer one HTTP request."""
        if self._doorkeeper:
            self._doorkeeper.apply_news()
        news, self._news = self._news, None
        if news is not None:
            self._zones.follow(news)
        return self._answer

    def _follow(self) -> None:
        while True:
            self._meter.look()
            if self._doorkeeper:
                self._doorkeeper.look()
            time.sleep(FOLLOW_S)
            self._news = self._asked() or self._news

    def _asked(self) -> Routes | None:
        """What the deployer says; None: nothing new, or it is away."""
        import ray

        from eco_ray.on_ray.ray_serve import deployer_handle

        counts, away = dict(self._zones.counts), self._zones.away
        with suppress(Exception):  # the deployer may be restarting
            asked = deployer_handle().zone_routes.remote(self._model, self._id, counts, away)
            told = ray.get(asked, timeout=5.0)
            if told is not None and (routes := Routes.from_json(told)) != self._zones.routes:
                return routes
        return None

    def _kept(self) -> Routes | None:
        """What was decided last, by the store; None: nothing, or it is away."""
        from eco_ray.on_ray.router_host import open_cluster_store
        from eco_ray.on_ray.serving.traffic import KEY

        with suppress(Exception):
            told = (open_cluster_store().get_meta(KEY) or {}).get(self._model)
            return Routes.from_json(told["routes"]) if told else None
        return None
