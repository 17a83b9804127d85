"""What each served model used: per request, by tenant, by replica, and what its reservation carries of its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eco_ray.core.cluster import Resources
from eco_ray.core.ledger import OwnerInterval
from eco_ray.core.units import MJ_PER_J, Nature, grams
from eco_ray.report.holds import embodied_nature, held
from eco_ray.report.jobs import Setting
from eco_ray.report.redo import total
from eco_ray.report.steps import merged


def model_rows(
    owned: Mapping[tuple[str, str], Sequence[OwnerInterval]],
    demands: Mapping[str, Mapping[str, Any]],
    items: Mapping[str, str],
    setting: Setting,
) -> list[dict[str, Any]]:
    """A row for each model of the ledger. `demands`, `items`: what Ray holds for a replica, what items are."""
    return [
        _row(name, rows, demands.get(name), setting, items.get(name))
        for (kind, name), rows in owned.items()
        if kind == "model"
    ]


def _row(
    name: str, rows: Sequence[OwnerInterval], demand: Mapping[str, Any] | None, setting: Setting, items: str | None
) -> dict[str, Any]:
    answered = [row for row in rows if row.requests]
    waited = [row for row in rows if row.requests == 0]
    unreported = [row for row in rows if row.requests is None]
    counted = len(unreported) < len(rows)
    natures = [setting.zone_natures[row.zone] for row in rows if row.zone in setting.zone_natures]
    nature = Nature.weakest([row.nature for row in rows])
    carried = list(_carried(rows, demand, setting))
    return {
        "id": name,
        **_figures(rows),
        "nature": nature.value,
        "carbon_nature": Nature.weakest([nature, *natures]).value,
        **_per_request(rows, counted),
        "items_are": items,
        "waiting_j": _joules(waited),
        "waiting_g": grams_of(waited),
        "unreported_j": _joules(unreported),
        "unreported_g": grams_of(unreported),
        "tenants": [
            {"tenant": tenant, **_figures(part), "nature": _nature(part), **_per_request(part, True)}
            for tenant in sorted({row.tenant for row in answered})
            for part in ([row for row in answered if row.tenant == tenant],)
        ],
        "replicas": carried,
        "embodied_g": total([row["embodied_g"] for row in carried]),
        "embodied_nature": embodied_nature(setting.nodes, sorted({row.node for row in rows})),
    }


def _carried(
    rows: Sequence[OwnerInterval], demand: Mapping[str, Any] | None, setting: Setting
) -> Iterable[dict[str, Any]]:
    """Each replica on each node, with the energy that it was charged and what it carries of the node meanwhile."""
    holds = None if demand is None else Resources(float(demand["num_cpus"]), float(demand.get("num_gpus", 0.0)))
    for node, replica in sorted({(row.node, row.part) for row in rows}):
        part = [row for row in rows if (row.node, row.part) == (node, replica)]
        spans = merged([(row.start_s, row.end_s) for row in part])
        seconds = sum(end_s - start_s for start_s, end_s in spans)
        yield {
            "node": node,
            "replica": replica,
            **_figures(part),
            "metered_spans_s": spans,
            **held(setting.nodes.get(node, {}), seconds, holds),
        }


def _figures(rows: Sequence[OwnerInterval]) -> dict[str, Any]:
    return {"energy_j": _joules(rows), "operational_g": grams_of(rows)}


def _per_request(rows: Sequence[OwnerInterval], counted: bool) -> dict[str, Any]:
    """Requests, and energy and grams of each; unknown where no replica counts them."""
    requests = sum(row.requests or 0 for row in rows) if counted else None
    items = sum(row.items or 0 for row in rows) if counted else None
    grams_g = grams_of(rows)
    return {
        "requests": requests,
        "items": items,
        "j_per_request": _joules(rows) / requests if requests else None,
        "g_per_request": grams_g / requests if requests and grams_g is not None else None,
    }


def _nature(rows: Sequence[OwnerInterval]) -> str:
    return Nature.weakest([row.nature for row in rows]).value


def _joules(rows: Sequence[OwnerInterval]) -> float:
    return sum(row.energy_mj for row in rows) / MJ_PER_J


def grams_of(rows: Sequence[OwnerInterval]) -> float | None:
    """Operational carbon [g] of shares; None where an intensity is unknown."""
    return total(
        [
            None if row.intensity_g_per_kwh is None else grams(row.energy_mj, row.intensity_g_per_kwh, row.pue)
            for row in rows
            if row.energy_mj
        ]
    )
