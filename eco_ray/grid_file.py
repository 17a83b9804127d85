"""The key `grid` of cluster files: where carbon intensity comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from eco_ray import schema
from eco_ray.errors import UsageError
from eco_ray.schema import Label, Strict
from eco_ray.yaml_file import Document

if TYPE_CHECKING:
    from eco_ray.core.ports import GridSource


class SourceFile(Strict):
    """One source of carbon intensity (docs/grid.md)."""

    #: profile, trace, electricity-maps, ...: `eco_ray.grid.names()`
    source: str = Field(default="profile", min_length=1, max_length=100)
    #: CSV trace
    file: Path | None = None
    #: zone: file of forecasts
    forecasts: dict[Label, Path] = Field(default_factory=dict)
    #: zone: the source's own name of it, where they differ
    zones: dict[Label, Annotated[str, Field(min_length=1, max_length=100)]] = Field(default_factory=dict)
    #: server of the source, where it is not the public one
    url: str | None = Field(default=None, min_length=1, max_length=500)

    @field_validator("source")
    @classmethod
    def _known(cls, source: str) -> str:
        from eco_ray.grid import names

        if source not in names():
            near = schema.nearest(source, names())
            hint = f"; nearest: {near}" if near else ""
            raise ValueError(f"{source!r} is no grid source{hint}; give one of {', '.join(names())}")
        return source

    @model_validator(mode="after")
    def _fits(self) -> SourceFile:
        if self.source == "trace" and self.file is None:
            raise ValueError("source trace needs file: the CSV with the intensities")
        if self.source != "trace" and (self.file is not None or self.forecasts):
            raise ValueError(
                f"file and forecasts have no effect with source {self.source}; set source: trace, or remove them"
            )
        return self


class Grid(SourceFile):
    """Where carbon intensity comes from: one source, or several in the order of preference."""

    sources: list[SourceFile] = Field(default_factory=list, max_length=20)
    #: of all zones: kinds are never planned together; default: that of the first source
    kind: Literal["average-lifecycle", "average-direct", "marginal"] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Grid:
        single = self.model_fields_set - {"sources", "kind"}
        if self.sources and single:
            raise ValueError(f"{', '.join(sorted(single))} does not go with sources; move it into one of them")
        return self

    @property
    def parts(self) -> tuple[SourceFile, ...]:
        """The sources in the order of preference."""
        return tuple(self.sources) or (self,)

    @property
    def live(self) -> tuple[str, ...]:
        """The sources that tell only the real present."""
        from eco_ray.grid import is_live

        return tuple(part.source for part in self.parts if is_live(part.source))

    def check_clock(self, speed: float, *, starts_now: bool) -> None:
        """Raises UsageError where a source tells the real present to a clock that shows another."""
        if self.live and (speed != 1.0 or not starts_now):
            raise UsageError(
                f"grid source {self.live[0]!r} tells the real present, and this clock is not real (speed {speed:g}"
                f"{'' if starts_now else ', its own start'}); use speed 1 and start now, or source profile or trace"
            )

    def open(self, state_dir: Path | None = None) -> GridSource:
        """The source that a cluster plans with; `state_dir` keeps what live ones told, and holds keys. UsageError."""
        from eco_ray.core.intensity import SignalKind
        from eco_ray.grid import SourceOptions, keys, open_grid

        kind = SignalKind(self.kind) if self.kind else None

        def key(name: str) -> keys.Secret | None:
            return keys.find(name, None if state_dir is None else state_dir / keys.FOLDER)

        parts = [
            (part.source, SourceOptions(kind, part.zones, part.url, part.file, part.forecasts, key))
            for part in self.parts
        ]
        return open_grid(parts, kind, None if state_dir is None else state_dir / "grid")

    def resolved(self, cluster_path: Path, document: Document) -> Grid:
        """The same with absolute paths, relative to the cluster file's folder. Raises UsageError for a missing file."""

        def existing(file: Path, *keys: str | int) -> Path:
            found = (cluster_path.absolute().parent / file.expanduser()).resolve()
            if not found.is_file():
                line = document.line_of(("grid", *keys))
                raise UsageError(
                    f"{document.where}, line {line}: grid.{'.'.join(map(str, keys))}: no file {found}; "
                    "paths are relative to the cluster file's folder"
                )
            return found

        def files(part: SourceFile, *keys: str | int) -> dict[str, Any]:
            forecasts = {zone: existing(file, *keys, "forecasts", zone) for zone, file in part.forecasts.items()}
            return {"file": part.file and existing(part.file, *keys, "file"), "forecasts": forecasts}

        if not self.sources:
            return self.model_copy(update=files(self))
        parts = [part.model_copy(update=files(part, "sources", at)) for at, part in enumerate(self.sources)]
        return self.model_copy(update={"sources": parts})
