"""Whose turn it is: what waits is done in rounds, never two at once, in a worker thread or in the event loop.

So the loop answers health checks in time, and the thread's CPU time is the round's. A model that has answered small
requests within milliseconds does so in the loop, with such of about their size: handing them over costs about as much.
What comes while a round is on waits for the next one, and is done together there.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from typing import Any

#: jobs are done in the event loop once so many small ones in a row took no longer than so [s]; for how long a round
#: there takes further ones [s]
_QUICK_TIMES, _QUICK_S = 10, 0.02
#: what is small has at most so many times the size of what was quick: a body of 5 kB may have a thousand rows
_LARGER_TIMES = 2
#: a round in the loop takes about so long at most [s]; proxies ask for health each 5 s and wait as long
_LOOP_S = 1.0
#: after so many looks that found nobody waiting, only each so many-th job has one
_ALONE_TIMES = 8


class Job:
    """What waits for its turn."""

    __slots__ = ("answer", "done", "limit_s", "proves", "size", "small", "work")

    def __init__(
        self, limit_s: float, small: bool = False, work: Callable[[], Any] | None = None, size: int = 0
    ) -> None:
        """`limit_s`: it may take so long. `work`: done in the worker thread and alone; None: a round knows what.

        `size`: of what is to be read [bytes].
        """
        self.limit_s, self.small, self.work, self.size = limit_s, small, work, size
        self.answer: Any = None
        #: whether its time says something of the model's speed
        self.proves = False
        self.done: asyncio.Future[Any] | None = None

    @property
    def dropped(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.done is not None and self.done.cancelled()


class Turns:
    """The one worker and those that wait for it."""

    def __init__(self, do: Callable[[Iterator[Job]], None]) -> None:
        """`do(jobs)` does a round: it takes as many jobs as it likes, and sets their answers."""
        self._do = do
        self._waiting: deque[Job] = deque()
        self._worker = ThreadPoolExecutor(1, "inference")
        #: whether the worker has a round
        self._busy = False
        #: that of the newest job: tests have one for each
        self._loop: asyncio.AbstractEventLoop | None = None
        #: the loop in which a look at who waits is to come
        self._looks: asyncio.AbstractEventLoop | None = None
        #: small jobs in a row that were quick
        self._quick = 0
        #: size of such ones [bytes], and how long each took of late [s]
        self._quick_size, self._each_s = 0, 0.0
        #: looks in a row that found nobody, and jobs since the last look: each one is a turn of the loop
        self._alone = self._unlooked = 0
        #: until when what is done now has its time; None: nothing is
        self._until_s: float | None = None

    @property
    def stuck(self) -> bool:
        """Whether the worker is at something that nobody waits for any more."""
        until_s = self._until_s
        return until_s is not None and time.perf_counter() > until_s

    def at_once(self, job: Job) -> bool:
        """Do a job in the event loop now, if that is where it belongs and nobody else waits; sets its answer."""
        if not self._in_loop(job) or self._busy or self._waiting:
            return False
        loop = asyncio.get_running_loop()
        if self._looks is loop:
            return False
        # those that came together with this one wait until a look; where there were none of late, few looks do
        self._unlooked += 1
        if self._alone < _ALONE_TIMES or self._unlooked >= _ALONE_TIMES:
            self._look_soon(loop)
        self._round(deque((job,)), in_loop=True)
        if isinstance(job.answer, Exception):
            raise job.answer
        return True

    async def do(self, job: Job) -> Any:
        """The job's answer, when it had its turn. Who is cancelled before it leaves the line."""
        self._loop = loop = asyncio.get_running_loop()
        if not self._busy and self._looks is not loop:
            self._look_soon(loop)
        job.done = loop.create_future()
        self._waiting.append(job)
        return await job.done

    def _look_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        self._looks, self._unlooked = loop, 0
        loop.call_soon(self._look)

    def _look(self) -> None:
        self._looks = None
        self._alone = 0 if self._waiting else self._alone + 1
        if not self._waiting or self._busy:
            return
        if all(map(self._in_loop, self._waiting)):
            self._settle(self._round(self._waiting, in_loop=True))
            self._look_soon(asyncio.get_running_loop())
            return
        self._busy = True
        self._worker.submit(self._hand_over)

    def _in_loop(self, job: Job) -> bool:
        """Whether a job is like those that were quick."""
        return self._quick >= _QUICK_TIMES and job.small and job.size <= _LARGER_TIMES * self._quick_size

    def _hand_over(self) -> None:
        """A round in the worker thread."""
        taken = self._round(self._waiting)
        self._busy = False
        if self._loop is not None:
            with suppress(RuntimeError):  # it is closed: nobody waits
                self._loop.call_soon_threadsafe(self._returned, taken)

    def _returned(self, taken: list[Job]) -> None:
        self._settle(taken)
        self._look()

    @staticmethod
    def _settle(taken: list[Job]) -> None:
        for job in taken:
            if job.done is not None and not job.done.done():
                if isinstance(job.answer, Exception):
                    job.done.set_exception(job.answer)
                else:
                    job.done.set_result(job.answer)

    def _round(self, waiting: deque[Job], in_loop: bool = False) -> list[Job]:
        """Do what can be done together now; the jobs of the round."""
        began_s = time.perf_counter()
        taken: list[Job] = []
        most = _LOOP_S / max(self._each_s, 1e-6)

        def take() -> Job | None:
            while waiting and (not taken or (waiting[0].work is None and taken[0].work is None)):
                if in_loop and taken and (time.perf_counter() - began_s > _QUICK_S or len(taken) >= most):
                    return None
                job = waiting.popleft()
                if not job.dropped:
                    self._until_s = max(self._until_s or 0.0, began_s + job.limit_s)
                    taken.append(job)
                    return job
            return None

        try:
            first = take()
            if first is not None and first.work is not None:
                first.answer = first.work()
            elif first is not None:
                self._do(chain((first,), iter(take, None)))
        except Exception as error:  # for each of them, instead of an answer that would never come
            for job in taken:
                job.answer = error
        finally:
            self._until_s = None
        if taken and all(job.small for job in taken):
            self._each_s = (time.perf_counter() - began_s) / len(taken)
            proving = [job.size for job in taken if job.proves]
            if self._each_s > _QUICK_S:
                self._quick = self._quick_size = 0
            elif proving:  # of a round's jobs the smallest was quick for sure
                self._quick += len(proving)
                self._quick_size = max(self._quick_size, min(proving))
        return taken
