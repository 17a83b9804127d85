"""How many replicas of each served model, where and why, and what other numbers would emit: from the store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from eco_ray.config import Settings
from eco_ray.errors import EcoRayError

#: of all rows, what the deployment is
_KEYS = ("model", "version", "follows", "registry")


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
        mixes: Mapping[str, Mapping[str, Any]] = store.get_meta("variant_mixes") or {}
        traffic: Mapping[str, Mapping[str, Any]] = store.get_meta("zone_traffic") or {}
    told = [(one, scaling.get(one["model"])) for one in sorted(deployed, key=lambda one: str(one["model"]))]
    rows = [
        {**{key: one[key] for key in _KEYS}, **row, "capacity": _capacity(traffic.get(one["model"]))}
        for one, row in told
        if row is not None
    ]
    return [_with_requests(row, mixes.get(row["model"]), traffic.get(row["model"])) for row in rows]


def served_as(rows: Iterable[Mapping[str, Any]], model: str, version: int, registry: str) -> dict[str, Any] | None:
    """The row of a version, be it a canary or a variant; None: it is not served."""
    for row in rows:
        if (row["model"], row["registry"]) != (model, registry):
            continue
        if row["version"] == version:
            return dict(row)
        if (beside := row.get("beside")) and beside["version"] == version:
            return {**{key: row[key] for key in _KEYS}, **beside}
    return None


def _capacity(traffic: Mapping[str, Any] | None) -> dict[str, Any]:
    """Of each zone of a model that is served per zone: how many requests it can answer, and how that is known."""
    return {
        zone: {"requests_per_s": one["capacity_per_s"], "nature": one.get("capacity_nature")}
        for zone, one in (traffic or {}).get("zones", {}).items()
    }


def in_words(row: Mapping[str, Any]) -> str:
    """2 replicas (fr-1: 2) at 12:00: WHY; replicas would add 0: 0 g/h, 1: 3 g/h"""
    count = row["replicas"]
    where = ", ".join(f"{node}: {there}" for node, there in row["nodes"].items())
    words = f"{count} replica{'s' * (count != 1)}" + (f" ({where})" if where else "")
    if row["running"] != count:
        words += f", {row['running']} of them running"
    words += f" at {row['at']}: {row['why']}{_others(row)}"
    words += "".join(f"; in {zone}{_others(one, '')}" for zone, one in row.get("zones", {}).items() if _others(one))
    words += _able(row)
    if requests := row.get("requests"):
        words += f"; requests: {requests['why']}{_at_home(requests)}"
    if beside := row.get("beside"):
        words += f"; {beside['kind']} {row['model']}:{beside['version']}: {in_words(beside)}"
    return words


def _with_requests(
    row: dict[str, Any], mix: Mapping[str, Any] | None, traffic: Mapping[str, Any] | None
) -> dict[str, Any]:
    """With the reason of the split of its requests, between zones or between a model and its variant."""
    beside = row.get("beside")
    if "zones" in row and traffic:
        return {**row, "requests": {key: traffic[key] for key in ("why", "grams_per_h", "home_grams_per_h")}}
    if beside and beside["kind"] == "variant" and mix and mix["variant"] == beside["version"]:
        return {**row, "beside": {**beside, "requests": {"why": mix["why"], "percent": 100 * mix["share"]}}}
    return row


def _others(row: Mapping[str, Any], before: str = "; ") -> str:
    """What other numbers of replicas would add; empty: nobody knows, or it is told for each zone."""
    told = [f"{one['replicas']}: {_grams(one['grams_per_h'])}" for one in row["alternatives"]]
    return f"{before or ' '}replicas would add {', '.join(told)}" if told else ""


def _at_home(requests: Mapping[str, Any]) -> str:
    """What requests add where they go, and what they would where they come from."""
    if "grams_per_h" not in requests:
        return ""
    now, home = _grams(requests["grams_per_h"]), _grams(requests["home_grams_per_h"])
    return f"; they add {now}, and would add {home} where they come from"


def _able(row: Mapping[str, Any]) -> str:
    """How many requests zones can answer; empty: it is not served per zone."""
    zones = [
        f"{zone} {one['requests_per_s']:.3g} ({one['nature'] or 'unknown'})"
        for zone, one in row.get("capacity", {}).items()
    ]
    return f"; requests/s that zones can answer: {', '.join(zones)}" if zones else ""


def _grams(grams_per_h: float | None) -> str:
    return "unknown" if grams_per_h is None else f"{grams_per_h:.3g} g/h"
