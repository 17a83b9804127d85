"""report.json: everything a reader needs to redo the arithmetic, made from the store alone.

The keys of the contract (architecture.md, 'Machine contracts') are all here; every other key is an addition.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from eco_ray import __version__
from eco_ray.core.ledger import HourlyEnergy, NodeEnergy, Overlap, OwnerInterval
from eco_ray.core.store_port import Store
from eco_ray.core.units import MJ_PER_J, Nature
from eco_ray.report.fleet import embodied_rows, fleet_identity, scope2
from eco_ray.report.holds import ai_act_rows, sci_rows
from eco_ray.report.jobs import Setting, job_doc, ray_job_doc
from eco_ray.report.models import grams_of, model_rows
from eco_ray.report.steps import Steps, iso
from eco_ray.report.words import CARBON, ENERGY, GAP, Scale, duration

#: how much of the series is shown while there is no job [s]
EMPTY_SPAN_S = 86_400.0
TIMES = "\N{MULTIPLICATION SIGN}"


def build_report(store: Store, now_s: float) -> dict[str, Any]:
    """The document of report.json at a grid time [s since epoch]."""
    cluster = store.get_meta("cluster") or {}
    speed = float((store.get_meta("clock") or {}).get("speed", 1.0))
    nodes = {str(row["name"]): row for row in cluster.get("nodes", [])}
    home_zone = cluster.get("home_zone")
    at_home = [row for row in nodes.values() if row.get("zone") == home_zone]
    sources = {str(row["zone"]): row for row in store.signal_sources()}
    energies, hours, intervals = store.ledger_at_once()
    steps = _steps(store, home_zone, nodes, energies, sources)
    setting = Setting(
        now_s=now_s,
        home_zone=home_zone,
        home_pue=float(at_home[0].get("pue", 1.0)) if at_home else 1.0,
        home_steps=steps.get(home_zone) if home_zone else None,
        steps=steps,
        nodes=nodes,
        zone_natures={zone: Nature(row["nature"]) for zone, row in sources.items()},
    )
    owned = _by_owner(intervals)
    jobs = _jobs(store, owned, setting)
    totals = _totals(energies, jobs, owned)
    models = model_rows(owned, _demands(store), _items(store), setting)
    model = _model(store.get_meta("model"), models)
    pue = {name: float(row.get("pue", 1.0)) for name, row in nodes.items()}
    start_s, end_s = _span(jobs, now_s)
    overlaps = store.overlaps()
    cut = {zone: series.cut(start_s, end_s) for zone, series in steps.items()}
    return {
        "clock_speed": speed,
        "home_zone": home_zone,
        "series": {
            zone: [[iso(t), v] for t, v in zip(part.times_s, part.values_g_per_kwh, strict=True)]
            for zone, part in cut.items()
        },
        "jobs": jobs,
        "totals": totals,
        "residual_mj": store.check_ledger().residual_mj,
        "sources": [_source(row, now_s, hours) for row in sources.values()],
        "model": model,
        "notes": [
            *_notes(speed, home_zone, bool(at_home), setting.home_pue),
            *_mixed(hours),
            *_avoided(store),
            *map(str, overlaps),
        ],
        "cluster": cluster.get("name"),
        "generated": iso(now_s),
        "version": __version__,
        "home_pue": setting.home_pue,
        "pue": pue,
        "step_s": {zone: part.step_s for zone, part in cut.items()},
        "nodes": _nodes(energies, hours),
        "models": models,
        "overlaps": [_overlap(found) for found in overlaps],
        "unknown": _unknown(jobs, home_zone),
        "embodied": embodied_rows(nodes),
        "fleet_identity": fleet_identity(jobs, totals["model_g"], energies),
        "sci": sci_rows(jobs, models),
        "ai_act": ai_act_rows(jobs),
        "scope2": scope2(hours, cluster.get("market") or {}),
    }


def _steps(
    store: Store,
    home_zone: str | None,
    nodes: Mapping[str, Mapping[str, Any]],
    energies: Sequence[NodeEnergy],
    sources: Mapping[str, Mapping[str, Any]],
) -> dict[str, Steps]:
    """The kept intensity of every zone that the cluster or the ledger knows, the home zone first."""
    zones = [home_zone] if home_zone else []
    zones += [str(row["zone"]) for row in nodes.values() if row.get("zone")]
    zones += [row.zone for row in energies] + list(sources)
    return {
        zone: Steps.of(store.series(zone), sources[zone].get("step_s") if zone in sources else None)
        for zone in dict.fromkeys(zones)
    }


def _by_owner(rows: Sequence[OwnerInterval]) -> dict[tuple[str, str], list[OwnerInterval]]:
    """Ledger shares by (kind, id) of their owner."""
    owned: dict[tuple[str, str], list[OwnerInterval]] = {}
    for row in rows:
        owned.setdefault((row.owner_kind, row.owner_id), []).append(row)
    return owned


def _jobs(store: Store, owned: Mapping[tuple[str, str], list[OwnerInterval]], setting: Setting) -> list[dict[str, Any]]:
    """Submitted jobs and plain Ray jobs, in order of submission."""
    known = store.load_jobs()
    docs = [job_doc(job, owned.get(("job", job.id), []), setting) for job in known]
    ids = {job.id for job in known}
    told: Mapping[str, Mapping[str, Any]] = store.get_meta("ray_jobs") or {}
    plain = dict.fromkeys([owner_id for kind, owner_id in owned if kind == "job"] + list(told))
    docs += [
        ray_job_doc(owner_id, told.get(owner_id, {}), owned.get(("job", owner_id), []), setting)
        for owner_id in plain
        if owner_id not in ids
    ]
    return sorted(docs, key=lambda doc: (doc["submitted_s"], doc["id"]))


def _totals(
    energies: Sequence[NodeEnergy],
    jobs: Sequence[Mapping[str, Any]],
    owned: Mapping[tuple[str, str], list[OwnerInterval]],
) -> dict[str, Any]:
    """Sums. Carbon sums run over the jobs whose carbon is known; `unknown` lists the others."""
    attributed_j = sum(row.attributed_mj for row in energies) / MJ_PER_J
    unallocated_j = sum(row.unallocated_mj for row in energies) / MJ_PER_J
    models = [row for (kind, _), rows in owned.items() if kind == "model" for row in rows]
    return {
        "node_energy_j": attributed_j + unallocated_j,  # so that the sum holds to the last bit of the floats
        "attributed_j": attributed_j,
        "unallocated_j": unallocated_j,
        "operational_g": sum((job["operational_g"] or 0.0 for job in jobs), 0.0),
        "baseline_g": sum((job["baseline_g"] or 0.0 for job in jobs), 0.0),
        "saved_g": sum((job["saved_g"] or 0.0 for job in jobs), 0.0),
        "model_j": sum(row.energy_mj for row in models) / MJ_PER_J,
        "model_g": grams_of(models),
        "unallocated_g": _sum_known([row.unallocated_g for row in energies]),
        "node_g": _sum_known([row.operational_g for row in energies]),
    }


def _sum_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known, 0.0) if len(known) == len(values) else None


def _demands(store: Store) -> dict[str, Mapping[str, Any]]:
    """What Ray holds for a replica of each model, as far as it was told."""
    told = store.get_meta("model")
    of_model = {f"{told['name']}:{told['version']}": told} if told and told.get("num_cpus") is not None else {}
    return {**of_model, **(store.get_meta("model_demands") or {})}


def _items(store: Store) -> dict[str, str]:
    """What the items that a model's requests ask for are, as far as it was told: image, token."""
    told = store.get_meta("model")
    return {f"{told['name']}:{told['version']}": str(told["items"])} if told and told.get("items") else {}


def _model(told: Mapping[str, Any] | None, models: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The served model with the energy that the ledger charged to `name:version`, and what it carried meanwhile."""
    if told is None:
        return None
    row = next((row for row in models if row["id"] == f"{told['name']}:{told['version']}"), None)
    found: Mapping[str, Any] = row or {"energy_j": 0.0, "operational_g": 0.0, "embodied_g": 0.0, "replicas": []}
    keys = ("energy_j", "operational_g", "nature", "carbon_nature", "embodied_g", "embodied_nature")
    return {
        **{key: told[key] for key in ("name", "version", "requests", "correct")},
        **{key: found.get(key) for key in keys},
        "held": found["replicas"],
    }


def _nodes(energies: Sequence[NodeEnergy], hours: Sequence[HourlyEnergy]) -> list[dict[str, Any]]:
    """Where each node's energy went."""
    zones: dict[str, set[str]] = {}
    for hour in hours:
        zones.setdefault(hour.node, set()).add(hour.zone)
    return [
        {
            "name": row.node,
            "zone": row.zone,
            "zones": sorted(zones.get(row.node, {row.zone})),
            "energy_j": row.energy_mj / MJ_PER_J,
            "attributed_j": row.attributed_mj / MJ_PER_J,
            "unallocated_j": row.unallocated_mj / MJ_PER_J,
            "operational_g": row.operational_g,
            "unallocated_g": row.unallocated_g,
            "nature": row.nature.value,
        }
        for row in energies
    ]


def _overlap(found: Overlap) -> dict[str, Any]:
    names = {"boot_id": "life", "other_boot_id": "other_life"}
    return {names.get(key, key): value for key, value in asdict(found).items()}


def _source(row: Mapping[str, Any], now_s: float, hours: Iterable[HourlyEnergy]) -> dict[str, Any]:
    """Where a zone's intensity comes from. A modelled profile is computed, never fetched, so it has no age.

    What a live source told may be old though it is modelled: then the energy of the newest hour says how old.
    """
    age_s = 0.0 if Nature(row["nature"]) is Nature.MODELLED else max(0.0, now_s - float(row["updated_s"]))
    of_zone = [hour for hour in hours if hour.zone == row["zone"] and hour.intensity_age_s is not None]
    newest_s = max((hour.hour_s for hour in of_zone), default=0.0)
    age_s = max([age_s, *(hour.intensity_age_s or 0.0 for hour in of_zone if hour.hour_s == newest_s)])
    return {
        "zone": row["zone"],
        "source": row["source"],
        "kind": str(row["kind"]),
        "nature": Nature(row["nature"]).value,
        "age_s": age_s,
    }


def _span(jobs: Sequence[Mapping[str, Any]], now_s: float) -> tuple[float, float]:
    """From the first submission to the last end of a segment or of a run-now window [s since epoch]."""
    if not jobs:
        return now_s - EMPTY_SPAN_S, now_s
    starts = [job["submitted_s"] for job in jobs] + [job["baseline_start_s"] for job in jobs]
    ends = [job["baseline_end_s"] for job in jobs]
    for job in jobs:
        for segment in job["segments"]:
            metered = segment["metered_s"] or [segment["start_s"], segment["end_s"]]
            starts += [segment["start_s"], metered[0]]
            ends += [segment["end_s"], metered[1]]
    return min(starts), max(ends)


def _mixed(hours: Iterable[HourlyEnergy]) -> list[str]:
    """That grams of different kinds are in the sums, where they are."""
    kinds = sorted({row.intensity_kind for row in hours if row.intensity_kind})
    if len(kinds) <= 1:
        return []
    return [
        f"Intensities of different kinds were used ({', '.join(kinds)}): the sums of grams here mean neither. "
        "`eco-ray ledger query --by kind` tells them apart."
    ]


def _avoided(store: Store) -> list[str]:
    """What caches avoided: in words, as it is in no sum."""
    rows = store.avoided()
    if not rows:
        return []
    energy_j, carbon_g = sum(row.energy_mj for row in rows) / MJ_PER_J, _sum_known([row.operational_g for row in rows])
    energy, carbon = Scale.of([energy_j], ENERGY).text(energy_j), Scale.of([carbon_g], CARBON).co2e(carbon_g)
    told = f"Avoided by caches of answers (an estimate, in no sum here): {energy}, carbon {carbon}"
    return [f"{told}; hits: {sum(row.hits for row in rows)}.".replace(GAP, " ")]


def _notes(speed: float, home_zone: str | None, has_home_node: bool, home_pue: float) -> list[str]:
    """What a reader must know before the numbers."""
    pace = f"The clock runs at wall time: one wall second counts as one grid second, and energy is power {TIMES} time."
    if speed != 1:
        pace = (
            f"Clock speed {speed:g}: one wall second counts as {speed:g} grid seconds. All times are grid time, and "
            f"energy is power {TIMES} grid time: 20 s of work count as {duration(20 * speed).replace(GAP, ' ')}."
        )
    notes = [
        pace,
        "Savings are against the run-now counterfactual: the same productive energy, drawn evenly from the moment of "
        f"submission, in the home zone ({home_zone or 'unknown'}).",
    ]
    if home_zone and not has_home_node:
        notes.append(f"No node of the cluster is in {home_zone}: the counterfactual assumes a PUE of {home_pue:g}.")
    return notes


def _unknown(jobs: Sequence[Mapping[str, Any]], home_zone: str | None) -> list[dict[str, str]]:
    """Which numbers of the contract are null because something was not known, and why."""
    found: list[dict[str, str]] = []
    for job in jobs:
        zones = sorted({segment["zone"] for segment in job["segments"] if segment["operational_g"] is None})
        if zones:
            why = f"no carbon intensity of {', '.join(zones)} for a part of its run"
            found.append({"job": job["id"], "what": "operational_g", "why": why})
        if job["baseline_g"] is None:
            span = f"{iso(job['baseline_start_s'])} to {iso(job['baseline_end_s'])}"
            why = f"no carbon intensity of {home_zone or 'the home zone, which is not set,'} kept for all of {span}"
            found.append({"job": job["id"], "what": "baseline_g", "why": why})
    return found
