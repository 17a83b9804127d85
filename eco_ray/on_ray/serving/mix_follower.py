"""What a replica knows of the mix with a smaller variant: it asks the deployer in the background, and tells it joules.

With the deployer dead the last share holds for a minute; then the large one answers all, until the deployer is back.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from eco_ray.core.units import Nature
from eco_ray.core.variant_pair import Spent
from eco_ray.on_ray.serving.mixer import Report

#: for which a share holds that was not told again: Ray starts a deployer that has died within seconds [s]
TRUST_S = 60.0


class MixFollower:
    """Of one replica: `look` from a thread, all else in the event loop."""

    def __init__(
        self,
        model: str,
        version: int,
        spent: Callable[[], tuple[int, float, Nature]],
        hop_j: Callable[[float], float],
        ask: Callable[[Report], float],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`spent`: requests so far, their joules, and how these are known. `hop_j`: joules of so much CPU time [s]."""
        self._model, self._version, self._spent, self._hop_j, self._ask = model, version, spent, hop_j, ask
        self._now_s = now_s
        #: to which the replica sends requests; None: to none
        self.variant: int | None = None
        #: whether the deployer is asked
        self.is_asking = False
        self._told = 0, 0.0
        self._hops, self._hops_told = Spent(), Spent()
        self._share, self._until_s = 0.0, 0.0

    def share(self) -> float:
        """Of the requests, which goes to the variant."""
        return self._share if self._now_s() < self._until_s else 0.0

    def hop(self, cpu_s: float) -> None:
        """A request was sent on, and took so much of this process."""
        before = self._hops
        self._hops = Spent(before.requests + 1, before.energy_j + self._hop_j(cpu_s))

    def look(self) -> None:
        """Tell, and ask. Raises whatever asking raises; then nothing has changed, and it is told next time."""
        if not self.is_asking:
            return
        requests, energy_j, nature = self._spent()
        hops, variant = self._hops, self.variant
        spent = Spent(requests - self._told[0], energy_j - self._told[1], nature)
        more = Spent(hops.requests - self._hops_told.requests, hops.energy_j - self._hops_told.energy_j, nature)
        share = self._ask(Report(self._model, self._version, variant, spent, more))
        self._told, self._hops_told = (requests, energy_j), hops
        if variant == self.variant:
            self._share, self._until_s = share, self._now_s() + TRUST_S
