"""How many watts a node draws at a load."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eco_ray.core.units import Nature
from eco_ray.errors import UsageError


@dataclass(frozen=True, slots=True)
class PowerCurve:
    """Power [W] of a node as a piecewise linear function of its CPU utilisation in [0, 1]."""

    #: increasing, from 0 to 1
    utilisation: tuple[float, ...]
    #: power [W] at each utilisation, not decreasing
    watts: tuple[float, ...]
    #: where the figures come from
    source: str
    nature: Nature = Nature.MODELLED
    #: relative half-width of the error band, e.g. 0.4 for +-40 %
    error_rel: float = 0.4

    def __post_init__(self) -> None:
        u, w = self.utilisation, self.watts
        if len(u) != len(w) or len(u) < 2 or u[0] != 0 or u[-1] != 1 or list(u) != sorted(set(u)):
            raise UsageError(
                f"power curve utilisation {list(u)} with {len(w)} watts: need two or more increasing points, 0 to 1"
            )
        if w[0] < 0 or list(w) != sorted(w):
            raise UsageError(f"power curve watts {list(w)}: need values >= 0 that do not fall as the load rises")

    @property
    def idle_w(self) -> float:
        """Power [W] without load."""
        return self.watts[0]

    @property
    def full_w(self) -> float:
        """Power [W] at full load."""
        return self.watts[-1]

    @property
    def is_straight(self) -> bool:
        """Whether the same job adds the same power beside any others."""
        return len(self.utilisation) == 2

    def power_w(self, utilisation: float) -> float:
        """Power [W] at a utilisation, which is clipped to [0, 1]."""
        return float(np.interp(utilisation, self.utilisation, self.watts))
