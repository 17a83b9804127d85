"""`eco-ray ledger query | verify`: the energy ledger."""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import Any

import click

from eco_ray.cli.options import common_options
from eco_ray.cli.output import emit
from eco_ray.config import Settings
from eco_ray.core.units import Nature, grams


@click.group()
def ledger() -> None:
    """Energy and carbon that were accounted."""


@ledger.command()
@click.option("--by", type=click.Choice(["job", "model", "zone", "node"]), default="job", show_default=True)
@common_options
def query(by: str, settings: Settings) -> None:
    """Attributed energy and operational carbon, summed."""
    from eco_ray.store import open_store

    store = open_store(settings.store_url, create=False)
    sums: dict[str, dict[str, Any]] = defaultdict(lambda: {"mj": 0, "g": 0.0, "natures": []})
    for row in store.owner_intervals(by if by in ("job", "model") else None):
        entry = sums[{"job": row.owner_id, "model": row.owner_id, "zone": row.zone, "node": row.node}[by]]
        entry["mj"] += row.energy_mj
        known = row.intensity_g_per_kwh is not None and entry["g"] is not None
        entry["g"] = entry["g"] + grams(row.energy_mj, row.intensity_g_per_kwh or 0.0, row.pue) if known else None
        entry["natures"].append(row.nature)
    rows = [
        {
            by: key,
            "energy_j": entry["mj"] / 1000,
            "operational_g": entry["g"],
            "nature": str(Nature.weakest(list(set(entry["natures"])))),
        }
        for key, entry in sorted(sums.items())
    ]
    emit(settings, rows, rows, "the ledger is empty")


@ledger.command()
@common_options
def verify(settings: Settings) -> None:
    """Check that every interval's parts sum to its whole; exit code 1 if one does not."""
    from eco_ray.store import open_store

    store = open_store(settings.store_url, create=False)
    check = store.check_ledger()
    document = {
        "rows": check.rows,
        "ok": not check.broken,
        "residual_mj": check.residual_mj,
        "broken": list(check.broken),
    }
    emit(settings, document)
    sys.exit(0 if document["ok"] else 1)
