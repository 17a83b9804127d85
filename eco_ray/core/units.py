"""Units and the few conversions between them.

Energy is counted in integer millijoules (mJ) wherever parts must sum to a whole, and shown in joules (J).
Time is in seconds since the Unix epoch, UTC. Carbon is in grams of CO2 equivalent (g).
"""

from __future__ import annotations

from enum import StrEnum

MJ_PER_J = 1_000
J_PER_KWH = 3_600_000
MJ_PER_KWH = MJ_PER_J * J_PER_KWH


class Nature(StrEnum):
    """How a number came to be; every energy and carbon number carries one."""

    MEASURED = "measured"
    MODELLED = "modelled"
    ASSUMED = "assumed"

    @classmethod
    def weakest(cls, natures: list[Nature]) -> Nature:
        """The nature of a number made from several: that of its weakest part (assumed for none)."""
        order = list(cls)
        return max(natures, key=order.index) if natures else cls.ASSUMED


def grams(energy_mj: float, intensity_g_per_kwh: float, pue: float = 1.0) -> float:
    """Operational carbon [g] of IT energy [mJ] at an intensity [g/kWh]; PUE is applied here and nowhere else."""
    return energy_mj / MJ_PER_KWH * intensity_g_per_kwh * pue


def rounded(value: float | None) -> float | None:
    """To 3 digits, as a tenant is told what a request cost: of all digits, it could tell what others use beside it."""
    return None if value is None else float(f"{value:.3g}")
