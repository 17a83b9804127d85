"""How the numbers of the fleet hold: C = sum of S_i, Scope 2 hour by hour, what making the nodes emitted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eco_ray.core.emissions import market_g
from eco_ray.core.identities import fleet_is_sum_of_servers
from eco_ray.core.ledger import HourlyEnergy, NodeEnergy
from eco_ray.core.ledger_sums import intensity_natures
from eco_ray.core.units import MJ_PER_J, Nature, grams
from eco_ray.report.holds import embodied_of
from eco_ray.report.steps import iso


def fleet_identity(
    jobs: Sequence[Mapping[str, Any]], model_g: float | None, energies: Sequence[NodeEnergy]
) -> dict[str, Any]:
    """C = sum of S_i over R servers: by owner against by server; unknown where a part is."""
    by_owner = {
        "jobs": None if any(job["operational_g"] is None for job in jobs) else sum(j["operational_g"] for j in jobs),
        "models": model_g,
        "unallocated": _total([row.unallocated_g for row in energies]),
    }
    servers = {row.node: row.operational_g for row in energies}
    known_owners = {name: grams for name, grams in by_owner.items() if grams is not None}
    known_servers = {name: grams for name, grams in servers.items() if grams is not None}
    complete = len(known_owners) == len(by_owner) and len(known_servers) == len(servers)
    found = fleet_is_sum_of_servers(known_owners, known_servers) if complete else None
    return {
        "by_owner_g": by_owner,
        "servers_g": servers,
        "servers": len(servers),
        "total_g": found.left if found else None,
        "sum_g": found.right if found else None,
        "gap_rel": found.gap_rel if found else None,
    }


def scope2(hours: Iterable[HourlyEnergy], market: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Purchased electricity hour by hour and zone by zone: location-based, and market-based where a contract is told.

    Both over all energy of the nodes, unallocated energy too, with PUE. A zone without a contract has no market-based
    figure: its residual mix is not known here, and then the total is not either.
    """
    groups: dict[tuple[float, str], list[HourlyEnergy]] = {}
    for row in hours:
        groups.setdefault((row.hour_s, row.zone), []).append(row)
    rows = [_hour(hour_s, zone, groups[hour_s, zone], market.get(zone)) for hour_s, zone in sorted(groups)]
    return {
        "hours": rows,
        "location_g": _total([row["location_g"] for row in rows]),
        "market_g": _total([row["market_g"] for row in rows]) if market else None,
        "market": {zone: {**told, "nature": Nature.ASSUMED.value} for zone, told in market.items()},
    }


def _hour(hour_s: float, zone: str, rows: Sequence[HourlyEnergy], told: Mapping[str, Any] | None) -> dict[str, Any]:
    contract_g = None
    if told is not None:
        intensity = float(told["g_per_kwh"])
        contract_g = sum(market_g(row.energy_mj, intensity, row.pue) for row in rows)
    node_mj: dict[str, int] = {}
    for row in rows:
        node_mj[row.node] = node_mj.get(row.node, 0) + row.energy_mj
    location_g = _total([row.operational_g for row in rows if row.energy_mj])
    grams_at_1 = sum(grams(row.energy_mj, 1.0, row.pue) for row in rows)
    natures = [row.nature for row in rows] + intensity_natures(rows)
    return {
        "hour": iso(hour_s),
        "hour_s": hour_s,
        "zone": zone,
        "energy_j": sum(row.energy_mj for row in rows) / MJ_PER_J,
        "location_g": location_g,
        "market_g": contract_g,
        "intervals_s": [min(row.from_s for row in rows), max(row.to_s for row in rows)],
        "node_j": {node: energy_mj / MJ_PER_J for node, energy_mj in sorted(node_mj.items())},
        "intensity_g_per_kwh": None if location_g is None or grams_at_1 <= 0 else location_g / grams_at_1,
        "nature": Nature.weakest(natures).value,
    }


def embodied_rows(nodes: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What making each node emitted, with source and range; null where the cluster file says nothing."""
    found = []
    for name, node in nodes.items():
        embodied = embodied_of(node)
        row: dict[str, Any] = {"node": name, "kg": None if embodied is None else embodied.kg}
        for key in ("host_kg", "gpus_kg", "min_kg", "max_kg", "mass_g", "lifetime_years", "source"):
            row[key] = None if embodied is None else getattr(embodied, key)
        found.append({**row, "nature": None if embodied is None else embodied.nature.value})
    return found


def _total(values: Sequence[float | None]) -> float | None:
    """The sum, unknown where a part is unknown."""
    known = [value for value in values if value is not None]
    return sum(known, 0.0) if len(known) == len(values) else None
