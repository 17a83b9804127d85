"""The controller without Ray: nodes and launcher are stand-ins that take notes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eco_ray.core.clock import Clock
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.events import NeededReplica, ServingNeeds
from eco_ray.core.jobs import Job, JobSpec, JobState, Reason
from eco_ray.core.ledger import Sample, Served, Usage
from eco_ray.core.orchestrator import OrchestratorConfig
from eco_ray.core.power import PowerCurve
from eco_ray.core.units import Nature
from eco_ray.errors import EcoRayError, NotFoundError
from eco_ray.grid import ModelledProfile
from eco_ray.job_file import job_from_flags
from eco_ray.on_ray.controller import Controller
from eco_ray.on_ray.controller_config import ControllerConfig
from eco_ray.on_ray.spool import Spool, to_json
from eco_ray.sim.recorded import decide_again
from eco_ray.store.memory import MemoryStore

H = 3600.0
NODE = Node("de-1", "DE", Resources(8, 0, 64), PowerCurve((0.0, 1.0), (50.0, 150.0), source="test"), ray_node_id="r1")


class Agents:
    """The Ray side of one node."""

    def __init__(self, folder: Path) -> None:
        self.described = {NODE.name: NODE}
        self.job_id = "01000000"
        self.sleepers: dict[str, Node] = {}
        #: (job, attempt, submission, CPUs, GPUs) that its agent was told to expect
        self.expected: list[tuple[Any, ...]] = []
        self._folder = folder
        #: what Ray has given away of each node, and the actors with GPUs there
        self.given: dict[str, Resources] = {}
        self.users: dict[str, list[tuple[str, Resources]]] = {}

    def nodes(self) -> dict[str, Node]:
        return self.described

    def asleep(self, there: dict[str, Node]) -> list[Node]:
        return [node for name, node in self.sleepers.items() if name not in there]

    def held(self, nodes: dict[str, Node]) -> dict[str, Resources]:
        return self.given

    def gpu_users(self, nodes: dict[str, Node]) -> dict[str, list[tuple[str, Resources]]]:
        return self.users

    def draining(self, nodes: dict[str, Node]) -> list[str]:
        return []

    def agent(self, node: Node) -> Any:
        return SimpleNamespace(expect=SimpleNamespace(remote=lambda *told: self.expected.append(told)))

    def spool_dir(self, node: str) -> Path:
        return self._folder / node

    def stop_agents(self) -> None:
        pass


class Launcher:
    """Takes every launch, and nothing of it ever runs."""

    def __init__(self) -> None:
        self.launched: list[Any] = []

    def start(self, job: Job, attempt: Any, ray_node_id: str) -> None:
        self.launched.append(attempt)

    def status(self, submission_id: str) -> Any:
        return SimpleNamespace(status="PENDING", is_final=False)

    def ray_jobs(self) -> dict[str, Any]:
        return {}


class Cluster:
    """A controller that can be started again on the same store."""

    def __init__(self, folder: Path) -> None:
        self.store, self.agents, self.launcher = MemoryStore(), Agents(folder / "spool"), Launcher()
        self._folder = folder
        self._running: list[Controller] = []

    def controller(self, **more: Any) -> Controller:
        clock = Clock(1.0, 0.0, 0.0)
        config = ControllerConfig("test", "DE", clock, OrchestratorConfig(), 24 * H, self._folder, "memory://", **more)
        launcher: Any = self.launcher
        made = Controller(config, self.store, ModelledProfile(), launcher, self.agents)
        self._running.append(made)
        return made

    def stop(self) -> None:
        for controller in self._running:
            controller.stop()

    def succeeded(self, job_id: str, hours: float, ended_h: float, name: str = "train") -> None:
        """A job of an earlier life of the controller."""
        spec = JobSpec(name, "true", deadline_s=ended_h * H)
        state, reason = JobState.SUCCEEDED, Reason.SUCCEEDED
        job = Job(job_id, spec, state, reason, "", 0.0, productive_s=hours * H, finished_s=ended_h * H)
        self.store.save_jobs([job])

    def planned_h(self, controller: Controller, **flags: str) -> tuple[float | None, str]:
        """The length with which a new job called train is planned, and where that comes from."""
        job_id = controller.submit(
            f"new-{time.monotonic_ns()}", job_from_flags("true", {"name": "train", **flags}), None, ""
        )
        job = self.store.get_job(job_id)
        assert job is not None
        assert job.plan is not None
        return job.plan.length_s and job.plan.length_s / H, job.plan.length_from


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.stop()


def test_lengths_are_learned_again_from_jobs_that_succeeded_before(cluster: Cluster) -> None:
    for number in range(3):
        cluster.succeeded(f"old-{number}", hours=2.0 + number, ended_h=10.0 + number)
    cluster.succeeded("other", hours=9.0, ended_h=20.0, name="other")
    controller = cluster.controller()
    assert cluster.planned_h(controller) == (4.0, "80% of its 3 earlier runs took no longer")
    assert cluster.planned_h(controller, tenant="vision")[0] != 4.0  # of another tenant nothing is known


def test_a_models_demand_is_kept_and_its_reported_requests_are_booked_once(cluster: Cluster) -> None:
    controller = cluster.controller()
    controller.put_model("digits", "digits:3", Resources(0.25, 0.0, 1.0))
    controller.put_model("other", "other:1")
    demands = {"digits:3": {"num_cpus": 0.25, "num_gpus": 0.0, "memory_gb": 1.0}}
    assert cluster.store.get_meta("model_demands") == demands
    app = "serve-app:digits"
    served = Served(app, "r1", "vision", 3, 6, 0.5), Served(app, "r1", "text", 1, 1, 0.5)
    usages = (Usage("model", app, 0, 1.0, 0.25, "r1"),)
    sample = Sample("de-1", "b", 1, 0.0, 1.0, 9_001, 0, Nature.MEASURED, "t", 0.0, usages, served=served)
    again = cluster.controller()  # it was killed, and the agent repeats itself
    assert [c.agent_report("de-1", {"samples": [to_json(sample)]}) for c in (controller, again, again)] == [1, 0, 0]
    rows = cluster.store.owner_intervals("model", "digits:3")
    assert [(row.tenant, row.part, row.requests, row.items, row.energy_mj) for row in rows] == [
        ("text", "r1", 1, 1, 4_501), ("vision", "r1", 3, 6, 4_500),
    ]  # fmt: skip


def test_the_controller_remembers_what_an_app_was_deployed_with(cluster: Cluster) -> None:
    controller = cluster.controller()
    cluster.store.put_meta("models", {"old": "old:1"})  # as it was kept before
    controller = cluster.controller()
    for version in (1, 2, 2):
        controller.put_model("digits", f"digits:{version}", Resources(0.25))
    expected = {"old": ("old:1",), "digits": ("digits:1", "digits:2")}
    assert controller._directory().models == expected
    assert cluster.controller()._directory().models == expected


def test_the_runs_that_ended_last_count(cluster: Cluster) -> None:
    for number in range(5):  # submitted first, and finished last
        cluster.succeeded(f"late-{number}", hours=10.0, ended_h=100.0 + number)
    for number in range(20):
        cluster.succeeded(f"early-{number}", hours=1.0, ended_h=50.0 + number)
    assert cluster.planned_h(cluster.controller())[0] == 10.0


def test_a_record_that_cannot_be_read_does_not_keep_the_controller_from_starting(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load = cluster.store.load_jobs

    def load_jobs(states: Sequence[JobState] | None = None, limit: int | None = None) -> list[Job]:
        if states == [JobState.SUCCEEDED]:
            raise EcoRayError("job record is not JSON")
        return load(states, limit)

    monkeypatch.setattr(cluster.store, "load_jobs", load_jobs)
    assert cluster.controller().status()["cluster"] == "test"
    assert "lengths of jobs are learned from now on: job record is not JSON" in caplog.text


def test_status_counts_open_jobs_and_nodes(cluster: Cluster) -> None:
    controller = cluster.controller()
    for _ in range(2):
        cluster.planned_h(controller, not_before="1h")
    status = controller.status()
    assert status["open_jobs"] == {"queued": 2}
    assert status["nodes"] == [{"name": "de-1", "zone": "DE", "cpus": 8.0, "there": True}]
    assert (status["clock_speed"], status["now_s"]) == (1.0, pytest.approx(time.time(), abs=5))
    assert cluster.store.get_meta("cluster") == {
        "name": "test", "home_zone": "DE",
        "nodes": [
            {"name": "de-1", "zone": "DE", "pue": 1.0, "num_cpus": 8.0, "num_gpus": 0.0, "power_source": "test",
             "embodied": None}
        ],
        "market": {},
    }  # fmt: skip


def test_the_agent_expects_what_all_workers_hold(cluster: Cluster) -> None:
    flags = {"policy": "run-now", "min_workers": "3", "max_workers": "3", "num_cpus": "2"}
    job = job_from_flags("true", flags)
    cluster.controller().submit("wide", job, None, "")
    end = time.monotonic() + 10
    while not cluster.launcher.launched and time.monotonic() < end:
        time.sleep(0.01)
    assert [attempt.workers for attempt in cluster.launcher.launched] == [3]
    assert cluster.agents.expected == [("wide", 1, "wide-a1", 6.0, 0.0)]


def test_what_an_agent_wrote_after_its_node_was_lost_is_taken_in(cluster: Cluster) -> None:
    cluster.controller()
    cluster.agents.described = {}  # its node is lost
    time.sleep(1.5)  # at least one look
    spool = Spool(cluster.agents.spool_dir("de-1"))
    sample = Sample("de-1", "boot", 7, 3600.0, 3601.0, 100_000, 40_000, Nature.MODELLED, "test", 0.4)
    spool.put(sample)
    end = time.monotonic() + 10
    while spool.load() and time.monotonic() < end:
        time.sleep(0.05)
    assert spool.load() == []
    assert [(row.node, row.energy_mj) for row in cluster.store.node_energy()] == [("de-1", 100_000)]


def test_what_is_no_sample_is_set_aside_and_does_not_hold_up_the_others(cluster: Cluster, tmp_path: Path) -> None:
    controller = cluster.controller()
    good = to_json(Sample("de-1", "boot", 1, 3600.0, 3601.0, 100_000, 40_000, Nature.MODELLED, "test", 0.4))
    bad = [{**good, "energy_mj": "much", "seq": 2}, {"usages": []}, {**good, "nature": "guessed", "seq": 3}]
    assert controller.agent_report("de-1", {"samples": [bad[0], good, *bad[1:]]}) == 1
    assert [(row.node, row.energy_mj) for row in cluster.store.node_energy()] == [("de-1", 100_000)]
    assert len(list((tmp_path / "rejected").glob("*.damaged"))) == 3


def test_what_replicas_were_granted_is_known_after_a_restart(cluster: Cluster) -> None:
    first = cluster.controller()
    need = ServingNeeds("m", (NeededReplica(Resources(4.0)),), first.now_s() + 10 * H, 0.2)
    granted = first.serving_needs(need)["granted"]
    assert [one["node"] for one in granted] == ["de-1"]
    first.stop()
    second = cluster.controller()
    assert [one["node"] for one in second.serving_needs("m")["granted"]] == ["de-1"]
    (room,) = second.serving_rooms()
    assert room.held == Resources(4.0)
    (own,) = second.serving_rooms("m")
    assert own.held == Resources()
    # nothing of it is left when the need is over
    second.serving_needs(ServingNeeds("m"))
    assert second.serving_needs("m")["granted"] == []
    assert cluster.store.get_meta("serving_needs")["needs"] == []


def test_a_grant_that_cannot_be_kept_now_is_kept_later(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    controller = cluster.controller()

    def away(key: str, value: Any) -> None:
        if key == "serving_needs":
            raise EcoRayError("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(cluster.store, "put_meta", away)
        with pytest.raises(EcoRayError, match="away"):
            controller.serving_needs(ServingNeeds("m", (NeededReplica(Resources(4.0)),)))
    deadline = time.monotonic() + 10
    while cluster.store.get_meta("serving_needs") is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(cluster.store.get_meta("serving_needs")["grants"]) == 1  # kept as soon as it is there again


def test_what_it_was_told_is_written_down_and_decided_again_also_by_the_next_life(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.succeeded("old", hours=2.0, ended_h=10.0)
    for life in range(2):
        controller = cluster.controller(record_events=True)
        controller.submit(f"j{life}", job_from_flags(f"secret-{life}", {"name": "train"}), None, "")
        with pytest.raises(NotFoundError):
            controller.submit("far", job_from_flags("true", {"zones": "XX"}), None, "")
        controller.stop()
        time.sleep(0.3)
    found = decide_again(tmp_path)
    assert [(one.kind, one.different) for one in found] == [("jobs", ())] * 2
    assert all(one.decisions >= 3 for one in found)
    told = "".join(one.file.read_text() for one in found)
    assert "NotFoundError" in told
    assert "secret" not in told


def test_what_replicas_hold_is_known_with_the_memory_that_was_declared(cluster: Cluster) -> None:
    gpu = replace(NODE, capacity=Resources(8, 2, 64, 80))
    cluster.agents.described = {NODE.name: gpu}
    cluster.agents.given = {NODE.name: Resources(3.0, 1.35, 24.0)}
    cluster.agents.users = {
        NODE.name: [
            ("ServeReplica:model.a:b:replica", Resources(1.0, 0.25, 8.0)),
            ("ServeReplica:model.a:b:replica", Resources(1.0, 0.5, 8.0)),
            ("Theirs", Resources(1.0, 0.6, 8.0)),
        ]
    }
    controller = cluster.controller()
    controller.put_model("model.a:b", "a:1", Resources(1.0, 0.25, 8.0, 10.0))
    controller.put_model("model.a:b", "a:2", Resources(1.0, 0.5, 8.0, 20.0))
    held, end = Resources(3.0, 1.75, 24.0, 30.0), time.monotonic() + 10
    while controller._core.book.foreign.get(NODE.name) != held and time.monotonic() < end:
        time.sleep(0.05)
    assert controller._core.book.foreign == {NODE.name: held}
    again = cluster.controller()  # what was declared is kept
    assert again._models.declared(("ServeReplica:model.a:b:replica", Resources(1.0, 0.5))).gpu_memory_gb == 20.0
