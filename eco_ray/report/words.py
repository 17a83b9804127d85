"""Numbers and times as people read them: always with a unit, `unknown` where nothing is known."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

UNKNOWN = "unknown"
#: no line break between a number and its unit
GAP = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"

ENERGY = ((1.0, "J"), (1e3, "kJ"), (1e6, "MJ"), (1e9, "GJ"))
CARBON = ((1e-3, "mg"), (1.0, "g"), (1e3, "kg"), (1e6, "t"))

#: width of an average letter of the page's font, in em
LETTER_EM = 0.53


@dataclass(frozen=True, slots=True)
class Scale:
    """One unit and number of decimals for a whole column, so that its numbers can be compared."""

    factor: float
    unit: str
    decimals: int

    @classmethod
    def of(cls, values: Iterable[float | None], units: tuple[tuple[float, str], ...]) -> Scale:
        """The unit in which the largest value has one to three digits before the point, and four digits in all."""
        top = max((abs(v) for v in values if v is not None), default=0.0)
        factor, unit = next((pair for pair in reversed(units) if top >= pair[0]), units[1 if units is CARBON else 0])
        if 0 < top < units[0][0]:
            factor, unit = units[0]
        whole = len(str(int(top / factor))) if top else 1
        return cls(factor, unit, max(0, 4 - whole))

    def number(self, value: float | None, signed: bool = False) -> str:
        """The number without its unit; a value that would round to zero says that it is smaller."""
        if value is None:
            return UNKNOWN
        if value == 0:
            return "0"
        scaled = value / self.factor
        least = 10.0**-self.decimals
        if abs(scaled) < least / 2:
            return f"{sign(scaled) if signed or scaled < 0 else ''}<{GAP}{least:.{self.decimals}f}"
        body = grouped(abs(scaled), self.decimals)
        return f"{sign(scaled) if signed or scaled < 0 else ''}{body}"

    def text(self, value: float | None, signed: bool = False) -> str:
        """The number with its unit."""
        return UNKNOWN if value is None else f"{self.number(value, signed)}{GAP}{self.unit}"

    def co2e(self, value: float | None, signed: bool = False) -> str:
        """The number with its unit, as carbon."""
        return UNKNOWN if value is None else f"{self.text(value, signed)}{GAP}CO₂e"


def sign(value: float) -> str:
    """A sign as wide as a digit."""
    return MINUS if value < 0 else "+"


def grouped(value: float, decimals: int) -> str:
    """A number >= 0 with thin spaces between thousands."""
    return f"{value:,.{decimals}f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def exact(value: float | None, digits: int = 6) -> str:
    """A number with enough digits to redo the arithmetic."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    body = grouped(abs(value), min(decimals, 12))
    body = body.rstrip("0").rstrip(".") if "." in body else body
    return (MINUS if value < 0 else "") + body


def settled(value: float | None, against: float | None) -> float | None:
    """A difference, without what is only rounding of the floats that it is the difference of."""
    return 0.0 if value is not None and abs(value) <= 1e-9 * abs(against or 0.0) else value


def percent(part: float | None, whole: float | None) -> str | None:
    """A signed share in %, None where it has no meaning."""
    if part is None or not whole:
        return None
    share = 100 * part / whole
    decimals = 1 if abs(share) < 10 else 0
    if round(abs(share), decimals) == 0:
        return f"0{GAP}%"
    return f"{sign(share)}{abs(share):.{decimals}f}{GAP}%"


def duration(seconds: float | None) -> str:
    """A length of time in its two largest units."""
    if seconds is None:
        return UNKNOWN
    whole = round(seconds)
    parts: list[tuple[int, str]] = []
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, whole = divmod(whole, size)
        if count or parts or unit == "s":
            parts.append((count, unit))
    return " ".join(f"{count}{GAP}{unit}" for count, unit in parts[:2] if count or len(parts) == 1)


def clock_time(time_s: float) -> str:
    """Date and time to the minute, UTC."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%d %b %Y %H:%M")


def short_time(time_s: float) -> str:
    """Day of the month and time, UTC."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%d %b %H:%M")


def metric(value: Any) -> str:
    """A reported result of a job, short."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return exact(value, 5) if 1e-4 <= abs(value) < 1e9 or value == 0 else f"{value:.3g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:119] + "\N{HORIZONTAL ELLIPSIS}"


def width_em(text: str) -> float:
    """Estimated width of a text, in em of its font: wide East Asian characters are a full em."""
    return sum(1.0 if unicodedata.east_asian_width(c) in "WF" else LETTER_EM for c in text)


def fitted(text: str, width_px: float, size_px: float) -> str:
    """A text cut to a width, with an ellipsis where something is missing."""
    if width_em(text) * size_px <= width_px:
        return text
    kept = ""
    for character in text:
        if (width_em(kept + character) + 0.8) * size_px > width_px:
            break
        kept += character
    return kept.rstrip() + "\N{HORIZONTAL ELLIPSIS}"
