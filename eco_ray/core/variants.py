"""Which part of the requests a smaller variant of a model answers while the grid is dirty, if the owner allowed it.

    least grams: the largest share w of the small one with (1 - w) * accuracy_large + w * accuracy_small >= floor
    and w <= what was allowed

After Clover's mix of qualities (Li et al., SC'23, arXiv:2304.09781), which weighs accuracy against carbon; here
accuracy is a limit that the owner states, and carbon alone is weighed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from eco_ray.core.units import MJ_PER_J, grams
from eco_ray.errors import UsageError

#: from here on the grid is dirty, unless the owner says another limit [g/kWh]
DIRTY_G_PER_KWH = 400.0


@dataclass(frozen=True, slots=True)
class Variant:
    """A version that can answer."""

    #: name:VERSION
    reference: str
    #: as measured when it was made, 0 to 1
    accuracy: float
    #: as measured while it serves
    j_per_request: float


@dataclass(frozen=True, slots=True)
class Mixing:
    """What the owner allowed."""

    #: of the requests, at most so many to the small one [part]
    max_share: float
    #: of the mix, in the unit of the variants' accuracy
    accuracy_floor: float
    #: from here on the grid is dirty
    above_g_per_kwh: float
    #: it is clean again below so much of that [part]
    clean_below: float = 0.9
    #: the mix stays so long
    hold_s: float = 600.0

    def __post_init__(self) -> None:
        if not 0 <= self.max_share <= 1:
            raise UsageError(f"the share of the smaller variant is {self.max_share}: it must be from 0 to 1")
        if math.isnan(self.accuracy_floor) or math.isnan(self.above_g_per_kwh):
            raise UsageError(
                f"accuracy floor {self.accuracy_floor} and {self.above_g_per_kwh} g/kWh must be numbers: state both"
            )


@dataclass(frozen=True, slots=True)
class MixState:
    """Whether the grid counts as dirty, and since when; and whether the small one takes less energy."""

    is_dirty: bool
    since_s: float
    takes_less: bool = True
    #: since when that is so; None: it has not changed yet
    takes_since_s: float | None = None


@dataclass(frozen=True, slots=True)
class Mix:
    """Which part of the requests the small one answers, and why."""

    small_share: float
    #: of the mix
    accuracy: float
    #: against the large one alone; 0 where the intensity is unknown
    saved_g_per_request: float
    why: str


def next_mix(
    now_s: float,
    intensity_g_per_kwh: float | None,
    large: Variant,
    small: Variant,
    mixing: Mixing,
    state: MixState | None,
    pue: float = 1.0,
) -> tuple[Mix, MixState]:
    """The decision, and the state to give next time; None: nothing is remembered. An unknown grid is a clean one."""
    takes_less, takes_since_s = _takes_less(now_s, large, small, mixing, state)
    state, grid = _grid(now_s, intensity_g_per_kwh, mixing, state)
    state = replace(state, takes_less=takes_less, takes_since_s=takes_since_s)
    share, why = _share(large, small, mixing, takes_less) if state.is_dirty else (0.0, f"all to {large.reference}")
    accuracy = (1 - share) * large.accuracy + share * small.accuracy
    saved_j = share * (large.j_per_request - small.j_per_request)
    saved_g = grams(saved_j * MJ_PER_J, intensity_g_per_kwh or 0.0, pue)
    return Mix(share, accuracy, saved_g, f"{grid}: {why}"), state


def is_small(number: int, share: float) -> bool:
    """Whether request `number` (0, 1, 2, ...) goes to the small one.

    Of the first n requests, for any n, those are as many as fit into its share: so whoever counts, the floor holds.
    """
    return math.floor((number + 1) * share + 1e-9) > math.floor(number * share + 1e-9)


def _grid(
    now_s: float, intensity_g_per_kwh: float | None, mixing: Mixing, state: MixState | None
) -> tuple[MixState, str]:
    limit = mixing.above_g_per_kwh * (mixing.clean_below if state and state.is_dirty else 1.0)
    is_dirty = intensity_g_per_kwh is not None and intensity_g_per_kwh >= limit
    grid = "intensity unknown" if intensity_g_per_kwh is None else f"{intensity_g_per_kwh:.3g} g/kWh"
    grid = f"{grid} ({'dirty' if is_dirty else 'clean'}, limit {limit:.3g})"
    if state is None:
        return MixState(is_dirty, now_s), grid
    left_s = state.since_s + mixing.hold_s - now_s
    if is_dirty == state.is_dirty:
        return state, grid
    if left_s > 0:
        return state, f"{grid}, as before for another {left_s:.0f} s"
    return MixState(is_dirty, now_s), grid


def _takes_less(
    now_s: float, large: Variant, small: Variant, mixing: Mixing, state: MixState | None
) -> tuple[bool, float | None]:
    """Whether the small one counts as taking less energy, and since when: readings that flap change it once a hold."""
    now = small.j_per_request < large.j_per_request
    if state is None:
        return now, None
    held = state.takes_since_s is not None and now_s < state.takes_since_s + mixing.hold_s
    return (state.takes_less, state.takes_since_s) if held or now == state.takes_less else (now, now_s)


def _share(large: Variant, small: Variant, mixing: Mixing, takes_less: bool) -> tuple[float, str]:
    if mixing.max_share <= 0:
        return 0.0, f"all to {large.reference}: a smaller variant is not allowed"
    if not takes_less:
        return 0.0, f"all to {large.reference}: {small.reference} does not take less energy"
    loss = large.accuracy - small.accuracy
    by_floor = max(0.0, (large.accuracy - mixing.accuracy_floor) / loss) if loss > 0 else math.inf
    share = min(by_floor, mixing.max_share)
    if not share:
        return 0.0, f"all to {large.reference}: no room above the accuracy floor of {mixing.accuracy_floor:g}"
    limit = "by the accuracy floor" if by_floor <= mixing.max_share else "at most, as allowed"
    return share, f"{100 * share:.3g} % {limit} to {small.reference}"
