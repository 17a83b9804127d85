"""SGD with many workers around a parameter server: asynchronous with a hard bound on staleness, or synchronous.

    worker: pull -> parameters and a step number -> gradient of that step's rows -> push -> pull -> ...

Plain classes, without threads, clock or network: `on_ray/training/async_sgd.py` puts them on a cluster, `play` below
moves them by an explicit schedule. Both servers hand out numbered steps (the batch follows from the number) and apply
each step exactly once: that of a worker that is lost is handed out again, and what it may still send is refused.

**Staleness** of a gradient is how many updates were applied between the pull of its parameters and its push. More than
the bound never happens, and by waiting, not by throwing gradients away: a worker is given work only if, whatever the
order of the pushes to come, no gradient under way can become staler than the bound (it is held back at its pull, as in
the stale synchronous parallel server of Ho et al., 2013). A refused gradient would have cost its joules, and a worker
that is slower than the bound would have all of its gradients refused; one that waits costs idle power. With a bound of
0 one worker computes at a time, and the numbers are those of `sgd.descend`, bit for bit. A worker that never
pushes would hold up all others: whoever watches over the workers must `forget` it.
"""

from __future__ import annotations

import enum
import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eco_ray.errors import UsageError
from eco_ray.train.gradients import Codec
from eco_ray.train.sgd import SGD, Task, Tensors, check_finite


@dataclass(frozen=True)
class Lease:
    """The right and duty of a worker to push the gradient of one step."""

    worker: str
    step: int
    #: updates in the parameters that it was given
    version: int
    #: which life of the server gave it; one that was restored takes nothing that was given out before
    life: int


@dataclass(frozen=True)
class Work:
    """What a pull gives."""

    lease: Lease
    parameters: Tensors


class Nothing(enum.Enum):
    """Why a pull gives no work."""

    #: held back; ask again after a push
    WAIT = "wait"
    #: all steps are done, or the worker was given up
    OVER = "over"


@dataclass
class Tally:
    """What came of a training so far; kept over all lives of the server."""

    #: staleness -> gradients applied
    staleness: Counter[int] = field(default_factory=Counter)
    #: gradients as they were sent, and what they would have been without a codec
    bytes_pushed: int = 0
    bytes_pushed_plain: int = 0
    #: parameters that were given out
    bytes_pulled: int = 0
    #: pulls that had to wait
    held_back: int = 0
    #: gradients that came without a lease: twice, or from a worker that was given up
    refused: int = 0
    #: workers that were given up, and times that the server was restored
    workers_lost: int = 0
    server_restarts: int = 0
    #: updates that were known to be done and lost with the server, to be done again
    updates_lost: int = 0

    def metrics(self) -> dict[str, float | str]:
        """For `session.progress`: numbers, and the histogram as text such as "0:12 1:30"."""
        count = self.staleness.total()
        return {
            "gradients": count,
            "staleness_mean": sum(s * n for s, n in self.staleness.items()) / max(1, count),
            "staleness_max": max(self.staleness, default=0),
            "staleness": " ".join(f"{s}:{n}" for s, n in sorted(self.staleness.items())),
            "bytes_pushed": self.bytes_pushed,
            "bytes_pushed_share": self.bytes_pushed / max(1, self.bytes_pushed_plain),
            "bytes_pulled": self.bytes_pulled,
            "pulls_held_back": self.held_back,
            "gradients_refused": self.refused,
            "workers_lost": self.workers_lost,
            "server_restarts": self.server_restarts,
            "updates_lost": self.updates_lost,
        }


class ParameterServer:
    """Asynchronous: each gradient is an update of its own, with a rate for its staleness. Not thread-safe."""

    #: what it is called where a method is chosen by name
    method = "async"
    #: gradients in an update
    group = 1

    def __init__(
        self,
        parameters: Tensors,
        optimiser: SGD,
        codec: Codec,
        *,
        steps: int,
        staleness_bound: int = 0,
        life: int = 1,
    ) -> None:
        """`steps` gradients in all; `parameters` become the server's own."""
        if steps < 1 or staleness_bound < 0:
            raise UsageError(
                f"{steps} steps with a staleness bound of {staleness_bound}; give at least 1, and at least 0"
            )
        self.parameters, self.steps, self.staleness_bound = parameters, steps, staleness_bound
        self.tally = Tally()
        #: updates so far, and the loss of the newest gradient
        self.version = 0
        self.loss: float | None = None
        self._optimiser, self._codec, self._life = optimiser, codec, life
        self._leases: dict[str, Lease] = {}
        self._gone: set[str] = set()
        self._held: set[str] = set()
        #: steps to hand out again, a heap; and the first one that never was handed out
        self._again: list[int] = []
        self._next = 0

    @property
    def updates(self) -> int:
        """How many updates the whole training has."""
        return self.steps

    @property
    def is_done(self) -> bool:
        """Whether every step is in the parameters."""
        return self.version >= self.updates

    def leases(self) -> dict[str, Lease]:
        """Who computes what."""
        return dict(self._leases)

    def pull(self, worker: str) -> Work | Nothing:
        """Parameters and a step for a worker. One that pulls while it has a step gets that step anew."""
        if worker in self._gone or self.is_done:
            return Nothing.OVER
        if (old := self._leases.pop(worker, None)) is not None:  # its answer got lost
            heapq.heappush(self._again, old.step)
        if not self._may_begin():
            self.tally.held_back += worker not in self._held  # not again each time that it asks
            self._held.add(worker)
            return Nothing.WAIT
        self._held.discard(worker)
        if self._again:
            step = heapq.heappop(self._again)
        else:
            step, self._next = self._next, self._next + 1
        lease = self._leases[worker] = Lease(worker, step, self.version, self._life)
        self.tally.bytes_pulled += sum(values.nbytes for values in self.parameters.values())
        return Work(lease, {name: values.copy() for name, values in self.parameters.items()})

    def _may_begin(self) -> bool:
        """Whether there is a step left, and one more under way keeps all of them within the bound.

        At worst all others that are under way push before a gradient does: its staleness is then (version - its
        version) + (under way - 1). A push keeps that sum, a pull adds 1 to it; so looking at pulls is enough.
        """
        if not self._again and self._next >= self.steps:
            return False
        oldest = min((lease.version for lease in self._leases.values()), default=self.version)
        return self.version - oldest + len(self._leases) <= self.staleness_bound

    def push(self, lease: Lease, message: bytes, loss: float) -> bool:
        """Take the gradient of a leased step; False: it was refused, as the lease is not (or no longer) one.

        Raises DamagedError for a message that is none, DivergedError for a loss that is not finite.
        """
        if self._leases.get(lease.worker) != lease:
            self.tally.refused += 1
            return False
        gradient = self._codec.decode(message, self.parameters)
        check_finite(loss, gradient, lease.step)
        del self._leases[lease.worker]
        self.tally.bytes_pushed += len(message)
        self.tally.bytes_pushed_plain += sum(values.nbytes for values in self.parameters.values())
        self.loss = loss
        self._take(lease, gradient)
        return True

    def _take(self, lease: Lease, gradient: Tensors) -> None:
        staleness = self.version - lease.version
        self._optimiser.update(self.parameters, gradient, self.version / self.updates, staleness)
        self.version += 1
        self.tally.staleness[staleness] += 1

    def forget(self, worker: str) -> None:
        """A worker is lost: its step goes to another one, and nothing is taken from it or given to it any more."""
        if worker in self._gone:
            return
        self._gone.add(worker)
        self.tally.workers_lost += 1
        if (lease := self._leases.pop(worker, None)) is not None:
            heapq.heappush(self._again, lease.step)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: copies. Steps under way are in it as steps to be done again."""
        tally = {**vars(self.tally), "staleness": dict(self.tally.staleness)}
        return {
            "method": self.method,
            "version": self.version,
            "steps": self.steps,
            "group": self.group,
            "parameters": {name: values.copy() for name, values in self.parameters.items()},
            "optimiser": self._optimiser.state(),
            "next": self._next,
            "again": sorted([*self._again, *(lease.step for lease in self._leases.values())]),
            "tally": tally,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave. Raises UsageError for that of another training."""
        shapes = {name: (v.shape, v.dtype) for name, v in self.parameters.items()}
        kept = {name: (v.shape, v.dtype) for name, v in state["parameters"].items()}
        was = (state["method"], state["steps"], state["group"], kept)
        if was != (self.method, self.steps, self.group, shapes):
            raise UsageError(
                f"the checkpoint is of a training ({state['method']}) of {state['steps']} steps in groups of "
                f"{state['group']} with {_size(kept)} values; this one ({self.method}) has {self.steps}, {self.group} "
                f"and {_size(shapes)}: give the options that it was begun with, or another checkpoint directory"
            )
        self.parameters = {name: np.array(values) for name, values in state["parameters"].items()}
        self._optimiser.load(state["optimiser"])
        self.version, self._next, self._again = state["version"], state["next"], list(state["again"])
        self.tally = Tally(**{**state["tally"], "staleness": Counter(state["tally"]["staleness"])})
        self._leases.clear()


class SynchronousServer(ParameterServer):
    """Synchronous: an update is the mean of the gradients of `group` steps at the same parameters.

    Whoever is free takes the next step of the group, so the numbers are the same with any number of workers, and a lost
    worker costs one gradient. The mean is summed in the order of the steps.
    """

    method = "sync"

    def __init__(
        self, parameters: Tensors, optimiser: SGD, codec: Codec, *, steps: int, group: int, life: int = 1
    ) -> None:
        super().__init__(parameters, optimiser, codec, steps=steps, staleness_bound=0, life=life)
        if group < 1 or steps % group:
            raise UsageError(f"{steps} steps in groups of {group}; give a group from 1 that divides the steps")
        self.group = group
        self._gathered: dict[int, Tensors] = {}

    @property
    def updates(self) -> int:
        return self.steps // self.group

    def _may_begin(self) -> bool:
        return bool(self._again) or self._next < (self.version + 1) * self.group

    def _take(self, lease: Lease, gradient: Tensors) -> None:
        self._gathered[lease.step] = gradient
        if len(self._gathered) < self.group:
            return
        first, *others = (self._gathered[step] for step in sorted(self._gathered))
        total = {name: values.copy() for name, values in first.items()}
        for other in others:
            for name in total:
                total[name] += other[name]
        mean = {name: values / values.dtype.type(self.group) for name, values in total.items()}
        self._optimiser.update(self.parameters, mean, self.version / self.updates)
        self._gathered.clear()
        self.version += 1
        self.tally.staleness[0] += self.group

    def state(self) -> dict[str, Any]:
        """As above; the group that is under way is done again as a whole."""
        return {**super().state(), "next": self.version * self.group, "again": []}

    def load(self, state: Mapping[str, Any]) -> None:
        super().load(state)
        self._gathered.clear()


class Worker:
    """Computes gradients: one task, one codec with its memory."""

    def __init__(self, task: Task, codec: Codec) -> None:
        self._task, self._codec = task, codec

    def compute(self, work: Work) -> tuple[Lease, bytes, float]:
        """What to push. Raises DivergedError."""
        loss, gradient = self._task.gradient(work.parameters, work.lease.step)
        check_finite(loss, gradient, work.lease.step)
        return work.lease, self._codec.encode(gradient), float(loss)


def play(server: ParameterServer, workers: Mapping[str, Worker], schedule: Iterable[str]) -> None:
    """Asynchrony by an explicit schedule: each name lets that worker do its next half step, a pull or a push."""
    under_way: dict[str, tuple[Lease, bytes, float]] = {}
    for name in schedule:
        if server.is_done:
            return
        if name in under_way:
            server.push(*under_way.pop(name))
        elif isinstance(work := server.pull(name), Work):
            under_way[name] = workers[name].compute(work)


def _size(shapes: Mapping[str, tuple[tuple[int, ...], Any]]) -> int:
    return sum(int(np.prod(shape)) for shape, _ in shapes.values())
