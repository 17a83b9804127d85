"""Printing: tables for people, JSON and YAML for programs; nothing but the result goes to stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from eco_ray.config import Settings

#: a pretty table of more rows than this takes seconds to lay out
_PRETTY_ROWS = 200


def emit(settings: Settings, value: Any, table: Sequence[Mapping[str, Any]] | None = None, empty: str = "") -> None:
    """Print a value as the settings say; `table` is what people see of it."""
    if settings.output == "json":
        click.echo(json.dumps(value, indent=2))
    elif settings.output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)
    elif table is not None:
        print_table(table, empty)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            click.echo(f"{key}: {_cell(item)}")
    else:
        click.echo(_cell(value))


def print_table(rows: Sequence[Mapping[str, Any]], empty: str = "") -> None:
    """A table with one line per row; columns are the keys of the first row."""
    if not rows:
        click.echo(empty or "nothing to show", err=True)
        return
    if not sys.stdout.isatty() or len(rows) > _PRETTY_ROWS:  # plain columns for pipes, logs and long lists
        widths = {k: max(len(k), *(len(_cell(r.get(k))) for r in rows)) for k in rows[0]}
        for line in [{k: k for k in rows[0]}, *rows]:
            click.echo("  ".join(_cell(line.get(k)).ljust(widths[k]) for k in rows[0]).rstrip())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for key in rows[0]:
        table.add_column(key, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(key)) for key in rows[0]))
    Console().print(table)


def when(time_s: float | None) -> str:
    """A grid time for people, UTC."""
    return "-" if time_s is None else datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e6 else f"{value:.0f}"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_cell(item)}" for key, item in value.items())
    return str(value)
