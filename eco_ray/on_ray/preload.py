"""Python modules that take seconds to import on a slow machine, imported before they are needed.

The controller's one deciding thread would otherwise import SciPy in the middle of its first joint plan, and nobody's
job would start meanwhile.
"""

from __future__ import annotations

import importlib

#: what the controller imports lazily: the joint plan, and Ray's client for jobs
_CONTROLLER = ("scipy.optimize", "scipy.sparse", "ray.job_submission", "ray.dashboard.modules.job.pydantic_models")
#: what the actors of a node are made of
_ACTORS = ("eco_ray.on_ray.wiring", "eco_ray.on_ray.fleet")


def preload() -> None:
    """Import what the controller and the agents need later."""
    for name in (*_CONTROLLER, *_ACTORS):
        importlib.import_module(name)
