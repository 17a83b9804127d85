"""Grams: operational, embodied, and what the same work would have emitted at once.

PUE is applied in `core.units.grams` and nowhere else.
"""

from __future__ import annotations

import math

from eco_ray.core.intensity import IntensitySeries
from eco_ray.core.units import grams
from eco_ray.errors import EcoRayError


def operational_g(energy_mj: float, intensity_g_per_kwh: float, pue: float = 1.0) -> float:
    """Operational carbon [g] of IT energy [mJ]: O = E * PUE * I."""
    _at_least("energy [mJ]", energy_mj, 0)
    _at_least("carbon intensity [g/kWh]", intensity_g_per_kwh, 0)
    _at_least("PUE", pue, 1)
    return grams(energy_mj, intensity_g_per_kwh, pue)


def baseline_g(
    productive_energy_mj: float, productive_s: float, submitted_s: float, series: IntensitySeries, pue: float = 1.0
) -> float:
    """Run-now counterfactual [g]: the productive energy, without resume overhead, at uniform power from submission.

    The work runs without a break for `productive_s` seconds from `submitted_s` in the zone of `series` (the home
    zone), at its actual intensity. A series that does not cover that span is an error, not a guess.
    """
    _at_least("productive time [s]", productive_s, 0)
    return operational_g(productive_energy_mj, series.mean(submitted_s, submitted_s + productive_s), pue)


def embodied_g(kg_total: float, lifetime_s: float, busy_s: float, share: float = 1.0) -> float:
    """Embodied carbon [g] of a device's use: M = TE * TS * RS (ISO/IEC 21031:2024).

    TE: `kg_total` of making and scrapping it; TS: `busy_s` of its `lifetime_s`; RS: the reserved share of it.
    """
    _at_least("embodied carbon [kg]", kg_total, 0)
    _check_use(lifetime_s, busy_s, share)
    return kg_total * 1000 * (busy_s / lifetime_s) * share


def ewaste_g(mass_g: float, lifetime_s: float, busy_s: float, share: float = 1.0, reuse: float = 0.0) -> float:
    """Electronic waste [g] of a device's use: its mass, by the part of its life and of itself that was held.

    `reuse`: the part of the mass that is used again at the end. After Wang et al., Nature Computational Science 2024,
    who count the mass of AI servers at the end of their life; no figure per hour of use is published.
    """
    _at_least("mass [g]", mass_g, 0)
    _check_use(lifetime_s, busy_s, share)
    if not 0 <= reuse <= 1:
        raise EcoRayError(f"reused part {reuse} is outside [0, 1]: give the part of the mass that is used again")
    return mass_g * (busy_s / lifetime_s) * share * (1 - reuse)


def market_g(energy_mj: float, market_g_per_kwh: float, pue: float = 1.0) -> float:
    """Market-based carbon [g]: by the contract's intensity instead of the grid's (GHG Protocol Scope 2 Guidance, 2015).

    It stands beside the location-based figure and replaces it nowhere; SCI forbids it.
    """
    return operational_g(energy_mj, market_g_per_kwh, pue)


def sci_g_per_unit(operational_g: float, embodied_g: float, units: float) -> float:
    """Software carbon intensity [g per functional unit]: (O + M) / R (ISO/IEC 21031:2024)."""
    _at_least("operational carbon [g]", operational_g, 0)
    _at_least("embodied carbon [g]", embodied_g, 0)
    if not (math.isfinite(units) and units > 0):
        raise EcoRayError(f"SCI over {units} functional units is undefined: count tokens, inferences or runs, > 0")
    return (operational_g + embodied_g) / units


def _check_use(lifetime_s: float, busy_s: float, share: float) -> None:
    _at_least("time in use [s]", busy_s, 0)
    if not (math.isfinite(lifetime_s) and lifetime_s > 0):
        raise EcoRayError(f"lifetime {lifetime_s} s must be > 0; 4 years (126144000 s) is usual for a server")
    if not 0 <= share <= 1:
        raise EcoRayError(f"reserved share {share} is outside [0, 1]: give the part of the device that was held")


def _at_least(what: str, value: float, limit: float) -> None:
    if not (math.isfinite(value) and value >= limit):
        raise EcoRayError(f"{what} is {value}: must be finite and >= {limit}; mend the input that gave it")
