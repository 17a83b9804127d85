"""Carbon intensity of the grid: one file per source, all of them `core.ports.GridSource`.

profile  modelled, offline, for the zones of mixes.py: the default
trace    CSV of what was, with the forecasts that were really issued where there are any
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from eco_ray.core.intensity import SignalKind
from eco_ray.core.ports import GridSource
from eco_ray.errors import UsageError
from eco_ray.grid.asking import nearest
from eco_ray.grid.profile import ModelledProfile
from eco_ray.grid.trace import CsvTrace

__all__ = ["open_grid", "ModelledProfile", "CsvTrace", "SOURCES"]

SOURCES = ("profile", "trace")


def open_grid(
    source: str,
    file: Path | None = None,
    forecasts: Mapping[str, Path] | None = None,
    kind: SignalKind = SignalKind.AVERAGE_LIFECYCLE,
) -> GridSource:
    """The grid source that a configuration names; `file`, `forecasts` (by zone) and `kind` belong to a trace."""
    if source == "trace":
        if file is None:
            raise UsageError("grid source 'trace' has no file; one is needed; give the path of its CSV")
        return CsvTrace(file, forecasts, kind)
    if source == "profile":
        extra = [str(file)] if file is not None else [str(path) for path in (forecasts or {}).values()]
        if extra:
            raise UsageError(
                f"grid source 'profile' reads no file, but {extra[0]} was given; it is modelled; "
                "use source 'trace' or leave the file out"
            )
        if kind is not SignalKind.AVERAGE_LIFECYCLE:
            raise UsageError(
                f"grid source 'profile' cannot be {kind}; it is {SignalKind.AVERAGE_LIFECYCLE}; use a trace for that"
            )
        return ModelledProfile()
    near = nearest(source, SOURCES)
    hint = f"; nearest name: {near}" if near else ""
    raise UsageError(f"no grid source {source!r}{hint}; it is one of {', '.join(SOURCES)}; correct it")
