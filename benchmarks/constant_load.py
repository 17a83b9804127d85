"""Requests at constant rates, whatever became of those before: for benchmarks that break something meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any


class ConstantLoad(ABC):
    """Asks from a thread of its own, which begins with `begin` and ends with `stop`."""

    def __init__(self, timeout_s: float = 60.0) -> None:
        self._timeout_s, self._stopped = timeout_s, threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.began_s = 0.0

    @abstractmethod
    async def ask_all(self, http: Any) -> None:
        """All that is asked, by `at_rate`. `http`: an aiohttp session without a limit of connections."""

    def begin(self) -> None:
        """The first requests."""
        self.began_s = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """No more requests; all have ended then."""
        self._stopped.set()
        self._thread.join()

    async def at_rate(self, per_s: float, ask: Callable[[int], Awaitable[None]]) -> None:
        """`ask(0)`, `ask(1)`, ... so many times a second until `stop`."""
        number, under_way = 0, set[asyncio.Future[None]]()
        while not self._stopped.is_set():
            task = asyncio.ensure_future(ask(number))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            number += 1
            await asyncio.sleep(max(0.0, self.began_s + number / per_s - time.monotonic()))
        await asyncio.gather(*under_way)

    async def _run(self) -> None:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as http:
            await self.ask_all(http)
