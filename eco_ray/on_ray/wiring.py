"""The controller as a Ray actor: opens store, grid source, launcher and fleet, and hands them to the plain class."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

from eco_ray.grid_file import Grid
from eco_ray.on_ray.controller import Controller, ControllerConfig
from eco_ray.on_ray.fleet import Fleet, FleetConfig
from eco_ray.on_ray.launcher import Launcher
from eco_ray.store import open_store


class ControllerActor(Controller):
    """What runs under the name `eco_controller`; Ray starts it again with the same arguments when it dies."""

    def __init__(self, config: ControllerConfig, fleet: FleetConfig, grid: Grid, dashboard_url: str) -> None:
        _log_to(config.state_dir / "logs" / "controller.log")
        super().__init__(
            config,
            open_store(config.store_url),
            grid.open(config.state_dir),
            Launcher(dashboard_url, config.state_dir, fleet.run_root),
            Fleet(fleet),
        )


def _log_to(path: Path) -> None:
    """Keep the controller's own log in the state directory, where it outlives Ray's session."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handler = RotatingFileHandler(path, maxBytes=5_000_000, backupCount=2)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("eco_ray")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
