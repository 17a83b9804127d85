"""A replica of a served model: loads its version, tries it, and answers over HTTP with footprints.

    /v2/models/NAME/...              what `service` gives a model; the route of the application
    /models/NAME/v1/...              the same replicas, by a rewritten path (haproxy.py)
    /zones/ZONE/v2/models/NAME/...   those of one zone, where the model is served per zone

`model_app` is what Serve imports; its arguments are JSON, so that the same ones make the same replicas and other ones
are a rolling update, in which new replicas answer before old ones go.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from eco_ray.core.deployments import Deployment
from eco_ray.errors import EcoRayError
from eco_ray.on_ray.model_files import load_version
from eco_ray.on_ray.serve_config import REPLICA, VARIANT
from eco_ray.on_ray.serving.beside import ask_deployer, other_of
from eco_ray.on_ray.serving.mix_follower import MixFollower
from eco_ray.on_ray.smoke import smoke
from eco_ray.on_ray.surroundings import Answers, AppResponse, Surroundings
from eco_ray.service.app import ModelApp
from eco_ray.service.aside import AsideApp, BesideApp
from eco_ray.service.batches import Batcher, Compute
from eco_ray.service.zones import ZoneApp

if TYPE_CHECKING:
    from ray import serve

#: requests in one batch that is waited for
_BATCH = 64


def model_app(told: dict[str, Any]) -> serve.Application:
    """The Serve application of one version of a deployment: {"deployment": {...}, "version": 3}."""
    from ray import serve

    return serve.deployment(name=REPLICA)(Host).bind(told)


class Host(Answers):
    """The replica of one version."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        deployment, version = Deployment.from_json(told["deployment"]), int(told["version"])
        reference = deployment.reference(version)
        self._around = around = Surroundings(told, deployment.demand, reference)
        runtime = load_version(deployment, version, around.state_dir)
        smoke(runtime)
        gate, wait_s = around.gate(deployment.model), deployment.batch_wait_s
        batching = None if wait_s is None else partial(_waiting_batches, wait_s)
        count, avoided = around.tally.add, partial(around.avoided.add, reference)
        in_zone = bool(deployment.zone)
        self._app = app = ModelApp(
            runtime, around.footprint, gate=gate, count=count, avoided=avoided, batching=batching, in_zone=in_zone
        )

        def hop_j(cpu_s: float) -> float:
            return around.footprint(cpu_s, cpu_s, 1.0).energy_j

        self._mix = MixFollower(deployment.model, version, lambda: app.spent, hop_j, ask_deployer)
        around.followers.append(self._mix.look)
        self._model, self._base = deployment.model, str(told.get("base", ""))
        self._aside: AsideApp | None = None
        if deployment.zone:
            self._answer = AppResponse(ZoneApp(app, deployment.zone), around.vitals)
        elif route := str(told.get("beside", "")):  # this is the version beside
            self._mix.is_asking = is_variant = route.startswith(f"{VARIANT}/")
            self._answer = AppResponse(BesideApp(app, route, version, is_variant=is_variant), around.vitals)
        else:
            self._aside = AsideApp(app, f"/v2/models/{deployment.model}/versions/", version, around.footprint, gate)
            self._answer = AppResponse(self._aside, around.vitals)
        around.vitals.ready()

    def reconfigure(self, told: Mapping[str, Any] | None) -> None:
        """Take over what changes without a new replica: the version that is beside this one."""
        if self._aside:
            self._aside.other = other_of(told or {}, self._base, self._model, self._mix)

    def check_health(self) -> None:
        """Serve asks, and puts another replica in place of one that raises."""
        from eco_ray.models.runtimes.device import must_work

        must_work()
        if self._app.stuck:  # all who ask would get 503 for as long as it lasts
            raise EcoRayError("an inference takes longer than its limit and cannot be stopped; start another replica")


def _waiting_batches(wait_s: float, compute: Compute) -> Batcher:
    """Serve's own batches, for which requests wait."""
    from ray import serve

    batcher: Batcher = serve.batch(compute, max_batch_size=_BATCH, batch_wait_timeout_s=wait_s)
    return batcher
