"""The gates of a replica where keys are needed: keys, limits and usage come from the deployer, in the background.

With the deployer dead the replica keeps what it knows: keys that it has seen go on to be valid.
"""

from __future__ import annotations

import contextlib
import logging
import time
from functools import partial
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
    """Keeps gates up to date: `look` from a thread, `apply_news` in the event loop, `gate` from anywhere."""

    def __init__(self, pepper_file: str, state_dir: Path, replicas: int = 1) -> None:
        """`replicas`: among which rates are divided.

        Raises EcoRayError without the pepper, and UnreachableError without the deployer.
        """
        self._pepper = find_pepper(Path(pepper_file) if pepper_file else None, state_dir, make=False)
        self._known = self._first()
        limits = shared(self._known.limits, replicas)
        self._limiter = Limiter(limits, lambda tenant: self._known.usage.get(tenant, Usage()))
        self._news: Access | None = None
        self._gates: dict[str, KeyGate] = {}

    def gate(self, model: str = "") -> KeyGate:
        """The gate of a model, whose rates hold for it alone; of the list of models without one."""
        gate = self._gates.get(model)
        if gate is None:
            gate = self._gates[model] = KeyGate(
                self._pepper, self._limiter, audit=partial(self._audit, model), of=model
            )
            gate.learn(self._known.keys)
        return gate

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
        for gate in tuple(self._gates.values()):
            gate.learn(news.keys)
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

    @staticmethod
    def _audit(model: str, key_id: str, verdict: Verdict) -> None:
        from eco_ray.on_ray.ray_serve import deployer_handle

        with contextlib.suppress(Exception):
            deployer_handle().audit.remote("refuse-key", key_id, f"{verdict}, for {model or 'the list of models'}")
