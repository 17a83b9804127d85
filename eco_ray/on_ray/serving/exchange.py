"""Between Serve's controller, where the policies decide, and the deployer, which keeps the books.

A thread of its own brings what policies decided to the deployer, and a snapshot of what they have to know back. The
policies only leave and take what lies here: whatever hangs or fails on the way, they do not wait for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from eco_ray.core.replica_counts import ReplicaDecision
from eco_ray.core.replica_facts import ReplicaFacts, Start
from eco_ray.core.replica_places import Room
from eco_ray.core.scaling_log import ScalingRecord

log = logging.getLogger("eco_ray.serving")

#: between two exchanges, and for the deployer's answer [s]
_PERIOD_S, _ANSWER_S = 2.0, 5.0
#: an older snapshot is not believed: nodes and intensities may be others by now [s]
FRESH_S = 30.0
#: records that wait for a deployer that is away; and policies that decide no more are forgotten after [s]
_WAITING, _FORGOTTEN_S = 1000, 60.0


@dataclass(frozen=True, slots=True)
class Last:
    """What was decided last of an application's replicas."""

    app: str
    #: name:VERSION that they serve
    reference: str
    at_s: float
    decision: ReplicaDecision
    running: int
    #: replicas by index of the deployment's nodes; -1: on another one
    nodes: Mapping[int, int]
    #: None: no replica has started yet
    start: Start | None
    #: of a replica's time that a request takes, lately [s]; None: unknown, or there were too few
    work_s: float | None = None


@dataclass(frozen=True, slots=True)
class News:
    """From the policies."""

    last: tuple[Last, ...] = ()
    records: tuple[ScalingRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """From the deployer."""

    rooms: tuple[Room, ...] = ()
    #: by application
    facts: Mapping[str, ReplicaFacts] = field(default_factory=dict)


class Exchange:
    """What lies between. Its methods for policies take microseconds, and wait for nothing."""

    def __init__(self, ask: Callable[[News], Snapshot], clock_s: Callable[[], float] = time.monotonic) -> None:
        """`ask`: bring the news, and get a snapshot; it may take its time, and may raise."""
        self._ask, self._clock_s = ask, clock_s
        self._got: tuple[float, Snapshot] | None = None
        self._last: dict[str, tuple[float, Last]] = {}
        self._records: deque[ScalingRecord] = deque(maxlen=_WAITING)
        self._started = False

    def start(self) -> None:
        """Exchange in the background from now on."""
        if not self._started:
            self._started = True
            threading.Thread(target=self._run, name="eco-exchange", daemon=True).start()

    def snapshot(self) -> Snapshot | None:
        """The last one; None: it is too old."""
        got = self._got
        return got[1] if got and self._clock_s() - got[0] <= FRESH_S else None

    def tell(self, last: Last, record: ScalingRecord | None = None) -> None:
        """Leave what was decided for the deployer."""
        self._last[last.app] = self._clock_s(), last
        if record is not None:
            self._records.append(record)

    def once(self) -> None:
        """One exchange. Raises what asking raises; records are kept for the next time then."""
        now_s = self._clock_s()
        told = dict(self._last)
        for app, (at_s, last) in told.items():
            if at_s < now_s - _FORGOTTEN_S and self._last.get(app) == (at_s, last):
                del self._last[app]
        records = [self._records.popleft() for _ in range(len(self._records))]
        try:
            snapshot = self._ask(News(tuple(last for _, last in told.values()), tuple(records)))
        except Exception:
            room = _WAITING - len(self._records)
            self._records.extendleft(reversed(records[len(records) - room :] if room < len(records) else records))
            raise
        self._got = now_s, snapshot

    def _run(self) -> None:
        complained = False
        while True:
            try:
                self.once()
                complained = False
            except Exception as error:  # the deployer may be away: policies go on by the requests alone
                if not complained:
                    log.warning("scaling goes on by requests alone, the deployer does not answer: %s", error)
                complained = True
            time.sleep(_PERIOD_S)


def ask_deployer(news: News) -> Snapshot:
    """The deployer of this cluster."""
    import ray

    from eco_ray.on_ray.ray_serve import deployer_handle

    asked = deployer_handle().scaling.options(max_task_retries=0).remote(news)
    snapshot: Snapshot = ray.get(asked, timeout=_ANSWER_S)
    return snapshot


#: of this process: one for all policies
EXCHANGE = Exchange(ask_deployer)
