"""`eco-ray report`: report.html and report.json of a cluster's store."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from eco_ray.cli.options import common_options
from eco_ray.cli.output import emit, print_table
from eco_ray.config import Settings
from eco_ray.core.clock import Clock
from eco_ray.errors import UsageError


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("eco-ray-report"), show_default=True)
@common_options
def report(out: Path, settings: Settings) -> None:
    """Write report.html and report.json into a folder."""
    from eco_ray.report import write_report
    from eco_ray.store import open_store

    store = open_store(settings.store_url, create=False)
    clock = Clock(**(store.get_meta("clock") or {}))
    try:
        document = write_report(store, out, clock.grid_s(time.time()))
    except OSError as error:
        raise UsageError(f"the report cannot be written to {out}: {error}; give another folder with --out") from error
    if settings.output == "table":
        print_summary(document)
        click.echo(f"\n{out / 'report.html'}\n{out / 'report.json'}", err=True)
    else:
        emit(settings, document)


def print_summary(document: dict[str, Any]) -> None:
    """The jobs of a report as a short table, with the totals below."""
    rows = [
        {
            "job": job["id"],
            "state": job["state"] + (", late" if is_late(job) else ""),
            "where": " > ".join(s["zone"] for s in job["segments"]) or "-",
            "resumes": job["resumes"],
            "energy Wh": None if job["energy_j"] is None else job["energy_j"] / 3600,
            "carbon g": job["operational_g"],
            "run-now g": job["baseline_g"],
            "saved g": job["saved_g"],
            "result": result_of(job),
        }
        for job in document["jobs"]
    ]
    print_table(rows, "no jobs")
    totals = document["totals"]
    saved = totals["saved_g"]
    part = f" ({saved / totals['baseline_g']:.0%})" if totals["baseline_g"] else ""
    natures = sorted({job["nature"] for job in document["jobs"]})
    click.echo(
        f"\nSaved {saved:.4g} g{part} against running every job at once in {document['home_zone']}. "
        f"Unallocated: {totals['unallocated_j'] / 3600:.4g} Wh of {totals['node_energy_j'] / 3600:.4g} Wh; "
        f"residual {document['residual_mj']} mJ. Energies and carbon are {', '.join(natures) or 'unknown'}."
    )


def is_late(job: dict[str, Any]) -> bool:
    """Whether its last attempt ended after its deadline; times are ISO 8601 UTC and sort as text."""
    ends = [segment["end"] for segment in job["segments"] if segment["end"]]
    return bool(job["deadline"] and ends and max(ends) > job["deadline"])


def result_of(job: dict[str, Any]) -> str:
    """The figure that tells how well a job did."""
    for key in ("accuracy", "mse"):
        if key in job["metrics"]:
            return f"{key} {job['metrics'][key]:.4g}"
    return "-"
