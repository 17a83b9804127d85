"""Whether a job could run at all, on an empty cluster: what is told to its owner at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.jobs import JobSpec, Reason
from eco_ray.core.situation import NoPlan
from eco_ray.errors import InfeasibleError, NotFoundError


def check_feasible(spec: JobSpec, now_s: float, nodes: Iterable[Node]) -> None:
    """Raise InfeasibleError or NotFoundError for a job that could not run even on an empty cluster."""
    nodes = list(nodes)
    known = sorted({node.zone for node in nodes})
    for zone in spec.zones:
        if zone not in known:
            raise NotFoundError(
                f"zone {zone!r} of job {spec.name!r} is not in this cluster: its zones are {', '.join(known)}; "
                "correct carbon.zones or add a node there"
            )
    allowed = [node for node in nodes if not spec.zones or node.zone in spec.zones]
    demand = spec.demand * spec.workers.min
    if not any(demand.fits_node(node.capacity) for node in allowed):
        _check_gpus(spec, demand, allowed)
        largest = max((node.capacity for node in allowed), key=lambda c: (c.cpus, c.memory_gb), default="nothing")
        least = f" with its least {spec.workers.min} workers" if spec.workers.min > 1 else ""
        raise InfeasibleError(
            f"job {spec.name!r} asks for {demand}{least}; the largest allowed node has {largest}; "
            "ask for less or allow more zones"
        )
    begin_s = max(now_s, spec.not_before_s)
    sizes = {node.capacity for node in allowed}
    counts = range(spec.workers.min, spec.workers.max + 1)
    possible = [count for count in counts if any((spec.demand * count).fits_node(size) for size in sizes)]
    needed_s = (spec.expected_duration_s or 0.0) / max(spec.workers.speed(count) for count in possible)
    if spec.deadline_s < begin_s + needed_s or spec.deadline_s <= begin_s:
        short_s = begin_s + needed_s - spec.deadline_s
        needs = f"it needs {hours(needed_s)}" if spec.expected_duration_s else "its duration is unknown"
        raise InfeasibleError(
            f"job {spec.name!r} cannot finish by its deadline: {needs} and the deadline leaves "
            f"{hours(spec.deadline_s - begin_s)}; move the deadline by at least {hours(max(short_s, 1.0), up=True)}"
            + (" or shorten the job" if spec.expected_duration_s else "")
        )
    _check_energy(spec, allowed)


def _check_gpus(spec: JobSpec, demand: Resources, nodes: Sequence[Node]) -> None:
    """Refuse a job that has room on a node, but not on the GPUs that it would be given there."""
    most_gb = max((node.capacity.gb_per_gpu for node in nodes if demand.fits_in(node.capacity)), default=None)
    if most_gb is not None:
        gpus = "1 GPU" if demand.gpus <= 1 else f"{demand.gpus:g} GPUs"
        raise InfeasibleError(
            f"job {spec.name!r} asks for {demand.gpu_memory_gb:g} GB GPU memory on {gpus}; the GPUs of the allowed "
            f"nodes have {most_gb:g} GB each at most; ask for less GPU memory or for more GPUs, or allow more zones"
        )


def no_node_takes(spec: JobSpec, demand: Resources, nodes: Sequence[Node]) -> NoPlan:
    """Why a job that was accepted has no plan, now that not even an empty node could take it."""
    if not nodes:
        return NoPlan(Reason.WAITING_FOR_CAPACITY, f"no node is there; it needs {demand} and starts when one joins")
    allowed = [node.capacity for node in nodes if not spec.zones or node.zone in spec.zones]
    where = f" in {' or '.join(spec.zones)}" if spec.zones else ""
    if not allowed:
        return NoPlan(Reason.MISCONFIGURED, f"no node{where} is there with {demand}; it starts when one joins")
    largest = max(allowed, key=lambda c: (c.cpus, c.memory_gb))
    return NoPlan(
        Reason.MISCONFIGURED,
        f"no node{where}, even an empty one, has {demand}; the largest one has {largest}; it starts when one joins",
    )


def _check_energy(spec: JobSpec, nodes: Sequence[Node]) -> None:
    """Refuse a job that would use more than its energy budget on the most frugal node with any number of workers."""
    if spec.budget_j is None or spec.expected_duration_s is None:
        return
    least_j = min(
        node.attributed_power_w(spec.demand * count) * spec.expected_duration_s / spec.workers.speed(count)
        for node in nodes
        for count in range(spec.workers.min, spec.workers.max + 1)
        if (spec.demand * count).fits_node(node.capacity)
    )
    if least_j > spec.budget_j * (1 + 1e-9):
        raise InfeasibleError(
            f"job {spec.name!r} needs {least_j / 3.6e6:.3g} kWh on the most frugal node, above its energy budget of "
            f"{spec.budget_j / 3.6e6:.3g} kWh; raise carbon.budget.energy_kwh or shorten the job"
        )


def hours(seconds: float, *, up: bool = False) -> str:
    """A duration for people: 3 h 20 min, 45 min, 20 s; negative ones are zero. `up`: never less than it is."""
    seconds = max(0.0, math.ceil(seconds) if up else seconds)
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes_all = math.ceil(seconds / 60) if up else round(seconds / 60)
    whole, minutes = divmod(minutes_all, 60)
    return f"{whole} h {minutes} min" if whole and minutes else f"{whole} h" if whole else f"{minutes} min"
