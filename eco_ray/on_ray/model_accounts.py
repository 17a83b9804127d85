"""Which model the replicas of a Serve application run, so that their energy finds it."""

from __future__ import annotations

from collections.abc import Mapping

from eco_ray.core.cluster import Resources
from eco_ray.core.store_port import Store

#: versions of an application whose replicas may still drain, and models of shared ones
_VERSIONS = 1_000


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

    def put(self, app: str, reference: str, demand: Resources | None) -> None:
        """Account an application to a model. `demand`: what Ray holds for each replica; None: not known."""
        before = (one for one in self.models.get(app, ()) if one != reference)
        self.models[app] = (*before, reference)[-_VERSIONS:]
        self._store.put_meta("models", self.models)
        if demand is not None:
            held = {"num_cpus": demand.cpus, "num_gpus": demand.gpus, "memory_gb": demand.memory_gb}
            self._store.put_meta("model_demands", {**(self._store.get_meta("model_demands") or {}), reference: held})
