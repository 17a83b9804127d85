"""What test_zone_zero_live.py runs in a process of its own (`autoscaled_driver`).

`zone_driver.py FOLDER`: a model with replicas in two zones, of which both sleep. One is clean and answers, then gets
dirty; the other one, whose node is asleep, is woken and takes over. Prints JSON.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import httpx
from autoscaled_driver import PORT, Load, a_model, alive, cluster, consolidate, facts, infer, note, until

#: grid seconds per second, and from when on the first zone is dirty [grid h]: in six minutes, as machines may be slow
SPEED, DIRTY_H = 60.0, 6
zones: Counter[str] = Counter()


def asked(http: httpx.Client) -> httpx.Response:
    answer = infer(http)
    zones[answer.headers.get("eco-zone", "")] += 1
    return answer


def sleeping(settings: Any) -> None:
    """Requests are answered by the zone that is up, while the one that they go to then is woken."""
    import ray

    from eco_ray.on_ray.ray_serve import deployer
    from eco_ray.on_ray.serve_config import ServingConfig

    config = ServingConfig("127.0.0.1", PORT, settings.state_dir, settings.store_url, down_hold_s=2.0, drains=False)
    serving = deployer(config)
    stop = consolidate(serving)
    row = ray.get(serving.deploy.remote(replace(a_model(), per_zone=True, min_replicas=0)), timeout=150)
    facts["deployed"] = {zone["zone"]: zone["nodes"] for zone in row["zones"]}
    note("deployed at zero nodes")
    until("zero replicas, zero nodes", lambda: not alive(), 90)
    with Load(asked, threads=3) as load:
        until("the first zone answers", lambda: zones["AA"] > 20, 90)
        facts["first"] = sorted(alive()), dict(zones)
        until("the second one has taken over", lambda: zones["BB"] > 20, 300)
        until("and is alone", lambda: alive() == {"green"}, 90)
    facts["load"], facts["zones"] = dict(load.seen), dict(zones)
    (row,) = ray.get(serving.rows.remote())
    facts["why"] = row["traffic"]["why"]
    stop()


with cluster(SPEED, lambda hour: 20.0 if hour < DIRTY_H else 600.0) as given:
    sleeping(given)
