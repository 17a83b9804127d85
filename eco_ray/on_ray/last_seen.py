"""Until when a node was metered, so that its next agent can account for the time without one."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from pathlib import Path

from eco_ray.json_file import read_json

_NAME = "metered-until.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
#: longer than any entry, so that each overwrites the whole of the one before
_BYTES = 160
#: a longer time without an agent is not filled: nobody knows what the node did [wall s]
LONGEST_S = 7 * 86_400.0


class LastSeen:
    """Keeps the end of the last sample beside a node's unconfirmed samples; its file stays open."""

    def __init__(self, folder: Path, boot_id_file: Path = _BOOT_ID) -> None:
        self._path = folder / _NAME
        self._file: int | None = None
        try:
            #: of the machine: it was on all the time if it is the same
            self._boot_id = boot_id_file.read_text().strip()[:64]
        except OSError:
            self._boot_id = "unknown"

    def keep(self, end_wall_s: float) -> None:
        """Write the end of a sample down. A torn file, or none, only means that the gap is not filled."""
        with suppress(OSError):
            if self._file is None:
                # what has its name may be a pipe, or a link
                how = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
                self._file = os.open(self._path, how, 0o600)
            os.pwrite(self._file, json.dumps([end_wall_s, self._boot_id]).ljust(_BYTES).encode(), 0)

    def since(self, now_wall_s: float) -> float | None:
        """From when on nothing was metered [wall s]; None: not known, too long ago, or the machine was off between."""
        try:
            end_wall_s, boot_id = read_json(self._path, _BYTES)
            end_wall_s = float(end_wall_s)
        except (OSError, ValueError, TypeError, OverflowError):
            return None
        gap_s = now_wall_s - end_wall_s
        fits = math.isfinite(gap_s) and 0 < gap_s <= LONGEST_S and boot_id == self._boot_id
        return end_wall_s if fits else None

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)


def forget_all(spool_root: Path) -> None:
    """The cluster goes down in order: until it is up again, its nodes are not its own."""
    for path in spool_root.glob(f"*/{_NAME}"):
        path.unlink(missing_ok=True)
