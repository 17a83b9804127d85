"""`eco-ray doctor`: what is measured, modelled or missing on each node, and which ports others can reach."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from eco_ray.cli.options import common_options
from eco_ray.cli.output import emit, print_table
from eco_ray.config import Settings
from eco_ray.errors import NoClusterError, UnreachableError


@click.command()
@common_options
def doctor(settings: Settings) -> None:
    """Check what is measured on each node, how to measure more, and what is exposed.

    Exit code 1 if a port of Ray or Serve can be reached from other machines and asks nobody for a token, or if that
    could not be found out: an agent or the controller of a cluster that was started here or given with --address does
    not answer, or Ray runs as another user. Where no cluster was ever started, this machine is looked at.
    """
    from eco_ray.on_ray.examine import examine_cluster, examine_this_machine

    try:
        document = examine_cluster(settings)
    except NoClusterError as error:
        click.echo(f"{error}\nThis machine only:", err=True)
        document = examine_this_machine()
    except UnreachableError as error:  # what nobody looked at may be open
        click.echo(f"{error}\nThis machine only, and the cluster's other nodes are not known:", err=True)
        document = examine_this_machine(unanswered=str(error))
    if settings.output == "table":
        _print(document)
    else:
        emit(settings, document)
    sys.exit(0 if document["ok"] else 1)


def _print(document: Mapping[str, Any]) -> None:
    nodes: Sequence[Mapping[str, Any]] = document["nodes"]
    print_table(
        [
            {
                "node": node["node"],
                "zone": node["zone"],
                "part": finding["part"],
                "energy is": finding["how"],
                "+-%": finding["error_pct"],
                "source": finding["source"],
            }
            for node in nodes
            for finding in node["findings"]
        ]
    )
    for node in nodes:
        if node["error"]:
            click.echo(f"\n{node['node']}: not examined: {node['error']}")
    cures: dict[tuple[str, str], list[str]] = {}
    for node in nodes:
        for finding in node["findings"]:
            if finding["better"]:
                cures.setdefault((finding["part"], finding["better"]), []).append(node["node"])
    if cures:
        click.echo("\nHow to know it better:")
    for (part, better), names in cures.items():
        click.echo(f"  {part} of {', '.join(names)}: {better}")
    if document["signals"]:
        click.echo()
        print_table(document["signals"])
    click.echo()
    _print_exposure(document)


def _print_exposure(document: Mapping[str, Any]) -> None:
    if document["open_ports"]:
        print_table(document["open_ports"])
    for one in document["not_seen"]:
        for process in one["processes"]:
            click.echo(f"{one['node']}: process {process['pid']} not examined, another user's: {process['process']}")
        if one["ports_of_unknown_owner"]:
            ports = ", ".join(map(str, one["ports_of_unknown_owner"]))
            click.echo(f"{one['node']}: reachable, of unknown owner (to root, `ss -ltnp` tells it): port {ports}")
    for problem in document["problems"]:
        click.echo(f"\n{problem}")
    if not document["open_ports"] and not document["problems"]:
        unsure = document["not_seen"] or any(node["error"] for node in document["nodes"])
        known = " that could be examined" if unsure else ""
        click.echo(f"No port of Ray or Serve{known} can be reached from other machines.")
