"""Our forecaster beside the week's mean, on the truth of 2022; the tables are made by benchmarks/grid.py."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import grid

pytestmark = pytest.mark.skipif(
    not grid.SHARED.exists(),
    reason="../shared, with the traces, is not here: they are not ours to ship",
)

#: one start in thirteen: every hour of the day and of the week comes up
STARTS = grid.STARTS[grid.HISTORY_DAYS * 24 :: 13]


@pytest.mark.parametrize("zone", ["AU-SA", "DE"])
def test_ours_saves_more_than_the_mean_of_the_week(zone):
    values = grid.truth(zone)
    starts = STARTS[len(values) - 96 >= STARTS]
    made, low, high, _ = grid.ours(values, starts)
    ours, week = (grid.kept(values, believed, starts) for believed in (made, grid.mean_day(values, starts, 7)))
    assert all(a > b for a, b in zip(ours, week, strict=True)), (ours, week)
    came = grid.window(values, starts, 96)
    assert 0.75 <= np.mean((low <= came) & (came <= high)) <= 0.85


def test_the_published_figures_come_out_of_the_same_count():
    values = grid.truth("DE")
    assert grid.kept(values, grid.window(values, grid.STARTS), grid.STARTS)[0] == pytest.approx(25.48, abs=0.05)
    week = grid.mean_day(values, grid.STARTS, 7)
    assert grid.kept(values, week, grid.STARTS)[0] == pytest.approx(20.27, abs=0.05)
    real = grid.from_midnight(grid.real_forecasts("DE"), grid.STARTS)
    assert grid.kept(values, real, grid.STARTS)[0] == pytest.approx(21.22, abs=0.05)
