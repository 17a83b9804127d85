"""The footprint of one request: energy, carbon, and how sure both are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eco_ray.core.power import PowerCurve
from eco_ray.core.units import J_PER_KWH, MJ_PER_J, Nature, grams, rounded
from eco_ray.errors import EcoRayError


@dataclass(frozen=True, slots=True)
class Signal:
    """Carbon intensity as a replica knows it; None: unknown."""

    zone: str
    intensity_g_per_kwh: float | None
    source: str
    #: average or marginal; empty: unknown
    kind: str = ""
    #: of the intensity; None: unknown
    nature: Nature | None = None


@dataclass(frozen=True, slots=True)
class ReplicaPower:
    """What a replica needs to turn its time into joules."""

    curve: PowerCurve
    #: CPUs of its node
    cpus: float
    #: CPUs that Ray holds for the replica
    reserved_cpus: float
    pue: float
    #: grid seconds per wall second
    clock_speed: float
    #: of its part of GPUs, as last read [W]; 0: it holds none, None: unknown
    gpu_w: float | None = 0.0


@dataclass(frozen=True, slots=True)
class Footprint:
    """Energy and operational carbon of one request."""

    energy_j: float
    #: None where the intensity is unknown
    carbon_g: float | None
    #: wall time in the replica [s]
    duration_s: float
    avg_power_w: float
    signal: Signal
    nature: Nature
    #: what the energy is made of
    method: str = "cpu-time"

    def to_json(self) -> dict[str, Any]:
        """Keys as in Neuralwatt's API beside `usage`, with nature, boundary, zone and intensity; 3 digits."""
        return {
            "energy_joules": rounded(self.energy_j),
            "energy_kwh": rounded(self.energy_j / J_PER_KWH),
            "avg_power_watts": rounded(self.avg_power_w),
            "duration_seconds": rounded(self.duration_s),
            "attribution_method": self.method,
            "carbon_g_co2eq": rounded(self.carbon_g),
            "nature": str(self.nature),
            "boundary": "operational",
            "grid_zone": self.signal.zone,
            "intensity_gco2e_per_kwh": self.signal.intensity_g_per_kwh,
        }

    def to_header(self) -> str:
        """Value of the response header `Eco-Footprint`; what is unknown is left out."""
        parts = [f"energy-j={self.energy_j:.3g}"]
        if self.carbon_g is not None and self.signal.intensity_g_per_kwh is not None:
            parts += [f"carbon-g={self.carbon_g:.3g}", f"intensity={self.signal.intensity_g_per_kwh:.6g}"]
        parts += [f'grid-zone="{self.signal.zone}"', f"nature={self.nature}", "boundary=operational"]
        return ", ".join(parts)


def request_footprint(
    cpu_s: float, duration_s: float, power: ReplicaPower, signal: Signal, batch_share: float = 1.0
) -> Footprint:
    """Footprint of a request whose batch used `cpu_s` of CPU time within `duration_s` of wall time.

    Dynamic energy by CPU time on the node's curve, idle energy by what the replica has reserved (the rule of
    `core.attribution` for one owner), and the power of its part of GPUs all the while; in grid time. Of all that, the
    request has its share of the batch (the rule of `core.requests` for classical models): 1 in a replica that answers
    one request at a time.
    """
    if not 0 < batch_share <= 1:
        raise EcoRayError(f"share {batch_share} of the batch is outside (0, 1]: divide the request's rows by all rows")
    curve = power.curve
    dynamic_w_per_cpu = (curve.full_w - curve.idle_w) / power.cpus
    idle_share = min(1.0, power.reserved_cpus / power.cpus)
    gpu_w, method = power.gpu_w, "cpu-time"
    if gpu_w is None:  # the energy is without them
        gpu_w, method = 0.0, "cpu-time, GPUs unknown"
    elif gpu_w:
        method = "cpu-time and gpu-power"
    assumed = curve.nature == Nature.ASSUMED or power.gpu_w is None
    wall_j = (cpu_s * dynamic_w_per_cpu + duration_s * (curve.idle_w * idle_share + gpu_w)) * batch_share
    energy_j = wall_j * power.clock_speed
    intensity = signal.intensity_g_per_kwh
    carbon_g = None if intensity is None else grams(energy_j * MJ_PER_J, intensity, power.pue)
    watts = wall_j / duration_s if duration_s > 0 else 0.0
    nature = Nature.ASSUMED if assumed else Nature.MODELLED  # CPU time says how energy is shared, it measures none
    return Footprint(energy_j, carbon_g, duration_s, watts, signal, nature, method)
