"""The two sums that every report must pass.

C = sum of S_i has its sides from different rows. Those of E = P t are both of the ledger's rows: it checks the sum, not
the meter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eco_ray.core.units import MJ_PER_J


@dataclass(frozen=True, slots=True)
class Identity:
    """left = right, with what the right side is made of."""

    left: float
    right: float
    inputs: Mapping[str, float]

    @property
    def gap_rel(self) -> float:
        """|left - right| relative to the larger of both; 0 where both are 0."""
        largest = max(abs(self.left), abs(self.right))
        return abs(self.left - self.right) / largest if largest else 0.0


def energy_is_power_times_time(
    energy_mj: int, intervals: Sequence[tuple[float, float, int]], metered_s: float
) -> Identity:
    """E = P t of a job: its energy by the ledger [J], against its mean power x the time that it was metered.

    `intervals`: (start [s], end [s], energy [mJ]) of each of its ledger rows; each has a power. P is their sum of power
    x length over `metered_s`, in which what runs at the same time (workers on several nodes) counts once. A row's power
    is its energy over its length: this checks the sum, not the meter.
    """
    joules = 0.0
    if metered_s > 0:
        powers = [
            (mj / MJ_PER_J / (end_s - start_s), end_s - start_s) for start_s, end_s, mj in intervals if end_s > start_s
        ]
        joules = math.fsum(power_w * length_s for power_w, length_s in powers)
    power_w = joules / metered_s if metered_s > 0 else 0.0
    # rows without a length have energy and no power: their part is told apart, so that nothing is smoothed over
    moments_j = sum(mj for start_s, end_s, mj in intervals if end_s <= start_s) / MJ_PER_J
    inputs = {"power_w": power_w, "metered_s": metered_s, "moments_j": moments_j}
    return Identity(energy_mj / MJ_PER_J, power_w * metered_s + moments_j, inputs)


def fleet_is_sum_of_servers(owner_g: Mapping[str, float], server_g: Mapping[str, float]) -> Identity:
    """C = sum of S_i over R servers [g]: what all owners and nobody emitted, against what each server emitted."""
    return Identity(math.fsum(owner_g.values()), math.fsum(server_g.values()), {"servers": float(len(server_g))})
