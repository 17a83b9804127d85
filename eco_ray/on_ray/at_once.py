"""A model file behind HTTP at once: no registry, no trial, no deployer. For the demo, soaks and tests."""

from __future__ import annotations

import time
from typing import Any

from eco_ray.core.deployments import Deployment
from eco_ray.errors import UnreachableError
from eco_ray.on_ray.serve_config import ServingConfig, app_name, serve_config


def start_http(port: int) -> None:
    """Start Serve's proxy on loopback."""
    from ray import serve

    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})


def deploy(deployment: Deployment, config: ServingConfig) -> str:
    """Deploy a model and wait until it answers; returns the URL of its infer path."""
    from eco_ray.on_ray.ray_serve import RayServing

    serving = RayServing(config)
    serving.account(app_name(deployment), deployment, deployment.version)
    told = serve_config([deployment], {}, config, router=False)
    for replicas in told["applications"][0]["deployments"]:
        # it is there for minutes: a process that waits already starts seconds sooner than one with its own environment
        replicas["ray_actor_options"].pop("runtime_env", None)
    serving.apply(told)
    base = f"http://{config.host}:{config.port}/v2/models/{deployment.model}"
    _wait_ready(f"{base}/ready")
    return f"{base}/infer"


def shutdown() -> None:
    """End Serve in the connected cluster."""
    from ray import serve

    serve.shutdown()


def _wait_ready(url: str, timeout_s: float = 60.0) -> None:
    import httpx

    deadline = time.monotonic() + timeout_s
    last: Any = None
    while time.monotonic() < deadline:
        try:
            last = httpx.get(url, timeout=2.0).status_code
            if last == 200:
                return
        except httpx.HTTPError as error:
            last = error
        time.sleep(0.1)
    raise UnreachableError(f"the model did not answer at {url} within {timeout_s:g} s (last: {last})")
