"""`eco-ray demo`: the main job, end to end, on this machine."""

from __future__ import annotations

from pathlib import Path

import click

import eco_ray
from eco_ray.cli.options import common_options
from eco_ray.cli.output import emit, when
from eco_ray.config import Settings


@click.command()
@click.option("--speed", type=click.FloatRange(300, 3600), default=720.0, show_default=True, help="Grid s per wall s.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("eco-ray-demo"), show_default=True)
@click.option("--keep", is_flag=True, help="Leave the cluster up afterwards.")
@common_options
def demo(speed: float, out: Path, keep: bool, settings: Settings) -> None:
    """Run three real training jobs on a real Ray cluster, greener: delayed, suspended, resumed, placed elsewhere."""
    from eco_ray.cli.report import print_summary
    from eco_ray.on_ray.demo import Demo

    settings = _with_demo_state(settings)
    root = Path.cwd() if (Path.cwd() / "jobs").is_dir() else Path(eco_ray.__file__).parents[1]
    run = Demo(settings, root, out, speed, keep)
    click.echo(
        f"Grid time runs {speed:g} times as fast as your clock: 1 s counts as {speed / 60:g} min, energy is power x "
        f"grid time.\nPower and carbon intensity are modelled, not measured.\n",
        err=True,
    )
    for line in run.run():
        stamp = when(line.grid_s)[5:] if line.grid_s is not None else " " * 11
        click.echo(f"{stamp}  {line.text}", err=True)
    if settings.output != "table":
        emit(settings, run.document)
        return
    click.echo("", err=True)
    print_summary(run.document)
    more = [f"{out / 'report.html'}    open it in a browser", f"{out / 'report.json'}"]
    options = f"--state-dir {settings.state_dir}"
    more += [f"eco-ray {command} {options}" for command in ("job list", "ledger query", "report --out DIR")]
    click.echo("\nLook further:\n  " + "\n  ".join(more), err=True)


def _with_demo_state(settings: Settings) -> Settings:
    """The demo has a state directory of its own, unless one is asked for, and never touches a real cluster's."""
    from eco_ray.config import origin

    if origin(settings).get("state_dir", "default") != "default":
        return settings
    state_dir = settings.state_dir.parent / "demo"
    return settings.model_copy(update={"state_dir": state_dir, "store_url": f"sqlite:///{state_dir / 'eco_ray.db'}"})
