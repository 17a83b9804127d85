"""Printing: tables for people, JSON and YAML for programs; nothing but the result goes to stdout."""

from __future__ import annotations

import json
import math
import shutil
import sys
import textwrap
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
        click.echo(json.dumps(_finite(value), indent=2, allow_nan=False))
    elif settings.output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(_finite(value), sort_keys=False, allow_unicode=True), nl=False)
    elif table is not None:
        print_table(table, empty)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            click.echo(f"{key}: {_cell(item)}")
    else:
        click.echo(_cell(value))


def _finite(value: Any) -> Any:
    """With null for what is no finite number: JSON has none of those, and strict readers refuse the whole document."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


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


def print_facts(facts: Mapping[str, str]) -> None:
    """A line per fact, its name before it; on a terminal long ones are wrapped, elsewhere they stay whole."""
    margin = max(map(len, facts)) + 2
    width = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 0
    for name, text in facts.items():
        lines = textwrap.wrap(text, max(20, width - margin), break_on_hyphens=False) if width else [text]
        for index, line in enumerate(lines or [""]):
            click.echo(f"{'' if index else name:<{margin}}{line}".rstrip())


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
