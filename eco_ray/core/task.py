"""One job as the planner sees it: how much is left, in slots, on which nodes, at what intensity and grams."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eco_ray.core.calendar import Calendar
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.decide import Stretch
from eco_ray.core.intensity import IntensitySeries
from eco_ray.core.jobs import Job, JobSpec, Reason, Segment
from eco_ray.core.market import Cleared
from eco_ray.core.outlook import Outlook
from eco_ray.core.slots import Run
from eco_ray.core.units import MJ_PER_J, grams

Floats = NDArray[np.float64]

#: part of the market's prices that a job pays: at the full price it would not care whether it gets a scarce slot
PRICE_WEIGHT = 0.9
#: a slot that the market meant for a job is worth more than any other [g]
_OWN_G = 1e12
#: shorter than any time that matters [s]
INSTANT_S = 1e-6


@dataclass(frozen=True, slots=True)
class PlannerConfig:
    """Knobs of the planner, all in grid time."""

    #: length of a slot [s]
    slot_s: float = 900.0
    #: how far ahead it plans at most [s]
    horizon_s: float = 96 * 3600.0
    #: what the clock of calendars (9:00, 1:00) is ahead of UTC [s]
    utc_offset_s: float = 0.0
    #: length of a step of the market, in which all jobs are planned together; a multiple of a slot [s]
    market_step_s: float = 3600.0
    #: assumed duration of a job that says nothing and has reported nothing [s]
    assumed_duration_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class NoPlan:
    """Why there is no plan."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Situation:
    """What a plan depends on."""

    now_s: float
    nodes: Sequence[Node]
    calendar: Calendar
    #: forecast by zone; where it is unknown a job runs only when it cannot run in time where it is known
    forecast: Mapping[str, IntensitySeries]
    home_zone: str
    #: what others than our attempts hold now, by node; taken to stay
    foreign: Mapping[str, Resources] = field(default_factory=dict)
    #: what capacity is worth to the other jobs; None: it is not scarce
    market: Cleared | None = None
    #: pool of each node in the market, by name
    pools: Mapping[str, int] = field(default_factory=dict)
    #: intensity of the past 24 h by zone, for policies that compare with it
    past: Mapping[str, IntensitySeries] = field(default_factory=dict)
    #: by zone: a series, the first slot that it touches, and its mean in each; kept by the caller from plan to plan
    means: dict[str, tuple[IntensitySeries, int, Floats]] = field(default_factory=dict)

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

    def signal(self, zone: str) -> IntensitySeries | None:
        """The forecast of a zone, if it is of the home zone's kind: series of different kinds are not compared."""
        series = self.forecast.get(zone)
        lead = self.forecast.get(self.home_zone) or next(iter(self.forecast.values()), None)
        return series if series and lead and series.kind is lead.kind else None

    def fits(self, nodes: Sequence[Node], spec: JobSpec, first: int, count: int) -> NDArray[np.bool_]:
        """Whether the job fits on each node in each slot: shape (nodes, count)."""
        return self.calendar.fits(nodes, spec.demand, first, count, self.foreign)


def expected_duration_s(spec: JobSpec, config: PlannerConfig) -> float:
    """The duration that plans are made with [s]."""
    return spec.expected_duration_s or config.assumed_duration_s


def work_left_s(job: Job, now_s: float, config: PlannerConfig) -> float:
    """Useful run time that is left [s]: from reported progress where there is some, else from the expected duration."""
    done_s = job.productive_s
    live = job.live_attempt
    if live is not None:
        since = live.productive_s
        if since is None and live.started_s is not None:  # it has not told yet: it may be restoring its checkpoint
            resumed = live.number > 1 and job.has_checkpoint
            since = live.started_s + (job.spec.suspend.resume_cost_s if resumed else 0.0)
        done_s += max(0.0, now_s - since) if since is not None else 0.0
    expected = expected_duration_s(job.spec, config)
    if job.progress is not None and job.progress >= 0.05 and done_s > 0:
        expected = max(done_s, done_s / job.progress)
    elif live is None and not job.has_checkpoint:
        done_s = 0.0  # without a checkpoint the next attempt begins again
    return max(expected - done_s, 1.0)


@dataclass(frozen=True, slots=True)
class Task:
    """One job as the planner sees it: its work in slots, on rows of nodes."""

    job: Job
    nodes: Sequence[Node]
    #: useful run time that is left [s]
    left_s: float
    #: earliest start [s since epoch], somewhere within slot `first`
    begin_s: float
    first: int
    slot_s: float
    #: row of the node that it runs on now
    current: int | None

    @classmethod
    def of(cls, job: Job, situation: Situation, nodes: Sequence[Node], config: PlannerConfig) -> Task:
        begin_s = max(situation.now_s, job.spec.not_before_s, job.retry_at_s)
        live = job.live_attempt
        current = next((i for i, n in enumerate(nodes) if live and n.name == live.node), None)
        left_s = work_left_s(job, situation.now_s, config)
        return cls(job, nodes, left_s, begin_s, situation.calendar.slot_of(begin_s), config.slot_s, current)

    @property
    def passed_s(self) -> float:
        """How much of the first slot is over at the earliest start [s]."""
        return max(0.0, self.begin_s - self.first * self.slot_s)

    @property
    def pays_at_start(self) -> bool:
        """Whether its next start is a resume."""
        return self.current is None and self.job.has_checkpoint

    @property
    def run_s(self) -> float:
        """How long it takes without a suspension from now on, with the resume that it may begin with [s]."""
        return self.left_s + (self.job.spec.suspend.resume_cost_s if self.pays_at_start else 0.0)

    @property
    def work_at_once(self) -> int:
        """Slots that such a run touches when it starts at once."""
        return self.slots(self.run_s + self.passed_s)

    def slots(self, duration_s: float) -> int:
        """Slots that a duration fills, at least one."""
        return max(1, math.ceil((duration_s - INSTANT_S) / self.slot_s))

    def time_s(self, slot: int) -> float:
        """When a slot of the matrices begins, for this job [s since epoch]."""
        return max((self.first + slot) * self.slot_s, self.begin_s)

    def missing_s(self, runs: Sequence[Run]) -> float:
        """Run time that the runs lack for the work and its resumes [s]; what they have too much is negative."""
        goes_on = self.current is not None and runs[0][:2] == (self.current, 0)
        free_start = goes_on or not (self.job.has_checkpoint or self.current is not None)
        resumes = len(runs) - (1 if free_start else 0)
        given_s = sum(self.time_s(end) - self.time_s(start) for _, start, end in runs)
        return self.left_s + resumes * self.job.spec.suspend.resume_cost_s - given_s

    def segments(self, runs: Sequence[Run]) -> tuple[Segment, ...]:
        """The runs in time; the last one ends when the work is done, not with its slot."""
        runs = list(runs)
        while len(runs) > 1 and self.missing_s(runs[:-1]) <= INSTANT_S:
            runs.pop()
        spare_s = max(0.0, -self.missing_s(runs))
        last = len(runs) - 1
        return tuple(
            Segment(
                self.nodes[row].name,
                self.nodes[row].zone,
                self.time_s(start),
                self.time_s(end) - (spare_s if i == last else 0.0),
            )
            for i, (row, start, end) in enumerate(runs)
        )

    def stretched(self, node: Node, stretches: Sequence[Stretch]) -> tuple[Segment, ...]:
        """Stretches since the earliest start, as segments on a node; those that touch are one."""
        segments: list[Segment] = []
        for start_s, end_s, _ in stretches:
            begin_s = start_s + self.begin_s
            if segments and begin_s <= segments[-1].end_s:
                begin_s = segments.pop().start_s
            segments.append(Segment(node.name, node.zone, begin_s, end_s + self.begin_s))
        return tuple(segments)

    def outlook(self, g_per_kwh: NDArray[np.float64], reach_s: float) -> Outlook | None:
        """One node's intensity in the slots from the earliest start on (nan: it may not run), up to `reach_s`.

        Equal neighbours become one step. None where the job may not run at all.
        """
        if np.isnan(g_per_kwh).all():
            return None
        value = np.where(np.isnan(g_per_kwh), np.inf, g_per_kwh)
        first = np.flatnonzero(np.append(True, value[1:] != value[:-1]))
        edges_s = (self.first + np.append(first, len(value)).astype(np.float64)) * self.slot_s - self.begin_s
        edges_s[0] = 0.0
        return Outlook(edges_s, value[first]).until(reach_s)

    def grams_per_intensity(self, slots: int) -> NDArray[np.float64]:
        """Grams of each node in each slot per g/kWh; the first slot counts from the earliest start."""
        demand = self.job.spec.demand
        lengths_s = np.full(slots, self.slot_s)
        lengths_s[0] -= self.passed_s
        per_s = [grams(node.attributed_power_w(demand) * MJ_PER_J, 1.0, node.pue) for node in self.nodes]
        return np.outer(per_s, lengths_s)

    def market_g(self, situation: Situation, cost_g: Floats) -> Floats:
        """What each slot costs this job beside its own grams: shape of `cost_g` (nodes, slots), inf where it is inf.

        The price of what it holds there, unless the market meant the slot for it: such slots come before all others.
        """
        market = situation.market
        if market is None:
            return np.zeros_like(cost_g)
        demand = self.job.spec.demand
        held = np.array([demand.cpus, demand.gpus, demand.memory_gb])
        step, price_g = market.by_slot(self.slot_s, self.first, cost_g.shape[1])
        shares_s = market.shares_s.get(self.job.id)
        suspend = self.job.spec.suspend
        free_to_pause = suspend.resume_cost_s == 0 and suspend.min_run_s <= self.slot_s
        extra = np.zeros_like(cost_g)
        worst_g = float(np.max(cost_g, where=np.isfinite(cost_g), initial=0.0))
        for row, node in enumerate(self.nodes):
            pool = situation.pools.get(node.name)
            if pool is None:
                continue
            price = (price_g[pool] @ held) * (self.slot_s * PRICE_WEIGHT)
            # nothing is worth more than what it saves against the worst slot: where all is full, price decides nothing
            extra[row] = np.minimum(price, np.maximum(worst_g - cost_g[row], 0.0))
            if shares_s is None:
                continue
            for wanted in np.flatnonzero(shares_s[pool] > 1e-6):
                here = np.flatnonzero((step == wanted) & np.isfinite(cost_g[row]))
                mine = here[: round(float(shares_s[pool, wanted]) / self.slot_s)]
                extra[row, mine] = -_OWN_G if free_to_pause else 0.0
        return extra

    def intensity(self, situation: Situation, slots: int) -> NDArray[np.float64]:
        """Mean forecast [g/kWh] for each node and slot; nan where it is unknown."""
        intensity = np.full((len(self.nodes), slots), np.nan)
        zones: dict[str, int] = {}
        for row, node in enumerate(self.nodes):
            if node.zone in zones:
                intensity[row] = intensity[zones[node.zone]]
                continue
            zones[node.zone] = row
            series = situation.signal(node.zone)
            if series is None or series.start_s > self.begin_s:
                continue
            first, means = situation.slot_means(series)
            known = means[self.first - first : self.first - first + slots]
            intensity[row, : len(known)] = known
            if self.passed_s > INSTANT_S and len(known):  # only the rest of the first slot counts
                intensity[row, 0] = series.mean(self.begin_s, (self.first + 1) * self.slot_s)
        return intensity


def segments_g(segments: Sequence[Segment], spec: JobSpec, situation: Situation) -> float | None:
    """Expected operational carbon [g] of what is ahead of planned segments; None where an intensity is unknown."""
    nodes = {node.name: node for node in situation.nodes}
    total_g = 0.0
    for segment in segments:
        node, series = nodes.get(segment.node), situation.signal(segment.zone)
        start_s = max(segment.start_s, situation.now_s)
        if start_s >= segment.end_s:
            continue
        if node is None or series is None or not series.covers(start_s, segment.end_s):
            return None
        energy_j = node.attributed_power_w(spec.demand) * (segment.end_s - start_s)
        total_g += grams(energy_j * MJ_PER_J, series.mean(start_s, segment.end_s), node.pue)
    return total_g
