"""Jobs that come in late: others give way at once, but they are not all asked again and again in vain."""

from __future__ import annotations

import pytest
from orchestrator_world import NODES, World
from planning_cases import hourly, no_suspension

from eco_ray.core import line
from eco_ray.core.room import is_late

#: one CPU
ONE = {"de-1": NODES["de-1"]}


@pytest.fixture
def asked(monkeypatch):
    """Ids of the jobs for which others were asked to give way, and whether they did."""
    found = []

    def make_room(book, job, now_s):
        found.append((job.id, make(book, job, now_s)))
        return found[-1][1]

    make = line.make_room
    monkeypatch.setattr(line, "make_room", make_room)
    return found


def is_job_late(world, job_id):
    job = world.core.book.jobs[job_id]
    return is_late(job, job.plan)


def test_after_a_few_submissions_in_vain_the_others_wait_for_their_turn(asked):
    world = World(hourly("DE", *[300] * 60), nodes=ONE)
    world.submit("first", hours=4, deadline_h=4, **no_suspension())
    for number in range(8):
        world.submit(f"late{number}", hours=4, deadline_h=5, **no_suspension())
    assert asked == [("late0", False), ("late1", False)]
    world.tick(seconds=1.0)
    turn = [job_id for job_id, _ in asked[2:]]
    assert len(set(turn)) == len(turn) <= 6  # once per slot, a few of them
    for _ in range(4):
        world.tick(hours=0.25)
    assert {f"late{number}" for number in range(8)} <= {job_id for job_id, _ in asked}
    world.submit("later", hours=4, deadline_h=6, **no_suspension())
    assert asked[-1] == ("later", False)


def test_as_long_as_others_give_way_all_submissions_ask(asked):
    world = World(hourly("DE", *[300] * 40, *[100] * 20), nodes=ONE)
    world.submit("runs", hours=1, deadline_h=1.5, **no_suspension())
    for number in range(4):
        world.submit(f"wide{number}", hours=2, deadline_h=40)
    for number in range(4):
        world.submit(f"tight{number}", hours=1, deadline_h=2.5 + number)
    assert not any(is_job_late(world, job_id) for job_id in world.core.book.jobs)
    assert all(made for _, made in asked)


def test_who_waits_for_its_turn_gets_room(asked):
    """The others did not give way to those before it, of a lower priority, but do to this one."""
    world = World(hourly("DE", *[300] * 60), nodes=ONE)
    world.submit("first", hours=1, deadline_h=1, **no_suspension())
    world.submit("wide", hours=6, deadline_h=15)
    for number in range(2):
        world.submit(f"vain{number}", hours=3, deadline_h=4, priority=100, **no_suspension())
    world.submit("tight", hours=1, deadline_h=4)
    assert asked == [("vain0", False), ("vain1", False)]
    assert is_job_late(world, "tight")
    world.tick(seconds=1.0)
    assert ("tight", True) in asked
    assert not is_job_late(world, "tight")
    assert not is_job_late(world, "wide")
