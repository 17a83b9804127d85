"""Durations and instants as people write them, and back.

A duration is `90s`, `20m`, `1h30m`, `1.5h`, `2d`, `1w`, or ISO 8601 `PT3H`, `P1DT12H`. Years and months are refused:
they have no fixed length. A number without a unit is refused too, except where a caller says that it means seconds.
An instant is ISO 8601, `2026-11-22T08:00Z` or `2026-11-22T09:00+01:00`; without a zone it is UTC.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from eco_ray.errors import UsageError

#: longest duration that is read [s]: ten years
MAX_DURATION_S = 3_660 * 86_400.0
#: longest text that is looked at
MAX_TEXT = 64

_SECONDS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_PART = re.compile(
    r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*"
    r"(?P<unit>weeks?|w|days?|d|hours?|hrs?|hr|h|minutes?|mins?|m|seconds?|secs?|s)\s*",
    re.IGNORECASE,
)
_NUMBER = r"([0-9]+(?:[.,][0-9]+)?)"
_ISO_DURATION = re.compile(
    rf"P(?=[0-9T])(?:{_NUMBER}W)?(?:{_NUMBER}D)?(?:T(?=[0-9])(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}S)?)?"
)
_ISO_CALENDAR = re.compile(r"P[0-9.,]+[YM]")
_BARE = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_LOOKS_LIKE_INSTANT = re.compile(r"[0-9]{4}-|[0-9]{8}(?:T|$)")
_EARLIEST_S = 0.0
#: 2200-01-01T00:00:00Z
_LATEST_S = 7_258_118_400.0


def parse_duration(text: str | float, *, bare_seconds: bool = False) -> float:
    """Duration [s] of a text such as `1h30m` or `PT90M`; a plain number counts as seconds only with `bare_seconds`.

    0 needs no unit. Raises UsageError for anything else, for negative durations and for more than ten years.
    """
    clean = str(text).strip()
    if isinstance(text, bool) or not clean or len(clean) > MAX_TEXT:
        raise _bad_duration(text)
    if _BARE.fullmatch(clean):
        seconds = float(clean)
        if seconds and not bare_seconds:
            raise UsageError(f"{_show(text)} has no unit; write {clean}s, {clean}m or {clean}h")
    elif clean[0] == "P":
        seconds = _iso_seconds(clean)
    else:
        seconds = _unit_seconds(clean)
    if not seconds <= MAX_DURATION_S:
        raise UsageError(
            f"{_show(text)} is above the longest duration, {MAX_DURATION_S / 86_400:.0f}d; give a shorter one"
        )
    return seconds


def parse_instant(text: str) -> float:
    """Instant [s since epoch] of an ISO 8601 text; a text without a zone is UTC. Raises UsageError."""
    clean = text.strip()
    try:
        if len(clean) > MAX_TEXT:
            raise ValueError
        moment = datetime.fromisoformat(clean)
    except ValueError:
        raise UsageError(
            f"{_show(text)} is not a date and time; write ISO 8601 with a zone, for example 2026-11-22T08:00Z "
            "or 2026-11-22T09:00+01:00"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = moment.timestamp()
    if not _EARLIEST_S <= seconds < _LATEST_S:
        raise UsageError(f"{_show(text)} is outside the years 1970 to 2199; check the year")
    return seconds


@dataclass(frozen=True, slots=True)
class When:
    """An instant, or a time after a moment that is not known yet (the submission). One of the two is set."""

    #: instant [s since epoch]
    at_s: float | None = None
    #: time after the moment [s]
    after_s: float | None = None

    def resolve(self, moment_s: float) -> float:
        """The instant [s since epoch], counted from `moment_s` where it is relative."""
        return self.at_s if self.at_s is not None else moment_s + (self.after_s or 0.0)


def parse_when(text: str) -> When:
    """An instant, a duration from the submission on (`6h`), or `now`. Raises UsageError."""
    clean = text.strip()
    if clean.lower() == "now":
        return When(after_s=0.0)
    if _LOOKS_LIKE_INSTANT.match(clean):
        return When(at_s=parse_instant(clean))
    try:
        return When(after_s=parse_duration(clean))
    except UsageError as error:
        raise UsageError(f"{error}; or an instant such as 2026-11-22T08:00Z") from None


def iso_utc(time_s: float) -> str:
    """`2026-11-22T08:00:00Z`: an instant [s since epoch] in UTC, rounded to whole seconds."""
    return datetime.fromtimestamp(math.floor(time_s + 0.5), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def human_duration(duration_s: float) -> str:
    """`3 h 20 min`: the two leading units, rounded; for people to read."""
    if duration_s < 0:
        return f"-{human_duration(-duration_s)}"
    if duration_s < 9.95 and duration_s != int(duration_s):
        return f"{duration_s:.1f} s"
    step = 1 if duration_s < 3_600 else 60 if duration_s < 86_400 else 3_600
    rest = math.floor(duration_s / step + 0.5) * step
    words = []
    for word, seconds in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, seconds)
        if count:
            words.append(f"{count} {word}")
    return " ".join(words[:2]) or "0 s"


def compact_duration(duration_s: float) -> str:
    """`3h20m`: exact to the millisecond; `parse_duration` reads it back."""
    rest_ms = round(duration_s * 1_000)
    words = []
    for unit, milliseconds in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000)):
        count, rest_ms = divmod(rest_ms, milliseconds)
        if count:
            words.append(f"{count}{unit}")
    if rest_ms or not words:
        words.append(f"{rest_ms / 1_000:.3f}".rstrip("0").rstrip(".") + "s")
    return "".join(words)


def _unit_seconds(clean: str) -> float:
    seconds, position, smallest = 0.0, 0, math.inf
    while position < len(clean):
        part = _PART.match(clean, position)
        if part is None:
            raise _bad_duration(clean)
        unit_s = _SECONDS[part["unit"][0].lower()]
        if unit_s >= smallest:
            raise UsageError(
                f"{_show(clean)} repeats or mixes up its units; write the largest first, for example 1h30m"
            )
        smallest = unit_s
        seconds += float(part["number"]) * unit_s
        position = part.end()
    return seconds


def _iso_seconds(clean: str) -> float:
    if _ISO_CALENDAR.match(clean):
        raise UsageError(
            f"{_show(clean)} counts years or months, which have no fixed length; write it in days, for example P30D"
        )
    match = _ISO_DURATION.fullmatch(clean)
    if match is None:
        raise _bad_duration(clean)
    return sum(
        float(number.replace(",", ".")) * seconds
        for number, seconds in zip(match.groups(), _SECONDS.values(), strict=True)
        if number
    )


def _bad_duration(text: object) -> UsageError:
    return UsageError(f"{_show(text)} is not a duration; write for example 90s, 20m, 1h30m, 2d or PT3H")


def _show(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= MAX_TEXT + 2 else f"{shown[:MAX_TEXT]}..."
