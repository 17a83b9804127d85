"""NESO's client against a server that answers as ../shared/contracts/uk_carbon_intensity.json says."""

import pytest
from grid_server import GridServer, as_json

from eco_ray.core.intensity import SignalKind
from eco_ray.errors import NotFoundError, UsageError
from eco_ray.grid.http import Fault, SourceError
from eco_ray.grid.live import utc
from eco_ray.grid.neso import Neso, open_source
from eco_ray.grid.sources import SourceOptions

HALF = 1800.0
NOW = 1_790_845_200.0  # 2026-10-01T09:00Z
HOUR = 3600.0
SLOT = {"from": "2026-10-01T09:00Z", "to": "2026-10-01T09:30Z"}


def slot(at, forecast=133, **more):
    times = {"from": utc(at, "%Y-%m-%dT%H:%MZ"), "to": utc(at + HALF, "%Y-%m-%dT%H:%MZ")}
    return {**times, "intensity": {"forecast": forecast, "index": "moderate", **more}}


def national(asked):
    """As the server does it: one half hour early, outturns up to an hour ago."""
    first, last = span(asked.path.split("/")[2:])
    half_hours = range(int(first - HALF), int(last), int(HALF))
    return as_json({"data": [slot(at, 100 + at // 1800 % 48, actual=value(at)) for at in half_hours]})


def value(at):
    return 200 + at // 1800 % 48 if at + HALF <= NOW - HOUR else None


def regional(asked, wrapped=False):
    _, _, _, *times, by, place = asked.path.split("/")
    first, last = span(times)
    half_hours = [slot(at, at // 1800 % 48) for at in range(int(first - HALF), int(last), int(HALF))]
    answer = {"shortname": "there", "data": half_hours, by: int(place) if by == "regionid" else place}
    return as_json({"data": [answer] if wrapped else answer})


def span(times):
    from eco_ray.grid.points import instant_s

    first = instant_s(times[0], "test")
    return first, first + 48 * HOUR if times[1] == "fw48h" else instant_s(times[1], "test")


@pytest.fixture
def server():
    with GridServer() as server:
        server.on("/intensity/*", national)
        server.on("/regional/intensity/*", regional)
        yield server


def neso(server, clock=NOW, **options):
    return Neso(SourceOptions(url=server.url, **options), clock=lambda: clock, pause_s=0)


def test_outturns_are_taken_before_forecasts_and_the_half_hour_before_is_left_out(server):
    series = neso(server).actual("GB", NOW - 3 * HOUR + 60, NOW - 2 * HOUR)
    assert (series.start_s, series.step_s) == (NOW - 3 * HOUR, HALF)
    assert series.values_g_per_kwh.tolist() == [200 + 12, 200 + 13]
    assert series.kind is SignalKind.AVERAGE_DIRECT
    assert "estimated" not in series.source


def test_a_half_hour_without_outturn_is_its_forecast_and_marked(server):
    series = neso(server).actual("GB", NOW - 1.5 * HOUR, NOW)
    assert series.values_g_per_kwh.tolist() == [200 + 15, 100 + 16, 100 + 17]
    assert "estimated" in series.source


def test_what_has_not_begun_is_no_history(server):
    series = neso(server, clock=NOW + 60).actual("GB", NOW - HOUR, NOW + 5 * HOUR)
    assert series.end_s == NOW + HALF


def test_a_long_span_is_asked_in_pieces_of_14_days(server):
    series = neso(server).actual("GB", NOW - 30 * 86_400, NOW)
    assert series.covers(NOW - 30 * 86_400, NOW)
    assert len(server.requests) == 3
    with pytest.raises(SourceError, match="40 requests give 560; ask for a shorter span"):
        neso(server).actual("GB", NOW - 600 * 86_400, NOW)


def test_a_second_passes_between_requests(server):
    source = Neso(SourceOptions(url=server.url), clock=lambda: NOW, pause_s=0.2)
    import time

    before = time.monotonic()
    source.actual("GB", NOW - 30 * 86_400, NOW)
    assert time.monotonic() - before >= 0.4


@pytest.mark.parametrize(
    ("zone", "path"),
    [
        ("GB", "/intensity/2026-10-01T09:00Z/fw48h"),
        ("GB-region-13", "/regional/intensity/2026-10-01T09:00Z/fw48h/regionid/13"),
        ("GB-SCT", "/regional/intensity/2026-10-01T09:00Z/fw48h/regionid/2"),
        ("my room", "/regional/intensity/2026-10-01T09:00Z/fw48h/postcode/RG10"),
    ],
)
def test_a_forecast_of_nation_region_and_postcode(server, zone, path):
    source = neso(server, NOW + 100, zones={"GB-SCT": "regionid/2", "my room": "postcode/RG10"})
    assert zone in source.zones()
    series = source.forecast(zone, NOW + 100, NOW + 24 * HOUR)
    assert server.paths() == [path]
    assert series.start_s == NOW
    assert series.end_s == NOW + 24 * HOUR
    assert series.issued_s == NOW + 100
    assert source.forecast(zone, NOW + 100, NOW + 99 * HOUR).end_s == NOW + 48 * HOUR


@pytest.mark.parametrize("wrapped", [False, True])
def test_regional_data_may_be_an_object_or_a_list(server, wrapped):
    server.on("/regional/intensity/*", lambda asked: regional(asked, wrapped))
    series = neso(server).actual("GB-region-13", NOW - HOUR, NOW)
    assert series.values_g_per_kwh.tolist() == [16, 17]
    assert "estimated" in series.source


def test_no_forecast_is_given_for_another_time_than_now(server):
    with pytest.raises(SourceError, match="keeps no forecast as it stood at 2026-09-01") as error:
        neso(server).forecast("GB", NOW - 30 * 86_400, NOW)
    assert error.value.fault is Fault.NO_DATA
    assert not server.requests


def test_an_unknown_zone_and_wrong_options(server):
    with pytest.raises(NotFoundError, match="no zone 'GB-region-18' in neso; nearest name: GB-region-8"):
        neso(server).actual("GB-region-18", NOW - HOUR, NOW)
    for wrong in ("regionid/18", "postcode/../x", "postcode/RG10 1AA"):
        with pytest.raises(UsageError, match="write GB, regionid/1 to"):
            neso(server, zones={"X": wrong})
    with pytest.raises(UsageError, match="cannot be marginal; it is average-direct"):
        open_source(SourceOptions(kind=SignalKind.MARGINAL))
    with pytest.raises(UsageError, match="has no use for forecasts, but DE was given"):
        open_source(SourceOptions(forecasts={"DE": "x"}))


GOOD = slot(NOW - HALF, actual=100)
BAD = {
    "no object": ([], Fault.MALFORMED),
    "no data": ({}, Fault.MALFORMED),
    "data is a number": ({"data": 7}, Fault.MALFORMED),
    "empty": ({"data": []}, Fault.NO_DATA),
    "only nulls": ({"data": [slot(NOW - HALF, None, actual=None)]}, Fault.NO_DATA),
    "text for a number": ({"data": [slot(NOW - HALF, actual="130")]}, Fault.MALFORMED),
    "truth for a number": ({"data": [slot(NOW - HALF, actual=True)]}, Fault.MALFORMED),
    "negative": ({"data": [slot(NOW - HALF, actual=-1)]}, Fault.MALFORMED),
    "zero for a nation": ({"data": [slot(NOW - HALF, actual=0)]}, Fault.MALFORMED),
    "absurd": ({"data": [slot(NOW - HALF, actual=1e9)]}, Fault.MALFORMED),
    "another step": ({"data": [{**GOOD, "to": utc(NOW + HALF, "%Y-%m-%dT%H:%MZ")}]}, Fault.MALFORMED),
    "off the half hour": (
        {"data": [{**GOOD, "from": "2026-10-01T08:31Z", "to": "2026-10-01T09:01Z"}]},
        Fault.MALFORMED,
    ),
    "a time without offset": ({"data": [{**GOOD, "from": "2026-10-01T08:30"}]}, Fault.MALFORMED),
    "no time": ({"data": [{**GOOD, "from": None}]}, Fault.MALFORMED),
    "no intensity": ({"data": [SLOT]}, Fault.MALFORMED),
    "intensity is a list": ({"data": [{**GOOD, "intensity": []}]}, Fault.MALFORMED),
    "twice, and different": ({"data": [GOOD, slot(NOW - HALF, actual=101)]}, Fault.MALFORMED),
    "another time": ({"data": [slot(NOW - 99 * HOUR, actual=101)]}, Fault.MALFORMED),
}


@pytest.mark.parametrize("case", BAD)
def test_a_malformed_answer_is_an_error_and_never_a_number(server, case):
    answer, fault = BAD[case]
    server.on("/intensity/*", as_json(answer))
    with pytest.raises(SourceError) as error:
        neso(server).actual("GB", NOW - HOUR, NOW)
    assert error.value.fault is fault, error.value


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ({"data": {"regionid": 12, "data": [GOOD]}}, Fault.MALFORMED),
        ({"data": {"data": [GOOD]}}, Fault.MALFORMED),
        ({"data": [{"regionid": 13, "data": [GOOD]}] * 2}, Fault.MALFORMED),
        ({"data": []}, Fault.MALFORMED),
        ({"data": {"regionid": 13}}, Fault.MALFORMED),
    ],
    ids=["another region", "no region", "two regions", "none", "no half hours"],
)
def test_a_region_is_the_one_that_was_asked_for(server, answer, fault):
    server.on("/regional/intensity/*", as_json(answer))
    with pytest.raises(SourceError) as error:
        neso(server).actual("GB-region-13", NOW - HOUR, NOW)
    assert error.value.fault is fault


@pytest.mark.parametrize(
    ("body", "status", "fault", "words"),
    [
        ({"error": {"code": "400 Bad Request", "message": "Please enter a valid"}}, 400, Fault.NO_DATA, "valid"),
        ({"error": {"code": "500 Internal Server Error", "message": "string"}}, 500, Fault.UNREACHABLE, "HTTP 500"),
    ],
)
def test_errors_of_the_service(server, body, status, fault, words):
    server.on("/intensity/*", as_json(body, status))
    with pytest.raises(SourceError, match=words) as error:
        neso(server).actual("GB", NOW - HOUR, NOW)
    assert error.value.fault is fault


def test_a_forecast_that_begins_later_or_has_ended_is_not_used(server):
    for at in (NOW + HOUR, NOW - HOUR):
        server.on("/intensity/*", as_json({"data": [slot(at), slot(at + HALF)]}))
        with pytest.raises(SourceError) as error:
            neso(server).forecast("GB", NOW, NOW + 9 * HOUR)
        assert error.value.fault is Fault.NO_DATA
