"""Python modules that take seconds to import on a slow machine, imported before they are needed.

The controller's one deciding thread would otherwise import SciPy in the middle of its first joint plan, and nobody's
job would start meanwhile.
"""

from __future__ import annotations

import importlib
import time
from typing import Any

#: what the controller imports lazily: the joint plan, and Ray's client for jobs
_CONTROLLER = ("scipy.optimize", "scipy.sparse", "ray.job_submission", "ray.dashboard.modules.job.pydantic_models")
#: what the actors of a node are made of
_ACTORS = ("eco_ray.on_ray.wiring", "eco_ray.on_ray.fleet")
#: how long a rehearsal may take [wall s]
_TIMEOUT_S = 120.0


def preload() -> None:
    """Import what the controller and the agents need later."""
    for name in (*_CONTROLLER, *_ACTORS):
        importlib.import_module(name)


def rehearse() -> float:
    """Start a process on each node and preload there, as controller and agents do; how long that took [wall s]."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def on(node_id: str) -> Any:
        affinity = NodeAffinitySchedulingStrategy(node_id, soft=False)
        return ray.remote(num_cpus=0, scheduling_strategy=affinity)(preload)

    began = time.monotonic()
    ray.get([on(info["NodeID"]).remote() for info in ray.nodes() if info["Alive"]], timeout=_TIMEOUT_S)
    return time.monotonic() - began
