"""`eco-ray ledger query | verify | correct | export | transfers | avoided`: the energy ledger."""

from __future__ import annotations

import getpass
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from eco_ray.cli.options import common_options
from eco_ray.cli.output import emit
from eco_ray.config import Settings
from eco_ray.core.avoided import AVOIDED_BY, avoided_sums
from eco_ray.core.clock import Clock
from eco_ray.core.intensity import SignalKind
from eco_ray.core.ledger import Correction
from eco_ray.core.ledger_sums import BY, ledger_sums
from eco_ray.core.units import MJ_PER_J, Nature
from eco_ray.errors import NotFoundError, UsageError
from eco_ray.times import iso_utc, parse_instant
from eco_ray.whole_file import whole_file


def _instant(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float | None:
    return None if text is None else parse_instant(text)


def _span(required: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """--from and --to."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        for name, parameter, words in (("--to", "end_s", "before"), ("--from", "start_s", "from")):
            function = click.option(
                name,
                parameter,
                callback=_instant,
                required=required,
                help=f"Only {words} this instant (ISO 8601, UTC).",
            )(function)
        return function

    return add


@click.group()
def ledger() -> None:
    """Energy and carbon that were accounted."""


@ledger.command()
@click.option("--by", type=click.Choice(BY), default="job", show_default=True)
@_span()
@click.option("--tenant", help="Only what this tenant's jobs and models used.")
@click.option("--zone", help="Only what was used in this grid zone.")
@common_options
def query(
    by: str, start_s: float | None, end_s: float | None, tenant: str | None, zone: str | None, settings: Settings
) -> None:
    """Energy and operational carbon (location-based), summed; by zone, day, node and kind with what is nobody's."""
    from eco_ray.service.control.documents import ledger_line
    from eco_ray.store import open_store

    _check_span(start_s, end_s)
    store = open_store(settings.store_url, create=False)
    sums = ledger_sums(store.hourly(start_s, end_s), by, tenant=tenant, zone=zone)
    rows = [ledger_line(by, line) for line in sums]
    emit(settings, rows, [_shown(row) for row in rows], "the ledger holds nothing of this")


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A line for people: less of it, and a name where there is none."""
    left_out = ("intensity_age_s", "sources", "carbon_nature")
    return {key: value if value != "" else "(none)" for key, value in row.items() if key not in left_out}


@ledger.command()
@click.option("--expect-head", metavar="HASH", help="A head that was noted down earlier: it must still be there.")
@common_options
def verify(expect_head: str | None, settings: Settings) -> None:
    """Check that every interval's parts sum to its whole and that no row was changed; exit code 1 otherwise.

    Time that two lives of a node's agent counted is told too (`overlaps`): such rows are what was written.
    """
    from eco_ray.store import open_store

    store = open_store(settings.store_url, create=False)
    chain, sums = store.verify_chain(expect_head), store.check_ledger()
    document = {
        "rows": sums.rows,
        "ok": chain.ok and not sums.residual_mj,
        "residual_mj": sums.residual_mj,
        "broken": list(dict.fromkeys([*sums.broken, *chain.broken])),
        "chain_ok": chain.ok,
        "entries": chain.entries,
        "head": chain.head,
        "problems": list(chain.problems),
        "overlaps": [str(found) for found in store.overlaps()],
    }
    emit(settings, document)
    sys.exit(0 if document["ok"] else 1)


@ledger.command()
@click.option("--zone", required=True, help="The grid zone whose intensity was wrong.")
@_span(required=True)
@click.option("--g-per-kwh", type=float, required=True, help="What it was [gCO2e/kWh].")
@click.option("--reason", required=True, help="Why, in words: it stays in the ledger.")
@click.option("--source", default="correction", show_default=True, help="Where the value comes from.")
@click.option(
    "--kind", type=click.Choice([kind.value for kind in SignalKind]), help="Default: that of the zone's signal."
)
@click.option("--nature", type=click.Choice([nature.value for nature in Nature]), default="assumed", show_default=True)
@common_options
def correct(
    zone: str, start_s: float, end_s: float, g_per_kwh: float, reason: str, source: str, kind: str | None, nature: str,
    settings: Settings,
) -> None:  # fmt: skip
    """Correct a zone's carbon intensity of intervals that lie within a span: new rows, the old ones stay."""
    from eco_ray.store import open_store

    _check_span(start_s, end_s)
    store = open_store(settings.store_url, create=False)
    found = store.intervals_of(zone, start_s, end_s)
    if not found:
        raise NotFoundError(f"no interval of zone {zone!r} lies within that span: see `eco-ray ledger query --by zone`")
    if kind is None:
        known = {str(row["zone"]): str(row["kind"]) for row in store.signal_sources()}
        kind = known.get(zone, SignalKind.AVERAGE_LIFECYCLE.value)
    made_s = Clock(**(store.get_meta("clock") or {})).grid_s(time.time())
    count = store.add_corrections(
        Correction(
            *(node, boot_id, seq, reason, getpass.getuser(), made_s, Nature(nature)),
            intensity_g_per_kwh=g_per_kwh,
            intensity_source=source,
            intensity_kind=kind,
        )
        for node, boot_id, seq in found
    )
    emit(settings, {"corrected": count})


@ledger.command()
@click.option("--format", "format_", type=click.Choice(["csv", "json"]), default="csv", show_default=True)
@_span()
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="A file; default: standard output.")
@common_options
def export(format_: str, start_s: float | None, end_s: float | None, out: Path | None, settings: Settings) -> None:
    """CSV in CodeCarbon's columns, a row per attempt or model; or JSON with hashes, to redo chain and sums."""
    from eco_ray.store import open_store
    from eco_ray.store.export import export_csv, export_json

    _check_span(start_s, end_s)
    store = open_store(settings.store_url, create=False)
    write = export_csv if format_ == "csv" else export_json
    if out is None:
        write(store, sys.stdout, start_s, end_s)
        return
    try:
        with whole_file(out) as file:
            count = write(store, file, start_s, end_s)
    except OSError as error:
        raise UsageError(f"the export cannot be written to {out}: {error.strerror}; give another --out") from error
    click.echo(f"{count} rows in {out}", err=True)


@ledger.command()
@_span()
@common_options
def transfers(start_s: float | None, end_s: float | None, settings: Settings) -> None:
    """What pushes and pulls of models moved, and the energy of the network for it: an estimate, in no other sum."""
    from eco_ray.store import open_store

    _check_span(start_s, end_s)
    found = open_store(settings.store_url, create=False).transfers(start_s, end_s)
    rows = [
        {
            "time": iso_utc(one.time_s),
            "model": one.owner_id,
            "direction": one.direction,
            "place": one.place,
            "moved_bytes": one.moved_bytes,
            "reused_bytes": one.reused_bytes,
            "energy_j": one.energy_mj / MJ_PER_J,
            "nature": one.nature.value,
            "source": one.source,
        }
        for one in found
    ]
    emit(settings, rows, rows, "nothing was pushed or pulled")


@ledger.command()
@click.option("--by", type=click.Choice(AVOIDED_BY), default="tenant", show_default=True)
@_span()
@common_options
def avoided(by: str, start_s: float | None, end_s: float | None, settings: Settings) -> None:
    """Energy and carbon that caches of answers avoided, summed: an estimate, in no other sum."""
    from eco_ray.store import open_store

    _check_span(start_s, end_s)
    found = open_store(settings.store_url, create=False).avoided(start_s, end_s)
    rows = [
        {
            by: line.key,
            "hits": line.hits,
            "energy_j": line.energy_mj / MJ_PER_J,
            "operational_g": line.operational_g,
            "nature": line.nature.value,
            "intensity_kinds": list(line.intensity_kinds),
            "sources": list(line.sources),
        }
        for line in avoided_sums(found, by)
    ]
    emit(settings, rows, [_shown(row) for row in rows], "no cache avoided anything")


def _check_span(start_s: float | None, end_s: float | None) -> None:
    if start_s is not None and end_s is not None and end_s <= start_s:
        raise UsageError("--to is not after --from: give a span with a length")
