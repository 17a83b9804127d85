"""A process that is killed by SIGKILL in the middle of something: ROOT WHAT CALLS AT HOW CACHE FILE.

HOW: before or after the call number AT of the CALLS to the store, or half-way through the file that is written AT-th.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from registry_cases import Deadly

from eco_ray.models import object_store, parts
from eco_ray.models.part_cache import PartCache
from eco_ray.models.registry import Registry

PART_BYTES = 2048


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def tear(at):
    """Let the `at`-th file that is written be half there when the process dies."""
    write, left = object_store._write, [at]

    def torn(draft, data):
        left[0] -= 1
        if left[0] < 0:
            write(draft, data[: len(data) // 2])
            die()
        write(draft, data)

    object_store._write = torn


def main(root, what, calls, at, how, cache, file):
    parts.PART_BYTES, parts._AT_ONCE = PART_BYTES, 1
    at = int(at)
    if how == "half":
        tear(at)
        at = 10**9
    store = Deadly(object_store.LocalStore(Path(root)), at, how == "after", calls.split(","), die=die, remote=True)
    registry = Registry(store, cache=PartCache(Path(cache), 1 << 30))
    {
        "push": lambda: registry.push(file, "m"),
        "pull": lambda: registry.pull("m:1", file),
        "promote": lambda: registry.promote("m:2", "prod"),
        "delete": lambda: registry.delete("m:1"),
        "gc": registry.gc,
    }[what]()


if __name__ == "__main__":
    main(*sys.argv[1:])
