"""RayJob objects and forecasts, as the tests of the suspend controller need them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.units import Nature

HOUR_S = 3600.0
#: 2026-11-22T00:00:00Z
T0 = 1_795_305_600.0


def stamp(time_s: float) -> str:
    """As Kubernetes writes times."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def a_rayjob(
    name: str = "train",
    *,
    asks: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    suspend: bool | None = None,
    spec: Mapping[str, Any] | None = None,
    status: Mapping[str, Any] | None = None,
    created_s: float = T0,
    **meta: Any,
) -> dict[str, Any]:
    """A RayJob with a cluster of its own; `asks` are annotations without their prefix."""
    marks = {f"eco-ray.io/{key}": value for key, value in (asks or {}).items()}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-of-{name}",
            "resourceVersion": "7",
            "creationTimestamp": stamp(created_s),
            "annotations": {**marks, **(annotations or {})},
            "labels": dict(labels or {}),
            **meta,
        },
        "spec": {
            "entrypoint": "python train.py",
            "shutdownAfterJobFinishes": True,
            "rayClusterSpec": {"headGroupSpec": {"template": {"spec": {"containers": [{"image": "ray"}]}}}},
            **({} if suspend is None else {"suspend": suspend}),
            **(spec or {}),
        },
        **({"status": dict(status)} if status else {}),
    }


def merged(body: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """JSON merge patch (RFC 7386)."""
    result = dict(body)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            inner = result.get(key)
            result[key] = merged(inner if isinstance(inner, Mapping) else {}, value)
        else:
            result[key] = value
    return result


def hourly(values: Sequence[float], zone: str = "DE", start_s: float = T0) -> IntensitySeries:
    """A forecast that holds each value for an hour [g/kWh]."""
    return IntensitySeries(
        zone, start_s, HOUR_S, np.array(values, dtype=float), SignalKind.AVERAGE_LIFECYCLE, "a test", Nature.ASSUMED
    )
