"""`eco-ray grid now | forecast`: carbon intensity with its source."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eco_ray.cli.options import common_options
from eco_ray.cli.output import emit, when
from eco_ray.config import Settings

if TYPE_CHECKING:
    from eco_ray.core.ports import GridSource


@click.group()
def grid() -> None:
    """Carbon intensity of electricity."""


def _source(cluster: Path | None, settings: Settings) -> GridSource:
    from eco_ray.grid import open_grid

    if cluster is None:
        return open_grid("profile")
    from eco_ray.cluster_file import load_cluster_file

    described = load_cluster_file(cluster, settings).grid
    return open_grid(described.source, described.file, described.forecasts)


@grid.command()
@click.option("--zone", "zones", multiple=True, help="Zone; may be repeated. Default: all that the source knows.")
@click.option("--cluster", type=click.Path(path_type=Path), help="Take the source from this cluster file.")
@common_options
def now(zones: tuple[str, ...], cluster: Path | None, settings: Settings) -> None:
    """Intensity now."""
    source = _source(cluster, settings)
    now_s = time.time()
    rows: list[dict[str, Any]] = []
    for zone in zones or source.zones():
        series = source.actual(zone, now_s, now_s)
        rows.append(
            {
                "zone": zone,
                "intensity_g_per_kwh": round(series.at(now_s), 1),
                "kind": str(series.kind),
                "nature": str(series.nature),
                "source": series.source,
            }
        )
    emit(settings, rows, rows)


@grid.command()
@click.option("--zone", required=True)
@click.option("--hours", type=click.IntRange(1, 240), default=24, show_default=True)
@click.option("--cluster", type=click.Path(path_type=Path), help="Take the source from this cluster file.")
@common_options
def forecast(zone: str, hours: int, cluster: Path | None, settings: Settings) -> None:
    """What is known about the next hours."""
    now_s = time.time()
    series = _source(cluster, settings).forecast(zone, now_s, now_s + hours * 3600)
    values = [float(v) for v in series.values_g_per_kwh]
    top = max(values)
    rows: list[dict[str, Any]] = [
        {
            "time_utc": when(series.start_s + i * series.step_s),
            "g_per_kwh": round(value, 1),
            "": "█" * max(1, round(value / top * 40)),
        }
        for i, value in enumerate(values)
    ]
    document = {
        "zone": zone,
        "source": series.source,
        "kind": str(series.kind),
        "nature": str(series.nature),
        "issued": when(series.issued_s),
        "step_s": series.step_s,
        "series": [[row["time_utc"], row["g_per_kwh"]] for row in rows],
        "quantiles": {
            f"{level:g}": [round(float(value), 1) for value in of]
            for level, of in sorted(series.quantiles_g_per_kwh.items())
        },
    }
    if settings.output == "table":
        click.echo(f"{zone}: {series.nature}, {series.kind}, from {series.source}, issued {when(series.issued_s)} UTC")
    emit(settings, document, rows)
