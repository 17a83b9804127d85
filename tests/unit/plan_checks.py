"""What every plan must keep to, whoever made it, worked out here without calendar and planner."""

from __future__ import annotations

import math

import numpy as np
from planning_cases import SLOT_S, T0

from eco_ray.core.cluster import KINDS
from eco_ray.core.jobs import Plan

FIRST = int(T0 // SLOT_S)
#: slots that are written down
SLOTS = 4 * 24 * 8
#: work in which plans may be wrong [s]
MOMENT_S = 1e-3


class Promises:
    """What each node has promised, slot by slot from T0 on."""

    def __init__(self, nodes, foreign=()):
        self.nodes = {node.name: node for node in nodes}
        self.free = {name: np.tile(node.capacity.amounts, (SLOTS, 1)) for name, node in self.nodes.items()}
        for name, held in dict(foreign).items():
            self.free[name] -= held.amounts

    def touched(self, start_s, end_s):
        """The slots that a stretch touches: it holds each of them whole."""
        first, end = math.floor(start_s / SLOT_S + 1e-9), math.ceil(end_s / SLOT_S - 1e-9)
        return slice(first - FIRST, end - FIRST)

    def hold(self, plan, demand):
        """A job that changes its workers within a slot holds the larger number of them."""
        for name, held in self._held(plan, demand).items():
            self.free[name] -= held
            assert self.free[name].min() >= -1e-6, f"{name} is overbooked by {plan.segments}"

    def give_back(self, plan, demand):
        for name, held in self._held(plan, demand).items():
            self.free[name] += held

    def _held(self, plan, demand):
        found = {segment.node: np.zeros((SLOTS, KINDS)) for segment in plan.segments}
        for segment in plan.segments:
            held = found[segment.node][self.touched(segment.start_s, segment.end_s)]
            np.maximum(held, (demand * segment.workers).amounts, out=held)
        return found

    def has_room(self, name, start_s, end_s, demand):
        return bool((self.free[name][self.touched(start_s, end_s)] >= np.array(demand.amounts) - 1e-9).all())


def check_plan(job, plan, situation, promises):
    """Residency, bounds of workers, earliest start, order, minimum run, work; then its places are held."""
    spec = job.spec
    assert isinstance(plan, Plan)
    assert plan.start_s >= max(situation.now_s, spec.not_before_s, job.retry_at_s) - 1e-6
    for one, following in zip(plan.segments, plan.segments[1:], strict=False):
        assert one.end_s <= following.start_s + 1e-6, "segments overlap"
    for segment in plan.segments:
        assert segment.end_s > segment.start_s
        assert segment.zone == promises.nodes[segment.node].zone
        assert not spec.zones or segment.zone in spec.zones, "it leaves its zones"
        assert spec.workers.min <= segment.workers <= spec.workers.max
        held, node = spec.demand * segment.workers, promises.nodes[segment.node].capacity
        assert held.gpu_memory_gb <= math.ceil(held.gpus) * node.gpu_memory_gb / max(node.gpus, 1) + 1e-9
    may_pause = spec.suspend.allow and job.pausable
    assert len(plan.segments) == 1 or may_pause, "it is suspended though it must not"
    check_work(job, plan, situation)
    promises.hold(plan, spec.demand)


def useful_s(job, plan, situation):
    """Work that each segment does [s with the least workers]: what starts and resumes take is none."""
    spec, found = job.spec, []
    for number, segment in enumerate(plan.segments):
        resume_s = spec.suspend.resume_cost_s if number or job.has_checkpoint else 0.0
        run_s = segment.end_s - segment.start_s - resume_s - situation.launch_s
        found.append(run_s * spec.workers.speed(segment.workers))
    return found


def check_work(job, plan, situation):
    """All segments together do the work that is left; each between two suspensions lasts as long as it should."""
    work_s, left_s = useful_s(job, plan, situation), situation.durations.left_s(job, situation.now_s)
    assert abs(sum(work_s) - left_s) <= MOMENT_S, f"does {sum(work_s):.3f} s of {left_s:.3f} s: {plan.segments}"
    for segment, done_s in zip(plan.segments[:-1], work_s[:-1], strict=True):
        speed = job.spec.workers.speed(segment.workers)
        assert done_s / speed >= job.spec.suspend.min_run_s - MOMENT_S, f"runs {done_s:.1f} s only: {plan.segments}"


def can_run_at_once(job, situation, promises):
    """Whether it is in time on some node with some number of workers, if it starts at once and is never paused.

    Other policies than eco run with the least workers.
    """
    spec = job.spec
    begin_s = max(situation.now_s, spec.not_before_s, job.retry_at_s)
    left_s = situation.durations.left_s(job, situation.now_s)
    start_s = situation.launch_s + (spec.suspend.resume_cost_s if job.has_checkpoint else 0.0)
    most = spec.workers.max if spec.policy == "eco" else spec.workers.min
    for name, node in promises.nodes.items():
        for count in range(spec.workers.min, most + 1):
            end_s = begin_s + left_s / spec.workers.speed(count) + start_s
            allowed = not spec.zones or node.zone in spec.zones
            in_time = end_s <= spec.deadline_s and (spec.demand * count).fits_node(node.capacity)
            if allowed and in_time and promises.has_room(name, begin_s, end_s, spec.demand * count):
                return True
    return False
