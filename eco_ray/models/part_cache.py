"""Parts of registries that are far away, kept on this machine for the next pull.

Whoever reads one compares it with its SHA-256, so what is kept here needs no care: several processes may use it at
once, and everything in it may be removed at any time. Sealed parts are kept sealed.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from eco_ray.errors import EcoRayError
from eco_ray.models.object_store import LocalStore


class PartCache:
    """A directory of parts, of which those that were used last stay."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._store = LocalStore(folder)

    def read(self, path: str, most_bytes: int) -> bytes | None:
        """What was kept as an object of a store, damaged or not; None: nothing."""
        name = _name(path)
        try:
            data = self._store.read(name, most_bytes)
            os.utime(self._folder / name)
        except (EcoRayError, OSError):
            return None
        return data

    def keep(self, path: str, data: bytes) -> None:
        """Keep an object, and let those go that were used longest ago. A full disk costs time later, not the pull."""
        if len(data) > self._most_bytes:
            return
        with contextlib.suppress(EcoRayError, OSError):
            self._store.put(_name(path), data)
            self._make_room()

    def _make_room(self) -> None:
        """Drafts of processes that died are among what goes: they are used no more."""
        found = []
        for one in os.scandir(self._folder):
            with contextlib.suppress(FileNotFoundError):  # somebody else makes room, too
                status = one.stat()
                found.append((status.st_mtime_ns, status.st_size, one.path))
        total = sum(size for _, size, _ in found)
        for _, size, where in sorted(found):
            if total <= self._most_bytes:
                return
            Path(where).unlink(missing_ok=True)
            total -= size


def _name(path: str) -> str:
    return path.replace("/", "-")
