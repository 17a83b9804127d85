"""The controller as a Ray actor: opens store, grid source, launcher and fleet, and hands them to the plain class."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path

import ray

from eco_ray.errors import EcoRayError
from eco_ray.grid_file import Grid
from eco_ray.on_ray.connection import dashboard_url as dashboard_url_now
from eco_ray.on_ray.controller import Controller
from eco_ray.on_ray.controller_config import ControllerConfig
from eco_ray.on_ray.fleet import Fleet, FleetConfig
from eco_ray.on_ray.launcher import Launcher
from eco_ray.on_ray.preload import preload
from eco_ray.on_ray.signal_metrics import SignalMetrics
from eco_ray.store import open_store

log = logging.getLogger("eco_ray.controller")

#: pause before a controller that could not start again tries once more [wall s]
_AGAIN_S = 1.0


class ControllerActor(Controller):
    """What runs under the name `eco_controller`; Ray starts it again with the same arguments when it dies."""

    def __init__(self, config: ControllerConfig, fleet: FleetConfig, grid: Grid, dashboard_url: str) -> None:
        _log_to(config.state_dir / "logs" / "controller.log")
        preload()
        is_restart = ray.get_runtime_context().was_current_actor_reconstructed
        if is_restart:  # perhaps on another head, with another address
            dashboard_url = dashboard_url_now() or dashboard_url

        def start() -> None:
            super(ControllerActor, self).__init__(
                config,
                open_store(config.store_url),
                grid.open(config.state_dir),
                Launcher(dashboard_url, config.state_dir, fleet.run_root, config.checkpoint_url),
                Fleet(fleet),
                SignalMetrics().show,
            )

        started_at_last(start, is_restart)


def started_at_last(start: Callable[[], None], is_restart: bool, pause_s: float = _AGAIN_S) -> None:
    """Start, and after a kill again and again until it works: Ray gives an actor up for good whose constructor fails.

    A database that is away would otherwise end the controller, if it is killed meanwhile. Of a first start, `eco-ray
    up` tells the error.
    """
    while True:
        try:
            start()
        except EcoRayError as error:
            if not is_restart:
                raise
            log.warning("could not start again, trying once more: %s", error)
            time.sleep(pause_s)
        else:
            return


def _log_to(path: Path) -> None:
    """Keep the controller's own log in the state directory, where it outlives Ray's session."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handler = RotatingFileHandler(path, maxBytes=5_000_000, backupCount=2)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("eco_ray")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
