"""Plans one job: when, where, and with which suspensions, for the fewest grams that its deadline and the nodes allow.

The same call serves the live controller, `job plan` and (later) the simulator. A plan is made against the calendar of
what other jobs have been promised, so jobs are planned one after the other, the most urgent first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from eco_ray.core import policies
from eco_ray.core.calendar import Calendar
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.intensity import IntensitySeries
from eco_ray.core.jobs import Job, JobSpec, Plan, Reason, Segment
from eco_ray.core.units import J_PER_KWH
from eco_ray.errors import InfeasibleError, NotFoundError

#: nodes of one zone that the planner looks at; the others are like them
_NODES_PER_ZONE = 3


@dataclass(frozen=True, slots=True)
class PlannerConfig:
    """Knobs of the planner, all in grid time."""

    #: length of a slot [s]
    slot_s: float = 900.0
    #: how far ahead it plans at most [s]
    horizon_s: float = 96 * 3600.0
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
    #: forecast by zone; a zone without one is planned for only when no zone has one
    forecast: Mapping[str, IntensitySeries]
    home_zone: str
    #: what others than our attempts hold now, by node; taken to stay
    foreign: Mapping[str, Resources] = field(default_factory=dict)

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
        since = live.productive_s if live.productive_s is not None else live.started_s
        done_s += max(0.0, now_s - since) if since is not None else 0.0
    expected = expected_duration_s(job.spec, config)
    if job.progress is not None and job.progress >= 0.05 and done_s > 0:
        expected = max(done_s, done_s / job.progress)
    elif live is None and not job.has_checkpoint:
        done_s = 0.0  # without a checkpoint the next attempt begins again
    return max(expected - done_s, 1.0)


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
    earliest = max(now_s, spec.not_before_s) + (spec.expected_duration_s or 0.0)
    if spec.deadline_s < earliest:
        short_s = earliest - spec.deadline_s
        raise InfeasibleError(
            f"job {spec.name!r} cannot finish by its deadline: it needs {_hours(spec.expected_duration_s or 0.0)} and "
            f"the deadline leaves {_hours(spec.deadline_s - max(now_s, spec.not_before_s))}; "
            f"move the deadline by at least {_hours(short_s)} or shorten the job"
        )


def plan_job(job: Job, situation: Situation, config: PlannerConfig) -> Plan | NoPlan:
    """The lowest-carbon feasible plan of one job, which must not be in the calendar while it is planned."""
    spec, now_s = job.spec, situation.now_s
    live = job.live_attempt
    left_s = work_left_s(job, now_s, config)
    begin_s = max(now_s, spec.not_before_s, job.retry_at_s)
    nodes = _candidates(spec, situation, live.node if live else None)
    if not nodes:
        return NoPlan(
            Reason.WAITING_FOR_CAPACITY,
            f"no node in {', '.join(spec.zones) or 'any zone'} is there with {spec.demand}; it starts when one joins",
        )
    first = situation.calendar.slot_of(begin_s)
    slot_s = config.slot_s
    work = max(1, math.ceil(left_s / slot_s - 1e-6))
    must_start_s = spec.deadline_s - left_s
    slots = math.floor(min(spec.deadline_s, begin_s + config.horizon_s) / slot_s + 1e-6) - first
    cost_g, known_until = _cost_matrix(nodes, spec, situation, first, max(slots, work), slot_s, begin_s)
    slots = min(slots, known_until)
    free = situation.fits(nodes, spec, first, cost_g.shape[1])
    limited = np.where(free, cost_g, np.inf)
    run_now_g = _run_now_g(spec, situation, left_s)

    current = next((i for i, n in enumerate(nodes) if live and n.name == live.node), None)
    runs: list[policies.Run] | None = None
    overdue = live is not None and job.progress is None and left_s <= 1.0  # nobody knows how long it still takes
    if slots >= work and spec.policy != "run-now" and begin_s <= must_start_s and not overdue:
        runs = _choose(job, limited[:, :slots], work, current, spec, slot_s)
        runs = _gate(runs, limited[:, :slots], work, spec, current)
    if runs is None:  # urgent, run-now, or no signal: the earliest start, whatever the grid says
        runs = _earliest(free, cost_g, work, current, situation.home_zone, nodes, spec)
    if runs is None:
        return NoPlan(
            Reason.WAITING_FOR_CAPACITY,
            f"needs {spec.demand} for {_hours(left_s)}; every allowed node is promised until its deadline, "
            "so it starts when one becomes free",
        )
    carbon_g = _runs_cost(cost_g, runs)
    return Plan(_segments(runs, nodes, first, slot_s, begin_s, left_s), carbon_g, run_now_g, now_s)


def _allowed(spec: JobSpec, nodes: Sequence[Node]) -> list[Node]:
    return [node for node in nodes if not spec.zones or node.zone in spec.zones]


def _candidates(spec: JobSpec, situation: Situation, live_on: str | None) -> list[Node]:
    """Nodes to look at: allowed, large enough, with a signal if any has one; a few per zone, the current one first."""
    allowed = [n for n in _allowed(spec, situation.nodes) if spec.demand.fits_in(n.capacity)]
    with_signal = [n for n in allowed if n.zone in situation.forecast or n.name == live_on]
    chosen: list[Node] = []
    first = situation.calendar.slot_of(situation.now_s)
    by_zone: dict[str, list[Node]] = {}
    for node in with_signal or allowed:
        by_zone.setdefault(node.zone, []).append(node)
    for members in by_zone.values():
        if len(members) > _NODES_PER_ZONE:
            count = max(1, int((spec.deadline_s - situation.now_s) // situation.calendar.slot_s))
            room = situation.fits(members, spec, first, min(count, 384)).sum(axis=1)
            order = sorted(
                range(len(members)),
                key=lambda i: (members[i].name != live_on, -room[i], members[i].attributed_power_w(spec.demand)),
            )
            chosen.extend(members[i] for i in order[:_NODES_PER_ZONE])
        else:
            chosen.extend(members)
    return chosen


def _cost_matrix(
    nodes: Sequence[Node],
    spec: JobSpec,
    situation: Situation,
    first: int,
    slots: int,
    slot_s: float,
    begin_s: float,
) -> tuple[policies.Costs, int]:
    """Grams per node and slot, and how many slots are covered by every forecast; nan where the intensity is unknown."""
    edges = (first + np.arange(slots + 1, dtype=np.float64)) * slot_s
    edges[0] = max(edges[0], begin_s - 1e-6)
    cost_g = np.full((len(nodes), slots), np.nan)
    covered = slots
    for row, node in enumerate(nodes):
        series = situation.forecast.get(node.zone)
        if series is None or series.start_s > edges[0]:
            covered = 0
            continue
        known = min(slots, int(np.searchsorted(edges, series.end_s, side="right")) - 1)
        covered = min(covered, max(known, 0))
        if known > 0:
            mean = series.means(edges[: known + 1])
            energy_kwh = node.attributed_power_w(spec.demand) * slot_s / J_PER_KWH
            cost_g[row, :known] = energy_kwh * node.pue * mean
            if spec.max_intensity is not None:
                cost_g[row, :known][mean > spec.max_intensity] = np.inf
    return cost_g, covered


def _choose(
    job: Job, cost_g: policies.Costs, work: int, current: int | None, spec: JobSpec, slot_s: float
) -> list[policies.Run] | None:
    may_move = job.pausable and spec.suspend.allow and spec.policy == "eco"
    if current is not None and not may_move:
        return None  # runs, and runs on
    if not may_move:
        return policies.lowest_window(cost_g, work)
    resume = math.floor(spec.suspend.resume_cost_s / slot_s)
    costs = policies.SuspendCosts(
        resume=resume,
        resume_rest=spec.suspend.resume_cost_s / slot_s - resume,
        min_run=math.ceil(spec.suspend.min_run_s / slot_s - 1e-6),
        running_on=current,
        fresh=not job.has_checkpoint and current is None,
    )
    return policies.lowest_interruptible(cost_g, work, costs)


def _gate(
    runs: list[policies.Run] | None, cost_g: policies.Costs, work: int, spec: JobSpec, current: int | None
) -> list[policies.Run] | None:
    """Drop a choice that waits for less than the minimum saving against starting at once."""
    if runs is None or current is not None or runs[0][1] == 0 or spec.min_saving_pct <= 0:
        return runs
    now = policies.window_costs(cost_g, work)[:, 0]
    best = int(np.argmin(now))
    if np.isfinite(now[best]) and (now[best] - policies.runs_g(cost_g, runs)) * 100 < spec.min_saving_pct * now[best]:
        return [(best, 0, work)]
    return runs


def _earliest(
    free: NDArray[np.bool_],
    cost_g: policies.Costs,
    work: int,
    current: int | None,
    home_zone: str,
    nodes: Sequence[Node],
    spec: JobSpec,
) -> list[policies.Run] | None:
    if current is not None:
        return [(current, 0, work)]
    if spec.policy == "run-now":  # the home zone first, as the counterfactual has it
        rank = np.array([[0.0 if node.zone == home_zone else 1.0] for node in nodes])
        weights = np.broadcast_to(rank, free.shape)
    else:  # the cleanest of the nodes that are free first; unknown intensity last
        weights = np.where(np.isfinite(cost_g), cost_g, 1e9)
    return policies.run_now(np.where(free, weights, np.inf), work)


def _run_now_g(spec: JobSpec, situation: Situation, duration_s: float) -> float | None:
    """Grams of running at once in the home zone; None where its intensity is unknown."""
    series = situation.forecast.get(situation.home_zone)
    home = [n for n in situation.nodes if n.zone == situation.home_zone and n.capacity.cpus > 0]
    end_s = situation.now_s + duration_s
    if series is None or not home or not series.covers(situation.now_s, end_s):
        return None
    node = home[0]
    energy_kwh = node.attributed_power_w(spec.demand) * duration_s / J_PER_KWH
    return energy_kwh * node.pue * series.mean(situation.now_s, end_s)


def _runs_cost(cost_g: policies.Costs, runs: list[policies.Run]) -> float | None:
    total = policies.runs_g(cost_g, runs)
    return total if math.isfinite(total) else None


def _segments(
    runs: list[policies.Run], nodes: Sequence[Node], first: int, slot_s: float, begin_s: float, left_s: float
) -> tuple[Segment, ...]:
    segments = [
        Segment(nodes[row].name, nodes[row].zone, max((first + start) * slot_s, begin_s), (first + end) * slot_s)
        for row, start, end in runs
    ]
    if len(segments) == 1:  # an uninterrupted run ends when its work is done, not with its slot
        only = segments[0]
        segments = [Segment(only.node, only.zone, only.start_s, only.start_s + left_s)]
    return tuple(segments)


def _hours(seconds: float) -> str:
    """A duration for people: 3 h 20 min, 45 min, 20 s; negative ones are zero."""
    seconds = max(0.0, seconds)
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours and minutes else f"{hours} h" if hours else f"{minutes} min"
