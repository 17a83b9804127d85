"""The threads that a training on CPUs computes with, and the CPUs that they may use, as a knob (core.ports.Knob)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from eco_ray.errors import UsageError

#: up to so many CPUs each number of threads is tried, above that powers of two
_EACH = 4


class CpuThreads:
    """torch's threads, and the CPUs of all threads of this process.

    Processes that are forked inside the block, such as data loaders, keep the CPUs that they began with: start them
    before it. All of it ends with the process, so a crash leaves nothing behind.
    """

    name = "threads"

    def __init__(self, most: int | None = None) -> None:
        """`most`: threads at most; None: as many as there are CPUs for this process. Raises UsageError."""
        cpus = sorted(os.sched_getaffinity(0))
        most = len(cpus) if most is None else most
        if not 1 <= most <= len(cpus):
            raise UsageError(f"{most} threads on {len(cpus)} CPUs; give 1 to {len(cpus)}")
        # jobs that share a node begin at different CPUs, or all of them would meet on the first ones
        first = os.getpid() % len(cpus)
        self._cpus, self._most = cpus[first:] + cpus[:first], most
        self.hardware = f"{most} of {os.cpu_count()} CPUs ({_cpu_model()})"
        self._before: tuple[int, dict[int, set[int]]] | None = None

    def settings(self) -> Sequence[float]:
        """Numbers of threads, the most first."""
        few = range(1, min(self._most, _EACH) + 1)
        doubled = [2**power for power in range(3, self._most.bit_length()) if 2**power < self._most]
        return [float(count) for count in sorted({*few, *doubled, self._most}, reverse=True)]

    def turn(self, setting: float) -> None:
        """Compute with so many threads, on as many CPUs."""
        import torch

        torch.set_num_threads(int(setting))
        allowed = set(self._cpus[: int(setting)])
        for thread in _threads():
            _allow(thread, allowed)

    def __enter__(self) -> Self:
        import torch

        affinities = {thread: found for thread in _threads() if (found := _allowed(thread))}
        self._before = torch.get_num_threads(), affinities
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            return
        import torch

        count, affinities = self._before
        self._before = None
        torch.set_num_threads(count)
        for thread in _threads():  # those that began inside get all that the process had
            _allow(thread, affinities.get(thread) or set(self._cpus))


def _threads() -> list[int]:
    """Of this process, as the kernel counts them."""
    return [int(name) for name in os.listdir("/proc/self/task")]  # noqa: PTH208 - names, not paths


def _allowed(thread: int) -> set[int]:
    try:
        return os.sched_getaffinity(thread)
    except ProcessLookupError:  # it ended meanwhile
        return set()


def _allow(thread: int, cpus: set[int]) -> None:
    try:
        os.sched_setaffinity(thread, cpus)
    except ProcessLookupError:
        return


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
