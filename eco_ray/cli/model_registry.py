"""`eco-ray model push | list | show | history | pull | verify | promote | rollback | unalias | delete | gc`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from eco_ray.cli.model_rows import document, means, more, moved, moved_row, row, warn
from eco_ray.cli.options import common_options
from eco_ray.cli.output import emit
from eco_ray.cli.progress import transfer_bar
from eco_ray.cli.serving_rows import in_words, served_as, serving_rows
from eco_ray.config import Settings
from eco_ray.errors import EcoRayError, NotAllowedError, UsageError
from eco_ray.open_registry import open_registry

if TYPE_CHECKING:
    from eco_ray.models.manifest import Training

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path)
_WHY = click.option("--why", default="", help="For the record.")
_PICKLE = click.option("--allow-pickle", is_flag=True, help="Pickles run code when they are loaded.")


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
    from eco_ray.models.crypt import CURE
    from eco_ray.models.find_signature import find_signature
    from eco_ray.models.manifest import checked_name
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
    if alias:
        checked_name(alias, "alias")
    with transfer_bar(settings) as bar:
        where = open_registry(settings, registry, bar)
        if not where.seals and (newest := where.newest(name)) is not None and newest.blob.sealed_with:
            click.echo(f"{newest.reference} is sealed, and what is pushed now is not: {CURE}", err=True)
        made = where.push(file, name, about, allow_pickle=allow_pickle)
    emit(settings, {**document(made), **moved(where)}, [{**row(made), **moved_row(where)}])
    if made.signature is None:
        click.echo(f"{made.reference} has no signature: {find_signature(file, made.format).why}", err=True)
    if alias:
        try:
            where.promote(made.reference, alias)
        except EcoRayError as error:
            raise type(error)(f"{made.reference} was pushed, but {name}@{alias} does not mean it: {error}") from error


def _training(settings: Settings, job: str) -> Training:
    """What the ledger has of a job. Raises NotFoundError where it has nothing."""
    from eco_ray.core.ledger_sums import ledger_sums
    from eco_ray.core.units import MJ_PER_J
    from eco_ray.errors import NotFoundError
    from eco_ray.models.manifest import Training
    from eco_ray.store import open_store

    with contextlib.closing(open_store(settings.store_url, create=False)) as store:
        found = next((line for line in ledger_sums(store.hourly(), "job") if line.key == job), None)
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
        rows = [{"model": one, "versions": len(where.versions(one)), **means(where, one)} for one in where.models()]
        emit(settings, rows, rows, empty=f"no models in {where.url}; `eco-ray model push FILE NAME` adds one")
        return
    gone, (meant, damaged) = where.deleted(name), where.all_aliases(name)
    names = defaultdict[int | None, list[str]](list)
    for alias, version in meant.items():
        names[version].append(alias)
    warn(name, damaged)
    shown: list[dict[str, Any]] = []
    for version, found in where.manifests(name):
        if isinstance(found, EcoRayError):
            lost = {"reference": f"{name}:{version}", "name": name, "version": version, "problem": str(found)}
            click.echo(str(found), err=True)
            shown.append({"version": lost["reference"], "format": "damaged"} if settings.output == "table" else lost)
        elif settings.output == "table":
            shown.append(row(found, gone.get(version), names[version]))
        else:
            shown.append({**document(found), "problem": "", **more(gone.get(version), names[version])})
    emit(settings, shown, shown)


@click.command()
@click.argument("reference", metavar="NAME:V|NAME@ALIAS")
@_registry_option
def show(reference: str, registry: str | None, settings: Settings) -> None:
    """Everything that is known of a version: files, metrics, lineage, energy and grams of its training."""
    where = open_registry(settings, registry)
    found = where.manifest(reference)
    meant, damaged = where.all_aliases(found.name)
    warn(found.name, damaged)
    aliases = [alias for alias, version in meant.items() if version == found.version]
    served = served_as(serving_rows(settings), found.name, found.version, where.url)
    serving = {"serving": in_words(served) if served and settings.output == "table" else served}
    emit(settings, {**document(found), **more(where.deleted(found.name).get(found.version), aliases), **serving})


@click.command()
@click.argument("name")
@click.option("--alias", help="Of this alias only.")
@_registry_option
def history(name: str, alias: str | None, registry: str | None, settings: Settings) -> None:
    """Which version was live when: every move of the aliases of model NAME; and what was deleted."""
    from eco_ray.models.manifest import AliasEvent

    where = open_registry(settings, registry)
    rows: list[dict[str, Any]] = []
    for event in where.history(name, alias):
        if isinstance(event, AliasEvent):
            rows.append({**event.model_dump(mode="json"), "problem": ""})
        else:
            lost = {"version": None, "back": None, "at": "", "action": "damaged", "by": "", "why": ""}
            told = dataclasses.asdict(event)
            rows.append({key: told.pop(key) for key in ("model", "alias", "number")} | lost | told)
    if alias is None:
        nowhere = {"alias": "", "number": None, "back": None, "action": "delete", "problem": ""}
        rows += [{**nowhere, **one.model_dump(mode="json")} for one in where.deleted(name).values()]
        rows.sort(key=lambda row: str(row["at"]))
    shown = [
        {**{key: row[key] for key in ("at", "alias", "action", "version", "by")}, "why": row["problem"] or row["why"]}
        for row in rows
    ]
    emit(settings, rows, shown, empty=f"no alias of {name} was ever moved, and nothing deleted")


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
    emit(settings, {**document(found), "file": str(target), **moved(where)}, [{**row(found), **moved_row(where)}])


@click.command()
@click.argument("references", metavar="[NAME:V|NAME@ALIAS]...", nargs=-1)
@_registry_option
def verify(references: tuple[str, ...], registry: str | None, settings: Settings) -> None:
    """Read every byte again, of some versions or of all; exit code 1 if one is wrong."""
    from eco_ray.errors import DamagedError, NotFoundError

    rows: list[dict[str, Any]] = []
    with transfer_bar(settings) as bar:
        where = open_registry(settings, registry, bar)
        models = where.models()
        if not models:
            raise NotFoundError(f"no registry in {where.url}: there are no models; is it the right place?")
        gone = {name: where.deleted(name) for name in models} if not references else {}
        chosen = references or tuple(
            f"{name}:{version}" for name in models for version in where.versions(name) if version not in gone[name]
        )
        for one in chosen:
            try:
                rows.append({"version": where.verify(one).reference, "ok": True, "problem": ""})
            except (DamagedError, NotAllowedError) as error:
                rows.append({"version": one, "ok": False, "problem": str(error)})
        told = {one.partition(":")[0].partition("@")[0] for one in references} or models
        records = [
            {"record": record, "problem": problem} for name in sorted(told) for record, problem in where.problems(name)
        ]
    bad, shown = sum(not row["ok"] for row in rows), list(rows)
    shown += [{"version": one["record"], "ok": False, "problem": one["problem"]} for one in records]
    emit(settings, {"ok": not bad and not records, "versions": rows, "records": records}, shown)
    if bad:
        raise DamagedError(f"{bad} of {len(rows)} versions are damaged, or sealed with a key that was not given")
    if records:
        raise DamagedError(f"{len(records)} records of aliases or deletions are damaged, or lead nowhere")


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
    emit(settings, open_registry(settings, registry).rollback(*_alias(reference), why).model_dump(mode="json"))


@click.command()
@click.argument("reference", metavar="NAME@ALIAS")
@_WHY
@_registry_option
def unalias(reference: str, why: str, registry: str | None, settings: Settings) -> None:
    """Let an alias mean nothing from now on; its history stays, and `rollback` brings it back."""
    emit(settings, open_registry(settings, registry).unalias(*_alias(reference), why).model_dump(mode="json"))


@click.command()
@click.argument("reference", metavar="NAME:V")
@_WHY
@_registry_option
def delete(reference: str, why: str, registry: str | None, settings: Settings) -> None:
    """Give the bytes of a version up (`gc` removes them); its record stays. Once more: what was written then."""
    emit(settings, open_registry(settings, registry).delete(reference, why).model_dump(mode="json"))


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


def _alias(reference: str) -> tuple[str, str]:
    name, at, alias = reference.partition("@")
    if not at:
        raise UsageError(f"{reference!r} is no alias: give NAME@ALIAS, such as mnist@prod")
    return name, alias


def _value(text: str) -> float | int | str:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, int | float) else text
