"""Ray Serve behind the deployer, and the deployer as an actor."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from eco_ray.core.audit import AuditEntry
from eco_ray.core.avoided import Avoided
from eco_ray.core.clock import Clock
from eco_ray.core.deployments import Deployment
from eco_ray.core.replica_places import Room
from eco_ray.errors import EcoRayError, NotFoundError, UnreachableError, UsageError
from eco_ray.on_ray.access import Access, AccessSource
from eco_ray.on_ray.connection import controller_handle
from eco_ray.on_ray.deployer import Deployer
from eco_ray.on_ray.fleet import NAMESPACE
from eco_ray.on_ray.local_cluster import NODE_LABEL, ON_HEAD
from eco_ray.on_ray.model_files import load_version, open_registry, size_bytes
from eco_ray.on_ray.serve_config import ServingConfig, beside_route, on_nodes
from eco_ray.on_ray.serving.consolidator import Consolidator
from eco_ray.on_ray.serving.mixer import Mixer, Report
from eco_ray.on_ray.serving.needs import NeedsWatch, serve_replicas, tell_controller
from eco_ray.on_ray.serving.ray_cluster import RayCluster, serve_details
from eco_ray.on_ray.serving.replica_guests import running_on
from eco_ray.on_ray.serving.sound_rooms import sound
from eco_ray.on_ray.serving.variant_facts import RegisteredVersions
from eco_ray.on_ray.smoke import smoke
from eco_ray.pepper import find_pepper
from eco_ray.service.zones import zone_route
from eco_ray.store import open_store

log = logging.getLogger("eco_ray.serving")

DEPLOYER_NAME = "eco_deployer"
#: to pull, load and try a version [s]
_CHECK_S = 600.0
#: for a node and a replica to start, before they are asked for again [s]
_WAKE_S = 300.0
#: for an answer about what is served [s]
_ASK_S = 5.0


class RayServing:
    """Implements `deployer.Serving`."""

    def __init__(self, config: ServingConfig) -> None:
        self._state_dir, self._shared_bytes = config.state_dir, config.shared_bytes
        self._base = config.base_url
        serve.start(proxy_location="HeadOnly", http_options={"host": config.host, "port": config.port})

    def apply(self, config: dict[str, Any]) -> None:
        """Tell Serve."""
        from ray.serve.context import _get_global_client  # what `serve deploy` uses (2.60)
        from ray.serve.schema import ServeDeploySchema

        _get_global_client().deploy_apps(ServeDeploySchema(**config))

    def state(self, app: str) -> tuple[str, str]:
        """`RUNNING`, ... and why not."""
        found = serve.status().applications.get(app)
        if found is None:
            return "", ""
        told = [found.message, *(one.message for one in found.deployments.values())]
        return found.status.value, " ".join(filter(None, told))

    def replicas(self) -> dict[str, int]:
        """Of each application, how many run."""
        return {
            app: sum(one.replica_states.get("RUNNING", 0) for one in told.deployments.values())
            for app, told in serve.status().applications.items()
        }

    def where(self) -> dict[str, dict[str, int]]:
        """Of each application, how many run on which node."""
        names = {info["NodeID"]: info["Labels"].get(NODE_LABEL, info["NodeID"][:12]) for info in ray.nodes()}
        return running_on(serve_details(), names)

    def check(self, deployment: Deployment, version: int) -> float:
        """Load a version in a process of its own on a node where it may run, and try it."""
        task = ray.remote(num_cpus=0, num_gpus=deployment.demand.gpus, max_retries=0, max_calls=1)(_check)
        most_bytes = self._shared_bytes if deployment.shared else None
        asked = task.options(**on_nodes(deployment.nodes)).remote(deployment, version, self._state_dir, most_bytes)
        name = deployment.reference(version)
        try:
            took_s: float = ray.get(asked, timeout=_CHECK_S)
        except RayTaskError as error:
            if isinstance(error.cause, EcoRayError):
                raise error.cause from None
            raise EcoRayError(f"{name} could not be loaded: {error.cause!r}"[:1000]) from None
        except GetTimeoutError:
            ray.cancel(asked, force=True)
            raise EcoRayError(
                f"{name} was not loaded and tried within {_CHECK_S:g} s; is there room for {deployment.demand}?"
            ) from None
        except RayError as error:
            raise EcoRayError(f"the process that tried {name} ended: {error}"[:1000]) from None
        return took_s

    def answers(self, deployment: Deployment, version: int, *, beside: bool) -> bool:
        """Whether a version tells of itself over HTTP. Raises EcoRayError where shared replicas cannot load it."""
        import httpx

        prefix = beside_route(deployment) if beside else zone_route(deployment.zone) if deployment.zone else ""
        try:
            answer = httpx.get(
                f"{self._base}{prefix}/v2/models/{deployment.model}/versions/{version}/ready", timeout=_ASK_S
            )
        except httpx.HTTPError:
            return False
        if deployment.shared and answer.status_code == 500:
            raise EcoRayError(str(answer.json().get("detail"))[:1000])
        return answer.status_code == 200

    def wake(self, deployment: Deployment) -> None:
        """Have a replica started where there is none: Serve holds a request until one is there."""
        import httpx

        url = f"{self._base}{zone_route(deployment.zone)}/v2/models/{deployment.model}/ready"
        with contextlib.suppress(httpx.HTTPError):  # who still wants it asks again
            httpx.get(url, timeout=_WAKE_S)

    def account(self, app: str, deployment: Deployment, version: int) -> None:
        """Energy of the application's replicas is the version's."""
        try:
            asked = controller_handle().put_model.remote(app, deployment.reference(version), deployment.demand)
            ray.get(asked, timeout=60.0)
        except (RayError, GetTimeoutError) as error:
            raise UnreachableError(f"the controller does not answer: {error}"[:300]) from None

    def rooms(self) -> list[Room]:
        """What each node has, holds and emits now, as far as it can be true."""
        found: list[Room] = ray.get(controller_handle().serving_rooms.remote(), timeout=60.0)
        return [sound(room)[0] for room in found]


class DeployerActor(Deployer):
    """What runs under the name `eco_deployer`; Ray starts it again with the same arguments when it dies."""

    def __init__(self, config: ServingConfig) -> None:
        def resolve(deployment: Deployment) -> int | None:
            try:
                registry = open_registry(deployment.registry, config.state_dir)
                return registry.resolve(f"{deployment.model}@{deployment.follows}")[1]
            except NotFoundError:
                return None

        store = open_store(config.store_url)
        self._access = AccessSource(store, config.limits_file)
        self._access.follow_usage()
        if config.needs_keys:
            find_pepper(config.pepper_file, config.state_dir, make=not store.list_keys())
        serving, clock = RayServing(config), Clock(**(store.get_meta("clock") or {}))
        super().__init__(store, serving, resolve, config)
        facts = RegisteredVersions(lambda url: open_registry(url, config.state_dir))
        decisions = self._decisions
        self._mixer = Mixer(store, self.deployments, facts, serving.rooms, lambda: clock.grid_s(time.time()), decisions)
        self._mixer.follow()
        threading.Thread(target=self._resume_at_last, daemon=True).start()
        self.follow()
        NeedsWatch(self.deployments, serve_replicas, tell_controller).follow()
        cluster = RayCluster(self.deployments, lambda: self._books.is_asked, self.changing)
        self._consolidator = Consolidator(store, cluster, acts=config.drains, decisions=decisions)
        self._consolidator.follow()

    def _resume_at_last(self) -> None:
        while True:
            try:
                self.resume()
            except Exception:  # the controller or Serve may be away: an actor that fails to start is not started again
                log.exception("could not go on yet; trying again")
                time.sleep(2.0)
            else:
                return

    def deploy(self, wanted: Deployment, before: Deployment | None = None) -> dict[str, Any]:
        """As `Deployer` does, if its variant may answer for it."""
        self._mixer.check(wanted)
        return super().deploy(wanted, before)

    def mix(self, report: Report) -> float:
        """Which part of the requests goes from a replica to its variant."""
        return self._mixer.share(report)

    def _row(self, one: Deployment) -> dict[str, Any]:
        return {**super()._row(one), "variant": self._mixer.row(one)}

    def ping(self) -> None:
        """Answers once it is there."""

    def served(self) -> list[dict[str, Any]]:
        """Which versions are served."""
        return [{"model": one.model, "version": one.version, "follows": one.follows} for one in self.deployments()]

    def zone_routes(self, model: str, router: str, counts: dict[str, int], away: tuple[str, ...]) -> Any:
        """Which zones get the requests of a model; `TrafficPlanner.heard`."""
        return self.traffic.heard(model, router, counts, away)

    def access(self) -> Access:
        """What a replica's gate has to know."""
        return self._access.access()

    def audit(self, action: str, object_: str, detail: str) -> None:
        """Write down what happened at a replica."""
        self._store.add_audit([AuditEntry(time.time(), "service", action, object_, detail)])

    def add_avoided(self, rows: list[Avoided]) -> None:
        """Write down what the cache of a replica avoided."""
        self._store.add_avoided(rows)


def deployer(config: ServingConfig) -> Any:
    """The deployer of the connected cluster, started if it is not there."""
    actor = ray.remote(
        num_cpus=0,
        name=DEPLOYER_NAME,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=16,
        resources=ON_HEAD,
    )(DeployerActor)
    handle = actor.remote(config)
    try:
        ray.get(handle.ping.remote(), timeout=120.0)
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, EcoRayError) else error) from None
    except RayError as error:
        raise UnreachableError(f"the deployer could not be started: {error}"[:1000]) from None
    return handle


def deployer_handle() -> Any:
    """The deployer, if it is there. Raises ValueError."""
    return ray.get_actor(DEPLOYER_NAME, namespace=NAMESPACE)


def _check(deployment: Deployment, version: int, state_dir: Path, most_bytes: int | None) -> float:
    """In a worker of the node."""
    if most_bytes is not None and (size := size_bytes(deployment, version, state_dir)) > most_bytes:
        raise UsageError(
            f"{deployment.reference(version)} has {size / 1e6:.0f} MB, limit {most_bytes / 1e6:.0f} MB of all models "
            "that a shared replica has loaded; deploy it without --shared, or raise serve_shared_mb"
        )
    return smoke(load_version(deployment, version, state_dir))
