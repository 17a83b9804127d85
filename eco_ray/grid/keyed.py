"""The key of a source at the moment of a request: a source without one opens all the same, and says so when asked."""

from __future__ import annotations

from eco_ray.errors import UsageError
from eco_ray.grid.http import Fault, SourceError
from eco_ray.grid.keys import Secret, variable
from eco_ray.grid.sources import SourceOptions


def key_of(source: str, options: SourceOptions, where: str) -> Secret:
    """The key of `source`; `where` says where people get one. Raises SourceError (no-key) with the cure."""
    try:
        key = options.key(source)
    except UsageError as error:
        raise SourceError(f"{source}: {error}", Fault.NO_KEY) from None
    if key is None:
        name = variable(source)
        raise SourceError(f"{source}: no key; set {name} or {name}_FILE to one from {where}", Fault.NO_KEY)
    return key
