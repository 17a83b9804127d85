"""`eco-ray power limits|cap|restore`: what GPUs may draw."""

from __future__ import annotations

from pathlib import Path

import click

from eco_ray.cli.options import common_options
from eco_ray.cli.output import emit
from eco_ray.config import Settings
from eco_ray.core.ports import PowerDevice
from eco_ray.power.capping import JOURNAL, open_control

_journal = click.option(
    "--journal",
    type=click.Path(path_type=Path),
    default=JOURNAL,
    show_default=True,
    help="Where it is kept what to give back; the same file for everyone on this machine.",
)


@click.command()
@common_options
def limits(settings: Settings) -> None:
    """The GPUs of this machine: their power limit, its range, and the clocks that can be locked."""
    control = open_control()
    rows = [_row(device) for device in control.devices()]
    control.close()
    emit(settings, {"gpus": rows}, rows, empty="no GPU here tells its power limits")


@click.command()
@click.option("--gpu", required=True, help="UUID or index of the GPU, by `eco-ray power limits`.")
@click.option("--watts", type=float, required=True, help="Power limit [W].")
@_journal
@common_options
def cap(gpu: str, watts: float, journal: Path, settings: Settings) -> None:
    """Limit the power of a GPU until `eco-ray power restore` or a reboot; needs root."""
    control = open_control(journal)
    try:
        control.set_limit(gpu, watts)
        rows = [_row(device) for device in control.devices() if gpu in (device.id, str(device.index))]
    finally:
        control.close()
    emit(settings, {"gpus": rows}, rows)


@click.command()
@_journal
@common_options
def restore(journal: Path, settings: Settings) -> None:
    """Give GPUs back the limits and clocks that they had before `power cap`, or before a crash; needs root."""
    control = open_control(journal)
    try:
        restored = list(control.restore())
    finally:
        control.close()
    emit(settings, {"restored": restored}, [{"restored": device} for device in restored], empty="nothing to give back")


def _row(device: PowerDevice) -> dict[str, object]:
    low, high = device.clocks_mhz or (None, None)
    return {
        "gpu": device.id,
        "index": device.index,
        "name": device.name,
        "limit_w": device.limit_w,
        "default_w": device.default_w,
        "min_w": device.min_w,
        "max_w": device.max_w,
        "min_mhz": low,
        "max_mhz": high,
    }
