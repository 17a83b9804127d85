"""The section of the page that says how its numbers hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eco_ray.core.units import Nature
from eco_ray.report.redo import REL_TOL
from eco_ray.report.words import CARBON, ENERGY, GAP, UNKNOWN, Scale, duration, exact

#: rows that a table of jobs shows; report.json has all
SHOWN = 12
#: hours by zone that the table of Scope 2 shows
HOURS_SHOWN = 24
MASS = ((1e-3, "mg"), (1.0, "g"), (1e3, "kg"))
#: how REL_TOL is written
ROUNDING = "10\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT NINE}"


def holds(doc: Mapping[str, Any]) -> dict[str, Any]:
    """All that the section shows."""
    names = {job["id"]: job["name"] for job in doc["jobs"]}
    used = [job for job in doc["jobs"] if job["energy_j"]]
    known = sorted(used, key=lambda job: -job["energy_j"])
    return {
        "power": [_power(job) for job in known[:SHOWN]],
        "power_more": max(0, len(known) - SHOWN),
        "worst_gap": gap(max((job["energy_identity"]["gap_rel"] for job in used), default=0.0)),
        "fleet": _fleet(doc),
        "sci": [_sci(row, names) for row in _largest(doc["sci"], "operational_g")],
        "sci_more": max(0, len(doc["sci"]) - SHOWN),
        "embodied": [_embodied(row) for row in doc["embodied"]],
        "ewaste": _ewaste(doc["jobs"]),
        "scope2": _scope2(doc["scope2"]),
        "ai_act": [_ai_act(row, names) for row in _largest(doc["ai_act"], "training_energy_mwh")],
        "ai_act_more": max(0, len(doc["ai_act"]) - SHOWN),
        "natures": _natures(doc),
    }


def gap(value: float | None) -> str:
    """A relative gap in words: floats add up to about 15 digits."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    return f"<{GAP}{ROUNDING}" if value < REL_TOL else f"{value:.1e}"


def _largest(rows: Sequence[Mapping[str, Any]], key: str) -> list[Mapping[str, Any]]:
    """The first rows by a value; what is told of the model, and not of a job, is always among them."""
    ordered = sorted(rows, key=lambda row: (row.get("unit") in (None, "training run"), -(row[key] or 0.0)))
    return ordered[:SHOWN]


def _power(job: Mapping[str, Any]) -> dict[str, Any]:
    told = job["energy_identity"]
    moments_j = told["moments_j"]
    return {
        "name": job["name"],
        "energy": f"{exact(told['energy_j'], 9)}{GAP}J",
        "watts": f"{exact(told['power_w'], 9)}{GAP}W",
        "time": f"{exact(told['metered_s'], 9)}{GAP}s",
        "product": f"{exact(told['power_times_time_j'], 9)}{GAP}J",
        "moments": f"{exact(moments_j, 6)}{GAP}J" if moments_j else None,
        "gap": gap(told["gap_rel"]),
        "nature": job["nature"],
    }


def _fleet(doc: Mapping[str, Any]) -> dict[str, Any]:
    told = doc["fleet_identity"]
    natures = [row["nature"] for row in [*doc["nodes"], *doc["sources"]]]
    return {
        "owners": [(name, exact(grams)) for name, grams in told["by_owner_g"].items()],
        "servers": [(name, exact(grams)) for name, grams in told["servers_g"].items()],
        "count": told["servers"],
        "total": exact(told["total_g"]),
        "sum": exact(told["sum_g"]),
        "gap": gap(told["gap_rel"]),
        "nature": Nature.weakest([Nature(word) for word in natures]).value if natures else None,
    }


def _sci(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {
        **row,
        "name": names.get(row["of"], row["of"]),
        "count": f"{row['units']:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}"),
        "operational": Scale.of([row["operational_g"]], CARBON).text(row["operational_g"]),
        "embodied": Scale.of([row["embodied_g"]], CARBON).text(row["embodied_g"]),
        "each": Scale.of([row["g_per_unit"]], CARBON).co2e(row["g_per_unit"]),
    }


def _embodied(row: Mapping[str, Any]) -> dict[str, Any]:
    ranged = row["min_kg"] is not None and row["max_kg"] is not None
    return {
        **row,
        "made": UNKNOWN if row["kg"] is None else f"{exact(row['kg'], 4)}{GAP}kg",
        "range": f"{exact(row['min_kg'], 4)} to {exact(row['max_kg'], 4)}{GAP}kg" if ranged else None,
        "mass": Scale.of([row["mass_g"]], MASS).text(row["mass_g"]),
        "life": UNKNOWN if row["lifetime_years"] is None else f"{row['lifetime_years']:g} years",
    }


def _scope2(told: Mapping[str, Any]) -> dict[str, Any]:
    """The newest hours, then the sums over all of them by zone and in all, each column in one unit."""
    hours = told["hours"]
    groups = [(row["hour_s"], row["zone"], [row]) for row in hours[-HOURS_SHOWN:]]
    zones = dict.fromkeys(row["zone"] for row in hours)
    groups += [(None, zone, [row for row in hours if row["zone"] == zone]) for zone in zones]
    groups += [(None, "all zones", hours)] if hours else []
    rows = [{"hour_s": hour_s, "zone": zone, **_added(part)} for hour_s, zone, part in groups]
    for key, units in (("energy_j", ENERGY), ("location_g", CARBON), ("market_g", CARBON)):
        scale = Scale.of([row[key] for row in rows], units)
        for row in rows:
            row[key] = scale.text(row[key])
    return {
        "rows": rows,
        "more": max(0, len(hours) - HOURS_SHOWN),
        "market": [(zone, row["g_per_kwh"], row["source"], row["nature"]) for zone, row in told["market"].items()],
    }


def _added(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Hours and zones added up; unknown where one of them is."""
    sums: dict[str, Any] = {}
    for key in ("energy_j", "location_g", "market_g"):
        values = [row[key] for row in rows]
        sums[key] = None if any(value is None for value in values) else sum(values)
    return {**sums, "nature": _weakest([row["nature"] for row in rows])}


def _ewaste(jobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the jobs that have run: the sum of those that are known, and how many are not."""
    values = [job["ewaste_g"] for job in jobs if job["segments"]]
    known = [value for value in values if value is not None]
    total_g = sum(known) if known else None
    return {"text": Scale.of([total_g], MASS).text(total_g), "left_out": len(values) - len(known), "known": len(known)}


def _ai_act(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    flop = row["training_compute_flop"]
    return {
        **row,
        "name": names[row["job"]],
        "energy": f"{exact(row['training_energy_mwh'], 2)}{GAP}MWh",
        "time": duration(row["training_time_s"]),
        "compute": "not reported" if flop is None else f"{flop}{GAP}FLOP",
    }


def _natures(doc: Mapping[str, Any]) -> dict[str, str | None]:
    """The nature of every kind of figure on the page."""
    energy = _weakest([row["nature"] for row in doc["nodes"]])
    of_jobs = [job["carbon_nature"] for job in doc["jobs"] if job["energy_j"]]
    carbon = _weakest([energy, *of_jobs, *(row["nature"] for row in doc["sources"])])
    embodied = _weakest([row["nature"] for row in doc["embodied"]])
    return {"energy": energy, "carbon": carbon, "embodied": embodied, "both": _weakest([carbon, embodied])}


def _weakest(words: Sequence[str | None]) -> str | None:
    """The weakest nature; None where nothing is known."""
    known = [Nature(word) for word in words if word]
    return Nature.weakest(known).value if known else None
