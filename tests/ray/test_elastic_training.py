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
from live_cluster import CLUSTER, SCRIPTS, SPEED, START, intensities

from eco_ray.cluster_file import load_cluster_file
from eco_ray.config import load_settings
from eco_ray.core.cluster import Resources
from eco_ray.core.jobs import Attempt, AttemptState, Job, JobSpec, JobState, Reason, Workers
from eco_ray.on_ray import bootstrap
from eco_ray.on_ray.attempt_files import read_report
from eco_ray.on_ray.client import Client
from eco_ray.on_ray.launcher import Launcher, RayJobStatus

pytestmark = pytest.mark.timeout(300)
pytest.importorskip("pyarrow", reason="Ray Train needs pyarrow: pip install 'eco-ray[train]'")

#: with checkpoints a second apart, a kill costs at most so many of the steps of 0.1 s with two workers
EPOCHS, STEP_S, MOST_REPEATED = 30, 0.1, 40


class Attempts:
    """Launches attempts of one job as the performer does, with any number of workers."""

    def __init__(self, folder: Path, client: Client, state_dir: Path) -> None:
        self.lines = folder / "steps"
        self.launcher = Launcher(client.record.dashboard_url, state_dir, folder / "run")
        self.node_id = next(
            node["NodeID"] for node in _nodes(client) if node["Alive"] and node["Resources"].get("CPU") == 2
        )
        run = " ".join([sys.executable, str(SCRIPTS / "elastic.py"), str(self.lines), str(EPOCHS), str(STEP_S)])
        spec = JobSpec("elastic", run, 0.0, demand=Resources(1.0, 0.0, 0.2), workers=Workers(1, 2))
        self.job = Job("elastic", spec, JobState.RUNNING, Reason.RUNNING, "", 0.0)

    def start(self, number: int, workers: int) -> Attempt:
        attempt = Attempt(number, f"elastic-a{number}", "two-1", "AA", AttemptState.LAUNCHING, 0.0, workers=workers)
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
            (self.launcher.run_dir("two-1", attempt) / "pause").touch()
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


def _nodes(client: Client) -> list[dict[str, object]]:
    client.status()  # connects
    import ray

    return list(ray.nodes())


@pytest.fixture
def attempts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attempts]:
    import ray

    ray.shutdown()  # of the shared cluster of the other tests
    folder = tmp_path_factory.mktemp("e")
    trace = folder / "trace.csv"
    rows = [f"{START.isoformat()},{','.join(map(str, intensities(0).values()))}"]
    trace.write_text("\n".join([f"time,{','.join(intensities(0))}", *rows]))
    text = CLUSTER.format(trace=trace, speed=SPEED)
    nodes = "  - {name: two-1, zone: AA, num_cpus: 2, memory_gb: 2, power: {idle_w: 50, max_w: 100, source: test}}\n"
    (folder / "cluster.yaml").write_text(text[: text.index("  - {name: aa-1")] + nodes + text[text.index("grid:") :])
    settings = load_settings({"state_dir": str(folder / "state")})
    described = load_cluster_file(folder / "cluster.yaml", settings)
    with contextlib.ExitStack() as stack:
        stack.callback(bootstrap.down, settings)
        bootstrap.up(described, settings, lambda: described.clock.to_clock(time.time()))
        stack.callback(ray.shutdown)
        yield Attempts(folder, Client(settings), settings.state_dir)


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
    report = read_report(attempts.launcher.run_dir("two-1", three))
    assert report is not None
    found = [float(value) for value in str(report["metrics"]["weights"]).split()]
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
