"""The loop of the suspend controller, with RayJobs in memory and a clock that is set."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rayjob_cases import HOUR_S, T0, a_rayjob, hourly, merged

from eco_ray.core.situation import PlannerConfig
from eco_ray.errors import EcoRayError, UnreachableError
from eco_ray.k8s.api import ConflictError
from eco_ray.k8s.decision import Act, Rules
from eco_ray.k8s.keeper import Keeper
from eco_ray.k8s.signal import AGAIN_S, Signal

ASKS = {"deadline": "12h", "expected-duration": "2h"}
SIX = T0 + 6 * HOUR_S
KEY = ("default", "train")


class Grid:
    """A source that knows a fixed forecast, or fails."""

    name = "a test"

    def __init__(self, values=(400,) * 6 + (100,) * 2 + (300,) * 40):
        self.values, self.asked, self.fails = values, [], None

    def zones(self):
        return ("DE",)

    def actual(self, zone, start_s, end_s):
        raise EcoRayError("no past")

    def forecast(self, zone, now_s, end_s):
        self.asked.append((zone, now_s, end_s))
        if self.fails is not None:
            raise self.fails
        return hourly(self.values, zone)


class RayJobs:
    """In memory, with versions; `faults` are raised by the next requests, `meddle` happens before a patch."""

    def __init__(self, *bodies):
        self.objects = {(b["metadata"]["namespace"], b["metadata"]["name"]): b for b in bodies}
        self.faults, self.meddle, self.patches, self.asked = [], None, Counter(), 0

    async def get(self, namespace, name):
        self._fault()
        return self.objects.get((namespace, name))

    async def patch(self, namespace, name, patch):
        self._fault()
        if self.meddle is not None:
            self.meddle()
        body = self.objects.get((namespace, name))
        if body is None:
            return None
        if patch["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise ConflictError("it has changed")
        self.patches[name] += 1
        return self.change(name, patch)

    def change(self, name, patch):
        body = self.objects["default", name]
        version = str(int(body["metadata"]["resourceVersion"]) + 1)
        self.objects["default", name] = merged(merged(body, patch), {"metadata": {"resourceVersion": version}})
        return self.objects["default", name]

    def _fault(self):
        self.asked += 1
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            raise fault


class World:
    def __init__(self, *bodies, apply=True, grid=None):
        self.rayjobs, self.grid, self.now_s, self.apply = RayJobs(*bodies), grid or Grid(), T0, apply
        self.told = []
        self.restart()

    def restart(self):
        """As after a kill: all that the controller remembered is gone."""
        tell = lambda body, decision, done: self.told.append((body["metadata"]["name"], decision.act, done))  # noqa: E731
        signal, rules = Signal(self.grid, PlannerConfig().horizon_s), Rules("DE", launch_s=0.0)
        self.keeper = Keeper(self.rayjobs, signal, rules, tell, lambda: self.now_s, apply=self.apply)
        for body in list(self.rayjobs.objects.values()):
            self.keeper.seen(None, body)

    def round(self, now_s=None):
        self.now_s = self.now_s if now_s is None else now_s
        return asyncio.run(self.keeper.round())

    def body(self, name="train"):
        return self.rayjobs.objects["default", name]

    @property
    def suspended(self):
        return self.body()["spec"].get("suspend")


def test_a_job_is_held_looked_at_every_minute_and_released_when_its_start_comes():
    world = World(a_rayjob(asks=ASKS))
    assert world.round() == 60.0
    assert world.suspended is True
    assert world.round(SIX - 90) == 60.0
    assert world.round(SIX - 20) == pytest.approx(20.0)  # not a minute after its start
    world.round(SIX)
    assert world.suspended is False
    assert world.told == [("train", Act.HOLD, True), ("train", Act.RELEASE, True)]
    assert world.rayjobs.patches == {"train": 2}


def test_a_dry_run_tells_once_and_asks_for_nothing_but_objects():
    world = World(a_rayjob(asks=ASKS), apply=False)
    for minute in range(5):
        world.round(T0 + 60 * minute)
    assert world.told == [("train", Act.HOLD, False)]
    assert (world.rayjobs.patches, world.suspended) == ({}, None)


def test_what_is_not_ours_is_never_asked_for():
    others = [
        a_rayjob("plain"),
        a_rayjob("queued", asks=ASKS, suspend=True, labels={"kueue.x-k8s.io/queue-name": "q"}),
        a_rayjob("runs", asks=ASKS, status={"jobDeploymentStatus": "Running"}),
    ]
    world = World(*others)
    world.round()
    assert (world.rayjobs.asked, world.told, world.grid.asked) == (0, [], [])


def test_a_job_that_becomes_kueues_is_left_alone_from_then_on():
    world = World(a_rayjob(asks=ASKS))
    world.round()
    body = world.rayjobs.change("train", {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "q"}}})
    world.keeper.seen("MODIFIED", body)
    world.round(SIX)
    assert world.suspended is True


def test_the_watch_lags_and_the_object_decides():
    world = World(a_rayjob(asks=ASKS))
    old = world.body()
    world.rayjobs.change("train", {"status": {"jobDeploymentStatus": "Running"}})
    world.keeper.seen("MODIFIED", old)
    world.round()
    assert (world.rayjobs.patches, world.suspended) == ({}, None)


def test_a_conflict_is_read_and_decided_again():
    world = World(a_rayjob(asks=ASKS))
    states = iter([{"jobDeploymentStatus": "Initializing"}, {"jobDeploymentStatus": "Running"}])
    world.rayjobs.meddle = lambda: world.rayjobs.change("train", {"status": next(states)})
    world.round()
    assert (world.rayjobs.patches, world.suspended) == ({}, None)  # it ran before it could be suspended


def test_an_object_that_always_changes_is_looked_at_again_soon():
    world = World(a_rayjob(asks=ASKS))
    world.rayjobs.meddle = lambda: world.rayjobs.change("train", {})
    assert world.round() <= 5.0
    world.rayjobs.meddle = None
    world.round(T0 + 6)
    assert world.suspended is True


def test_one_that_is_gone_is_forgotten():
    world = World(a_rayjob(asks=ASKS))
    world.rayjobs.objects.clear()
    assert world.round() == 60.0
    asked = world.rayjobs.asked
    world.round(T0 + 600)
    assert world.rayjobs.asked == asked


@pytest.mark.parametrize("fault", [UnreachableError("away"), EcoRayError("500"), ValueError("a bug")])
def test_a_fault_costs_a_moment_and_no_job(fault):
    world = World(a_rayjob(asks=ASKS), a_rayjob("other", asks=ASKS))
    world.rayjobs.faults = [fault]
    assert world.round() <= 5.0
    world.round(T0 + 6)
    assert world.rayjobs.patches == {"train": 1, "other": 1}


def test_a_clock_that_is_set_back_puts_nothing_off():
    world = World(a_rayjob(asks=ASKS))
    world.round(T0 + 5 * HOUR_S)
    world.grid.values = (400, 400, 10, 10) + (400,) * 40
    world.round(T0 + 600)
    assert world.body()["metadata"]["annotations"]["eco-ray.io/planned-start"] == "2026-11-22T02:00:00Z"


def test_a_source_that_fails_keeps_its_last_word_until_it_has_run_out():
    grid = Grid()
    world = World(a_rayjob(asks=ASKS), grid=grid)
    world.round()
    grid.fails = EcoRayError("away")
    world.round(T0 + AGAIN_S + 1)
    assert (len(grid.asked), world.suspended) == (2, True)
    world.restart()  # it knows nothing now
    world.round()
    assert world.suspended is False
    assert world.body()["metadata"]["annotations"]["eco-ray.io/reason"].startswith("SignalStale: ")


def test_a_source_is_asked_now_and_then_and_far_enough():
    grid = Grid()
    world = World(a_rayjob(asks=ASKS), a_rayjob("other", asks=ASKS), grid=grid)
    world.round()
    world.round(T0 + 100)
    assert len(grid.asked) == 1
    week = a_rayjob("week", asks={"deadline": "168h"})
    world.rayjobs.objects["default", "week"] = week
    world.keeper.seen("ADDED", week)
    world.round(T0 + 110)
    assert grid.asked[-1][2] >= T0 + 168 * HOUR_S


WHAT = st.sampled_from(["round", "kill", "lost", "away", "status", "list", "nothing"])


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(1.0, 7200.0), WHAT), max_size=20))
def test_whatever_fails_it_is_held_at_most_once_and_released_once_in_time(steps):
    """Kills between request and answer, lost answers, an API server that is away, status changes of KubeRay."""
    world = World(a_rayjob(asks=ASKS))
    rayjobs, patch = world.rayjobs, world.rayjobs.patch
    at_s = T0
    for wait_s, what in steps:
        at_s += wait_s
        if what == "kill":
            world.restart()
        if what == "away":
            rayjobs.faults = [UnreachableError("away")]
        if what == "status":
            rayjobs.change("train", {"status": {"jobDeploymentStatus": "Suspended" if world.suspended else ""}})
        if what == "list":
            world.keeper.seen(None, world.body())
        if what == "lost":  # it took effect, and nobody was told

            async def lost(*arguments):
                await patch(*arguments)
                raise UnreachableError("the answer was lost")

            rayjobs.patch = lost
        if what != "nothing":
            world.round(at_s)
        rayjobs.patch = patch
        notes = world.body()["metadata"]["annotations"]
        if "eco-ray.io/released" in notes:
            assert not world.suspended
    rayjobs.faults = []
    world.restart()
    world.round(max(at_s, T0 + 10 * HOUR_S))
    assert "eco-ray.io/released" in world.body()["metadata"]["annotations"]
    assert not world.suspended
    assert rayjobs.patches["train"] <= 2
