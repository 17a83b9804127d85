"""Grid time."""

from __future__ import annotations

import pytest

from eco_ray.core.clock import Clock


@pytest.mark.parametrize(
    ("clock", "wall_s", "grid_s"),
    [
        (Clock(), 1_783_252_800.5, 1_783_252_800.5),
        (Clock(600.0, 1_000.0, 5_000.0), 1_000.0, 5_000.0),
        (Clock(600.0, 1_000.0, 5_000.0), 1_001.5, 5_900.0),
        (Clock(600.0, 1_000.0, 5_000.0), 999.0, 4_400.0),
        (Clock(0.5, 1_000.0, 5_000.0), 1_010.0, 5_005.0),
    ],
)
def test_grid_time_and_back(clock, wall_s, grid_s):
    assert clock.grid_s(wall_s) == grid_s
    assert clock.wall_s(grid_s) == wall_s
