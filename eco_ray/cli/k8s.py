"""`eco-ray k8s suspend-controller`: hold annotated RayJobs of KubeRay until their cleanest hour."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eco_ray.cli.grid import chosen_options, open_chosen, source_options
from eco_ray.cli.options import common_options
from eco_ray.config import Settings

if TYPE_CHECKING:
    from eco_ray.k8s.decision import Decision
    from eco_ray.k8s.keeper import Tell


@click.group()
def k8s() -> None:
    """Beside KubeRay, in a Kubernetes cluster."""


@k8s.command("suspend-controller")
@click.option("--apply", is_flag=True, help="Hold and release; without it only say what would be done.")
@click.option("--namespace", "namespaces", multiple=True, help="Look after these only; may be repeated [all].")
@click.option("--zone", help="Grid zone in which jobs run [home_zone of --cluster].")
@click.option("--launch-time", default="5m", show_default=True, help="From the release until the entrypoint runs.")
@click.option("--interval", default="60s", show_default=True, help="How often every job is looked at.")
@click.option("--liveness", "liveness_url", help="Answer probes there: http://0.0.0.0:8080/healthz.")
@source_options
@common_options
def suspend_controller(
    apply: bool,
    namespaces: tuple[str, ...],
    zone: str | None,
    launch_time: str,
    interval: str,
    liveness_url: str | None,
    cluster: Path | None,
    source: str | None,
    url: str | None,
    kind: str | None,
    settings: Settings,
) -> None:
    """Hold annotated RayJobs by spec.suspend, and release them when they are planned; a dry run without --apply."""
    from eco_ray.errors import UsageError

    if find_spec("kopf") is None:
        raise UsageError("kopf is not installed, which talks to Kubernetes here; pip install 'eco-ray[k8s]'")
    from eco_ray.core.situation import PlannerConfig
    from eco_ray.k8s.decision import Rules
    from eco_ray.k8s.operator import Options, run

    grid = open_chosen(cluster, chosen_options(source=source, url=url, kind=kind), settings)
    rules = Rules(
        home_zone=_zone(zone, cluster, settings),
        planner=PlannerConfig(slot_s=settings.slot_s, horizon_s=settings.horizon_s),
        default_max_delay_s=settings.default_max_delay_s,
        launch_s=_seconds("--launch-time", launch_time, 0.0, 86_400.0),
    )
    options = Options(apply, namespaces, _seconds("--interval", interval, 1.0, 3_600.0), liveness_url)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # a line for each event of the watch
    if not apply:
        click.echo("Dry run: nothing is written; --apply holds and releases.", err=True)
    run(grid, rules, options, _show(settings))


def _zone(zone: str | None, cluster: Path | None, settings: Settings) -> str:
    from eco_ray.cluster_file import load_cluster_file
    from eco_ray.errors import UsageError

    if zone is not None:
        return zone
    if cluster is None:
        raise UsageError("--zone is missing: the grid zone in which jobs run; give --zone DE, say, or --cluster FILE")
    return load_cluster_file(cluster, settings).home_zone


def _seconds(option: str, text: str, low_s: float, high_s: float) -> float:
    from eco_ray.errors import UsageError
    from eco_ray.times import compact_duration, parse_duration

    value_s = parse_duration(text)
    if not low_s <= value_s <= high_s:
        limits = f"{compact_duration(low_s)} to {compact_duration(high_s)}"
        raise UsageError(f"{option} {text}: it is outside {limits}; give a duration between them")
    return value_s


#: done, and would be done
_WORDS = {
    "hold": ("held", "would hold"),
    "release": ("released", "would release"),
    "refuse": ("left alone", "left alone"),
}


def _show(settings: Settings) -> Tell:
    """One line for each decision: words, or a JSON object."""

    def show(body: Mapping[str, Any], decision: Decision, done: bool) -> None:
        from eco_ray.times import iso_utc

        meta, now = body["metadata"], iso_utc(time.time())
        name = f"{meta.get('namespace', 'default')}/{meta['name']}"
        if settings.output == "table":
            word = _WORDS[str(decision.act)][0 if done else 1]
            click.echo(f"{now} {name}: {word}: {decision.message}")
            return
        until = None if decision.until_s is None else iso_utc(decision.until_s)
        document = {
            "time": now,
            "rayjob": name,
            "act": str(decision.act),
            "done": done,
            "reason": str(decision.reason),
            "message": decision.message,
            "until": until,
        }
        click.echo(json.dumps(document))

    return show
