"""Ray Train inside attempts: more and fewer workers at checkpoints, a killed worker, and the very same steps."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live_cluster import SCRIPTS, Cluster

from eco_ray.core.cluster import Node, Resources
from eco_ray.core.jobs import Attempt, AttemptState, Job, JobSpec, JobState, Reason, Workers
from eco_ray.core.power import PowerCurve
from eco_ray.on_ray import local_cluster
from eco_ray.on_ray.attempt_files import read_report
from eco_ray.on_ray.launcher import Launcher, RayJobStatus

pytestmark = pytest.mark.timeout(300)
pytest.importorskip("pyarrow", reason="Ray Train needs pyarrow: pip install 'eco-ray[train]'")

#: with checkpoints a second apart, a kill costs at most so many of the steps of 0.1 s with two workers
EPOCHS, STEP_S, MOST_REPEATED = 20, 0.1, 40
NODE = "two-1"


class Attempts:
    """Launches attempts of one job as the performer does, with any number of workers."""

    def __init__(self, cluster: Cluster, node_id: str) -> None:
        self.lines = cluster.folder / "elastic-steps"
        state_dir = cluster.settings.state_dir
        self.launcher = Launcher(cluster.client.record.dashboard_url, state_dir, cluster.folder / "elastic-run")
        self.node_id = node_id
        run = " ".join([sys.executable, str(SCRIPTS / "elastic.py"), str(self.lines), str(EPOCHS), str(STEP_S)])
        spec = JobSpec("elastic", run, 0.0, demand=Resources(1.0, 0.0, 0.2), workers=Workers(1, 2))
        self.job = Job("elastic", spec, JobState.RUNNING, Reason.RUNNING, "", 0.0)

    def start(self, number: int, workers: int) -> Attempt:
        attempt = Attempt(number, f"elastic-a{number}", NODE, "EE", AttemptState.LAUNCHING, 0.0, workers=workers)
        self.launcher.start(self.job, attempt, self.node_id)
        return attempt

    def wait(self, attempt: Attempt, steps: int) -> None:
        """Until the attempt has made so many steps."""
        deadline = time.monotonic() + 90
        while len([one for one in self.steps() if one[0] == attempt.number]) < steps:
            status = self.launcher.status(attempt.submission_id)
            assert status is None or not status.is_final, self.log(attempt)
            assert time.monotonic() < deadline, self.log(attempt)
            time.sleep(0.1)

    def ended(self, attempt: Attempt, *, pause: bool) -> RayJobStatus:
        if pause:
            (self.launcher.run_dir(NODE, attempt) / "pause").touch()
        status = self.launcher.wait_final(attempt.submission_id, 90)
        assert status is not None
        assert status.is_final, self.log(attempt)
        return status

    def steps(self) -> list[tuple[int, int, int, float]]:
        """(attempt, workers, consumed, loss) in the order in which rank 0 wrote them."""
        if not self.lines.exists():
            return []
        rows = [line.split() for line in self.lines.read_text().splitlines()]
        return [(int(a), int(w), int(c), float(loss)) for a, w, c, loss in rows]

    def log(self, attempt: Attempt) -> str:
        text = str(self.launcher.client.get_job_logs(attempt.submission_id))
        return text[-4000:]


@pytest.fixture
def attempts(cluster: Cluster) -> Iterator[Attempts]:
    """On a node of its own with two CPUs, which goes away afterwards."""
    import ray

    record = cluster.client.record
    before = len(record.processes)
    node = Node(NODE, "EE", Resources(2.0, 0.0, 2.0), PowerCurve((0, 1), (50, 100), "test"))
    cluster.client.status()  # connects
    local_cluster.add_node(record, node, cluster.settings.state_dir)
    started = [pid for pid, _ in record.processes[before:]]
    try:
        found = next(one for one in ray.nodes() if one["Alive"] and one["Resources"].get("CPU") == 2)
        yield Attempts(cluster, str(found["NodeID"]))
    finally:
        for pid in started:
            if local_cluster.start_ticks(pid):
                os.kill(pid, signal.SIGKILL)


def worker_pids(attempt: Attempt) -> list[int]:
    """The workers of Ray Train of an attempt, rank 0 not first of necessity."""
    wanted = {b"ECO_RAY_JOB_ID=elastic", f"ECO_RAY_ATTEMPT={attempt.number}".encode()}
    found = []
    for entry in (one for one in Path("/proc").iterdir() if one.name.isdigit()):
        with contextlib.suppress(OSError):
            ours = wanted <= set((entry / "environ").read_bytes().split(b"\0"))
            if ours and (entry / "cmdline").read_bytes().startswith(b"ray::RayTrainWorker"):
                found.append(int(entry.name))
    return found


def test_it_grows_and_shrinks_at_checkpoints_and_survives_a_killed_worker(attempts: Attempts) -> None:
    one = attempts.start(1, workers=1)
    attempts.wait(one, steps=15)
    assert attempts.ended(one, pause=True).exit_code == 75

    two = attempts.start(2, workers=2)
    attempts.wait(two, steps=30)
    pids = worker_pids(two)
    assert len(pids) == 2
    os.kill(pids[-1], signal.SIGKILL)
    before = len(attempts.steps())
    deadline = time.monotonic() + 90
    while len(attempts.steps()) < before + 25:
        assert time.monotonic() < deadline, attempts.log(two)
        time.sleep(0.1)
    assert attempts.ended(two, pause=True).exit_code == 75
    log = attempts.log(two)
    assert "all workers start again from ckpt-2-" in attempts.launcher.client.get_job_logs(two.submission_id), log

    three = attempts.start(3, workers=1)
    ended = attempts.ended(three, pause=False)
    assert (ended.status, ended.exit_code) == ("SUCCEEDED", 0), attempts.log(three)

    steps = attempts.steps()
    assert [sorted({w for a, w, _, _ in steps if a == number}) for number in (1, 2, 3)] == [[1], [2], [1]]
    # a pause repeats nothing and leaves nothing out; the kill repeats what no checkpoint held
    first: dict[int, float] = {}
    again = 0
    for _, _, consumed, loss in steps:
        assert consumed <= (max(first) if first else 0) + 24, "a step was left out"
        again += consumed in first
        assert first.setdefault(consumed, loss) == pytest.approx(loss, abs=2e-6)  # the very same step
    assert sorted(first) == list(range(24, 240 * EPOCHS + 1, 24))
    assert 0 <= again <= MOST_REPEATED
    boundaries = [(a, c) for i, (a, _, c, _) in enumerate(steps) if i and steps[i - 1][0] != a]
    assert all(c not in [c for a, _, c, _ in steps if a < number] for number, c in boundaries)
    # the weights are those of a run without any of this
    report = read_report(attempts.launcher.run_dir(NODE, three))
    assert report is not None
    found = [float(value) for value in str(report["metrics"]["weights"]).split()]
    assert found == pytest.approx(alone(EPOCHS), abs=1e-6)


@pytest.fixture
def two_nodes(cluster: Cluster) -> Iterator[dict[str, list[int]]]:
    """Two nodes with two CPUs each, in a zone of their own: name -> its processes. They go away afterwards."""
    record = cluster.client.record
    cluster.client.status()  # connects
    started: dict[str, list[int]] = {}
    try:
        for name in ("pair-1", "pair-2"):
            before = len(record.processes)
            node = Node(name, "EE", Resources(2.0, 0.0, 2.0), PowerCurve((0, 1), (50, 100), "test"))
            local_cluster.add_node(record, node, cluster.settings.state_dir)
            started[name] = [pid for pid, _ in record.processes[before:]]
        deadline = time.monotonic() + 60
        while not started.keys() <= {n["name"] for n in cluster.client.status()["nodes"] if n["there"]}:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield started
    finally:
        for pid in (pid for pids in started.values() for pid in pids):
            if local_cluster.start_ticks(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_node_costs_an_elastic_job_its_attempt_and_no_more(
    cluster: Cluster, two_nodes: dict[str, list[int]]
) -> None:
    lines = cluster.folder / "elastic-node-steps"
    flags = {"min_workers": "2", "max_workers": "2", "memory_gb": "0.2", "zones": "EE", "resume_cost": "1s"}
    job_id = cluster.client.submit(cluster.script("elastic.py", str(lines), str(EPOCHS), "0.3", **flags))

    def steps() -> list[tuple[str, str, int]]:
        rows = [line.split() for line in lines.read_text().splitlines()] if lines.exists() else []
        return [(attempt, workers, int(consumed)) for attempt, workers, consumed, _ in rows]

    deadline = time.monotonic() + 120
    while len(steps()) < 40 or not cluster.client.job(job_id).has_checkpoint:
        assert not cluster.client.job(job_id).state.is_final, cluster.client.job(job_id).message
        assert time.monotonic() < deadline
        time.sleep(0.1)
    killed = cluster.client.job(job_id).attempts[0].node
    for pid in two_nodes[killed]:
        os.kill(pid, signal.SIGKILL)
    ended = cluster.client.wait(job_id, 180)
    assert ended.state is JobState.SUCCEEDED, ended.message
    assert [a.state for a in ended.attempts] == [AttemptState.LOST, AttemptState.SUCCEEDED]
    assert {a.node for a in ended.attempts} == two_nodes.keys()
    done = steps()
    assert {(attempt, workers) for attempt, workers, _ in done} == {("1", "2"), ("2", "2")}
    first, second = ([consumed for attempt, _, consumed in done if attempt == number] for number in ("1", "2"))
    assert sorted({*first, *second}) == list(range(24, 240 * EPOCHS + 1, 24))  # nothing was left out
    assert second == sorted(second)
    assert min(second) > 24  # not from the beginning
    assert len([consumed for consumed in first if consumed >= min(second)]) <= MOST_REPEATED
    found = [float(value) for value in str(ended.metrics["weights"]).split()]
    assert found == pytest.approx(alone(EPOCHS), abs=1e-6)


def alone(epochs: int) -> list[float]:
    """The same steps in numpy: gradients of the mean squared error, written out."""
    import numpy as np

    from eco_ray.train.batches import batches

    rng = np.random.default_rng(0)
    x = rng.normal(size=(240, 5))
    y = x @ np.arange(5.0) + rng.normal(size=240)
    weights, bias = np.zeros(5), 0.0
    for batch in batches(240, 24, epochs):
        error = x[batch.rows] @ weights + bias - y[batch.rows]
        weights = weights - 0.01 * 2 * error @ x[batch.rows] / len(error)
        bias = bias - 0.01 * 2 * float(error.mean())
    return [float(value) for value in weights]
