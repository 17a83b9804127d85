"""The Carbon Aware SDK client against a server as in ../shared/contracts/carbon_aware_sdk_webapi.json."""

import pytest
from grid_server import Answer, GridServer, as_json

from eco_ray.core.intensity import SignalKind
from eco_ray.errors import NotFoundError, UsageError
from eco_ray.grid.carbon_aware_sdk import CarbonAwareSdk, open_source
from eco_ray.grid.http import Fault, SourceError
from eco_ray.grid.live import utc
from eco_ray.grid.points import instant_s
from eco_ray.grid.sources import SourceOptions

HOUR = 3600.0
STEP = 300.0
NOW = 1_790_863_200.0  # 2026-10-01T14:00Z


def iso(at):
    return utc(at, "%Y-%m-%dT%H:%M:%S+00:00")


def history(asked):
    first, last = instant_s(asked.query["time"], "test"), instant_s(asked.query["toTime"], "test")
    times = range(int(first // STEP * STEP), int(last), int(STEP))
    return as_json([{"location": asked.query["location"], "time": iso(at), "rating": at // 300 % 90} for at in times])


def forecast(start=NOW, count=12, **more):
    points = [
        {"location": "IE", "timestamp": iso(start + i * STEP), "duration": 5, "value": 400.5 + i} for i in range(count)
    ]
    return {
        "requestedAt": iso(NOW),
        "generatedAt": iso(NOW - 60),
        "location": "northeurope",
        "windowSize": 5,
        "optimalDataPoint": points[0] if points else None,
        "forecastData": points,
        **more,
    }


@pytest.fixture
def server():
    with GridServer() as server:
        server.on("/emissions/bylocation", history)
        server.on("/emissions/forecasts/current", as_json([forecast()]))
        yield server


def sdk(server, **options):
    return CarbonAwareSdk(SourceOptions(**{"url": server.url, "kind": SignalKind.MARGINAL, **options}))


def test_history_covers_the_span_and_little_more(server):
    found = sdk(server).actual("eastus", NOW - HOUR + 100, NOW)
    assert found.covers(NOW - HOUR + 100, NOW - STEP)
    assert (found.start_s, found.step_s) == (NOW - HOUR, STEP)
    assert found.kind is SignalKind.MARGINAL
    assert server.requests[0].query["location"] == "eastus"


def test_a_long_history_is_asked_in_pieces(server):
    found = sdk(server).actual("eastus", NOW - 20 * 24 * HOUR, NOW)
    assert len(server.requests) == 2
    assert found.covers(NOW - 20 * 24 * HOUR, NOW - STEP)


def test_seven_digits_of_a_second_are_read(server):
    points = [
        {"location": "x", "time": f"2026-10-01T13:{minute}:11.5092741+00:00", "rating": 70} for minute in (45, 50, 55)
    ]
    server.on("/emissions/bylocation", as_json(points))
    found = sdk(server).actual("x", NOW - 600, NOW)
    assert found.start_s == pytest.approx(NOW - 15 * 60 + 11.509274)
    assert found.step_s == STEP


@pytest.mark.parametrize("duration", ["00:05:00", 5])
def test_one_point_is_enough_if_it_says_its_duration(server, duration):
    point = {"location": "x", "time": iso(NOW), "rating": 70}
    server.on("/emissions/bylocation", as_json([point]))
    with pytest.raises(SourceError, match="whose duration is not said"):
        sdk(server).actual("x", NOW, NOW)
    server.on("/emissions/bylocation", as_json([{**point, "duration": duration}]))
    assert sdk(server).actual("x", NOW, NOW).end_s == NOW + STEP


@pytest.mark.parametrize("points", ["optimalDataPoint", "optimalDataPoints"])
def test_a_forecast_of_old_and_new_servers(server, points):
    answer = forecast()
    optimal = answer.pop("optimalDataPoint")
    server.on(
        "/emissions/forecasts/current", as_json([{**answer, points: optimal if points[-1] == "t" else [optimal]}])
    )
    found = sdk(server, zones={"IE": "northeurope"}).forecast("IE", NOW + 10, NOW + 1800)
    assert server.requests[0].query == {"location": "northeurope"}
    assert (found.zone, found.start_s, found.end_s, found.issued_s) == ("IE", NOW, NOW + 1800, NOW - 60)
    assert found.at(NOW) == 400.5


def test_the_step_under_way_is_held_and_no_more_than_that(server):
    server.on("/emissions/forecasts/current", as_json([forecast(start=NOW + STEP)]))
    found = sdk(server).forecast("IE", NOW + 10, NOW + 1800)
    assert found.at(NOW + 10) == 400.5
    assert "its first value is taken from 5 min earlier on" in found.source
    server.on("/emissions/forecasts/current", as_json([forecast(start=NOW + 3 * STEP)]))
    with pytest.raises(SourceError, match="it is not used") as error:
        sdk(server).forecast("IE", NOW + 10, NOW + 1800)
    assert error.value.fault is Fault.NO_DATA


def changed(**more):
    points = [{**point, **more} for point in forecast()["forecastData"]]
    return [forecast(forecastData=points)]


BAD_FORECASTS = {
    "an object": (forecast(), Fault.MALFORMED),
    "none": ([], Fault.MALFORMED),
    "two": ([forecast(), forecast()], Fault.MALFORMED),
    "text": (["soon"], Fault.MALFORMED),
    "no issue time": ([forecast(generatedAt=None)], Fault.MALFORMED),
    "issued in two hours": ([forecast(generatedAt=iso(NOW + 2 * HOUR))], Fault.MALFORMED),
    "moving means": ([forecast(windowSize=60)], Fault.MALFORMED),
    "window of text": ([forecast(windowSize="5")], Fault.MALFORMED),
    "no data": ([forecast(count=0)], Fault.NO_DATA),
    "data is an object": ([forecast(forecastData={})], Fault.MALFORMED),
    "of yesterday": ([forecast(start=NOW - 24 * HOUR)], Fault.NO_DATA),
    "text for a number": (changed(value="448"), Fault.MALFORMED),
    "null": (changed(value=None), Fault.MALFORMED),
    "negative": (changed(value=-1), Fault.MALFORMED),
    "in tons": (changed(value=1e6), Fault.MALFORMED),
    "no duration": (changed(duration=None), Fault.MALFORMED),
    "no time at all": (changed(duration=0), Fault.MALFORMED),
    "longer than their distance": (changed(duration=60), Fault.MALFORMED),
    "one time, two values": (
        [forecast(forecastData=forecast()["forecastData"] + changed(value=1)[0]["forecastData"])],
        Fault.MALFORMED,
    ),
    "of tomorrow": ([forecast(start=NOW + 24 * HOUR)], Fault.MALFORMED),
}
BAD_HISTORIES = {
    "an object": ({"location": "x"}, Fault.MALFORMED),
    "empty": ([], Fault.NO_DATA),
    "text": (["x"], Fault.MALFORMED),
    "no time": ([{"location": "x", "rating": 1}], Fault.MALFORMED),
    "a time without offset": ([{"location": "x", "time": "2026-10-01T14:00:00", "rating": 1}], Fault.MALFORMED),
    "no place": ([{"time": iso(NOW), "rating": 1}], Fault.MALFORMED),
    "two places": (
        [{"location": p, "time": iso(NOW + i * STEP), "rating": 1, "duration": 5} for i, p in enumerate("xy")],
        Fault.MALFORMED,
    ),
    "text for a number": ([{"location": "x", "time": iso(NOW), "rating": "70"}], Fault.MALFORMED),
    "two durations": (
        [{"location": "x", "time": iso(NOW + m * 60), "rating": 1, "duration": m} for m in (5, 10)],
        Fault.MALFORMED,
    ),
    "one time, two values": ([{"location": "x", "time": iso(NOW), "rating": v} for v in (1, 2)], Fault.MALFORMED),
    "another time": ([{"location": "x", "time": iso(NOW + h * HOUR), "rating": 1} for h in (-5, -4)], Fault.NO_DATA),
    "the future": ([{"location": "x", "time": iso(NOW + h * HOUR), "rating": 1} for h in (0, 9)], Fault.MALFORMED),
}


@pytest.mark.parametrize("case", BAD_FORECASTS)
def test_a_malformed_forecast_is_an_error_and_never_a_number(server, case):
    answer, fault = BAD_FORECASTS[case]
    server.on("/emissions/forecasts/current", as_json(answer))
    with pytest.raises(SourceError) as error:
        sdk(server).forecast("IE", NOW, NOW + HOUR)
    assert error.value.fault is fault, error.value


@pytest.mark.parametrize("case", BAD_HISTORIES)
def test_a_malformed_history_is_an_error_and_never_a_number(server, case):
    answer, fault = BAD_HISTORIES[case]
    server.on("/emissions/bylocation", as_json(answer))
    with pytest.raises(SourceError) as error:
        sdk(server).actual("x", NOW, NOW + HOUR)
    assert error.value.fault is fault, error.value


def test_errors_are_told_with_their_detail(server):
    problem = {
        "type": "https://tools.ietf.org/html/rfc7231#section-6.5.1",
        "title": "ArgumentException",
        "status": 400,
        "detail": "Invalid parameters",
        "traceId": "00-1",
    }
    server.on("/emissions/bylocation", as_json(problem, 400))
    with pytest.raises(SourceError, match="Invalid parameters") as error:
        sdk(server).actual("x", NOW, NOW + HOUR)
    assert error.value.fault is Fault.NO_DATA
    server.on("/emissions/bylocation", as_json({"title": "NotImplemented"}, 501))
    with pytest.raises(SourceError, match="the source behind it has none") as error:
        sdk(server).actual("x", NOW, NOW + HOUR)
    assert error.value.fault is Fault.NO_DATA
    server.on("/emissions/bylocation", Answer(status=204))
    with pytest.raises(SourceError, match="HTTP 204") as error:
        sdk(server).actual("x", NOW, NOW + HOUR)
    assert error.value.fault is Fault.NO_DATA


def test_url_and_kind_must_be_given(server):
    with pytest.raises(UsageError, match="has no url; it runs at your site"):
        open_source(SourceOptions(kind=SignalKind.MARGINAL))
    with pytest.raises(UsageError, match="has no kind, and its answers do not say it"):
        sdk(server, kind=None)
    with pytest.raises(UsageError, match="has no use for forecasts"):
        sdk(server, forecasts={"DE": "x"})
    with pytest.raises(NotFoundError, match="no zone 'a/b"):
        sdk(server).actual("a/b?c", NOW, NOW)
