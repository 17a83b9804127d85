"""Memory of a training and of the Ray that it has started, part by part."""

from __future__ import annotations

from pathlib import Path

import psutil
from process_memory import memory, object_store, of_all, peak_rss

#: what Ray calls processes that are no workers (2.60), though they are named as such
_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
#: parts of a look
PARTS = ("trainer, RSS", "trainer", "readers", "object store", "together", "idle workers", "Ray's own", "all")


class Watch:
    """Looks at a training again and again."""

    def __init__(self, pid: int) -> None:
        """`pid`: of its process; Ray and workers are below it."""
        self._pid = pid
        #: workers that have ever had a task or an actor: what they hold is theirs when they are idle again
        self.readers: set[int] = set()

    def sample(self) -> dict[str, float]:
        """Of this moment [GB], by `PARTS`; `trainer, RSS`: the highest so far, with all that it shares.

        `together`: trainer, readers and object store, each page once. `all`: with the workers that wait for a first
        task, and with what each node has of Ray whoever uses it.
        """
        idle: list[int] = []
        rays: list[int] = []
        reads: list[int] = []
        below = _below(self._pid)
        for pid in below:
            title = _title(pid)
            if pid in self.readers:
                reads.append(pid)
            elif title.startswith("ray::IDLE"):
                idle.append(pid)
            elif title.startswith("ray::") and not title.startswith(_AGENTS):
                self.readers.add(pid)
                reads.append(pid)
            else:
                rays.append(pid)
        trainer, readers, waiting, own = memory(self._pid), of_all(reads), of_all(idle), of_all(rays)
        # the store by its file, and whatever else is shared where that is more
        shared = max(object_store([self._pid, *below]), (trainer + readers + waiting + own).shared)
        together = trainer.own + readers.own + shared
        found = (
            peak_rss(self._pid),
            trainer.own,
            readers.own,
            shared,
            together,
            waiting.own,
            own.own,
            together + waiting.own + own.own,
        )
        return {name: value / 1e9 for name, value in zip(PARTS, found, strict=True)}


def _below(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
    except OSError:
        return ""
