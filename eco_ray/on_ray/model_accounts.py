"""Which model the replicas of a Serve application run, so that their energy finds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from eco_ray.core.cluster import Resources
from eco_ray.core.store_port import Store

#: versions of an application whose replicas may still drain, and models of shared ones
_VERSIONS = 1_000
#: how the class of a Serve replica begins, before its application and deployment (Ray 2.60)
_REPLICA = "ServeReplica:"
#: Ray counts parts of GPUs to this
_SAME = 1e-4


class ModelAccounts:
    """Kept in the store, so that a controller that starts again knows them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # kept before as the last one alone
        kept: Mapping[str, str | list[str]] = store.get_meta("models") or {}
        #: by Serve application: all that it was deployed with, the newest last
        self.models: dict[str, tuple[str, ...]] = {
            app: (told,) if isinstance(told, str) else tuple(told) for app, told in kept.items()
        }
        self._demands: dict[str, dict[str, float]] = dict(store.get_meta("model_demands") or {})

    def put(self, app: str, reference: str, demand: Resources | None) -> None:
        """Account an application to a model. `demand`: what Ray holds for each replica; None: not known."""
        before = (one for one in self.models.get(app, ()) if one != reference)
        self.models[app] = (*before, reference)[-_VERSIONS:]
        self._store.put_meta("models", self.models)
        if demand is not None:
            self._demands[reference] = {
                "num_cpus": demand.cpus,
                "num_gpus": demand.gpus,
                "memory_gb": demand.memory_gb,
                **({"gpu_memory_gb": demand.gpu_memory_gb} if demand.gpu_memory_gb else {}),
            }
            self._store.put_meta("model_demands", self._demands)

    def declared(self, user: tuple[str, Resources]) -> Resources:
        """What an actor holds, by its class and what Ray has given it, with the GPU memory that a replica declared."""
        kind, given = user
        app = kind.removeprefix(_REPLICA).rpartition(":")[0] if kind.startswith(_REPLICA) else ""
        known = (self._demands.get(reference, {}) for reference in reversed(self.models.get(app, ())))
        of_gpus = next((one for one in known if abs(one.get("num_gpus", 0.0) - given.gpus) < _SAME), {})
        return replace(given, gpu_memory_gb=of_gpus.get("gpu_memory_gb", 0.0))
