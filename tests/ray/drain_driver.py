"""What test_drain_live.py runs in a process of its own: Ray keeps the token of the first cluster that a process joins.

`drain_driver.py FOLDER`: two nodes that an autoscaler starts and ends, a dirty and a clean one; a served model and a
job on the dirty one. It is emptied under load, and released; then everything goes to zero, and comes back. Prints JSON.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import autoscaled_cluster
import httpx

from eco_ray.cluster_file import load_cluster_file
from eco_ray.config import load_settings
from eco_ray.core.cluster import Resources
from eco_ray.core.consolidation import Consolidation
from eco_ray.core.deployments import Deployment
from eco_ray.on_ray import bootstrap, local_cluster

FOLDER = Path(sys.argv[1])
STATE = FOLDER / "state"
COUNTS = Path(__file__).parents[1] / "scripts" / "counts.py"
PORT = local_cluster.free_port()
BASE = f"http://127.0.0.1:{PORT}"
POWER = "power: {idle_w: 50, max_w: 100, source: test}"
CLUSTER = f"""
name: autoscaled
home_zone: AA
nodes:
  - {{name: dirty, zone: AA, num_cpus: 3, memory_gb: 4, sleeps: true, wake_wh: 0.02, {POWER}}}
  - {{name: green, zone: BB, num_cpus: 3, memory_gb: 4, sleeps: true, wake_wh: 0.02, {POWER}}}
grid: {{source: trace, file: {FOLDER / "trace.csv"}}}
planner: {{slot: 15m, horizon: 24h, default_max_delay: 12h}}
pause_timeout: 20s
sample_period: 1s
serve: {{port: {PORT}}}
"""
JOB = """
name: counts
run: {run}
carbon: {{policy: run-now, suspend: {{min_run: 1s, resume_cost: 1s}}}}
"""
IMAGE = {"name": "image", "datatype": "FP32", "shape": [1, 28, 28], "data": [0.5] * 784}
BEGAN = time.monotonic()
facts: dict[str, Any] = {"times": {}, "wrong": {}}


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


class Wrong:
    """A cluster of which somebody says wrong or flapping things."""

    def __init__(self, cluster: Any) -> None:
        self._cluster, self.how, self.drain, self.let_go = cluster, "", cluster.drain, cluster.let_go
        self._looks = 0

    def view(self, horizon_s: float) -> Any:
        """What is there, with other intensities or watts."""
        self._looks += 1
        told = self._cluster.view(horizon_s)
        return replace(told, rooms=tuple(self._room(room) for room in told.rooms))

    def _room(self, room: Any) -> Any:
        clean = (room.node.name == "green") == bool(self._looks % 2)
        curve = replace(room.node.power, watts=(0.0, 0.0) if self.how == "no watts" else (1e5, 2e5))
        return {
            "flaps": replace(room, intensity_g_per_kwh=20.0 if clean else 900.0),
            "comes and goes": room if self._looks % 2 else replace(room, intensity_g_per_kwh=None),
            "no number": replace(room, intensity_g_per_kwh=math.nan),
            "negative": replace(room, intensity_g_per_kwh=-(room.intensity_g_per_kwh or 1.0)),
        }.get(self.how) or replace(room, node=replace(room.node, power=curve))


class Holder:
    """Holds what Ray gives it."""

    def ping(self) -> None:
        """Is there."""


class Small:
    """A served application."""

    async def __call__(self, _request: Any) -> str:
        """Say something."""
        return "here"


def enough(load: Load) -> bool:
    return load.seen["200"] > 20


def infer(http: httpx.Client) -> httpx.Response:
    return http.post(f"{BASE}/v2/models/mnist/infer", json={"inputs": [IMAGE]})


def alive() -> set[str]:
    import ray

    return {info["Labels"].get("eco_node") for info in ray.nodes() if info["Alive"]} - {"head"}


def main() -> None:
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    rows = [f"{(start + timedelta(hours=h)).isoformat()},600,50" for h in range(-48, 72)]
    (FOLDER / "trace.csv").write_text("\n".join(["time,AA,BB", *rows]))
    (FOLDER / "cluster.yaml").write_text(CLUSTER)
    STATE.mkdir()
    settings = load_settings({"state_dir": str(STATE)})
    described = load_cluster_file(FOLDER / "cluster.yaml", settings)
    record = autoscaled_cluster.start(described.to_nodes(), STATE, idle_s=6.0)
    import ray  # it reads the environment of the cluster when it is imported

    try:
        ray.init(address=record.address, namespace="eco_ray", log_to_driver=False)
        bootstrap.start_controller(described, settings, described.clock.to_clock(time.time()), record)
        note("controller")
        drained(settings)
        zero()
    finally:
        ray.shutdown()
        local_cluster.stop(record, STATE)
    note("stopped")
    sys.stdout.write(json.dumps(facts) + "\n")


def drained(settings: Any) -> None:
    """A model and a job on the dirty node, which is emptied while the model is asked."""
    import ray

    from eco_ray.models.cnn import SmallCNN
    from eco_ray.models.weights import save_model
    from eco_ray.on_ray.client import Client
    from eco_ray.on_ray.ray_serve import deployer
    from eco_ray.on_ray.serve_config import ServingConfig
    from eco_ray.on_ray.serving.consolidator import Consolidator
    from eco_ray.on_ray.serving.decision_file import DecisionFile
    from eco_ray.on_ray.serving.drain_record import META_KEY, shown
    from eco_ray.on_ray.serving.ray_cluster import RayCluster
    from eco_ray.sim.recorded import decide_again
    from eco_ray.store.memory import MemoryStore

    save_model(SmallCNN(), FOLDER / "m.safetensors", {})

    held: Any = ray.remote(max_restarts=0)(Holder)
    on_green, on_dirty = ({"eco_node": name} for name in ("green", "dirty"))
    stays = held.options(num_cpus=1, label_selector=on_green).remote()
    full = held.options(num_cpus=2, label_selector=on_green).remote()
    other = held.options(num_cpus=1, label_selector=on_dirty).remote()
    ray.get([one.ping.remote() for one in (stays, full, other)], timeout=60)
    note("both nodes are up")
    client = Client(settings)
    until("both are known", lambda: sum(n["there"] for n in client.status()["nodes"]) == 3, 20)
    serving = deployer(ServingConfig("127.0.0.1", PORT, settings.state_dir, settings.store_url, drains=False))
    model = Deployment("mnist", 1, path=str(FOLDER / "m.safetensors"), sha256="x", demand=Resources(1.0))
    ray.get(serving.deploy.remote(model), timeout=120)
    note("mnist is served on dirty")
    ray.kill(other)
    steps = FOLDER / "steps"
    (FOLDER / "job.yaml").write_text(JOB.format(run=f"{sys.executable} {COUNTS} {steps} 300 0.06"))
    job_id = client.submit(FOLDER / "job.yaml")
    until("job runs", lambda: steps.exists() and client.job(job_id).progress, 40)
    facts["job_nodes"] = [one.node for one in client.job(job_id).attempts]
    ray.kill(full)

    cluster = RayCluster(lambda: ray.get(serving.deployments.remote()))
    now = Consolidation(hold_s=1.0, gap_s=0.0, empty_s=math.inf)
    kept = DecisionFile(STATE / "decisions")
    consolidator, told = Consolidator(MemoryStore(), cluster, now, decisions=kept), []

    def look() -> bool:
        told.append(consolidator.look())
        facts["told"] = [(one.did, one.why) for one in told]
        return told[-1].did == "released"

    with Load(infer) as load:
        wrong = Wrong(cluster)
        unsure = Consolidator(MemoryStore(), wrong, now, decisions=kept)
        for wrong.how in ("flaps", "comes and goes", "no number", "negative", "no watts", "too many watts"):
            dids, until_s = set(), time.monotonic() + 1.5  # it would drain after a second
            while time.monotonic() < until_s:
                dids.add(unsure.look().did)
                time.sleep(0.05)
            facts["wrong"][wrong.how] = sorted(dids)
        note("wrong and flapping readings are over")
        time.sleep(1.0)
        until("draining", lambda: not look() and told[-1].did == "draining", 60)
        until("released", look, 90)
        until("autoscaler ended it", lambda: alive() == {"green"}, 30)
        until("job is back", lambda: len(client.job(job_id).attempts) == 2, 40)
        time.sleep(1.0)
    facts["load"] = dict(load.seen)
    facts["job_nodes"] = [one.node for one in client.job(job_id).attempts]
    facts["job_states"] = [str(one.state) for one in client.job(job_id).attempts]
    until("job ended", lambda: client.job(job_id).state.is_final, 60)
    facts["job"], facts["steps"] = str(client.job(job_id).state), steps.read_text().splitlines()
    facts["decided again"] = [
        (one.kind, one.decisions, len(one.different)) for one in decide_again(STATE) if one.kind == "drain"
    ]
    again = [consolidator.look().did for _ in range(3)]  # the green node stays, and is filled
    facts.update({"again": again, "alive_after": sorted(alive())})
    facts["status"] = shown(client.store.get_meta(META_KEY))  # of the deployer's own, which only reports
    ray.kill(stays)
    ray.get(serving.undeploy.remote("mnist"), timeout=60)
    note("nothing is served")
    Consolidator(MemoryStore(), cluster, Consolidation(empty_s=3.0)).follow(1.0)


def zero() -> None:
    """Without anything to do no node is on; requests wake one, and are answered."""
    from ray import serve

    scaling = {
        "min_replicas": 0,
        "initial_replicas": 0,
        "max_replicas": 1,
        "upscale_delay_s": 0,
        "downscale_delay_s": 2,
    }
    soon = {"metrics_interval_s": 0.5, "look_back_period_s": 1}
    options = {"num_cpus": 1, "label_selector": {"eco_node": "green"}}
    small: Any = serve.deployment(ray_actor_options=options, autoscaling_config={**scaling, **soon})(Small)
    until("zero", lambda: not alive(), 60)
    serve.run(small.bind(), name="small", route_prefix="/small", blocking=False)
    with Load(lambda http: http.get(f"{BASE}/small"), threads=3) as load:
        until("node is back", lambda: alive() == {"green"}, 40)
        until("answered", partial(enough, load), 40)
    facts["load_back"] = dict(load.seen)
    until("zero again", lambda: not alive(), 60)


main()
