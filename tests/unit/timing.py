"""CPU time as it would be on a quiet core, so that limits on time hold on slow and busy machines as well."""

from __future__ import annotations

import time
from collections.abc import Callable

#: what the loop below takes on a quiet core (AMD EPYC) [s]
_QUIET_S = 0.016


def quiet_seconds_of(function: Callable[[], object]) -> float:
    """CPU time of a call [s], by how long a loop takes just before and just after it; never more than it took."""
    before_s, took_s, after_s = _cpu_s(_loop), _cpu_s(function), _cpu_s(_loop)
    return took_s / max(1.0, (before_s + after_s) / 2 / _QUIET_S)


def _cpu_s(function: Callable[[], object]) -> float:
    began_s = time.process_time()
    function()
    return time.process_time() - began_s


def _loop() -> int:
    total = 0
    for number in range(200_000):
        total += number * number % 7
    return total
