"""What Ray Serve is told of the deployments: its declarative configuration, as a whole each time.

Told so, Serve keeps replicas whose part of it has not changed; `serve.run` would start all of them anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eco_ray.core.cluster import Resources
from eco_ray.core.deployments import SHARED_DEMAND, Deployment, SharedModel, ongoing_target
from eco_ray.on_ray.haproxy import ROUND_ROBIN
from eco_ray.on_ray.local_cluster import NODE_LABEL, ON_HEAD

REPLICA = "replica"
#: route of the replicas of a canary, which get requests from those of the deployment alone
CANARY = "/canary"
#: application of all shared models; its waiting is charged to it
SHARED = "shared"
#: requests at one replica, working or waiting: the application has its own limits, which answer properly
_ONGOING = 1000
#: Serve's own loop calls the application, whose models compute in it only what takes milliseconds; by default Serve
#: hands each request to another thread and back, which costs as much as a small model
_SERVE_ENV = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}
#: for requests that a replica still works at when it has to go: streams may take 300 s [s]
_GRACE_S = 310.0


def app_name(one: Deployment, *, canary: bool = False) -> str:
    """The name of the Serve application of a deployment, or of its canary; only shared models share one."""
    if one.shared:
        return SHARED
    return f"{'canary' if canary else 'model'}{ROUND_ROBIN if one.round_robin else ''}.{one.model}"


@dataclass(frozen=True)
class ServingConfig:
    """What holds for all models of a cluster."""

    host: str
    port: int
    state_dir: Path
    store_url: str
    #: whether requests need an API key
    needs_keys: bool = False
    #: of API keys; None: in the state directory
    pepper_file: Path | None = None
    limits_file: Path | None = None
    #: of shared models: replicas of all; models that each has loaded at once, and the bytes of their files
    shared_replicas: int = 1
    shared_models: int = 32
    shared_bytes: int = 10**9
    #: whether nodes that come back by themselves are emptied where that saves
    drains: bool = True

    @property
    def base_url(self) -> str:
        """Of the proxy, for a process on its machine."""
        if ":" in self.host and self.host != "::":
            return f"http://[{self.host}]:{self.port}"
        here = self.host if self.host not in ("0.0.0.0", "::", "*") else "127.0.0.1"  # noqa: S104  # compared
        return f"http://{here}:{self.port}"


def serve_config(
    deployments: Iterable[Deployment],
    latency_s: Mapping[str, float],
    config: ServingConfig,
    *,
    router: bool = True,
) -> dict[str, Any]:
    """The whole configuration. `latency_s`: of the smoke request of a version, by name:VERSION.

    `router`: whether what is no model's own is answered, such as the common `/v1`.
    """
    apps: list[dict[str, Any]] = []
    shared = []
    for one in deployments:
        if one.shared:
            shared.append(one)
            continue
        apps.append(_app(one, one.version, latency_s, config, canary=False))
        if one.canary is not None:
            apps.append(_app(one, one.canary, latency_s, config, canary=True))
    if shared:
        apps.append(_shared(shared, config))
    if router:
        apps.append(_router(config))
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": config.host, "port": config.port},
        "applications": apps,
    }


def _app(
    one: Deployment, version: int, latency_s: Mapping[str, float], config: ServingConfig, *, canary: bool
) -> dict[str, Any]:
    told: dict[str, Any] = {"deployment": _of_replicas(one).to_json(), "version": version, **_keys(config)}
    if config.needs_keys:  # rates of tenants are divided by it
        told["replicas"] = max(1, one.min_replicas)
    if not canary:
        told["canary"] = f"{config.base_url}{CANARY}/{one.model}"
    user_config = {"canary_percent": one.canary_percent if one.canary and not canary else 0}
    replicas = {**_replicas(one, latency_s.get(one.reference(version), 0.0), canary), "user_config": user_config}
    return {
        "name": app_name(one, canary=canary),
        "route_prefix": f"{CANARY}/{one.model}" if canary else f"/v2/models/{one.model}",
        "import_path": "eco_ray.on_ray.hosting:model_app",
        "args": told,
        "deployments": [{**_of_all(one.demand, one.nodes), **replicas}],
    }


def _shared(models: Sequence[Deployment], config: ServingConfig) -> dict[str, Any]:
    """The application of all shared models: which ones they are needs no new replicas."""
    told = {"most": config.shared_models, "most_bytes": config.shared_bytes, **_keys(config)}
    if config.needs_keys:
        told["replicas"] = config.shared_replicas
    return {
        "name": SHARED,
        "route_prefix": "/v2/models",  # HAProxy takes the longest: models with replicas of their own keep theirs
        "import_path": "eco_ray.on_ray.shared_host:shared_app",
        "args": told,
        "deployments": [
            {
                **_of_all(SHARED_DEMAND, models[0].nodes),
                "num_replicas": config.shared_replicas,
                "user_config": {"models": [SharedModel.of(one)._asdict() for one in models]},
            }
        ],
    }


def _of_all(demand: Resources, nodes: Sequence[str]) -> dict[str, Any]:
    return {
        "name": REPLICA,
        "max_ongoing_requests": _ONGOING,
        "graceful_shutdown_timeout_s": _GRACE_S,
        "max_surge_percent": 100,  # new ones answer before old ones go
        "ray_actor_options": _options(demand, nodes),
    }


def _router(config: ServingConfig) -> dict[str, Any]:
    told = {"base": config.base_url, "state_dir": str(config.state_dir), **_keys(config)}
    return {
        "name": "router",
        "route_prefix": "/",
        "import_path": "eco_ray.on_ray.router_host:router_app",
        "args": told,
        "deployments": [
            {
                "name": REPLICA,
                "num_replicas": 1,
                "max_ongoing_requests": _ONGOING,
                # beside the proxy: on a worker node it would keep that from being released
                "ray_actor_options": {"num_cpus": 0, "resources": ON_HEAD, **_process()},
            }
        ],
    }


def _keys(config: ServingConfig) -> dict[str, str]:
    return {"pepper_file": str(config.pepper_file or "")} if config.needs_keys else {}


def _of_replicas(one: Deployment) -> Deployment:
    """What replicas have to be started anew for, when it changes."""
    return Deployment(
        one.model,
        0,
        registry=one.registry,
        path=one.path,
        sha256=one.sha256,
        demand=one.demand,
        batch_wait_s=one.batch_wait_s,
        nodes=one.nodes,
    )


def _replicas(one: Deployment, latency_s: float, canary: bool) -> dict[str, Any]:
    if canary:
        return {"num_replicas": 1}
    if one.min_replicas == one.max_replicas:
        return {"num_replicas": one.min_replicas}
    scaling = {
        "min_replicas": one.min_replicas,
        "initial_replicas": max(1, one.min_replicas),
        "max_replicas": one.max_replicas,
        "target_ongoing_requests": ongoing_target(latency_s, one.slo_p95_s),
    }
    return {"autoscaling_config": scaling}


def _options(demand: Resources, nodes: Sequence[str]) -> dict[str, Any]:
    options: dict[str, Any] = {"num_cpus": demand.cpus, "num_gpus": demand.gpus, **_process()}
    if demand.memory_gb:
        options["memory"] = demand.memory_gb * 1e9
    return {**options, **on_nodes(nodes)}


def _process() -> dict[str, Any]:
    """Ray's options for how a replica's process runs."""
    return {"runtime_env": {"env_vars": _SERVE_ENV}}


def on_nodes(nodes: Sequence[str]) -> dict[str, Any]:
    """Ray's options for one of these nodes, the first with room."""
    if not nodes:
        return {}
    first, *others = ({NODE_LABEL: node} for node in nodes)
    return {"label_selector": first, "fallback_strategy": [{"label_selector": other} for other in others]}
