"""`eco-ray up | down | status` and `eco-ray node list`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from eco_ray.cli.options import common_options
from eco_ray.cli.output import emit, when
from eco_ray.cli.serving_rows import in_words, serving_rows
from eco_ray.config import Settings
from eco_ray.core.clock import Clock

DEFAULT_CLUSTER = Path("cluster/laptop.yaml")


@click.command()
@click.option("--cluster", type=click.Path(path_type=Path), default=DEFAULT_CLUSTER, show_default=True)
@click.option("--speed", type=float, help="Grid seconds per wall second; wins over the cluster file's clock.")
@common_options
def up(cluster: Path, speed: float | None, settings: Settings) -> None:
    """Start a cluster on this machine; with --address, only controller and agents on one that runs."""
    from eco_ray.cluster_file import load_cluster_file
    from eco_ray.on_ray import bootstrap

    described = load_cluster_file(cluster, settings)

    def clock() -> Clock:
        return described.clock.to_clock(time.time(), speed)

    if settings.address:
        record = bootstrap.attach(described, settings, clock(), settings.address)
    else:
        record = bootstrap.up(described, settings, clock)
    facts = {
        "cluster": record.name,
        "address": record.address,
        "job_api": record.dashboard_url,
        "token_file": record.token_file,
        "state_dir": str(settings.state_dir),
        "zones": list(described.zones),
        "clock_speed": clock().speed,
    }
    emit(settings, facts)
    if settings.output == "table" and record.token_file and record.temp_dir:
        click.echo(
            "\nFor Ray's own commands:\n"
            f"  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={record.token_file} RAY_ADDRESS={record.dashboard_url}",
            err=True,
        )


@click.command()
@common_options
def down(settings: Settings) -> None:
    """End the cluster; jobs and ledger are kept in the state directory."""
    from eco_ray.on_ray import bootstrap

    record = bootstrap.down(settings)
    message = f"cluster {record.name} is down" if record else f"no cluster was up in {settings.state_dir}"
    emit(settings, {"message": message, "state_dir": str(settings.state_dir)})


@click.command()
@common_options
def status(settings: Settings) -> None:
    """Controller, clock, nodes and open jobs."""
    from eco_ray.on_ray.client import Client
    from eco_ray.on_ray.serving.drain_record import META_KEY, shown

    client = Client(settings)
    facts, models = client.status(), serving_rows(client.settings)
    told: dict[str, Any] = {"models": models}
    if settings.output == "table":
        told = {f"model {row['model']}:{row['version']}": in_words(row) for row in models}
    emit(
        settings,
        {
            "cluster": facts["cluster"],
            "grid_time": when(facts["now_s"]) + " UTC",
            "clock_speed": facts["clock_speed"],
            "nodes": facts["nodes"],
            "open_jobs": facts["open_jobs"],
            "signals": facts["signals"],
            **told,
            "consolidation": shown(client.store.get_meta(META_KEY)),
            "state_dir": str(settings.state_dir),
        },
    )


@click.group()
def node() -> None:
    """Nodes of the cluster."""


@node.command("list")
@common_options
def node_list(settings: Settings) -> None:
    """Nodes with their zone, CPUs, and energy so far (from the store)."""
    from eco_ray.store import open_store

    store = open_store(settings.store_url, create=False)
    cluster: dict[str, Any] = store.get_meta("cluster") or {}
    energy = {row.node: row for row in store.node_energy()}
    rows = []
    for facts in cluster.get("nodes", []):
        used = energy.get(facts["name"])
        rows.append(
            {
                "node": facts["name"],
                "zone": facts["zone"],
                "cpus": facts["num_cpus"],
                "pue": facts["pue"],
                "energy_j": used.energy_mj / 1000 if used else None,
                "unallocated_j": used.unallocated_mj / 1000 if used else None,
                "power_source": facts["power_source"],
            }
        )
    emit(settings, rows, rows, "no nodes yet; `eco-ray up` starts a cluster")
