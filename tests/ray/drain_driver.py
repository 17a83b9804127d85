"""What test_drain_live.py runs in a process of its own (`autoscaled_driver`).

`drain_driver.py FOLDER`: two nodes that an autoscaler starts and ends, a dirty and a clean one; a served model and a
job on the dirty one. It is emptied under load, and released. Prints JSON.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoscaled_cluster import Holder
from autoscaled_driver import FOLDER, PORT, STATE, Load, a_model, alive, cluster, facts, infer, note, until

from eco_ray.core.consolidation import Consolidation

COUNTS = Path(__file__).parents[1] / "scripts" / "counts.py"
JOB = """
name: counts
run: {run}
carbon: {{policy: run-now, suspend: {{min_run: 1s, resume_cost: 1s}}}}
"""
facts["wrong"] = {}


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


def drained(settings: Any) -> None:
    """A model and a job on the dirty node, which is emptied while the model is asked."""
    import ray

    from eco_ray.on_ray.client import Client
    from eco_ray.on_ray.ray_serve import deployer
    from eco_ray.on_ray.serve_config import ServingConfig
    from eco_ray.on_ray.serving.consolidator import Consolidator
    from eco_ray.on_ray.serving.decision_file import DecisionFile
    from eco_ray.on_ray.serving.drain_record import META_KEY, shown
    from eco_ray.on_ray.serving.ray_cluster import RayCluster
    from eco_ray.sim.recorded import decide_again
    from eco_ray.store.memory import MemoryStore

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
    ray.get(serving.deploy.remote(a_model()), timeout=120)
    note("mnist is served on dirty")
    ray.kill(other)
    steps = FOLDER / "steps"
    (FOLDER / "job.yaml").write_text(JOB.format(run=f"{sys.executable} {COUNTS} {steps} 300 0.06"))
    job_id = client.submit(FOLDER / "job.yaml")
    until("job runs", lambda: steps.exists() and client.job(job_id).progress, 40)
    facts["job_nodes"] = [one.node for one in client.job(job_id).attempts]
    ray.kill(full)

    seen = RayCluster(lambda: ray.get(serving.deployments.remote()))
    now = Consolidation(hold_s=1.0, gap_s=0.0, empty_s=math.inf)
    kept = DecisionFile(STATE / "decisions")
    consolidator, told = Consolidator(MemoryStore(), seen, now, decisions=kept), []

    def look() -> bool:
        told.append(consolidator.look())
        facts["told"] = [(one.did, one.why) for one in told]
        return told[-1].did == "released"

    with Load(infer) as load:
        wrong = Wrong(seen)
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


with cluster() as given:
    drained(given)
