"""Entries for CLIENTS of grid_clients.py: NESO and the Carbon Aware SDK.

ENTSO-E is not among them: its answers are XML and it has no forecast; tests/contract/test_grid_entsoe.py asks the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from grid_clients import HOUR, NOW, Client, iso, raw_json, value_at
from grid_server import Answer, Asked, GridServer, as_json

from eco_ray.core.intensity import SignalKind
from eco_ray.core.ports import GridSource
from eco_ray.grid.carbon_aware_sdk import CarbonAwareSdk
from eco_ray.grid.live import utc
from eco_ray.grid.neso import Neso
from eco_ray.grid.points import instant_s
from eco_ray.grid.sources import SourceOptions

_NUMBERS: Mapping[str, Any] = {
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "beyond floats": "1e999",  # without its quotes: see raw_json
    "beyond integers": 10**400,
    "text for a value": "302",
    "true for a value": True,
    "an object for a value": {"value": 302},
    "negative": -1,
    "huge": 1e7,
}
_TIMES: Mapping[str, Any] = {
    "time without offset": "2026-10-01T09:00:00",
    "no time at all": "soon",
    "milliseconds for a time": int(NOW * 1000),
}
_SHIFTS = {"between steps": 7.0, "from the future": 90 * 86_400.0, "from yesterday": -4 * 86_400.0}


def _time(text: str) -> float:
    return instant_s(text, "test")


# --- NESO


def _half_hour(at: float) -> dict[str, Any]:
    value = value_at(at, 1_800.0)
    return {
        "from": utc(at, "%Y-%m-%dT%H:%MZ"),
        "to": utc(at + 1_800, "%Y-%m-%dT%H:%MZ"),
        "intensity": {"forecast": value, "actual": value if at < NOW - 2 * HOUR else None, "index": "moderate"},
    }


def _neso_serve(server: GridServer, through: Callable[[Any], Any]) -> None:
    def answer(asked: Asked) -> Answer:
        first, last = asked.path.split("/")[2:]
        begin = _time(first) - 1_800  # one early, as the service does
        end = _time(first) + 48 * HOUR if last == "fw48h" else _time(last)
        half_hours = [_half_hour(at) for at in range(int(begin), int(end), 1_800)]
        return raw_json(through({"data": half_hours}))

    server.on("/intensity/*", answer)


def _neso_spoil(trouble: str, body: Any) -> Any:
    listed = body["data"]
    last = listed[-1]
    wholes = {
        "an array": [body],
        "null": None,
        "no list": {},
        "an object for the list": {"data": {"0": last}},
        "null for the list": {"data": None},
        "empty list": {"data": []},
        "a list of numbers": {"data": [1, 2, 3]},
    }
    if trouble in wholes:
        return wholes[trouble]
    if trouble in _NUMBERS:
        last["intensity"] |= {"forecast": _NUMBERS[trouble], "actual": _NUMBERS[trouble]}
    elif trouble in _TIMES:
        last["from"] = _TIMES[trouble]
    elif trouble == "every value null":
        for slot in listed:
            slot["intensity"] |= {"forecast": None, "actual": None}
    elif trouble == "no value":
        del last["intensity"]
    elif trouble == "no time":
        del last["from"]
    elif trouble == "two values for one time":
        listed += [{**slot, "intensity": {"forecast": 1, "actual": 1}} for slot in listed]
    elif trouble in _SHIFTS:
        for slot in listed:
            slot |= {end: iso(_time(slot[end]) + _SHIFTS[trouble]) for end in ("from", "to")}
    else:
        raise AssertionError(f"no entry spoils {trouble!r}")
    return body


def _neso_recorded(server: GridServer, document: Mapping[str, Any]) -> list[tuple[str, float, float, list[float]]]:
    body = next(end["response_200"] for end in document["endpoints"] if "fw48h" in end["path"])
    server.on("/intensity/*", as_json(body))
    begin = _time("2026-10-01T09:00:00Z")
    return [
        ("actual", begin, begin + 2_700, [130, 126]),  # the second has no outturn yet
        ("forecast", begin + 600, begin + 6 * HOUR, [133, 126]),
    ]


# --- the Carbon Aware SDK


def _sdk_serve(server: GridServer, through: Callable[[Any], Any]) -> None:
    def history(asked: Asked) -> Answer:
        first, last = _time(asked.query["time"]), min(_time(asked.query["toTime"]), NOW)
        times = range(int(first // 300 * 300), int(last) + 1, 300)
        place = asked.query["location"]
        points = [{"location": place, "time": iso(at), "rating": value_at(at, 300.0)} for at in times]
        return raw_json(through(points))

    def forecast(asked: Asked) -> Answer:
        times = range(int(NOW // 300 * 300), int(NOW + 80 * HOUR), 300)
        points = [{"location": "IE", "timestamp": iso(at), "duration": 5, "value": value_at(at, 300.0)} for at in times]
        answer = {
            "requestedAt": iso(NOW),
            "generatedAt": iso(NOW - 120),
            "location": asked.query["location"],
            "windowSize": 5,
            "optimalDataPoints": points[:1],
            "forecastData": points,
        }
        return raw_json(through([answer]))

    server.on("/emissions/bylocation", history)
    server.on("/emissions/forecasts/current", forecast)


def _sdk_spoil(trouble: str, body: Any) -> Any:
    if trouble == "an array":
        return [body]
    if trouble in ("null", "no list", "an object for the list", "null for the list"):
        return {"no list": {}, "an object for the list": {"0": body[0]}}.get(trouble)
    ahead = "forecastData" in body[0]
    listed = body[0]["forecastData"] if ahead else body
    value, time = ("value", "timestamp") if ahead else ("rating", "time")
    last = listed[-1]
    if trouble in _NUMBERS:
        last[value] = _NUMBERS[trouble]
    elif trouble in _TIMES:
        last[time] = _TIMES[trouble]
    elif trouble == "empty list":
        listed.clear()
    elif trouble == "a list of numbers":
        listed[:] = [1, 2, 3]
    elif trouble in ("no value", "no time", "no zone"):
        del last[{"no value": value, "no time": time, "no zone": "location"}[trouble]]
    elif trouble == "wrong zone":
        last["location"] = "elsewhere"
    elif trouble == "issued in the future":
        body[0]["generatedAt"] = iso(NOW + 2 * HOUR)
    elif trouble == "no time of issue":
        del body[0]["generatedAt"]
    elif trouble == "two values for one time":
        listed += [{**point, value: point[value] + 1} for point in listed]
    elif trouble == "between steps":
        listed += [{**point, time: iso(_time(point[time]) + 7)} for point in listed]
    elif trouble in _SHIFTS:
        for point in listed:
            point[time] = iso(_time(point[time]) + _SHIFTS[trouble])
    else:
        raise AssertionError(f"no entry spoils {trouble!r}")
    return body


def _sdk_recorded(server: GridServer, document: Mapping[str, Any]) -> list[tuple[str, float, float, list[float]]]:
    for end in document["endpoints"]:
        if "response_200" in end:
            server.on(end["path"].partition("?")[0], as_json(end["response_200"]))
    now = _time("2026-10-01T14:03:00Z")
    return [("forecast", now, now + HOUR, [532.02])]


def _sdk(options: SourceOptions, clock: Callable[[], float]) -> GridSource:
    if options.url is None:
        pytest.skip("it runs at a site of its own")
    return CarbonAwareSdk(options)


MORE_CLIENTS = (
    Client(
        name="neso",
        horizon_h=48.0,
        opened=lambda options, clock: Neso(options, clock, pause_s=0.0),
        zone="GB",
        place="GB",
        kind=SignalKind.AVERAGE_DIRECT,
        step_s=1_800.0,
        factor=1.0,
        key=None,
        serve=_neso_serve,
        spoil=_neso_spoil,
        recorded=_neso_recorded,
        contract="uk_carbon_intensity.json",
        without=frozenset(
            [
                "wrong zone",
                "no zone",
                "wrong unit or kind",
                "the key for a time",
                "issued in the future",
                "no time of issue",
            ]
        ),
    ),
    Client(
        name="carbon-aware-sdk",
        any_kind=True,
        opened=_sdk,
        zone="US-EAST",
        place="eastus",
        kind=SignalKind.MARGINAL,
        step_s=300.0,
        factor=1.0,
        key=None,
        serve=_sdk_serve,
        spoil=_sdk_spoil,
        recorded=_sdk_recorded,
        contract="carbon_aware_sdk_webapi.json",
        without=frozenset(["wrong unit or kind", "every value null", "the key for a time"]),
        options={"kind": SignalKind.MARGINAL, "zones": {"US-EAST": "eastus"}},
    ),
)
