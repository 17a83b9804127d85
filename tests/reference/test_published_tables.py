"""The published tables of the literature, row by row; the rows are made by benchmarks/published.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import published

pytestmark = pytest.mark.skipif(
    not published.SHARED.exists(),
    reason="../shared, with the traces and the published results, is not here: they are not ours to ship",
)


def all_hold(rows):
    rows = list(rows)
    assert rows
    assert [row for row in rows if not row.holds] == []


def test_gaia_every_start_and_the_bound():
    all_hold(published.gaia())


def test_lets_wait_awhile_with_its_quirks_every_start_and_end():
    all_hold(published.lets_wait_awhile())


def test_carbon_scaler_every_row():
    all_hold(published.scaler())


def test_what_is_left_under_real_forecasts():
    all_hold(published.real_forecasts((1, 24)))


def test_eurosys_upper_bounds_some_rows():
    all_hold(published.eurosys(every=28))


@pytest.mark.slow
def test_what_is_left_under_real_forecasts_every_row():
    all_hold(published.real_forecasts())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_eurosys_upper_bounds_every_row():
    all_hold(published.eurosys())
