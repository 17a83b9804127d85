"""ENTSO-E's generation documents (GL_MarketDocument, IEC 62325-451-6): XML -> generation in MW by type."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

import numpy as np
from numpy.typing import NDArray

from eco_ray.grid import points
from eco_ray.grid.http import Fault, SourceError
from eco_ray.grid.points import shown

#: an energy identification code: 2 digits of the office, a letter for the kind, 12 characters, a check character
EIC_CODE = re.compile(r"[0-9]{2}[A-Z][A-Z0-9-]{13}")
#: no type of plant gives more: all of Europe has 0.3 TW of any [MW]
MAX_TYPE_MW = 500_000.0
#: of one answer: 16 days of 26 types in quarter hours are 40,000
MAX_STEPS = points.MAX_POINTS
#: three for each of these 40,000, and room for the rest
MAX_ELEMENTS = 250_000
_SOURCE = "entsoe"
_STEPS_S = {"PT15M": 900.0, "PT30M": 1_800.0, "PT60M": 3_600.0, "PT1H": 3_600.0}
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_NO_DATA = "999"


@dataclass(frozen=True, slots=True)
class Run:
    """What one type of plant gave, step after step."""

    #: type of plant, B01 to B25
    psr: str
    start_s: float
    step_s: float
    #: shape (T,), mean of each step [MW]; NaN where it is not said
    mw: NDArray[np.float64]


def runs(text: str, code: str, start_s: float, end_s: float) -> list[Run]:
    """Generation of the zone `code` in a document; consumption (pumps, batteries that charge) is left out.

    Periods that do not reach into [start_s, end_s] are left out too. No text of the document is quoted in an error.
    Raises SourceError: no-data for an acknowledgement that there is none, malformed for anything else that it is not.
    """
    root = _parsed(text)
    if _tag(root) == "Acknowledgement_MarketDocument":
        if _text(root, "Reason/code") == _NO_DATA:
            raise SourceError(f"{_SOURCE}: it answered with reason {_NO_DATA}: no matching data", Fault.NO_DATA)
        raise _wrong(f"an acknowledgement with another reason than {_NO_DATA}, no matching data")
    if _tag(root) != "GL_MarketDocument":
        raise _wrong("another document than a GL_MarketDocument or an Acknowledgement_MarketDocument")
    _expect(root, "type", "A75")
    _expect(root, "process.processType", "A16")
    found, steps = [], 0
    for psr, repeats, period in (one for series in root.iterfind("{*}TimeSeries") for one in _periods(series, code)):
        begin_s, step_s, count = _span(period, psr)
        if begin_s >= end_s or begin_s + count * step_s <= start_s:
            continue
        steps += count  # counted before there is room made for them
        if steps > MAX_STEPS:
            raise _wrong(f"the generation is said for more than {MAX_STEPS} steps")
        found.append(Run(psr, begin_s, step_s, _mw(period, psr, count, repeats)))
    if not found:
        raise SourceError(f"{_SOURCE}: a document without generation for {code}", Fault.NO_DATA)
    return found


def _parsed(text: str) -> Element:
    # entities can grow without bound or name files; no document of this service has a type declaration
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise _wrong("the XML declares a document type or entities")
    try:
        parser = XMLParser(target=_Bounded())  # noqa: S314 -- checked above, and bounded in size by http.py
        parser.feed(text)
        root: Element = parser.close()
        return root
    except ParseError as error:
        line, column = error.position
        raise _wrong(f"no XML from line {line}, column {column} on, of {len(text)} characters") from None
    except (ValueError, RecursionError) as error:
        raise _wrong(f"no XML ({type(error).__name__})") from None


class _Bounded(TreeBuilder):
    """Ends with a SourceError where a document has more elements than any of this service."""

    def __init__(self) -> None:
        super().__init__()
        self._left = MAX_ELEMENTS

    def start(self, tag: Any, attrs: Any, /) -> Element:
        self._left -= 1
        if self._left < 0:
            raise _wrong(f"more than {MAX_ELEMENTS} elements")
        return super().start(tag, attrs)


def _periods(series: Element, code: str) -> Iterator[tuple[str, bool, Element]]:
    """Type of plant, whether omitted positions repeat the one before, and the period."""
    if series.find("{*}outBiddingZone_Domain.mRID") is not None:
        return
    _expect(series, "inBiddingZone_Domain.mRID", code)
    _expect(series, "quantity_Measure_Unit.name", "MAW")
    curve = _text(series, "curveType") or "A01"
    if curve not in ("A01", "A03"):
        raise _wrong(f"curve type {shown(curve)} is neither A01 nor A03")
    psr = _text(series, "MktPSRType/psrType")
    if not re.fullmatch(r"[A-Z][0-9]{2}", psr):
        raise _wrong(f"{shown(psr)} is no type of plant")
    for period in series.iterfind("{*}Period"):
        yield psr, curve == "A03", period


def _span(period: Element, psr: str) -> tuple[float, float, int]:
    """Start [s], step [s] and number of steps."""
    start_s = points.instant_s(_text(period, "timeInterval/start"), _SOURCE)
    end_s = points.instant_s(_text(period, "timeInterval/end"), _SOURCE)
    resolution = _text(period, "resolution")
    step_s = _STEPS_S.get(resolution)
    if step_s is None:
        raise _wrong(f"resolution {shown(resolution)} is none of {', '.join(_STEPS_S)}")
    steps = (end_s - start_s) / step_s
    if start_s % step_s or steps != int(steps) or not 0 < steps <= points.MAX_POINTS:
        raise _wrong(f"{psr} from {start_s:.0f} to {end_s:.0f} s is no whole number of steps of {step_s:g} s")
    return start_s, step_s, int(steps)


def _mw(period: Element, psr: str, count: int, repeats: bool) -> NDArray[np.float64]:
    """Shape (count,), what the points of the period say."""
    mw = np.full(count, np.nan)
    for point in period.iterfind("{*}Point"):
        position = int(_number(point, "position"))
        if not 1 <= position <= len(mw) or np.isfinite(mw[position - 1]):
            raise _wrong(f"position {position} of {psr} is twice there or outside 1 to {len(mw)}")
        mw[position - 1] = quantity = _number(point, "quantity")
        if quantity > MAX_TYPE_MW:
            raise _wrong(f"{quantity / 1000:g} GW of {psr}, and {MAX_TYPE_MW / 1000:g} is the limit")
    if repeats:  # of equal values that follow each other only the first is sent
        last = np.maximum.accumulate(np.where(np.isfinite(mw), np.arange(len(mw)), -1))
        mw = np.where(last >= 0, mw[last], np.nan)
    return mw


def _number(element: Element, path: str) -> float:
    text = _text(element, path)
    if not _NUMBER.fullmatch(text):
        raise _wrong(f"the {path}, {shown(text)}, is no number from 0 on")
    return float(text)


def _expect(element: Element, path: str, value: str) -> None:
    if (found := _text(element, path)) != value:
        raise _wrong(f"{path} is {shown(found)}, not {value!r}")


def _text(element: Element, path: str) -> str:
    """The text of a child, in whatever version of the namespace; empty where there is none."""
    found = element.find("/".join(f"{{*}}{part}" for part in path.split("/")))
    return (found.text or "").strip() if found is not None else ""


def _tag(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _wrong(what: str) -> SourceError:
    return points.wrong(_SOURCE, what)
