"""What every client of a live service promises, asked of each against a local server that may lie.

With --live, and a key where one is needed, the happy path is asked of the live service too.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from pathlib import Path
from urllib.parse import quote_plus

import numpy as np
import pytest
from grid_clients import CLIENTS, CONTRACTS, FORECAST_TROUBLES, HOUR, NOW, TROUBLES, Client, value_at
from grid_clients_more import MORE_CLIENTS
from grid_server import Answer, GridServer, as_json, as_text, closed_port, redirect

from eco_ray.core.intensity import IntensitySeries, SignalKind
from eco_ray.core.ports import GridSource
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError, UsageError
from eco_ray.grid import keys
from eco_ray.grid.http import Fault, SourceError
from eco_ray.grid.sources import SourceOptions

ASK = {"actual": (NOW - 5 * HOUR, NOW), "forecast": (NOW, NOW + 20 * HOUR)}


@pytest.fixture(params=[*CLIENTS, *MORE_CLIENTS], ids=lambda client: client.name)
def client(request) -> Client:
    return request.param


@pytest.fixture
def source(client, server) -> GridSource:
    client.serve(server, lambda body: body)
    return client.open(server)


def ask(client: Client, source: GridSource, question: str) -> IntensitySeries:
    return getattr(source, question)(client.zone, *ASK[question])


def refused(client: Client, source: GridSource, question: str) -> SourceError:
    """The error of a question, which holds the key in no form."""
    with pytest.raises(SourceError) as caught:
        ask(client, source, question)
    shown = "".join(traceback.format_exception(caught.value))
    for part in {client.key, *(client.key or "").split(":", 1)} - {None, ""}:
        assert part not in shown
        assert quote_plus(part) not in shown
    assert caught.value.fault in set(Fault)
    assert str(caught.value).startswith(client.name)
    return caught.value


# --- all is well


def is_sound(series: IntensitySeries, client: Client) -> None:
    assert series.zone == client.zone
    assert series.kind is client.kind
    assert series.nature in set(Nature)
    assert series.source.startswith(client.name)
    assert series.step_s == client.step_s
    assert series.start_s % client.step_s == 0
    assert series.values_g_per_kwh.dtype == np.float64
    assert np.isfinite(series.values_g_per_kwh).all()
    assert (series.values_g_per_kwh >= 0).all()


def test_it_has_a_name_a_kind_and_zones(client, source):
    assert source.name == client.name
    assert source.kind is client.kind
    assert client.zone in source.zones()
    assert len(set(source.zones())) == len(source.zones())


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (NOW - 5 * HOUR, NOW),
        (NOW - 5.5 * HOUR, NOW - 1.25 * HOUR),
        (NOW - 100, NOW),
        (NOW, NOW),
        (NOW - 30 * HOUR, NOW - 29 * HOUR),
        (NOW - 12 * 24 * HOUR, NOW),
    ],
    ids=["5h", "odd", "now", "empty", "yesterday", "12d"],
)
def test_actual_is_what_the_service_says_in_g_per_kwh(client, source, start, end):
    series = source.actual(client.zone, start, end)
    is_sound(series, client)
    assert series.issued_s is None
    assert series.start_s <= start < series.start_s + series.step_s
    assert end - series.step_s <= series.end_s < end + 2 * series.step_s
    for at in np.arange(series.start_s, series.end_s, series.step_s):
        assert series.at(at) == pytest.approx(value_at(at, client.step_s) * client.factor, rel=1e-12)


@pytest.mark.parametrize("hours", [0, 1, 6, 20, 72, 1000])
def test_a_forecast_holds_now_and_is_what_the_service_says(client, source, hours):
    series = source.forecast(client.zone, NOW, NOW + hours * HOUR)
    is_sound(series, client)
    assert series.start_s <= NOW < series.start_s + series.step_s
    assert NOW < series.end_s < NOW + max(hours, 1) * HOUR + 2 * series.step_s
    if hours <= client.horizon_h:
        assert series.covers(NOW, NOW + hours * HOUR)
    assert series.issued_s <= NOW
    for at in np.arange(series.start_s, series.end_s, series.step_s):
        assert series.at(at) == pytest.approx(value_at(at, client.step_s) * client.factor, rel=1e-12)


@pytest.mark.parametrize("question", ASK)
def test_nobody_can_change_what_the_next_one_reads(client, source, question):
    with pytest.raises(ValueError, match="read-only"):
        ask(client, source, question).values_g_per_kwh[0] = 0.0


@pytest.mark.parametrize("question", ASK)
def test_the_order_of_points_and_repeated_ones_do_not_matter(client, server, source, question):
    usual = ask(client, source, question)

    def shuffled(body):
        for holder in [body] if isinstance(body, dict) else []:
            for value in holder.values():
                if isinstance(value, list):
                    value[:] = [*reversed(value), *value[:2]]
        return body

    client.serve(server, shuffled)
    again = ask(client, source, question)
    assert (again.start_s, again.values_g_per_kwh.tolist()) == (usual.start_s, usual.values_g_per_kwh.tolist())


@pytest.mark.parametrize("question", ASK)
def test_a_zone_may_have_another_name_there(client, server, source, question):
    renamed = client.open(server, zones={"MY-ZONE": client.place})
    assert "MY-ZONE" in renamed.zones()
    series = getattr(renamed, question)("MY-ZONE", *ASK[question])
    assert series.zone == "MY-ZONE"


def test_a_span_of_years_is_refused_before_it_costs_requests(client, server, source):
    with pytest.raises(SourceError, match="ask for a shorter span"):
        source.actual(client.zone, NOW - 5 * 366 * 86_400, NOW)
    assert len(server.requests) <= 1


@pytest.mark.parametrize("question", ASK)
@pytest.mark.parametrize(
    ("start", "end"), [(NOW + HOUR, NOW), (float("nan"), NOW), (NOW, float("inf")), (NOW * 1000, NOW * 1000 + 1)]
)
def test_a_span_that_makes_no_sense_is_refused(client, server, source, question, start, end):
    with pytest.raises(EcoRayError, match=r"no intensity for zone"):
        getattr(source, question)(client.zone, start, end)
    assert server.requests == []


# --- options and keys


@pytest.mark.parametrize(
    "options",
    [
        {"file": Path("a.csv")},
        {"forecasts": {"DE": Path("a.csv")}},
        {"url": "grid.example"},
        {"url": "ftp://grid.example"},
        {"url": "https://ann:pw@grid.example"},
    ],
    ids=str,
)
def test_options_without_meaning_are_refused(client, server, options):
    with pytest.raises(UsageError, match=client.name):
        client.open(server, **options)


def test_a_kind_that_it_does_not_have_is_refused(client, server):
    if client.any_kind:
        pytest.skip("it is of the kind of the service behind it")
    other = SignalKind.MARGINAL if client.kind is not SignalKind.MARGINAL else SignalKind.AVERAGE_LIFECYCLE
    with pytest.raises(UsageError, match=f"cannot be {other}"):
        client.open(server, kind=other)


def test_a_key_travels_unencrypted_to_nobody(client, server):
    if client.key is None:
        pytest.skip("it has no key")
    with pytest.raises(UsageError, match="unencrypted"):
        client.open(server, url="http://grid.example")


@pytest.mark.parametrize("question", ASK)
def test_without_a_key_it_opens_and_says_where_to_get_one(client, server, question):
    if client.key is None:
        pytest.skip("it has no key")
    client.serve(server, lambda body: body)
    error = refused(client, client.open(server, key=lambda name: keys.find(name, None, {})), question)
    assert error.fault is Fault.NO_KEY
    assert f"set {keys.variable(client.name)} or {keys.variable(client.name)}_FILE" in str(error)
    assert "https://" in str(error)
    assert server.requests == []


def test_a_key_file_that_is_wrong_is_no_key(client, server, tmp_path):
    if client.key is None:
        pytest.skip("it has no key")
    environ = {f"{keys.variable(client.name)}_FILE": str(tmp_path / "none")}
    error = refused(client, client.open(server, key=lambda name: keys.find(name, None, environ)), "actual")
    assert error.fault is Fault.NO_KEY
    assert str(tmp_path / "none") in str(error)


@pytest.mark.parametrize("question", ASK)
def test_a_key_shows_in_no_log(client, server, source, question, caplog):
    caplog.set_level(logging.DEBUG)
    ask(client, source, question)
    overrule(server, as_json({}, 401))
    refused(client, source, question)
    assert "HTTP Request: GET" in caplog.text
    for part in {client.key, *(client.key or "").split(":", 1)} - {None, ""}:
        assert part not in caplog.text
        assert quote_plus(part) not in caplog.text


# --- what is answered is no answer


STATUSES = [
    (400, Fault.NO_DATA),
    (401, Fault.REFUSED),
    (403, Fault.REFUSED),
    (404, Fault.NO_DATA),
    (429, Fault.RATE_LIMITED),
    (500, Fault.UNREACHABLE),
    (502, Fault.UNREACHABLE),
]


def overrule(server: GridServer, *answers: Answer) -> None:
    """Answer everything so but a login."""
    for route in server.routes():
        if route != "/login":
            server.on(route, *answers)


@pytest.mark.parametrize("question", ASK)
@pytest.mark.parametrize(("status", "fault"), STATUSES)
def test_a_status_is_a_fault(client, server, source, question, status, fault):
    overrule(server, as_json({"message": f"no, {client.key}"}, status, {"Retry-After": "17"}))
    error = refused(client, source, question)
    assert error.fault is fault
    if status == 429:
        assert error.retry_after_s == 17.0


BROKEN = {
    "empty": (Answer(b""), Fault.MALFORMED),
    "html": (as_text("<html>a proxy's page</html>"), Fault.MALFORMED),
    "half": (Answer(b'{"zone": "DE", "hist'), Fault.MALFORMED),
    "bytes": (Answer(bytes(range(256))), Fault.MALFORMED),
    "deep": (Answer(b'{"a":[' * 50_000), Fault.MALFORMED),
    "cut": (Answer(b'{"zone": "DE"}', cut_after=5), Fault.UNREACHABLE),
    "no http": (Answer(raw=b"\x16\x03\x01garbage"), Fault.UNREACHABLE),
    "too large": (Answer(b" " * 8_000_001), Fault.MALFORMED),
    "packed": (Answer(b"\x1f\x8b", headers={"Content-Encoding": "gzip"}), Fault.MALFORMED),
    "elsewhere": (redirect("https://evil.example/"), Fault.MALFORMED),
    "in circles": (redirect("?again"), Fault.MALFORMED),
    "no content": (Answer(b"", 204), Fault.NO_DATA),
}


@pytest.mark.parametrize("question", ASK)
@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_answer_is_a_fault(client, server, source, question, broken):
    answer, fault = BROKEN[broken]
    overrule(server, answer)
    assert refused(client, source, question).fault is fault


@pytest.mark.parametrize("question", ASK)
def test_nobody_there(client, server, question):
    source = client.open(server, url=f"http://127.0.0.1:{closed_port()}")
    assert refused(client, source, question).fault is Fault.UNREACHABLE


@pytest.mark.parametrize("question", ASK)
@pytest.mark.parametrize("trouble", [*TROUBLES, *FORECAST_TROUBLES])
def test_a_lie_is_never_a_number(client, server, source, question, trouble):
    if trouble in client.without or (trouble in FORECAST_TROUBLES and question == "actual"):
        pytest.skip("it cannot have this trouble")
    client.serve(server, lambda body: client.spoil(trouble, body))
    assert refused(client, source, question).fault is {**TROUBLES, **FORECAST_TROUBLES}[trouble]


# --- recorded answers, and the service itself


def recorded(client: Client) -> dict:
    path = CONTRACTS / client.contract
    if not path.is_file():
        pytest.skip(f"../shared/contracts/{client.contract} is not here: recorded answers are not ours to ship")
    return json.loads(path.read_text())


def test_recorded_answers_are_understood(client, server):
    document = recorded(client)
    for question, start, end, values in client.recorded(server, document):
        # the recorded hours are around now
        source = client.opened(client.at(server), lambda now=end if question == "actual" else start: now)
        series = getattr(source, question)(client.zone, start, end)
        assert series.values_g_per_kwh.tolist() == pytest.approx(values)


def test_recorded_errors_are_faults(client, server, source):
    for error in recorded(client)["errors"]:
        overrule(server, as_json(error.get("body", {}), error["status"]))
        assert refused(client, source, "actual").fault is dict(STATUSES).get(error["status"], Fault.NO_DATA)


def test_the_live_service(client, request):
    if not request.config.getoption("--live"):
        pytest.skip("asks the live service only with --live")
    if client.key is not None and keys.find(client.name) is None:
        pytest.skip(f"no key: set {keys.variable(client.name)}")
    now = time.time()
    source = client.opened(SourceOptions(**client.options), time.time)
    is_sound(source.actual(client.zone, now - 5 * HOUR, now), client)
    try:
        series = source.forecast(client.zone, now, now + 20 * HOUR)
    except SourceError as error:
        if error.fault is not Fault.REFUSED:
            raise
        pytest.skip(f"the plan of this key has no forecasts: {error}")
    is_sound(series, client)
    assert series.start_s <= now < series.end_s
