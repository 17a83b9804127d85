"""`eco-ray model deploy | undeploy | deployments`: registered models behind HTTP."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from eco_ray.acting_user import audited
from eco_ray.cli.model_variant import OPTIONS as VARIANT_OPTIONS
from eco_ray.cli.model_variant import shown as shown_variant
from eco_ray.cli.model_variant import variant_options, with_variant
from eco_ray.cli.options import common_options
from eco_ray.cli.output import emit
from eco_ray.cli.serving_rows import in_words
from eco_ray.config import Settings
from eco_ray.core.cluster import Resources
from eco_ray.core.deployments import Deployment
from eco_ray.errors import EcoRayError, NotFoundError, UsageError
from eco_ray.times import parse_duration

_MEMORY = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(GB|MB|GiB|MiB)?")
_MILLISECONDS = re.compile(r"([0-9]+(?:\.[0-9]+)?)ms")
_GB = {None: 1.0, "GB": 1.0, "MB": 1e-3, "GiB": 1.073741824, "MiB": 0.001048576}


def _memory(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    found = _MEMORY.fullmatch(text) if text else None
    if text and not found:
        raise click.BadParameter(f"{text!r} is no size; write 6GB or 512MB")
    return float(found[1]) * _GB[found[2]] if found else None


def _seconds(_context: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    if found := _MILLISECONDS.fullmatch(text):
        return float(found[1]) / 1000
    return parse_duration(text)


@click.command()
@click.argument("reference", metavar="NAME:V|NAME@ALIAS|FILE")
@click.option("--name", help="In URLs, of a FILE that is served without a registry.")
@click.option(
    "--canary", type=click.IntRange(0, 99), metavar="PERCENT", help="So many requests get this version; 0 ends it."
)
@click.option(
    "--slo-p95", "slo_p95_s", callback=_seconds, metavar="TIME", help="Promised 95th percentile, such as 200ms."
)
@click.option("--min", "min_replicas", type=click.IntRange(0, 1000), help="Replicas at least [1].")
@click.option("--max", "max_replicas", type=click.IntRange(1, 1000), help="Replicas at most [the least].")
@click.option("--cpus", type=click.FloatRange(0.01, 1024), help="That each replica holds [1].")
@click.option("--memory", "memory_gb", callback=_memory, metavar="SIZE", help="That each replica holds, such as 2GB.")
@click.option("--gpus", type=click.FloatRange(0, 1024), help="That each replica holds, also a part of one.")
@click.option(
    "--gpu-memory", "gpu_memory_gb", callback=_memory, metavar="SIZE", help="That each replica takes, such as 6GB."
)
@click.option("--batch-wait", "batch_wait_s", callback=_seconds, metavar="TIME", help="For others to be computed with.")
@click.option("--zone", "zones", multiple=True, help="Grid zones that replicas may be in; repeatable [all].")
@click.option(
    "--routing", type=click.Choice(["default", "round-robin"]), help="Who gets a request [fewest connections]."
)
@variant_options
@click.option("--shared", is_flag=True, help="By replicas that it shares with all models that are deployed so.")
@click.option(
    "--per-zone", is_flag=True, default=None, help="Replicas in each zone; requests go to where they emit least."
)
@click.option("--registry", metavar="URL", help="A directory, or s3://, gs://, az:// [STATE_DIR/models].")
@common_options
def deploy(
    reference: str,
    name: str | None,
    canary: int | None,
    registry: str | None,
    shared: bool,
    settings: Settings,
    **options: Any,
) -> None:
    """Serve a version of a model over HTTP; with --canary beside the one that is served.

    With --variant, a smaller version answers a part of the requests while the grid is dirty.

    A version that fails its smoke request gets no traffic, and what was served before is served on.
    """
    from eco_ray.on_ray.serving_client import ServingClient

    client = ServingClient(settings)
    known = {one.model: one for one in client.deployments()}
    wanted = _wanted(reference, name, registry, settings)
    before = known.get(wanted.model)
    shared = shared or (before is not None and before.shared)
    if shared:
        _check_shared(wanted.model, {**options, "canary": canary})
    if canary is not None:
        if before is None:
            raise NotFoundError(f"no model {wanted.model!r} is deployed; deploy it without --canary first")
        if (wanted.registry, wanted.path) != (before.registry, before.path) or before.path:
            raise UsageError(f"the canary of {before.model} is another version from {before.registry or 'a registry'}")
        wanted = replace(before, canary=wanted.version if canary else None, canary_percent=canary)
    elif before is not None:
        kept = {key: getattr(wanted, key) for key in ("version", "follows", "registry", "path", "sha256")}
        wanted = replace(before.promoted(wanted.version), **kept)
    wanted = with_variant(wanted, options, canary)
    version = wanted.reference(wanted.version if wanted.canary is None else wanted.canary)
    try:
        row = client.deploy(replace(_with_options(wanted, options), shared=shared), before)
    except EcoRayError as error:
        client.audit(audited("refuse-model", version, str(error)[:1000]))
        raise
    client.audit(audited("deploy-model", f"{row['model']}:{row['canary'] or row['version']}", row["url"]))
    emit(settings, row)


@click.command()
@click.argument("name")
@common_options
def undeploy(name: str, settings: Settings) -> None:
    """Serve a model no more, its canary neither; requests that are under way are answered."""
    from eco_ray.on_ray.serving_client import ServingClient

    client = ServingClient(settings)
    client.undeploy(name)
    client.audit(audited("undeploy-model", name, ""))
    emit(settings, {"model": name, "state": "undeployed"})


@click.command()
@common_options
def deployments(settings: Settings) -> None:
    """What is served: versions, replicas, URLs."""
    from eco_ray.on_ray.serving_client import ServingClient

    rows = ServingClient(settings).rows()
    shown = [
        {
            "model": f"{row['model']}:{row['version']}",
            "follows": row["follows"],
            "canary": f"{row['canary']} ({row['canary_percent']} %)" if row["canary"] else "",
            "variant": shown_variant(row["variant"]),
            "replicas": "{min}-{max}".format(**row["replicas"])
            + (" shared" if row["shared"] else " per zone" if row["zones"] else ""),
            **({"zones": _zones(row)} if any(one["zones"] for one in rows) else {}),
            "state": row["state"],
            "url": row["url"],
            "message": row["message"] or (row["traffic"] or {}).get("why", ""),
            "now": row["scaling"] and in_words({"model": row["model"], **row["scaling"]}),
        }
        for row in rows
    ]
    emit(settings, rows, shown, empty="no model is deployed; `eco-ray model deploy NAME@ALIAS` deploys one")


def _zones(row: dict[str, Any]) -> str:
    """Zones with their parts of the requests, and what the model emits against what it would at home."""
    parts = ", ".join(
        zone["zone"] if zone["share"] is None else f"{zone['zone']} {zone['share']:.0%}" for zone in row["zones"]
    )
    now_g, home_g = ((row["traffic"] or {}).get(key) for key in ("grams_per_h", "home_grams_per_h"))
    if now_g is None:
        return parts
    return f"{parts}; {now_g:.3g} g/h" + (f", at home {home_g:.3g}" if home_g is not None else "")


def _wanted(reference: str, name: str | None, registry: str | None, settings: Settings) -> Deployment:
    """Which model in which version, from where."""
    from eco_ray.models.manifest import checked_name, parse_reference
    from eco_ray.open_registry import open_registry

    path = Path(reference)
    if path.exists() or path.suffix in (".safetensors", ".onnx", ".pt2", ".gguf"):
        if not path.exists():
            raise NotFoundError(f"no model at {path}")
        if name is None:
            raise UsageError(f"{path} has no name in a registry: give it one for URLs with --name")
        return Deployment(checked_name(name), 1, path=str(path.absolute()), sha256=_digest(path))
    if name is not None:
        raise UsageError(f"--name is for files; {reference} has its name in the registry")
    where = open_registry(settings, registry)
    model, version = where.resolve(reference)
    _, meant = parse_reference(reference)
    return Deployment(model, version, meant if isinstance(meant, str) else "", registry=where.url)


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder with their names."""
    whole = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256")
            whole.update(f"{file.relative_to(path)} {digest.hexdigest()}\n".encode())
    return whole.hexdigest()


#: of replicas that a model has by itself
_OF_ITS_OWN = {
    **{"canary": "--canary", "slo_p95_s": "--slo-p95", "min_replicas": "--min", "max_replicas": "--max"},
    **{"cpus": "--cpus", "memory_gb": "--memory", "gpus": "--gpus", "gpu_memory_gb": "--gpu-memory"},
    **{"batch_wait_s": "--batch-wait", "zones": "--zone", "routing": "--routing", "per_zone": "--per-zone"},
    **VARIANT_OPTIONS,
}


def _check_shared(model: str, options: dict[str, Any]) -> None:
    """Raise UsageError for what shared replicas cannot do for one of their models."""
    given = [option for key, option in _OF_ITS_OWN.items() if options.get(key) not in (None, ())]
    if given:
        raise UsageError(
            f"{', '.join(given)} is for replicas of a model's own, and those of {model} are shared; leave it out, or "
            f"deploy {model} without --shared, after `eco-ray model undeploy {model}` where it is served"
        )


def _with_options(wanted: Deployment, options: dict[str, Any]) -> Deployment:
    """With what was asked for; what was not, stays as it was."""
    given = {key: value for key, value in options.items() if value is not None}
    demand = wanted.demand
    if "gpu_memory_gb" in given and "gpus" not in given:
        demand = replace(demand, gpus=0.0)  # by the memory
    demand = Resources(
        given.get("cpus", demand.cpus),
        given.get("gpus", demand.gpus),
        given.get("memory_gb", demand.memory_gb),
        given.get("gpu_memory_gb", demand.gpu_memory_gb),
    )
    least = given.get("min_replicas", wanted.min_replicas)
    most = given.get("max_replicas", max(1, least) if "min_replicas" in given else wanted.max_replicas)
    if most < least:
        raise UsageError(f"--max {most} is less than --min {least}; raise one or lower the other")
    return replace(
        wanted,
        min_replicas=least,
        max_replicas=most,
        demand=demand,
        slo_p95_s=given.get("slo_p95_s", wanted.slo_p95_s),
        batch_wait_s=given.get("batch_wait_s", wanted.batch_wait_s),
        per_zone=given.get("per_zone", wanted.per_zone),
        zones=tuple(given["zones"]) if given.get("zones") else wanted.zones,
        round_robin=given["routing"] == "round-robin" if "routing" in given else wanted.round_robin,
    )
