"""What Ray Serve is given as its autoscaling policy. Serve pickles what this file says: it says no more than this.

{"policy_function": "eco_ray.on_ray.serving.policy:GreenPolicy", "policy_kwargs": {"reference": "mnist:3", ...}}
"""

from __future__ import annotations

from typing import Any

from eco_ray.on_ray.serving.scaler import Scaler, begin


class GreenPolicy(Scaler):
    """Scales one deployment by requests, promised latency and grams. Made in Serve's controller."""

    def __init__(self, **told: Any) -> None:
        super().__init__(**told)
        begin()
