"""The files of a version on the node that serves it, pulled once and checked by their digest."""

from __future__ import annotations

import tempfile
from pathlib import Path

from eco_ray.config import load_settings
from eco_ray.core.deployments import Deployment
from eco_ray.core.ports import Runtime
from eco_ray.errors import NotFoundError
from eco_ray.models.registry import Registry
from eco_ray.on_ray.replica_gpus import choose_device
from eco_ray.open_registry import registry_at


def open_registry(url: str, state_dir: Path) -> Registry:
    """The registry at a URL, with the key and the cache that this node's settings name."""
    return registry_at(url, load_settings({"state_dir": str(state_dir)}), by="eco_ray")


def size_bytes(deployment: Deployment, version: int, state_dir: Path) -> int:
    """Of the files of a version. Raises EcoRayError."""
    if deployment.path:
        path = _local(deployment)
        return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
    manifest = open_registry(deployment.registry, state_dir).manifest(deployment.reference(version))
    return manifest.size + sum(one.size for one in manifest.extras)


def load_version(deployment: Deployment, version: int, state_dir: Path) -> Runtime:
    """A version, ready to answer on the device that this process holds. Raises EcoRayError."""
    # torch takes seconds and 200 MB: those who only name a version, as deployer and router do, need none of it
    from eco_ray.models.runtimes.load import load_runtime

    where = choose_device(deployment.demand)._asdict()
    if deployment.path:
        return load_runtime(_local(deployment), deployment.model, version, **where)
    registry = open_registry(deployment.registry, state_dir)
    manifest = registry.manifest(deployment.reference(version))
    # removed after loading: torch and onnxruntime have the weights in memory then
    with tempfile.TemporaryDirectory(prefix="eco_ray-served-") as folder:
        suffix = "" if manifest.main else f".{manifest.format}"
        target = Path(folder) / f"model{suffix}"
        registry.pull(manifest.reference, target)
        return load_runtime(
            target,
            deployment.model,
            version,
            format=manifest.format,
            signature=manifest.signature,
            main=manifest.main,
            **where,
        )


def _local(deployment: Deployment) -> Path:
    path = Path(deployment.path)
    if not path.exists():
        raise NotFoundError(f"no model at {path} on this node; put it there, or push it to a registry")
    return path
