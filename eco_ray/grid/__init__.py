"""Carbon intensity of the grid: one file per source, all of them `core.ports.GridSource` (docs/grid.md).

profile  modelled, offline, for the zones of mixes.py: the default
trace    CSV of what was, with the forecasts that were really issued where there are any
annual   one figure per country and year: the last resort
electricity_maps, watttime, neso, entsoe, carbon_aware_sdk  services, asked over the network

chain    sources in order of preference, as one that is never waited for: cache, pauses, fallbacks
forecast our own, from history alone
"""

from __future__ import annotations

from eco_ray.grid.chain import Chain
from eco_ray.grid.profile import ModelledProfile
from eco_ray.grid.registry import is_live, names, open_grid, open_source
from eco_ray.grid.sources import SourceOptions
from eco_ray.grid.trace import CsvTrace

__all__ = ["Chain", "CsvTrace", "ModelledProfile", "SourceOptions", "is_live", "names", "open_grid", "open_source"]
