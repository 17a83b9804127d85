"""What `eco-ray model` shows of versions, aliases and deletions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from eco_ray.models.manifest import Deletion, Manifest
    from eco_ray.models.registry import Registry


def document(found: Manifest) -> dict[str, Any]:
    """A version in JSON."""
    document = found.model_dump(mode="json", exclude={"registry"})
    return {"reference": found.reference, **document}


def moved(where: Registry) -> dict[str, Any]:
    """What went to and from the store, in JSON."""
    return {"moved": dataclasses.asdict(where.moved)}


def moved_row(where: Registry) -> dict[str, Any]:
    """What went to and from the store, for people."""
    told = where.moved
    return {"moved_bytes": told.sent_bytes + told.received_bytes, "reused_bytes": told.reused_bytes}


def means(where: Registry, name: str) -> dict[str, str]:
    """What the aliases of a model mean."""
    told, damaged = where.all_aliases(name)
    warn(name, damaged)
    known = [f"{alias}={version}" for alias, version in told.items() if version is not None]
    return {"aliases": " ".join([*known, *(f"{alias}=?" for alias in damaged)])}


def warn(name: str, damaged: Mapping[str, str]) -> None:
    """Tell of aliases whose last move is damaged."""
    for alias, problem in damaged.items():
        click.echo(f"nobody knows what {name}@{alias} means: {problem}", err=True)


def more(deletion: Deletion | None, aliases: list[str]) -> dict[str, Any]:
    """What is known of a version beside its manifest."""
    deleted = None if deletion is None else deletion.model_dump(mode="json", include={"at", "by", "why"})
    return {"deleted": deleted, "aliases": aliases}


def row(found: Manifest, deletion: Deletion | None = None, aliases: Iterable[str] = ()) -> dict[str, Any]:
    """A version for people."""
    return {
        "version": found.reference,
        "created": found.created[:19].replace("T", " "),
        "format": found.format,
        "bytes": found.size,
        "kept_bytes": found.blob.size if deletion is None else "deleted",
        "aliases": " ".join(aliases),
        "metrics": " ".join(f"{key}={value}" for key, value in found.metrics.items()),
    }
