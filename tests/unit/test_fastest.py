"""An elastic job is in time wherever it can be: by hand, and beside a simple rule that is in time."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from orchestrator_world import World
from planning_cases import CONFIG, HOUR_S, SLOT_S, T0, a_job, a_node, a_situation, a_spec, hourly

from eco_ray.core.cluster import Resources
from eco_ray.core.fastest import _most_work
from eco_ray.core.jobs import Plan, Segment, SuspendRule, Workers
from eco_ray.core.planner import plan_job

CPUS = 4
SLOTS = 8


def held(*cpus):
    """A node on which others hold so many CPUs in each slot, at a changing intensity."""
    situation = a_situation(hourly("DE", *[300, 100] * 40), nodes=[a_node(cpus=float(CPUS))])
    for slot, amount in enumerate(cpus):
        if amount:
            there = Segment("de-1", "DE", T0 + slot * SLOT_S, T0 + (slot + 1) * SLOT_S)
            situation.calendar.reserve(there, Resources(cpus=float(amount)))
    return situation


def planned(situation, work_s, resume_s, *, most=4, speeds=(), min_run_s=0.0, slots=SLOTS):
    workers = Workers(1, most, tuple(speeds)[:most])
    rule = SuspendRule(True, min_run_s, resume_s)
    spec = a_spec(hours=work_s / 3600, deadline_h=slots * SLOT_S / 3600, workers=workers, suspend=rule)
    plan = plan_job(a_job(spec), situation, CONFIG)
    assert isinstance(plan, Plan)
    return plan, plan.end_s <= spec.deadline_s + 1e-6


def test_it_takes_all_that_is_free_where_nothing_less_is_in_time():
    plan, in_time = planned(held(0, 2, 2, 4, 3, 3, 3, 3), (4 + 2 * 2 + 4) * SLOT_S - 3 * 60, resume_s=60)
    assert in_time
    assert [one.workers for one in plan.segments] == [4, 2, 1]


def test_it_keeps_its_number_where_a_change_costs_more_than_it_gives():
    """The fourth slot has room for a second worker, who would cost 10 of its 15 minutes."""
    plan, in_time = planned(held(3, 3, 3, 2, 3, 3, 3, 3), 8 * SLOT_S, resume_s=600)
    assert in_time
    assert [one.workers for one in plan.segments] == [1]


def test_a_run_shorter_than_its_minimum_is_none():
    """In time only if it ran for one slot before the pause, which it may not."""
    work_s = 2 * SLOT_S
    assert planned(held(3, 4, 3, 4, 4, 4, 4, 4), work_s, resume_s=0.0)[1]
    assert not planned(held(3, 4, 3, 4, 4, 4, 4, 4), work_s, resume_s=0.0, min_run_s=2 * SLOT_S)[1]


def at_most(free, room_s, speeds, first_s, again_s, running):
    """The most work by the end of each slot, by trying every choice: (place, level) or a pause in each slot."""
    best = [0.0] * len(room_s)

    def choose(slot, before, work, begun, owed_s):
        if slot == len(room_s):
            return
        for place, level in [(-1, -1), *np.ndindex(free.shape[:2])]:
            state, more, start_s = (place, level) if place >= 0 else None, 0.0, 0.0
            if state is not None:
                if not free[place, level, slot]:
                    continue
                start_s = owed_s if state == before else again_s if begun else first_s
                more = max(0.0, room_s[slot] - start_s) * speeds[level]
            best[slot] = max(best[slot], work + more)
            # what is left of a start that is longer than its slot is paid in the next one
            choose(slot + 1, state, work + more, begun or state is not None, max(0.0, start_s - room_s[slot]))

    choose(0, running, 0.0, running is not None, 0.0)
    return best


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False))
def test_no_choice_ends_earlier(chance):
    """Also where the first slot is nearly over: what it gives may be worth less than the resume that it brings."""
    slots, places, speeds = chance.randint(1, 5), chance.randint(1, 2), chance.choice([(1.0,), (1.0, 1.9)])
    free = np.array([[[chance.random() < 0.6 for _ in range(slots)] for _ in speeds] for _ in range(places)])
    room_s = np.array([chance.choice([60.0, 300.0, 900.0]), *[900.0] * (slots - 1)])
    first_s, again_s = chance.choice([(0.0, 0.0), (0.0, 600.0), (60.0, 360.0), (0.0, 1200.0)])
    running = chance.choice([None, (0, 0)])
    if running is not None:
        first_s = again_s
    goes_on = np.zeros(free.shape[:2], dtype=bool)
    if running is not None:
        goes_on[running] = True
    best = at_most(free, room_s, speeds, first_s, again_s, running)
    for slot, most in enumerate(best):
        if most <= 1.0 or (slot and most <= best[slot - 1] + 1.0):
            continue
        found = _most_work(free, room_s, np.array(speeds), most - 0.5, first_s, again_s, goes_on)
        assert found is not None
        path, _ = found
        assert path[-1][3] == slot + 1
        assert (
            _most_work(free[..., :slot], room_s[:slot], np.array(speeds), most - 0.5, first_s, again_s, goes_on) is None
        )


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, CPUS), min_size=SLOTS, max_size=24),
    st.sampled_from([(1.0, 1.9, 2.7, 3.4), (1.0, 2.0, 3.0, 4.0), (1.0, 1.5, 1.8, 2.0)]),
    st.sampled_from([0.0, 60.0, 300.0]),
    st.sampled_from([1.0, 0.98, 0.9]),
)
def test_where_the_most_workers_in_each_slot_are_in_time_it_is_too(cpus, speeds, resume_s, share):
    work_s, before, begun = 0.0, 0, False
    for amount in cpus:
        count = CPUS - amount
        if count:
            work_s += max(0.0, SLOT_S - resume_s * (begun and count != before)) * speeds[count - 1]
            begun = True
        before = count
    if work_s * share > 60:
        assert planned(held(*cpus), work_s * share, resume_s, speeds=speeds, slots=len(cpus))[1]


def test_who_runs_goes_on_without_a_start():
    """With no second to lose: a restart would make it late."""
    world = World(hourly("DE", *[300, 100] * 20), nodes={"de-1": a_node(cpus=float(CPUS))})
    rule = SuspendRule(True, 0.0, 60.0)
    world.submit("j", hours=8, deadline_h=2, workers=Workers(1, 4), suspend=rule)
    world.started("j")
    world.tick(hours=0.5)
    job = world.core.book.plan(world.core.book.jobs["j"], world.now_s)
    (segment,) = job.plan.segments
    assert (segment.workers, segment.end_s) == (4, T0 + 2 * HOUR_S)
