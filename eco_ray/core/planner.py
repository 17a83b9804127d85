"""Plans one job: when, where, and with which suspensions, for the fewest grams that its deadline and the nodes allow.

The same call serves the live controller, `job plan` and (later) the simulator. A plan is made against the calendar of
what other jobs have been promised, so jobs are planned one after the other, the most urgent first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from eco_ray.core.cluster import Node
from eco_ray.core.decide import NAMES, Question, decide, resumed, window
from eco_ray.core.jobs import Job, JobSpec, Plan, Reason, Segment
from eco_ray.core.slots import (
    ROUNDING,
    Costs,
    Interruptible,
    Run,
    SuspendCosts,
    cheapest_run,
    cheapest_slots,
    earliest_run,
)
from eco_ray.core.task import INSTANT_S, NoPlan, PlannerConfig, Situation, Task, segments_g
from eco_ray.errors import InfeasibleError, NotFoundError

__all__ = ["NoPlan", "PlannerConfig", "Situation", "check_feasible", "plan_job", "segments_g"]

#: nodes of one zone that the planner looks at; the others are like them
_NODES_PER_ZONE = 3
#: slots beyond its work that a job's resumes may take together; with more it runs in one piece
_MORE_SLOTS = 8


def check_feasible(spec: JobSpec, now_s: float, nodes: Sequence[Node], config: PlannerConfig) -> None:
    """Raise InfeasibleError or NotFoundError for a job that could not run even on an empty cluster."""
    known = sorted({node.zone for node in nodes})
    for zone in spec.zones:
        if zone not in known:
            raise NotFoundError(
                f"zone {zone!r} of job {spec.name!r} is not in this cluster: its zones are {', '.join(known)}; "
                "correct carbon.zones or add a node there"
            )
    allowed = _allowed(spec, nodes)
    if not any(spec.demand.fits_in(node.capacity) for node in allowed):
        largest = max((node.capacity for node in allowed), key=lambda c: (c.cpus, c.memory_gb), default="nothing")
        raise InfeasibleError(
            f"job {spec.name!r} asks for {spec.demand}; the largest allowed node has {largest}; "
            "ask for less or allow more zones"
        )
    begin_s = max(now_s, spec.not_before_s)
    needed_s = spec.expected_duration_s or 0.0
    if spec.deadline_s < begin_s + needed_s or spec.deadline_s <= begin_s:
        short_s = begin_s + needed_s - spec.deadline_s
        needs = f"it needs {_hours(needed_s)}" if spec.expected_duration_s else "its duration is unknown"
        raise InfeasibleError(
            f"job {spec.name!r} cannot finish by its deadline: {needs} and the deadline leaves "
            f"{_hours(spec.deadline_s - begin_s)}; move the deadline by at least {_hours(max(short_s, 1.0), up=True)}"
            + (" or shorten the job" if spec.expected_duration_s else "")
        )


def plan_job(job: Job, situation: Situation, config: PlannerConfig) -> Plan | NoPlan:
    """The lowest-carbon feasible plan of one job, which must not be in the calendar while it is planned."""
    spec, live = job.spec, job.live_attempt
    nodes = _candidates(spec, situation, live.node if live else None)
    if not nodes:
        return NoPlan(
            Reason.WAITING_FOR_CAPACITY,
            f"no node in {', '.join(spec.zones) or 'any zone'} is there with {spec.demand}; it starts when one joins",
        )
    task = Task.of(job, situation, nodes, config)
    latest_s = min(spec.deadline_s, task.begin_s + config.horizon_s)
    slots = math.ceil(latest_s / task.slot_s - 1e-6) - task.first
    shown = max(slots, task.work_at_once)
    free = situation.fits(nodes, spec, task.first, shown)
    intensity = task.intensity(situation, shown)
    segments = _published(task, situation, config, intensity, free)
    if segments is None:
        runs = _runs(task, situation, slots, intensity, free)
        if runs and task.segments(runs)[-1].end_s > latest_s + INSTANT_S:  # the last slot is not whole
            runs = _runs(task, situation, slots - 1, intensity, free)
        if runs is None:
            return NoPlan(
                Reason.WAITING_FOR_CAPACITY,
                f"needs {spec.demand} for {_hours(task.left_s)}; every allowed node is promised or in use until its "
                "deadline, so it starts when one becomes free",
            )
        segments = task.segments(runs)
    place = earliest_run(np.where(free, 0.0, np.inf), task.work_at_once)
    return Plan(
        segments,
        segments_g(segments, spec, situation),
        _run_now_g(spec, situation, task.left_s),
        situation.now_s,
        could_start_s=task.time_s(place[0][1]) if place else None,
    )


def _runs(
    task: Task, situation: Situation, slots: int, intensity: NDArray[np.float64], free: NDArray[np.bool_]
) -> list[Run] | None:
    """The planner's own choice, in whole slots: the greenest that ends in time, else the earliest."""
    cost_g = intensity * task.grams_per_intensity(intensity.shape[1])
    runs = None
    if slots > 0 and task.job.spec.policy == "eco":
        runs = _greenest(task, situation, cost_g[:, :slots], intensity[:, :slots], free[:, :slots])
    # urgent, run-now, no signal, or no room for what a published policy wants: the earliest start
    return runs or _earliest(task, free, cost_g, situation.home_zone)


def _published(
    task: Task,
    situation: Situation,
    config: PlannerConfig,
    intensity: NDArray[np.float64],
    free: NDArray[np.bool_],
) -> tuple[Segment, ...] | None:
    """The choice of a published policy on the node where it emits least; None where it has none or has begun."""
    spec = task.job.spec
    if spec.policy not in NAMES or spec.policy == "run-now" or task.current is not None:
        return None
    length_s = task.run_s
    reach_s = max(spec.deadline_s - task.begin_s, length_s)
    best: tuple[float, tuple[Segment, ...]] | None = None
    at_home = [node.zone == situation.home_zone for node in task.nodes]
    for row, node in enumerate(task.nodes):
        if spec.policy == "threshold" and any(at_home) and not at_home[row]:
            continue  # it compares one zone with its own past
        signal, past = situation.signal(node.zone), situation.past.get(node.zone)
        outlook = task.outlook(np.where(free[row], intensity[row], np.nan), reach_s)
        if signal is None or outlook is None:
            continue
        question = Question(
            length_s=length_s,
            max_wait_s=reach_s - length_s,
            clock_s=task.begin_s + config.utc_offset_s,
            interruptible=spec.suspend.allow and task.job.pausable,
            past_g_per_kwh=past.values_g_per_kwh if past is not None else np.empty(0),
            tolerance=ROUNDING,
        )
        place = replace(window(spec.policy, question), lead_s=0.0)  # nothing starts before it is known
        stretches = decide(spec.policy, outlook, question, place)
        segments = task.stretched(node, resumed(stretches, spec.suspend.resume_cost_s, reach_s))
        if not segments:
            continue
        known_g = segments_g(segments, spec, situation)
        if known_g is not None and (best is None or known_g < best[0] * (1 - ROUNDING)):
            best = known_g, segments
    if best is None:
        return None
    if spec.min_saving_pct > 0:
        now = _earliest(task, free, intensity, situation.home_zone)
        now_g = segments_g(task.segments(now), spec, situation) if now else None
        if now and now_g is not None and (now_g - best[0]) * 100 < spec.min_saving_pct * now_g:
            return task.segments(now)
    return best[1]


def _allowed(spec: JobSpec, nodes: Sequence[Node]) -> list[Node]:
    return [node for node in nodes if not spec.zones or node.zone in spec.zones]


def _candidates(spec: JobSpec, situation: Situation, live_on: str | None) -> list[Node]:
    """Nodes to look at: allowed and large enough; a few per zone, the current one first."""
    by_zone: dict[str, list[Node]] = {}
    for node in _allowed(spec, situation.nodes):
        if spec.demand.fits_in(node.capacity):
            by_zone.setdefault(node.zone, []).append(node)
    first = situation.calendar.slot_of(situation.now_s)
    count = max(1, int((spec.deadline_s - situation.now_s) // situation.calendar.slot_s))
    chosen: list[Node] = []
    for members in by_zone.values():
        if len(members) > _NODES_PER_ZONE:
            room = situation.fits(members, spec, first, min(count, 384)).sum(axis=1)
            order = sorted(
                range(len(members)),
                key=lambda i: (members[i].name != live_on, -room[i], members[i].attributed_power_w(spec.demand)),
            )
            chosen.extend(members[i] for i in order[:_NODES_PER_ZONE])
        else:
            chosen.extend(members)
    return chosen


def _greenest(
    task: Task,
    situation: Situation,
    cost_g: Costs,
    intensity: NDArray[np.float64],
    free: NDArray[np.bool_],
) -> list[Run] | None:
    """The runs with the least carbon that end by the deadline; None without the time or the signal to choose."""
    spec = task.job.spec
    overdue = task.current is not None and task.left_s <= 1.0  # nobody knows how long it still takes
    if overdue:
        return None
    known = np.isfinite(intensity)
    if task.current is not None and not known[task.current, 0]:
        return None  # where it runs is as good as anywhere
    limited = np.where(free & known, cost_g, np.inf)
    choices = [limited]
    if spec.max_intensity is not None:
        with np.errstate(invalid="ignore"):
            choices.insert(0, np.where(intensity <= spec.max_intensity, limited, np.inf))
    for allowed in choices:
        enough = np.isfinite(allowed).any(axis=0).sum() >= task.slots(task.left_s)  # else there is nothing to compute
        runs = _choose(task, situation, allowed) if enough else None
        if runs is not None:
            return _gate(task, situation, runs, allowed)
    return None


def _choose(task: Task, situation: Situation, cost_g: Costs) -> list[Run] | None:
    """Runs by the policy of the job that give it time for its work and its resumes, or None."""
    spec = task.job.spec
    cost_g = cost_g + task.market_g(situation, cost_g)
    if task.job.pausable and spec.suspend.allow and spec.suspend.resume_cost_s == 0 and spec.suspend.min_run_s == 0:

        def slots(work: int, since: int) -> list[Run] | None:
            """The cheapest slots from slot `since` on."""
            found = cheapest_slots(cost_g[:, since:], work, task.current if since == 0 else None)
            return [(row, start + since, end + since) for row, start, end in found] if found else None

        runs = _enough(task, situation, slots)
        if runs is not None:
            return runs
    elif task.job.pausable and spec.suspend.allow:
        resume = math.floor(spec.suspend.resume_cost_s / task.slot_s)
        costs = SuspendCosts(
            resume=resume,
            resume_rest=spec.suspend.resume_cost_s / task.slot_s - resume,
            min_run=math.ceil(spec.suspend.min_run_s / task.slot_s - 1e-9),
            running_on=task.current,
            fresh=not task.job.has_checkpoint and task.current is None,
        )
        table = Interruptible(cost_g, min(cost_g.shape[1], task.slots(task.left_s) + _MORE_SLOTS), costs)
        runs = _enough(task, situation, table.runs)
        if runs is not None:
            return runs
    if task.current is not None:
        return None  # runs, and runs on

    def window(work: int, since: int) -> list[Run] | None:
        """The lowest window that starts in slot `since` or later."""
        found = cheapest_run(cost_g[:, since:], work)
        return [(row, start + since, end + since) for row, start, end in found] if found else None

    return _enough(task, situation, window)


def _enough(task: Task, situation: Situation, policy: Callable[[int, int], list[Run] | None]) -> list[Run] | None:
    """The policy's choice, `policy(work, since)`, with as many slots as the work needs.

    Work is counted in whole slots, but resumes and the part of the first slot that is over take time as well: with too
    little the policy is asked for more. The first slot also costs less, so leaving it out is tried, too.
    """
    least = task.slots(task.left_s)

    def ask(since: int) -> list[Run] | None:
        work = least
        while work <= least + _MORE_SLOTS:
            runs = policy(work, since)
            missing_s = task.missing_s(runs) if runs else 0.0
            if missing_s <= INSTANT_S:
                return runs
            work += task.slots(missing_s)
        return None

    runs = ask(0)
    if task.passed_s <= INSTANT_S or task.current is not None or (runs is not None and runs[0][1] > 0):
        return runs
    later = ask(1)
    if runs is None or later is None:
        return runs or later
    return later if _grams(task, situation, later) < _grams(task, situation, runs) * (1 - 1e-9) else runs


def _grams(task: Task, situation: Situation, runs: list[Run]) -> float:
    known_g = segments_g(task.segments(runs), task.job.spec, situation)
    return math.inf if known_g is None else known_g


def _gate(task: Task, situation: Situation, runs: list[Run], cost_g: Costs) -> list[Run]:
    """Drop a choice that waits for less than the minimum saving against starting at once."""
    least_pct, work = task.job.spec.min_saving_pct, task.work_at_once
    if task.current is not None or runs[0][1] == 0 or least_pct <= 0 or work > cost_g.shape[1]:
        return runs
    now = earliest_run(cost_g[:, :work], work)
    if now is None:
        return runs
    now_g = _grams(task, situation, now)
    return now if (now_g - _grams(task, situation, runs)) * 100 < least_pct * now_g else runs


def _earliest(task: Task, free: NDArray[np.bool_], cost_g: Costs, home_zone: str) -> list[Run] | None:
    """The earliest start; of several places the home zone for run-now, else the cleanest, an unknown one last."""
    work = task.work_at_once
    if task.current is not None:
        return [(task.current, 0, work)]
    away = np.array([[0.0 if node.zone == home_zone else 1.0] for node in task.nodes])
    if task.job.spec.policy == "run-now":
        weights = np.broadcast_to(away, free.shape)
    else:
        weights = np.where(np.isfinite(cost_g), cost_g, 1e9 * (1 + away))
    return earliest_run(np.where(free, weights, np.inf), work)


def _run_now_g(spec: JobSpec, situation: Situation, duration_s: float) -> float | None:
    """Grams of running at once in the home zone; None where its intensity is unknown."""
    home = next((n for n in situation.nodes if n.zone == situation.home_zone and n.capacity.cpus > 0), None)
    if home is None:
        return None
    at_once = Segment(home.name, home.zone, situation.now_s, situation.now_s + duration_s)
    return segments_g([at_once], spec, situation)


def _hours(seconds: float, *, up: bool = False) -> str:
    """A duration for people: 3 h 20 min, 45 min, 20 s; negative ones are zero. `up`: never less than it is."""
    seconds = max(0.0, math.ceil(seconds) if up else seconds)
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes_all = math.ceil(seconds / 60) if up else round(seconds / 60)
    hours, minutes = divmod(minutes_all, 60)
    return f"{hours} h {minutes} min" if hours and minutes else f"{hours} h" if hours else f"{minutes} min"
