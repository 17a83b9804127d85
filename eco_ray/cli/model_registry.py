"""`eco-ray model push | list | show | history | pull | verify | promote | rollback | delete | gc`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from eco_ray.cli.audit import audited, user
from eco_ray.cli.options import common_options
from eco_ray.cli.output import emit
from eco_ray.cli.progress import transfer_bar
from eco_ray.config import Settings, mask_url
from eco_ray.errors import EcoRayError, NotAllowedError, UsageError

if TYPE_CHECKING:
    from eco_ray.core.transfers import Transfer
    from eco_ray.models.manifest import Manifest, Training
    from eco_ray.models.registry import Registry

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path)
_WHY = click.option("--why", default="", help="For the record.")
_PICKLE = click.option("--allow-pickle", is_flag=True, help="Pickles run code when they are loaded.")


def open_registry(
    settings: Settings, url: str | None = None, progress: Callable[[int, int, str], None] | None = None
) -> Registry:
    """The registry of an option, of the settings, or of the state directory; with the key that is set.

    Raises UsageError for what is no key.
    """
    from eco_ray.models.crypt import find_key
    from eco_ray.models.part_cache import PartCache
    from eco_ray.models.registry import Registry

    url = url or settings.registry_url or str(settings.state_dir / "models")
    most_bytes = settings.registry_cache_gb * 10**9
    return Registry(
        url,
        by=user(),
        ledger=_Ledger(settings),
        key=find_key(settings.registry_key_file),
        cache=PartCache(settings.state_dir / "cache" / "models", most_bytes) if most_bytes else None,
        progress=progress or (lambda _done, _total, _what: None),
        on_pickle=lambda direction, version: _write_down(settings, url, direction, version),
    )


class _Ledger:
    """The ledger of the state directory, opened when something was moved; a model is not held up where it is not."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def add_transfers(self, transfers: Iterable[Transfer]) -> int:
        from eco_ray.store import open_store

        try:
            store = open_store(self._settings.store_url)
            try:
                return store.add_transfers(transfers)
            finally:
                store.close()
        except EcoRayError as error:
            click.echo(f"what was moved is not in the ledger: {error}", err=True)
            return 0


def _write_down(settings: Settings, url: str, direction: str, version: Manifest) -> None:
    """A row in the audit log for a pickle, or no pickle."""
    from eco_ray.store import open_store

    detail = f"sha256 {version.sha256}, registry {mask_url(url)}"
    try:
        store = open_store(settings.store_url)
        try:
            store.add_audit([audited(f"{direction}-pickle", version.reference, detail)])
        finally:
            store.close()
    except EcoRayError as error:
        raise NotAllowedError(
            f"no {direction} of the pickle {version.reference}: it is written into the audit log first, and that "
            f"failed: {error}"
        ) from error


def _registry_option(function: F) -> F:
    return click.option("--registry", metavar="URL", help="A directory, or s3://, gs://, az:// [STATE_DIR/models].")(
        common_options(function)
    )


@click.command()
@click.argument("file", type=_FILE)
@click.argument("name")
@click.option("--metric", "metrics", multiple=True, metavar="KEY=VALUE", help="Such as accuracy=0.987; repeatable.")
@click.option("--job", metavar="ID", help="The job that trained it: its joules and grams come from the ledger.")
@click.option("--lineage", multiple=True, metavar="KEY=VALUE", help="Such as data=NAME; repeatable.")
@click.option("--tag", "tags", multiple=True, help="Repeatable.")
@click.option("--framework", default="", help="Such as torch 2.13.")
@click.option("--signature", type=_FILE, help="A JSON file that describes inputs and outputs.")
@click.option("--alias", help="Let this alias mean the new version.")
@_PICKLE
@_registry_option
def push(
    file: Path,
    name: str,
    metrics: tuple[str, ...],
    job: str | None,
    lineage: tuple[str, ...],
    tags: tuple[str, ...],
    framework: str,
    signature: Path | None,
    alias: str | None,
    allow_pickle: bool,
    registry: str | None,
    settings: Settings,
) -> None:
    """Keep FILE, or a folder with a model and its tokenizer, as the next version of model NAME."""
    from eco_ray.models.find_signature import find_signature
    from eco_ray.models.registry import About
    from eco_ray.models.signature import read_signature

    about = About(
        framework=framework,
        signature=read_signature(signature) if signature else None,
        metrics={key: _value(text) for key, text in map(_pair, metrics)},
        lineage={**dict(map(_pair, lineage)), **({"job": job} if job else {})},
        training=_training(settings, job) if job else None,
        tags=tags,
    )
    with transfer_bar(settings) as bar:
        where = open_registry(settings, registry, bar)
        made = where.push(file, name, about, allow_pickle=allow_pickle)
    if alias:
        where.promote(made.reference, alias)
    emit(settings, {**_document(made), **_moved(where)}, [{**_row(made, where), **_moved_row(where)}])
    if made.signature is None:
        click.echo(f"{made.reference} has no signature: {find_signature(file, made.format).why}", err=True)


def _training(settings: Settings, job: str) -> Training:
    """What the ledger has of a job. Raises NotFoundError where it has nothing."""
    from eco_ray.core.ledger_sums import ledger_sums
    from eco_ray.core.units import MJ_PER_J
    from eco_ray.errors import NotFoundError
    from eco_ray.models.manifest import Training
    from eco_ray.store import open_store

    store = open_store(settings.store_url, create=False)
    found = next((line for line in ledger_sums(store.hourly(), "job") if line.key == job), None)
    store.close()
    if found is None:
        raise NotFoundError(f"the ledger has no job {job!r}; `eco-ray job list` shows the jobs")
    source = f"ledger, {', '.join(found.sources)}"
    return Training(
        energy_j=found.energy_mj / MJ_PER_J,
        operational_g=found.operational_g,
        nature=found.carbon_nature,
        source=source,
    )


@click.command(name="list")
@click.argument("name", required=False)
@_registry_option
def list_(name: str | None, registry: str | None, settings: Settings) -> None:
    """All models, or all versions of model NAME."""
    where = open_registry(settings, registry)
    if name is None:
        rows = [
            {"model": one, "versions": len(where.versions(one)), "aliases": _aliases(where, one)}
            for one in where.models()
        ]
        emit(settings, rows, rows, empty=f"no models in {where.url}; `eco-ray model push FILE NAME` adds one")
        return
    found = [where.manifest(f"{name}:{version}") for version in where.versions(name)]
    gone, aliases = where.deleted(name), where.aliases(name)
    documents = [
        {
            **_document(one),
            "deleted": one.version in gone,
            "aliases": [k for k, v in aliases.items() if v == one.version],
        }
        for one in found
    ]
    emit(
        settings, documents, [_row(one, where, gone, aliases) for one in found], empty=f"no model {name} in {where.url}"
    )


@click.command()
@click.argument("reference", metavar="NAME:V|NAME@ALIAS")
@_registry_option
def show(reference: str, registry: str | None, settings: Settings) -> None:
    """Everything that is known of a version: files, metrics, lineage, energy and grams of its training."""
    where = open_registry(settings, registry)
    found = where.manifest(reference)
    aliases = [alias for alias, version in where.aliases(found.name).items() if version == found.version]
    document = {**_document(found), "deleted": found.version in where.deleted(found.name), "aliases": aliases}
    emit(settings, document)


@click.command()
@click.argument("name")
@click.option("--alias", help="Of this alias only.")
@_registry_option
def history(name: str, alias: str | None, registry: str | None, settings: Settings) -> None:
    """Which version was live when: every move of the aliases of model NAME."""
    events = open_registry(settings, registry).history(name, alias)
    rows = [event.model_dump(mode="json") for event in events]
    shown = [{key: row[key] for key in ("at", "alias", "action", "version", "by", "why")} for row in rows]
    emit(settings, rows, shown, empty=f"no alias of {name} was ever moved")


@click.command()
@click.argument("reference", metavar="NAME:V|NAME@ALIAS")
@click.argument("target", metavar="FILE", type=_FILE)
@_PICKLE
@_registry_option
def pull(reference: str, target: Path, allow_pickle: bool, registry: str | None, settings: Settings) -> None:
    """Write the file of a version to FILE; every byte is compared with what was pushed."""
    with transfer_bar(settings) as bar:
        where = open_registry(settings, registry, bar)
        found = where.pull(reference, target, allow_pickle=allow_pickle)
    document = {**_document(found), "file": str(target), **_moved(where)}
    emit(settings, document, [{**_row(found, where), **_moved_row(where)}])


@click.command()
@click.argument("references", metavar="[NAME:V|NAME@ALIAS]...", nargs=-1)
@_registry_option
def verify(references: tuple[str, ...], registry: str | None, settings: Settings) -> None:
    """Read every byte again, of some versions or of all; exit code 1 if one is wrong."""
    from eco_ray.errors import DamagedError

    rows: list[dict[str, Any]] = []
    with transfer_bar(settings) as bar:
        where = open_registry(settings, registry, bar)
        chosen = references or tuple(
            f"{name}:{version}"
            for name in where.models()
            for version in where.versions(name)
            if version not in where.deleted(name)
        )
        for one in chosen:
            try:
                rows.append({"version": where.verify(one).reference, "ok": True, "problem": ""})
            except (DamagedError, NotAllowedError) as error:
                rows.append({"version": one, "ok": False, "problem": str(error)})
    emit(settings, {"ok": all(row["ok"] for row in rows), "versions": rows}, rows, empty=f"nothing in {where.url}")
    if not all(row["ok"] for row in rows):
        bad = sum(not row["ok"] for row in rows)
        raise DamagedError(f"{bad} of {len(rows)} versions are damaged, or sealed with a key that was not given")


@click.command()
@click.argument("reference", metavar="NAME:V|NAME@ALIAS")
@click.argument("alias")
@_WHY
@_registry_option
def promote(reference: str, alias: str, why: str, registry: str | None, settings: Settings) -> None:
    """Let ALIAS mean a version from now on."""
    emit(settings, open_registry(settings, registry).promote(reference, alias, why).model_dump(mode="json"))


@click.command()
@click.argument("reference", metavar="NAME@ALIAS")
@_WHY
@_registry_option
def rollback(reference: str, why: str, registry: str | None, settings: Settings) -> None:
    """Let an alias mean what it meant before."""
    name, at, alias = reference.partition("@")
    if not at:
        raise UsageError(f"{reference!r} is no alias: give NAME@ALIAS, such as mnist@prod")
    emit(settings, open_registry(settings, registry).rollback(name, alias, why).model_dump(mode="json"))


@click.command()
@click.argument("reference", metavar="NAME:V")
@_WHY
@_registry_option
def delete(reference: str, why: str, registry: str | None, settings: Settings) -> None:
    """Give the bytes of a version up (`gc` removes them); its record stays."""
    where = open_registry(settings, registry)
    emit(settings, _document(where.delete(reference, why)))


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be removed.")
@_registry_option
def gc(dry_run: bool, registry: str | None, settings: Settings) -> None:
    """Remove bytes that no version needs any more."""
    done = open_registry(settings, registry).gc(dry_run=dry_run)
    emit(
        settings,
        {"removed": list(done.removed), "freed_bytes": done.freed_bytes, "kept": done.kept, "dry_run": dry_run},
        [{"removed": len(done.removed), "freed_bytes": done.freed_bytes, "kept": done.kept}],
    )


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"{text!r} is not KEY=VALUE, such as accuracy=0.987")
    return key, value


def _value(text: str) -> float | int | str:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float) else text


def _document(found: Manifest) -> dict[str, Any]:
    document = found.model_dump(mode="json", exclude={"registry"})
    return {"reference": found.reference, **document}


def _moved(where: Registry) -> dict[str, Any]:
    return {"moved": dataclasses.asdict(where.moved)}


def _moved_row(where: Registry) -> dict[str, Any]:
    moved = where.moved
    return {"moved": moved.sent_bytes + moved.received_bytes, "reused": moved.reused_bytes}


def _aliases(where: Registry, name: str) -> str:
    return " ".join(f"{alias}={version}" for alias, version in where.aliases(name).items() if version is not None)


def _row(
    found: Manifest, where: Registry, gone: set[int] | None = None, aliases: dict[str, int | None] | None = None
) -> dict[str, Any]:
    aliases = where.aliases(found.name) if aliases is None else aliases
    gone = where.deleted(found.name) if gone is None else gone
    return {
        "version": found.reference,
        "created": found.created[:19].replace("T", " "),
        "format": found.format,
        "bytes": found.size,
        "kept": "deleted" if found.version in gone else found.blob.size,
        "aliases": " ".join(alias for alias, version in aliases.items() if version == found.version),
        "metrics": " ".join(f"{key}={value}" for key, value in found.metrics.items()),
    }
