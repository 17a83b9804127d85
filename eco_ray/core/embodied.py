"""What making a device emitted and how heavy it is: the one table of factors, and what a node carries of it.

Embodied carbon is in every report and in no decision: it is sunk when a job is placed (arXiv:2410.15087).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from eco_ray.core.emissions import embodied_g, ewaste_g
from eco_ray.core.units import Nature
from eco_ray.errors import UsageError

#: Cloud Carbon Footprint and Boavizta count servers over 4 years; EcoLogits and Boavizta's GPUs 3; large operators'
#: accounts 5.5 to 6
LIFETIME_YEARS = 4.0
#: a year of a device's life [s]: 8760 hours
YEAR_S = 8760 * 3600.0


@dataclass(frozen=True, slots=True)
class Factor:
    """One device of the table."""

    device: str
    #: making it, from cradle to gate unless the source says otherwise [kg CO2e]
    kg: float
    source: str
    year: int
    #: a life cycle is modelled, by its maker too
    nature: Nature = Nature.MODELLED
    #: what others publish for it, where they do [kg CO2e]
    min_kg: float | None = None
    max_kg: float | None = None
    #: [g]; None: unknown
    mass_g: float | None = None
    #: shared by reserved GPUs, not by reserved CPUs
    is_gpu: bool = False


_PCF = "NVIDIA product carbon footprint summary (ISO 14067, third-party reviewed)"
_BOAVIZTA = "Boavizta API 2.5.0, computed"
_MASS = "mass: ADEME teardown in Boavizta's gpu_specs"

#: years are those of the figure's publication, for Boavizta's those of the API that computed it
_TABLE = (
    Factor(
        device="nvidia-h100-sxm",
        kg=1312 / 8,
        source=f"{_PCF}: HGX H100, 1312 kg / 8 GPUs; {_MASS}",
        year=2025,
        min_kg=164.0,
        max_kg=575.1,  # Boavizta API 2.5.0, 3.5 times the maker's figure
        mass_g=1690.0,
        is_gpu=True,
    ),
    # no footprint is published for it: the H100's, with its memory's share (91 % x 42 %) grown from 80 to 141 GB
    Factor(
        device="nvidia-h200-sxm",
        kg=212.0,
        source=f"own estimate: {_PCF} of HGX H100, its memory scaled from 80 to 141 GB",
        year=2026,
        nature=Nature.ASSUMED,
        is_gpu=True,
    ),
    # second hand: the summary itself was not read
    Factor(
        device="nvidia-b200-sxm",
        kg=2274 / 8,
        source=f"{_PCF}: HGX B200, 2274 kg / 8 GPUs, second hand",
        year=2025,
        nature=Nature.ASSUMED,
        is_gpu=True,
    ),
    Factor(
        device="nvidia-a100-sxm",
        kg=127.6,
        source=f"Falk et al., arXiv:2509.00093 (teardown, ISO 14040/44), 40 GB; {_MASS}",
        year=2025,
        min_kg=127.6,
        max_kg=319.3,  # Boavizta API 2.5.0
        mass_g=1560.0,
        is_gpu=True,
    ),
    Factor(
        device="nvidia-a100-pcie",
        kg=181.0,
        source=f"ADEME/Tide/Hubblo GPU model, whole life without use, 40 GB; {_MASS}",
        year=2026,
        mass_g=1230.0,
        is_gpu=True,
    ),
    Factor("nvidia-l4", 123.5, f"{_BOAVIZTA}; {_MASS}", 2026, mass_g=142.0, is_gpu=True),
    # Boavizta API 2.5.0 itself gives 6800 kg, between 5115 and 11200
    Factor(
        device="aws-p5-host",
        kg=5700.0,
        source="EcoLogits (from Boavizta): p5.48xlarge without its GPUs",
        year=2025,
        min_kg=5115.0,
        max_kg=11_200.0,
    ),
    Factor("aws-p4d-host", 3700.0, f"{_BOAVIZTA}: p4d.24xlarge without its GPUs", 2026, min_kg=2822.0, max_kg=5654.0),
    Factor(
        device="large-server",
        kg=5800.0,
        source=f"{_BOAVIZTA}: 2 Xeon 8480+, 2 TB DDR5, 8 SSDs of 3.84 TB, no GPU",
        year=2026,
        min_kg=3396.0,
        max_kg=12_300.0,
    ),
    # assumed, because it is said of a server that nobody looked at; one full of SSDs is several times this
    Factor(
        device="generic-server",
        kg=1000.0,
        source="Cloud Carbon Footprint coefficients (after Dell's study of its R740)",
        year=2021,
        nature=Nature.ASSUMED,
    ),
    Factor("amd-epyc-9654", 33.98, _BOAVIZTA, 2026),
    Factor("amd-epyc-7763", 30.1, _BOAVIZTA, 2026),
    Factor("intel-xeon-8480", 46.73, _BOAVIZTA, 2026),
    Factor("dimm-64gb", 120.0, _BOAVIZTA, 2026, min_kg=64.5, max_kg=230.5),
    Factor("ssd-4tb", 160.0, f"{_BOAVIZTA}: 3.84 TB", 2026, min_kg=72.3, max_kg=521.5),
    Factor("rack-case", 150.0, _BOAVIZTA, 2026),
    Factor("power-supply", 72.9, f"{_BOAVIZTA}: 3 kg", 2026, mass_g=3000.0),
)
FACTORS: dict[str, Factor] = {factor.device: factor for factor in _TABLE}


@dataclass(frozen=True, slots=True)
class Embodied:
    """What a node carries of the making of its devices."""

    #: all but its GPUs [kg CO2e]
    host_kg: float
    #: its GPUs together [kg CO2e]
    gpus_kg: float
    source: str
    nature: Nature
    #: of host and GPUs together; None: no range is published
    min_kg: float | None = None
    max_kg: float | None = None
    #: of host and GPUs together [g]; None: unknown
    mass_g: float | None = None
    lifetime_years: float = LIFETIME_YEARS

    @property
    def kg(self) -> float:
        """Host and GPUs together [kg CO2e]."""
        return self.host_kg + self.gpus_kg

    def use_g(self, seconds: float, cpu_share: float, gpu_share: float | None) -> float:
        """Embodied carbon [g] of holding a part of the node for a time; `gpu_share` None: it has no GPUs."""
        life_s = self.lifetime_years * YEAR_S
        host_share = reserved_share(cpu_share, gpu_share)
        return embodied_g(self.host_kg, life_s, seconds, host_share) + embodied_g(
            self.gpus_kg, life_s, seconds, host_share if gpu_share is None else gpu_share
        )

    def waste_g(self, seconds: float, cpu_share: float, gpu_share: float | None, reuse: float = 0.0) -> float | None:
        """Electronic waste [g] of holding a part of the node for a time; None while its mass is unknown."""
        if self.mass_g is None:
            return None
        share = reserved_share(cpu_share, gpu_share)
        return ewaste_g(self.mass_g, self.lifetime_years * YEAR_S, seconds, share, reuse)


def reserved_share(cpu_share: float, gpu_share: float | None) -> float:
    """Reserved share of a host: of its CPUs, and where it exists for GPUs too, the mean of both.

    The mean keeps the sum over all holders at 1 or below, and a job that takes one of eight GPUs with an eighth of the
    CPUs has an eighth of the host.
    """
    return cpu_share if gpu_share is None else (cpu_share + gpu_share) / 2


def of_devices(devices: Sequence[tuple[str, float]], share: float, lifetime_years: float) -> Embodied:
    """What a node carries that is a `share` of a machine with these (device, count) of the table. Raises UsageError."""
    found: list[tuple[Factor, float]] = []
    for name, count in devices:
        if name not in FACTORS:
            raise UsageError(f"unknown device {name!r}: one of {', '.join(FACTORS)}; or give kg and source")
        found.append((FACTORS[name], count * share))
    ranged = all(factor.min_kg is not None and factor.max_kg is not None for factor, _ in found)
    weighed = all(factor.mass_g is not None for factor, _ in found)
    of_machine = "" if share == 1 else f"{share:g} of "
    words = [f"{count / share:g} x {factor.device} ({factor.source}, {factor.year})" for factor, count in found]
    return Embodied(
        host_kg=math.fsum(factor.kg * count for factor, count in found if not factor.is_gpu),
        gpus_kg=math.fsum(factor.kg * count for factor, count in found if factor.is_gpu),
        source=of_machine + ", ".join(words),
        nature=Nature.weakest([factor.nature for factor, _ in found]),
        min_kg=math.fsum((factor.min_kg or 0.0) * count for factor, count in found) if ranged else None,
        max_kg=math.fsum((factor.max_kg or 0.0) * count for factor, count in found) if ranged else None,
        mass_g=math.fsum((factor.mass_g or 0.0) * count for factor, count in found) if weighed else None,
        lifetime_years=lifetime_years,
    )
