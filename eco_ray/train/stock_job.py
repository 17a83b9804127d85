"""A script in a stock Ray job (`ray job submit`) whose metadata has keys `eco.*`: it queues first."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping


def queue_if_asked(environ: Mapping[str, str], warn: Callable[[str], None]) -> None:
    """In a stock Ray job whose metadata has a key `eco.*`, become `eco-ray run -- <this very command>`."""
    try:
        metadata = json.loads(environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}").get("metadata") or {}
        asked = any(str(key).startswith("eco.") for key in metadata)
    except (ValueError, AttributeError, TypeError):
        return  # not ours to judge
    if not asked:
        return
    if "ECO_RAY_RUN_GUARD" in environ:
        warn("the job's metadata has eco.* keys, but `eco-ray run` gave it no place (ECO_RAY_RUN_DIR); running at once")
        return
    os.environ["ECO_RAY_RUN_GUARD"] = "1"
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, *sys.orig_argv[1:]]
    os.execv(sys.executable, [sys.executable, "-m", "eco_ray.cli.main", "run", "--", *command])  # noqa: S606
