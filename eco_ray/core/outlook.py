"""What a policy knows when it decides: the carbon intensity ahead, as steps of any length."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

S_PER_H = 3600.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Outlook:
    """Carbon intensity ahead, constant within each of K steps.

    `g_per_kwh[k]` holds in [edges_s[k], edges_s[k+1]), in seconds since the decision; `inf` where the job may not run
    (no room on the node, above a limit). Nothing is known after the last edge.
    """

    #: shape (K+1,), from 0, increasing [s]
    edges_s: Floats
    #: shape (K,)
    g_per_kwh: Floats
    #: shape (K+1,): intensity x hours up to each edge, without the steps in which the job may not run
    _sum: Floats = field(init=False, repr=False)
    #: shape (K+1,): seconds in which the job may not run up to each edge; None: it may always
    _blocked_s: Floats | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        g, length_s = self.g_per_kwh, np.diff(self.edges_s)
        total, blocked_s = np.zeros(len(g) + 1), None
        blocked = np.isinf(g)
        if blocked.any():
            g = np.where(blocked, 0.0, g)
            blocked_s = np.zeros(len(g) + 1)
            np.cumsum(blocked * length_s, out=blocked_s[1:])
        # hours first: a step of one hour then counts as its intensity, to the last bit
        np.cumsum(g * (length_s / S_PER_H), out=total[1:])
        object.__setattr__(self, "_sum", total)
        object.__setattr__(self, "_blocked_s", blocked_s)

    @property
    def end_s(self) -> float:
        """Where the knowledge ends [s since the decision]."""
        return float(self.edges_s[-1])

    @property
    def is_flat(self) -> bool:
        """Whether the intensity is the same all the time, and the job may always run."""
        return bool((self.g_per_kwh == self.g_per_kwh[0]).all() and self._blocked_s is None)

    def carbon(self, start_s: ArrayLike, length_s: float) -> Floats:
        """Carbon of 1 kW that runs over [start, start + length]: shape of `start_s` [g]; inf where it may not run.

        All of the span must lie within the outlook.
        """
        start = np.asarray(start_s, dtype=np.float64)
        end = start + length_s
        carbon = np.interp(end, self.edges_s, self._sum) - np.interp(start, self.edges_s, self._sum)
        if self._blocked_s is not None:
            waits = np.interp(end, self.edges_s, self._blocked_s) - np.interp(start, self.edges_s, self._blocked_s)
            carbon = np.where(waits > 1e-6, np.inf, carbon)
        return np.asarray(carbon, dtype=np.float64)

    def until(self, end_s: float) -> Outlook:
        """The same, known only up to `end_s` > 0."""
        if end_s >= self.end_s:
            return self
        count = int(np.searchsorted(self.edges_s, end_s, side="left"))
        return Outlook(np.append(self.edges_s[:count], end_s), self.g_per_kwh[:count])
