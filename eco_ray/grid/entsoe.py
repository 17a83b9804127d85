"""European zones from the ENTSO-E Transparency Platform: actual generation per type times IPCC factors.

https://web-api.tp.entsoe.eu/api, document A75, process A16. The intensity is that of what is generated in the zone:

    intensity(t) = sum over types of MW(t) x factor / sum over types of MW(t)

Imports are left out, and so is storage (pumped hydro, batteries): what it gives was generated before. A step is left
out if any type that gave something in the 24 h before it is not reported for the whole of it: types arrive one after
the other, and the rest alone would be a wrong figure. A type that is away for longer is not missed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.units import Nature
from eco_ray.errors import UsageError
from eco_ray.grid import points
from eco_ray.grid.asking import check_span, unknown_zone
from eco_ray.grid.entsoe_xml import EIC_CODE, Run, runs
from eco_ray.grid.http import Fault, Http, SourceError
from eco_ray.grid.keyed import key_of
from eco_ray.grid.live import kind_of, pieces, refuse, utc
from eco_ray.grid.mixes import DIRECT_G_PER_KWH, FACTORS_G_PER_KWH
from eco_ray.grid.sources import SourceOptions

NAME = "entsoe"
URL = "https://web-api.tp.entsoe.eu"
KEYS = "https://transparency.entsoe.eu (register, then ask for API access by e-mail; free)"
HOUR_S = 3_600.0
#: longest span of one request: a year is allowed, but its XML is larger than what we read [s]
MAX_SPAN_S = 14 * 86_400.0
#: 15 days of 18 types in quarter hours are 3 MB; hostile XML of this size is parsed in seconds [bytes]
LIMIT_BYTES = 4_000_000
#: no zone generates more: Europe's peak load is 0.6 TW [MW]
MAX_ZONE_MW = 1_000_000.0
#: how long a type is expected to be reported after it last gave something [s]
USUAL_S = 86_400.0

#: our zones -> EIC codes of bidding zones or countries (ENTSO-E's list of areas)
EIC: Mapping[str, str] = MappingProxyType(
    {
        "AT": "10YAT-APG------L",
        "BE": "10YBE----------2",
        "BG": "10YCA-BULGARIA-R",
        "CH": "10YCH-SWISSGRIDZ",
        "CZ": "10YCZ-CEPS-----N",
        "DE": "10Y1001A1001A83F",
        "DE-LU": "10Y1001A1001A82H",
        "DK": "10Y1001A1001A65H",
        "DK-DK1": "10YDK-1--------W",
        "DK-DK2": "10YDK-2--------M",
        "EE": "10Y1001A1001A39I",
        "ES": "10YES-REE------0",
        "FI": "10YFI-1--------U",
        "FR": "10YFR-RTE------C",
        "GR": "10YGR-HTSO-----Y",
        "HR": "10YHR-HEP------M",
        "HU": "10YHU-MAVIR----U",
        "IE": "10YIE-1001A00010",
        "IT": "10YIT-GRTN-----B",
        "LT": "10YLT-1001A0008Q",
        "LV": "10YLV-1001A00074",
        "NL": "10YNL----------L",
        "NO": "10YNO-0--------C",
        "NO-NO1": "10YNO-1--------2",
        "NO-NO2": "10YNO-2--------T",
        "NO-NO3": "10YNO-3--------J",
        "NO-NO4": "10YNO-4--------9",
        "NO-NO5": "10Y1001A1001A48H",
        "PL": "10YPL-AREA-----S",
        "PT": "10YPT-REN------W",
        "RO": "10YRO-TEL------P",
        "SE": "10YSE-1--------K",
        "SE-SE1": "10Y1001A1001A44P",
        "SE-SE2": "10Y1001A1001A45N",
        "SE-SE3": "10Y1001A1001A46L",
        "SE-SE4": "10Y1001A1001A47J",
        "SI": "10YSI-ELES-----O",
        "SK": "10YSK-SEPS-----K",
    }
)
#: ENTSO-E's types -> our factors. There is none of its own for coal gas, oil shale and peat (counted as coal), marine
#: (hydro), waste and other renewables (bio) and "other" (gas), as in the mixes of mixes.py
FUELS: Mapping[str, str] = MappingProxyType(
    {
        "B01": "bio",
        "B02": "coal",  # lignite
        "B03": "coal",  # coal-derived gas
        "B04": "gas",
        "B05": "coal",  # hard coal
        "B06": "oil",
        "B07": "coal",  # oil shale
        "B08": "coal",  # peat
        "B09": "geothermal",
        "B11": "hydro",  # run of river
        "B12": "hydro",  # reservoir
        "B13": "hydro",  # marine
        "B14": "nuclear",
        "B15": "bio",  # other renewable
        "B16": "solar",
        "B17": "bio",  # waste
        "B18": "wind",  # offshore
        "B19": "wind",  # onshore
        "B20": "gas",  # other
    }
)
#: pumped hydro and batteries: not generation
STORAGE = ("B10", "B25")
_FACTORS = {SignalKind.AVERAGE_LIFECYCLE: FACTORS_G_PER_KWH, SignalKind.AVERAGE_DIRECT: DIRECT_G_PER_KWH}
_WORDS = {SignalKind.AVERAGE_LIFECYCLE: "life-cycle", SignalKind.AVERAGE_DIRECT: "direct"}


def open_source(options: SourceOptions) -> Entsoe:
    """The Transparency Platform, or the server of `options.url`. Raises UsageError for options that make no sense."""
    return Entsoe(options)


class Entsoe:
    """GridSource for the zones of EIC and those of `options.zones` (zone -> EIC code); an EIC code is a zone too."""

    name = NAME

    def __init__(self, options: SourceOptions) -> None:
        """Opens no connection, and needs no key before the first question."""
        refuse(NAME, options, "file", "forecasts")
        self.kind = kind_of(NAME, options, SignalKind.AVERAGE_LIFECYCLE, SignalKind.AVERAGE_DIRECT)
        for zone, code in options.zones.items():
            if code not in EIC and not EIC_CODE.fullmatch(code):
                raise UsageError(
                    f"grid source {NAME!r}: zone {zone} is {code!r}, which is no EIC code; write its 16 characters, "
                    f"such as {EIC['FR']}, or one of {', '.join(EIC)}"
                )
        self._codes = {**EIC, **{zone: EIC.get(code, code) for zone, code in options.zones.items()}}
        self._options = options
        self._http = Http(NAME, options.url or URL, keyed=True, limit_bytes=LIMIT_BYTES)

    def zones(self) -> tuple[str, ...]:
        """The zones of the table and those that were given."""
        return tuple(self._codes)

    def actual(self, zone: str, start_s: float, end_s: float) -> IntensitySeries:
        """What was generated over [start_s, end_s], as far as all types are reported (about 1 h after the fact).

        Raises SourceError, NotFoundError for an unknown zone and EcoRayError for a span that makes no sense.
        """
        code = self._code(zone)
        check_span(zone, start_s, end_s)
        first = start_s // HOUR_S * HOUR_S
        last = max(-(-end_s // HOUR_S) * HOUR_S, first + HOUR_S)
        found: list[tuple[float, float, float]] = []
        reason = None
        for begin, end in pieces(NAME, first, last, MAX_SPAN_S):
            try:
                reported = runs(self._get(code, begin - USUAL_S, end), code, begin - USUAL_S, end)
                found += intensity(reported, begin, end, _FACTORS[self.kind])
            except SourceError as error:
                if error.fault is not Fault.NO_DATA:
                    raise
                reason = error
        if not found:
            raise reason or SourceError(f"{NAME}: nothing for {zone}", Fault.NO_DATA)
        finest_s = min(step_s for _, step_s, _ in found)
        return points.series(
            zone,
            [(at + part * finest_s, value) for at, step_s, value in found for part in range(round(step_s / finest_s))],
            kind=self.kind,
            source=f"{NAME}, actual generation per type (16.1.B&C) x IPCC {_WORDS[self.kind]} factors, without imports",
            nature=Nature.MODELLED,
            step_s=finest_s,
        )

    def forecast(self, zone: str, now_s: float, end_s: float) -> IntensitySeries:
        """Always raises SourceError (no-data): day-ahead wind, solar and total do not say what burns in the rest."""
        self._code(zone)
        check_span(zone, now_s, end_s)
        raise SourceError(
            f"{NAME}: it has no forecast of generation by type for {zone}, so none of intensity; a forecast is made "
            "from its history instead",
            Fault.NO_DATA,
        )

    def _get(self, code: str, start_s: float, end_s: float) -> str:
        key = key_of(NAME, self._options, KEYS)
        span = {"periodStart": utc(start_s, "%Y%m%d%H%M"), "periodEnd": utc(end_s, "%Y%m%d%H%M")}
        asked = {"documentType": "A75", "processType": "A16", "in_Domain": code, **span}
        return self._http.get_text("/api", {"securityToken": key.reveal(), **asked})

    def _code(self, zone: str) -> str:
        if zone in self._codes:
            return self._codes[zone]
        if EIC_CODE.fullmatch(zone):
            return zone
        raise unknown_zone(zone, self._codes, NAME, "use one of these, or give its EIC code in zones")


def intensity(
    reported: list[Run], first_s: float, last_s: float, factors: Mapping[str, float]
) -> list[tuple[float, float, float]]:
    """(start [s], step [s], gCO2e/kWh) of the steps in [first_s, last_s) for which all usual types are reported.

    `reported` should begin USUAL_S earlier. Steps are as long as the longest that any type has.
    Raises SourceError (malformed for a type without factor, one reported twice or more than MAX_ZONE_MW; no-data if
    nothing is complete).
    """
    step_s = max((run.step_s for run in reported), default=HOUR_S)
    origin_s, lead = first_s - USUAL_S, round(USUAL_S / step_s)
    count = round((last_s - origin_s) / step_s)
    by_type: dict[str, list[Run]] = {}
    for run in reported:
        if run.psr not in FUELS and run.psr not in STORAGE:
            raise points.wrong(NAME, f"generation of type {run.psr!r}, for which there is no factor")
        if run.psr in FUELS:
            by_type.setdefault(run.psr, []).append(run)
    total, grams, complete = np.zeros(count), np.zeros(count), np.ones(count, dtype=bool)
    for psr, parts in by_type.items():
        mean_mw, known = _on_steps(psr, parts, origin_s, step_s, count)
        gave = np.concatenate([[0], np.cumsum(known & (mean_mw > 0))])
        since = np.maximum(np.arange(count) + 1 - lead, 0)
        complete &= known | (gave[1:] == gave[since])
        total += mean_mw
        grams += mean_mw * factors[FUELS[psr]]
    if total.max() > MAX_ZONE_MW:
        raise points.wrong(NAME, f"{total.max() / 1000:g} GW in one zone, and {MAX_ZONE_MW / 1000:g} is the limit")
    use = np.flatnonzero(complete & (total > 0))
    use = use[use >= lead]
    if len(use) == 0:
        raise SourceError(f"{NAME}: no step for which all types are reported yet", Fault.NO_DATA)
    return [(origin_s + int(i) * step_s, step_s, float(grams[i] / total[i])) for i in use]


def _on_steps(
    psr: str, parts: list[Run], origin_s: float, step_s: float, count: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Mean MW of each step, 0 where it is not known for the whole of it, and where it is."""
    energy, covered_s = np.zeros(count), np.zeros(count)
    for run in parts:
        at = np.floor((run.start_s + np.arange(len(run.mw)) * run.step_s - origin_s) / step_s).astype(np.int64)
        inside = (at >= 0) & (at < count) & np.isfinite(run.mw)
        np.add.at(energy, at[inside], run.mw[inside] * run.step_s)
        np.add.at(covered_s, at[inside], run.step_s)
    if np.any(covered_s > step_s):
        raise points.wrong(NAME, f"type {psr} is reported twice for the same time")
    known = covered_s == step_s
    return np.where(known, energy / step_s, 0.0), known
