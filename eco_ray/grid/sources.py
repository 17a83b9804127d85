"""What a grid source is made from: `open_source(options)` of each module takes what it needs and refuses the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from eco_ray.core.intensity import SignalKind
from eco_ray.grid import keys
from eco_ray.grid.keys import Secret


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """The keys of `grid` in a cluster file that belong to one source."""

    #: None: what the source gives by default
    kind: SignalKind | None = None
    #: our zone -> the source's own name of it, where they differ
    zones: Mapping[str, str] = field(default_factory=dict)
    #: of its server; None: the public one
    url: str | None = None
    #: CSV trace, and forecasts by zone
    file: Path | None = None
    forecasts: Mapping[str, Path] = field(default_factory=dict)
    #: finds the key of a source by name
    key: Callable[[str], Secret | None] = keys.find

    def of_kind(self, kind: SignalKind) -> SourceOptions:
        """The same for another kind."""
        return replace(self, kind=kind)
