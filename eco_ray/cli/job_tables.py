"""What `job plan` and `job explain` print for people; the documents themselves are made in core."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from eco_ray.cli.output import print_facts, print_table

Document = Mapping[str, Any]


def show_plan(document: Document) -> None:
    """The plan and why, its stretches, the runners-up with what they emit more, and who would give way."""
    facts = {"reason": document["reason"], "plan": document["message"]}
    facts |= {key: document[key] for key in ("why", "unblock") if document.get(key)}
    print_facts(facts)
    rows = list(_plan_rows(document))
    if rows:
        click.echo()
        print_table(rows)
    if document.get("same_order") is False:
        click.echo("\ncarbon g: the job's share in the ledger. added g: what it adds to its nodes, which decides.")
    if _is_complex(document["segments"]):
        click.echo("\nstretches of the plan")
        print_table(list(_stretch_rows(document["segments"])))
    if document["gives_way"]:
        click.echo("\nwould give way, and none of them is late for it")
        print_table([_way_row(one) for one in document["gives_way"]])


def show_explanation(document: Document, events: Sequence[Mapping[str, Any]], now: str) -> None:
    """Why a job is where it is, until when, what would change that, its plan, and what happened so far."""
    until = document["until"]
    print_facts(
        {
            "job": document["id"],
            "state": document["state"],
            "reason": document["reason"],
            "why": document["message"],
            "until": f"{_time(until)} UTC (now {now} UTC)" if until else "unknown" if _is_open(document) else "-",
            "unblock": document["unblock"],
            **(_plan_facts(document["plan"]) if _is_open(document) else {}),
            **({"speed by workers": document["scaling"]} if document.get("scaling") else {}),
        }
    )
    if document["plan"]:
        click.echo()
        print_table(list(_stretch_rows(document["plan"]["segments"])))
    click.echo()
    print_table(events, "nothing has happened to it yet")


def _is_open(document: Document) -> bool:
    return document["state"] in ("queued", "running", "suspended")


def _plan_facts(plan: Document | None) -> dict[str, str]:
    """Grams, saving and assumed length of a stored plan."""
    if plan is None:
        return {"plan": "none at present"}
    carbon_g, saved_g, run_now_g = plan["carbon_g"], plan["saved_g"], plan["run_now_g"]
    grams = "unknown g (no intensity)" if carbon_g is None else f"{carbon_g:.3g} g, {plan['nature']}"
    if saved_g is None:
        saving = "unknown against running at once in the home zone"
    else:
        part = f" ({saved_g / run_now_g:.0%})" if run_now_g > 0 else ""
        saving = f"{saved_g:.3g} g{part} against {run_now_g:.3g} g for running at once in the home zone"
    length_s = plan["expected_duration_s"]
    length = "unknown" if length_s is None else f"{_length(length_s)} ({plan['expected_duration_from']})"
    return {"plan": f"{grams}, made {_time(plan['made'])} UTC", "saving": saving, "length": length}


def _plan_rows(document: Document) -> Iterator[dict[str, Any]]:
    """The plan and its runners-up, a line each; without one in time, those that a wider limit would give."""
    plans = [{"what": "the plan", **document}] if document["segments"] else []
    plans += document["alternatives"]
    several = any(segment["workers"] > 1 for one in plans for segment in one["segments"])
    both = document.get("same_order") is False
    for one in plans:
        first, last, workers = one["segments"][0], one["segments"][-1], [s["workers"] for s in one["segments"]]
        row: dict[str, Any] = {
            "": f"with {one['what']}" if "unblock" in document and one["what"] != "the plan" else one["what"],
            "where": " > ".join(dict.fromkeys(segment["zone"] for segment in one["segments"])),
            "start": _time(first["start"]),
            "end": _end(first["start"], last["end"]),
            "stretches": len(one["segments"]),
        }
        if several:
            row["workers"] = f"{min(workers)}-{max(workers)}" if min(workers) < max(workers) else str(workers[0])
        row["carbon g"] = one["carbon_g"]
        row["more"] = _more(one.get("more_g"), document.get("carbon_g"))
        if both:
            row["added g"] = one["added_g"]
            row["more added"] = _more(one.get("more_added_g"), document.get("added_g"))
        yield row
    if document["segments"]:
        run_now_g, carbon_g = document["run_now_g"], document["carbon_g"]
        more_g = None if run_now_g is None or carbon_g is None else run_now_g - carbon_g
        yield {"": f"run-now in {document['home_zone']}", "carbon g": run_now_g, "more": _more(more_g, carbon_g)}


def _stretch_rows(segments: Sequence[Document]) -> Iterator[dict[str, Any]]:
    for segment in segments:
        yield {
            "zone": segment["zone"],
            "node": segment["node"],
            "start": _time(segment["start"]),
            "end": _end(segment["start"], segment["end"]),
            "workers": segment["workers"],
        }


def _way_row(one: Document) -> dict[str, Any]:
    """From when to when a job would move."""
    return {
        "job": one["id"],
        "name": one["name"],
        "state": one["state"],
        "from": _span(one["from"]),
        "to": _span(one["to"]),
    }


def _span(segments: Sequence[Document]) -> str:
    """`FR > DE, 2026-07-05 13:00 to 16:00 in 2 stretches`."""
    first, last, zones = segments[0], segments[-1], dict.fromkeys(segment["zone"] for segment in segments)
    several = f" in {len(segments)} stretches" if len(segments) > 1 else ""
    return f"{' > '.join(zones)}, {_time(first['start'])} to {_end(first['start'], last['end'])}{several}"


def _is_complex(segments: Sequence[Document]) -> bool:
    """Whether one line does not tell all of a plan."""
    return len(segments) > 1 or any(segment["workers"] > 1 for segment in segments)


def _more(more_g: float | None, base_g: float | None) -> str | None:
    """`+3.1 g, +12%`."""
    if more_g is None:
        return None
    if abs(more_g) <= 1e-9 * abs(base_g or 0.0):  # rounding
        more_g = 0.0
    if not base_g:
        return f"{more_g:+.3g} g"
    pct = 100 * more_g / base_g
    return f"{more_g:+.3g} g, {pct:+.0f}%" if abs(pct) >= 1 else f"{more_g:+.3g} g, {pct:+.1g}%"


def _time(iso: str) -> str:
    """A time of a document for people, to the minute."""
    return iso[:16].replace("T", " ")


def _end(start: str, end: str) -> str:
    """Without the date where it is that of the start."""
    return end[11:16] if end[:10] == start[:10] else _time(end)


def _length(seconds: float) -> str:
    from eco_ray.core.feasible import hours

    return hours(seconds)
