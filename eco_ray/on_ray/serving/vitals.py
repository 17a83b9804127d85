"""What a replica tells of itself for its scaling: requests, work, latency, what its start took and what waiting takes.

Ray Serve asks for it several times a second (`record_autoscaling_stats`) and brings it to the policy. On the way of a
request there are three short calls, about half a microsecond together.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from math import ceil
from pathlib import Path

#: answers whose latency is remembered, and for how long [s]
_KEPT, _LATELY_S = 512, 30.0
#: of fewer answers a 95th percentile says nothing
_FEW = 20
#: of waiting, before what it takes is believed [s]
_WAITED_S = 5.0

#: what is unknown: Serve takes numbers only
UNKNOWN = -1.0


class Vitals:
    """Counts of one replica. The requests' part is for one thread, the event loop."""

    def __init__(
        self,
        cpu_w: float,
        node: int = -1,
        clock_s: Callable[[], float] = time.perf_counter,
        process_s: Callable[[], float] = time.process_time,
        waited_s: Callable[[], float] | None = None,
    ) -> None:
        """When the replica begins to load. `cpu_w`: that a busy CPU adds to its node.

        `node`: which of the deployment's nodes it is on, an index; -1: unknown. `process_s`: CPU time of the process.
        `waited_s`: for a CPU, of the thread that asks.
        """
        self._cpu_w, self._node = cpu_w, float(node)
        self._clock_s, self._process_s = clock_s, process_s
        self._waited_s = waited_s or waited_for_cpu_s
        # what the process did before, it imported: on a CPU
        self._began_s = clock_s() - process_s()
        self._start_s = self._start_j = UNKNOWN
        #: requests that came, and those that are answered
        self._came = self._gone = 0
        #: when each of the last answers began [s], and how long it took to begin
        self._latencies: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        #: at the last look: clock, CPU time, waiting for a CPU, requests
        self._looked = clock_s(), process_s(), self._waited_s(), 0
        #: CPU time, and waiting for one, while there were requests; CPU time while there were none, and how long [s]
        self._worked_s = self._idle_cpu_s = self._idle_s = 0.0

    def ready(self) -> None:
        """The replica has loaded, and answers from now on."""
        now_s, cpu_s = self._clock_s(), self._process_s()
        self._start_s, self._start_j = now_s - self._began_s, cpu_s * self._cpu_w
        self._looked = now_s, cpu_s, self._waited_s(), self._came

    def came(self) -> float:
        """A request has come; when [s], for `answered`."""
        self._came += 1
        return self._clock_s()

    def answered(self, came_s: float) -> None:
        """Its answer begins now."""
        now_s = self._clock_s()
        self._latencies.append((now_s, now_s - came_s))

    def gone(self) -> None:
        """A request that came is over, whatever became of it."""
        self._gone += 1

    def told(self, busy_s: float) -> dict[str, float]:
        """For the policy. `busy_s`: of the service so far, also on a GPU."""
        now_s, cpu_s, waited_s = self._clock_s(), self._process_s(), self._waited_s()
        since_s, before_s, had_waited_s, before = self._looked
        self._looked = now_s, cpu_s, waited_s, self._came
        if self._came > before or self._came > self._gone:
            # where others take the CPUs, a replica is busy for longer than it computes
            self._worked_s += cpu_s - before_s + max(0.0, waited_s - had_waited_s)
        else:
            self._idle_cpu_s += cpu_s - before_s
            self._idle_s += now_s - since_s
        lately = sorted(took_s for at_s, took_s in self._latencies if at_s > now_s - _LATELY_S)
        known = len(lately) >= _FEW
        return {
            "requests": float(self._came),
            "worked_s": max(self._worked_s, busy_s),
            "p95_s": lately[ceil(0.95 * len(lately)) - 1] if known else UNKNOWN,
            "p95_of": float(len(lately)) if known else 0.0,
            "start_s": self._start_s,
            "start_j": self._start_j,
            "idle_w": self._cpu_w * self._idle_cpu_s / self._idle_s if self._idle_s >= _WAITED_S else UNKNOWN,
            "node": self._node,
        }


def waited_for_cpu_s() -> float:
    """How long this thread was ready to run, and did not, since it began [s]; 0 where the system does not tell."""
    try:
        told = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text()
        return int(told.split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
