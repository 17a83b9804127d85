"""Plans one job: when, where, with how many workers and which suspensions, for the fewest grams that its deadline,
its budgets and the nodes allow.

The same call serves the live controller, `job plan` and the simulator. A plan is made against the calendar of what
other jobs have been promised, so jobs are planned one after the other; `core/line.py` says in which order and when
again, and gives slots that others want a price.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eco_ray.core.budget import least_of, with_fewer_pauses, within_budget
from eco_ray.core.decide import NAMES, Question, decide, resumed, window
from eco_ray.core.durations import done_so_far_s
from eco_ray.core.feasible import hours, no_node_takes
from eco_ray.core.fleet import Fleet, Place
from eco_ray.core.greenest import Segments, gate, greenest, ideal_g
from eco_ray.core.jobs import Job, Plan, Reason
from eco_ray.core.late import earliest_end
from eco_ray.core.restricted import is_less, needs_comparison, restrictions
from eco_ray.core.situation import Floats, Measure, Mix, NoPlan, PlannerConfig, Situation
from eco_ray.core.slots import ROUNDING, Costs, earliest_run
from eco_ray.core.starts import starts_g
from eco_ray.core.task import INSTANT_S, Task
from eco_ray.core.thorough import thorough_segments

__all__ = ["NoPlan", "PlannerConfig", "Situation", "plan_job"]

#: nodes of each pool that are looked at one by one, where none of them has room for what was chosen in the pool: the
#: roomiest first, and more where these have no room in time
_ONE_BY_ONE = (3, 16, 64)
#: slots that are looked at beyond the forecast at most
_MOST_SLOTS = 1_000_000


def plan_job(job: Job, situation: Situation, config: PlannerConfig) -> Plan | NoPlan:
    """The lowest-carbon feasible plan of one job, which must not be in the calendar while it is planned."""
    spec, fleet = job.spec, situation.fleet
    least = spec.demand * spec.workers.min
    live = fleet.place_of(job.live_attempt.node) if job.live_attempt else None
    places = fleet.places(spec.zones, least)
    if live is not None and live not in places:
        # one of a pool, on which it could stay; the name of the node that stands for the pool tells them apart
        places = (live, *(_other_name(place, live, fleet) for place in places))
    if not places:
        return no_node_takes(spec, least, fleet.kinds)
    task = _task(job, situation, config, places)
    plan = _plan(task, situation, config)
    if plan is None:
        late = spec.deadline_s <= situation.now_s + config.horizon_s
        return NoPlan(
            Reason.DEADLINE_INFEASIBLE if late else Reason.WAITING_FOR_CAPACITY,
            f"needs {task.demand} for {hours(task.left_s)}; every allowed node is promised or in use as far as it is "
            f"planned ahead ({hours(config.horizon_s)}), so it starts when one becomes free"
            + (", and that is after its deadline by what is known" if late else ""),
        )

    def look_again(some: Sequence[Place], measure: Measure | Mix) -> Plan | None:
        """The plan with the least of something on some of the places, with pauses or in one piece."""
        plans = [
            _plan(_task(one, situation, config, some, measure), situation, config) for one in with_fewer_pauses(job)
        ]
        return least_of(plans, spec, situation, measure)

    return within_budget(job, plan, situation, places, look_again)


def _plan(task: Task, situation: Situation, config: PlannerConfig) -> Plan | None:
    """The choice of the job's policy on the task's places, or one with fewer freedoms where that adds less in all."""
    best = _choice(task, situation, config)
    if best is None or not needs_comparison(task, best, situation):
        return best
    for job, places in restrictions(task, best, situation):
        other = _choice(_task(job, situation, config, places), situation, config)
        if other is not None and is_less(other, best, task, situation):
            best = other
    return best


def _choice(task: Task, situation: Situation, config: PlannerConfig) -> Plan | None:
    """The choice of the job's policy on the task's places, in time if there is room, else the earliest end."""
    for look in (_search, _search_late):
        found = look(task, situation, config)
        segments = found.bound() if found else None
        if found and segments is None:  # no node of a pool is free all that time, though they are together
            found = _one_by_one(found, look, config)
            segments = found.segments if found else None
        if segments is not None:
            break
    if found is None or segments is None:
        return None
    carbon_g, added_g = situation.plan_g(segments, task.job.spec)
    regret = max(0.0, added_g / found.ideal_g - 1.0) if added_g is not None and 0 < found.ideal_g < math.inf else 0.0
    return Plan(
        segments,
        carbon_g,
        situation.run_now_g(task.job.spec, task.left_s),
        situation.now_s,
        could_start_s=found.could_start_s,
        added_g=None if added_g is None else added_g + starts_g(task.job, segments, situation),
        regret=regret,
        length_s=task.length.seconds,
        length_from=task.length.source,
        no_signal_in=() if task.job.spec.policy == "run-now" else situation.without_signal(task.places),
    )


def _other_name(place: Place, live: Place, fleet: Fleet) -> Place:
    return replace(place, node=fleet.pools[place.pool][1]) if place.node.name == live.node.name else place


def _task(
    job: Job,
    situation: Situation,
    config: PlannerConfig,
    places: Sequence[Place],
    measure: Measure | Mix = Measure.ADDED_G,
) -> Task:
    spec, live = job.spec, job.live_attempt
    begin_s = max(situation.now_s, spec.not_before_s, job.retry_at_s)
    current = next(
        (i for i, p in enumerate(places) if live and p.member is not None and p.node.name == live.node), None
    )
    done_s = done_so_far_s(job, situation.now_s)
    length = situation.durations.expected(spec, done_s, job.progress)
    task = Task(
        job,
        places,
        spec.workers.min,
        spec.demand * spec.workers.min,
        length,
        max(length.seconds - done_s, 1.0),
        begin_s,
        situation.calendar.slot_of(begin_s),
        config.slot_s,
        current,
        situation.launch_s,
        measure,
    )
    return task.at(live.workers) if live is not None and live.workers != task.workers else task


@dataclass(frozen=True, slots=True)
class _Found:
    """A choice on places, some of which may be pools."""

    task: Task
    situation: Situation
    segments: Segments
    #: slots that were looked at
    slots: int
    could_start_s: float | None
    #: what it would add at least if every node were free [g]; 0: it has that
    ideal_g: float

    def bound(self) -> Segments | None:
        """The segments on nodes: in a pool on the first one that has room. None where none has."""
        pools = {place.node.name: place.pool for place in self.task.places if place.member is None}
        if not pools:
            return self.segments
        calendar, demand = self.situation.calendar, self.task.job.spec.demand
        on_nodes = []
        live = self.task.places[self.task.current] if self.task.current is not None else None
        for segment in self.segments:
            name, pool = segment.node, pools.get(segment.node)
            near = live.member if live is not None and live.pool == pool else None
            if pool is not None:
                node = calendar.find(pool, segment.start_s, segment.end_s, demand * segment.workers, near)
                if node is None:
                    return None
                name = node.name
            on_nodes.append(replace(segment, node=name))
        return tuple(on_nodes)


#: a search on the places of a task
_Look = Callable[[Task, Situation, PlannerConfig], _Found | None]


def _one_by_one(found: _Found, look: _Look, config: PlannerConfig) -> _Found | None:
    """The best on single nodes of the pools: in chunks, up to the first in which there is room in time."""
    task, situation = found.task, found.situation
    late: _Found | None = None
    seen = 0
    for most in _ONE_BY_ONE:
        nodes: list[Place] = []
        more = False
        for place in task.places:
            if place.member is not None:
                nodes.append(place)
                continue
            some = situation.calendar.roomiest(place.pool, task.demand, task.first, found.slots, most)[seen:]
            nodes += some
            more |= bool(some)
        if not more:
            break
        seen = most
        if not _could_fit(task, situation, nodes, found.slots):
            continue
        again = look(_task(task.job, situation, config, nodes, task.measure), situation, config)
        if again is not None and again.segments[-1].end_s <= task.job.spec.deadline_s + INSTANT_S:
            return again
        if again is not None and (late is None or again.segments[-1].end_s < late.segments[-1].end_s - INSTANT_S):
            late = again
    return late


def _could_fit(task: Task, situation: Situation, nodes: Sequence[Place], slots: int) -> bool:
    """Whether there may be room on these nodes: told at once, as jobs that wait ask often."""
    spec = task.job.spec
    if spec.workers.max > spec.workers.min:
        return True
    free = situation.calendar.fits(nodes, task.demand, task.first, slots)
    pauses = spec.suspend.allow and task.job.pausable
    return (pauses and int(free.any(axis=0).sum()) >= task.slots(task.left_s)) or (
        earliest_run(np.where(free, 0.0, np.inf), task.work_at_once) is not None
    )


def _search(task: Task, situation: Situation, config: PlannerConfig) -> _Found | None:
    """The choice of the job's policy, on these places; None where there is no room in time, nor at once."""
    spec = task.job.spec
    latest_s = min(spec.deadline_s, max(task.begin_s + config.horizon_s, situation.known_s))
    slots = min(math.ceil(latest_s / task.slot_s - 1e-6) - task.first, _MOST_SLOTS)
    shown = max(slots, task.work_at_once)
    free = situation.calendar.fits(task.places, task.demand, task.first, shown)
    intensity = task.intensity(situation, shown)
    segments, least_g = _published(task, situation, config, intensity, free), 0.0
    if segments is None and spec.policy == "eco" and slots > 0:
        cost_g = task.cost(situation, intensity[:, :slots])
        cost_g[np.isnan(cost_g)] = np.inf
        least_g = 0.0 if free[:, :slots].all() else ideal_g(task, situation, cost_g)
        segments = _eco(task, situation, np.where(free[:, :slots], cost_g, np.inf), intensity[:, :slots], latest_s)
    if segments is None:
        # urgent, run-now, no signal, or no room for what a published policy wants: the earliest start
        segments = _earliest(task, free, intensity, situation)
    return _Found(task, situation, segments, shown, _could_start_s(task, free), least_g) if segments else None


def _search_late(task: Task, situation: Situation, config: PlannerConfig) -> _Found | None:
    """The earliest end up to the horizon, whatever the grid says; None where nothing is free so long.

    So a job that is late has a place that others plan around. One that only ever got what is free at once would wait
    as long as others keep coming that are planned before it.
    """
    slots = min(math.ceil((task.begin_s + config.horizon_s) / task.slot_s - 1e-6) - task.first, _MOST_SLOTS)
    shown = max(slots, task.work_at_once)
    free = situation.calendar.fits(task.places, task.demand, task.first, shown)
    intensity = task.intensity(situation, shown)
    segments = _earliest(task, free, intensity, situation)
    if task.job.spec.policy == "eco":
        cost_g = task.cost(situation, intensity)
        cost_g[~free | np.isnan(cost_g)] = np.inf
        segments = earliest_end(task, situation, cost_g, intensity, segments)
    if segments is None and task.current is not None:
        segments = task.segments([(task.current, 0, task.work_at_once)])  # it has no other place
    return _Found(task, situation, segments, shown, _could_start_s(task, free), 0.0) if segments else None


def _could_start_s(task: Task, free: NDArray[np.bool_]) -> float | None:
    """When it could start at the earliest: in one piece, or, if it may pause, in what is free from then on."""
    if task.job.pausable and task.job.spec.suspend.allow:
        some = free.any(axis=0)
        if some.sum() >= task.work_at_once:
            return task.time_s(int(some.argmax()))
    if free[:, : task.work_at_once].all(axis=1).any():
        return task.time_s(0)
    place = earliest_run(np.where(free, 0.0, np.inf), task.work_at_once)
    return task.time_s(place[0][1]) if place else None


def _eco(task: Task, situation: Situation, cost_g: Costs, intensity: Floats, latest_s: float) -> Segments | None:
    """The greenest segments that end in time, or None."""
    segments = greenest(task, situation, cost_g, intensity)
    if segments and segments[-1].end_s > latest_s + INSTANT_S:  # the last slot is not whole
        segments = greenest(task, situation, cost_g[:, :-1], intensity[:, :-1]) if cost_g.shape[1] > 1 else None
        # what is left of that slot may be all that it lacks
        if segments is None:
            anywhere = np.ones(intensity.shape, dtype=np.bool_)
            start_g = task.start_g(situation, intensity)
            segments = thorough_segments(task, situation, intensity, anywhere, start_g)
    return segments


def _published(
    task: Task, situation: Situation, config: PlannerConfig, intensity: Floats, free: NDArray[np.bool_]
) -> Segments | None:
    """The choice of a published policy on the place where it emits least; None where it has none or has begun."""
    spec = task.job.spec
    if spec.policy not in NAMES or spec.policy == "run-now" or task.current is not None:
        return None
    best: tuple[float, Segments] | None = None
    at_home = [place.node.zone == situation.home_zone for place in task.places]
    for row in range(len(task.places)):
        if spec.policy == "threshold" and any(at_home) and not at_home[row]:
            continue  # it compares one zone with its own past
        segments = _published_on(task, situation, config, row, intensity[row], free[row])
        known_g = situation.plan_g(segments, spec)[1] if segments else None
        if known_g is not None and segments and (best is None or known_g < best[0] * (1 - ROUNDING)):
            best = known_g, segments
    if best is None:
        return None
    if spec.min_saving_pct > 0:
        start_g = task.start_g(situation, intensity)
        return gate(task, situation, _earliest(task, free, intensity, situation), best[1], start_g)
    return best[1]


def _published_on(
    task: Task, situation: Situation, config: PlannerConfig, row: int, g_per_kwh: Floats, free: NDArray[np.bool_]
) -> Segments | None:
    """The choice of a published policy on one place; an elastic one asks for as many workers as fit."""
    spec, place = task.job.spec, task.places[row]
    signal, past = situation.forecast.get(place.node.zone), situation.past.get(place.node.zone)
    length_s = task.run_s
    reach_s = max(spec.deadline_s - task.begin_s, length_s)
    question = Question(
        length_s=length_s,
        max_wait_s=reach_s - length_s,
        clock_s=task.begin_s + config.utc_offset_s,
        interruptible=spec.suspend.allow and task.job.pausable,
        max_workers=spec.workers.max,
        throughput=(0.0, *spec.workers.speeds),
        least_workers=spec.workers.min,
        past_g_per_kwh=past.values_g_per_kwh if past is not None else np.empty(0),
        tolerance=ROUNDING,
    )
    scales = spec.policy == "carbon-scaler"
    for most in range(spec.workers.max if scales else spec.workers.min, spec.workers.min - 1, -1):
        if scales:
            free = situation.calendar.fits([place], spec.demand * most, task.first, len(g_per_kwh))[0]
            question = replace(
                question, max_workers=most, throughput=question.throughput[: most - spec.workers.min + 2]
            )
        outlook = task.outlook(np.where(free, g_per_kwh, np.nan), reach_s)
        if signal is None or outlook is None:
            continue
        chosen = replace(window(spec.policy, question), lead_s=0.0)  # nothing starts before it is known
        stretches = decide(spec.policy, outlook, question, chosen)
        stretches = resumed(stretches, spec.suspend.resume_cost_s, reach_s, spec.workers)
        segments = task.stretched(place, stretches)
        if segments and task.has_room(segments, free):
            return segments
    return None


def _earliest(task: Task, free: NDArray[np.bool_], intensity: Floats, situation: Situation) -> Segments | None:
    """The earliest end, of an elastic job of the policy eco with any number of workers that fits."""
    workers = task.job.spec.workers
    found = _earliest_of(task, free, intensity, situation)
    if task.current is not None or workers.max == workers.min or task.job.spec.policy != "eco":
        return found
    for count in range(workers.min + 1, workers.max + 1):
        more = task.at(count)
        fits = situation.calendar.fits(task.places, more.demand, task.first, free.shape[1])
        sooner = _earliest_of(more, fits, intensity, situation)
        if sooner and (found is None or sooner[-1].end_s < found[-1].end_s - INSTANT_S):
            found = sooner
    return found


def _earliest_of(task: Task, free: NDArray[np.bool_], intensity: Floats, situation: Situation) -> Segments | None:
    """The earliest start; of several places the home zone for run-now, else the cleanest, an unknown one last."""
    work = task.work_at_once
    if task.current is not None:
        goes_on = task.segments([(task.current, 0, work)])
        return None if _leaves(task, goes_on, free[task.current, :work], situation) else goes_on
    away = np.array([[0.0 if place.node.zone == situation.home_zone else 1.0] for place in task.places])
    if task.job.spec.policy == "run-now":
        weights = np.broadcast_to(away, free.shape)
    else:
        cost_g = task.cost(situation, intensity)
        weights = np.where(np.isfinite(cost_g), cost_g, 1e9 * (1 + away))
    runs = earliest_run(np.where(free, weights, np.inf), work)
    return task.segments(runs) if runs else None


def _leaves(task: Task, goes_on: Segments, free: NDArray[np.bool_], situation: Situation) -> bool:
    """Whether a job that runs, and may pause, does not run on, as others were promised its place.

    Late anyway, it leaves to anybody; else to those of a higher priority that would be late for it, unless it lasts
    longer than expected: nobody knows then for how long it would have to wait.
    """
    job = task.job
    if free.all() or not (job.pausable and job.spec.suspend.allow):
        return False
    if goes_on[-1].end_s > job.spec.deadline_s + INSTANT_S:
        return True
    if task.left_s <= 1.0 or situation.firm is None or job.live_attempt is None:
        return False
    firm = situation.firm(goes_on[-1].end_s)
    place = firm.fleet.place_of(job.live_attempt.node)
    return place is not None and not firm.open_slots(place, task.demand, task.first, len(free)).all()
