"""The templates of the pages."""

from __future__ import annotations

from collections.abc import Callable

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def page(name: str, **filters: Callable[..., str]) -> Template:
    """A template of this room: it escapes what it shows, and refuses what it does not know."""
    environment = Environment(
        loader=PackageLoader("eco_ray.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(name)
