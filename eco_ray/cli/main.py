"""The command line: `eco-ray COMMAND`."""

from __future__ import annotations

import click

from eco_ray import __version__
from eco_ray.cli.options import LazyGroup, run


@click.group(
    cls=LazyGroup,
    lazy={
        "up": "eco_ray.cli.cluster:up",
        "down": "eco_ray.cli.cluster:down",
        "status": "eco_ray.cli.cluster:status",
        "doctor": "eco_ray.cli.doctor:doctor",
        "demo": "eco_ray.cli.demo:demo",
        "job": "eco_ray.cli.job:job",
        "run": "eco_ray.cli.run:run",
        "node": "eco_ray.cli.cluster:node",
        "grid": "eco_ray.cli.grid:grid",
        "model": "eco_ray.cli.model:model",
        "power": "eco_ray.cli.power:power",
        "ledger": "eco_ray.cli.ledger:ledger",
        "key": "eco_ray.cli.key:key",
        "k8s": "eco_ray.cli.k8s:k8s",
        "report": "eco_ray.cli.report:report",
        "simulate": "eco_ray.cli.simulate:simulate",
        "config": "eco_ray.cli.config:config",
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), help="How to print [table].")
@click.option("--address", help="Ray cluster: auto or HOST:PORT; default: the one that `eco-ray up` started.")
@click.option("--state-dir", type=click.Path(), help="Where the cluster keeps its database, logs and tokens.")
@click.version_option(__version__, prog_name="eco-ray")
@click.pass_context
def cli(ctx: click.Context, output: str | None, address: str | None, state_dir: str | None) -> None:
    """AI training and serving on Ray, where and when the electricity is cleanest."""
    ctx.obj = {"output": output, "address": address, "state_dir": state_dir}


def main() -> None:
    """Entry point."""
    run(cli)


if __name__ == "__main__":
    main()
