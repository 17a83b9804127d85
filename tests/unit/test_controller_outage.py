"""The controller while its database is away: what it decided waits, and is saved before anything of it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_controller import Cluster

from eco_ray.core.events import AttemptExited, AttemptProgressed, AttemptStarted
from eco_ray.core.jobs import JobState
from eco_ray.errors import EcoRayError, UnreachableError
from eco_ray.job_file import job_from_flags
from eco_ray.on_ray.wiring import started_at_last
from eco_ray.store.memory import MemoryStore


class Outage(MemoryStore):
    """A store that can be away."""

    away = False

    def save_jobs(self, jobs: Any, log: Any = ()) -> None:
        if self.away:
            raise UnreachableError("locked: try again")
        super().save_jobs(jobs, log)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    made.store = Outage()
    yield made
    made.stop()


def eventually(what: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not what() and time.monotonic() < end:
        time.sleep(0.01)
    return what()


def whole_node() -> Any:
    return job_from_flags("true", {"policy": "run-now", "num_cpus": "8"})


def launched(cluster: Cluster) -> list[str]:
    return [attempt.submission_id for attempt in cluster.launcher.launched]


def test_what_was_decided_during_an_outage_is_saved_and_then_done(cluster: Cluster) -> None:
    controller = cluster.controller()
    controller.submit("first", whole_node(), None, "")
    controller.submit("second", whole_node(), None, "")
    assert eventually(lambda: launched(cluster) == ["first-a1"])
    cluster.store.away = True
    controller._post(AttemptStarted("first", 1), AttemptExited("first", 1, "exited", 0, ""))  # what the watcher does
    with pytest.raises(UnreachableError, match="locked"):
        controller.suspend("second")
    time.sleep(0.5)  # ticks go on
    assert launched(cluster) == ["first-a1"]  # nothing is done that is not written down
    assert cluster.store.get_job("first").state is not JobState.SUCCEEDED
    cluster.store.away = False
    assert eventually(lambda: cluster.store.get_job("first").state is JobState.SUCCEEDED)
    assert eventually(lambda: launched(cluster) == ["first-a1", "second-a1"])
    assert [entry.kind for entry in cluster.store.job_log("first")][-1] == "succeeded"


def test_a_submission_that_cannot_be_written_down_never_runs(cluster: Cluster) -> None:
    controller = cluster.controller()
    cluster.store.away = True
    for job_id in ("new", "newer"):
        with pytest.raises(UnreachableError, match="locked"):
            controller.submit(job_id, whole_node(), None, "")
    cluster.store.away = False
    controller.submit("later", whole_node(), None, "")
    assert eventually(lambda: launched(cluster) == ["later-a1"])
    time.sleep(0.5)
    assert launched(cluster) == ["later-a1"]
    kept = cluster.store.get_job("new")
    assert kept.state is JobState.CANCELLED  # it had been taken in before the outage was noticed
    assert cluster.store.get_job("newer") is None
    assert controller.submit("newer", whole_node(), None, "") == "newer"


def test_a_job_that_no_database_takes_does_not_hold_up_the_others(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    controller = cluster.controller()
    controller.submit("sound", job_from_flags("true", {"not_before": "1h"}), None, "")
    controller.submit("odd", whole_node(), None, "")
    controller._post(AttemptProgressed("odd", 1, done=0.1, metrics={"loss": {1, 2}}))
    controller.suspend("sound")
    assert cluster.store.get_job("sound").state is JobState.SUSPENDED
    assert "no database takes it" in caplog.text


def test_a_controller_that_is_started_again_waits_for_its_database() -> None:
    answers: list[Any] = [UnreachableError("no answer"), EcoRayError("its disk is full"), None]

    def start() -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    started_at_last(start, is_restart=True, pause_s=0.01)
    assert answers == []


def test_a_first_start_tells_what_is_wrong() -> None:
    def start() -> None:
        raise UnreachableError("no answer")

    with pytest.raises(UnreachableError, match="no answer"):
        started_at_last(start, is_restart=False)
