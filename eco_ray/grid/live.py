"""What clients of live services share: the options that they refuse, spans in pieces, and forecasts that hold `now`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from eco_ray.core.intensity import IntensitySeries, Kind
from eco_ray.errors import UsageError
from eco_ray.grid.asking import iso
from eco_ray.grid.http import Fault, SourceError
from eco_ray.grid.points import shown, wrong
from eco_ray.grid.sources import SourceOptions

#: seconds since the epoch, as `time.time`
Clock = Callable[[], float]

#: requests that one question may take
MAX_REQUESTS = 40
#: what a server's clock may be ahead of ours [s]
MAX_AHEAD_S = 3_600.0


def kind_of(source: str, options: SourceOptions, *kinds: Kind) -> Kind:
    """The kind that was asked for, the first of `kinds` by default. Raises UsageError for one that there is not."""
    asked = options.kind or kinds[0]
    for kind in kinds:
        if kind is asked:
            return kind
    raise UsageError(
        f"grid source {source!r} cannot be {asked}; it is {' or '.join(kinds)}; correct kind, or use another source"
    )


def refuse(source: str, options: SourceOptions, *names: str) -> None:
    """Raises UsageError where one of these options, which mean nothing to the source, was given."""
    for name in names:
        if value := getattr(options, name):
            given = ", ".join(value) if isinstance(value, Mapping) else value
            raise UsageError(f"grid source {source!r} has no use for {name}, but {given} was given; leave {name} out")


def pieces(source: str, start_s: float, end_s: float, longest_s: float) -> Iterator[tuple[float, float]]:
    """[start_s, end_s] in spans of at most `longest_s`. Raises SourceError where that takes more than MAX_REQUESTS."""
    if end_s - start_s > MAX_REQUESTS * longest_s:
        raise SourceError(
            f"{source}: {(end_s - start_s) / 86_400:.0f} days were asked for, and {MAX_REQUESTS} requests give "
            f"{MAX_REQUESTS * longest_s / 86_400:.0f}; ask for a shorter span",
            Fault.NO_DATA,
        )
    while start_s < end_s:
        yield start_s, min(start_s + longest_s, end_s)
        start_s += longest_s


def utc(time_s: float, form: str) -> str:
    """A time in the form that a service wants, in UTC."""
    return datetime.fromtimestamp(time_s, UTC).strftime(form)


def field(value: Any, name: str, source: str) -> Any:
    """A field of a JSON object. Raises SourceError (malformed) where there is no object or no such field."""
    if not isinstance(value, Mapping) or name not in value:
        raise wrong(source, f"no field {name!r} in {shown(value)}")
    return value[name]


def items(value: Any, source: str, what: str) -> list[Any]:
    """A JSON list. Raises SourceError (malformed) for anything else."""
    if not isinstance(value, list):
        raise wrong(source, f"{what} is no list but {shown(value)}")
    return value


def issued_before(issued_s: float, now_s: float, source: str) -> float:
    """When a forecast was issued, `now` at the latest. Raises SourceError if that lies more than an hour ahead."""
    if issued_s > now_s + MAX_AHEAD_S:
        raise wrong(source, f"a forecast issued at {iso(issued_s)}, and it is {iso(now_s)}: a clock is wrong")
    return min(issued_s, now_s)


def from_now(points: Iterable[tuple[float, float]], step_s: float, now_s: float, end_s: float) -> list[Any]:
    """The points whose step reaches into [now_s, end_s]; at least the one that holds `now_s`."""
    return [(at, value) for at, value in points if at + step_s > now_s and (at < end_s or at <= now_s)]


def holding_now(series: IntensitySeries[Kind], now_s: float, source: str) -> IntensitySeries[Kind]:
    """The forecast itself, if its first step holds `now_s`. Raises SourceError (no-data) if it does not."""
    if not series.start_s <= now_s < series.end_s:
        raise SourceError(
            f"{source}: the forecast for {series.zone} covers {iso(series.start_s)} to {iso(series.end_s)}, and it is "
            f"{iso(now_s)}; it is not used",
            Fault.NO_DATA,
        )
    return series
