"""The actors of async_sgd.py: plain classes around those of `train.async_sgd`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError

from eco_ray.train.async_sgd import Lease, Nothing, ParameterServer, Tally, Work, Worker
from eco_ray.train.gradients import codec
from eco_ray.train.sgd import Task


@dataclass(frozen=True)
class Look:
    """What the driver sees of the server."""

    version: int
    loss: float | None
    tally: Tally
    #: worker -> how long it has been at its gradient [s]
    busy_s: dict[str, float]


class ParameterServerActor:
    """A server in a process of its own; its methods run one at a time, but a pull that must wait lets others in."""

    def __init__(self, make: Callable[[], ParameterServer]) -> None:
        self._server = make()
        self._changed = asyncio.Event()
        self._since_s: dict[str, float] = {}

    async def pull(self, worker: str) -> Work | Nothing:
        """Work for a worker, as soon as there is some within the bound; or that it is over."""
        while (work := self._server.pull(worker)) is Nothing.WAIT:
            await self._changed.wait()
        self._since_s[worker] = time.monotonic()
        return work

    async def push(self, lease: Lease, message: bytes, loss: float) -> Work | Nothing:
        """Take a gradient, if its lease holds, and give the next work."""
        self._server.push(lease, message, loss)
        self._wake()
        return await self.pull(lease.worker)

    async def forget(self, worker: str) -> None:
        """A worker is lost."""
        self._server.forget(worker)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def look(self) -> Look:
        """How far it is."""
        now = time.monotonic()
        busy_s = {worker: now - self._since_s[worker] for worker in self._server.leases()}
        return Look(self._server.version, self._server.loss, self._server.tally, busy_s)

    async def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return self._server.state()


class GradientWorkerActor:
    """A worker in a process of its own."""

    def __init__(self, task: list[Any], codec_name: str, path: list[str]) -> None:
        """`task`: its reference, in a list so that Ray does not resolve it yet; `path`: where its modules may stand."""
        self._task, self._codec_name, self._path = task, codec_name, path
        self._worker: Worker | None = None

    def _loaded(self) -> Worker:
        """Only now, as an error here says what is wrong, and one in `__init__` that the actor died."""
        if self._worker is None:
            sys.path += [entry for entry in self._path if entry not in sys.path]
            task: Task = ray.get(self._task[0])
            if (torch := sys.modules.get("torch")) is not None:
                torch.set_num_threads(1)  # each worker has one CPU
            self._worker = Worker(task, codec(self._codec_name))
        return self._worker

    def work(self, name: str, server: Any) -> bool:
        """Compute until all is done; False: the server is lost."""
        worker = self._loaded()
        try:
            work = ray.get(server.pull.remote(name))
            while isinstance(work, Work):
                work = ray.get(server.push.remote(*worker.compute(work)))
        except RayActorError:
            return False
        return True
