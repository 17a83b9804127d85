"""What the controller tells of itself: to `eco-ray status`, and to whoever reads the store later."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from eco_ray.core.cluster import Node
from eco_ray.core.jobs import Job

if TYPE_CHECKING:
    from eco_ray.on_ray.controller_config import ControllerConfig


def status_facts(
    config: ControllerConfig,
    known: Mapping[str, Node],
    present: Collection[str],
    jobs: Iterable[Job],
    now_s: float,
    launch_s: float,
) -> dict[str, Any]:
    """Facts for `eco-ray status`: of nodes that were ever seen, of open jobs, and how long launches take [grid s]."""
    return {
        "cluster": config.cluster_name,
        "pid": os.getpid(),
        "now_s": now_s,
        "clock_speed": config.clock.speed,
        "launch_s": launch_s,
        "nodes": [
            {"name": n.name, "zone": n.zone, "cpus": n.capacity.cpus, "there": n.name in present}
            for n in known.values()
        ],
        "open_jobs": dict(Counter(str(job.state) for job in jobs)),
    }


def cluster_facts(config: ControllerConfig, known: Mapping[str, Node]) -> dict[str, Any]:
    """The cluster as reports and `eco-ray node list` find it in the store."""
    nodes = [
        {
            "name": n.name,
            "zone": n.zone,
            "pue": n.pue,
            "num_cpus": n.capacity.cpus,
            "num_gpus": n.capacity.gpus,
            "power_source": n.power_source,
            "embodied": None if n.embodied is None else asdict(n.embodied),
        }
        for n in sorted(known.values(), key=lambda n: n.name)
    ]
    return {
        "name": config.cluster_name,
        "home_zone": config.home_zone,
        "nodes": nodes,
        "market": {zone: dict(row) for zone, row in config.market.items()},
    }
