"""What a plan depends on: time, nodes and their promises, forecasts, prices, and how long jobs take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from eco_ray.core.calendar import Calendar
from eco_ray.core.cluster import Resources
from eco_ray.core.durations import Durations
from eco_ray.core.fleet import Fleet, Place
from eco_ray.core.intensity import IntensitySeries, kind_of
from eco_ray.core.jobs import JobSpec, Reason, Segment
from eco_ray.core.market import Cleared
from eco_ray.core.units import MJ_PER_J, grams

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PlannerConfig:
    """Knobs of the planner, all in grid time."""

    #: length of a slot [s]
    slot_s: float = 900.0
    #: how far ahead it plans at least; to a later deadline as far as the forecast reaches [s]
    horizon_s: float = 96 * 3600.0
    #: what the clock of calendars (9:00, 1:00) is ahead of UTC [s]
    utc_offset_s: float = 0.0
    #: length of a step of the market, in which all jobs are planned together; a multiple of a slot [s]
    market_step_s: float = 3600.0
    #: assumed duration of a job that says nothing, has reported nothing, and whose name has never run [s]
    assumed_duration_s: float = 3600.0


class Measure(Enum):
    """What is counted of a plan."""

    #: what it adds to the emissions of its nodes [g]: plans are compared by it
    ADDED_G = "added grams"
    #: the job's share of its nodes' emissions [g]: the ledger has it, and budgets of carbon count it
    SHARE_G = "grams"
    #: the job's share of its nodes' energy, without PUE [J]: budgets of energy count it
    SHARE_J = "joules"


@dataclass(frozen=True, slots=True)
class Mix:
    """A sum of what is counted: the added grams, the job's share of grams, and of energy, each with a weight."""

    added: float
    share: float
    g_per_j: float

    def of(self, added_g: float, share_g: float, share_j: float) -> float:
        """The sum, of figures in g, g and J."""
        return self.added * added_g + self.share * share_g + self.g_per_j * share_j


@dataclass(frozen=True, slots=True)
class NoPlan:
    """Why there is no plan."""

    reason: Reason
    message: str
    #: the least that a plan would emit or use, with what was before, where that is what forbids it [g or J]
    needs: float | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """What a plan made now depends on."""

    now_s: float
    calendar: Calendar
    #: forecast by zone; where it is unknown a job runs only when it cannot run in time where it is known
    forecast: Mapping[str, IntensitySeries]
    home_zone: str
    durations: Durations
    #: what capacity is worth to the other jobs; None: it is not scarce
    market: Cleared | None = None
    #: intensity of the past 24 h by zone, for policies that compare with it
    past: Mapping[str, IntensitySeries] = field(default_factory=dict)
    #: by zone: a series, the first slot that it touches, and its mean in each; kept by the caller from plan to plan
    means: dict[str, tuple[IntensitySeries, int, Floats]] = field(default_factory=dict)
    #: how long an attempt holds its node before its program runs [s]
    launch_s: float = 0.0
    #: for a job that runs: what its node promised to others that must not wait for it until a time; None: nobody must
    firm: Callable[[float], Calendar] | None = None

    def __post_init__(self) -> None:
        """Check that the forecasts are of one kind. Raises MixedKindsError."""
        kind_of(*self.forecast.values())

    @property
    def fleet(self) -> Fleet:
        """The nodes that are there."""
        return self.calendar.fleet

    @property
    def known_s(self) -> float:
        """How far the longest forecast reaches [s since epoch]; 0: there is none."""
        return max((series.end_s for series in self.forecast.values()), default=0.0)

    def without_signal(self, places: Sequence[Place]) -> tuple[str, ...]:
        """The zones of places, sorted, where no forecast for any of them reaches beyond now; else nothing."""
        zones = tuple(sorted({place.node.zone for place in places}))
        current = any(zone in self.forecast and self.forecast[zone].end_s > self.now_s for zone in zones)
        return () if current else zones

    def slot_means(self, series: IntensitySeries) -> tuple[int, Floats]:
        """First slot that a series touches, and its mean [g/kWh] in each slot, as far as it is known there."""
        kept = self.means.get(series.zone)
        if kept is None or kept[0] is not series:
            slot_s = self.calendar.slot_s
            first, end = math.floor(series.start_s / slot_s + 1e-9), math.floor(series.end_s / slot_s + 1e-9)
            edges_s = np.maximum(np.arange(first, end + 1, dtype=np.float64) * slot_s, series.start_s)
            kept = series, first, series.means(edges_s) if end > first else np.empty(0)
            self.means[series.zone] = kept
        return kept[1], kept[2]

    def added_w(self, place: Place, demand: Resources, first: int, count: int) -> float | Floats:
        """What a job adds to the power of a place, with its PUE [W]: one figure, or one for each slot, (count,)."""
        node = place.node
        if node.power.is_straight and not node.sleeps:
            return self.fleet.added_w(place, demand)
        held = self.calendar.cpus_held(place, first, count)
        cpus = node.capacity.cpus or 1.0
        share, load = min(1.0, demand.cpus / cpus), np.minimum(held / cpus, 1.0)
        curve = node.power
        added_w = np.interp(load + share, curve.utilisation, curve.watts)
        added_w -= np.interp(load, curve.utilisation, curve.watts)
        added_w += demand.gpus * (node.gpu_busy_w - node.gpu_idle_w)
        if node.sleeps:
            added_w += np.where(self.calendar.idle(place, first, count), node.idle_w, 0.0)
        return added_w * node.pue

    def plan_g(self, segments: Sequence[Segment], spec: JobSpec) -> tuple[float | None, float | None]:
        """Expected operational carbon of what is ahead of planned segments, and what it adds to that of the nodes [g].

        The first is the job's share of its nodes' power, as the ledger will have it; the second is what the planner
        compares. None where an intensity is unknown. The job itself must not be in the calendar.
        """
        total_g = added_g = 0.0
        fleet, now_s = self.calendar.fleet, self.now_s
        for segment in segments:
            start_s, end_s = segment.start_s, segment.end_s
            start_s = max(start_s, now_s)
            if start_s >= end_s:
                continue
            place, series = fleet.place_of(segment.node), self.forecast.get(segment.zone)
            if place is None or series is None or not series.covers(start_s, end_s):
                return None, None
            demand = spec.demand * segment.workers
            length_s = end_s - start_s
            g_per_w = grams(length_s * MJ_PER_J, series.mean(start_s, end_s), 1.0)
            total_g += fleet.attributed_w(place, demand) * g_per_w
            if place.node.power.is_straight and not place.node.sleeps:
                added_g += fleet.added_w(place, demand) * g_per_w
                continue
            first = self.calendar.slot_of(start_s)
            added_w = self.added_w(place, demand, first, max(1, self.calendar.slot_of(end_s - 1e-6) + 1 - first))
            added_g += float(np.mean(added_w)) * g_per_w
        return total_g, added_g

    def run_now_g(self, spec: JobSpec, duration_s: float) -> float | None:
        """Grams of running at once in the home zone with the least workers; None where its intensity is unknown."""
        home = self.fleet.first_in(self.home_zone)
        if home is None:
            return None
        at_once = Segment(home.name, home.zone, self.now_s, self.now_s + duration_s, spec.workers.min)
        return self.plan_g([at_once], spec)[0]

    def measured(self, segments: Sequence[Segment], spec: JobSpec, measure: Measure | Mix) -> float | None:
        """What is ahead of planned segments, by a measure [g or J]; None where an intensity is unknown."""
        if measure is Measure.SHARE_J:
            return self.energy_j(segments, spec)
        carbon_g, added_g = self.plan_g(segments, spec)
        if isinstance(measure, Mix):
            unknown = carbon_g is None or added_g is None
            return None if unknown else measure.of(added_g or 0.0, carbon_g or 0.0, self.energy_j(segments, spec))
        return added_g if measure is Measure.ADDED_G else carbon_g

    def energy_j(self, segments: Sequence[Segment], spec: JobSpec) -> float:
        """Energy that planned segments give to the job, from now on, without PUE [J]."""
        total_j = 0.0
        for segment in segments:
            node = self.fleet.nodes.get(segment.node)
            if node is not None:
                length_s = max(0.0, segment.end_s - max(segment.start_s, self.now_s))
                total_j += node.attributed_power_w(spec.demand * segment.workers) * length_s
        return total_j
