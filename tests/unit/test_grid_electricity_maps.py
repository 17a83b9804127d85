"""Electricity Maps: what is asked, what a plan does not include, and what is said of estimates."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from grid_clients import CLIENTS, HOUR, NOW, iso
from grid_server import GridServer, as_json

from eco_ray.core.intensity import SignalKind
from eco_ray.core.units import Nature
from eco_ray.grid.electricity_maps import HORIZONS_H, URL, ElectricityMaps, open_source
from eco_ray.grid.http import Fault, SourceError
from eco_ray.grid.sources import SourceOptions

(CLIENT,) = [client for client in CLIENTS if client.name == "electricity-maps"]
BASE = "/carbon-intensity"
HERE = NOW // HOUR * HOUR


@pytest.fixture
def server() -> Iterator[GridServer]:
    with GridServer() as running:
        CLIENT.serve(running, lambda body: body)
        yield running


@pytest.fixture
def source(server) -> ElectricityMaps:
    return CLIENT.open(server)


def hour(at: float, value: float | None = 300, **more) -> dict:
    point = {"zone": "DE", "carbonIntensity": value, "datetime": iso(at), "emissionFactorType": "lifecycle"}
    return {**point, "isEstimated": False, "estimationMethod": None, **more}


def history(*hours: dict) -> dict:
    return {"zone": "DE", "history": list(hours), "temporalGranularity": "hourly"}


def refused(source, question="actual", start=NOW - HOUR, end=NOW) -> SourceError:
    with pytest.raises(SourceError) as caught:
        getattr(source, question)("DE", start, end)
    return caught.value


def test_it_opens_on_the_public_service_without_a_key():
    source = open_source(SourceOptions(key=lambda _: None))
    assert source.kind is SignalKind.AVERAGE_LIFECYCLE
    assert str(source._http._base) == URL == "https://api.electricitymaps.com/v4"


def test_another_version_is_another_url():
    source = open_source(SourceOptions(url="https://api.electricitymaps.com/v3"))
    assert source._http._base.path == "/v3"


@pytest.mark.parametrize(
    ("kind", "factors"), [(None, "lifecycle"), (SignalKind.AVERAGE_DIRECT, "direct")], ids=["default", "direct"]
)
def test_every_request_names_zone_kind_and_key_and_forbids_to_guess_the_zone(server, kind, factors):
    source = CLIENT.open(server, kind=kind)
    assert source.actual("DE", NOW - 40 * HOUR, NOW).kind is (kind or SignalKind.AVERAGE_LIFECYCLE)
    source.actual("DE", NOW - HOUR, NOW)
    source.forecast("DE", NOW, NOW + HOUR)
    assert {path.removeprefix(BASE) for path in server.paths()} == {"/past-range", "/history", "/forecast"}
    for asked in server.requests:
        assert asked.query["zone"] == "DE"
        assert asked.query["emissionFactorType"] == factors
        assert asked.query["disableCallerLookup"] == "true"
        assert asked.headers["auth-token"] == CLIENT.key


@pytest.mark.parametrize("sent", [{"emissionFactorType": "direct"}, {"zone": "US-CAL-CISO"}])
def test_one_hour_of_another_kind_or_zone_spoils_the_answer(server, source, sent):
    server.on(f"{BASE}/history", as_json(history(hour(HERE - HOUR), hour(HERE, **sent))))
    error = refused(source)
    assert error.fault is Fault.MALFORMED
    assert "was sent, and" in str(error)


def test_an_answer_that_does_not_say_its_kind_is_not_used(server, source):
    silent = hour(HERE)
    del silent["emissionFactorType"]
    server.on(f"{BASE}/history", as_json(history(silent)))
    assert "emissionFactorType" in str(refused(source))


@pytest.mark.parametrize("granularity", ["5_minutes", "daily"])
def test_other_steps_than_hours_are_not_used(server, source, granularity):
    server.on(f"{BASE}/history", as_json({**history(hour(HERE)), "temporalGranularity": granularity}))
    assert "temporalGranularity" in str(refused(source))


def test_hours_that_do_not_begin_at_full_hours_are_not_used(server, source):
    server.on(f"{BASE}/history", as_json(history(hour(HERE - HOUR + 420), hour(HERE + 420))))
    assert "is no full hour" in str(refused(source))


# --- history


def test_the_last_day_needs_only_what_every_plan_has(server, source):
    source.actual("DE", NOW - 20 * HOUR, NOW)
    assert server.paths() == [f"{BASE}/history"]


def test_latest_is_asked_where_it_may_be_newer(server, source):
    server.on(f"{BASE}/history", as_json(history(hour(HERE - 2 * HOUR, 1), hour(HERE - HOUR, 2))))
    server.on(f"{BASE}/latest", as_json(hour(HERE, 3)))
    assert source.actual("DE", NOW - 2 * HOUR, NOW).values_g_per_kwh.tolist() == [1, 2, 3]


def test_what_latest_says_of_an_hour_is_newer_than_history(server, source):
    server.on(f"{BASE}/history", as_json(history(hour(HERE - HOUR, 2))))
    server.on(f"{BASE}/latest", as_json(hour(HERE - HOUR, 5)))
    series = source.actual("DE", NOW - HOUR, NOW)
    assert (series.values_g_per_kwh.tolist(), series.end_s) == ([5], HERE)


def test_a_long_span_is_asked_in_ranges_of_ten_days(server, source):
    source.actual("DE", NOW - 25 * 24 * HOUR, NOW)
    assert server.paths() == [f"{BASE}/past-range"] * 3
    for asked, following in zip(server.requests, server.requests[1:], strict=False):
        assert asked.query["end"] == following.query["start"]


def test_a_plan_without_ranges_still_gives_the_last_day(server, source):
    server.on(f"{BASE}/past-range", as_json({"error": "Unauthorized"}, 401))
    series = source.actual("DE", NOW - 60 * HOUR, NOW)
    assert series.start_s == HERE - 23 * HOUR
    assert refused(source, start=NOW - 60 * HOUR, end=NOW - 50 * HOUR).fault is Fault.REFUSED


def test_hours_without_a_value_are_unknown(server, source):
    server.on(f"{BASE}/history", as_json(history(hour(HERE - 2 * HOUR, 1), hour(HERE - HOUR, None), hour(HERE, 3))))
    series = source.actual("DE", NOW - 2 * HOUR, NOW)
    assert (series.start_s, series.values_g_per_kwh.tolist()) == (HERE, [3])


def test_an_hour_that_is_yet_to_come_is_no_history(server, source):
    server.on(f"{BASE}/history", as_json(history(hour(HERE), hour(HERE + 2 * HOUR))))
    assert "is no history: a clock is wrong" in str(refused(source))


# --- estimates


def test_what_is_not_estimated_is_modelled(server, source):
    server.on(f"{BASE}/history", as_json(history(hour(HERE))))
    series = source.actual("DE", NOW, NOW)
    assert (series.source, series.nature) == ("electricity-maps", Nature.MODELLED)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ({"isEstimated": True, "estimationMethod": "TIME_SLICER_AVERAGE"}, "TIME_SLICER_AVERAGE"),
        ({"isEstimated": True, "estimationMethod": "CONSTRUCT_BREAKDOWN"}, "CONSTRUCT_BREAKDOWN"),
        ({"isEstimated": True, "estimationMethod": None}, "method not named"),
        ({"isEstimated": True, "estimationMethod": 7}, "method not named"),
        ({"isEstimated": True, "estimationMethod": "a\nb" * 1000}, "method not named"),
        ({"isEstimated": True, "estimationMethod": CLIENT.key}, "method not named"),
        ({"isEstimated": True, "estimationMethod": CLIENT.key.encode().hex().upper()}, "method not named"),
        ({"isEstimated": None}, "not said whether"),
        ({"isEstimated": "yes"}, "not said whether"),
    ],
)
def test_an_estimate_is_assumed_and_its_method_shown(server, source, said, shown):
    server.on(f"{BASE}/history", as_json(history(hour(HERE - HOUR), hour(HERE, **said))))
    series = source.actual("DE", NOW - HOUR, NOW)
    assert (series.source, series.nature) == (f"electricity-maps, estimated: {shown}", Nature.ASSUMED)
    before = source.actual("DE", HERE - HOUR, HERE - 1)
    assert (before.source, before.nature) == ("electricity-maps", Nature.MODELLED)


@pytest.mark.parametrize("value", [0, -0.0, 1e-318])
def test_a_life_cycle_without_grams_is_refused_and_direct_nothing_is_not(server, source, value):
    server.on(f"{BASE}/history", as_json(history(hour(HERE - HOUR), hour(HERE, value))))
    assert refused(source).fault is Fault.MALFORMED
    direct = {"emissionFactorType": "direct"}
    server.on(f"{BASE}/history", as_json(history(hour(HERE - HOUR, **direct), hour(HERE, value, **direct))))
    series = CLIENT.open(server, kind=SignalKind.AVERAGE_DIRECT).actual("DE", NOW - HOUR, NOW)
    assert str(series.at(NOW)) == str(abs(float(value)))


# --- forecast


@pytest.mark.parametrize(
    ("hours", "horizon"), [(0, 6), (6, 6), (6.1, 24), (24, 24), (25, 48), (48, 48), (71, 72), (72, 72), (500, 72)]
)
def test_the_shortest_horizon_that_reaches_the_end(server, source, hours, horizon):
    source.forecast("DE", NOW, NOW + hours * HOUR)
    assert server.requests[0].query["horizonHours"] == str(horizon)
    assert horizon in HORIZONS_H


def forecast(first: float, *values: float, name: str = "forecast", **more) -> dict:
    points = [{"carbonIntensity": value, "datetime": iso(first + i * HOUR)} for i, value in enumerate(values)]
    return {"zone": "DE", name: points, "updatedAt": iso(NOW - 60), "temporalGranularity": "hourly", **more}


@pytest.mark.parametrize("name", ["forecast", "data"])
def test_points_stand_under_either_name(server, source, name):
    server.on(f"{BASE}/forecast", as_json(forecast(HERE, 1, 2, 3, name=name)))
    series = source.forecast("DE", NOW, NOW + 2 * HOUR)
    assert series.values_g_per_kwh.tolist() == [1, 2, 3]
    assert series.issued_s == NOW - 60
    assert server.paths() == [f"{BASE}/forecast"]


def test_a_forecast_from_the_next_hour_on_gets_the_present_one_from_latest(server, source):
    server.on(f"{BASE}/forecast", as_json(forecast(HERE + HOUR, 2, 3)))
    server.on(f"{BASE}/latest", as_json(hour(HERE, 1, isEstimated=True, estimationMethod="TIME_SLICER_AVERAGE")))
    series = source.forecast("DE", NOW, NOW + 9 * HOUR)
    assert series.values_g_per_kwh.tolist() == [1, 2, 3]
    assert series.source == "electricity-maps, estimated: TIME_SLICER_AVERAGE"


def test_nothing_is_invented_for_an_hour_that_nobody_knows(server, source):
    server.on(f"{BASE}/forecast", as_json(forecast(HERE + HOUR, 2, 3)))
    server.on(f"{BASE}/latest", as_json(hour(HERE - 2 * HOUR, 1)))
    assert refused(source, "forecast", NOW, NOW + 9 * HOUR).fault is Fault.NO_DATA


def test_a_clock_that_is_a_little_fast_is_no_reason_to_refuse(server, source):
    server.on(f"{BASE}/forecast", as_json(forecast(HERE, 1, 2, updatedAt=iso(NOW + 60))))
    assert source.forecast("DE", NOW, NOW + HOUR).issued_s == NOW


def test_a_plan_without_forecasts_is_refused_that_alone(server, source):
    server.on(f"{BASE}/forecast", as_json({"error": "Unauthorized"}, 401))
    error = refused(source, "forecast", NOW, NOW + HOUR)
    assert (error.fault, error.status) == (Fault.REFUSED, 401)
    assert "the free one has none" in str(error)
    assert source.actual("DE", NOW - HOUR, NOW).at(NOW) > 0
