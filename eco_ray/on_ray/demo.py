"""The whole path once, on this machine: cluster, jobs, a served model, report. `eco-ray demo` prints what it yields."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from eco_ray.cluster_file import ClusterFile, load_cluster_file
from eco_ray.config import Settings
from eco_ray.core.clock import Clock
from eco_ray.core.cluster import Node, Resources
from eco_ray.core.deployments import Deployment
from eco_ray.core.jobs import Job
from eco_ray.errors import EcoRayError, NotFoundError, UsageError
from eco_ray.job_file import load_job_file
from eco_ray.on_ray import bootstrap
from eco_ray.on_ray.client import Client
from eco_ray.on_ray.local_cluster import ClusterRecord, free_port, is_alive
from eco_ray.report import write_report
from eco_ray.times import parse_instant

#: when the jobs are submitted, in grid time: a summer Sunday, whose afternoon and night are clean, its evening not
SUBMITTED_AT = "2026-07-05T12:50Z"
#: how long before that the clock begins, for controller and agents to start: so many times what the nodes took, so that
#: a slow machine tells the same story
_SETTLE = 0.5
JOBS = ("train_mnist", "linear_regression", "softmax_regression")
MODEL_JOB, MODEL_NAME, MODEL_VERSION = "train-mnist", "mnist", 1
REQUESTS = 200
#: who asks, in turn: the tenants of the jobs
ASKING = ("vision", "health")
#: what Ray holds for the model: a quarter of its node, whose idle power and embodied carbon it is charged for
MODEL_CPUS = 0.25
#: how long the ledger may take to have all requests before the demo goes on [wall s]
_COUNTED_S = 5.0
#: how long the jobs may take before the demo gives up [wall s]
_TIMEOUT_S = 240.0

#: file that marks a state directory as a demo's, which the next demo may empty
_MARK = "made-by-eco-ray-demo"


@dataclass(frozen=True)
class Line:
    """Something to tell: grid time (None: not yet known) and a sentence."""

    grid_s: float | None
    text: str


class Demo:
    """One run of the demo. `run` yields lines; afterwards `document` is the report and `jobs` are the jobs' records."""

    def __init__(self, settings: Settings, root: Path, out: Path, speed: float, keep: bool) -> None:
        self.settings = settings
        self.root = root
        self.out = out
        self.speed = speed
        self.keep = keep
        self.document: dict[str, Any] = {}
        self.jobs: list[Job] = []
        self._clock = Clock()
        self._answered: dict[str, Any] | None = None

    def run(self) -> Iterator[Line]:
        """Do everything, telling each step. Raises EcoRayError when something does not hold."""
        began = time.monotonic()
        cluster = self._described()
        self._fresh_state()
        yield Line(None, f"starting a Ray cluster: {', '.join(f'{n.name} in {n.zone}' for n in cluster.to_nodes())}")
        client = self._up(cluster)
        try:
            yield self._line(f"cluster is up after {time.monotonic() - began:.0f} s at {client.record.address}")
            time.sleep(max(0.0, self._clock.wall_s(parse_instant(SUBMITTED_AT)) - time.time()))
            ids = [client.submit(load_job_file(self.root / "jobs" / f"{name}.yaml")) for name in JOBS]
            yield from self._follow(client, ids, cluster)
            self.jobs = [client.job(job_id) for job_id in ids]
            time.sleep(2 * cluster.sample_period_s)  # the agents' last samples
            self.document = write_report(client.store, self.out, self._clock.grid_s(time.time()))
            yield self._line(f"finished after {time.monotonic() - began:.0f} s")
        finally:
            if not self.keep:
                _leave_ray()
                bootstrap.down(self.settings)

    # -- steps -------------------------------------------------------------------------------------------------------

    def _described(self) -> ClusterFile:
        path = self.root / "cluster/laptop.yaml"
        if not path.exists() or not (self.root / "jobs").is_dir():
            raise NotFoundError(
                f"the demo's cluster/laptop.yaml and jobs/ are not in {self.root}; run it in a clone of eco_ray"
            )
        cluster = load_cluster_file(path, self.settings)
        return cluster.model_copy(update={"serve": cluster.serve.model_copy(update={"port": free_port()})})

    def _fresh_state(self) -> None:
        state_dir = self.settings.state_dir
        old = ClusterRecord.load(state_dir) if state_dir.exists() else None
        if old is not None and is_alive(old):
            raise UsageError(f"a cluster is up in {state_dir}; end it with `eco-ray down --state-dir {state_dir}`")
        if state_dir.exists() and not (state_dir / _MARK).exists() and any(state_dir.iterdir()):
            raise UsageError(f"{state_dir} is not of an earlier demo; give --state-dir an empty or new folder")
        shutil.rmtree(state_dir, ignore_errors=True)
        state_dir.mkdir(parents=True, mode=0o700)
        (state_dir / _MARK).touch()

    def _up(self, cluster: ClusterFile) -> Client:
        began_s = time.time()

        def clock() -> Clock:
            """Grid time begins when the nodes are up."""
            now_s = time.time()
            settle_s = _SETTLE * (now_s - began_s)
            self._clock = Clock(self.speed, now_s, parse_instant(SUBMITTED_AT) - settle_s * self.speed)
            return self._clock

        bootstrap.up(cluster, self.settings, clock)
        return Client(self.settings)

    def _follow(self, client: Client, ids: list[str], cluster: ClusterFile) -> Iterator[Line]:
        """Tell what happens to the jobs until all have ended; serve the model as soon as it is trained."""
        told: dict[str, int] = {}
        deadline = time.monotonic() + _TIMEOUT_S
        proxy: _Background | None = None
        while True:
            jobs = [client.job(job_id) for job_id in ids]
            # launches have the machine to themselves
            if proxy is None and any(job.state.is_final for job in jobs) and not any(job.live_attempt for job in jobs):
                proxy = _Background(partial(_start_proxy, cluster.serve.port))
            for job in jobs:
                log = client.store.job_log(job.id)
                for entry in log[told.get(job.id, 0) :]:
                    if entry.kind != "submitted":
                        what = entry.message.removeprefix("pauses: ")
                        yield Line(entry.time_s, f"{job.spec.name:<18} {entry.kind:<10} {what}")
                told[job.id] = len(log)
            trained = next((j for j in jobs if j.spec.name == MODEL_JOB and j.state == "succeeded"), None)
            if trained is not None and self._answered is None:
                proxy = proxy or _Background(partial(_start_proxy, cluster.serve.port))
                proxy.wait()
                yield from self._serve(client, trained, cluster)
            if all(job.state.is_final for job in jobs):
                break
            if time.monotonic() > deadline:
                open_jobs = ", ".join(f"{j.id} ({j.message})" for j in jobs if not j.state.is_final)
                raise EcoRayError(f"the demo's jobs took more than {_TIMEOUT_S:g} s; still open: {open_jobs}")
            time.sleep(0.5)
        failed = [job for job in jobs if job.state != "succeeded"]
        if failed:
            raise EcoRayError("; ".join(f"{job.id} {job.message}" for job in failed))

    def _serve(self, client: Client, trained: Job, cluster: ClusterFile) -> Iterator[Line]:
        from eco_ray.on_ray.at_once import deploy
        from eco_ray.on_ray.serve_config import ServingConfig

        path = Path(str(trained.metrics.get("model", "")))
        node = self._cleanest(client, cluster.to_nodes())
        yield self._line(f"deploying {path.name} as {MODEL_NAME}:{MODEL_VERSION} on {node.name} in {node.zone}")
        demand, version = Resources(MODEL_CPUS), MODEL_VERSION
        served = Deployment(MODEL_NAME, version, path=str(path.absolute()), demand=demand, nodes=(node.name,))
        state_dir, store_url = client.settings.state_dir, client.settings.store_url
        url = deploy(served, ServingConfig("127.0.0.1", cluster.serve.port, state_dir, store_url))
        self._answered = _ask_held_out(url, self.root)
        told = {"name": MODEL_NAME, "version": MODEL_VERSION, "num_cpus": MODEL_CPUS, "items": "image"}
        client.note_served({**told, **self._answered["counts"]})
        self._wait_counted(client, served.reference(version))
        yield self._line(
            f"POST {url}: {self._answered['counts']['correct']} of {self._answered['counts']['requests']} "
            f"held-out images read right; footprint of the last: {self._answered['header']}"
        )

    def _wait_counted(self, client: Client, reference: str) -> None:
        """Until the ledger has all requests; without them the report says less, and the demo goes on."""
        deadline = time.monotonic() + _COUNTED_S
        while time.monotonic() < deadline:
            rows = client.store.owner_intervals("model", reference)
            if sum(row.requests or 0 for row in rows) >= REQUESTS:
                return
            time.sleep(0.25)

    def _cleanest(self, client: Client, nodes: list[Node]) -> Node:
        """The node in the cleanest zone that no job holds."""
        taken = {job.live_attempt.node for job in client.store.load_jobs() if job.live_attempt is not None}
        nodes = [node for node in nodes if node.name not in taken] or nodes

        def intensity(node: Node) -> float:
            signal = client.signal(node.zone)
            return float(signal["intensity_g_per_kwh"]) if signal else float("inf")

        return min(nodes, key=intensity)

    def _line(self, text: str) -> Line:
        return Line(self._clock.grid_s(time.time()), text)


class _Background:
    """A call in a thread, whose error comes out in `wait`."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._error: BaseException | None = None

        def run() -> None:
            try:
                call()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait for its end."""
        self._thread.join()
        if self._error is not None:
            raise self._error


def _start_proxy(port: int) -> None:
    """Start Ray Serve's own processes, so that the trained model does not wait for them."""
    from eco_ray.on_ray.at_once import start_http

    start_http(port)


def _ask_held_out(url: str, root: Path) -> dict[str, Any]:
    """Send held-out images, one per request; count the right answers, and check that each carries its footprint."""
    import httpx

    from eco_ray.service.gate import TENANT_HEADER

    images, labels = _held_out(root)
    correct, header = 0, ""
    with httpx.Client(timeout=10.0) as http:
        for number, (image, label) in enumerate(zip(images[:REQUESTS], labels[:REQUESTS], strict=True)):
            body = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 28, 28], "data": image.tolist()}]}
            answer = http.post(url, json=body, headers={TENANT_HEADER: ASKING[number % len(ASKING)]})
            answer.raise_for_status()
            content = answer.json()
            header = answer.headers.get("Eco-Footprint", "")
            if not header or "footprint" not in content.get("parameters", {}):
                raise EcoRayError(f"an answer of {url} carries no footprint; headers {dict(answer.headers)}")
            correct += content["outputs"][0]["data"][0] == int(label)
    return {"counts": {"requests": REQUESTS, "correct": correct}, "header": header}


def _held_out(root: Path) -> tuple[Any, Any]:
    """Held-out images as flat pixel arrays, and their labels, from the job's own data module."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("mnist_data", root / "jobs/mnist_data.py")
    if spec is None or spec.loader is None:
        raise NotFoundError(f"no jobs/mnist_data.py in {root}")
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["mnist_data"] = module
    spec.loader.exec_module(module)
    data = module.load()
    return data.held_out_images.reshape(len(data.held_out_labels), -1), data.held_out_labels


def _leave_ray() -> None:
    import ray

    if ray.is_initialized():
        ray.shutdown()
