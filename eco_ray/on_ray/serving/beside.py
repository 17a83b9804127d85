"""What a replica does with the version beside its own: a canary by dice, a smaller variant by its share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eco_ray.on_ray.serve_config import CANARY, VARIANT
from eco_ray.on_ray.serving.mix_follower import MixFollower
from eco_ray.on_ray.serving.mixer import Report
from eco_ray.service.aside import Dice, Other, Turns


def other_of(told: Mapping[str, Any], base: str, model: str, mix: MixFollower) -> Other | None:
    """The version beside, by what Serve tells replicas without starting them anew (`serve_config`).

    `base`: URL of the proxy. The mix is followed from then on, or no more.
    """
    variant, canary = told.get("variant"), told.get("canary")
    mix.variant = variant
    mix.is_asking = variant is not None
    if variant is not None:
        return Other(variant, f"{base}{VARIANT}/{model}", Turns(mix.share), is_variant=True, hop=mix.hop)
    if canary is not None:
        return Other(canary, f"{base}{CANARY}/{model}", Dice(told.get("canary_percent", 0)))
    return None


def ask_deployer(report: Report) -> float:
    """The share that the deployer has decided. Raises whatever Ray does where it is away."""
    import ray

    from eco_ray.on_ray.ray_serve import deployer_handle

    share: float = ray.get(deployer_handle().mix.remote(report), timeout=5.0)
    return share
