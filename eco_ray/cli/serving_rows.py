"""How many replicas of each served model, where and why, and what other numbers would emit: from the store."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from eco_ray.config import Settings
from eco_ray.errors import EcoRayError


def serving_rows(settings: Settings) -> list[dict[str, Any]]:
    """As the deployer wrote it down last; nothing where no model was ever deployed."""
    from eco_ray.store import open_store

    try:
        store = open_store(settings.store_url, create=False)
    except EcoRayError:  # there was never a cluster
        return []
    with contextlib.closing(store):
        deployed = store.get_meta("deployments") or []
        scaling: Mapping[str, Mapping[str, Any]] = store.get_meta("deployments_scaling") or {}
        traffic: Mapping[str, Mapping[str, Any]] = store.get_meta("zone_traffic") or {}
    keys = ("model", "version", "follows", "registry")
    told = [(one, scaling.get(one["model"])) for one in sorted(deployed, key=lambda one: str(one["model"]))]
    return [
        {**{key: one[key] for key in keys}, **row, "capacity": _capacity(traffic.get(one["model"]))}
        for one, row in told
        if row is not None
    ]


def _capacity(traffic: Mapping[str, Any] | None) -> dict[str, Any]:
    """Of each zone of a model that is served per zone: how many requests it can answer, and how that is known."""
    return {
        zone: {"requests_per_s": one["capacity_per_s"], "nature": one.get("capacity_nature")}
        for zone, one in (traffic["zones"] if traffic else {}).items()
    }


def in_words(row: Mapping[str, Any]) -> str:
    """2 replicas (fr-1: 2) at 12:00: WHY; would emit: 0: 0 g/h, 1: 3 g/h"""
    count = row["replicas"]
    where = ", ".join(f"{node}: {there}" for node, there in row["nodes"].items())
    words = f"{count} replica{'s' * (count != 1)}" + (f" ({where})" if where else "")
    if row["running"] != count:
        words += f", {row['running']} of them running"
    words += f" at {row['at']}: {row['why']}"
    told = [f"{one['replicas']}: {_grams(one['grams_per_h'])}" for one in row["alternatives"]]
    words += f"; replicas would add {', '.join(told)}" if told else ""
    zones = [
        f"{zone} {one['requests_per_s']:.3g} ({one['nature'] or 'unknown'})"
        for zone, one in row.get("capacity", {}).items()
    ]
    return words + (f"; requests/s that zones can answer: {', '.join(zones)}" if zones else "")


def _grams(grams_per_h: float | None) -> str:
    return "unknown" if grams_per_h is None else f"{grams_per_h:.3g} g/h"
