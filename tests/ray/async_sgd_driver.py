"""What test_async_sgd.py runs in a process of its own, as it starts a cluster of two nodes and kills some of it.

`async_sgd_driver.py FOLDER` prints a line of JSON for each case.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import numpy as np
import ray
from ray.cluster_utils import Cluster

from eco_ray.errors import EcoRayError
from eco_ray.on_ray.local_cluster import _with_descendants
from eco_ray.on_ray.training import async_sgd
from eco_ray.on_ray.training.async_sgd import Options, train
from eco_ray.train.async_sgd import Worker, play
from eco_ray.train.batch_order import BatchOrder
from eco_ray.train.gradients import codec
from eco_ray.train.session import Paused, Session
from eco_ray.train.sgd import SGD, LearningRate

STEPS = 240


class Line:
    """y = 3 x + 1 by least squares; a gradient takes 10 ms. `fails_at`: a step that ends its process, or raises."""

    def __init__(self, dies_at=-1, raises_at=-1, hangs_at=-1):
        rng = np.random.default_rng(0)
        self.x = rng.normal(size=80)
        self.y = 3 * self.x + 1 + 0.01 * rng.normal(size=80)
        self.batches = BatchOrder(80, 8)
        self.dies_at, self.raises_at, self.hangs_at = dies_at, raises_at, hangs_at
        self.marker = Path(tempfile.mkdtemp()) / "hung"

    def start(self):
        return {"w": np.zeros(1), "b": np.zeros(1)}

    def gradient(self, parameters, step, pause_s=0.01):
        if step == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == self.raises_at:
            raise ValueError("no such image")
        if step == self.hangs_at and not self.marker.exists():
            self.marker.touch()
            time.sleep(600)
        time.sleep(pause_s)
        rows = self.batches.rows(step)
        x, error = self.x[rows], self.x[rows] * parameters["w"] + parameters["b"] - self.y[rows]
        return float(np.mean(error**2)), {"w": np.array([2 * np.mean(error * x)]), "b": np.array([2 * np.mean(error)])}


#: a module that only the driver's path leads to
BESIDE = """
class Scaled:
    def __init__(self, task):
        self.task, self.start = task, task.start

    def gradient(self, parameters, step):
        return self.task.gradient(parameters, step)
"""


class Holder:
    """Holds a CPU."""

    def hold(self):
        return True


class Watched(Session):
    """Calls something when so many updates are done, once or often."""

    def __init__(self, folder, at=10**9, then=None, attempt=1, often=False):
        super().__init__(folder / f"run-{attempt}", folder / "checkpoints", job_id=None, attempt=attempt)
        self.at, self.then, self.often = at, then, often

    def progress(self, done, /, **metrics):
        super().progress(done, **metrics)
        if done[0] >= self.at and self.then is not None:
            self.then()
            self.then = self.then if self.often else None


def kill(title, roots=None):
    """SIGKILL one of this cluster's processes by the title that Ray gives it."""
    for pid, _ in sorted(_with_descendants(roots or [os.getpid()])):
        try:
            found = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if found.startswith(title):
            os.kill(pid, signal.SIGKILL)
            return
    raise AssertionError(f"no process {title}")


def case(name, task, run, rate=0.2, **options):
    told = []
    began = time.monotonic()
    answer = {"case": name}
    try:
        chosen = Options(**{"steps": STEPS, "workers": 2, "checkpoint_s": 0.3, **options})
        parameters, tally = train(run, task, task.start(), SGD(LearningRate(rate, 0.0)), chosen, told.append)
        answer |= {"w": float(parameters["w"][0]), "b": float(parameters["b"][0]), **tally.metrics()}
    except (EcoRayError, Paused) as error:
        answer |= {"error": type(error).__name__, "message": str(error)}
    print(json.dumps({**answer, "told": told, "took_s": round(time.monotonic() - began, 1)}), flush=True)  # noqa: T201  # what the test reads


def main():
    root = Path(sys.argv[1])

    def place(name):
        (root / name).mkdir(exist_ok=True)
        return root / name

    server = async_sgd.make_server(Line().start(), SGD(LearningRate(0.2, 0.0)), Options(STEPS, 2, "sync"))
    task = Line()
    quick = type("Quick", (), {"gradient": lambda self, p, step: task.gradient(p, step, 0.0)})()
    play(server, {"a": Worker(quick, codec("none"))}, iter(lambda: "a", None))
    plain = {name: float(values[0]) for name, values in server.parameters.items()}
    print(json.dumps({"case": "plain", **plain}), flush=True)  # noqa: T201  # what the test reads

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    cluster.connect()
    try:
        case("sync", Line(), Watched(place("sync")), method="sync")
        (place("modules") / "beside.py").write_text(BESIDE)
        sys.path.append(str(place("modules")))
        case("a module of its own", __import__("beside").Scaled(Line()), Watched(place("beside")), steps=40)
        kill_worker = Watched(place("worker"), 60, lambda: kill("ray::GradientWorkerActor"))
        case("worker killed", Line(), kill_worker, codec="int8")
        kill_server = Watched(place("server"), 100, lambda: kill("ray::ParameterServerActor"))
        case("server killed", Line(), kill_server)
        pause = Watched(place("pause"), 60, (place("pause") / "run-1/pause").touch)
        case("paused", Line(), pause)
        case("resumed", Line(), Watched(place("pause"), attempt=2))
        case("another training", Line(), Watched(place("pause"), attempt=3), steps=99)
        case("raises", Line(raises_at=20), Watched(place("raises")))
        case("diverges", Line(), Watched(place("diverges")), rate=1e300)
        case("hangs", Line(hangs_at=20), Watched(place("hangs")), steps=60, worker_timeout_s=2.0)
        kill_always = Watched(place("server always"), 0, lambda: kill("ray::ParameterServerActor"), often=True)
        case("server always killed", Line(), kill_always)
        async_sgd._START_S = 1.0
        holders = [ray.remote(num_cpus=1)(Holder).remote() for _ in range(2)]
        ray.get([holder.hold.remote() for holder in holders])
        threading.Timer(4.0, lambda: [ray.kill(holder) for holder in holders]).start()
        case("no room", Line(), Watched(place("room")), steps=60)
        case("dies", Line(dies_at=20), Watched(place("dies")), workers=1)
        kill_node = Watched(place("node"), 60, lambda: cluster.remove_node(second, allow_graceful=False))
        case("node killed", Line(), kill_node)
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
