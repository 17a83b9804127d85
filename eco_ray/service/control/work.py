"""Threads in which the cluster is asked: so many at once, of one tenant fewer, and nobody waits for one forever."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from eco_ray.errors import EcoRayError, InfeasibleError, NotAllowedError, NotFoundError, UnreachableError, UsageError
from eco_ray.service.problems import Header, Problem

T = TypeVar("T")
LATER: tuple[Header, ...] = ((b"retry-after", b"1"), (b"cache-control", b"no-store"))


class Work:
    """Calls under way, by tenant: one that nobody waits for any more is one, too."""

    def __init__(self, most: int, of_one: int, limit_s: float) -> None:
        """`limit_s`: for one call."""
        self._most, self._of_one, self._limit_s = most, of_one, limit_s
        self._busy: Counter[str] = Counter()
        self._threads = ThreadPoolExecutor(most, "control")

    async def __call__(self, tenant: str, call: Callable[..., T], *given: Any) -> T:
        """What the call returns. Raises Problem, also for errors of ours."""
        if self._busy.total() >= self._most or self._busy[tenant] >= self._of_one:
            detail = f"{self._most} requests are under way, or {self._of_one} of this tenant, the most; ask again"
            raise Problem(503, "busy", detail, LATER)
        self._busy[tenant] += 1
        asked = asyncio.get_running_loop().run_in_executor(self._threads, partial(call, *given))
        asked.add_done_callback(partial(self._done, tenant))
        try:
            async with asyncio.timeout(self._limit_s):
                return await asyncio.shield(asked)
        except TimeoutError:
            detail = f"no answer of the cluster within {self._limit_s:g} s; look whether it was done, then ask again"
            raise Problem(503, "too slow", detail, LATER) from None
        except EcoRayError as error:
            raise problem_of(error) from None

    def _done(self, tenant: str, done: asyncio.Future[Any]) -> None:
        done.cancelled() or done.exception()  # nobody may have waited for it
        self._busy[tenant] -= 1
        if not self._busy[tenant]:
            del self._busy[tenant]


def problem_of(error: EcoRayError) -> Problem:
    """An error of ours as an answer. Where somebody does not answer, who that is stays here."""
    match error:
        case NotFoundError():
            return Problem(404, "not found", str(error))
        case UsageError():
            return Problem(400, "wrong request", str(error))
        case InfeasibleError():
            return Problem(422, "infeasible", str(error))
        case NotAllowedError():
            return Problem(403, "not allowed", str(error))
        case UnreachableError():
            return Problem(503, "not known now", "the controller or the database does not answer; ask again", LATER)
    return Problem(503, "not known now", "the cluster cannot say it now; ask again, its log says why", LATER)
