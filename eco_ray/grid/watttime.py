"""WattTime: marginal carbon intensity (MOER) in steps of 5 minutes, with a user and password.

https://docs.watttime.org, version 3. The key is `user:password`; it is exchanged for a token of 30 minutes. The free
plan has CAISO_NORTH.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from eco_ray.core.intensity import MarginalSeries, SignalKind
from eco_ray.core.units import Nature
from eco_ray.grid import points
from eco_ray.grid.asking import check_span, iso
from eco_ray.grid.http import Fault, Http, SourceError
from eco_ray.grid.keyed import key_of
from eco_ray.grid.keys import Secret
from eco_ray.grid.live import MAX_AHEAD_S, Clock, field, holding_now, issued_before, items, kind_of, pieces
from eco_ray.grid.live import refuse as refuse_options
from eco_ray.grid.points import shown, wrong
from eco_ray.grid.sources import SourceOptions

URL = "https://api.watttime.org"
STEP_S = 300.0
SIGNAL = "co2_moer"
UNITS = "lbs_co2_per_mwh"
#: lbs/MWh -> g/kWh; the international pound is 453.59237 g exactly (1959)
G_PER_KWH_PER_LB_PER_MWH = 453.59237 / 1_000.0
#: longest span of one request; the service takes 32 days [s]
MAX_RANGE_S = 30 * 86_400.0
MAX_HORIZON_H = 72
#: a token lasts 30 minutes; it is given up before that [s]
TOKEN_S = 25 * 60.0
#: no two logins follow each other faster, whatever they were answered [s]
LOGIN_PAUSE_S = 60.0

#: our zone -> WattTime's region. Its regions are smaller than most zones; for others write them into `zones`
REGIONS: Mapping[str, str] = MappingProxyType({"US-CAL-CISO": "CAISO_NORTH"})

_NAME = "watttime"
_WHERE = "https://docs.watttime.org (register; free for CAISO_NORTH), written as user:password"
_TOKEN = re.compile(r"[!-~]{4,4096}")


def open_source(options: SourceOptions) -> WattTime:
    """The public service, or `options.url`. Raises UsageError for options without meaning."""
    return WattTime(options)


class WattTime:
    """GridSource for the regions of WattTime: those of REGIONS, of `options.zones`, or a region's own name."""

    name = _NAME

    def __init__(self, options: SourceOptions, clock: Clock = time.time, uptime: Clock = time.monotonic) -> None:
        """Opens no connection and needs no key yet. `clock` tells the present step, `uptime` ages tokens."""
        refuse_options(self.name, options, "file", "forecasts")
        self.kind: Literal[SignalKind.MARGINAL] = kind_of(self.name, options, SignalKind.MARGINAL)
        self._options = options
        self._regions = {**REGIONS, **options.zones}
        self._http = Http(self.name, options.url or URL, keyed=True)
        self._clock = clock
        self._login = _Login(self._http, options, uptime)

    def zones(self) -> tuple[str, ...]:
        """The zones that were given, and those of REGIONS; any region can be asked for by its name."""
        return tuple(self._regions)

    def actual(self, zone: str, start_s: float, end_s: float) -> MarginalSeries:
        """The steps of [start_s, end_s] that are published; the present one is the first of the forecast.

        Raises SourceError, and EcoRayError for a span that makes no sense.
        """
        check_span(zone, start_s, end_s)
        first = start_s // STEP_S * STEP_S
        last = max(-(-end_s // STEP_S) * STEP_S, first + STEP_S)
        found: list[tuple[float, float]] = []
        warned = False
        for begin, end in pieces(self.name, first, last, MAX_RANGE_S):
            answer = self._get("/v3/historical", zone, start=iso(begin), end=iso(end))
            warned = self._warns(answer) or warned
            steps = self._steps(answer)
            if steps and max(steps)[0] > self._clock() + MAX_AHEAD_S:
                why = f"a step that is yet to come, {iso(max(steps)[0])}, is no history: a clock is wrong"
                raise wrong(self.name, why)
            found += [(at, value) for at, value in steps if begin <= at < end]
        newest = max((at for at, _ in found), default=-math.inf)
        present = self._clock() // STEP_S * STEP_S
        if first <= present < last and newest in (-math.inf, present - STEP_S):
            answer = self._get("/v3/forecast", zone, horizon_hours="0")
            found += [(at, value) for at, value in self._steps(answer) if at == present]
        return self._series(zone, found, warned, None)

    def forecast(self, zone: str, now_s: float, end_s: float) -> MarginalSeries:
        """At most 72 h from the step of `now_s`. Raises as `actual`."""
        check_span(zone, now_s, end_s)
        hours = min(max(math.ceil((end_s - now_s) / 3600), 1), MAX_HORIZON_H)
        answer = self._get("/v3/forecast", zone, horizon_hours=str(hours))
        issued = field(field(answer, "meta", self.name), "generated_at", self.name)
        issued_s = issued_before(points.instant_s(issued, self.name), now_s, self.name)
        found = self._steps(answer)
        if found and min(found)[0] > now_s + MAX_AHEAD_S:
            raise wrong(self.name, f"a forecast from {iso(min(found)[0])} on, and it is {iso(now_s)}: a clock is wrong")
        whole = self._series(zone, found, self._warns(answer), issued_s)
        return holding_now(points.cut(whole, now_s, end_s), now_s, self.name)

    def _get(self, path: str, zone: str, **more: str) -> Any:
        """An answer whose meta say that it is what was asked for."""
        region = self._regions.get(zone, zone)
        answer = self._login.get(path, {"region": region, "signal_type": SIGNAL, **more})
        meta = field(answer, "meta", self.name)
        asked = {"region": region, "signal_type": SIGNAL, "units": UNITS, "data_point_period_seconds": STEP_S}
        for name, value in asked.items():
            if field(meta, name, self.name) != value:
                raise wrong(self.name, f"{name} {shown(meta[name])} was sent, and {value} was asked for")
        return answer

    def _steps(self, answer: Any) -> list[tuple[float, float]]:
        """(start [s], g/kWh) of the steps that have a value."""
        found = []
        for step in items(field(answer, "data", self.name), self.name, "data"):
            at = points.instant_s(field(step, "point_time", self.name), self.name)
            value = field(step, "value", self.name)
            if at % STEP_S:
                raise wrong(self.name, f"{iso(at)} is no full 5 minutes")
            if value is not None:
                found.append((at, points.number(value, self.name) * G_PER_KWH_PER_LB_PER_MWH))
        return found

    def _warns(self, answer: Any) -> bool:
        """Whether the service warns, with strings, or objects with a type and a message. They may echo the key."""
        for warning in (warnings := items(answer["meta"].get("warnings") or [], self.name, "warnings")):
            text = field(warning, "message", self.name) if isinstance(warning, Mapping) else warning
            if not isinstance(text, str):
                raise wrong(self.name, f"a warning is {shown(text)}, not a text")
        return bool(warnings)

    def _series(
        self, zone: str, found: list[tuple[float, float]], warned: bool, issued_s: float | None
    ) -> MarginalSeries:
        source = f"{self.name}, {SIGNAL} of {self._regions.get(zone, zone)}"
        return points.series(
            zone,
            found,
            kind=self.kind,
            source=f"{source}, which sends warnings" if warned else source,
            nature=Nature.MODELLED,
            step_s=STEP_S,
            issued_s=issued_s,
        )


class _Login:
    """Requests with a token, which is fetched when there is none, and once anew when it is refused."""

    def __init__(self, http: Http, options: SourceOptions, uptime: Clock) -> None:
        self._http = http
        self._options = options
        self._uptime = uptime
        self._key: Secret | None = None
        self._token: Secret | None = None
        self._tried_s = -math.inf
        self._failed: SourceError | None = None
        self._lock = threading.Lock()

    def get(self, path: str, params: Mapping[str, str]) -> Any:
        """The JSON of an answer. Raises SourceError."""
        token = self._current()
        try:
            return self._ask(path, params, token)
        except SourceError as error:
            if error.status != 401:
                raise
        return self._ask(path, params, self._current(refused=token))

    def _ask(self, path: str, params: Mapping[str, str], token: Secret) -> Any:
        return self._http.get_json(path, params, {"Authorization": f"Bearer {token.reveal()}"})

    def _current(self, refused: Secret | None = None) -> Secret:
        """A token that is not `refused`. Raises SourceError, without a request where a login was just tried."""
        with self._lock:
            age_s = self._uptime() - self._tried_s
            if self._token is not None and self._token is not refused and age_s < TOKEN_S:
                return self._token
            asked_s = self._failed.retry_after_s if self._failed else None
            wait_s = max(LOGIN_PAUSE_S, asked_s or 0.0) - age_s
            if wait_s > 0:
                why = str(self._failed) if self._failed else f"{_NAME}: a token that was just given is refused (401)"
                fault = self._failed.fault if self._failed else Fault.REFUSED
                raise SourceError(f"{why}; the next login is in {wait_s:.0f} s at the earliest", fault, wait_s)
            self._token = None
            key = self._key = key_of(_NAME, self._options, _WHERE)  # held, so that it is cut out of errors and logs
            user, _, password = key.reveal().partition(":")
            if not user or not password:
                raise SourceError(f"{_NAME}: the key in {key.origin} is not user:password", Fault.NO_KEY)
            self._tried_s = self._uptime()
            try:
                self._token, self._failed = self._log_in(user, password), None
            except SourceError as error:
                self._failed = error
                raise
            return self._token

    def _log_in(self, user: str, password: str) -> Secret:
        text = self._http.get_text("/login", basic=(user, password))
        try:
            token = json.loads(text)["token"]
        except (ValueError, RecursionError, TypeError, KeyError):
            token = None  # no error may quote an answer that holds one
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise wrong(_NAME, "the login gave no token that a header can carry")
        return Secret(token, "login")
