"""What the drivers share that run in a process of their own on a cluster whose nodes an autoscaler starts and ends.

Ray keeps the token of the first cluster that a process joins. A driver gets a folder, and prints what it saw as JSON.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import autoscaled_cluster
import httpx

from eco_ray.cluster_file import load_cluster_file
from eco_ray.config import Settings, load_settings
from eco_ray.core.cluster import Resources
from eco_ray.core.consolidation import Consolidation
from eco_ray.core.deployments import Deployment
from eco_ray.on_ray import bootstrap, local_cluster

FOLDER = Path(sys.argv[1])
STATE = FOLDER / "state"
PORT = local_cluster.free_port()
BASE = f"http://127.0.0.1:{PORT}"
POWER = "power: {idle_w: 50, max_w: 100, source: test}"
#: a dirty and a clean node
CLUSTER = f"""
name: autoscaled
home_zone: AA
nodes:
  - {{name: dirty, zone: AA, num_cpus: 3, memory_gb: 4, sleeps: true, wake_wh: 0.02, {POWER}}}
  - {{name: green, zone: BB, num_cpus: 3, memory_gb: 4, sleeps: true, wake_wh: 0.02, {POWER}}}
clock: {{speed: SPEED}}
grid: {{source: trace, file: {FOLDER / "trace.csv"}}}
planner: {{slot: 15m, horizon: 24h, default_max_delay: 12h}}
pause_timeout: 20s
sample_period: 1s
serve: {{port: {PORT}}}
"""
IMAGE = {"name": "image", "datatype": "FP32", "shape": [1, 28, 28], "data": [0.5] * 784}
BEGAN = time.monotonic()
facts: dict[str, Any] = {"times": {}}


@contextlib.contextmanager
def cluster(speed: float = 1.0, aa: Callable[[int], float] = lambda _hour: 600.0) -> Iterator[Settings]:
    """A cluster with its controller and no node but the head; its settings. Prints the facts at the end.

    `speed` of its clock; `aa`: the intensity of the dirty node's zone so many hours from now [g/kWh].
    """
    start = datetime.now(UTC).replace(second=0, microsecond=0)
    rows = [f"{(start + timedelta(hours=h)).isoformat()},{aa(h)},50" for h in range(-48, 72)]
    (FOLDER / "trace.csv").write_text("\n".join(["time,AA,BB", *rows]))
    (FOLDER / "cluster.yaml").write_text(CLUSTER.replace("SPEED", str(speed)))
    STATE.mkdir()
    settings = load_settings({"state_dir": str(STATE)})
    described = load_cluster_file(FOLDER / "cluster.yaml", settings)
    record = autoscaled_cluster.start(described.to_nodes(), STATE, idle_s=6.0)
    import ray  # it reads the environment of the cluster when it is imported

    try:
        ray.init(address=record.address, namespace="eco_ray", log_to_driver=False)
        bootstrap.start_controller(described, settings, described.clock.to_clock(time.time()), record)
        note("controller")
        yield settings
    finally:
        ray.shutdown()
        local_cluster.stop(record, STATE)
    note("stopped")
    sys.stdout.write(json.dumps(facts) + "\n")


def consolidate(serving: Any) -> Callable[[], None]:
    """Empty and release nodes sooner than the deployer does; what ends that."""
    import ray

    from eco_ray.on_ray.serving.consolidator import Consolidator
    from eco_ray.on_ray.serving.ray_cluster import RayCluster
    from eco_ray.store.memory import MemoryStore

    seen = RayCluster(
        lambda: ray.get(serving.deployments.remote()), lambda: True, lambda: ray.get(serving.changing.remote())
    )

    class Noted(Consolidator):
        """For whoever looks why a test has failed."""

        def look(self) -> Any:
            told = super().look()
            facts["looks"] = [*facts.get("looks", [])[-20:], (told.did, told.node, told.why[:200])]
            return told

    made = Noted(MemoryStore(), seen, Consolidation(hold_s=1.0, gap_s=0.0, empty_s=3.0))
    made.follow(1.0)
    return made.stop


def a_model() -> Deployment:
    """Small, in a file."""
    from eco_ray.models.cnn import SmallCNN
    from eco_ray.models.weights import save_model

    save_model(SmallCNN(), FOLDER / "m.safetensors", {})
    return Deployment("mnist", 1, path=str(FOLDER / "m.safetensors"), sha256="x", demand=Resources(1.0))


def note(what: str) -> None:
    facts["times"][what] = round(time.monotonic() - BEGAN, 1)
    sys.stderr.write(f"{facts['times'][what]:6.1f} {what}\n")


def until(what: str, holds: Callable[[], Any], timeout_s: float) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := holds():
            note(what)
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {timeout_s:g} s: {what}; {facts}")


class Load:
    """Asks again and again, in a few threads; what came of it."""

    def __init__(self, ask: Callable[[httpx.Client], httpx.Response], threads: int = 4, pause_s: float = 0.1) -> None:
        self.seen: Counter[str] = Counter()
        self._ask, self._pause_s, self._stopped = ask, pause_s, threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self) -> None:
        with httpx.Client(timeout=60.0) as http:
            while not self._stopped.is_set():
                try:
                    self.seen[str(self._ask(http).status_code)] += 1
                except httpx.HTTPError as error:
                    self.seen[repr(error)] += 1
                time.sleep(self._pause_s)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


def enough(load: Load) -> bool:
    return load.seen["200"] > 20


def infer(http: httpx.Client) -> httpx.Response:
    return http.post(f"{BASE}/v2/models/mnist/infer", json={"inputs": [IMAGE]})


def alive() -> set[str]:
    import ray

    return {info["Labels"].get("eco_node") for info in ray.nodes() if info["Alive"]} - {"head"}
