"""The power limit of GPUs, or the number of threads, that a training runs with, from how each did in its first steps.

A *setting* is what was set: the limit of each GPU [W], a clock [MHz], or threads. A trial is how the training did with
it. The number of samples that a training needs does not depend on the setting, so settings are compared by what one
sample takes (Zeus, NSDI 2023, arXiv:2208.06102, section 4.3).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from eco_ray.core.units import J_PER_KWH
from eco_ray.errors import UsageError

#: part of the work by which rounding may make a plan seem too slow
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Trial:
    """How a training did with one setting."""

    setting: float
    #: mean power that was counted [W]
    power_w: float
    #: samples per second of wall time
    throughput_per_s: float

    @property
    def j_per_sample(self) -> float:
        """Energy of one sample [J]."""
        return self.power_w / self.throughput_per_s


class Goal(Protocol):
    """What the owner of a training wants."""

    def allowed(self, trials: Sequence[Trial]) -> Sequence[Trial]:
        """The trials that the owner accepts at all, of some that are known; at least one."""
        ...

    def cost(self, trial: Trial, highest_seen_w: float) -> float:
        """What is least for the best trial; `highest_seen_w` is the highest power of all trials [W]."""
        ...


@dataclass(frozen=True, slots=True)
class ZeusCost:
    """The least eta * energy + (1 - eta) * highest power * time; 1: energy alone, 0: time alone."""

    eta: float = 0.5
    #: highest power that could be set [W]; None: the highest that was seen
    max_power_w: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise UsageError(f"eta={self.eta} is outside [0, 1]; 1 counts energy alone, 0 time alone")

    def allowed(self, trials: Sequence[Trial]) -> Sequence[Trial]:
        """All of them."""
        return trials

    def cost(self, trial: Trial, highest_seen_w: float) -> float:
        """Per sample [J]."""
        highest_w = highest_seen_w if self.max_power_w is None else self.max_power_w
        return (self.eta * trial.power_w + (1 - self.eta) * highest_w) / trial.throughput_per_s


@dataclass(frozen=True, slots=True)
class MaxSlowdown:
    """The least energy of what takes at most so many times as long as the fastest."""

    factor: float = 1.1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.factor) and self.factor >= 1):
            raise UsageError(f"a slowdown of {self.factor} is not from 1 on; 1.1 allows 10 % more time")

    def allowed(self, trials: Sequence[Trial]) -> Sequence[Trial]:
        """Those that are fast enough."""
        least = max(trial.throughput_per_s for trial in trials) / self.factor
        return [trial for trial in trials if trial.throughput_per_s >= least * (1 - _ROUNDING)]

    def cost(self, trial: Trial, highest_seen_w: float) -> float:
        """Energy per sample [J]."""
        return trial.j_per_sample


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some time ahead, and the carbon intensity in it."""

    #: wall time [s]
    length_s: float
    #: NaN: unknown
    intensity_g_per_kwh: float


def choose(trials: Iterable[Trial], goal: Goal) -> Trial | None:
    """The best trial for a goal; of equal ones the faster, then the lower setting. None: nothing is known of any."""
    found = known(trials)
    if not found:
        return None
    highest_seen_w = max(trial.power_w for trial in found)
    return min(
        goal.allowed(found), key=lambda one: (goal.cost(one, highest_seen_w), -one.throughput_per_s, one.setting)
    )


def choose_ahead(
    trials: Iterable[Trial], goal: Goal, ahead: Sequence[Stretch], samples: float
) -> tuple[Trial, ...] | None:
    """A trial for each stretch ahead, so that so many samples are done by their end with the fewest grams.

    The training runs without a pause until it is done: pausing is the planner's. None: no trial is known, or none is
    fast enough for all stretches, however it is distributed; then the fastest is right. An unknown intensity is taken
    as the mean of those that are known.

    With time shared between settings this is a linear program: for each stretch in which the training may end, the
    cheapest steps from a setting to the next faster one (least added grams per added sample) are taken until all
    samples are done, as CarbonScaler adds workers (arXiv:2302.08681, algorithm 1). A stretch has one setting here, so
    the last step is taken whole; no single setting that is in time emits less.
    """
    found = known(trials)
    allowed = goal.allowed(found) if found else ()
    grams = _intensities(ahead)
    plans = [(trial,) * len(ahead) for trial in allowed]
    plans += _greedy_plans(allowed, ahead, grams, samples) if allowed else []
    rated = [(rate, plan) for plan in plans if (rate := _emits(plan, ahead, grams, samples)) is not None]
    return (
        min(rated, key=lambda one: (one[0], [(-t.throughput_per_s, t.setting) for t in one[1]]))[1] if rated else None
    )


def fastest(trials: Iterable[Trial], goal: Goal) -> Trial | None:
    """The fastest that the goal allows, of equal ones the most frugal; None: nothing is known of any."""
    found = known(trials)
    allowed = goal.allowed(found) if found else ()
    return max(allowed, key=lambda one: (one.throughput_per_s, -one.power_w, -one.setting), default=None)


def known(trials: Iterable[Trial]) -> list[Trial]:
    """Those of which power and throughput are known."""
    return [t for t in trials if 0 < t.power_w < math.inf and 0 < t.throughput_per_s < math.inf]


def _intensities(ahead: Sequence[Stretch]) -> list[float]:
    """Of each stretch [g/kWh]; where none is known, all are alike."""
    found = [s.intensity_g_per_kwh for s in ahead if math.isfinite(s.intensity_g_per_kwh)]
    mean = sum(found) / len(found) if found else 1.0
    return [max(0.0, s.intensity_g_per_kwh if math.isfinite(s.intensity_g_per_kwh) else mean) for s in ahead]


def _greedy_plans(
    trials: Sequence[Trial], ahead: Sequence[Stretch], grams: Sequence[float], samples: float
) -> list[tuple[Trial, ...]]:
    """The best plan for each stretch in which the training may end."""
    slowest = min(trials, key=lambda one: (one.power_w, -one.throughput_per_s, one.setting))
    running = _hull(slowest, trials)
    # in the stretch in which it ends, it may stop at any moment: from nothing, its first step is the most frugal trial
    frugal = min(trials, key=lambda one: (one.j_per_sample, -one.throughput_per_s, one.setting))
    ending = _hull(frugal, trials)
    # (added grams per added sample, stretch, place on the hull, added samples, by way of what is run in it)
    steps: list[tuple[float, int, int, float, bool]] = []
    for at, (stretch, intensity) in enumerate(zip(ahead, grams, strict=True)):
        steps.append((intensity * frugal.j_per_sample, at, 0, frugal.throughput_per_s * stretch.length_s, True))
        for hull, ends in ((running, False), (ending, True)):
            for place, (slow, fast) in enumerate(itertools.pairwise(hull), start=1):
                more = fast.throughput_per_s - slow.throughput_per_s
                slope = (fast.power_w - slow.power_w) / more
                steps.append((intensity * slope, at, place, more * stretch.length_s, ends))
    steps.sort()
    plans = []
    for end in range(len(ahead)):
        places = [0] * len(ahead)
        left = samples - sum(slowest.throughput_per_s * stretch.length_s for stretch in ahead[:end])
        for _, at, place, more, ends in steps:
            if left <= 0:
                break
            if at > end or ends is not (at == end):
                continue
            places[at], left = place, left - more
        plan = [(running if at != end else ending)[place] for at, place in enumerate(places)]
        plans.append(tuple(plan))
    return plans


def _hull(first: Trial, trials: Sequence[Trial]) -> list[Trial]:
    """The lower convex hull of power over throughput from a trial up to the fastest: its slopes grow."""
    hull = [first]
    for trial in sorted(trials, key=lambda one: (one.throughput_per_s, one.power_w, one.setting)):
        if trial.throughput_per_s <= hull[-1].throughput_per_s:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], trial):
            hull.pop()
        hull.append(trial)
    return hull


def _slope(slow: Trial, fast: Trial) -> float:
    return (fast.power_w - slow.power_w) / (fast.throughput_per_s - slow.throughput_per_s)


def _emits(plan: Sequence[Trial], ahead: Sequence[Stretch], grams: Sequence[float], samples: float) -> float | None:
    """What a plan emits until all samples are done [g]; None: they are not by its end."""
    emitted_g, left = 0.0, samples
    for trial, stretch, intensity in zip(plan, ahead, grams, strict=True):
        runs_s = min(stretch.length_s, left / trial.throughput_per_s)
        emitted_g += trial.power_w * runs_s * intensity / J_PER_KWH
        left -= trial.throughput_per_s * runs_s
        if left <= samples * _ROUNDING:
            return emitted_g
    return None
