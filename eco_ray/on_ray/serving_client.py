"""What the command line uses to talk to the deployer."""

from __future__ import annotations

import contextlib
from typing import Any

from eco_ray.config import Settings
from eco_ray.core.audit import AuditEntry
from eco_ray.core.deployments import Deployment
from eco_ray.core.keys import needed
from eco_ray.errors import EcoRayError, UnreachableError
from eco_ray.on_ray.client import Client
from eco_ray.store import open_store

#: for a version to be pulled, tried and started [s]
_DEPLOY_S = 1300.0


class ServingClient:
    """Deploys models on one cluster."""

    def __init__(self, settings: Settings) -> None:
        self._client = Client(settings)
        from eco_ray.on_ray.ray_serve import deployer  # imports ray, which reads the cluster's environment then
        from eco_ray.on_ray.serve_config import ServingConfig

        found = self._client.settings
        self._deployer = deployer(
            ServingConfig(
                settings.serve_host,
                self._client.record.serve_port,
                found.state_dir,
                found.store_url,
                settings.serve_keys == "required" or needed([settings.serve_host]),
                settings.key_pepper_file,
                settings.limits_file,
                settings.serve_shared_replicas,
                settings.serve_shared_models,
                settings.serve_shared_mb * 10**6,
                settings.serve_down_hold_s,
                settings.consolidation == "drain",
            )
        )

    def deploy(self, wanted: Deployment, before: Deployment | None) -> dict[str, Any]:
        """Serve a model, or change how; what is served then. Raises EcoRayError.

        `before`: as `deployments` told it; where it is another one by now, nothing is changed.
        """
        deploy = self._deployer.deploy.options(max_task_retries=0)
        row: dict[str, Any] = self._ask(deploy.remote(wanted, before), _DEPLOY_S)
        return row

    def undeploy(self, model: str) -> None:
        """Serve it no more. Raises NotFoundError."""
        self._ask(self._deployer.undeploy.remote(model))

    def deployments(self) -> list[Deployment]:
        """What is deployed."""
        found: list[Deployment] = self._ask(self._deployer.deployments.remote())
        return found

    def rows(self) -> list[dict[str, Any]]:
        """What is deployed, and how it stands."""
        found: list[dict[str, Any]] = self._ask(self._deployer.rows.remote())
        return found

    def audit(self, entry: AuditEntry) -> None:
        """A row in the audit log."""
        with contextlib.closing(open_store(self._client.settings.store_url)) as store:
            store.add_audit([entry])

    def _ask(self, asked: Any, timeout_s: float = 60.0) -> Any:
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            return ray.get(asked, timeout=timeout_s)
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, EcoRayError) else error) from None
        except RayError as error:
            raise UnreachableError(f"the deployer did not answer: {error}"[:500]) from None
