"""What energy counters have in common: steps that wrap or reset, and the idle part of what they count."""

from __future__ import annotations

import math

from eco_ray.core.units import MJ_PER_J

#: no CPU package, memory or GPU draws more [W]; a step above it is a counter that was reset, not energy
MAX_PLAUSIBLE_W = 10_000.0
#: shorter intervals [s] say nothing about idle power: counters move in steps of 1 to 100 ms
_MIN_IDLE_INTERVAL_S = 0.5

COUNTER_RESET = "counter-reset"
CLOCK_JUMP = "clock-jump"


def wall_time(wall_s: float) -> tuple[float, list[str]]:
    """(wall time [s], flags): a time that makes no sense counts as none."""
    return (wall_s, []) if math.isfinite(wall_s) and wall_s >= 0 else (0.0, [CLOCK_JUMP])


def step(before: float, now: float, unit_per_j: float, wall_s: float, wrap_range: float | None = None) -> float | None:
    """Increase of a counter since `before`; None when it was reset (a step back that no wrap explains)."""
    increase = now - before
    if increase < 0:
        if wrap_range is None:
            return None
        increase += wrap_range
    too_much = increase > MAX_PLAUSIBLE_W * unit_per_j * max(wall_s, 1.0)
    return None if increase < 0 or too_much else increase


class IdleFloor:
    """Idle power as the lowest mean power seen so far, never above a given limit.

    Counters do not tell idle from dynamic energy. On a part that has never been idle since the start, all of its
    energy counts as idle (and is charged by reservation) up to the limit.
    """

    def __init__(self, limit_w: float | None = None) -> None:
        self._floor_w = math.inf if limit_w is None else limit_w

    def idle_mj(self, energy_mj: float, wall_s: float) -> float:
        """Idle part [mJ] of an interval's energy, which may lower the floor."""
        if wall_s == 0:
            return 0.0
        if energy_mj > 0 and wall_s >= _MIN_IDLE_INTERVAL_S:
            self._floor_w = min(self._floor_w, energy_mj / MJ_PER_J / wall_s)
        return min(energy_mj, self._floor_w * wall_s * MJ_PER_J)
