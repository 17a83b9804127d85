"""WattTime: the login and its limits, pounds and grams, and what its meta have to say."""

from __future__ import annotations

import base64
import logging
import threading
import traceback
from collections.abc import Iterator

import pytest
from grid_clients import CLIENTS, HOUR, NOW
from grid_server import Answer, GridServer, as_json, as_text

from eco_ray.core.intensity import SignalKind
from eco_ray.grid.http import Fault, SourceError
from eco_ray.grid.keys import Secret
from eco_ray.grid.sources import SourceOptions
from eco_ray.grid.watttime import G_PER_KWH_PER_LB_PER_MWH, LOGIN_PAUSE_S, TOKEN_S, URL, WattTime, open_source

(CLIENT,) = [client for client in CLIENTS if client.name == "watttime"]
ZONE = "US-CAL-CISO"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.t0ken/with+signs="


class Uptime:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def uptime() -> Uptime:
    return Uptime()


@pytest.fixture
def server() -> Iterator[GridServer]:
    with GridServer() as running:
        CLIENT.serve(running, lambda body: body)
        running.on("/login", as_json({"token": TOKEN}))
        yield running


@pytest.fixture
def source(server, uptime) -> WattTime:
    return WattTime(CLIENT.at(server), lambda: NOW, uptime)


def ask(source: WattTime):
    return source.forecast(ZONE, NOW, NOW + HOUR)


def refused(source: WattTime) -> SourceError:
    with pytest.raises(SourceError) as caught:
        ask(source)
    shown = "".join(traceback.format_exception(caught.value))
    assert "t0ken" not in shown
    assert "p4ss" not in shown
    return caught.value


def logins(server: GridServer) -> int:
    return server.paths().count("/login")


def test_it_opens_on_the_public_service_without_a_key():
    source = open_source(SourceOptions(key=lambda _: None))
    assert source.kind is SignalKind.MARGINAL
    assert str(source._http._base) == URL == "https://api.watttime.org"
    assert source.zones() == ("US-CAL-CISO",)


# --- login


def test_user_and_password_go_to_the_login_alone_and_the_token_elsewhere(server, source):
    ask(source)
    login, data = server.requests
    assert login.headers["authorization"] == "Basic " + base64.b64encode(CLIENT.key.encode()).decode()
    assert data.headers["authorization"] == f"Bearer {TOKEN}"
    assert login.query == {}


def test_a_token_is_kept_until_it_is_old(server, source, uptime):
    for _ in range(3):
        ask(source)
    uptime.now_s += TOKEN_S - 1
    ask(source)
    assert logins(server) == 1
    uptime.now_s += 1
    ask(source)
    assert logins(server) == 2
    assert TOKEN_S < 30 * 60


def test_a_token_that_is_refused_is_renewed_once(server, source, uptime):
    ask(source)
    uptime.now_s += LOGIN_PAUSE_S
    server.on("/login", as_json({"token": "another-t0ken"}))
    server.on("/v3/forecast", as_json({}, 401), *server.answers("/v3/forecast"))
    ask(source)
    assert logins(server) == 2
    assert server.requests[-1].headers["authorization"] == "Bearer another-t0ken"


def test_a_token_that_is_always_refused_is_no_storm_of_logins(server, source, uptime):
    server.on("/v3/forecast", as_json({"error": "expired"}, 401))
    for _ in range(20):
        assert refused(source).fault is Fault.REFUSED
    assert logins(server) == 1
    for _ in range(10):
        uptime.now_s += LOGIN_PAUSE_S
        refused(source)
        refused(source)
    assert logins(server) == 11


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (as_json({"error": "Authentication failed"}, 401), Fault.REFUSED),
        (as_json({}, 500), Fault.UNREACHABLE),
        (as_json({}, 429), Fault.RATE_LIMITED),
        (as_json({"tokn": TOKEN}), Fault.MALFORMED),
        (as_json({"token": None}), Fault.MALFORMED),
        (as_json({"token": ""}), Fault.MALFORMED),
        (as_json({"token": f"{TOKEN}\r\nX-Evil: 1"}), Fault.MALFORMED),
        (as_json({"token": "tökenß"}), Fault.MALFORMED),
        (as_json({"token": TOKEN * 1000}), Fault.MALFORMED),
        (as_json([TOKEN]), Fault.MALFORMED),
        (as_json(TOKEN), Fault.MALFORMED),
        (as_text(f'{{"token": "{TOKEN}"'), Fault.MALFORMED),
        (Answer(b"[" * 100_000), Fault.MALFORMED),
    ],
)
def test_a_login_that_fails_is_not_tried_again_at_once(server, source, uptime, answer, fault):
    server.on("/login", answer)
    for _ in range(5):
        assert refused(source).fault is fault
    assert server.paths() == ["/login"]
    assert "the next login is in 60 s at the earliest" in str(refused(source))
    server.on("/login", as_json({"token": TOKEN}))
    uptime.now_s += LOGIN_PAUSE_S
    ask(source)


def test_a_login_is_not_tried_before_the_server_allows(server, source, uptime):
    server.on("/login", as_json({}, 429, {"Retry-After": "600"}))
    assert refused(source).retry_after_s == 600
    uptime.now_s += 500
    assert refused(source).retry_after_s == 100
    assert logins(server) == 1


def test_what_the_plan_does_not_include_is_no_reason_to_log_in_again(server, source, uptime):
    ask(source)
    uptime.now_s += LOGIN_PAUSE_S
    server.on("/v3/forecast", as_json({"error": "Forbidden"}, 403))
    assert refused(source).fault is Fault.REFUSED
    assert logins(server) == 1


def test_many_at_once_log_in_once(server, source):
    threads = [threading.Thread(target=ask, args=(source,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert logins(server) == 1
    assert len(server.requests) == 9


@pytest.mark.parametrize("key", ["n0-colon-at-all", ":s3cond-alone", "f1rst-alone:"])
def test_a_key_that_is_not_user_and_password(server, source, key):
    wrong = WattTime(CLIENT.at(server, key=lambda _: Secret(key, "file /keys/watttime")), lambda: NOW)
    error = refused(wrong)
    assert error.fault is Fault.NO_KEY
    assert "file /keys/watttime is not user:password" in str(error)
    assert server.requests == []


def test_the_token_is_in_no_log_and_in_no_error(server, source, caplog):
    caplog.set_level(logging.DEBUG)
    ask(source)
    server.on("/v3/forecast", as_json({"you": f"sent {TOKEN}"}, 403, {"X-Echo": TOKEN}))
    assert "HTTP 403" in str(refused(source))
    assert "t0ken" not in str(refused(source))
    assert "t0ken" not in caplog.text


# --- numbers and meta


def test_pounds_per_megawatt_hour_are_grams_per_kilowatt_hour(server, source):
    # 1 lb = 453.59237 g exactly, 1 MWh = 1000 kWh
    assert pytest.approx(0.45359237, rel=1e-15) == G_PER_KWH_PER_LB_PER_MWH
    CLIENT.serve(server, lambda body: _with(body, data=[{**p, "value": 1000} for p in body["data"]]))
    assert ask(source).values_g_per_kwh[0] == pytest.approx(453.59237)


def _with(body: dict, meta: dict | None = None, **more) -> dict:
    return {**body, **more, "meta": {**body["meta"], **(meta or {})}}


@pytest.mark.parametrize(
    "meta",
    [
        {"signal_type": "co2_aoer"},
        {"signal_type": "health_damage"},
        {"units": "percentile"},
        {"units": None},
        {"region": "CAISO_SOUTH"},
        {"data_point_period_seconds": 3600},
        {"data_point_period_seconds": True},
        {"warnings": "soon"},
        {"warnings": [7]},
        {"warnings": [{"type": "x"}]},
        {"warnings": [{"message": 7}]},
    ],
    ids=str,
)
def test_meta_that_are_not_what_was_asked_for(server, source, meta):
    CLIENT.serve(server, lambda body: _with(body, meta))
    assert refused(source).fault is Fault.MALFORMED


def test_steps_that_do_not_begin_at_full_5_minutes_are_not_used(server, source):
    def shifted(body: dict) -> dict:
        return _with(
            body, data=[{**p, "point_time": p["point_time"].replace(":00.000Z", ":07.000Z")} for p in body["data"]]
        )

    CLIENT.serve(server, shifted)
    assert "is no full 5 minutes" in str(refused(source))


def test_an_answer_without_meta(server, source):
    CLIENT.serve(server, lambda body: {"data": body["data"]})
    assert refused(source).fault is Fault.MALFORMED


@pytest.mark.parametrize(
    ("warnings", "shown"),
    [
        ([], ""),
        (None, ""),
        (["stale\ndata"], ", which sends warnings"),
        ([{"type": "MODEL", "message": "old model"}, "b"], ", which sends warnings"),
        ([CLIENT.key], ", which sends warnings"),
    ],
)
def test_warnings_of_both_shapes_are_told_and_not_quoted(server, source, warnings, shown):
    CLIENT.serve(server, lambda body: _with(body, {"warnings": warnings}))
    assert ask(source).source == f"watttime, co2_moer of CAISO_NORTH{shown}"


def test_a_region_may_be_asked_for_by_its_own_name(server, source):
    assert source.forecast("PJM_DC", NOW, NOW + HOUR).source.endswith("of PJM_DC")
    assert server.requests[-1].query["region"] == "PJM_DC"


def test_long_spans_are_asked_in_pieces_of_thirty_days(server, source):
    source.actual(ZONE, NOW - 70 * 24 * HOUR, NOW - 24 * HOUR)
    assert server.paths() == ["/login", *["/v3/historical"] * 3]


def test_the_present_step_is_the_first_of_the_forecast(server, source):
    series = source.actual(ZONE, NOW - HOUR, NOW)
    assert series.end_s == NOW // 300 * 300 + 300
    assert server.requests[-1].path == "/v3/forecast"
    assert server.requests[-1].query["horizon_hours"] == "0"


def test_where_history_lags_the_present_step_does_not_bridge_the_gap(server, source):
    CLIENT.serve(server, lambda body: _with(body, data=body["data"][:-3]) if len(body["data"]) > 3 else body)
    series = source.actual(ZONE, NOW - HOUR, NOW)
    assert series.end_s == NOW // 300 * 300 - 900
    assert "/v3/forecast" not in server.paths()


@pytest.mark.parametrize(("hours", "horizon"), [(0, 1), (1, 1), (1.1, 2), (72, 72), (999, 72)])
def test_the_horizon_is_what_is_needed(server, source, hours, horizon):
    source.forecast(ZONE, NOW, NOW + hours * HOUR)
    assert server.requests[-1].query["horizon_hours"] == str(horizon)
