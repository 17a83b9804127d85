"""Looks at all RayJobs again and again, and does what `decision` says: one loop, one job after the other.

It remembers nothing that matters. What a round knows of a job is what the watch told last; before it acts it reads the
object anew and decides again, and its patch is refused where the object has changed since. So a watch that lags, a
second controller, or a kill at any moment costs a round, and nothing is done twice.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from eco_ray.errors import EcoRayError, UnreachableError
from eco_ray.k8s.api import ConflictError
from eco_ray.k8s.decision import Act, Decision, Rules, decide, need
from eco_ray.k8s.rayjob import RayJob, Stance, read
from eco_ray.k8s.signal import Signal

log = logging.getLogger("eco_ray.suspend")

#: how often an object that changes while it is patched is read again at once
_TRIES = 3
#: news are collected for so long before a round [s]
_GATHER_S = 0.2
#: until a job is looked at again with which something failed [s]
_RETRY_S = 5.0
#: what can need us: all others are left alone until the watch tells of a change
_OPEN = (Stance.NEW, Stance.HELD, Stance.SUSPENDED_AGAIN)

#: namespace and name
Key = tuple[str, str]


class RayJobs(Protocol):
    """Reads and patches RayJobs (api.py)."""

    async def get(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """The object now; None: it is gone."""
        ...

    async def patch(self, namespace: str, name: str, patch: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Merge a patch; None: it is gone. Raises ConflictError where the object has changed."""
        ...


#: gets a job's object, what was decided, and whether it was done (else it would be)
Tell = Callable[[Mapping[str, Any], Decision, bool], None]


class Keeper:
    """Holds and releases the RayJobs that it is told of."""

    def __init__(
        self,
        rayjobs: RayJobs,
        signal: Signal,
        rules: Rules,
        tell: Tell,
        now_s: Callable[[], float],
        *,
        apply: bool = False,
        interval_s: float = 60.0,
    ) -> None:
        """`apply` False: nothing is written, and what would be done is told."""
        self._rayjobs = rayjobs
        self._signal = signal
        self._rules = rules
        self._tell = tell
        self._now_s = now_s
        self._apply = apply
        self._interval_s = interval_s
        #: the objects as they were seen last, and when to look at each again [s since epoch]
        self._seen: dict[Key, Mapping[str, Any]] = {}
        self._due_s: dict[Key, float] = {}
        #: by uid: what its owner was told last
        self._told: dict[str, tuple[object, ...]] = {}
        self._news = asyncio.Event()
        #: when the last round ended, for a liveness probe [s since epoch]
        self.last_round_s: float | None = None

    def seen(self, kind: str | None, body: Mapping[str, Any]) -> None:
        """What the watch tells; `kind`: ADDED, MODIFIED, DELETED, or None while it lists what is there."""
        job = read(body)
        key = job.namespace, job.name
        if kind == "DELETED" or job.stance not in _OPEN:
            self._forget(key)
            return
        self._seen[key], self._due_s[key] = body, self._now_s()
        self._news.set()

    async def run(self) -> None:
        """Round after round: when a job is seen, when its planned start comes, and every `interval_s`."""
        while True:
            wait_s = await self.round()
            try:
                await asyncio.wait_for(self._news.wait(), wait_s)
                await asyncio.sleep(_GATHER_S)
            except TimeoutError:
                pass
            self._news.clear()

    async def round(self) -> float:
        """Look at every job that is due; returns in how long the next one is [s]."""
        now_s = self._now_s()
        # one that is due later than that was put off by a clock that has been set back since
        last_s = now_s + self._interval_s
        due = {key: due_s for key, due_s in self._due_s.items() if not now_s < due_s <= last_s}
        for key, due_s in due.items():
            try:
                until_s = await self._look(key)
            except UnreachableError as error:  # nor would the others reach it now
                log.error("%s/%s: %s", *key, error)
                self._due_s[key] = now_s + _RETRY_S
                break
            except Exception as error:  # whatever it is, the other jobs go on
                log.error("%s/%s: %s", *key, error, exc_info=None if isinstance(error, EcoRayError) else error)
                until_s = now_s + _RETRY_S
            if self._due_s.get(key) == due_s:  # else the watch has told more of it meanwhile
                self._due_s[key] = min(until_s, last_s)
        now_s = self.last_round_s = self._now_s()
        wait_s = min(self._due_s.values(), default=math.inf) - now_s
        return min(max(wait_s, _GATHER_S), self._interval_s)

    async def _look(self, key: Key) -> float:
        """One job; returns its planned start [s since epoch], or inf."""
        body = seen = self._seen.get(key)
        for _ in range(_TRIES):
            if body is None:
                break  # the watch has told that it is gone
            decision = await asyncio.to_thread(self._decide, read(body))
            if decision.patch is not None:  # the watch may lag: what acts is decided on what is there now
                fresh = await self._rayjobs.get(*key)
                if fresh is None:
                    self._forget(key)
                    return math.inf
                body = fresh
                decision = await asyncio.to_thread(self._decide, read(body))
            done = decision.patch is not None and self._apply
            if done:
                try:
                    patched = await self._rayjobs.patch(*key, decision.patch or {})
                except ConflictError:
                    continue
                if patched is None:
                    self._forget(key)
                    return math.inf
                body = patched
            self._say(body, decision, done=done)
            if self._seen.get(key) is seen:  # else the watch has told more of it meanwhile
                self._seen[key] = body
            return math.inf if decision.until_s is None else decision.until_s
        else:
            log.info("%s/%s changes too often; it is looked at again in a moment", *key)
        return self._now_s() + _RETRY_S

    def _decide(self, job: RayJob) -> Decision:
        now_s, wanted = self._now_s(), need(job, self._rules)
        forecast = None if wanted is None else self._signal.forecast(wanted.zone, now_s, wanted.until_s)
        return decide(job, forecast, now_s, self._rules)

    def _say(self, body: Mapping[str, Any], decision: Decision, *, done: bool) -> None:
        """Tell once what is decided; a new planned start is something new, another percentage is not."""
        uid = read(body).uid
        about = decision.message if decision.act is Act.REFUSE else decision.until_s
        news = (decision.act, decision.reason, about)
        if decision.act in (Act.LEAVE, Act.WAIT) or self._told.get(uid) == news:
            return
        self._told[uid] = news
        self._tell(body, decision, done)

    def _forget(self, key: Key) -> None:
        body = self._seen.pop(key, None)
        self._due_s.pop(key, None)
        if body is not None:
            self._told.pop(read(body).uid, None)
