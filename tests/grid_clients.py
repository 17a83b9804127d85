"""The clients of live services, and how a local server has to answer each: one entry a client in CLIENTS.

An entry says how the service answers at NOW when all is well (`serve`), and how to spoil what it says (`spoil`, by the
names of TROUBLES). tests/contract/test_grid_clients.py asks the same of all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from grid_server import Answer, Asked, GridServer, as_json

from eco_ray.core.intensity import SignalKind
from eco_ray.core.ports import GridSource
from eco_ray.grid.electricity_maps import ElectricityMaps
from eco_ray.grid.http import Fault
from eco_ray.grid.keys import Secret
from eco_ray.grid.sources import SourceOptions
from eco_ray.grid.watttime import WattTime

#: 2026-10-01T09:33:20Z
NOW = 1_790_847_200.0
HOUR = 3_600.0
#: recorded answers, documented by others; not ours to ship
CONTRACTS = Path(__file__).resolve().parents[2] / "shared" / "contracts"

#: what a service may say that must never become a number, and the fault that it is
TROUBLES: Mapping[str, Fault] = {
    "wrong zone": Fault.MALFORMED,
    "wrong unit or kind": Fault.MALFORMED,
    "no zone": Fault.MALFORMED,
    "no list": Fault.MALFORMED,
    "an object for the list": Fault.MALFORMED,
    "null for the list": Fault.MALFORMED,
    "a list of numbers": Fault.MALFORMED,
    "empty list": Fault.NO_DATA,
    "every value null": Fault.NO_DATA,
    "no value": Fault.MALFORMED,
    "no time": Fault.MALFORMED,
    "NaN": Fault.MALFORMED,
    "Infinity": Fault.MALFORMED,
    "beyond floats": Fault.MALFORMED,
    "beyond integers": Fault.MALFORMED,
    "text for a value": Fault.MALFORMED,
    "true for a value": Fault.MALFORMED,
    "an object for a value": Fault.MALFORMED,
    "negative": Fault.MALFORMED,
    "huge": Fault.MALFORMED,
    "time without offset": Fault.MALFORMED,
    "no time at all": Fault.MALFORMED,
    "milliseconds for a time": Fault.MALFORMED,
    "two values for one time": Fault.MALFORMED,
    "between steps": Fault.MALFORMED,
    "from the future": Fault.MALFORMED,
    "an array": Fault.MALFORMED,
    "null": Fault.MALFORMED,
    "the key for a time": Fault.MALFORMED,
}
#: the same of a forecast alone
FORECAST_TROUBLES: Mapping[str, Fault] = {
    "issued in the future": Fault.MALFORMED,
    "no time of issue": Fault.MALFORMED,
    "from yesterday": Fault.NO_DATA,
}


def iso(time_s: float) -> str:
    """As Electricity Maps writes times."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def value_at(time_s: float, step_s: float) -> int:
    """What the local services say of a step, in their own unit: another value for each of a day's."""
    return 200 + int(time_s // step_s) % 288


@dataclass(frozen=True)
class Client:
    """One client and its service."""

    name: str
    #: opens it on options and a clock
    opened: Callable[[SourceOptions, Callable[[], float]], GridSource]
    zone: str
    #: what the service calls it
    place: str
    kind: SignalKind
    step_s: float
    #: g/kWh of one unit of the service
    factor: float
    #: None: it needs none
    key: str | None
    #: makes a server answer as the service does; each answer's parsed body goes through the function first
    serve: Callable[[GridServer, Callable[[Any], Any]], None]
    #: the body as the trouble of this name leaves it
    spoil: Callable[[str, Any], Any]
    #: makes a server answer with the recorded bodies; returns [(question, time or span, values in g/kWh)]
    recorded: Callable[[GridServer, Mapping[str, Any]], list[tuple[str, float, float, list[float]]]]
    #: of the recorded answers
    contract: str
    #: troubles that it cannot have
    without: frozenset[str] = frozenset()
    #: options that it needs for its zone
    options: Mapping[str, Any] = field(default_factory=dict)
    #: how far its forecast reaches [h]
    horizon_h: float = 72.0
    #: it takes any kind, for it passes on what another service tells
    any_kind: bool = False

    def open(self, server: GridServer, **options: Any) -> GridSource:
        """The client of a local server, at NOW."""
        return self.opened(self.at(server, **options), lambda: NOW)

    def at(self, server: GridServer, **options: Any) -> SourceOptions:
        """Options that point to a local server, with a key."""
        key = Secret(self.key, "test") if self.key else None
        return SourceOptions(**{"url": server.url, "key": lambda _: key, **self.options, **options})


# --- what JSON services have in common


def _spoil(trouble: str, body: Any, listed: list[dict[str, Any]], value: str, time: str, key: str) -> Any:
    """Spoil points, in place; returns the body."""
    if trouble == "an array":
        return [body]
    if trouble == "null":
        return None
    last = listed[-1]
    texts = {"time without offset": "2026-10-01T09:00:00", "no time at all": "soon", "the key for a time": key}
    numbers: dict[str, Any] = {
        "NaN": float("nan"),
        "Infinity": float("inf"),
        "beyond integers": 10**400,
        "text for a value": "302",
        "true for a value": True,
        "an object for a value": {"value": 302},
        "negative": -1,
        "huge": 1e7,
    }
    if trouble in texts:
        last[time] = texts[trouble]
    elif trouble in numbers:
        last[value] = numbers[trouble]
    elif trouble == "beyond floats":
        last[value] = "1e999"  # without its quotes: see raw_json
    elif trouble == "empty list":
        listed.clear()
    elif trouble == "a list of numbers":
        listed[:] = [1, 2, 3]  # type: ignore[list-item]
    elif trouble == "every value null":
        for point in listed:
            point[value] = None
    elif trouble == "no value":
        del last[value]
    elif trouble == "no time":
        del last[time]
    elif trouble == "milliseconds for a time":
        last[time] = int(NOW * 1000)
    elif trouble == "two values for one time":
        listed += [{**point, value: point[value] + 1} for point in listed]
    elif trouble == "between steps":
        listed += [{**point, time: iso(_time(point[time]) + 7)} for point in listed]
    elif trouble == "from the future":
        for point in listed:
            point[time] = iso(_time(point[time]) + 90 * 86_400)
    elif trouble == "from yesterday":
        for point in listed:
            point[time] = iso(_time(point[time]) - 4 * 86_400)
    else:
        raise AssertionError(f"no entry spoils {trouble!r}")
    return body


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def raw_json(body: Any) -> Answer:
    """As JSON, where 1e999 stands bare."""
    text = json.dumps(body).replace('"1e999"', "1e999")
    return Answer(text.encode(), headers={"Content-Type": "application/json"})


def _steps(first_s: float, last_s: float, step_s: float) -> list[float]:
    """Starts of the steps in [first_s, last_s]."""
    first = int(-(-first_s // step_s))
    return [index * step_s for index in range(first, int(last_s // step_s) + 1)]


# --- Electricity Maps


def _em_serve(server: GridServer, through: Callable[[Any], Any]) -> None:
    def hour(asked: Asked, at: float) -> dict[str, Any]:
        return {
            "zone": asked.query["zone"],
            "carbonIntensity": value_at(at, HOUR),
            "datetime": iso(at),
            "updatedAt": iso(NOW),
            "createdAt": iso(NOW),
            "emissionFactorType": asked.query["emissionFactorType"],
            "isEstimated": at > NOW - 3 * HOUR,
            "estimationMethod": "TIME_SLICER_AVERAGE" if at > NOW - 3 * HOUR else None,
            "temporalGranularity": "hourly",
        }

    def listed(asked: Asked, name: str, first: float, last: float) -> Answer:
        hours = [hour(asked, at) for at in _steps(first, last, HOUR)]
        return raw_json(through({"zone": asked.query["zone"], name: hours, "temporalGranularity": "hourly"}))

    def forecast(asked: Asked) -> Answer:
        begin = NOW // HOUR * HOUR
        times = _steps(begin, begin + int(asked.query["horizonHours"]) * HOUR, HOUR)  # the end point is inclusive
        points = [{"carbonIntensity": value_at(at, HOUR), "datetime": iso(at)} for at in times]
        answer = {
            "zone": asked.query["zone"],
            "forecast": points,
            "updatedAt": iso(NOW - 600),
            "temporalGranularity": "hourly",
        }
        return raw_json(through(answer))

    base = "/carbon-intensity"
    server.on(f"{base}/latest", lambda asked: raw_json(through(hour(asked, NOW // HOUR * HOUR))))
    server.on(f"{base}/history", lambda asked: listed(asked, "history", NOW - 24 * HOUR, NOW))
    server.on(
        f"{base}/past-range",
        lambda asked: listed(asked, "data", _time(asked.query["start"]), min(_time(asked.query["end"]) - 1, NOW)),
    )
    server.on(f"{base}/forecast", forecast)


_EM_KEY = "em-k3y/with+signs=="


def _em_spoil(trouble: str, body: Any) -> Any:
    name = next((name for name in ("history", "data", "forecast") if name in body), None)
    if trouble == "wrong zone":
        body["zone"] = "FR"
    elif trouble == "no zone":
        del body["zone"]
    elif trouble == "wrong unit or kind":
        for point in body[name] if name else [body]:
            point["emissionFactorType"] = "direct"
    elif trouble == "issued in the future":
        body["updatedAt"] = iso(NOW + 2 * HOUR)
    elif trouble == "no time of issue":
        del body["updatedAt"]
    elif name is None:
        listed = [body]
        trouble = "every value null" if trouble == "empty list" else trouble  # the answer to the same emptiness
        _spoil(trouble, body, listed, "carbonIntensity", "datetime", _EM_KEY)
        return listed[0]
    elif trouble == "no list":
        del body[name]
    elif trouble == "an object for the list":
        body[name] = {"0": body[name][0]}
    elif trouble == "null for the list":
        body[name] = None
    else:
        return _spoil(trouble, body, body[name], "carbonIntensity", "datetime", _EM_KEY)
    return body


def _bodies(document: Mapping[str, Any]) -> dict[str, Any]:
    return {end["path"]: end["response_200"] for end in document["endpoints"] if "response_200" in end}


def _em_recorded(server: GridServer, document: Mapping[str, Any]) -> list[tuple[str, float, float, list[float]]]:
    for path, body in _bodies(document).items():
        server.on(path, as_json(body))
    now = _time("2026-10-01T09:45:00Z")
    return [
        ("actual", now - 2.5 * HOUR, now, [322, 310, 302]),
        ("forecast", now, now + 6 * HOUR, [302, 298, 271, 255]),  # the first from /latest
    ]


# --- WattTime


def _wt_serve(server: GridServer, through: Callable[[Any], Any]) -> None:
    def answer(asked: Asked, first: float, last: float, **meta: Any) -> Answer:
        points = [{"point_time": iso(at), "value": value_at(at, 300.0)} for at in _steps(first, last, 300.0)]
        meta = {
            "data_point_period_seconds": 300,
            "region": asked.query["region"],
            "warnings": [],
            "signal_type": asked.query["signal_type"],
            "model": {"date": "2026-03-01"},
            "units": "lbs_co2_per_mwh",
            **meta,
        }
        return raw_json(through({"data": points, "meta": meta}))

    def forecast(asked: Asked) -> Answer:
        begin = NOW // 300 * 300
        last = begin + int(asked.query["horizon_hours"]) * HOUR
        return answer(asked, begin, last, generated_at=iso(begin), generated_at_period_seconds=300)

    server.on("/login", as_json({"token": "eyJ0eXAi.t0ken"}))
    server.on(
        "/v3/historical",
        lambda asked: answer(asked, _time(asked.query["start"]), min(_time(asked.query["end"]), NOW - 300)),
    )
    server.on("/v3/forecast", forecast)


_WT_KEY = "ann@example.org:p4ss:word/+"


def _wt_spoil(trouble: str, body: Any) -> Any:
    meta = body["meta"]
    if trouble == "wrong zone":
        meta["region"] = "PJM_DC"
    elif trouble == "no zone":
        del meta["region"]
    elif trouble == "wrong unit or kind":
        meta["units"] = "kg_co2_per_mwh"
    elif trouble == "no list":
        del body["data"]
    elif trouble == "an object for the list":
        body["data"] = {"0": body["data"][0]}
    elif trouble == "null for the list":
        body["data"] = None
    elif trouble == "issued in the future":
        meta["generated_at"] = iso(NOW + 2 * HOUR)
    elif trouble == "no time of issue":
        meta.pop("generated_at", None)
    else:
        return _spoil(trouble, body, body["data"], "value", "point_time", _WT_KEY)
    return body


def _wt_recorded(server: GridServer, document: Mapping[str, Any]) -> list[tuple[str, float, float, list[float]]]:
    for path, body in _bodies(document).items():
        server.on(path, as_json(body))
    then, now = _time("2026-09-30T00:00:00Z"), _time("2026-10-01T09:02:00Z")
    factor = 0.45359237
    return [
        ("actual", then, then + 600, [870 * factor, 860 * factor]),
        ("forecast", now, now + 6 * HOUR, [870 * factor, 861.2 * factor]),
    ]


CLIENTS = (
    Client(
        name="electricity-maps",
        opened=ElectricityMaps,
        zone="DE",
        place="DE",
        kind=SignalKind.AVERAGE_LIFECYCLE,
        step_s=HOUR,
        factor=1.0,
        key=_EM_KEY,
        serve=_em_serve,
        spoil=_em_spoil,
        recorded=_em_recorded,
        contract="electricity_maps.json",
    ),
    Client(
        name="watttime",
        opened=WattTime,
        zone="US-CAL-CISO",
        place="CAISO_NORTH",
        kind=SignalKind.MARGINAL,
        step_s=300.0,
        factor=0.45359237,
        key=_WT_KEY,
        serve=_wt_serve,
        spoil=_wt_spoil,
        recorded=_wt_recorded,
        contract="watttime.json",
    ),
)
