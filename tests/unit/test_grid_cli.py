"""`eco-ray grid now | forecast`: numbers with source, kind, nature and age, whatever the source does."""

from __future__ import annotations

import json
import time

import pytest
from click.testing import CliRunner, Result
from grid_server import GridServer, as_json, as_text

from eco_ray.cli.main import cli
from eco_ray.errors import EcoRayError

KEY = "tok-1234567890"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("ECO_RAY_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("ECO_RAY_KEY_ELECTRICITY_MAPS", KEY)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Result:
        result = CliRunner().invoke(cli, ["grid", *arguments], catch_exceptions=False, standalone_mode=False)
        assert KEY not in result.output
        return result

    return call


def stamp(hour: int) -> str:
    return time.strftime("%Y-%m-%dT%H:00:00.000Z", time.gmtime(hour * 3600))


def serve(server: GridServer, *, forecasts: bool = True) -> None:
    hour = int(time.time() // 3600)

    def point(at: int) -> dict[str, object]:
        told = {"zone": "DE", "carbonIntensity": 300 + at % 24, "datetime": stamp(at), "updatedAt": stamp(hour)}
        about = {"emissionFactorType": "lifecycle", "isEstimated": False, "estimationMethod": None}
        return {**told, **about, "temporalGranularity": "hourly"}

    server.on("/v4/carbon-intensity/latest", as_json(point(hour)))
    history = {
        "zone": "DE",
        "history": [point(at) for at in range(hour - 24, hour + 1)],
        "temporalGranularity": "hourly",
    }
    server.on("/v4/carbon-intensity/history", as_json(history))
    server.on("/v4/carbon-intensity/past-range", as_json({"error": "Unauthorized"}, status=401))
    ahead = {"zone": "DE", "forecast": [point(at) for at in range(hour, hour + 49)], "updatedAt": stamp(hour)}
    refused = as_json({"error": "Unauthorized"}, status=401)
    server.on("/v4/carbon-intensity/forecast", as_json(ahead) if forecasts else refused)


def live(server: GridServer) -> list[str]:
    return ["--source", "electricity-maps", "--url", f"{server.url}/v4"]


def test_the_profile_needs_nothing(run):
    (row,) = json.loads(run("now", "--zone", "DE", "-o", "json").stdout)
    assert (row["zone"], row["kind"], row["nature"], row["age_s"]) == ("DE", "average-lifecycle", "modelled", None)
    told = run("forecast", "--zone", "DE", "--hours", "3")
    assert told.exit_code == 0
    assert "eco_ray modelled profile" in told.stdout
    assert told.stdout.count("█") > 40


def test_a_key_is_all_that_a_live_source_needs(run, server):
    serve(server)
    (row,) = json.loads(run("now", "--zone", "DE", *live(server), "-o", "json").stdout)
    assert row["intensity_g_per_kwh"] == 300 + int(time.time() // 3600) % 24
    assert (row["rung"], row["why"]) == ("forecast", "")
    assert 0 <= row["age_s"] <= 3600
    past = json.loads(run("now", "--zone", "DE", "--hours", "6", *live(server), "-o", "json").stdout)
    assert len(past["series"]) in (6, 7)
    assert row["source"].startswith("electricity-maps")
    document = json.loads(run("forecast", "--zone", "DE", "--hours", "24", *live(server), "-o", "json").stdout)
    assert set(document) == {
        *("zone", "source", "kind", "nature", "issued", "age_s", "step_s", "series", "quantiles"),
        *("planned_with", "rung", "why"),
    }
    assert len(document["series"]) in (24, 25)
    assert all(asked.headers["auth-token"] == KEY for asked in server.requests)


def test_the_free_plan_has_no_forecast_and_the_table_says_what_is_used_instead(run, server):
    serve(server, forecasts=False)
    told = run("forecast", "--zone", "DE", "--hours", "6", *live(server))
    assert told.exit_code == 0
    assert "the last day of electricity-maps" in told.stdout
    assert "instead of" in told.stdout
    assert "HTTP 401" in told.stdout


def test_a_source_that_fails_is_a_stated_fallback_and_exit_code_0(run, server):
    server.on("*", as_text("no", status=503))
    (row,) = json.loads(run("now", "--zone", "DE", *live(server), "-o", "json").stdout)
    assert row["source"].startswith("eco_ray modelled profile")
    assert (row["rung"], "HTTP 503" in row["why"]) == ("last-resort", True)
    told = run("now", "--zone", "DE", *live(server))
    assert "DE is planned with: eco_ray modelled profile" in told.stdout
    assert "instead of: electricity-maps" in told.stdout


def test_nothing_known_is_null_and_not_0(run, server):
    server.on("*", as_text("no", status=503))
    direct = [*live(server), "--kind", "average-direct"]
    (row,) = json.loads(run("now", "--zone", "DE", *direct, "-o", "json").stdout)
    assert (row["intensity_g_per_kwh"], row["source"], row["rung"]) == (None, "unknown", "nothing")
    with pytest.raises(EcoRayError, match=r"nothing is known of the intensity of DE \(electricity-maps .*HTTP 503"):
        run("forecast", "--zone", "DE", *direct)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["now", "--source", "nesso", "--zone", "GB"], "nearest: neso"),
        (["now", "--source", "neso"], "--zone is missing"),
        (["now", "--zone", "DE", "--zone", "FR", "--hours", "3"], "--hours is of one zone, and 2 were given"),
        (["now", "--cluster", "x.yaml", "--source", "neso"], "--source does not go with --cluster"),
        (
            ["forecast", "--zone", "DE", "--source", "watttime", "--kind", "average-direct"],
            "'watttime' cannot be average",
        ),
        (["forecast", "--zone", "XX"], "no zone 'XX'"),
    ],
)
def test_wrong_use_is_told(run, arguments, message):
    with pytest.raises(EcoRayError, match=message):
        run(*arguments)
