"""`eco-ray model deploy --variant`: a smaller version that answers some requests while the grid is dirty."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import click

from eco_ray.core.deployments import Deployment
from eco_ray.core.variants import DIRTY_G_PER_KWH, Mixing
from eco_ray.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])

#: by the name of its parameter
OPTIONS: Mapping[str, str] = {
    "variant": "--variant",
    "variant_share": "--variant-share",
    "accuracy_floor": "--accuracy-floor",
    "dirty_above": "--dirty-above",
}


def variant_options(command: Command) -> Command:
    """The options of a variant."""
    for option in (
        click.option(
            "--dirty-above",
            type=click.FloatRange(0),
            metavar="G",
            help=f"Intensity from which on the grid is dirty [{DIRTY_G_PER_KWH:g} g/kWh].",
        ),
        click.option(
            "--accuracy-floor",
            type=click.FloatRange(0, 1),
            metavar="PART",
            help="Of the mix, such as 0.97: the variant gets no more than that leaves.",
        ),
        click.option(
            "--variant-share",
            type=click.FloatRange(0, 100),
            metavar="PERCENT",
            help="So many requests at most get the variant, while the grid is dirty; 0 ends it.",
        ),
        click.option(
            "--variant",
            type=click.IntRange(1),
            metavar="VERSION",
            help="A smaller version of the model that may answer for it, as `model compress` makes them.",
        ),
    ):
        command = option(command)
    return command


def with_variant(wanted: Deployment, options: Mapping[str, Any], canary: int | None) -> Deployment:
    """With what was asked for of a variant; what was not, stays as it was. Raises UsageError."""
    given = {key: options[key] for key in OPTIONS if options.get(key) is not None}
    name = wanted.model
    if canary is not None and (given or wanted.variant is not None):
        raise UsageError(
            f"{name} cannot have a canary and a variant at once: nobody could say which answers are whose; end the "
            "variant with --variant-share 0 first"
        )
    if not given and (wanted.variant is None or not wanted.path):
        return wanted
    if given.get("variant_share") == 0:
        if len(given) > 1:
            raise UsageError("--variant-share 0 ends the variant; leave out what else is said of it")
        return replace(wanted, variant=None, mixing=None)
    if wanted.canary is not None:
        raise UsageError(
            f"{name} cannot have a canary and a variant at once: nobody could say which answers are whose; promote "
            f"version {wanted.canary}, or end it with --canary 0"
        )
    if wanted.path:
        raise UsageError(
            f"{name} is a file, whose accuracy nobody knows: it has no variant; push it to a registry, or end the "
            "variant with --variant-share 0"
        )
    variant = given.get("variant", wanted.variant)
    if variant is None:
        said = ", ".join(OPTIONS[key] for key in given)
        raise UsageError(f"{said} is for a variant, and {name} has none; name it with --variant VERSION")
    known = wanted.mixing
    missing = [OPTIONS[key] for key in ("variant_share", "accuracy_floor") if key not in given] if known is None else []
    if missing:
        raise UsageError(
            f"--variant {variant} needs {' and '.join(missing)}: how many of the requests it may get at most, and "
            "which mean accuracy has to be kept"
        )
    return replace(
        wanted,
        variant=variant,
        mixing=Mixing(
            given["variant_share"] / 100 if known is None or "variant_share" in given else known.max_share,
            given["accuracy_floor"] if known is None or "accuracy_floor" in given else known.accuracy_floor,
            given.get("dirty_above", known.above_g_per_kwh if known else DIRTY_G_PER_KWH),
        ),
    )


def shown(told: Mapping[str, Any] | None) -> str:
    """A variant in a table."""
    if told is None:
        return ""
    return f"{told['version']} ({told['percent']:.3g} % now, {told['allowed_percent']:.3g} % at most)"
