"""ENTSO-E's generation documents (GL_MarketDocument, IEC 62325-451-6): XML -> generation in MW by type."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element, ParseError, fromstring

import numpy as np
from numpy.typing import NDArray

from eco_ray.grid import points
from eco_ray.grid.http import Fault, SourceError

#: an energy identification code: 2 digits of the office, a letter for the kind, 12 characters, a check character
EIC_CODE = re.compile(r"[0-9]{2}[A-Z][A-Z0-9-]{13}")
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


def runs(text: str, code: str) -> list[Run]:
    """Generation of the zone `code` in a document; consumption (pumps, batteries that charge) is left out.

    Raises SourceError: no-data for an acknowledgement that there is none, malformed for anything else that it is not.
    """
    root = _parsed(text)
    if _tag(root) == "Acknowledgement_MarketDocument":
        reason = f"{_text(root, 'Reason/code')}: {_text(root, 'Reason/text')[:200]!r}"
        fault = Fault.NO_DATA if _text(root, "Reason/code") == _NO_DATA else Fault.MALFORMED
        raise SourceError(f"{_SOURCE}: it answered with reason {reason}", fault)
    if _tag(root) != "GL_MarketDocument":
        raise _wrong(f"a document {_tag(root)[:60]!r}, not a GL_MarketDocument")
    _expect(root, "type", "A75")
    _expect(root, "process.processType", "A16")
    found = [run for series in root.iterfind("{*}TimeSeries") for run in _series(series, code)]
    if not found:
        raise SourceError(f"{_SOURCE}: a document without generation for {code}", Fault.NO_DATA)
    return found


def _parsed(text: str) -> Element:
    # entities can grow without bound or name files; no document of this service has a type declaration
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise _wrong("the XML declares a document type or entities")
    try:
        return fromstring(text)  # noqa: S314 -- checked above, and bounded in size by http.py
    except (ParseError, ValueError, RecursionError) as error:
        start = "".join(char if char.isprintable() else " " for char in text[:60])
        raise _wrong(f"no XML ({str(error)[:60]}): {start!r}") from None


def _series(series: Element, code: str) -> Iterator[Run]:
    if series.find("{*}outBiddingZone_Domain.mRID") is not None:
        return
    _expect(series, "inBiddingZone_Domain.mRID", code)
    _expect(series, "quantity_Measure_Unit.name", "MAW")
    curve = _text(series, "curveType") or "A01"
    if curve not in ("A01", "A03"):
        raise _wrong(f"curve type {curve[:20]!r} is neither A01 nor A03")
    psr = _text(series, "MktPSRType/psrType")
    if not re.fullmatch(r"[A-Z][0-9]{2}", psr):
        raise _wrong(f"{psr[:20]!r} is no type of plant")
    for period in series.iterfind("{*}Period"):
        yield _period(period, psr, repeats=curve == "A03")


def _period(period: Element, psr: str, repeats: bool) -> Run:
    start_s = points.instant_s(_text(period, "timeInterval/start"), _SOURCE)
    end_s = points.instant_s(_text(period, "timeInterval/end"), _SOURCE)
    resolution = _text(period, "resolution")
    step_s = _STEPS_S.get(resolution)
    if step_s is None:
        raise _wrong(f"resolution {resolution[:20]!r} is none of {', '.join(_STEPS_S)}")
    steps = (end_s - start_s) / step_s
    if start_s % step_s or steps != int(steps) or not 0 < steps <= points.MAX_POINTS:
        raise _wrong(f"{psr} from {start_s:.0f} to {end_s:.0f} s is no whole number of steps of {step_s:g} s")
    mw = np.full(int(steps), np.nan)
    for point in period.iterfind("{*}Point"):
        position = int(_number(point, "position"))
        if not 1 <= position <= len(mw) or np.isfinite(mw[position - 1]):
            raise _wrong(f"position {position} of {psr} is twice there or outside 1 to {len(mw)}")
        mw[position - 1] = _number(point, "quantity")
    if repeats:  # of equal values that follow each other only the first is sent
        last = np.maximum.accumulate(np.where(np.isfinite(mw), np.arange(len(mw)), -1))
        mw = np.where(last >= 0, mw[last], np.nan)
    return Run(psr, start_s, step_s, mw)


def _number(element: Element, path: str) -> float:
    text = _text(element, path)
    if not _NUMBER.fullmatch(text):
        raise _wrong(f"the {path} {text[:20]!r} is no number from 0 on")
    return float(text)


def _expect(element: Element, path: str, value: str) -> None:
    if (found := _text(element, path)) != value:
        raise _wrong(f"{path} is {found[:40]!r}, not {value!r}")


def _text(element: Element, path: str) -> str:
    """The text of a child, in whatever version of the namespace; empty where there is none."""
    found = element.find("/".join(f"{{*}}{part}" for part in path.split("/")))
    return (found.text or "").strip() if found is not None else ""


def _tag(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _wrong(what: str) -> SourceError:
    return points.wrong(_SOURCE, what)
