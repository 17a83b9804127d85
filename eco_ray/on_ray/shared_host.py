"""A replica of many small models: loads each when it is first asked for, and gives up the one used longest ago.

    /v2/models/NAME/...     where NAME has no application of its own: HAProxy takes the longest prefix

What it serves is told by `user_config`, so that other models, or other versions of them, need no new replica.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from eco_ray.core.deployments import SHARED_DEMAND, SharedModel
from eco_ray.models.runtimes.many import ManyModels
from eco_ray.on_ray.model_files import load_version, size_bytes
from eco_ray.on_ray.serve_config import REPLICA, SHARED
from eco_ray.on_ray.smoke import smoke
from eco_ray.on_ray.surroundings import Answers, AppResponse, Surroundings
from eco_ray.service.app import ModelApp
from eco_ray.service.limits import MIB, Limits
from eco_ray.service.shared import SharedApp

if TYPE_CHECKING:
    from ray import serve

#: of each model: there may be many
_LIMITS = Limits(held_bytes=64 * MIB, cache_bytes=4 * MIB, cache_entries=1_000)


def shared_app(told: dict[str, Any]) -> serve.Application:
    """The Serve application of all shared models: {"most": models that are loaded, "most_bytes": of their files}."""
    from ray import serve

    return serve.deployment(name=REPLICA)(SharedHost).bind(told)


class SharedHost(Answers):
    """The replica. What it does for a model is counted for that, and its waiting for `shared`."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self._around = around = Surroundings(told, SHARED_DEMAND, SHARED)
        models = ManyModels(self._load, self._size_bytes, int(told["most"]), int(told["most_bytes"]))
        self._app: SharedApp[SharedModel] = SharedApp(models, around.footprint, around.gate)
        self._answer = AppResponse(self._app)

    async def reconfigure(self, told: Mapping[str, Any]) -> None:
        """Serve these models from now on; it does not wait for any to be loaded, as Serve waits for this."""
        self._app.serve(SharedModel(**one) for one in told["models"])

    def _load(self, one: SharedModel) -> ModelApp:
        began_s, reference, around = time.thread_time(), str(one), self._around
        try:
            runtime = load_version(one.deployment, one.version, around.state_dir)
            smoke(runtime)
            return ModelApp(
                runtime,
                around.footprint,
                gate=around.gate(one.model),
                count=partial(around.tally.add, model=reference),
                avoided=partial(around.avoided.add, reference),
                limits=_LIMITS,
            )
        finally:
            around.tally.worked(reference, time.thread_time() - began_s)

    def _size_bytes(self, one: SharedModel) -> int:
        return size_bytes(one.deployment, one.version, self._around.state_dir)
