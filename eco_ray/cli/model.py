"""`eco-ray model`: model files in fewer bytes, and the registry of their versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eco_ray.cli.options import LazyGroup
from eco_ray.cli.output import emit
from eco_ray.config import load_settings

if TYPE_CHECKING:
    from eco_ray.models.container import Report

_FILE = click.Path(path_type=Path)


_REGISTRY = ("push", "list", "show", "history", "pull", "verify", "promote", "rollback", "unalias", "delete", "gc")
_LAZY = {name: f"eco_ray.cli.model_registry:{'list_' if name == 'list' else name}" for name in _REGISTRY}
_LAZY |= {name: f"eco_ray.cli.model_{name}:{name}" for name in ("compress", "explain")}
_LAZY |= {name: f"eco_ray.cli.model_serve:{name}" for name in ("deploy", "undeploy", "deployments")}


@click.group(cls=LazyGroup, lazy=_LAZY)
def model() -> None:
    """Models: a registry of versions, and files in fewer bytes."""


@model.command()
@click.argument("source", metavar="IN.safetensors", type=_FILE)
@click.option("-o", "--out", "target", metavar="OUT.ecoz", type=_FILE, required=True, help="The container to write.")
@click.option("--base", metavar="OLD.ecoz", type=_FILE, help="Keep only the difference from this older version.")
@click.option(
    "--backend", type=click.Choice(["zlib", "openzl"]), default="zlib", show_default=True,
    help="Who codes: openzl is faster, and then needed to unpack.",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 64), help="Threads [cores, 8 at most].")
@click.pass_context
def pack(
    context: click.Context, source: Path, target: Path, base: Path | None, backend: Any, workers: int | None
) -> None:
    """Write a safetensors file as a lossless container of fewer bytes; it is read back before it counts as written."""
    from eco_ray.models import container

    _tell(context, container.pack(source, target, base=base, backend=backend, workers=workers))


@model.command()
@click.argument("source", metavar="IN.ecoz", type=_FILE)
@click.option("-o", "--out", "target", metavar="OUT.safetensors", type=_FILE, required=True, help="The file to write.")
@click.option("--base", metavar="OLD.ecoz", type=_FILE, help="The base version, if it does not lie where it lay.")
@click.option("--workers", type=click.IntRange(1, 64), help="Threads [cores, 8 at most].")
@click.pass_context
def unpack(context: click.Context, source: Path, target: Path, base: Path | None, workers: int | None) -> None:
    """Write the safetensors file that was packed, every byte as it was; if any byte is wrong none, nor an old one."""
    from eco_ray.models import container

    _tell(context, container.unpack(source, target, base=base, workers=workers))


def _tell(context: click.Context, report: Report) -> None:
    # `-o` is the file here, so the way of printing is told before the command: `eco-ray -o json model pack ...`
    output = (context.find_root().obj or {}).get("output")
    settings = load_settings({"output": output} if output else {})
    document = {
        "tensors": report.tensors,
        "safetensors_bytes": report.safetensors_bytes,
        "container_bytes": report.container_bytes,
        "ratio": report.ratio,
        "depth": report.depth,
    }
    emit(settings, document)
