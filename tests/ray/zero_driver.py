"""What test_zero_live.py runs in a process of its own (`autoscaled_driver`).

`zero_driver.py FOLDER`: a model is deployed where no node is on, is idle, is asked, and leaves a dirty node for a clean
one that sleeps. Prints JSON.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from autoscaled_cluster import Holder
from autoscaled_driver import PORT, Load, a_model, alive, cluster, consolidate, enough, facts, infer, note, until


def zero(settings: Any) -> None:
    """Without anything to do no node is on; whoever deploys or asks wakes one, and is answered."""
    import ray

    from eco_ray.on_ray.ray_serve import deployer
    from eco_ray.on_ray.serve_config import ServingConfig

    config = ServingConfig("127.0.0.1", PORT, settings.state_dir, settings.store_url, down_hold_s=2.0, drains=False)
    serving = deployer(config)
    stop = consolidate(serving)
    row = ray.get(serving.deploy.remote(replace(a_model(), min_replicas=0)), timeout=120)
    note("deployed at zero nodes")
    facts["deployed"] = row["nodes"], sorted(alive())
    until("zero replicas, zero nodes", lambda: not alive(), 90)
    with Load(infer, threads=3) as load:
        until("answered", lambda: enough(load), 60)
        facts["woken"] = sorted(alive())
    facts["load_back"] = dict(load.seen)
    until("zero again", lambda: not alive(), 90)

    held: Any = ray.remote(max_restarts=0)(Holder)
    other = held.options(num_cpus=1, label_selector={"eco_node": "dirty"}).remote()
    ray.get(other.ping.remote(), timeout=60)
    with Load(infer, threads=3) as load:
        until("answered by the dirty node", lambda: enough(load), 60)
        facts["only awake"] = sorted(alive())
        ray.kill(other)
        until("the clean one has taken over", lambda: alive() == {"green"}, 90)
        time.sleep(1.0)
    facts["load_moved"] = dict(load.seen)
    until("zero at last", lambda: not alive(), 90)
    stop()


with cluster() as given:
    zero(given)
