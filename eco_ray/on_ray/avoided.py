"""What the cache of a replica avoided, summed for the ledger: rows wait here until the deployer has written them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice

from eco_ray.core.avoided import Avoided
from eco_ray.core.clock import Clock
from eco_ray.core.footprint import ReplicaPower, Signal
from eco_ray.core.units import MJ_PER_J, Nature
from eco_ray.on_ray.replica_file import MAX_TENANTS

log = logging.getLogger("eco_ray.serving")

#: of wall time in a row, where the intensity stays the same [s]
SPAN_S = 60.0
#: rows that wait: with ten tenants those of a day and more; beyond them the oldest are lost
MOST_WAITING = 20_000
#: rows that go to the deployer at once
MOST_SENT = 1_000
_SOURCE = "first computation less the hit, by CPU time"


class AvoidedLog:
    """The hits of one replica's cache. Threads may share it.

    Rows have ids, and are given again until they are confirmed: one whose confirmation is lost is counted once.
    """

    def __init__(
        self, replica: str, node: str, power: ReplicaPower, signal: Signal, clock: Clock, now_s: float
    ) -> None:
        """`replica`: no other one ever has this id. `now_s` is wall time [s since epoch], as that of `take`."""
        self._replica, self._node, self._power, self._clock = replica, node, power, clock
        self._signal, self._since_s = signal, now_s
        #: hits and joules by model and tenant
        self._sums: dict[tuple[str, str], tuple[int, float]] = {}
        self._waiting: deque[Avoided] = deque(maxlen=MOST_WAITING)
        self._rows = 0
        self._lock = threading.Lock()

    def add(self, model: str, tenant: str, joules: float) -> None:
        """Count one hit. `model`: `name:version`."""
        with self._lock:
            known = (model, tenant) in self._sums or len(self._sums) < MAX_TENANTS
            counted_as = model, tenant if known else ""
            hits, before_j = self._sums.get(counted_as, (0, 0.0))
            self._sums[counted_as] = hits + 1, before_j + joules

    def send(self, now_s: float, signal: Signal, write: Callable[[list[Avoided]], None]) -> None:
        """Have what `take` gives written, some of it at least. Raises nothing: what `write` refuses is sent again."""
        if rows := self.take(now_s, signal):
            with suppress(Exception):
                write(rows)
                self.confirm(rows)

    def take(self, now_s: float, signal: Signal) -> list[Avoided]:
        """The oldest rows that are not confirmed yet, MOST_SENT at most; from now on `signal` is the intensity."""
        with self._lock:
            ended = not 0 <= now_s - self._since_s < SPAN_S  # below 0: the wall clock was set back
            if ended or signal != self._signal or not self._sums:
                self._end_span(now_s)
            self._signal = signal
            return list(islice(self._waiting, MOST_SENT))

    def end(self, now_s: float, write: Callable[[list[Avoided]], None]) -> None:
        """Have what is left written, as there will be no later call; what `write` refuses is lost. Raises nothing."""
        with self._lock:
            self._end_span(now_s)
        while self._waiting:
            before = len(self._waiting)
            self.send(now_s, self._signal, write)
            if len(self._waiting) == before:
                log.warning("avoided energy: %d rows are lost with the replica", before)
                return

    def confirm(self, rows: Iterable[Avoided]) -> None:
        """These are in the ledger."""
        written = {row.id for row in rows}
        with self._lock:
            while self._waiting and self._waiting[0].id in written:
                self._waiting.popleft()

    def _end_span(self, now_s: float) -> None:
        lost = len(self._waiting) + len(self._sums) - MOST_WAITING
        if lost > 0:
            log.warning("avoided energy: %d rows are lost, as the deployer took none for too long", lost)
        signal = self._signal
        known = [] if signal.nature is None else [signal.nature]
        for (model, tenant), (hits, joules) in self._sums.items():
            self._rows += 1
            self._waiting.append(
                Avoided(
                    id=f"{self._replica}/{self._rows}",
                    start_s=self._clock.grid_s(min(self._since_s, now_s)),
                    end_s=self._clock.grid_s(now_s),
                    node=self._node,
                    model=model,
                    tenant=tenant,
                    hits=hits,
                    energy_mj=round(joules * MJ_PER_J),
                    zone=signal.zone,
                    intensity_g_per_kwh=signal.intensity_g_per_kwh,
                    intensity_kind=signal.kind,
                    pue=self._power.pue,
                    nature=Nature.weakest([self._power.curve.nature, Nature.MODELLED, *known]),
                    source=f"{_SOURCE}; intensity: {signal.source}",
                )
            )
        self._sums, self._since_s = {}, now_s
