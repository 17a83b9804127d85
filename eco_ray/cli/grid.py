"""`eco-ray grid now | forecast`: carbon intensity with its source, kind, nature and age."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eco_ray.cli.options import common_options
from eco_ray.cli.output import emit, print_facts, when
from eco_ray.config import Settings
from eco_ray.times import compact_duration

if TYPE_CHECKING:
    from eco_ray.core.intensity import IntensitySeries
    from eco_ray.core.ports import GridSource

_HOUR_S = 3600.0
#: width of the plot [characters]
_BAR = 40


@click.group()
def grid() -> None:
    """Carbon intensity of electricity."""


def source_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that name a grid source: --cluster, or --source, --url and --kind."""
    options = [
        click.option("--cluster", type=click.Path(path_type=Path), help="Take the sources from this cluster file."),
        click.option("--source", help="profile (default), electricity-maps, watttime, neso, ... (docs/grid.md)."),
        click.option("--url", help="Server of that source, where it is not the public one."),
        click.option(
            "--kind",
            type=click.Choice(["average-lifecycle", "average-direct", "marginal"]),
            help="Default: that of the source.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def open_chosen(cluster: Path | None, chosen: dict[str, str], settings: Settings) -> GridSource:
    """The source that the options name. Raises UsageError."""
    from eco_ray.cluster_file import load_cluster_file
    from eco_ray.errors import UsageError
    from eco_ray.grid_file import Grid
    from eco_ray.schema import check

    # what a source answers stands in `why`
    logging.getLogger("eco_ray.grid").addHandler(logging.NullHandler())
    if cluster is None:
        return check(Grid, chosen, "options").open(settings.state_dir)
    if chosen:
        raise UsageError(f"--{next(iter(chosen))} does not go with --cluster, which names the sources; leave one out")
    return load_cluster_file(cluster, settings).grid.open(settings.state_dir)


def chosen_options(**options: str | None) -> dict[str, str]:
    """Those that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _ask(source: GridSource, zone: str, now_s: float, end_s: float) -> dict[str, Any]:
    """Ask a live source now, and say what is used and why nothing better is; nothing to say of others."""
    from eco_ray.core.ports import LiveGridSource

    if not isinstance(source, LiveGridSource):
        return {}
    source.refresh(zone, now_s, end_s)
    use = source.use(zone, now_s)
    return {"planned_with": use.source, "rung": use.rung, "why": use.why}


@grid.command()
@click.option("--zone", "zones", multiple=True, help="Zone; may be repeated. Default: all that the source knows.")
@click.option("--hours", type=click.IntRange(1, 336), help="Show the last hours of one zone instead.")
@source_options
@common_options
def now(
    zones: tuple[str, ...],
    hours: int | None,
    cluster: Path | None,
    source: str | None,
    url: str | None,
    kind: str | None,
    settings: Settings,
) -> None:
    """Intensity now, or of the last hours."""
    from eco_ray.core.ports import LiveGridSource
    from eco_ray.errors import EcoRayError, UsageError
    from eco_ray.service.control.documents import intensity_now

    opened = open_chosen(cluster, chosen_options(source=source, url=url, kind=kind), settings)
    if not zones and isinstance(opened, LiveGridSource):
        raise UsageError(f"--zone is missing; {opened.name} is asked zone by zone; give --zone DE, for example")
    if hours is not None:
        if len(zones) != 1:
            raise UsageError(f"--hours is of one zone, and {len(zones)} were given; give --zone once")
        _show_past(opened, zones[0], hours, settings)
        return
    rows: list[dict[str, Any]] = []
    for zone in zones or opened.zones():
        now_s = time.time()
        facts = _ask(opened, zone, now_s, now_s + _HOUR_S)
        try:
            series = opened.actual(zone, now_s, now_s)
        except EcoRayError:
            if not facts:
                raise
            rows.append(intensity_now(zone, None, now_s, facts))
        else:
            rows.append(intensity_now(zone, series, now_s, facts))
    emit(settings, rows, [{key: row[key] for key in row if key not in ("why", "planned_with")} for row in rows])
    if settings.output == "table":
        for row in rows:
            if row.get("why"):
                click.echo(f"\n{row['zone']} is planned with: {row['planned_with']}\n  instead of: {row['why']}")


def _show_past(source: GridSource, zone: str, hours: int, settings: Settings) -> None:
    now_s = time.time()
    facts = _ask(source, zone, now_s, now_s + _HOUR_S)
    series = source.actual(zone, now_s - hours * _HOUR_S, now_s)
    if settings.output == "table":
        print_facts({"zone": zone, "source": series.source, "kind": f"{series.kind}, {series.nature}"})
        click.echo()
    emit(settings, _document(series, facts, now_s), _plot(series))


@grid.command()
@click.option("--zone", required=True)
@click.option("--hours", type=click.IntRange(1, 336), default=24, show_default=True)
@source_options
@common_options
def forecast(
    zone: str,
    hours: int,
    cluster: Path | None,
    source: str | None,
    url: str | None,
    kind: str | None,
    settings: Settings,
) -> None:
    """What is known about the next hours."""
    opened = open_chosen(cluster, chosen_options(source=source, url=url, kind=kind), settings)
    now_s = time.time()
    end_s = now_s + hours * _HOUR_S
    facts = _ask(opened, zone, now_s, end_s)
    series = opened.forecast(zone, now_s, end_s)
    document = _document(series, facts, now_s)
    if settings.output == "table":
        age = "computed for every moment" if series.issued_s is None else f"{document['age_s']:.0f} s old"
        about = {
            "zone": zone,
            "source": series.source,
            "kind": f"{series.kind}, {series.nature}",
            "known": f"at {when(series.issued_s)} UTC, {age}",
            **({"instead of": facts["why"]} if facts.get("why") else {}),
        }
        if series.end_s < end_s:
            about["reaches"] = (
                f"{compact_duration(max(0.0, series.end_s - now_s))} of the {hours} h that were asked for"
            )
        print_facts(about)
        click.echo()
    emit(settings, document, _plot(series))


def _document(series: IntensitySeries, facts: dict[str, Any], now_s: float) -> dict[str, Any]:
    times = [when(series.start_s + i * series.step_s) for i in range(len(series.values_g_per_kwh))]
    return {
        "zone": series.zone,
        "source": series.source,
        "kind": str(series.kind),
        "nature": str(series.nature),
        "issued": when(series.issued_s),
        "age_s": None if series.issued_s is None else round(max(0.0, now_s - series.issued_s)),
        "step_s": series.step_s,
        "series": [
            [time_utc, round(float(value), 1)] for time_utc, value in zip(times, series.values_g_per_kwh, strict=True)
        ],
        "quantiles": {
            f"{level:g}": [round(float(value), 1) for value in of]
            for level, of in sorted(series.quantiles_g_per_kwh.items())
        },
        **facts,
    }


def _plot(series: IntensitySeries) -> list[dict[str, Any]]:
    """A line per hour at most, with a bar; finer steps are averaged for the eye alone."""
    each = max(1, round(_HOUR_S / series.step_s))
    starts = range(0, len(series.values_g_per_kwh), each)
    means = [float(series.values_g_per_kwh[i : i + each].mean()) for i in starts]
    top = max(*means, 1e-9)
    bands = {
        f"p{level * 100:g}": [round(float(of[i : i + each].mean()), 1) for i in starts]
        for level, of in sorted(series.quantiles_g_per_kwh.items())
    }
    return [
        {
            "time_utc": when(series.start_s + i * series.step_s),
            "g_per_kwh": round(mean, 1),
            **{name: of[row] for name, of in bands.items()},
            "": "█" * max(1, round(mean / top * _BAR)),
        }
        for row, (i, mean) in enumerate(zip(starts, means, strict=True))
    ]
