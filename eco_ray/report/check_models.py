"""Redo what a report says of its models: tenants and replicas sum to the model, and what each request comes to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from eco_ray.core.embodied import Embodied
from eco_ray.core.units import MJ_PER_J
from eco_ray.report.redo import no_stronger, same, same_word, total
from eco_ray.report.steps import covered_s


def check_models(doc: Mapping[str, Any], machines: Mapping[str, Embodied | None]) -> Iterable[str]:
    """What does not add up, in sentences."""
    for model in doc["models"]:
        yield from _parts(f"model {model['id']}", model)
        yield from _requests(f"model {model['id']}", model)
        yield from _carried(f"model {model['id']}", model, machines)


def _parts(name: str, model: Mapping[str, Any]) -> Iterable[str]:
    """Tenants, waiting and what nobody reported are the model; so are its replicas. Energies to the millijoule."""
    parts = [
        ("its tenants, waiting and unreported", model["tenants"], True),
        ("its replicas", model["replicas"], False),
    ]
    for words, rows, rest in parts:
        joules = [row["energy_j"] for row in rows] + ([model["waiting_j"], model["unreported_j"]] if rest else [])
        sum_mj, told_mj = sum(round(part * MJ_PER_J) for part in joules), round(model["energy_j"] * MJ_PER_J)
        if sum_mj != told_mj:
            yield f"{name}: energy_j is {model['energy_j']} J, {words} sum to {sum_mj / MJ_PER_J} J"
        grams_g = [row["operational_g"] for row in rows] + ([model["waiting_g"], model["unreported_g"]] if rest else [])
        yield from same(name, f"operational_g over {words}", model["operational_g"], total(grams_g))
    for tenant in model["tenants"]:
        yield from no_stronger(name, "nature", model["nature"], [tenant["nature"]])
    names = [row["tenant"] for row in model["tenants"]]
    if len(set(names)) < len(names):
        yield f"{name}: a tenant is there twice among {names}"


def _requests(name: str, model: Mapping[str, Any]) -> Iterable[str]:
    """A model's requests are those of its tenants; energy and grams of each are quotients."""
    if model["requests"] is None:
        if model["tenants"] or model["waiting_j"]:
            yield f"{name}: requests are unknown, and tenants or waiting are there"
    else:
        for key in ("requests", "items"):
            yield from same_word(name, key, model[key], sum(row[key] for row in model["tenants"]))
    for row, of in [(model, name), *((row, f"{name}, tenant '{row['tenant']}'") for row in model["tenants"])]:
        requests = row["requests"]
        if row is not model and requests < 1:
            yield f"{of}: has {requests} requests, and a tenant without one has no row"
        for key, whole in (("j_per_request", "energy_j"), ("g_per_request", "operational_g")):
            redone = row[whole] / requests if requests and row[whole] is not None else None
            yield from same(of, key, row[key], redone)


def _carried(name: str, model: Mapping[str, Any], machines: Mapping[str, Embodied | None]) -> Iterable[str]:
    """What each replica carries of its node, from its shares and the spans that it was metered."""
    for row in model["replicas"]:
        machine, seconds = machines.get(row["node"]), covered_s(row["metered_spans_s"])
        embodied_g = ewaste_g = None
        if machine is not None and row["cpu_share"] is not None:
            use = seconds, row["cpu_share"], row["gpu_share"]
            embodied_g, ewaste_g = machine.use_g(*use), machine.waste_g(*use)
        of = f"{name}, replica '{row['replica']}' on {row['node']}"
        yield from same(of, "embodied_g", row["embodied_g"], embodied_g)
        yield from same(of, "ewaste_g", row["ewaste_g"], ewaste_g)
    yield from same(name, "embodied_g", model["embodied_g"], total([row["embodied_g"] for row in model["replicas"]]))
