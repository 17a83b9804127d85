"""The gate of a replica where keys are needed: keys, limits and usage come from the deployer, in the background.

With the deployer dead the replica keeps what it knows: keys that it has seen go on to be valid.
"""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path

from eco_ray.core.keys import Verdict
from eco_ray.core.limits import Limiter, Usage
from eco_ray.on_ray.access import Access, shared
from eco_ray.pepper import find_pepper
from eco_ray.service.key_gate import KeyGate

log = logging.getLogger("eco_ray.serving")

#: for the first answer of the deployer, when a replica starts [s]
_FIRST_S = 30.0


class Doorkeeper:
    """Keeps a KeyGate up to date: `look` from a thread, `apply_news` in the event loop."""

    def __init__(self, pepper_file: str, state_dir: Path, model: str = "", replicas: int = 1) -> None:
        """`replicas`: among which rates are divided.

        Raises EcoRayError without the pepper, and UnreachableError without the deployer.
        """
        pepper = find_pepper(Path(pepper_file) if pepper_file else None, state_dir, make=False)
        first = self._first()
        limits = shared(first.limits, replicas)
        self._limiter = Limiter(limits, lambda tenant: self._known.usage.get(tenant, Usage()))
        self._known = first
        self._news: Access | None = first
        self._model = model
        self.gate = KeyGate(pepper, self._limiter, audit=self._audit)
        self.apply_news()

    def look(self) -> None:
        """Ask for what holds now."""
        with contextlib.suppress(Exception):  # the deployer may be restarting
            self._news = self._ask()

    def apply_news(self) -> None:
        """Take over what `look` has found."""
        news, self._news = self._news, None
        if news is None:
            return
        self._known = news
        self.gate.learn(news.keys)
        for tenant, usage in news.usage.items():
            self._limiter.learn(tenant, usage)

    def _first(self) -> Access:
        deadline = time.monotonic() + _FIRST_S
        while True:
            try:
                return self._ask()
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    @staticmethod
    def _ask() -> Access:
        import ray

        from eco_ray.on_ray.ray_serve import deployer_handle

        found: Access = ray.get(deployer_handle().access.remote(), timeout=5.0)
        return found

    def _audit(self, key_id: str, verdict: Verdict) -> None:
        from eco_ray.on_ray.ray_serve import deployer_handle

        with contextlib.suppress(Exception):
            deployer_handle().audit.remote(
                "refuse-key", key_id, f"{verdict}, for {self._model or 'the list of models'}"
            )
