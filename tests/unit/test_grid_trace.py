"""CSV traces and forecasts: what is read, what is never read, and what each fault says."""

import random
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eco_ray.core.intensity import SignalKind
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError, NotFoundError, UsageError
from eco_ray.grid import CsvTrace, ModelledProfile, open_grid

DAY0 = datetime(2025, 6, 1, tzinfo=UTC)
START = DAY0.timestamp()
HOUR = 3600.0
SHARED = Path(__file__).parents[3] / "shared/data/carbon"


def stamp(hours: float) -> str:
    return (DAY0 + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M")


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def trace(path: Path, hours: int = 72, first: float = 100.0) -> Path:
    return write(path, "time,DE,FR", *(f"{stamp(h)},{first + h},{h / 2}" for h in range(hours)))


def forecast(path: Path, issues: dict[float, float], hours: int = 48) -> Path:
    """Issues at the given hours; the value of hour h is base + h."""
    head = "issue_utc," + ",".join(f"h{h}" for h in range(hours))
    rows = (f"{stamp(at)}," + ",".join(f"{base + h}" for h in range(hours)) for at, base in issues.items())
    return write(path, head, *rows)


# --- reading


def test_a_column_is_a_zone_and_a_row_a_step(tmp_path):
    source = CsvTrace(trace(tmp_path / "ci.csv"))
    assert source.zones() == ("DE", "FR")
    assert source.name == "trace ci.csv"
    series = source.actual("DE", START + 2 * HOUR, START + 5 * HOUR)
    assert series.values_g_per_kwh.tolist() == [102, 103, 104]
    assert (series.start_s, series.step_s, series.issued_s) == (START + 2 * HOUR, HOUR, None)
    assert (series.source, series.kind, series.nature) == ("ci.csv", SignalKind.AVERAGE_LIFECYCLE, Nature.MODELLED)


@pytest.mark.parametrize(
    "times",
    [
        ("2025-06-01T00:00", "2025-06-01T01:00"),
        ("2025-06-01 00:00:00", "2025-06-01 01:00:00"),
        ("2025-06-01T00:00Z", "2025-06-01T01:00Z"),
        ("2025-06-01T02:00+02:00", "2025-06-01T03:00+02:00"),
        ("2025-05-31T19:00:00-05:00", "2025-06-01T01:00"),
        ("2025-06-01T00", " 2025-06-01T01 "),
    ],
)
def test_times_are_utc_unless_they_say_otherwise(tmp_path, times):
    source = CsvTrace(write(tmp_path / "ci.csv", "whatever,DE", f"{times[0]},1", f"{times[1]},2"))
    assert source.actual("DE", START, START + 2 * HOUR).values_g_per_kwh.tolist() == [1, 2]


@pytest.mark.parametrize("minutes", [5, 15, 30, 60])
def test_any_regular_step_up_to_an_hour(tmp_path, minutes):
    rows = [f"{stamp(i * minutes / 60)},{i}" for i in range(20)]
    series = CsvTrace(write(tmp_path / "ci.csv", "t,DE", *rows)).actual("DE", START, START + 20 * minutes * 60)
    assert series.step_s == minutes * 60
    assert len(series.values_g_per_kwh) == 20


def test_blank_lines_quotes_a_byte_order_mark_and_crlf_are_read(tmp_path):
    path = tmp_path / "ci.csv"
    path.write_bytes(f'\ufeff"time",DE\r\n\r\n"{stamp(0)}", 1.5\r\n{stamp(1)},"2"\r\n\r\n'.encode())
    assert CsvTrace(path).actual("DE", START, START + 2 * HOUR).values_g_per_kwh.tolist() == [1.5, 2]


def test_a_column_may_end_early(tmp_path):
    source = CsvTrace(
        write(tmp_path / "ci.csv", "t,DE,FR", f"{stamp(0)},1,2", f"{stamp(1)},1,3", f"{stamp(2)},1,", f"{stamp(3)},1, ")
    )
    assert len(source.actual("DE", START, START + 4 * HOUR).values_g_per_kwh) == 4
    assert source.actual("FR", START, START + 2 * HOUR).values_g_per_kwh.tolist() == [2, 3]
    with pytest.raises(
        EcoRayError, match=r"FR is not known .* covers 2025-06-01T00:00:00Z to 2025-06-01T02:00:00Z; ask"
    ):
        source.actual("FR", START, START + 3 * HOUR)


def test_what_the_trace_does_not_cover_is_an_error(tmp_path):
    source = CsvTrace(trace(tmp_path / "ci.csv", hours=3))
    for start, end in [(-1, 1), (1, 4), (3, 3), (5, 6), (-2, -1)]:
        with pytest.raises(EcoRayError, match=r"ci\.csv: zone DE is not known over .*load a longer trace"):
            source.actual("DE", START + start * HOUR, START + end * HOUR)


def test_kind_nature_and_name_are_the_callers(tmp_path):
    source = CsvTrace(trace(tmp_path / "a.csv"), kind=SignalKind.MARGINAL, name="my grid", nature=Nature.ASSUMED)
    series = source.actual("DE", START, START + HOUR)
    assert (source.name, series.kind, series.nature) == ("my grid", SignalKind.MARGINAL, Nature.ASSUMED)


def test_9000_rows_of_32_zones_are_read_within_half_a_second(tmp_path):
    numbers = random.Random(0)
    cells = ",".join(f"{numbers.uniform(1, 900):.2f}" for _ in range(32))
    path = write(
        tmp_path / "big.csv", "t," + ",".join(f"Z{i}" for i in range(32)), *(f"{stamp(h)},{cells}" for h in range(9000))
    )
    started = time.perf_counter()
    CsvTrace(path)
    assert time.perf_counter() - started < 0.5


# --- forecasts


def test_without_a_forecast_file_the_trace_stands_in_and_says_so(tmp_path):
    source = CsvTrace(trace(tmp_path / "ci.csv"))
    series = source.forecast("DE", START + 10.5 * HOUR, START + 12 * HOUR)
    assert series.values_g_per_kwh.tolist() == [110, 111]
    assert series.issued_s == START + 10.5 * HOUR
    assert series.source == "ci.csv, perfect foresight of the trace"
    assert source.forecast("DE", START + 70 * HOUR, START + 99 * HOUR).end_s == START + 72 * HOUR
    for hour in (-1, 72, 100):
        with pytest.raises(EcoRayError, match=r"no forecast for zone DE at .*stands in for one covers"):
            source.forecast("DE", START + hour * HOUR, START + 200 * HOUR)


@pytest.mark.parametrize(
    ("now", "end", "issue", "first", "count"),
    [
        (0, 3, 0, 500, 3),
        (23.99, 25, 0, 523, 2),
        (24, 25, 24, 1000, 1),
        (30.5, 32, 24, 1006, 2),
        (30.5, 30.5, 24, 1006, 1),
        (24, 500, 24, 1000, 48),
        (60, 500, 48.5, 1511, 37),
        (96.4, 97, 48.5, 1547, 1),
    ],
)
def test_the_newest_issue_is_used_from_now_on(tmp_path, now, end, issue, first, count):
    file = forecast(tmp_path / "de.csv", {0: 500, 24: 1000, 48.5: 1500})
    source = CsvTrace(trace(tmp_path / "ci.csv"), {"DE": file})
    series = source.forecast("DE", START + now * HOUR, START + end * HOUR)
    assert series.issued_s == START + issue * HOUR
    assert series.values_g_per_kwh[0] == first
    assert len(series.values_g_per_kwh) == count
    assert series.start_s <= START + now * HOUR
    assert series.nature is Nature.MODELLED
    assert series.source == f"de.csv, forecast issued {stamp(issue)}:00Z"


def test_only_the_zone_with_a_file_has_a_real_forecast(tmp_path):
    source = CsvTrace(trace(tmp_path / "ci.csv"), {"DE": forecast(tmp_path / "de.csv", {0: 500})})
    assert source.forecast("DE", START, START + HOUR).values_g_per_kwh.tolist() == [500]
    assert "perfect foresight" in source.forecast("FR", START, START + HOUR).source
    assert source.actual("DE", START, START + HOUR).values_g_per_kwh.tolist() == [100]


def test_no_issue_yet_and_no_issue_that_reaches_are_errors(tmp_path):
    source = CsvTrace(trace(tmp_path / "ci.csv"), {"DE": forecast(tmp_path / "de.csv", {5: 500}, hours=4)})
    with pytest.raises(EcoRayError, match=r"had been issued by 2025-06-01T04:59:59Z: the first is of 2025-06-01T05:00"):
        source.forecast("DE", START + 5 * HOUR - 1, START + 6 * HOUR)
    with pytest.raises(EcoRayError, match=r"reaches 2025-06-01T09:00:00Z: .*ends at 2025-06-01T09:00:00Z; load"):
        source.forecast("DE", START + 9 * HOUR, START + 10 * HOUR)


def test_a_forecast_that_undershoots_zero_is_read_as_zero_and_says_so(tmp_path):
    file = write(tmp_path / "de.csv", "issue_utc,h0,h1", f"{stamp(0)},-3.1,4")
    series = CsvTrace(trace(tmp_path / "ci.csv"), {"DE": file}).forecast("DE", START, START + 2 * HOUR)
    assert series.values_g_per_kwh.tolist() == [0, 4]
    assert series.source.endswith("(1 values below 0 in the file are read as 0)")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(now=st.floats(0, 70), ahead=st.floats(0, 60), seed=st.integers(0, 2**16))
def test_a_forecast_never_reads_the_future(tmp_path, now, ahead, seed):
    """Rewriting the truth, and every issue later than now, leaves the answer as it is."""
    numbers = random.Random(seed)

    def value() -> str:
        return f"{numbers.uniform(0, 900):.3f}"

    issues = [[stamp(6 * i), *(value() for _ in range(48))] for i in range(12)]
    changed = [row if 6 * i <= now else [row[0], *(value() for _ in row[1:])] for i, row in enumerate(issues)]
    head = "issue_utc," + ",".join(f"h{h}" for h in range(48))
    answers = []
    for rows, first in ((issues, 100.0), (changed, 700.0)):
        file = write(tmp_path / "de.csv", head, *(",".join(row) for row in rows))
        source = CsvTrace(trace(tmp_path / "ci.csv", first=first), {"DE": file})
        answers.append(source.forecast("DE", START + now * HOUR, START + (now + ahead) * HOUR))
    before, after = answers
    assert before.values_g_per_kwh.tolist() == after.values_g_per_kwh.tolist()
    assert (before.start_s, before.issued_s, before.source) == (after.start_s, after.issued_s, after.source)
    assert before.issued_s is not None
    assert START + (now - 6) * HOUR < before.issued_s <= START + now * HOUR
    assert before.covers(START + now * HOUR, min(START + (now + ahead) * HOUR, before.issued_s + 48 * HOUR))


# --- faults

T = [stamp(h) for h in range(6)]
BAD_TRACES = {
    "empty file": ([], r"line 1: the file is empty; .*; write time,ZONE"),
    "no zone column": (["time", T[0]], r"line 1: no zone column in 'time'; at least one is needed.*; write"),
    "semicolons": (["time;DE", f"{T[0]};1"], r"line 1: no zone column in 'time;DE'.*separated by commas"),
    "no header": ([f"{T[0]},1", f"{T[1]},2"], r"line 1: '2025-06-01T00:00' is a time, not a header; write"),
    "zone twice": (
        ["t,DE,DE", f"{T[0]},1,2"],
        r"line 1: column 3 'DE' is there twice; each zone has one column; rename",
    ),
    "unnamed zone": (["t,DE,", f"{T[0]},1,2"], r"line 1: column 3 '' is empty; .*; rename"),
    "no row": (["t,DE"], r"line 1: no row after the header; at least one time is needed; add"),
    "one row": (["t,DE", f"{T[0]},1"], r"line 2: the only row; two are needed to know the step; add"),
    "gap": (
        ["t,DE", f"{T[0]},1", f"{T[1]},1", f"{T[3]},1", f"{T[4]},1"],
        r"line 4: a gap: 2025-06-01T03:00:00Z follows 2025-06-01T01:00:00Z; the step is 3600 s; add the missing",
    ),
    "gap at the start": (
        ["t,DE", f"{T[0]},1", f"{T[2]},1", f"{T[3]},1", f"{T[4]},1"],
        r"line 3: a gap: 2025-06-01T02:00:00Z follows",
    ),
    "extra row": (
        ["t,DE", f"{T[0]},1", f"{T[1]},1", f"{stamp(1.5)},1", f"{T[2]},1", f"{T[3]},1", f"{T[4]},1"],
        r"line 4: an extra row: 2025-06-01T01:30:00Z follows .*; the step is 3600 s; .*remove",
    ),
    "duplicate": (
        ["t,DE", f"{T[0]},1", f"{T[1]},1", f"{T[1]},1"],
        r"line 4: time 2025-06-01T01:00:00Z is there twice; ",
    ),
    "unsorted": (
        ["t,DE", f"{T[1]},1", f"{T[0]},1", f"{T[2]},1"],
        r"line 3: time 2025-06-01T00:00:00Z comes after 2025-06-01T01:00:00Z; times must increase; sort",
    ),
    "coarse": (
        ["t,DE", f"{T[0]},1", f"{T[2]},1", f"{T[4]},1"],
        r"line 3: the step is 7200 s; the limit is 3600 s.*; give an hourly or finer",
    ),
    "fractional step": (
        ["t,DE", "2025-06-01T00:00:00,1", "2025-06-01T00:00:00.500,1"],
        r"line 3: the step is 0\.5 s; the limit is 3600 s, in whole seconds",
    ),
    "not a time": (["t,DE", f"{T[0]},1", "noon,2"], r"line 3: 'noon' is not a time; ISO 8601 is needed; write it as"),
    "not a number": (["t,DE", f"{T[0]},1", f"{T[1]},low"], r"line 3: column DE is 'low', not a number; .*; correct"),
    "decimal comma": (["t,DE", f"{T[0]},1", f'{T[1]},"2,5"'], r"line 3: column DE is '2,5', not a number; .*point"),
    "NaN": (
        ["t,DE", f"{T[0]},1", f"{T[1]},nan"],
        r"line 3: column DE is nan gCO2e/kWh; 0 to 3000 is possible; correct",
    ),
    "infinite": (["t,DE", f"{T[0]},inf", f"{T[1]},1"], r"line 2: column DE is inf gCO2e/kWh; 0 to 3000"),
    "negative": (["t,DE", f"{T[0]},1", f"{T[1]},-0.1"], r"line 3: column DE is -0\.1 gCO2e/kWh; 0 to 3000 is possible"),
    "other unit": (["t,DE", f"{T[0]},1", f"{T[1]},3000.1"], r"line 3: column DE is 3000\.1 gCO2e/kWh; .*g/MWh"),
    "empty inside": (
        ["t,DE,FR", f"{T[0]},1,1", f"{T[1]},,1", f"{T[2]},1,"],
        r"line 3: column DE is empty, and has a value again in line 4; only the end .*; fill the gap",
    ),
    "empty inside, then a full row": (
        ["t,DE,FR", f"{T[0]},1,1", f"{T[1]},1,", f"{T[2]},1,1"],
        r"line 3: column FR is empty, and has a value again in line 4",
    ),
    "empty column": (["t,DE,FR", f"{T[0]},1,", f"{T[1]},1,"], r"line 2: column FR is empty; .*first value; fill it or"),
    "short row": (["t,DE,FR", f"{T[0]},1,2", f"{T[1]},1"], r"line 3: 2 cells; the header has 3; add or remove"),
    "long row": (["t,DE", f"{T[0]},1,2"], r"line 2: 3 cells; the header has 2; add or remove"),
    "open quote": (["t,DE", f'{T[0]},"1', f"{T[1]},1"], r"line \d: .*; save the file as plain comma-separated"),
}


@pytest.mark.parametrize("fault", BAD_TRACES)
def test_a_bad_trace_is_refused_with_file_line_value_limit_and_cure(tmp_path, fault):
    lines, message = BAD_TRACES[fault]
    path = tmp_path / "ci.csv"
    path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(UsageError, match=rf"ci\.csv, {message}"):
        CsvTrace(path)


BAD_FORECASTS = {
    "other first column": (["time,h0", f"{T[0]},1"], r"line 1: column 1 of the header is 'time'; issue_utc is needed"),
    "skipped hour": (
        ["issue_utc,h0,h2", f"{T[0]},1,2"],
        r"line 1: column 3 of the header is 'h2'; h1 is needed; write",
    ),
    "no hours": (["issue_utc", T[0]], r"line 1: column 2 of the header is nothing; h0 is needed"),
    "no issue": (["issue_utc,h0"], r"line 1: no row after the header; at least one issue is needed"),
    "issue twice": (["issue_utc,h0", f"{T[0]},1", f"{T[0]},1"], r"line 3: issue 2025-06-01T00:00:00Z is there twice"),
    "unsorted": (["issue_utc,h0", f"{T[1]},1", f"{T[0]},1"], r"line 3: issue .* comes after"),
    "empty cell": (["issue_utc,h0,h1", f"{T[0]},1,1", f"{T[1]},1,"], r"line 3: column h1 is empty; every issue needs"),
    "far below zero": (["issue_utc,h0", f"{T[0]},-51"], r"line 2: column h0 is -51 gCO2e/kWh; -50 to 3000 is possible"),
    "other unit": (["issue_utc,h0", f"{T[0]},1e6"], r"line 2: column h0 is 1e\+06 gCO2e/kWh; -50 to 3000"),
    "NaN": (["issue_utc,h0", f"{T[0]},NaN"], r"line 2: column h0 is nan gCO2e/kWh"),
}


@pytest.mark.parametrize("fault", BAD_FORECASTS)
def test_a_bad_forecast_is_refused(tmp_path, fault):
    lines, message = BAD_FORECASTS[fault]
    with pytest.raises(UsageError, match=rf"de\.csv, {message}"):
        CsvTrace(trace(tmp_path / "ci.csv"), {"DE": write(tmp_path / "de.csv", *lines)})


def test_a_forecast_for_a_zone_without_a_column_is_refused(tmp_path):
    with pytest.raises(
        UsageError, match=r"ci\.csv: no column for zone 'PL', .*; the columns are DE, FR; add the column"
    ):
        CsvTrace(trace(tmp_path / "ci.csv"), {"PL": forecast(tmp_path / "pl.csv", {0: 1})})


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"none\.csv: cannot be read \(No such file or directory\); give the path"):
        CsvTrace(tmp_path / "none.csv")
    with pytest.raises(UsageError, match=r"cannot be read \(Is a directory\)"):
        CsvTrace(tmp_path)
    (tmp_path / "latin.csv").write_bytes(b"t,DE\xe9\n")
    with pytest.raises(UsageError, match=r"latin\.csv: byte 4 is not UTF-8; save the file"):
        CsvTrace(tmp_path / "latin.csv")


def test_a_file_over_200_mb_is_not_opened(tmp_path):
    path = tmp_path / "huge.csv"
    with path.open("wb") as file:
        file.truncate(200_000_001)  # sparse: takes no space
    with pytest.raises(UsageError, match=r"huge\.csv, line 1: 200000001 bytes; the limit is 200000000; cut it"):
        CsvTrace(path)


# --- the factory


def test_open_grid_makes_what_the_configuration_names(tmp_path):
    assert isinstance(open_grid("profile"), ModelledProfile)
    file, ahead = trace(tmp_path / "ci.csv"), forecast(tmp_path / "de.csv", {0: 500})
    source = open_grid("trace", file, {"DE": ahead}, SignalKind.AVERAGE_DIRECT)
    series = source.forecast("DE", START, START + HOUR)
    assert (series.values_g_per_kwh.tolist(), series.kind) == ([500], SignalKind.AVERAGE_DIRECT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Trace",), "no grid source 'Trace'; nearest name: trace; it is one of profile, trace; correct"),
        (("http",), "no grid source 'http'; it is one of"),
        (("trace",), "'trace' has no file; one is needed; give the path"),
        (("profile", Path("x.csv")), "'profile' reads no file, but x.csv was given; .*leave the file out"),
        (("profile", None, {"DE": Path("f.csv")}), "'profile' reads no file, but f.csv was given"),
        (
            ("profile", None, {}, SignalKind.MARGINAL),
            "'profile' cannot be marginal; it is average-lifecycle; use a trace",
        ),
    ],
)
def test_open_grid_refuses_what_does_not_fit(arguments, message):
    with pytest.raises(UsageError, match=message):
        open_grid(*arguments)


# --- the data that the figures of ../shared were made with, where they are there


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not on this machine")
def test_real_traces_and_forecasts_are_read():
    sundial = {zone: SHARED / f"carbonx_sundial96h_{zone}_2022.csv" for zone in ("DE", "AU-SA", "CA-ON")}
    source = CsvTrace(SHARED / "em2022_hourly_32zones.csv", sundial, SignalKind.AVERAGE_LIFECYCLE)
    assert len(source.zones()) == 32
    now = datetime(2022, 4, 15, 10, 30, tzinfo=UTC).timestamp()
    series = source.forecast("CA-ON", now, now + 24 * HOUR)
    assert series.issued_s == datetime(2022, 4, 15, tzinfo=UTC).timestamp()
    assert len(series.values_g_per_kwh) == 25
    with pytest.raises(NotFoundError, match="nearest name: DE"):
        source.actual("DEU", now, now)
    half_hourly = CsvTrace(SHARED / "lwa2020_30min_DE_GB_FR.csv")
    assert half_hourly.actual("GB", START - 5 * 366 * 86400, START - 5 * 365 * 86400).step_s == 1800
    assert np.isfinite(
        half_hourly.actual("FR", START - 5 * 366 * 86400, START - 5 * 365 * 86400).values_g_per_kwh
    ).all()
