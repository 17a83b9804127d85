"""Grid time: the time that planning, energy and carbon are counted in.

On a production cluster grid time is wall time. A demonstration may let it run faster (`speed`), so that a day of
grid can be watched in minutes; every watt is then drawn for `speed` grid seconds per wall second.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """Maps wall time to grid time: grid = grid_origin + (wall - wall_origin) * speed."""

    #: grid seconds per wall second
    speed: float = 1.0
    #: wall time [s since epoch] at which grid time was `grid_origin_s`
    wall_origin_s: float = 0.0
    #: grid time [s since epoch] at `wall_origin_s`
    grid_origin_s: float = 0.0

    def grid_s(self, wall_s: float) -> float:
        """Grid time [s since epoch] of a wall time [s since epoch]."""
        return self.grid_origin_s + (wall_s - self.wall_origin_s) * self.speed

    def wall_s(self, grid_s: float) -> float:
        """Wall time [s since epoch] of a grid time [s since epoch]."""
        return self.wall_origin_s + (grid_s - self.grid_origin_s) / self.speed
