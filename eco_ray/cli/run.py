"""`eco-ray run -- CMD`: waits for its place in time and space, then runs CMD there; made for `ray job submit`."""

from __future__ import annotations

import sys

import click

from eco_ray.cli.options import common_options
from eco_ray.config import Settings


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--deadline", help="Latest finish: 6h from now, or 2026-11-23T08:00Z.")
@click.option("--max-delay", help="Latest finish, as a duration from now.")
@click.option("--expected-duration", help="How long it computes: 3h.")
@click.option("--not-before", help="Earliest start.")
@click.option("--zones", help="Allowed zones: DE,FR.")
@click.option("--policy", help="eco [default], run-now or another of docs/job-file.md.")
@click.option("--min-saving-pct", help="Do not wait for less.")
@click.option("--tenant", help="Who it is for.")
@click.option("--name", help="Its name; default: from the command.")
@click.option("--num-cpus", help="CPUs that each worker holds while it runs [1].")
@click.option("--num-gpus", help="GPUs that each worker holds while it runs [0].")
@click.option("--memory-gb", help="Memory that each worker holds while it runs [0].")
@click.option("--gpu-memory-gb", help="GPU memory that each worker holds while it runs [0].")
@click.option("--min-workers", help="Fewest workers, with which --expected-duration counts [1].")
@click.option("--max-workers", help="Most workers; COMMAND finds their number in ECO_RAY_WORKERS.")
@click.option("--budget-g", help="It does not start where it would emit more [g].")
@click.option("--budget-kwh", help="It does not start where it would use more [kWh].")
@click.option("--workdir", help="Folder whose snapshot it gets; inside a Ray job: that job's.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@common_options
def run(command: tuple[str, ...], settings: Settings, **flags: str | None) -> None:
    """Run COMMAND where and when it is cleanest; its output and exit code become those of this process."""
    from eco_ray.on_ray.run_command import run_command

    sys.exit(run_command(list(command), flags, settings))
