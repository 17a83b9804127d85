"""What Ray Serve is told of the deployments: its declarative configuration, as a whole each time.

Told so, Serve keeps replicas whose part of it has not changed; `serve.run` would start all of them anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eco_ray.core.cluster import Resources
from eco_ray.core.deployments import SHARED_DEMAND, Deployment, SharedModel, ongoing_target
from eco_ray.on_ray.haproxy import ROUND_ROBIN
from eco_ray.on_ray.local_cluster import NODE_LABEL, ON_HEAD
from eco_ray.service.zones import zone_route

REPLICA = "replica"
#: route of the replicas of a canary, which get requests from those of the deployment alone
CANARY = "/canary"
#: route of those of a smaller variant
VARIANT = "/variant"
#: application of all shared models; its waiting is charged to it
SHARED = "shared"
#: requests at one replica, working or waiting: the application has its own limits, which answer properly
_ONGOING = 1000
#: Serve's own loop calls the application, whose models compute in it only what takes milliseconds; by default Serve
#: hands each request to another thread and back, which costs as much as a small model
_SERVE_ENV = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}
_POLICY = "eco_ray.on_ray.serving.policy:GreenPolicy"
#: the policy hears of requests within a second, smooths and waits by itself, and Serve does as it says
_AT_ONCE = {
    "metrics_interval_s": 1.0,
    "look_back_period_s": 2.0,
    "upscale_delay_s": 0.0,
    "downscale_delay_s": 0.0,
    "downscale_to_zero_delay_s": 0.0,
}
#: for requests that a replica still works at when it has to go: streams may take 300 s [s]
_GRACE_S = 310.0


def app_name(one: Deployment, *, beside: bool = False) -> str:
    """The name of the Serve application of a deployment, or of the version beside it; only shared models share one.

    Of one that is served per zone, that of its router.
    """
    if one.shared:
        return SHARED
    if one.per_zone:
        return f"zones.{one.model}"
    turn = ROUND_ROBIN if one.round_robin else ""
    if one.zone:  # dots are allowed in both names
        return f"zone{turn}.{one.zone.replace('.', '..')}.{one.model}"
    kind = _route(one).removeprefix("/") if beside else "model"
    return f"{kind}{turn}.{one.model}"


def beside_route(one: Deployment) -> str:
    """Before the paths of the version beside the one that is served."""
    return f"{_route(one)}/{one.model}"


def _route(one: Deployment) -> str:
    return VARIANT if one.variant is not None else CANARY


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
    #: fewer replicas were enough for so long before some end [s]
    down_hold_s: float = 60.0
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
        apps += (_app(part, one.version, latency_s, config, beside=False) for part in one.in_zones())
        if one.per_zone:
            apps.append(_zones(one, config))
        if one.beside is not None:
            apps.append(_app(one, one.beside, latency_s, config, beside=True))
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
    one: Deployment, version: int, latency_s: Mapping[str, float], config: ServingConfig, *, beside: bool
) -> dict[str, Any]:
    told: dict[str, Any] = {"deployment": _of_replicas(one).to_json(), "version": version, **_keys(config)}
    if config.needs_keys:  # rates of tenants are divided by it
        told["replicas"] = max(1, one.min_replicas)
    if beside:
        told["beside"] = beside_route(one)
    elif not one.zone:
        told["base"] = config.base_url
    live = one if not beside else replace(one, canary=None, variant=None)
    user_config = {
        "canary": live.canary,
        "canary_percent": one.canary_percent if live.canary is not None else 0,
        "variant": live.variant,
    }
    part = one.beside_part if beside else one
    replicas = {
        **_replicas(part or one, latency_s.get(one.reference(version), 0.0), config),
        "user_config": user_config,
    }
    before = beside_route(one) if beside else f"{zone_route(one.zone) if one.zone else ''}/v2/models/{one.model}"
    return {
        "name": app_name(one, beside=beside),
        "route_prefix": before,
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


def _zones(one: Deployment, config: ServingConfig) -> dict[str, Any]:
    """The application at the address of a model that is served per zone; which zones these are needs no new replica."""
    return {
        "name": app_name(one),
        "route_prefix": f"/v2/models/{one.model}",
        "import_path": "eco_ray.on_ray.serving.zone_host:zones_app",
        "args": {"model": one.model, **_of_router(config)},
        "deployments": [
            {
                **_of_all(Resources(), ()),
                "num_replicas": 1,
                # where HAProxy is: a zone that is away takes no router along
                "ray_actor_options": {"num_cpus": 0, "resources": ON_HEAD, **process()},
                "user_config": {"zones": [part.zone for part in one.parts]},
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
    return {
        "name": "router",
        "route_prefix": "/",
        "import_path": "eco_ray.on_ray.router_host:router_app",
        "args": _of_router(config),
        "deployments": [
            {
                "name": REPLICA,
                "num_replicas": 1,
                "max_ongoing_requests": _ONGOING,
                # beside the proxy: on a worker node it would keep that from being released
                "ray_actor_options": {"num_cpus": 0, "resources": ON_HEAD, **process()},
            }
        ],
    }


def _of_router(config: ServingConfig) -> dict[str, str]:
    return {"base": config.base_url, "state_dir": str(config.state_dir), **_keys(config)}


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
        zone=one.zone,
        nodes=one.nodes,
    )


def _replicas(one: Deployment, latency_s: float, config: ServingConfig) -> dict[str, Any]:
    least, most = one.min_replicas, one.max_replicas
    if least == most:
        return {"num_replicas": least}
    told = {
        "reference": one.reference(one.version),
        "service_s": latency_s,
        "slo_p95_s": one.slo_p95_s,
        "steady": {"down_hold_s": config.down_hold_s},
    }
    scaling = {
        "min_replicas": least,
        "initial_replicas": min(max(1, least, one.initial_replicas), most),
        "max_replicas": most,
        "target_ongoing_requests": ongoing_target(latency_s, one.slo_p95_s),  # for Serve's own gauges
        "policy": {"policy_function": _POLICY, "policy_kwargs": told},
        **_AT_ONCE,
    }
    return {"autoscaling_config": scaling}


def _options(demand: Resources, nodes: Sequence[str]) -> dict[str, Any]:
    options: dict[str, Any] = {"num_cpus": demand.cpus, "num_gpus": demand.gpus, **process()}
    if demand.memory_gb:
        options["memory"] = demand.memory_gb * 1e9
    return {**options, **on_nodes(nodes)}


def process() -> dict[str, Any]:
    """Ray's options for how a replica's process runs."""
    return {"runtime_env": {"env_vars": _SERVE_ENV}}


def on_nodes(nodes: Sequence[str]) -> dict[str, Any]:
    """Ray's options for one of these nodes, the first with room.

    A single one is its own fallback: Serve (2.60) would make the application ready there, and keep what came of it in
    the node's object store for good, so that Ray would never end it.
    """
    if not nodes:
        return {}
    first, *others = ({NODE_LABEL: node} for node in nodes)
    return {"label_selector": first, "fallback_strategy": [{"label_selector": other} for other in others or [first]]}
