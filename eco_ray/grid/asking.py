"""What every grid source says of a zone that it does not know, or of a span that nobody can answer."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from datetime import UTC, datetime

from eco_ray.errors import EcoRayError, NotFoundError

#: times outside of these are mistakes [s since epoch]
EARLIEST_S = datetime(1900, 1, 1, tzinfo=UTC).timestamp()
LATEST_S = datetime(2500, 1, 1, tzinfo=UTC).timestamp()
#: longest span that is worth answering [s]; a mistaken unit (ms for s) asks for far more
MAX_SPAN_S = 20 * 366 * 86_400.0

#: names listed in an error
MAX_NAMES = 40


def iso(time_s: float) -> str:
    """ISO 8601 UTC with seconds; the bare number for a time that can only be a mistake."""
    if not EARLIEST_S <= time_s <= LATEST_S:
        return f"{time_s:g} s"
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def unknown_zone(zone: str, known: Iterable[str], source: str, cure: str) -> NotFoundError:
    """The error for a zone that `source` does not have: the value, the nearest and the known ones, the cure."""
    names = sorted(known)
    near = nearest(zone, names)
    hint = f"; nearest name: {near}" if near else ""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return NotFoundError(f"no zone {zone!r} in {source}{hint}; it knows {', '.join(names[:MAX_NAMES])}{more}; {cure}")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, whatever its case; None where nothing is near."""
    by_upper = {other.upper(): other for other in known}
    near = difflib.get_close_matches(name.upper(), by_upper, n=1, cutoff=0.4)
    return by_upper[near[0]] if near else None


def check_span(zone: str, start_s: float, end_s: float) -> None:
    """Refuse a span that is not finite, runs backwards, leaves the calendar or is longer than MAX_SPAN_S."""
    if not (math.isfinite(start_s) and math.isfinite(end_s)) or start_s < EARLIEST_S or end_s > LATEST_S:
        raise EcoRayError(
            f"no intensity for zone {zone} over {start_s:g}..{end_s:g} s: times must lie between {iso(EARLIEST_S)} and "
            f"{iso(LATEST_S)}; give seconds since the Unix epoch, not milliseconds"
        )
    if end_s < start_s:
        raise EcoRayError(
            f"no intensity for zone {zone}: the span ends ({iso(end_s)}) before it starts ({iso(start_s)}); swap them"
        )
    if end_s - start_s > MAX_SPAN_S:
        raise EcoRayError(
            f"no intensity for zone {zone}: {(end_s - start_s) / 86_400:.0f} days were asked for at once, the limit is "
            f"{MAX_SPAN_S / 86_400:.0f}; ask for a shorter span"
        )
