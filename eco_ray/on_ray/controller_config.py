"""What a controller is told when it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eco_ray.core.clock import Clock
from eco_ray.core.orchestrator import OrchestratorConfig


@dataclass(frozen=True)
class ControllerConfig:
    """All that a controller needs; the actor's constructor argument, so that a restart finds it again."""

    cluster_name: str
    home_zone: str
    clock: Clock
    orchestrator: OrchestratorConfig
    default_max_delay_s: float
    state_dir: Path
    store_url: str
    #: how far ahead forecasts are asked for [s]
    horizon_s: float = 96 * 3600.0
    #: by zone: g_per_kwh and source of electricity that was bought by contract
    market: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: whether all that is decided of jobs is written down, to be decided again
    record_events: bool = False
    #: where jobs keep their checkpoints; None: in the state directory
    checkpoint_url: str | None = None
