"""Plans thousands of waiting jobs in one go, one after the other, in some ten microseconds each.

`planner.plan_job` looks at one job as closely as it can. Here jobs that ask for the same share what there is for them
(`core/offer.py`): grams by place and slot, kept up to date as places are taken. So a job only has to choose. What a job
may do is the same. A pause that costs only a small part of a slot is chosen as if it cost nothing but its time; whoever
needs a closer look gets it from `plan_job`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from eco_ray.core.durations import done_so_far_s
from eco_ray.core.fleet import Place
from eco_ray.core.jobs import Job, JobSpec, Plan, Reason, Segment, Workers
from eco_ray.core.offer import Offer
from eco_ray.core.picks import Pick, Starts, Window
from eco_ray.core.planner import plan_job
from eco_ray.core.records import changed
from eco_ray.core.situation import Floats, NoPlan, PlannerConfig, Situation
from eco_ray.core.starts import starts_g
from eco_ray.core.task import PRICE_WEIGHT

#: part of a slot up to which the cost of a pause is left out of the choice: each stretch lasts a slot at least, so that
#: this costs at most that part of the grams
SMALL_PAUSE = 0.02
#: slots that are looked at
_MOST_SLOTS = 1024
#: jobs that get a closer look at most: it takes a hundred times as long
_CLOSER_LOOKS = 50
#: times that a job looks for a node that has room
_TRIES = 8


def is_plain(job: Job, situation: Situation, config: PlannerConfig) -> bool:
    """Whether nothing in what it asks for needs a closer look."""
    spec, suspend = job.spec, job.spec.suspend
    pauses = suspend.allow and job.pausable
    resume_s = suspend.resume_cost_s + situation.launch_s
    return (
        job.live_attempt is None
        and spec.max_intensity is None
        and spec.min_saving_pct == 0
        and spec.budget_g is None
        and spec.budget_j is None
        and not (job.has_checkpoint and (job.checkpoint_gb or spec.checkpoint_gb))
        and (not pauses or (resume_s <= SMALL_PAUSE * config.slot_s and resume_s + suspend.min_run_s <= config.slot_s))
    )


class Grid:
    """What all jobs have in common: places, slots, intensities and prices."""

    def __init__(self, jobs: Sequence[Job], situation: Situation, config: PlannerConfig) -> None:
        """The jobs are those that it has to plan: it looks ahead to the last of their deadlines."""
        self._config, self._closer_looks = config, _CLOSER_LOOKS
        self._situation, self._slot_s = situation, config.slot_s
        self._first = situation.calendar.slot_of(situation.now_s)
        self._origin_s = self._first * self._slot_s
        horizon_s = max(situation.now_s + config.horizon_s, situation.known_s)
        last_s = min(max(job.spec.deadline_s for job in jobs), horizon_s)
        self._count = max(1, min(math.ceil((last_s - self._origin_s) / self._slot_s - 1e-6), _MOST_SLOTS))
        self._places = [Place(i, 0 if len(n) == 1 else None, n[0]) for i, n in enumerate(situation.fleet.pools)]
        self._intensity = self._intensities()
        steps = np.where(np.isfinite(self._intensity), self._intensity, 0.0) * self._slot_s
        #: by place: g/kWh x s from the first slot's beginning up to each slot
        self._summed: list[list[float]] = [np.append(0.0, np.cumsum(row)).tolist() for row in steps]
        market, self._price_g = situation.market, None
        if market is not None and len(market.price_g) == len(self._places):
            self._price_g = market.by_slot(self._slot_s, self._first, self._count)[1] * PRICE_WEIGHT
        self._offers: dict[tuple[object, ...], Offer] = {}
        #: by job
        self._own: dict[str, Offer] = {}
        self._wakes = any(place.node.sleeps and place.node.wake_j > 0 for place in self._places)
        home = situation.fleet.first_in(situation.home_zone)
        self._home_row = situation.fleet.seat[home.name][0] if home else None

    def _intensities(self) -> Floats:
        """Mean forecast of each place in each slot [g/kWh], inf where it is unknown."""
        situation = self._situation
        intensity = np.full((len(self._places), self._count), np.inf)
        for row, place in enumerate(self._places):
            series = situation.forecast.get(place.node.zone)
            if series is not None and series.start_s <= situation.now_s:
                start, means = situation.slot_means(series)
                known = means[self._first - start : self._first - start + self._count]
                intensity[row, : len(known)] = known
        return intensity

    def plan(self, job: Job) -> Plan | NoPlan:
        """Plan a job of the policy eco, which must not be in the calendar; it has its places there afterwards.

        A plan that it had is not looked at.
        """
        situation = self._situation
        found = self._plan(job) if is_plain(job, situation, self._config) else None
        if found is not None:
            return found
        if self._closer_looks == 0:
            return NoPlan(Reason.WAITING_FOR_CAPACITY, f"found no room for {job.spec.demand} in time; looks again soon")
        self._closer_looks -= 1
        alone = plan_job(changed(job, plan=None), situation, self._config)
        for segment in alone.segments if isinstance(alone, Plan) else ():
            situation.calendar.reserve(segment, job.spec.demand)
        return alone

    def added_g(self, job: Job, plan: Plan) -> float | None:
        """What a plan adds, by what is known now [g]; None where a node or the intensity is gone."""
        seats, total_g = self._situation.fleet.seat, 0.0
        watts = self._own_offer(job).watts
        for segment in plan.segments:
            seat = seats.get(segment.node)
            start_s, end_s = segment.start_s - self._origin_s, segment.end_s - self._origin_s
            last = math.ceil(end_s / self._slot_s - 1e-9) - 1
            if seat is None or last >= self._count or self._intensity[seat[0], last] == np.inf:
                return None
            added_w = watts.get((seat[0], segment.workers))
            if added_w is None:
                return self._situation.plan_g(plan.segments, job.spec)[1]
            total_g += self._exposure(seat[0], max(start_s, 0.0), end_s) * added_w[1]
        return total_g + (starts_g(job, plan.segments, self._situation) if self._pays_starts(job) else 0.0)

    def _plan(self, job: Job) -> Plan | None:
        """The greenest plan of a job, whose places it then has; None where it needs a closer look."""
        situation, spec = self._situation, job.spec
        done_s = done_so_far_s(job, situation.now_s)
        length = situation.durations.expected(spec, done_s, job.progress)
        left_s = max(length.seconds - done_s, 1.0)
        begin_s = max(situation.now_s, spec.not_before_s, job.retry_at_s) - self._origin_s
        end_s = min(spec.deadline_s - self._origin_s, self._count * self._slot_s)
        if end_s <= begin_s:
            return None
        window, own = Window.of(begin_s, end_s, self._slot_s), self._own_offer(job)
        for _ in range(_TRIES):
            offer, picks = self._best(job, own, window, left_s)
            first_g = self._starts_g(job, picks or ())  # as long as the job is not in the calendar
            segments = self._take(spec, offer, picks) if picks else None
            if segments is not None or not picks:
                break
        if segments is None:
            return None
        carbon_g, added_g = 0.0, first_g
        for pick, segment in zip(picks or (), segments, strict=True):
            exposure = self._exposure(pick.row, pick.start_s, pick.end_s)
            watts, added_w = offer.watts[pick.row, segment.workers]
            carbon_g, added_g = carbon_g + exposure * watts, added_g + exposure * added_w
        ideal_g = own.least_g(window, left_s, in_one_piece=not (job.pausable and spec.suspend.allow))
        return Plan(
            segments,
            carbon_g,
            self._run_now_g(offer, left_s),
            situation.now_s,
            could_start_s=self._origin_s + max(offer.open_s, begin_s) if math.isfinite(offer.open_s) else None,
            added_g=added_g,
            regret=max(0.0, added_g / ideal_g - 1.0) if 0 < ideal_g < math.inf else 0.0,
            length_s=length.seconds,
            length_from=length.source,
        )

    def _best(self, job: Job, offer: Offer, window: Window, left_s: float) -> tuple[Offer, list[Pick] | None]:
        """Its runs, and the offer that they are from: what there is for it, or a part of that.

        Where starts add grams, they are compared as a whole with one run, each zone, and the least workers; where what
        more workers add depends on the place, with the least workers: as in `core/restricted.py`.
        """
        offer.refresh()
        picks = self._choose(job, offer, window, left_s)
        starts = bool(picks) and len(picks or ()) > 1 and self._starts_g(job, picks or ()) > 0
        if not picks or not (starts or offer.bends):
            return offer, picks
        spec, found = job.spec, [(offer, picks)]
        least = replace(spec, workers=Workers(spec.workers.min, spec.workers.min, spec.workers.speeds[:1]))
        zones = spec.zones or self._situation.fleet.zones
        for other in (spec, least, *(replace(spec, zones=(zone,)) for zone in zones)) if starts else (least,):
            narrow = self._offer(other)
            narrow.refresh()
            same = replace(job, spec=other)
            whole = replace(same, spec=replace(other, suspend=replace(spec.suspend, allow=False)))
            for free in (same, whole) if starts else (same,):
                if some := self._choose(free, narrow, window, left_s):
                    found.append((narrow, some))
        return min(found, key=lambda one: one[0].grams(one[1]) + self._starts_g(job, one[1]))

    def _pays_starts(self, job: Job) -> bool:
        """Whether a start may add something beside the work."""
        return self._wakes or (job.checkpoint_gb or job.spec.checkpoint_gb) > 0

    def _starts_g(self, job: Job, picks: Sequence[Pick]) -> float:
        """What the starts of these runs add [g]; in a pool by the node that stands for it."""
        if not self._pays_starts(job):
            return 0.0
        nodes = [self._places[pick.row].node for pick in picks]
        segments = [
            Segment(node.name, node.zone, self._origin_s + pick.start_s, self._origin_s + pick.end_s, pick.workers)
            for node, pick in zip(nodes, picks, strict=True)
        ]
        return starts_g(job, segments, self._situation)

    def _choose(self, job: Job, offer: Offer, window: Window, left_s: float) -> list[Pick] | None:
        """Its runs, with the time for starts and resumes."""
        spec, launch_s = job.spec, self._situation.launch_s
        again_s = spec.suspend.resume_cost_s + launch_s
        starts = Starts(again_s if job.has_checkpoint else launch_s, again_s, spec.suspend.min_run_s)
        slots = None
        if job.pausable and spec.suspend.allow:
            # a part of a slot that is too short for a run is left out
            short = (
                window.first_room_s < min(again_s + starts.min_run_s, self._slot_s) and window.stop > window.first + 1
            )
            some = window.from_next_slot() if short else window
            slots = offer.cheapest_slots(some, left_s, starts)
        if slots is not None:
            picks = offer.picks(some, slots, starts)
            if len(picks) > 1 and spec.workers.max == spec.workers.min:
                # nobody pauses for less than it costs
                most_g = offer.grams(picks) * (1 + 1e-9)
                if offer.least_run_g(window, left_s + starts.first_s) <= most_g:
                    whole = offer.cheapest_run(window, left_s, starts.first_s)
                    if whole and whole[1] <= most_g:
                        return whole[0]
            return offer.spread(window, picks) if slots.tied else picks
        whole = offer.cheapest_run(window, left_s, starts.first_s)
        return whole and whole[0]

    def _own_offer(self, job: Job) -> Offer:
        """What there is for a job: its id is found faster than all that it asks for, and is looked up several times."""
        found = self._own.get(job.id)
        if found is None:
            found = self._own[job.id] = self._offer(job.spec)
        return found

    def _offer(self, spec: JobSpec) -> Offer:
        """What there is for jobs that ask for the same as this one."""
        key = spec.zones, spec.demand, spec.workers
        found = self._offers.get(key)
        if found is None:
            span = self._first, self._count
            found = Offer(spec, self._situation, self._places, span, self._intensity, self._price_g)
            self._offers[key] = found
        return found

    def _take(self, spec: JobSpec, offer: Offer, picks: Sequence[Pick]) -> tuple[Segment, ...] | None:
        """The picks on nodes, whose room they then have; None where no single node has it."""
        calendar, origin_s = self._situation.calendar, self._origin_s
        segments: list[Segment] = []
        for pick in picks:
            start_s, end_s = origin_s + pick.start_s, origin_s + pick.end_s
            pool = self._places[pick.row].pool
            node = calendar.take(pool, start_s, end_s, offer.needs(pool, pick.workers))
            if node is None:
                for segment in segments:
                    calendar.release(segment, spec.demand)
                offer.refresh()
                offer.close(pick)
                return None
            segments.append(Segment(node.name, node.zone, start_s, end_s, pick.workers))
        return tuple(segments)

    def _exposure(self, row: int, start_s: float, end_s: float) -> float:
        """kWh-grams per watt of running there all that time, which counts from the first slot."""
        summed, slot_s, last = self._summed[row], self._slot_s, self._count - 1
        start, end = start_s / slot_s, end_s / slot_s
        first, final = min(int(start), last), min(int(end), last)
        before = summed[first] + (summed[first + 1] - summed[first]) * (start - first)
        return (summed[final] + (summed[final + 1] - summed[final]) * (end - final) - before) / 3.6e6

    def _run_now_g(self, offer: Offer, left_s: float) -> float | None:
        """Grams of running at once in the home zone; None where its intensity is unknown."""
        situation, row, workers = self._situation, self._home_row, offer.spec.workers.min
        if row is None:
            return None
        now_s = situation.now_s - self._origin_s
        last = min(int((now_s + left_s) / self._slot_s), self._count - 1)
        if self._intensity[row, last] == np.inf:
            return None
        known = offer.watts.get((row, workers))
        watts = known[0] if known else situation.fleet.attributed_w(self._places[row], offer.demand(workers))
        return self._exposure(row, now_s, now_s + left_s) * watts
