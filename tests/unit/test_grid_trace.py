"""CSV traces and forecasts: what is read, what is never read, and what each fault says."""

import gzip
import random
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from timing import quiet_seconds_of

from eco_ray import csv_file
from eco_ray.core.intensity import SignalKind
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError, NotFoundError, UsageError
from eco_ray.grid import CsvTrace
from eco_ray.grid.trace import ForecastFile

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


@pytest.mark.parametrize("minutes", [1, 5, 15, 30, 60, 120, 24 * 60, 7 * 24 * 60])
def test_any_regular_step(tmp_path, minutes):
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
    assert quiet_seconds_of(lambda: CsvTrace(path)) < 0.5


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


QUANTILES = "issue_utc,h0,h1,h2,p10_h0,p10_h1,p10_h2,p97.5_h0,p97.5_h1,p97.5_h2"


def test_quantiles_of_a_forecast_come_with_it(tmp_path):
    file = write(
        tmp_path / "de.csv",
        QUANTILES,
        f"{stamp(0)},100,110,120,90,95,-3,150,160,170",
        f"{stamp(24)},10,11,12,9,9,9,15,16,17",
    )
    source = CsvTrace(trace(tmp_path / "ci.csv"), {"DE": file})
    series = source.forecast("DE", START + HOUR, START + 99 * HOUR)
    assert series.values_g_per_kwh.tolist() == [110, 120]
    assert {level: of.tolist() for level, of in series.quantiles_g_per_kwh.items()} == {0.1: [95, 0], 0.975: [160, 170]}
    later = source.forecast("DE", START + 24 * HOUR, START + 25 * HOUR)
    assert (later.issued_s, later.quantiles_g_per_kwh[0.975].tolist()) == (START + 24 * HOUR, [15])
    assert source.actual("DE", START, START + HOUR).quantiles_g_per_kwh == {}


@pytest.mark.parametrize(
    ("head", "row", "said"),
    [
        ("issue_utc,h0,h1,p10_h0", "1,2,1", "column 5 of the header is nothing; p10_h1 is needed"),
        ("issue_utc,h0,p10_h0,p100_h0", "1,1,2", "column 4 of the header is 'p100_h0'"),
        ("issue_utc,p10_h0", "1", "column 2 of the header is 'p10_h0'; h0 is needed"),
        ("issue_utc,h0,p10_h0,p90_h0", "1,2,1", "quantile 0.1 of hour 0, 2, is above quantile 0.9, 1"),
    ],
)
def test_quantiles_that_are_wrong(tmp_path, head, row, said):
    file = write(tmp_path / "de.csv", head, f"{stamp(0)},{row}")
    with pytest.raises(UsageError, match=re.escape(said)):
        CsvTrace(trace(tmp_path / "ci.csv"), {"DE": file})


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

    now_s, end_s = START + now * HOUR, START + (now + ahead) * HOUR  # rounded: 29.99...9 h may be 30 h
    issues = [[stamp(6 * i), *(value() for _ in range(48))] for i in range(12)]
    changed = [
        row if START + 6 * i * HOUR <= now_s else [row[0], *(value() for _ in row[1:])] for i, row in enumerate(issues)
    ]
    head = "issue_utc," + ",".join(f"h{h}" for h in range(48))
    answers = []
    for rows, first in ((issues, 100.0), (changed, 700.0)):
        file = write(tmp_path / "de.csv", head, *(",".join(row) for row in rows))
        source = CsvTrace(trace(tmp_path / "ci.csv", first=first), {"DE": file})
        answers.append(source.forecast("DE", now_s, end_s))
    before, after = answers
    assert before.values_g_per_kwh.tolist() == after.values_g_per_kwh.tolist()
    assert (before.start_s, before.issued_s, before.source) == (after.start_s, after.issued_s, after.source)
    assert before.issued_s is not None
    assert now_s - 6 * HOUR < before.issued_s <= now_s
    assert before.covers(now_s, min(end_s, before.issued_s + 48 * HOUR))


# --- only some columns, only a span

DAYS = 30
NOW = START + 20 * 24 * HOUR  # the span of these tests is the 21st and 22nd day
END = NOW + 48 * HOUR
NEED = 12 * 24  # its first row: 8 days before


def long_trace(path: Path, changes: dict[int, str], head: str = "time,direct,DE,junk") -> Path:
    """Hourly rows of DAYS days; the value of hour h is h, and `changes` replace whole rows."""
    rows = [changes.get(h, f"{stamp(h)},{h},{2 * h},-") for h in range(DAYS * 24)]
    return write(path, head, *(row for row in rows if row != "gone"))


def test_zones_take_the_columns_that_are_named(tmp_path):
    path = long_trace(tmp_path / "ci.csv", {})
    source = CsvTrace(path, columns={"FR": "DE", "AU-SA": "direct", "DE": "DE"})
    assert source.zones() == ("FR", "AU-SA", "DE")
    for zone, value in {"FR": 10, "AU-SA": 5, "DE": 10}.items():
        series = source.actual(zone, START + 5 * HOUR, START + 6 * HOUR)
        assert (series.zone, series.values_g_per_kwh.tolist()) == (zone, [value])


def test_a_column_that_is_not_asked_for_may_be_anything(tmp_path):
    source = CsvTrace(write(tmp_path / "ci.csv", "t,DE,,x,x", f"{T[0]},1,,,", f"{T[1]},2,,-9,z"), columns={"DE": "DE"})
    assert source.zones() == ("DE",)


def test_a_column_that_is_not_there_is_refused(tmp_path):
    path = long_trace(tmp_path / "ci.csv", {})
    with pytest.raises(
        UsageError,
        match=r"ci\.csv, line 1: no column 'drect' for zone AU-SA; nearest name: direct; the columns are "
        r"direct, DE, junk; give a zone that has a column, or .*AU-SA=COLUMN",
    ):
        CsvTrace(path, columns={"DE": "DE", "AU-SA": "drect"})
    with pytest.raises(UsageError, match="no column 'time'"):
        CsvTrace(path, columns={"DE": "time"})
    with pytest.raises(UsageError, match=r"line 1: column 3 'x' is there twice"):
        CsvTrace(write(tmp_path / "ci.csv", "t,x,x", f"{T[0]},1,1"), columns={"DE": "x"})
    many = write(tmp_path / "ci.csv", "t," + ",".join(f"Z{i}" for i in range(123)))
    with pytest.raises(UsageError, match=r"Z38, Z39 and 83 more; give"):
        CsvTrace(many, columns={"DE": "DE"})


WANT = {"AU-SA": "direct"}


def test_only_the_rows_of_a_span_are_read_from_eight_days_before(tmp_path):
    source = CsvTrace(long_trace(tmp_path / "ci.csv", {}), columns=WANT, start_s=NOW, end_s=END)
    assert source.start_s == START + NEED * HOUR
    assert source.end_s("AU-SA") == END
    assert source.step_s == HOUR
    assert source.actual("AU-SA", NOW, END).values_g_per_kwh.tolist() == list(range(480, 528))


@pytest.mark.parametrize(
    ("hour", "row"),
    [
        (NEED - 1, "{},nan,1,-"),
        (NEED - 1, "{},-5,1,-"),
        (NEED - 1, "{},word,1,-"),
        (NEED - 1, "{},,1,-"),
        (NEED - 1, "{},1e9,1,-"),
        (NEED - 1, "{}"),
        (NEED - 1, "gone"),
        (528, "{},-5,1,-"),
        (528, "{},word,1,-"),
        (600, "{}"),
        (600, "gone"),
        (600, "2025-06-01,1,1,1"),
    ],
)
def test_rows_outside_of_the_span_are_not_checked(tmp_path, hour, row):
    path = long_trace(tmp_path / "ci.csv", {hour: row.format(stamp(hour))})
    source = CsvTrace(path, columns=WANT, start_s=NOW, end_s=END)
    assert source.rows("AU-SA", START, END + HOUR).values_g_per_kwh.tolist() == list(range(NEED, 528))
    if row != "2025-06-01,1,1,1":
        with pytest.raises(UsageError):
            CsvTrace(path, columns=WANT)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{},nan,1,-", r"column direct is nan gCO2e/kWh; 0 to"),
        ("{},-5,1,-", r"column direct is -5 gCO2e/kWh; 0 to"),
        ("{},word,1,-", r"column direct is 'word', not a number"),
        ("{},,1,-", r"column direct is empty, and has"),
        ("{}", r"1 cells; the header has 4"),
    ],
)
@pytest.mark.parametrize("hour", [NEED + 1, 526])
def test_rows_of_the_span_are_checked(tmp_path, hour, row, message):
    path = long_trace(tmp_path / "ci.csv", {hour: row.format(stamp(hour))})
    with pytest.raises(UsageError, match=rf"ci\.csv, line {hour + 2}: {message}"):
        CsvTrace(path, columns=WANT, start_s=NOW, end_s=END)


def test_a_column_may_end_within_the_span(tmp_path):
    path = long_trace(tmp_path / "ci.csv", {527: f"{stamp(527)},,1,-"})
    assert CsvTrace(path, columns=WANT, start_s=NOW, end_s=END).end_s("AU-SA") == END - HOUR


def test_a_gap_and_a_mean_count_within_the_span(tmp_path):
    with pytest.raises(UsageError, match=r"ci\.csv, line 502: a gap: .*; the step is 3600 s"):
        CsvTrace(long_trace(tmp_path / "ci.csv", {500: "gone"}), columns=WANT, start_s=NOW, end_s=END)
    high = {h: f"{stamp(h)},50000,1,1" for h in range(NEED)}
    path = long_trace(tmp_path / "ci.csv", high)
    assert CsvTrace(path, columns=WANT, start_s=NOW, end_s=END).start_s == START + NEED * HOUR
    with pytest.raises(UsageError, match=r"line 2: column direct has a mean of \d+"):
        CsvTrace(path, columns=WANT)
    one = long_trace(tmp_path / "ci.csv", {500: f"{stamp(500)},50000,1,1"})
    assert CsvTrace(one, columns=WANT).rows("AU-SA", NOW, END).values_g_per_kwh.max() == 50_000


@pytest.mark.parametrize("start", [-100, 1000])
def test_a_span_that_the_file_does_not_have_is_refused(tmp_path, start):
    path = long_trace(tmp_path / "ci.csv", {})
    begin = START + start * 24 * HOUR
    message = r"no time in the span that was asked for; the file has 2025-06-01T00:00:00Z to 2025-06-30T23:00:00Z"
    with pytest.raises(UsageError, match=rf"ci\.csv, line 1: {message}; ask for"):
        CsvTrace(path, columns=WANT, start_s=begin, end_s=begin + HOUR)


def test_a_short_span_of_a_coarse_trace(tmp_path):
    """One row holds all of it, and the other rows tell how long that row is."""
    daily = write(tmp_path / "daily.csv", "t,DE", *(f"{stamp(24 * day)},{day}" for day in range(3)))
    source = CsvTrace(daily, start_s=START, end_s=START + HOUR)
    assert source.step_s == 24 * HOUR
    assert source.actual("DE", START, START + HOUR).values_g_per_kwh.tolist() == [0]
    monthly = write(tmp_path / "monthly.csv", "t,DE", *(f"{stamp(720 * month)},{month}" for month in range(4)))
    for first, value in ((700, 0), (720, 1), (1439, 1), (2800, 3)):
        begin = START + first * HOUR
        source = CsvTrace(monthly, start_s=begin, end_s=begin + HOUR)
        assert source.actual("DE", begin, begin + HOUR).values_g_per_kwh.tolist() == [value]
    with pytest.raises(UsageError, match="no time in the span"):
        CsvTrace(monthly, start_s=START + 2880 * HOUR, end_s=START + 2900 * HOUR)


def test_a_gap_is_no_step_where_a_span_keeps_only_two_rows(tmp_path):
    daily = write(tmp_path / "daily.csv", "t,DE", *(f"{stamp(24 * day)},{day}" for day in (0, 2, 3, 4)))
    with pytest.raises(UsageError, match=r"daily\.csv, line 3: a gap: .*; the step is 86400 s"):
        CsvTrace(daily, start_s=START, end_s=START + 49 * HOUR)


def test_rows_are_what_is_known_of_a_span(tmp_path):
    source = CsvTrace(trace(tmp_path / "ci.csv", hours=3))
    for start, end, values in [(-5, 9, [100, 101, 102]), (1, 2, [101]), (-2, 1, [100]), (2.5, 4, [102])]:
        series = source.rows("DE", START + start * HOUR, START + end * HOUR)
        assert series.values_g_per_kwh.tolist() == values
    for start, end in [(-2, 0), (3, 4)]:
        with pytest.raises(EcoRayError, match=r"zone DE is not known over .*T00:00:00Z to 2025-06-01T03:00:00Z; ask"):
            source.rows("DE", START + start * HOUR, START + end * HOUR)
    with pytest.raises(NotFoundError, match="no zone 'PL'"):
        source.end_s("PL")


@pytest.mark.parametrize(
    ("first", "second", "offset_s"),
    [
        ("2025-06-01T00:00", "2025-06-01T01:00", 0),
        ("2025-06-01T00:00Z", "2025-06-01T01:00Z", 0),
        ("2025-06-01T02:00+02:00", "2025-06-01T01:00Z", 7200),
        ("2025-05-31T19:30-04:30", "2025-06-01T01:00", -16_200),
    ],
)
def test_the_files_own_clock_is_known(tmp_path, first, second, offset_s):
    assert CsvTrace(write(tmp_path / "ci.csv", "t,DE", f"{first},1", f"{second},2")).utc_offset_s == offset_s


def test_gzipped_files_are_read_and_broken_ones_refused(tmp_path):
    data = trace(tmp_path / "ci.csv").read_bytes()
    path = tmp_path / "ci.csv.gz"
    path.write_bytes(gzip.compress(data))
    ahead = tmp_path / "de.csv.GZ"
    ahead.write_bytes(gzip.compress(forecast(tmp_path / "de.csv", {0: 500}).read_bytes()))
    source = CsvTrace(path, {"DE": ahead})
    assert source.actual("DE", START, START + HOUR).values_g_per_kwh.tolist() == [100]
    assert source.forecast("DE", START, START + HOUR).values_g_per_kwh.tolist() == [500]
    for broken in (data, path.read_bytes()[:-9], path.read_bytes()[:30] + bytes(50)):
        path.write_bytes(broken)
        with pytest.raises(UsageError, match=r"ci\.csv\.gz: is not a whole gzip file \(.+\); copy it again"):
            CsvTrace(path)


def test_what_a_gz_unpacks_to_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_file, "MAX_BYTES", 10_000)
    path = tmp_path / "bomb.csv.gz"
    path.write_bytes(gzip.compress(b"x" * 1_000_000))
    with pytest.raises(UsageError, match=r"bomb\.csv\.gz, line 1: more than 10000 bytes once unpacked, .*; cut it"):
        CsvTrace(path)


def test_a_forecast_file_alone_and_only_its_issues_of_a_span(tmp_path):
    rows = [f"{stamp(24 * day)},{day},{day + 0.5}" for day in range(30)]
    path = write(tmp_path / "de.csv", "issue_utc,h0,h1", *rows)
    whole = ForecastFile.read(path)
    assert whole.values.shape == (30, 2)
    assert whole.issues_s.tolist() == [START + 24 * day * HOUR for day in range(30)]
    rows[11], rows[22], rows[23] = f"{stamp(264)},-999,1", f"{stamp(528)},word,", f"{stamp(552)}"
    write(path, "issue_utc,h0,h1", *rows)
    with pytest.raises(UsageError, match=r"de\.csv, line 24: column h0 is 'word'"):
        ForecastFile.read(path)
    some = ForecastFile.read(path, NOW, END)
    assert some.issues_s.tolist() == [START + 24 * day * HOUR for day in range(12, 22)]
    assert some.values[0].tolist() == [12, 12.5]
    source = CsvTrace(long_trace(tmp_path / "ci.csv", {}), {"AU-SA": path}, columns=WANT, start_s=NOW, end_s=END)
    assert source.forecast("AU-SA", NOW, END).values_g_per_kwh.tolist() == [20, 20.5]
    rows[20] = f"{stamp(480)},nan,1"
    write(path, "issue_utc,h0,h1", *rows)
    with pytest.raises(UsageError, match=r"de\.csv, line 22: column h0 is nan"):
        ForecastFile.read(path, NOW, END)


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
    "gap in a coarse trace": (
        ["t,DE", f"{stamp(0)},1", f"{stamp(24)},1", f"{stamp(72)},1"],
        r"line 4: a gap: 2025-06-04T00:00:00Z follows 2025-06-02T00:00:00Z; the step is 86400 s; add the missing",
    ),
    "fractional step": (
        ["t,DE", "2025-06-01T00:00:00,1", "2025-06-01T00:00:00.500,1"],
        r"line 3: the step is 0\.5 s; it must be in whole seconds; give a trace",
    ),
    "not a time": (["t,DE", f"{T[0]},1", "noon,2"], r"line 3: 'noon' is not a time; ISO 8601 is needed; write it as"),
    "not a number": (["t,DE", f"{T[0]},1", f"{T[1]},low"], r"line 3: column DE is 'low', not a number; .*; correct"),
    "decimal comma": (["t,DE", f"{T[0]},1", f'{T[1]},"2,5"'], r"line 3: column DE is '2,5', not a number; .*point"),
    "NaN": (
        ["t,DE", f"{T[0]},1", f"{T[1]},nan"],
        r"line 3: column DE is nan gCO2e/kWh; 0 to 100000 is possible; correct",
    ),
    "infinite": (["t,DE", f"{T[0]},inf", f"{T[1]},1"], r"line 2: column DE is inf gCO2e/kWh; 0 to 100000"),
    "negative": (
        ["t,DE", f"{T[0]},1", f"{T[1]},-0.1"],
        r"line 3: column DE is -0\.1 gCO2e/kWh; 0 to 100000 is possible",
    ),
    "far too large": (["t,DE", f"{T[0]},1", f"{T[1]},100001"], r"line 3: column DE is 100001 gCO2e/kWh; .*g/MWh"),
    "other unit": (
        ["t,FR,DE", f"{T[0]},1,3000", f"{T[1]},1,3000.2"],
        r"line 2: column DE has a mean of 3000\.1 gCO2e/kWh .*; 3000 is the limit for a mean; correct it; g/MWh",
    ),
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
    "far below zero": (["issue_utc,h0", f"{T[0]},-51"], r"line 2: column h0 is -51 gCO2e/kWh; -50 to 1.* possible"),
    "far too large": (["issue_utc,h0", f"{T[0]},1e6"], r"line 2: column h0 is 1e\+06 gCO2e/kWh; -50 to 100000"),
    "other unit": (
        ["issue_utc,h0,h1", f"{T[0]},3000,3002"],
        r"line 2: the forecast has a mean of 3001 gCO2e/kWh .*; 3000 is the limit for a mean; correct",
    ),
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
    path, columns = SHARED / "em2022_hourly_123zones.csv.gz", {"AU-SA": "AU-SA", "home": "DE"}
    assert quiet_seconds_of(lambda: CsvTrace(path, columns=columns)) < 0.5
    two = CsvTrace(path, columns=columns)
    assert two.actual("home", now, now + HOUR).values_g_per_kwh.tolist() == (
        source.actual("DE", now, now + HOUR).values_g_per_kwh.tolist()
    )
    half_hourly = CsvTrace(SHARED / "lwa2020_30min_DE_GB_FR.csv")
    assert half_hourly.actual("GB", START - 5 * 366 * 86400, START - 5 * 365 * 86400).step_s == 1800
    assert np.isfinite(
        half_hourly.actual("FR", START - 5 * 366 * 86400, START - 5 * 365 * 86400).values_g_per_kwh
    ).all()
