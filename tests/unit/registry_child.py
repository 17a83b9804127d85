"""A process that is killed by SIGKILL in the middle of something: ROOT WHAT CALLS AT AFTER CACHE FILE."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from registry_cases import Deadly

from eco_ray.models import parts
from eco_ray.models.object_store import LocalStore
from eco_ray.models.part_cache import PartCache
from eco_ray.models.registry import Registry

PART_BYTES = 2048


def main(root, what, calls, at, after, cache, file):
    parts.PART_BYTES, parts._AT_ONCE = PART_BYTES, 1
    store = Deadly(
        LocalStore(Path(root)),
        int(at),
        after == "after",
        calls.split(","),
        die=lambda: os.kill(os.getpid(), signal.SIGKILL),
        remote=True,
    )
    registry = Registry(store, cache=PartCache(Path(cache), 1 << 30))
    {
        "push": lambda: registry.push(file, "m"),
        "pull": lambda: registry.pull("m:1", file),
        "promote": lambda: registry.promote("m:1", "prod"),
        "delete": lambda: registry.delete("m:1"),
        "gc": registry.gc,
    }[what]()


if __name__ == "__main__":
    main(*sys.argv[1:])
