"""What every GridSource promises, asked of each adapter."""

import numpy as np
import pytest

from eco_ray.core.intensity import SignalKind
from eco_ray.core.ports import GridSource
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError, NotFoundError
from eco_ray.grid import CsvTrace, ModelledProfile
from eco_ray.grid.annual import Annual

START = 1_748_736_000.0  # 2025-06-01T00:00Z
HOUR = 3600.0
HOURS = 72


def stamp(hour: int, minute: int = 0) -> str:
    return str(np.datetime64(int(START), "s") + np.timedelta64(hour * 60 + minute, "m"))


@pytest.fixture
def trace_file(tmp_path):
    path = tmp_path / "ci.csv"
    rows = [f"{stamp(hour)},{300 + hour % 24},{50 + hour % 24}" for hour in range(HOURS)]
    path.write_text("\n".join(["time,DE,FR", *rows, ""]))
    return path


@pytest.fixture(params=["profile", "annual", "trace", "trace with forecasts", "half-hourly trace"])
def source(request, tmp_path, trace_file) -> GridSource:
    if request.param == "profile":
        return ModelledProfile()
    if request.param == "annual":
        return Annual()
    if request.param == "trace":
        return CsvTrace(trace_file)
    if request.param == "half-hourly trace":
        path = tmp_path / "fine.csv"
        rows = [f"{stamp(0, 30 * i)},{300 + i % 48},{50 + i % 48}" for i in range(2 * HOURS)]
        path.write_text("\n".join(["t,DE,FR", *rows, ""]))
        return CsvTrace(path)
    forecast = tmp_path / "de.csv"
    rows = [f"{stamp(24 * day)}," + ",".join(str(310 + hour) for hour in range(48)) for day in range(3)]
    forecast.write_text("\n".join(["issue_utc," + ",".join(f"h{i}" for i in range(48)), *rows, ""]))
    return CsvTrace(trace_file, {"DE": forecast, "FR": forecast})


SPANS = [
    (START, START + 5 * HOUR),
    (START + 1.5 * HOUR, START + 7.25 * HOUR),
    (START + 30 * HOUR, START + 30 * HOUR + 1),
    (START + 25.5 * HOUR, START + 25.5 * HOUR),
    (START, START),
]


def test_it_has_a_name_and_zones(source):
    assert source.name
    zones = source.zones()
    assert isinstance(zones, tuple)
    assert {"DE", "FR"} <= set(zones)
    assert len(set(zones)) == len(zones)


@pytest.mark.parametrize(("start", "end"), SPANS)
def test_actual_covers_the_span_and_little_more(source, start, end):
    series = source.actual("DE", start, end)
    assert series.covers(start, end)
    assert series.start_s > start - series.step_s
    assert series.end_s < end + 2 * series.step_s
    assert series.mean(start, end) > 0


@pytest.mark.parametrize(("now", "end"), SPANS)
def test_a_forecast_starts_now_and_was_issued_before(source, now, end):
    series = source.forecast("FR", now, end)
    assert series.start_s <= now
    assert series.issued_s is not None
    assert series.issued_s <= now
    assert series.at(now) > 0
    assert series.end_s < end + 2 * series.step_s


def test_a_forecast_beyond_what_is_known_ends_early_or_covers_it(source):
    now = START + 50 * HOUR
    series = source.forecast("DE", now, now + 1000 * HOUR)
    assert series.end_s > now


@pytest.mark.parametrize("ask", ["actual", "forecast"])
def test_every_series_says_what_it_is(source, ask):
    series = getattr(source, ask)("DE", START + 25 * HOUR, START + 30 * HOUR)
    assert series.zone == "DE"
    assert series.kind is SignalKind.AVERAGE_LIFECYCLE
    assert series.nature in set(Nature)
    assert series.source
    assert 0 < series.step_s <= HOUR
    assert series.values_g_per_kwh.dtype == np.float64
    assert np.isfinite(series.values_g_per_kwh).all()
    assert (series.values_g_per_kwh >= 0).all()
    assert (series.issued_s is None) == (ask == "actual")


@pytest.mark.parametrize("ask", ["actual", "forecast"])
def test_a_caller_cannot_change_what_the_next_one_reads(source, ask):
    series = getattr(source, ask)("DE", START + 25 * HOUR, START + 30 * HOUR)
    with pytest.raises(ValueError, match="read-only"):
        series.values_g_per_kwh[0] = 0.0


@pytest.mark.parametrize("ask", ["actual", "forecast"])
def test_overlapping_answers_agree(source, ask):
    long = getattr(source, ask)("DE", START + 24 * HOUR, START + 40 * HOUR)
    short = getattr(source, ask)("DE", START + 30 * HOUR, START + 33 * HOUR)
    for hour in range(30, 33):
        assert long.at(START + hour * HOUR) == short.at(START + hour * HOUR)


@pytest.mark.parametrize("ask", ["actual", "forecast"])
def test_an_unknown_zone_is_named_with_the_nearest_and_a_cure(source, ask):
    with pytest.raises(
        NotFoundError, match=r"no zone 'dE1'.*nearest name: DE; it knows .*(FR|more).*; use one of these"
    ):
        getattr(source, ask)("dE1", START, START + HOUR)


@pytest.mark.parametrize("ask", ["actual", "forecast"])
@pytest.mark.parametrize(
    ("start", "end"),
    [
        (START + HOUR, START),
        (float("nan"), START),
        (START, float("inf")),
        (START * 1000, START * 1000 + 1),
        (START, 5e9),
    ],
    ids=["backwards", "nan", "inf", "milliseconds", "decades"],
)
def test_a_span_that_makes_no_sense_is_refused(source, ask, start, end):
    with pytest.raises(EcoRayError, match=r"no intensity for zone DE.*; (give|swap|ask)"):
        getattr(source, ask)("DE", start, end)
