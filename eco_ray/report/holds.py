"""How the numbers of one job hold: what it carries of its machines, E = P t, SCI, the fields of the EU AI Act."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eco_ray.core.cluster import Resources
from eco_ray.core.embodied import Embodied
from eco_ray.core.emissions import sci_g_per_unit
from eco_ray.core.identities import energy_is_power_times_time
from eco_ray.core.ledger import OwnerInterval
from eco_ray.core.units import J_PER_KWH, Nature
from eco_ray.report.steps import covered_s

#: the metric under which a job may report the operations of its training
FLOP_METRIC = "training_flop"
#: what a model's items may be, and then SCI is per token too
TEXT_UNIT = "token"


def embodied_of(node: Mapping[str, Any]) -> Embodied | None:
    """What a node of the cluster's description carries; None: unknown."""
    told = node.get("embodied")
    return None if told is None else Embodied(**{**told, "nature": Nature(told["nature"])})


def held(node: Mapping[str, Any], seconds: float, demand: Resources | None) -> dict[str, Any]:
    """What an attempt carries of its node for what it reserved of it; None where that or the node's own is unknown."""
    embodied, cpus, gpus = embodied_of(node), node.get("num_cpus"), node.get("num_gpus")
    if embodied is None or demand is None or not cpus:
        return {"embodied_g": None, "ewaste_g": None, "cpu_share": None, "gpu_share": None}
    cpu_share = min(1.0, demand.cpus / float(cpus))
    gpu_share = min(1.0, demand.gpus / float(gpus)) if gpus else None
    return {
        "embodied_g": embodied.use_g(seconds, cpu_share, gpu_share),
        "ewaste_g": embodied.waste_g(seconds, cpu_share, gpu_share),
        "cpu_share": cpu_share,
        "gpu_share": gpu_share,
    }


def embodied_nature(nodes: Mapping[str, Mapping[str, Any]], used: Iterable[str]) -> str | None:
    """Nature of the embodied carbon of a job on these nodes; None where one of them tells nothing."""
    found = [embodied_of(nodes.get(name, {})) for name in used]
    known = [embodied.nature for embodied in found if embodied is not None]
    return Nature.weakest(known).value if known and len(known) == len(found) else None


def energy_identity(energy_mj: int, rows: Sequence[OwnerInterval]) -> dict[str, Any]:
    """E = P t of a job, with its inputs."""
    metered_s = covered_s([(row.start_s, row.end_s) for row in rows])
    found = energy_is_power_times_time(energy_mj, [(r.start_s, r.end_s, r.energy_mj) for r in rows], metered_s)
    return {"energy_j": found.left, **found.inputs, "power_times_time_j": found.right, "gap_rel": found.gap_rel}


def sci(
    unit: str, of: str, units: float, operational_g: float | None, embodied_g: float | None, natures: Sequence[str]
) -> dict[str, Any]:
    """(O + M) / R with what it is made of; unknown where O or M is, and O / R beside it."""
    known = operational_g is not None and embodied_g is not None and units > 0
    return {
        "unit": unit,
        "of": of,
        "units": units,
        "operational_g": operational_g,
        "embodied_g": embodied_g,
        "operational_g_per_unit": None
        if operational_g is None or units <= 0
        else sci_g_per_unit(operational_g, 0.0, units),
        "g_per_unit": sci_g_per_unit(operational_g or 0.0, embodied_g or 0.0, units) if known else None,
        "nature": Nature.weakest([Nature(word) for word in natures]).value,
    }


def sci_rows(jobs: Sequence[Mapping[str, Any]], models: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """SCI per training run of each job that succeeded, and per inference and token of each model.

    R is what the ledger counted: no program's own word for it.
    """
    rows = []
    for job in jobs:
        if job["state"] == "succeeded" and job["energy_j"]:
            natures = [job["carbon_nature"], *([job["embodied_nature"]] if job["embodied_nature"] else [])]
            rows.append(sci("training run", job["id"], 1.0, job["operational_g"], job["embodied_g"], natures))
    for model in models:
        natures = [model["carbon_nature"], *([model["embodied_nature"]] if model["embodied_nature"] else [])]
        for unit, count in counted_units(model).items():
            rows.append(sci(unit, model["id"], count, model["operational_g"], model["embodied_g"], natures))
    return rows


def counted_units(model: Mapping[str, Any]) -> dict[str, float]:
    """The functional units of a model's row that the ledger counted; items are tokens only where that is known."""
    tokens = model["items"] if model["items_are"] == TEXT_UNIT else None
    return {unit: float(count) for unit, count in (("inference", model["requests"]), (TEXT_UNIT, tokens)) if count}


def ai_act_rows(jobs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Fields of the EU AI Act for what each job trained: Annex XI section 1, 2 (d) and (e), and the documentation form.

    Regulation (EU) 2024/1689 asks for the known or estimated energy consumption of general-purpose models; the Code of
    Practice's Model Documentation Form for training energy in MWh to two significant figures, how it was found, the
    compute in FLOP and the training time.
    """
    return [
        {
            "job": job["id"],
            "training_energy_mwh": two_figures(job["energy_j"] / J_PER_KWH / 1000),
            "energy_method": f"{job['nature']}: IT energy of the job's share of its nodes, without PUE",
            "training_compute_flop": job["metrics"].get(FLOP_METRIC),
            "training_time_s": job["energy_identity"]["metered_s"],
        }
        for job in jobs
        if job["energy_j"]
    ]


def two_figures(value: float) -> float:
    """A value to two significant figures."""
    return round(value, 1 - math.floor(math.log10(abs(value)))) if value else 0.0
