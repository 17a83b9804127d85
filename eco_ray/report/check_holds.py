"""Redo what a report says of how its numbers hold: embodied carbon, waste, the identities, the model's share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from eco_ray.core.embodied import Embodied
from eco_ray.core.units import Nature
from eco_ray.report.check_claims import check_claims
from eco_ray.report.check_models import check_models
from eco_ray.report.redo import same, same_word, total
from eco_ray.report.steps import covered_s

KEYS = ("embodied", "fleet_identity", "sci", "ai_act", "scope2")


def check_holds(doc: Mapping[str, Any]) -> Iterable[str]:
    """What does not add up, in sentences."""
    missing = [key for key in KEYS if key not in doc]
    if missing:
        yield from (f"report: key {key!r} is missing" for key in missing)
        return
    machines = {row["node"]: _embodied(row) for row in doc["embodied"]}
    for row in doc["embodied"]:
        kg = None if row["kg"] is None else row["host_kg"] + row["gpus_kg"]
        yield from same(f"embodied of node {row['node']}", "kg", row["kg"], kg)
    for job in doc["jobs"]:
        name = f"job {job['id']}"
        for i, segment in enumerate(job["segments"]):
            yield from _segment(f"{name}, segment {i}", segment, machines.get(segment["node"]))
        for key in ("embodied_g", "ewaste_g"):
            yield from same(name, key, job[key], total([segment[key] for segment in job["segments"]]))
        yield from _power(name, job)
    yield from _fleet(doc)
    yield from _nodes(doc)
    yield from check_models(doc, machines)
    yield from _model(doc)
    yield from check_claims(doc)


def _embodied(row: Mapping[str, Any]) -> Embodied | None:
    if row["kg"] is None:
        return None
    keys = ("host_kg", "gpus_kg", "source", "min_kg", "max_kg", "mass_g", "lifetime_years")
    return Embodied(nature=Nature(row["nature"]), **{key: row[key] for key in keys})


def _segment(name: str, segment: Mapping[str, Any], machine: Embodied | None) -> Iterable[str]:
    """An attempt's embodied carbon and waste, from its shares and its node; the span that it was metered."""
    embodied_g = ewaste_g = None
    if machine is not None and segment["cpu_share"] is not None:
        use = segment["end_s"] - segment["start_s"], segment["cpu_share"], segment["gpu_share"]
        embodied_g, ewaste_g = machine.use_g(*use), machine.waste_g(*use)
    yield from same(name, "embodied_g", segment["embodied_g"], embodied_g)
    yield from same(name, "ewaste_g", segment["ewaste_g"], ewaste_g)
    spans = segment["metered_spans_s"]
    whole = [spans[0][0], spans[-1][1]] if spans else None
    if segment["metered_s"] != whole:
        yield f"{name}: metered_s is {segment['metered_s']}, its spans are {whole}"


def _power(name: str, job: Mapping[str, Any]) -> Iterable[str]:
    """E = P t, with t from the spans of the segments."""
    told = job["energy_identity"]
    right_j = told["power_w"] * told["metered_s"] + told["moments_j"]
    metered_s = covered_s([(a, b) for segment in job["segments"] for a, b in segment["metered_spans_s"]])
    yield from same(name, "energy_identity.metered_s", told["metered_s"], metered_s)
    yield from same(name, "energy_identity.energy_j", told["energy_j"], job["energy_j"])
    yield from same(name, "energy_identity.power_times_time_j", told["power_times_time_j"], right_j)
    yield from same(name, "E = P t: energy_j", job["energy_j"], right_j)
    largest = max(abs(job["energy_j"]), abs(right_j))
    gap_rel = abs(job["energy_j"] - right_j) / largest if largest else 0.0
    yield from same(name, "energy_identity.gap_rel", told["gap_rel"], gap_rel)
    if told["moments_j"] != 0:  # the ledger refuses rows without a length, so that all energy has a power
        yield f"{name}: moments_j is {told['moments_j']} J, and no row of the ledger is without length"


def _nodes(doc: Mapping[str, Any]) -> Iterable[str]:
    """Each node is what was charged and the rest; totals are the sums of nodes and models."""
    totals, nodes, models = doc["totals"], doc["nodes"], doc["models"]
    for node in nodes:
        parts = [node["attributed_j"], node["unallocated_j"]]
        yield from same(f"node {node['name']}", "energy_j", node["energy_j"], total(parts))
    yield from same("totals", "node_g", totals["node_g"], total([node["operational_g"] for node in nodes]))
    yield from same("totals", "unallocated_g", totals["unallocated_g"], total([n["unallocated_g"] for n in nodes]))
    yield from same("totals", "model_j", totals["model_j"], total([model["energy_j"] for model in models]))
    yield from same("totals", "model_g", totals["model_g"], total([model["operational_g"] for model in models]))


def _model(doc: Mapping[str, Any]) -> Iterable[str]:
    """The served model is one of the ledger's models."""
    model = doc["model"]
    if model is None:
        return
    charged = [row for row in doc["models"] if row["id"] == f"{model['name']}:{model['version']}"]
    for key in ("energy_j", "operational_g", "embodied_g"):
        yield from same("model", key, model[key], total([row[key] for row in charged]))
    for key in ("nature", "carbon_nature", "embodied_nature"):
        told = charged[0][key] if charged else None
        if model[key] != told:
            yield f"model: {key} is {model[key]!r}, the ledger's row says {told!r}"
    yield from same_word("model", "held", model["held"], charged[0]["replicas"] if charged else [])


def _fleet(doc: Mapping[str, Any]) -> Iterable[str]:
    """C = sum of S_i."""
    told, nodes = doc["fleet_identity"], {row["name"]: row["operational_g"] for row in doc["nodes"]}
    if told["servers_g"] != nodes or told["servers"] != len(nodes):
        yield "fleet_identity: servers_g is not the operational_g of the nodes"
    by_owner = told["by_owner_g"]
    jobs_g = None if any(job["operational_g"] is None for job in doc["jobs"]) else doc["totals"]["operational_g"]
    yield from same("fleet_identity", "jobs", by_owner["jobs"], jobs_g)
    yield from same("fleet_identity", "models", by_owner["models"], doc["totals"]["model_g"])
    yield from same("fleet_identity", "unallocated", by_owner["unallocated"], doc["totals"]["unallocated_g"])
    total_g, sum_g = total(list(by_owner.values())), total(list(told["servers_g"].values()))
    if total_g is None or sum_g is None:
        total_g = sum_g = None
    yield from same("fleet_identity", "total_g", told["total_g"], total_g)
    yield from same("fleet_identity", "sum_g", told["sum_g"], sum_g)
    yield from same("C = sum of S_i", "total_g", told["total_g"], told["sum_g"])
