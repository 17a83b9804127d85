"""One job as the planner sees it: how much is left, in slots, on which places, at what intensity and grams."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eco_ray.core.cluster import Resources
from eco_ray.core.decide import Stretch
from eco_ray.core.durations import Length
from eco_ray.core.fleet import Place
from eco_ray.core.jobs import Job, Segment
from eco_ray.core.lengths import needed, needed_after
from eco_ray.core.outlook import Outlook
from eco_ray.core.situation import Floats, Measure, Mix, Situation
from eco_ray.core.slots import Odds, Run
from eco_ray.core.transfers import TRANSFER_J_PER_GB
from eco_ray.core.units import MJ_PER_J, grams

#: part of the market's prices that a job pays: at the full price it would not care whether it gets a scarce slot
PRICE_WEIGHT = 0.9
#: a slot that the market meant for a job is worth more than any other [g]
_OWN_G = 1e12
#: shorter than any time that matters [s]
INSTANT_S = 1e-6
#: part of the mean grams of a slot that is added to tell equal ones apart
_TIE = 1e-5
#: part of a slot by which a time may be on its other side by rounding
_SLOT_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Task:
    """One job as the planner sees it: its work in slots, on rows of places."""

    job: Job
    places: Sequence[Place]
    #: how many workers it is planned with, where their number is fixed: the least, or those that it runs with
    workers: int
    #: what they hold
    demand: Resources
    #: the length that it is planned with, with its least workers
    length: Length
    #: useful run time that is left, with these workers [s]
    left_s: float
    #: earliest start [s since epoch], somewhere within slot `first`
    begin_s: float
    first: int
    slot_s: float
    #: row of the node that it runs on now
    current: int | None
    #: how long an attempt holds its node before its program runs [s]
    launch_s: float
    #: what its plan is to have least of
    measure: Measure | Mix = Measure.ADDED_G

    def at(self, workers: int) -> Task:
        """The same work with another number of workers."""
        spec = self.job.spec
        left_s = self.left_s * spec.workers.speed(self.workers) / spec.workers.speed(workers)
        return replace(self, workers=workers, demand=spec.demand * workers, left_s=left_s)

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
        """How long it takes without a suspension from now on, with the start and the resume that it begins with [s]."""
        start_s = self.launch_s if self.current is None else 0.0
        return self.left_s + start_s + (self.job.spec.suspend.resume_cost_s if self.pays_at_start else 0.0)

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
        """Run time that the runs lack for the work, its starts and resumes [s]; what they have too much is negative."""
        goes_on = self.current is not None and runs[0][:2] == (self.current, 0)
        starts = len(runs) - goes_on
        free_start = goes_on or not (self.job.has_checkpoint or self.current is not None)
        resumes = len(runs) - free_start
        given_s = sum(self.time_s(end) - self.time_s(start) for _, start, end in runs)
        return self.left_s + resumes * self.job.spec.suspend.resume_cost_s + starts * self.launch_s - given_s

    def keeps_min_run(self, segments: Sequence[Segment]) -> bool:
        """Whether each run before a suspension does useful work for long enough; the last does what is left."""
        suspend, now = self.job.spec.suspend, self.job.live_attempt
        for number, one in enumerate(segments[:-1] if suspend.min_run_s > 0 else ()):
            here = now is not None and (one.node, one.workers) == (now.node, now.workers)
            if number == 0 and here and one.start_s <= self.begin_s + INSTANT_S:
                continue  # when it began is known elsewhere
            resumes = number > 0 or self.job.has_checkpoint or self.current is not None
            start_s = self.launch_s + (suspend.resume_cost_s if resumes else 0.0)
            if one.end_s - one.start_s - start_s < suspend.min_run_s - INSTANT_S:
                return False
        return True

    def segments(self, runs: Sequence[Run]) -> tuple[Segment, ...]:
        """The runs in time; the last one ends when the work is done, not with its slot."""
        runs = list(runs)
        while len(runs) > 1 and self.missing_s(runs[:-1]) <= INSTANT_S:
            runs.pop()
        spare_s = max(0.0, -self.missing_s(runs))
        last = len(runs) - 1
        return tuple(
            Segment(
                self.places[row].node.name,
                self.places[row].node.zone,
                self.time_s(start),
                self.time_s(end) - (spare_s if i == last else 0.0),
                self.workers,
            )
            for i, (row, start, end) in enumerate(runs)
        )

    def stretched(self, place: Place, stretches: Sequence[Stretch]) -> tuple[Segment, ...]:
        """Stretches since the earliest start, as segments on a node; those that touch with as many workers are one."""
        segments: list[Segment] = []
        least = self.job.spec.workers.min
        for start_s, end_s, workers in stretches:
            begin_s, count = start_s + self.begin_s, max(workers, least)
            if segments and begin_s <= segments[-1].end_s and segments[-1].workers == count:
                begin_s = segments.pop().start_s
            segments.append(Segment(place.node.name, place.node.zone, begin_s, end_s + self.begin_s, count))
        return tuple(segments)

    def has_room(self, segments: Sequence[Segment], free: NDArray[np.bool_]) -> bool:
        """Whether all slots that segments on one place touch are free there: shape (slots,)."""
        for segment in segments:
            # with short slots, times since 1970 are coarser than the tolerance of the calendar
            first = math.floor(segment.start_s / self.slot_s + _SLOT_ROUNDING) - self.first
            end = math.ceil(segment.end_s / self.slot_s - _SLOT_ROUNDING) - self.first
            if end > len(free) or not free[first:end].all():
                return False
        return True

    def outlook(self, g_per_kwh: Floats, reach_s: float) -> Outlook | None:
        """One place's intensity in the slots from the earliest start on (nan: it may not run), up to `reach_s`.

        Equal neighbours become one step. None where the job may not run at all.
        """
        if np.isnan(g_per_kwh).all():
            return None
        value = np.where(np.isnan(g_per_kwh), np.inf, g_per_kwh)
        first = np.flatnonzero(np.append(True, value[1:] != value[:-1]))
        edges_s = (self.first + np.append(first, len(value)).astype(np.float64)) * self.slot_s - self.begin_s
        edges_s[0] = 0.0
        return Outlook(edges_s, value[first]).until(reach_s)

    def lengths_s(self, slots: int) -> Floats:
        """Length of each slot; the first counts from the earliest start."""
        lengths_s = np.full(slots, self.slot_s)
        lengths_s[0] -= self.passed_s
        return lengths_s

    def cost(self, situation: Situation, intensity: Floats) -> Floats:
        """What running costs in each slot by the task's measure [g or J]: shape of `intensity` (places, slots).

        Grams are nan where the intensity is.
        """
        slots = intensity.shape[1]
        lengths_s = self.lengths_s(slots)
        if self.measure is Measure.SHARE_J:
            watts = [place.node.attributed_power_w(self.demand) for place in self.places]
            return np.outer(np.array(watts), lengths_s)
        cost_g = intensity * (lengths_s * (MJ_PER_J * grams(1.0, 1.0, 1.0)))
        for row, place in enumerate(self.places):
            share_w = situation.fleet.attributed_w(place, self.demand)
            if self.measure is Measure.SHARE_G:
                cost_g[row] *= share_w
                continue
            added_w = situation.added_w(place, self.demand, self.first, slots)
            if not isinstance(self.measure, Mix):
                cost_g[row] *= added_w
                continue
            cost_g[row] *= self.measure.added * added_w + self.measure.share * share_w
            cost_g[row] += self.measure.g_per_j * place.node.attributed_power_w(self.demand) * lengths_s
        return self._untied(cost_g) if isinstance(self.measure, Mix) else cost_g

    def _untied(self, cost_g: Floats) -> Floats:
        """With so little more by row and slot that no two exchanges cost the same: else a mix finds only the ends."""
        rows, slots = cost_g.shape
        known = cost_g[np.isfinite(cost_g)]
        least = _TIE * float(np.abs(known).mean()) if known.size else 0.0
        return cost_g + least * np.outer(np.arange(rows) / rows, np.arange(1, slots + 1) / slots)

    def start_g(self, situation: Situation, intensity: Floats) -> Floats | None:
        """What a start adds beside the work [g], shape of `intensity`: waking the node, moving the checkpoint.

        None where nothing. The checkpoint is where the job ran last; what it will be later, nobody knows now. A node
        that others leave in the moment of the start has not fallen asleep.
        """
        weight = self.measure.added if isinstance(self.measure, Mix) else float(self.measure is Measure.ADDED_G)
        if not weight:
            return None  # others pay for it
        extra_g: Floats | None = None
        job, calendar, slots = self.job, situation.calendar, intensity.shape[1]
        kwh = (job.checkpoint_gb or job.spec.checkpoint_gb) * TRANSFER_J_PER_GB / 3.6e6
        last_zone = job.attempts[-1].zone if job.attempts and (job.has_checkpoint or self.current is not None) else None
        for row, place in enumerate(self.places):
            node = place.node
            wakes = node.sleeps and node.wake_j > 0
            moves = kwh > 0 and last_zone is not None and node.zone != last_zone
            if not (wakes or moves):
                continue
            if extra_g is None:
                extra_g = np.zeros_like(intensity)
            if moves:
                extra_g[row] += kwh * intensity[row]
            if wakes:
                before = int(self.passed_s <= INSTANT_S and self.first > calendar.first_slot)
                idle = calendar.idle(place, self.first - before, slots + before)
                asleep = idle[before:] & (idle[:-1] if before else np.append(True, idle[:-1]))
                extra_g[row] += np.where(asleep, node.wake_j / 3.6e6 * node.pue * intensity[row], 0.0)
        if extra_g is not None:
            extra_g *= weight
            extra_g[np.isnan(extra_g)] = np.inf  # as the work there: a sum with nan would compare as the least
        return extra_g

    def starts_g(self, segments: Sequence[Segment], start_g: Floats | None) -> float:
        """What the starts of segments on its places add [g], by `start_g`."""
        if start_g is None:
            return 0.0
        rows = {place.node.name: row for row, place in enumerate(self.places)}
        live = self.places[self.current].node.name if self.current is not None else None
        total_g = 0.0
        for i, segment in enumerate(segments):
            goes_on = i == 0 and segment.node == live and segment.start_s <= self.begin_s + INSTANT_S
            slot = math.floor(segment.start_s / self.slot_s + 1e-9) - self.first
            if not goes_on and slot < start_g.shape[1]:
                total_g += float(start_g[rows[segment.node], slot])
        return total_g

    @property
    def in_doubt(self) -> bool:
        """Whether it may end early or run on, as far as its measure counts that."""
        return self.length.doubt > 0 and self.job.progress is None and self.measure is Measure.ADDED_G

    def has_share(self, situation: Situation) -> bool:
        """Whether the market has shared the hours out, to it among others."""
        return situation.market is not None and self.job.id in situation.market.shares_s

    def odds(self, situation: Situation, slots: int, most_work: int) -> Odds | None:
        """How likely the work is needed, and what may come after it, for windows of so many slots.

        None where there is no doubt about it, where the market has shared the hours out, and for a budget, which has to
        last for all of the work.
        """
        doubt, told_s = self.length.doubt, self.length.seconds
        if not self.in_doubt or self.has_share(situation):
            return None
        after = needed_after(doubt, told_s, self.slot_s)
        cost_g = self.cost(situation, self.intensity(situation, slots + len(after)))
        least_g = np.where(np.isfinite(cost_g), cost_g, np.inf).min(axis=0)
        known = np.isfinite(least_g)
        if not known.any():
            return None
        run_on_g = np.correlate(np.where(known, least_g, least_g[known].mean()), after, "valid")
        return Odds(needed(doubt, told_s, self.slot_s, most_work), run_on_g)

    def market_g(self, situation: Situation, cost_g: Floats) -> Floats | None:
        """What each slot costs this job beside its own grams: shape of `cost_g` (places, slots); None: nothing.

        The price of what it holds there, unless the market meant the slot for it: such slots come before all others.
        """
        market = situation.market
        if market is None or self.measure is not Measure.ADDED_G:
            return None
        held = np.array(self.demand.amounts)
        step, price_g = market.by_slot(self.slot_s, self.first, cost_g.shape[1])
        shares_s = market.shares_s.get(self.job.id)
        suspend = self.job.spec.suspend
        free_to_pause = suspend.resume_cost_s == 0 and suspend.min_run_s <= self.slot_s
        extra = np.zeros_like(cost_g)
        worst_g = float(np.max(cost_g, where=np.isfinite(cost_g), initial=0.0))
        for row, place in enumerate(self.places):
            if place.pool >= len(price_g):
                continue  # it came after the prices
            price = (price_g[place.pool] @ held) * (self.slot_s * PRICE_WEIGHT)
            # nothing is worth more than what it saves against the worst slot: where all is full, price decides nothing
            extra[row] = np.minimum(price, np.maximum(worst_g - cost_g[row], 0.0))
            if shares_s is None:
                continue
            for wanted in np.flatnonzero(shares_s[place.pool] > 1e-6):
                here = np.flatnonzero((step == wanted) & np.isfinite(cost_g[row]))
                mine = here[: round(float(shares_s[place.pool, wanted]) / self.slot_s)]
                extra[row, mine] = -_OWN_G if free_to_pause else 0.0
        return extra

    def intensity(self, situation: Situation, slots: int) -> NDArray[np.float64]:
        """Mean forecast [g/kWh] for each place and slot; nan where it is unknown."""
        intensity = np.full((len(self.places), slots), np.nan)
        zones: dict[str, int] = {}
        for row, place in enumerate(self.places):
            zone = place.node.zone
            if zone in zones:
                intensity[row] = intensity[zones[zone]]
                continue
            zones[zone] = row
            series = situation.forecast.get(zone)
            if series is None or series.start_s > self.begin_s:
                continue
            first, means = situation.slot_means(series)
            known = means[self.first - first : self.first - first + slots]
            intensity[row, : len(known)] = known
            if self.passed_s > INSTANT_S and len(known):  # only the rest of the first slot counts
                intensity[row, 0] = series.mean(self.begin_s, (self.first + 1) * self.slot_s)
        return intensity
