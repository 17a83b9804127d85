"""report.html: one file that works offline; everything on it comes from the document of report.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eco_ray.core.units import J_PER_KWH, Nature
from eco_ray.report.figures import report_steps, zone_classes
from eco_ray.report.html_holds import holds
from eco_ray.report.lanes import main_figure
from eco_ray.report.page import page
from eco_ray.report.steps import epoch_s
from eco_ray.report.words import (
    CARBON,
    ENERGY,
    Scale,
    clock_time,
    duration,
    exact,
    grouped,
    metric,
    percent,
    settled,
    short_time,
)

#: pieces of the run-now window that the worked example lists
PIECES_SHOWN = 8
#: width [px] of the two drawings of the main figure: for wide and for narrow windows
WIDE, NARROW = 1112, 720


def render_html(doc: Mapping[str, Any]) -> str:
    """The page of a report document."""
    template = page("report.html.j2", exact=exact, metric=metric, duration=duration, short_time=short_time)
    return template.render(
        doc=doc,
        headline=_headline(doc),
        figures=[main_figure(doc, WIDE, "wide"), main_figure(doc, NARROW, "narrow")],
        classes=zone_classes(doc),
        jobs=_rows(doc),
        embodied_known=any(job["embodied_g"] for job in doc["jobs"]),
        nodes=_node_rows(doc),
        results=[job for job in doc["jobs"] if job["metrics"]],
        sources=[{**row, "age": _age(row)} for row in doc["sources"]],
        model=_model(doc),
        models=[_served(row) for row in doc["models"]],
        worked=_worked(doc),
        holds=holds(doc),
        hover=_hover(doc),
    )


def _natures(names: Sequence[str | None]) -> str:
    """The nature of a number made from several."""
    known = [Nature(name) for name in names if name]
    return Nature.weakest(known).value if known else "nothing recorded yet"


def _headline(doc: Mapping[str, Any]) -> dict[str, Any]:
    """The first numbers of the page."""
    totals = doc["totals"]
    # jobs whose carbon is unknown would make the comparison lopsided: both sides leave them out
    both = [job for job in doc["jobs"] if job["saved_g"] is not None]
    actual_g = sum(job["operational_g"] for job in both)
    run_now_g = sum(job["baseline_g"] for job in both)
    carbon = Scale.of([actual_g, run_now_g, totals["saved_g"]], CARBON)
    energy = Scale.of([totals["node_energy_j"]], ENERGY)
    top = max(actual_g, run_now_g) or 1.0
    node_energy_j = totals["node_energy_j"]
    used = [job for job in doc["jobs"] if job["energy_j"]]
    return {
        "saved": carbon.co2e(abs(totals["saved_g"])),
        "worse": totals["saved_g"] < 0,
        "nothing": not run_now_g and not actual_g,
        "share": (percent(abs(totals["saved_g"]), run_now_g) or "").lstrip("+"),
        "actual": carbon.co2e(actual_g),
        "run_now": carbon.co2e(run_now_g),
        "actual_pct": 100 * actual_g / top,
        "run_now_pct": 100 * run_now_g / top,
        "left_out": len(doc["jobs"]) - len(both),
        "carbon_nature": _natures([job["carbon_nature"] for job in used]),
        "energy_nature": _natures([node["nature"] for node in doc["nodes"]]),
        "unallocated_nature": _natures([row["nature"] for row in [*doc["nodes"], *doc["sources"]]]),
        "node_energy": energy.text(node_energy_j),
        "kwh": f"{exact(node_energy_j / J_PER_KWH, 4)} kWh",
        "attributed": energy.text(totals["attributed_j"]),
        "attributed_share": _share(totals["attributed_j"], node_energy_j),
        "unallocated": energy.text(totals["unallocated_j"]),
        "unallocated_share": _share(totals["unallocated_j"], node_energy_j),
        "unallocated_g": Scale.of([totals["unallocated_g"]], CARBON).co2e(totals["unallocated_g"]),
        "generated": clock_time(epoch_s(doc["generated"])),
        "states": _states(doc),
    }


def _share(part: float, whole: float) -> str:
    return (percent(part, whole) or "").lstrip("+")


def _states(doc: Mapping[str, Any]) -> str:
    """How many jobs are in each state, in words."""
    counts: dict[str, int] = {}
    for job in doc["jobs"]:
        counts[job["state"]] = counts.get(job["state"], 0) + 1
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def _rows(doc: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table of jobs, each column in one unit."""
    jobs = doc["jobs"]
    energy = Scale.of([job["energy_j"] for job in jobs], ENERGY)
    carbon = Scale.of([job[key] for job in jobs for key in ("operational_g", "baseline_g")], CARBON)
    embodied = Scale.of([job["embodied_g"] for job in jobs], CARBON)
    top = max((job[key] or 0.0 for job in jobs for key in ("operational_g", "baseline_g")), default=0.0) or 1.0
    saved = [settled(job["saved_g"], job["baseline_g"]) for job in jobs]
    return [
        {
            "job": job,
            "zones": list(dict.fromkeys(segment["zone"] for segment in job["segments"])),
            "delay": _delay(job),
            "energy": energy.text(job["energy_j"]),
            "overhead": energy.text(job["overhead_j"]) if job["overhead_j"] else None,
            "carbon": carbon.text(job["operational_g"]),
            "run_now": carbon.text(job["baseline_g"]),
            "carbon_pct": 100 * (job["operational_g"] or 0.0) / top,
            "run_now_pct": 100 * (job["baseline_g"] or 0.0) / top,
            "saved": carbon.text(saved_g, signed=True),
            "share": percent(saved_g, job["baseline_g"]),
            "tone": "" if not saved_g else "better" if saved_g > 0 else "worse",
            "embodied": embodied.text(job["embodied_g"]),
        }
        for job, saved_g in zip(jobs, saved, strict=True)
    ]


def _delay(job: Mapping[str, Any]) -> str:
    if not job["segments"]:
        return "not started"
    delay_s = min(segment["start_s"] for segment in job["segments"]) - job["submitted_s"]
    return duration(delay_s) if delay_s >= 1 else "none"


def _node_rows(doc: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where the energy of each node went."""
    nodes = doc["nodes"]
    energy = Scale.of([node["energy_j"] for node in nodes], ENERGY)
    carbon = Scale.of([node["unallocated_g"] for node in nodes], CARBON)
    top = max((node["energy_j"] for node in nodes), default=0.0) or 1.0
    return [
        {
            "node": node,
            "pue": doc["pue"].get(node["name"]),
            "energy": energy.text(node["energy_j"]),
            "attributed": energy.text(node["attributed_j"]),
            "unallocated": energy.text(node["unallocated_j"]),
            "share": _share(node["unallocated_j"], node["energy_j"]),
            "grams": carbon.text(node["unallocated_g"]),
            "attributed_pct": 100 * node["attributed_j"] / top,
            "unallocated_pct": 100 * node["unallocated_j"] / top,
        }
        for node in nodes
    ]


def _age(source: Mapping[str, Any]) -> str:
    return "computed, has no age" if source["nature"] == Nature.MODELLED.value else duration(source["age_s"])


def _model(doc: Mapping[str, Any]) -> dict[str, Any] | None:
    """The served model in words."""
    model = doc["model"]
    if model is None:
        return None
    requests = model["requests"]
    each_j = model["energy_j"] / requests if requests else None
    return {
        **model,
        "energy": Scale.of([model["energy_j"]], ENERGY).text(model["energy_j"]),
        "carbon": Scale.of([model["operational_g"]], CARBON).co2e(model["operational_g"]),
        "each": Scale.of([each_j], ENERGY).text(each_j),
        "right": f"{100 * model['correct'] / requests:.1f} %" if requests else "unknown",
        "requests_text": grouped(requests, 0),
    }


def _served(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model of the ledger and whom it was charged for: tenants, the time it waited, what nobody reported."""
    rows = [
        (row["tenant"] or "no tenant named", row, row["energy_j"], row["operational_g"]) for row in model["tenants"]
    ]
    rest: list[tuple[str, Mapping[str, Any], float, float | None]] = [
        ("waiting for requests", {}, model["waiting_j"], model["waiting_g"]),
        ("requests not reported", {}, model["unreported_j"], model["unreported_g"]),
    ]
    rows += [line for line in rest if line[2]]
    rows.append(("all", model, model["energy_j"], model["operational_g"]))
    return {
        **model,
        "embodied": Scale.of([model["embodied_g"]], CARBON).text(model["embodied_g"]),
        "lines": [
            {
                "name": name,
                "requests": grouped(row["requests"], 0) if row.get("requests") is not None else "",
                "energy": Scale.of([energy_j], ENERGY).text(energy_j),
                "carbon": Scale.of([operational_g], CARBON).text(operational_g),
                "each_j": _each(row.get("j_per_request"), ENERGY),
                "each_g": _each(row.get("g_per_request"), CARBON),
            }
            for name, row, energy_j, operational_g in rows
        ],
    }


def _each(value: float | None, units: tuple[tuple[float, str], ...]) -> str:
    return "" if value is None else Scale.of([value], units).text(value)


def _worked(doc: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arithmetic of one job in full: the one with the most to show among those where all is known."""
    known = [job for job in doc["jobs"] if job["saved_g"] is not None and job["productive_j"] and job["managed"]]
    if not known:
        return None
    job = max(known, key=lambda j: (j["overhead_j"] > 0, len(j["segments"]), abs(j["saved_g"])))
    home = report_steps(doc)[doc["home_zone"]]
    pieces = home.pieces(job["baseline_start_s"], job["baseline_end_s"]) or []
    return {
        "job": job,
        "segments": [s for s in job["segments"] if s["energy_j"]],
        "pieces": pieces[:PIECES_SHOWN],
        "more": max(0, len(pieces) - PIECES_SHOWN),
        "mean": home.mean(job["baseline_start_s"], job["baseline_end_s"]),
    }


def _hover(doc: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the pointer reads off the lines: zones with the steps of their series [s since epoch, g/kWh]."""
    classes = zone_classes(doc)
    return [
        {
            "zone": zone,
            "class": classes[zone],
            "step": part.step_s,
            "rows": [list(row) for row in zip(part.times_s, part.values_g_per_kwh, strict=True)],
        }
        for zone, part in report_steps(doc).items()
        if part.times_s
    ]
