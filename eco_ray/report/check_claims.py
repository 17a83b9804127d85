"""Redo what a report claims beside its sums: SCI, the fields of the EU AI Act, Scope 2 by hours, natures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from eco_ray.core.units import J_PER_KWH, MJ_PER_J
from eco_ray.report.holds import FLOP_METRIC, counted_units, two_figures
from eco_ray.report.redo import REL_TOL, no_stronger, same, same_word, total, weakest
from eco_ray.report.steps import Steps, epoch_s, iso

HOUR_S = 3600.0


def check_claims(doc: Mapping[str, Any]) -> Iterable[str]:
    """What does not follow from the jobs, the model and the nodes of the same document, in sentences."""
    yield from _natures(doc)
    yield from _sci(doc)
    yield from _ai_act(doc)
    yield from _scope2(doc)


def _natures(doc: Mapping[str, Any]) -> Iterable[str]:
    """No number is known better than what it is made of."""
    zones = {row["zone"]: row["nature"] for row in doc["sources"]}
    machines = {row["node"]: row["nature"] for row in doc["embodied"]}
    nodes = {row["name"]: row["nature"] for row in doc["nodes"]}
    for job in doc["jobs"]:
        name, metered = f"job {job['id']}", [s for s in job["segments"] if s["nature"] is not None]
        yield from same_word(name, "nature", job["nature"], weakest(s["nature"] for s in metered))
        of_zones = {s["zone"] for s in metered} | ({doc["home_zone"]} if metered else set())
        told = weakest([job["nature"], *(zones.get(zone) for zone in of_zones)])
        yield from same_word(name, "carbon_nature", job["carbon_nature"], told)
        used = [segment["node"] for segment in job["segments"]]
        yield from same_word(name, "embodied_nature", job["embodied_nature"], _embodied_nature(machines, used))
        for segment in metered:
            told, node = nodes.get(segment["node"], segment["nature"]), segment["node"]
            yield from no_stronger(f"node {node}", "nature", told, [segment["nature"]])
    model = doc["model"]
    if model is not None and model["nature"] is not None:
        yield from no_stronger("model", "carbon_nature", model["carbon_nature"], [model["nature"]])
    if model is not None:
        redone = _embodied_nature(machines, [row["node"] for row in model["held"]])
        yield from same_word("model", "embodied_nature", model["embodied_nature"], redone)
    if doc["scope2"]["hours"]:
        hours = weakest(row["nature"] for row in doc["scope2"]["hours"])
        yield from no_stronger("scope2", "nature of the hours", hours, nodes.values())


def _embodied_nature(machines: Mapping[str, str | None], used: Iterable[str]) -> str | None:
    found = [machines.get(node) for node in dict.fromkeys(used)]
    return weakest(found) if found and None not in found else None


def _sci(doc: Mapping[str, Any]) -> Iterable[str]:
    """(O + M) / R: a row of each run that succeeded and each model that counted, with their O and M, and no other."""
    due: dict[tuple[str, str], tuple[float, Mapping[str, Any]]] = {
        ("training run", job["id"]): (1.0, job)
        for job in doc["jobs"]
        if job["state"] == "succeeded" and job["energy_j"]
    }
    for model in doc["models"]:
        due.update({(unit, model["id"]): (count, model) for unit, count in counted_units(model).items()})
    told = [(row["unit"], row["of"]) for row in doc["sci"]]
    if sorted(told) != sorted(due):
        yield f"sci: its rows are of {sorted(told)}, due are {sorted(due)}"
    for row in doc["sci"]:
        name, key = f"sci per {row['unit']} of {row['of']}", (row["unit"], row["of"])
        if key in due:
            units, whole = due[key]
            yield from same(name, "units", row["units"], units)
            for part in ("operational_g", "embodied_g"):
                yield from same(name, part, row[part], whole[part])
            natures = whole["carbon_nature"], whole["embodied_nature"]
            yield from same_word(name, "nature", row["nature"], weakest(natures))
        parts = [row["operational_g"], row["embodied_g"]]
        total_g = total(parts)
        yield from same(name, "g_per_unit", row["g_per_unit"], None if total_g is None else total_g / row["units"])
        each_g = None if parts[0] is None else parts[0] / row["units"]
        yield from same(name, "operational_g_per_unit", row["operational_g_per_unit"], each_g)


def _ai_act(doc: Mapping[str, Any]) -> Iterable[str]:
    """A row of each job that used energy, with that job's figures."""
    due = {job["id"]: job for job in doc["jobs"] if job["energy_j"]}
    told = [row["job"] for row in doc["ai_act"]]
    if sorted(told) != sorted(due):
        yield f"ai_act: its rows are of jobs {sorted(told)}, due are {sorted(due)}"
    for row in doc["ai_act"]:
        name, job = f"ai_act of job {row['job']}", due.get(row["job"])
        if job is not None:
            mwh = two_figures(job["energy_j"] / J_PER_KWH / 1000)
            yield from same(name, "training_energy_mwh", row["training_energy_mwh"], mwh)
            yield from same(name, "training_time_s", row["training_time_s"], job["energy_identity"]["metered_s"])
            flop = job["metrics"].get(FLOP_METRIC)
            yield from same_word(name, "training_compute_flop", row["training_compute_flop"], flop)
            yield from same_word(name, "energy_method", row["energy_method"].split(":")[0], job["nature"])


def _scope2(doc: Mapping[str, Any]) -> Iterable[str]:
    """Hours sum to the nodes: energy exactly, grams up to rounding; grams are energy x intensity x PUE."""
    told, node_mj = doc["scope2"], dict.fromkeys((row["name"] for row in doc["nodes"]), 0)
    zones = {row["name"]: row["zones"] for row in doc["nodes"]}
    seen = [(row["hour_s"], row["zone"]) for row in told["hours"]]
    if len(set(seen)) != len(seen):
        yield "scope2: an hour of a zone is there twice"
    for row in told["hours"]:
        name = f"scope2 at {row['hour']} in {row['zone']}"
        yield from same_word(name, "hour", row["hour"], iso(row["hour_s"]))
        for node, energy_j in row["node_j"].items():
            node_mj[node] = node_mj.get(node, 0) + _mj(energy_j)
            if row["zone"] not in zones.get(node, ()):
                yield f"{name}: node {node} was never in {row['zone']}"
        hour_mj = sum(_mj(energy_j) for energy_j in row["node_j"].values())
        yield from same_word(name, "energy_j in mJ", _mj(row["energy_j"]), hour_mj)
        yield from _hour(name, row, doc)
    for node in doc["nodes"]:
        yield from same_word(
            "scope2", f"hours of node {node['name']} in mJ", node_mj[node["name"]], _mj(node["energy_j"])
        )
    location_g = total([row["location_g"] for row in told["hours"]])
    yield from same("scope2", "location_g", told["location_g"], location_g)
    yield from same("scope2", "location_g against the nodes", told["location_g"], doc["totals"]["node_g"])
    market_g = total([row["market_g"] for row in told["hours"]]) if told["market"] else None
    yield from same("scope2", "market_g", told["market_g"], market_g)


def _hour(name: str, row: Mapping[str, Any], doc: Mapping[str, Any]) -> Iterable[str]:
    """One hour of a zone: its grams by the grid, and by the contract."""
    facility_kwh = sum(energy_j * doc["pue"].get(node, 1.0) for node, energy_j in row["node_j"].items()) / J_PER_KWH
    contract = doc["scope2"]["market"].get(row["zone"])
    market_g = None if contract is None else facility_kwh * contract["g_per_kwh"]
    yield from same(name, "market_g", row["market_g"], market_g)
    intensity = row["intensity_g_per_kwh"]
    if row["location_g"] is None or intensity is None:
        if row["location_g"]:
            yield f"{name}: location_g is {row['location_g']} g of an intensity that is null"
        return
    yield from same(name, "location_g", row["location_g"], facility_kwh * intensity)
    steps = Steps.of([(epoch_s(t), v) for t, v in doc["series"].get(row["zone"], [])], doc["step_s"].get(row["zone"]))
    from_s, to_s = row["intervals_s"]  # an interval has the mean intensity of its length, in other hours too
    if from_s > row["hour_s"] or to_s < row["hour_s"] + HOUR_S:
        yield f"{name}: intervals_s {from_s:g} to {to_s:g} does not hold the hour"
    pieces = steps.pieces(from_s, to_s)
    if pieces is None:
        return  # the document has the series for the time of its jobs only
    # intensity is by today's PUE; a node that had another one shows it in its segments
    now = [doc["pue"].get(node, 1.0) for node in row["node_j"]]
    then = [s["pue"] for job in doc["jobs"] for s in job["segments"] if s["node"] in row["node_j"]]
    low = min(p.g_per_kwh for p in pieces) * min([*now, *then]) / max(now) * (1 - REL_TOL)
    high = max(p.g_per_kwh for p in pieces) * max([*now, *then]) / min(now) * (1 + REL_TOL)
    if not low <= intensity <= high:
        yield f"{name}: intensity {intensity:g} g/kWh is outside the {low:g} to {high:g} of its zone meanwhile"


def _mj(joules: float) -> int:
    return round(joules * MJ_PER_J)
