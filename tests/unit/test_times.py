from __future__ import annotations

import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco_ray.errors import UsageError
from eco_ray.times import When, compact_duration, human_duration, iso_utc, parse_duration, parse_instant, parse_when


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("20m", 1_200),
        ("20 min", 1_200),
        ("3h", 10_800),
        ("1h30m", 5_400),
        ("1 h 30 min", 5_400),
        ("1.5h", 5_400),
        ("2d", 172_800),
        ("1w2d", 777_600),
        ("2 Days", 172_800),
        (" 0.25s ", 0.25),
        ("0", 0),
        ("PT3H", 10_800),
        ("P1DT12H", 129_600),
        ("PT1,5H", 5_400),
        ("P2W", 1_209_600),
        ("PT0S", 0),
        ("3660d", 316_224_000),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("", "1h30m"),
        ("soon", "1h30m"),
        ("-3h", "1h30m"),
        ("3", "3s, 3m or 3h"),
        ("3.5", "3.5s"),
        ("1h30", "1h30m"),
        ("30m1h", "largest first"),
        ("1h1h", "largest first"),
        ("3661d", "3660d"),
        ("9" * 60 + "h", "3660d"),
        ("1h" * 40, "1h30m"),
        ("P1Y", "P30D"),
        ("P3M", "P30D"),
        ("P", "PT3H"),
        ("PT", "PT3H"),
        ("P1D12H", "PT3H"),
        ("nan", "1h30m"),
        ("infs", "1h30m"),
        ("\u0661h", "1h30m"),
        ("__import__('os')", "1h30m"),
    ],
)
def test_bad_durations_say_value_and_cure(text: str, cure: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_duration(text)
    assert repr(text)[:40].strip("'\"") in str(error.value)
    assert cure in str(error.value)
    assert len(str(error.value)) < 250


def test_plain_numbers_are_seconds_only_where_asked() -> None:
    assert parse_duration("90", bare_seconds=True) == 90
    assert parse_duration(1.5, bare_seconds=True) == 1.5
    for wrong in (True, -1, math.nan, math.inf, 1e12):
        with pytest.raises(UsageError):
            parse_duration(wrong, bare_seconds=True)


@given(st.integers(min_value=0, max_value=316_224_000_000).map(lambda ms: ms / 1_000))
def test_compact_durations_are_read_back(seconds: float) -> None:
    assert parse_duration(compact_duration(seconds)) == pytest.approx(seconds, abs=1e-6, rel=0)


@given(st.floats(min_value=0, max_value=316_224_000))
def test_human_durations_are_read_back_to_their_two_units(seconds: float) -> None:
    # half a unit of the finer of two units: 0.05 s, 0.5 s, 30 s, 30 min
    allowed = 0.05 if seconds < 9.95 else 0.5 if seconds < 3_600 else 30 if seconds < 86_400 else 1_800
    assert abs(parse_duration(human_duration(seconds)) - seconds) <= allowed + 1e-6


@given(st.text(max_size=80))
def test_any_text_is_a_duration_or_a_usage_error(text: str) -> None:
    for parse in (parse_duration, parse_instant, parse_when):
        with suppress(UsageError):
            parse(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0.4 s"),
        (45, "45 s"),
        (59.7, "1 min"),
        (90, "1 min 30 s"),
        (12_000, "3 h 20 min"),
        (12_029, "3 h 20 min"),
        (86_399, "1 d"),
        (183_600, "2 d 3 h"),
        (-90, "-1 min 30 s"),
    ],
)
def test_human(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("2026-11-22T08:00Z", "2026-11-22T08:00:00Z"),
        ("2026-11-22T08:00:00Z", "2026-11-22T08:00:00Z"),
        ("2026-11-22 09:00+01:00", "2026-11-22T08:00:00Z"),
        ("2026-11-22T08:00", "2026-11-22T08:00:00Z"),  # naive is UTC
        ("2026-11-22", "2026-11-22T00:00:00Z"),
        ("20261122T080000Z", "2026-11-22T08:00:00Z"),
    ],
)
def test_instants(text: str, iso: str) -> None:
    assert iso_utc(parse_instant(text)) == iso


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("2026-13-01", "2026-11-22T08:00Z"),
        ("tomorrow", "2026-11-22T08:00Z"),
        ("1969-12-31T23:59Z", "1970 to 2199"),
        ("2200-01-01", "1970 to 2199"),
        ("0001-01-01T00:00+23:00", "1970 to 2199"),
        ("9999-12-31T23:59:59-23:00", "1970 to 2199"),
    ],
)
def test_bad_instants(text: str, cure: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_instant(text)
    assert repr(text) in str(error.value)
    assert cure in str(error.value)


def test_when() -> None:
    assert parse_when("6h") == When(after_s=21_600)
    assert parse_when("6h").resolve(100) == 21_700
    assert parse_when("now").resolve(100) == 100
    assert parse_when("2026-11-22").resolve(100) == parse_instant("2026-11-22")
    with pytest.raises(UsageError, match=r"'6 parsecs'.*2026-11-22T08:00Z"):
        parse_when("6 parsecs")


def test_iso_rounds_to_whole_seconds() -> None:
    assert iso_utc(1.5) == "1970-01-01T00:00:02Z"
    assert iso_utc(1_795_334_399.9999) == "2026-11-22T08:00:00Z"
