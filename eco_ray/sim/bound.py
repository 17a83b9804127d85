"""The least carbon that any schedule could reach on a cluster of fixed size: a linear program, and its certificate.

The program is kinder than any cluster: it knows everything beforehand, pauses and moves jobs between zones for nothing
and in any fraction, lets each job run at its greatest speed with what its thriftiest number of workers uses, and holds
the capacity only on average over each step of the intensity. So no schedule emits less, and what a policy loses to the
bound is an upper limit of what a better one could still win.

Variables: x[j, z, k], the time that job j spends in zone z in step k. Its parts add up to its length; in no step does
it get more than the overlap of the step with its window, all zones together, as it is in one place at a time; and in no
step do the jobs of a zone hold more than its CPUs. Minimise the sum of x * cpus * watts * intensity.

The figure returned is the dual one: each job takes its cheapest steps at the intensity plus the solver's price of
capacity, less what the capacity is worth at these prices. Any prices give a lower bound and the optimal ones the
optimum (Bertsimas & Tsitsiklis, Introduction to Linear Optimization, 1997, section 4.3), so the solver's tolerances
can make the figure looser, never wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eco_ray.errors import EcoRayError, InfeasibleError, UsageError
from eco_ray.sim.workload import Floats, Ints, Workload

Bools = NDArray[np.bool_]

_S_PER_H = 3600.0
#: W * s * g/kWh -> g
_WS_PER_KWH = 3.6e6
#: rounding of a sum that fits its capacity exactly must not call for the solver [CPU-h]
_SLACK_CPU_H = 1e-9
_LP_INFEASIBLE = 2


@dataclass(frozen=True, slots=True)
class IntensitySteps:
    """Carbon intensity of one zone, constant over each of K steps."""

    #: shape (K+1,), rising, since the simulation's start; cover [0, span] [s]
    edges_s: Ints
    #: shape (K,)
    g_per_kwh: Floats


@dataclass(frozen=True, slots=True)
class Bound:
    """The least carbon, and one way to reach it (there may be others)."""

    #: of all jobs that end within the span even when run at once
    carbon_g: float
    #: shape (J,): ends after the span even when run at once, and is in none of the figures
    truncated: Bools
    #: shape (Z, K): of the optimal schedule [CPU-h]
    zone_cpu_h: Floats
    #: shape (K,): length of the steps, cut at the span [h]
    step_h: Floats

    @property
    def cpu_h(self) -> Floats:
        """Shape (K,): of all zones together [CPU-h]."""
        total: Floats = self.zone_cpu_h.sum(axis=0)
        return total

    @property
    def peak_cpus(self) -> float:
        """The highest load of a step, averaged over it, of all zones together."""
        inside = self.step_h > 0
        return float(np.max(self.cpu_h[inside] / self.step_h[inside], initial=0.0))


@dataclass(frozen=True, slots=True)
class _Problem:
    """N jobs and, in order of jobs, the P pairs of a job and a step that overlaps its window."""

    #: shape (N,): at least, while it is as fast as with its least workers
    cpus: Floats
    #: shape (N,), on the least workers [s]
    length_s: Ints
    #: shape (S, Z): the distinct sets of allowed zones
    zone_sets: Bools
    #: shape (N,): which of them is the job's
    zone_set: Ints
    #: shape (P,): index of the job, of the step, and the most time that all its workers together can spend in it [s]
    job: Ints
    step: Ints
    room_s: Ints


def lower_bound_g(
    workload: Workload,
    intensity: Sequence[IntensitySteps],
    capacity_cpus: Sequence[float] | None,
    span_s: int,
    watts_per_cpu: float,
) -> Bound:
    """The least carbon of `workload` within [0, span_s]; one intensity and one capacity per zone, None: no limit.

    Raises InfeasibleError where even this schedule does not fit the capacity, and UsageError for wrong arguments.
    Without a limit, or below it, no solver is needed.
    """
    edges, price = _checked(intensity, span_s)
    truncated = np.asarray(workload.arrival_s + workload.length_s > span_s, dtype=np.bool_)
    problem = _problem(workload, ~truncated, edges, span_s, len(intensity))
    step_h = np.diff(edges) / _S_PER_H
    scale = watts_per_cpu * _S_PER_H / _WS_PER_KWH
    cost, load = _cheapest(problem, price)
    if capacity_cpus is not None:
        if len(capacity_cpus) != len(intensity):
            raise UsageError(f"{len(capacity_cpus)} capacities for {len(intensity)} zones: give one for each zone")
        limit = np.outer(np.asarray(capacity_cpus, dtype=np.float64), step_h)
        if np.any(load > limit + _SLACK_CPU_H):
            load, worth = _solve(problem, price, limit, capacity_cpus)
            paid = worth > 0
            cost = _cheapest(problem, price + worth)[0] - float(worth[paid] @ limit[paid])
    return Bound(cost * scale, truncated, load, step_h)


def _checked(intensity: Sequence[IntensitySteps], span_s: int) -> tuple[Ints, Floats]:
    """The edges, cut to [0, span], and the intensities of all zones, shape (Z, K)."""
    if not intensity:
        raise UsageError("no zone: give the carbon intensity of at least one")
    edges = intensity[0].edges_s
    if any(not np.array_equal(one.edges_s, edges) for one in intensity):
        raise UsageError("the zones' steps of carbon intensity differ: resample them to the same edges")
    if any(len(one.g_per_kwh) != len(edges) - 1 for one in intensity):
        raise UsageError(f"{len(edges)} edges bound {len(edges) - 1} steps: give one carbon intensity for each step")
    if np.any(np.diff(edges) <= 0):
        raise UsageError("the edges of the steps do not rise: sort them and drop repeated ones")
    if edges[0] > 0 or edges[-1] < span_s:
        raise UsageError(
            f"the carbon intensity covers {edges[0]} s to {edges[-1]} s, the span is 0 s to {span_s} s: "
            f"shorten the span or give a longer series"
        )
    inside = np.clip(edges, 0, span_s)
    price = np.array([one.g_per_kwh for one in intensity], dtype=np.float64)
    gaps = np.argwhere(~np.isfinite(price) & (np.diff(inside) > 0))
    if len(gaps):
        zone, step = gaps[0]
        raise UsageError(
            f"the carbon intensity of zone {zone} is {price[zone, step]} g/kWh in the step from {edges[step]} s: "
            f"fill the gaps of the series first ({len(gaps)} steps)"
        )
    return inside, price


def _problem(workload: Workload, kept: Bools, edges: Ints, span_s: int, zones: int) -> _Problem:
    start, length = workload.arrival_s[kept], workload.length_s[kept]
    speed, cpus = (of[kept] for of in _scaled(workload))
    end = np.minimum(start + length + workload.max_wait_s[kept], span_s)
    allowed = np.zeros((len(start), zones), dtype=np.bool_)
    for row, index in zip(allowed, np.flatnonzero(kept), strict=True):
        row[list(workload.zones[int(index)]) or slice(None)] = True
    zone_sets, zone_set = np.unique(allowed, axis=0, return_inverse=True)
    first = np.searchsorted(edges, start, side="right") - 1
    count = np.searchsorted(edges, end, side="left") - first
    job = np.repeat(np.arange(len(start)), count)
    step = np.arange(len(job)) + np.repeat(first - (np.cumsum(count) - count), count)
    overlap = np.minimum(edges[step + 1], end[job]) - np.maximum(edges[step], start[job])
    room = np.minimum(np.ceil(overlap * speed[job]).astype(np.int64), length[job])
    return _Problem(cpus, length, zone_sets, zone_set.reshape(-1), job, step, room)


def _scaled(workload: Workload) -> tuple[Floats, Floats]:
    """Greatest speed of each job, in terms of its least workers, and the least CPUs per speed: shape (J,) each."""
    if workload.workers is None:
        return workload.max_workers.astype(np.float64), workload.cpus
    speed, per_speed = np.ones(len(workload)), np.ones(len(workload))
    for job, workers in enumerate(workload.workers):
        speeds = workers.speeds
        speed[job] = max(speeds)
        per_speed[job] = min(count / speed for count, speed in enumerate(speeds, start=workers.min))
    return speed, workload.cpus * per_speed


def _cheapest(problem: _Problem, price: Floats) -> tuple[float, Floats]:
    """Each job in its cheapest steps, whatever the capacity: the cost [price * CPU-h] and the load (Z, K) [CPU-h]."""
    zones, steps = price.shape
    per_set = np.where(problem.zone_sets[:, :, None], price, np.inf)
    best = per_set.min(axis=1)[problem.zone_set[problem.job], problem.step]
    where = per_set.argmin(axis=1)[problem.zone_set[problem.job], problem.step]
    order = np.lexsort((best, problem.job))
    room = problem.room_s[order]
    before = np.cumsum(room) - room
    # `order` keeps the pairs of a job together, so what came before its first pair belongs to others
    at = np.searchsorted(problem.job, np.arange(len(problem.cpus)))
    taken = np.clip(problem.length_s[problem.job] - (before - before[at][problem.job]), 0, room)
    cpu_h = taken * problem.cpus[problem.job] / _S_PER_H
    load = _totals(where[order] * steps + problem.step[order], cpu_h, zones * steps)
    return float((cpu_h * best[order]).sum()), load.reshape(zones, steps)


def _totals(index: Ints, weight: Floats, size: int) -> Floats:
    """The sum of the weights of each index in [0, size); `bincount` alone gives integers where there are none."""
    total: Floats = np.bincount(index, weight, size).astype(np.float64)
    return total


def _solve(problem: _Problem, price: Floats, limit: Floats, capacity_cpus: Sequence[float]) -> tuple[Floats, Floats]:
    """The optimal load (Z, K) [CPU-h] and the price of capacity (Z, K) >= 0, in the unit of `price`."""
    from scipy.optimize import linprog  # imported only where the capacity binds: it takes 0.2 s
    from scipy.sparse import csr_array, vstack

    # Units of CPU-hours and g/kWh: in ticks and grams the costs come near HiGHS' absolute tolerance of 1e-7, and its
    # simplex then stops above the optimum (by 3e-7 of it for the jobs of GAIA).
    zones, steps = price.shape
    pair, zone = np.nonzero(problem.zone_sets[problem.zone_set[problem.job]])
    job, cell = problem.job[pair], zone * steps + problem.step[pair]
    room = problem.room_s * problem.cpus[problem.job] / _S_PER_H
    demand = problem.length_s * problem.cpus / _S_PER_H
    most = limit.reshape(-1)
    # rows that cannot bind are left out: a step all of whose jobs fit, a job with one zone or within one step
    full = _totals(cell, room[pair], zones * steps) > most
    once = (problem.room_s < problem.length_s[problem.job]) & (np.bincount(pair, minlength=len(room)) > 1)

    def rows(index: Ints, chosen: Bools) -> Any:
        """A row for each chosen place: the sum of the variables that are in it."""
        number, column = np.cumsum(chosen) - 1, np.flatnonzero(chosen[index])
        return csr_array((np.ones(len(column)), (number[index[column]], column)), shape=(int(chosen.sum()), len(index)))

    at_most, at_most_h = vstack((rows(cell, full), rows(pair, once))), np.concatenate((most[full], room[once]))
    every_job = rows(job, np.ones(len(demand), dtype=np.bool_))
    bounds = np.column_stack((np.zeros(len(pair)), room[pair]))
    found = linprog(price.reshape(-1)[cell], at_most, at_most_h, every_job, demand, bounds, method="highs-ds")
    if found.status == _LP_INFEASIBLE:
        # as much as fits, at any carbon, so that the message can say how far off it is
        a_ub, b_ub = vstack((at_most, every_job)), np.concatenate((at_most_h, demand))
        fits = linprog(-np.ones(len(pair)), a_ub, b_ub, bounds=bounds, method="highs-ds")
        raise InfeasibleError(
            f"no schedule fits: of the {demand.sum():.2f} CPU-hours of {len(demand)} jobs at most {-fits.fun:.2f} "
            f"can be done in time on {', '.join(f'{cpus:g}' for cpus in capacity_cpus)} CPUs (per zone): "
            f"raise the capacity or let the jobs wait longer"
        )
    if found.status != 0:
        raise EcoRayError(f"the solver of the lower bound stopped without an optimum: {found.message}")
    load = _totals(cell, found.x, zones * steps)
    worth = np.zeros(zones * steps)
    worth[full] = np.maximum(-found.ineqlin.marginals[: int(full.sum())], 0.0)
    return load.reshape(zones, steps), worth.reshape(zones, steps)
