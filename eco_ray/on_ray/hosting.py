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
from eco_ray.on_ray.model_files import load_version
from eco_ray.on_ray.serve_config import CANARY, REPLICA
from eco_ray.on_ray.smoke import smoke
from eco_ray.on_ray.surroundings import Answers, AppResponse, Surroundings
from eco_ray.service.app import ModelApp
from eco_ray.service.batches import Batcher, Compute
from eco_ray.service.canary import BesideApp, CanaryApp
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
        app = ModelApp(runtime, around.footprint, gate=gate, count=count, avoided=avoided, batching=batching)
        here = f"/v2/models/{deployment.model}/versions/"
        self._canary = CanaryApp(app, str(told["canary"]), here, gate) if "canary" in told else None
        answers = self._canary or BesideApp(app, f"{CANARY}/{deployment.model}", version)
        self._answer = AppResponse(ZoneApp(app, deployment.zone) if deployment.zone else answers)

    def reconfigure(self, told: Mapping[str, Any] | None) -> None:
        """Take over what changes without a new replica: the share of requests that goes to a canary."""
        if self._canary:
            self._canary.percent = int((told or {}).get("canary_percent", 0))

    def check_health(self) -> None:
        """Serve asks, and puts another replica in place of one that raises."""
        from eco_ray.models.runtimes.device import must_work

        must_work()


def _waiting_batches(wait_s: float, compute: Compute) -> Batcher:
    """Serve's own batches, for which requests wait."""
    from ray import serve

    batcher: Batcher = serve.batch(compute, max_batch_size=_BATCH, batch_wait_timeout_s=wait_s)
    return batcher
