"""Names of grid sources, and what a configuration of one or several of them opens.

A package can add sources by an entry point of the group `eco_ray.grid_sources`: its name is the source's, and it is a
function `open_source(options: SourceOptions) -> GridSource` (core/ports.py).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import cast

from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.ports import GridSource
from eco_ray.errors import EcoRayError, UsageError
from eco_ray.grid.asking import nearest
from eco_ray.grid.chain import Chain
from eco_ray.grid.sources import SourceOptions

GROUP = "eco_ray.grid_sources"
#: asked over a network
LIVE = ("electricity-maps", "watttime", "neso", "entsoe", "carbon-aware-sdk")
#: without a network, and last in a chain: what no source tells is taken from the first of them that has the kind
LAST_RESORTS = ("profile", "annual")
BUILT_IN = ("profile", "trace", *LIVE, "annual")


def names() -> tuple[str, ...]:
    """All sources: our own, then those of plug-ins."""
    return (*BUILT_IN, *sorted(_plug_ins()))


def is_live(source: str) -> bool:
    """Whether a source tells only the real present, as its server knows it; plug-ins are taken to do so."""
    return source in LIVE or source not in BUILT_IN


def open_source(name: str, options: SourceOptions | None = None) -> GridSource:
    """One source. Raises UsageError for an unknown name, and for options that have no meaning for it."""
    opener: Callable[[SourceOptions], GridSource]
    if name in BUILT_IN:
        opener = importlib.import_module(f"eco_ray.grid.{name.replace('-', '_')}").open_source
    elif (plug_in := _plug_ins().get(name)) is not None:
        opener = _loaded(plug_in)
    else:
        near = nearest(name, names())
        hint = f"; nearest name: {near}" if near else ""
        raise UsageError(f"no grid source {name!r}{hint}; it is one of {', '.join(names())}; correct it")
    return opener(options or SourceOptions())


def open_grid(
    parts: Sequence[tuple[str, SourceOptions]], kind: SignalKind | None = None, folder: Path | None = None
) -> GridSource:
    """What a cluster plans with: one offline source as it is, else a chain in the order of preference.

    `kind` None: that of the first source. `folder` keeps what live sources told. Raises UsageError.
    """
    if len(parts) == 1 and not is_live(parts[0][0]):
        return open_source(*_of_kind(parts[0], kind))
    asked = [part for part in parts if part[0] not in LAST_RESORTS]
    if not asked:
        raise UsageError(f"grid sources {', '.join(name for name, _ in parts)}: one of them is enough; name it alone")
    sources = []
    for part in asked:
        sources.append(open_source(*_of_kind(part, kind)))
        kind = kind or _kind(sources[-1])
    if kind is None:
        raise UsageError(f"grid source {asked[0][0]!r} does not say its kind; give grid.kind")
    for (name, _), source in zip(asked, sources, strict=True):
        if _kind(source) not in (None, kind):
            raise UsageError(
                f"grid source {name!r} is {_kind(source)}, not {kind}: kinds are never planned together; "
                "give grid.kind as a kind that all have, or leave the source out"
            )
    given = [part for part in parts if part[0] in LAST_RESORTS]
    missing = [(name, SourceOptions()) for name in LAST_RESORTS if name not in dict(given)]
    renamed = {zone: there for _, options in asked for zone, there in options.zones.items()}
    last = [one for part in (*given, *missing) if (one := _last_resort(part, kind, renamed)) is not None]
    return Chain(sources, kind, folder, last)


def _last_resort(part: tuple[str, SourceOptions], kind: SignalKind, zones: Mapping[str, str]) -> GridSource | None:
    """It, if it can be of that kind and is whole: it is a last resort, and no reason not to start."""
    try:
        source = open_source(*_of_kind(part, kind))
    except EcoRayError:
        return None
    return _Renamed(source, zones) if _kind(source) is kind else None


class _Renamed:
    """A source that also answers to the names which a cluster file gave to its zones: {munich: DE}."""

    def __init__(self, source: GridSource, zones: Mapping[str, str]) -> None:
        self.name = source.name
        self._source = source
        self._zones = {zone: there for zone, there in zones.items() if there in source.zones()}

    def zones(self) -> tuple[str, ...]:
        return (*self._zones, *self._source.zones())

    def actual(self, zone: str, start_s: float, end_s: float) -> IntensitySeries:
        return self._called(zone, self._source.actual(self._zones.get(zone, zone), start_s, end_s))

    def forecast(self, zone: str, now_s: float, end_s: float) -> IntensitySeries:
        return self._called(zone, self._source.forecast(self._zones.get(zone, zone), now_s, end_s))

    def _called(self, zone: str, series: IntensitySeries) -> IntensitySeries:
        if series.zone == zone:
            return series
        return replace(series, zone=zone, source=f"{series.source}, of {series.zone}")


def _of_kind(part: tuple[str, SourceOptions], kind: SignalKind | None) -> tuple[str, SourceOptions]:
    name, options = part
    return (name, options.of_kind(kind)) if kind is not None else part


def _kind(source: GridSource) -> SignalKind | None:
    return cast(SignalKind | None, getattr(source, "kind", None))


def _plug_ins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in BUILT_IN}


def _loaded(point: EntryPoint) -> Callable[[SourceOptions], GridSource]:
    try:
        return cast(Callable[[SourceOptions], GridSource], point.load())
    except Exception as error:  # whatever its import raises
        raise UsageError(
            f"grid source {point.name!r} of {point.value} cannot be loaded ({type(error).__name__}: {error}); "
            "install or remove its package"
        ) from error
