"""What the registry knows of the versions of a pair, read once of each: a version never changes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from eco_ray.core.deployments import Deployment
from eco_ray.core.units import Nature
from eco_ray.core.variant_pair import VersionFacts
from eco_ray.models.manifest import Manifest
from eco_ray.models.registry import Registry


class RegisteredVersions:
    """Facts of versions by their manifests."""

    def __init__(self, open_registry: Callable[[str], Registry]) -> None:
        """`open_registry`: at a URL."""
        self._open = open_registry
        self._known: dict[tuple[str, str], VersionFacts] = {}

    def __call__(self, deployment: Deployment, version: int) -> VersionFacts:
        """Of a version of a deployment. Raises EcoRayError where it is not there or the registry is away."""
        key = deployment.registry, deployment.reference(version)
        if key not in self._known:
            self._known[key] = facts_of(self._open(deployment.registry).manifest(key[1]))
        return self._known[key]


def facts_of(manifest: Manifest) -> VersionFacts:
    """What a manifest tells, as `model push --metric` and `model compress` write it."""
    signature = manifest.signature
    accuracy, drop_points = (_number(manifest, name) for name in ("accuracy", "accuracy_drop_points"))
    parent = manifest.lineage.get("parent")
    nature = Nature.ASSUMED
    with suppress(ValueError):
        nature = Nature(str(manifest.metrics.get("energy_nature", "")))
    return VersionFacts(
        manifest.reference,
        manifest.format,
        (signature.inputs, signature.outputs, signature.labels) if signature else None,
        accuracy,
        parent if isinstance(parent, str) else "",
        None if accuracy is None or drop_points is None else round(accuracy + drop_points / 100, 9),
        _number(manifest, "energy_j"),
        _number(manifest, "energy_j_before"),
        nature,
    )


def _number(manifest: Manifest, name: str) -> float | None:
    told = manifest.metrics.get(name)
    return float(told) if isinstance(told, int | float) and not isinstance(told, bool) else None
