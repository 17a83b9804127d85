"""`eco-ray config show`: the settings in force, and where each comes from."""

from __future__ import annotations

import click

from eco_ray import config as configuration
from eco_ray.cli.options import common_options
from eco_ray.cli.output import emit
from eco_ray.config import Settings


@click.group()
def config() -> None:
    """Settings."""


@config.command()
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@common_options
def show(origin: bool, settings: Settings) -> None:
    """Print the settings; passwords are masked."""
    values = configuration.shown(settings)
    if not origin:
        emit(settings, values)
        return
    origins = configuration.origin(settings)
    rows = [{"setting": key, "value": value, "origin": origins.get(key, "default")} for key, value in values.items()]
    emit(settings, {row["setting"]: {"value": row["value"], "origin": row["origin"]} for row in rows}, rows)
