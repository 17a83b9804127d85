"""The ledger for other programs: CodeCarbon's CSV, and JSON with which chain and sums can be redone."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TextIO

from eco_ray.core.ledger import HourlyEnergy
from eco_ray.core.store_port import Store
from eco_ray.core.units import MJ_PER_KWH, Nature

FORMAT = "eco-ray-ledger-3"

#: columns of emissions.csv as CodeCarbon 3.3 writes them, in its order
CODECARBON = (
    *("timestamp", "project_name", "run_id", "experiment_id", "duration", "emissions", "emissions_rate"),
    *("cpu_power", "gpu_power", "ram_power", "cpu_energy", "gpu_energy", "ram_energy", "energy_consumed"),
    *("water_consumed", "country_name", "country_iso_code", "region", "cloud_provider", "cloud_region", "os"),
    *("python_version", "codecarbon_version", "cpu_count", "cpu_model", "gpu_count", "gpu_model", "longitude"),
    *("latitude", "ram_total_size", "tracking_mode", "cpu_utilization_percent", "gpu_utilization_percent"),
    *("ram_utilization_percent", "ram_used_gb", "on_cloud", "pue", "wue"),
)


#: after CodeCarbon's: how the energy is known, by which meters or models, and what kind of intensity `emissions` is by
OWN = ("nature", "source", "intensity_kind")
UNALLOCATED = "unallocated"

#: owner_kind, owner_id, attempt, zone, kind of intensity, is it unknown
_Group = tuple[str, str, int, str, str, bool]


def export_csv(store: Store, file: TextIO, start_s: float | None = None, end_s: float | None = None) -> int:
    """Rows by attempt of a job or by model, zone and kind of intensity, and what nobody used; returns how many.

    Their energies sum to the nodes'. What is not known is empty: intervals of unknown intensity have rows of their own.
    Made from sums by hour, so that no more than those are in memory.
    """
    groups: dict[_Group, list[HourlyEnergy]] = {}
    for row in store.hourly(start_s, end_s):
        key = (row.owner_kind, row.owner_id, row.attempt, row.zone, row.intensity_kind, row.operational_g is None)
        groups.setdefault(key, []).append(row)
    names = {job.id: job.name for job in store.list_jobs()}
    writer = csv.DictWriter(file, CODECARBON + OWN, restval="")
    writer.writeheader()
    for (kind, owner, attempt, zone, signal, _), rows in sorted(groups.items()):
        owner_id = owner if kind else UNALLOCATED
        run_id = f"{owner_id}-a{attempt}" if kind == "job" and attempt else owner_id
        told = {"project_name": names.get(owner_id, owner_id), "run_id": run_id, "experiment_id": owner_id}
        writer.writerow({**_figures(rows), **told, "region": zone, "intensity_kind": signal})
    return len(groups)


def _figures(rows: Sequence[HourlyEnergy]) -> dict[str, str | float]:
    """Time, energy and carbon in CodeCarbon's units, s, kWh and kg; the energy is without PUE, the carbon with it."""
    end_s = max(row.last_s for row in rows)
    duration_s = end_s - min(row.first_s for row in rows)
    energy_mj = sum(row.energy_mj for row in rows)
    figures: dict[str, str | float] = {
        "timestamp": datetime.fromtimestamp(end_s, UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        "duration": duration_s,
        "energy_consumed": energy_mj / MJ_PER_KWH,
        "pue": sum(row.pue * row.energy_mj for row in rows) / energy_mj if energy_mj else rows[0].pue,
        "nature": Nature.weakest([row.nature for row in rows]).value,
        "source": "; ".join(sorted({row.source for row in rows})),
    }
    known = [row.operational_g for row in rows if row.operational_g is not None]
    if len(known) == len(rows):
        kg = sum(known) / 1000
        figures |= {"emissions": kg, "emissions_rate": kg / duration_s}
    return figures


def export_json(store: Store, file: TextIO, start_s: float | None = None, end_s: float | None = None) -> int:
    """The part of the chain that holds the span, an entry a line, nothing of it in memory; returns how many entries."""
    entries = iter(store.ledger_entries(start_s, end_s))
    previous = last = next(entries)["previous"]
    file.write(f'{{"format": "{FORMAT}", "previous": "{previous}", "entries": [')
    count = 0
    for entry in entries:
        file.write(("," if count else "") + "\n" + json.dumps(entry))
        count, last = count + 1, entry["hash"]
    file.write(f'\n], "count": {count}, "last": "{last}"}}\n')
    return count
