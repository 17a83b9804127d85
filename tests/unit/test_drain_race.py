"""A job is launched while a node is drained: between a look, its decision, Ray's drain, and the look that sees that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from orchestrator_world import DE, FR, World
from test_controller import NODE, Cluster

from eco_ray.core.consolidation import Consolidation
from eco_ray.core.events import NodeDraining
from eco_ray.job_file import job_from_flags
from eco_ray.on_ray.launcher import RayJobStatus
from eco_ray.on_ray.serving import controller_side
from eco_ray.on_ray.serving.consolidator import Consolidator, View
from eco_ray.on_ray.serving.drain_record import DrainAnswer
from eco_ray.on_ray.serving.job_guests import came_since
from eco_ray.sim.recorded import decide_again
from eco_ray.store.memory import MemoryStore

NOW = {"policy": "run-now", "num_cpus": "1"}


class Ray:
    """Its job API and its nodes: on a node that is drained a launch waits for ever; who is killed has failed."""

    def __init__(self) -> None:
        self.node_of: dict[str, str] = {}
        self.failed: set[str] = set()
        self.begun: list[str] = []
        self.drained: set[str] = set()

    def start(self, _job: Any, attempt: Any, _ray_node_id: str) -> None:
        assert attempt.submission_id not in self.node_of, "launched twice"
        self.node_of[attempt.submission_id] = attempt.node

    def status(self, submission_id: str) -> RayJobStatus | None:
        node = self.node_of.get(submission_id)
        if node is None:
            return None
        if submission_id in self.failed:
            return RayJobStatus("FAILED", None, "Job supervisor actor died", None, None)
        if node not in self.drained and submission_id not in self.begun:
            self.begun.append(submission_id)
        return RayJobStatus("RUNNING" if submission_id in self.begun else "PENDING", None, "", None, None)

    def take_back(self, submission_id: str) -> None:
        assert submission_id not in self.begun
        self.failed.add(submission_id)

    def ray_jobs(self) -> dict[str, Any]:
        return {}

    def remove_leftovers(self, _submission_id: str) -> int:
        return 0

    def keep_log(self, *_: Any) -> None:
        pass


class Side:
    """What the consolidator sees of a controller and this Ray; `between` is done after a look, before the drain."""

    def __init__(self, controller: Any, ray: Ray, between: Callable[[], Any]) -> None:
        self._controller, self._ray, self._between = controller, ray, between

    def view(self, horizon_s: float) -> View:
        rooms, jobs, planned = self._controller.emptying(horizon_s)
        names = frozenset(room.node.name for room in rooms)
        return View(time.time(), tuple(rooms), tuple(jobs), frozenset(self._ray.drained), names, planned)

    def drain(self, node: Any, guests: Any, _why: str, _deadline_s: float) -> DrainAnswer:
        self._between()
        came = self._controller.close_node(node.name, guests)
        if not came:
            self._ray.drained.add(node.name)
        return DrainAnswer(not came, came)

    def let_go(self, _node: Any) -> None:
        pass


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made, ray = Cluster(tmp_path), Ray()
    made.launcher = ray
    agents: Any = made.agents
    agents.described = {name: replace(NODE, name=name, sleeps=True, ray_node_id=name) for name in ("a", "b")}
    agents.draining = lambda _nodes: sorted(ray.drained)
    agents.call = lambda _node, _method, _timeout_s=0.0: (0, b"")
    yield made
    made.stop()


def eventually(what: Callable[[], Any]) -> Any:
    end = time.monotonic() + 20
    while not what() and time.monotonic() < end:
        time.sleep(0.02)
    return what()


def where(cluster: Cluster) -> dict[str, str]:
    ray: Any = cluster.launcher
    return {name: ray.node_of[name] for name in ray.begun}


def submit(controller: Any, job_id: str = "j", **flags: str) -> None:
    controller.submit(job_id, job_from_flags("true", {**NOW, **flags}), None, "")


def test_a_drain_is_given_up_where_a_job_was_launched_since_the_look(cluster: Cluster) -> None:
    controller = cluster.controller()
    release = Consolidation(empty_s=0.0)  # the first of the two empty nodes is released at once

    def launch() -> None:
        submit(controller)
        assert eventually(lambda: where(cluster)) == {"j-a1": "a"}

    ray: Any = cluster.launcher
    consolidator = Consolidator(MemoryStore(), Side(controller, ray, launch), release)
    told = consolidator.look()
    assert (told.did, told.node, told.why) == ("refused", "a", "a is not drained: job j began there")
    assert ray.drained == set()
    assert controller._core.book.closed == set()
    assert controller.status()["open_jobs"] == {"running": 1}


def test_from_the_answer_on_jobs_are_launched_elsewhere_and_a_drain_that_never_comes_ends(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(controller_side, "TAKEN_S", 1.5)
    controller = cluster.controller(record_events=True)
    assert controller.close_node("a", ()) == ""
    submit(controller)
    assert eventually(lambda: where(cluster)) == {"j-a1": "b"}
    assert eventually(lambda: not controller._core.book.closed)  # Ray was never asked, or has refused
    submit(controller, "k", num_cpus="8")
    assert eventually(lambda: where(cluster).get("k-a1")) == "a"
    controller.stop()
    time.sleep(0.3)
    assert [one.different for one in decide_again(tmp_path)] == [()]


def test_what_was_launched_in_the_moment_of_somebodys_drain_is_taken_back_and_launched_once_elsewhere(
    cluster: Cluster,
) -> None:
    controller, ray = cluster.controller(), cluster.launcher
    ray.drained.add("a")  # nobody has told the controller yet
    submit(controller)
    assert eventually(lambda: where(cluster)) == {"j-a2": "b"}
    assert ray.node_of == {"j-a1": "a", "j-a2": "b"}
    job = controller._core.book.jobs["j"]
    assert [str(one.state) for one in job.attempts][:1] == ["stopped"]
    assert job.retries == 0


def test_what_is_pending_for_good_can_be_cancelled(cluster: Cluster) -> None:
    controller, ray = cluster.controller(), cluster.launcher
    ray.drained.add("a")
    controller._fleet.draining = lambda _nodes: []  # it is only full
    submit(controller)
    assert eventually(lambda: ray.status("j-a1"))
    controller.cancel("j")
    assert eventually(lambda: not controller._core.book.jobs)
    assert ray.begun == []


def test_what_came_since_is_a_job_that_began_or_has_its_place_there() -> None:
    world = World(DE, FR)
    book = world.core.book
    assert came_since(book, "de-1", ()) == ""
    world.running("a", hours=1, policy="run-now", zones=("DE",))
    assert came_since(book, "de-1", ("job a",)) == ""
    assert came_since(book, "de-1", ("job b",)) == "job a began there"
    assert came_since(book, "fr-1", ()) == ""
    world.submit("b", hours=1, zones=("DE",), deadline_h=20)
    assert came_since(book, "de-1", ("job a", "job b")) == "job b has its place there"
    world.do(NodeDraining("de-1"))
    assert came_since(book, "de-1", ("job a",)) == ""


def test_a_stop_takes_back_what_has_not_begun_and_stops_what_has() -> None:
    from eco_ray.core.clock import Clock
    from eco_ray.core.jobs import Attempt, AttemptState
    from eco_ray.on_ray.watcher import Watcher

    ray, done = Ray(), []
    launcher: Any = SimpleNamespace(
        status=ray.status,
        stop=lambda name: done.append(("stop", name)),
        take_back=lambda name: done.append(("take back", name)),
    )
    watcher = Watcher(launcher, None, {}, Clock(1.0, 0.0, 0.0), lambda *_: None)
    ray.drained.add("a")
    for number, node in ((1, "a"), (2, "b")):
        one = Attempt(number, f"j-a{number}", node, "DE", AttemptState.LAUNCHING, 0.0)
        ray.start(None, one, node)
        watcher.watch("j", one)
        watcher.stop_attempt(one.submission_id)
    watcher.start()
    assert eventually(lambda: len(done) >= 2)
    watcher.stop()
    assert done[:2] == [("take back", "j-a1"), ("stop", "j-a2")]
