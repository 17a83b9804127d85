"""Clients of a served model, in a process of their own: each sends its next request when it has its answer.

    python -c "from serving_load import main; main()" PORT CLIENTS SECONDS FILE     # as serving.py does

FILE is a pickled list of requests as they go over the wire. Prints requests, requests/s, and the 50th and 95th
percentile of the latency [ms] as JSON. No HTTP library: what a client costs comes on top of each answer, on the cores
that the server needs.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

#: for requests that are under way when the time is over [s]
GRACE_S = 60.0


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, requests: Iterator[bytes], times: list[float], end: float) -> None:
        self._requests, self._times, self._end = requests, times, end
        self._got, self._began, self._wants = bytearray(), 0.0, 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._began = time.perf_counter()
        if self._began >= self._end:
            self._transport.close()
            self.done.set_result(None)
            return
        self._wants = 0
        self._got.clear()
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._wants:
            head, found, _ = self._got.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                self._fail(f"no answer: {bytes(self._got[:1000])!r}")
                return
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            self._wants = len(head) + 4 + size
        if len(self._got) >= self._wants:
            self._times.append(time.perf_counter() - self._began)
            self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"the connection was closed: {error}")

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(why))


async def load(port: int, clients: int, seconds: float, requests: Iterator[bytes]) -> dict[str, float]:
    """What the clients together saw."""
    times: list[float] = []
    began = time.perf_counter()
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: Client(requests, times, began + seconds), "127.0.0.1", port)
        for _ in range(clients)
    ]
    await asyncio.wait_for(asyncio.gather(*(client.done for _, client in made)), seconds + GRACE_S)
    took_s = time.perf_counter() - began
    times.sort()
    p50, p95 = (times[int(len(times) * part)] * 1000 for part in (0.50, 0.95))
    return {"requests": len(times), "per_s": len(times) / took_s, "p50_ms": p50, "p95_ms": p95}


def main() -> None:
    """Not a script: `make bench` runs those without arguments."""
    port, clients, seconds, file = sys.argv[1:]
    requests = cycle(pickle.loads(Path(file).read_bytes()))
    print(json.dumps(asyncio.run(load(int(port), int(clients), float(seconds), requests))))
